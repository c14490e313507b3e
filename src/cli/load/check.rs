//! The exit code of a load, which has just run or was read from logs.

use std::fmt::Display;

use saltecho::load::report::{Report, Verdict};
use saltecho::load::{Assertion, ErrorKind};

use crate::cli::failure::{Exit, Failure};
use crate::cli::values::Limit;

/// Checks a load, the gravest problem first: no connection, wrong bytes, failed assertions, an
/// unreliable result. `address` is the server's address as the user gave it.
pub(in crate::cli) fn check(
    report: &Report,
    address: &dyn Display,
    assertions: &[Assertion],
) -> Result<(), Failure> {
    check_server(report, address)?;
    check_result(report, assertions)
}

/// Checks that there were connections, and that the answers were right.
pub(super) fn check_server(report: &Report, address: &dyn Display) -> Result<(), Failure> {
    let errors = &report.record.counts.errors;
    if has_no_connection(report) {
        return Err(explain_no_connection(report, address));
    }
    if errors.of(ErrorKind::Mismatch) > 0 {
        let number = errors.of(ErrorKind::Mismatch);
        let plural = if number == 1 { "" } else { "s" };
        let text = format!(
            "{number} connection{plural} received wrong bytes; does the server use another --reply?"
        );
        return Err(Failure::with_message(Exit::Runtime, text));
    }
    Ok(())
}

fn check_result(report: &Report, assertions: &[Assertion]) -> Result<(), Failure> {
    let failed: Vec<String> = assertions
        .iter()
        .filter_map(|assertion| {
            let checked = assertion.check(report.mode(), &report.record, report.measured);
            (!checked.holds).then(|| format!("{assertion} (actual: {})", checked.actual))
        })
        .collect();
    if !failed.is_empty() {
        let text = format!("assertion failed: {}", failed.join(", "));
        return Err(Failure::with_message(Exit::Assertion, text));
    }
    match &report.verdict {
        Verdict::Unreliable(_) => Err(Failure::with_message(
            Exit::Unreliable,
            "the result is unreliable; the verdict in the report says why".to_owned(),
        )),
        Verdict::Nothing(reason) => Err(Failure::with_message(Exit::Unreliable, reason.clone())),
        Verdict::Reliable => Ok(()),
    }
}

/// Returns whether no connection was authenticated, so that there is nothing to report but errors.
pub(super) fn has_no_connection(report: &Report) -> bool {
    let counts = &report.record.counts;
    counts.authenticated == 0 && counts.errors.total() > 0
}

/// Explains the most frequent reason.
fn explain_no_connection(report: &Report, address: &dyn Display) -> Failure {
    let errors = &report.record.counts.errors;
    // Unanswered messages are a consequence, not the reason.
    let of_connections = errors
        .occurred()
        .filter(|(kind, _)| !matches!(kind, ErrorKind::Unanswered | ErrorKind::Late));
    let reason = of_connections.max_by_key(|(_, number)| *number).map(|(kind, _)| kind);
    let (kind, text) = match reason {
        Some(ErrorKind::Rejected) => (
            Exit::NotAuthenticated,
            format!(
                "{address} rejected every connection: authentication failed; check -k and --mac"
            ),
        ),
        Some(ErrorKind::Refused) => (
            Exit::Unreachable,
            format!(
                "{address} refused every connection: is a server running there? `saltecho serve` \
                 starts one"
            ),
        ),
        Some(ErrorKind::ConnectTimeout | ErrorKind::AuthTimeout) => (
            Exit::Unreachable,
            format!(
                "{address} did not answer within {}: check the address and firewalls, or allow more \
                 time with --timeout",
                Limit(report.generators[0].plan.timeout)
            ),
        ),
        Some(ErrorKind::Mismatch) => (Exit::Runtime, explain_mismatch(report, address)),
        Some(ErrorKind::Closed) => (
            Exit::Unreachable,
            format!(
                "{address} closed every connection without a challenge: it is full, shutting down, \
                 or not a saltecho server"
            ),
        ),
        _ => {
            let first = report.warnings.iter().find(|warning| warning.starts_with("first error"));
            let first = first.map(|warning| format!(": {warning}")).unwrap_or_default();
            let text = format!("no connection to {address} was authenticated{first}");
            (Exit::Unreachable, text)
        }
    };
    Failure::with_message(kind, text)
}

fn explain_mismatch(report: &Report, address: &dyn Display) -> String {
    let (expected, flag) = match report.generators[0].plan.upper {
        true => {
            ("the message in upper case", "with --reply same, answers are the message as it is")
        }
        false => ("the message as it is", "without --reply same, answers are in upper case"),
    };
    format!(
        "{address} did not answer with {expected}: use the same --reply as the server ({flag}), or \
         check that it is a saltecho server"
    )
}
