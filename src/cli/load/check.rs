//! What the exit code says of a load, whether it has just been made or was kept in logs.

use std::fmt::Display;

use saltecho::load::report::{Report, Verdict};
use saltecho::load::{Assertion, ErrorKind};

use crate::cli::failure::{Failure, Kind};
use crate::cli::values::Limit;

/// From the gravest on: a load that was none, bytes that were wrong, claims that do not hold,
/// figures that are not to be trusted. `address` is the server's as the user knows it.
pub(in crate::cli) fn judge(
    report: &Report,
    address: &dyn Display,
    assertions: &[Assertion],
) -> Result<(), Failure> {
    let counts = &report.record.counts;
    let errors = &counts.errors;
    if is_none(report) {
        return Err(none_authenticated(report, address));
    }
    if errors.of(ErrorKind::Mismatch) > 0 {
        let text = format!(
            "{} connections got bytes that were not the answer; does the server answer in another \
             way (--reply)?",
            errors.of(ErrorKind::Mismatch)
        );
        return Err(Failure::because(Kind::Runtime, text));
    }
    let broken: Vec<String> = assertions
        .iter()
        .filter_map(|assertion| {
            let judgement = assertion.judge(report.mode(), &report.record, report.measured);
            (!judgement.holds).then(|| format!("{assertion} ({})", judgement.actual))
        })
        .collect();
    if !broken.is_empty() {
        let text = format!("what was claimed does not hold: {}", broken.join(", "));
        return Err(Failure::because(Kind::Assertion, text));
    }
    match &report.verdict {
        // The reason stands in the report, text or JSON.
        Verdict::Unreliable(_) => Err(Failure::because(
            Kind::Unreliable,
            "the result is unreliable, as its verdict explains".to_owned(),
        )),
        Verdict::Nothing(reason) => Err(Failure::because(Kind::Unreliable, reason.clone())),
        Verdict::Reliable => Ok(()),
    }
}

/// Whether no connection came about as it should, so that there is nothing but errors to tell.
pub(super) fn is_none(report: &Report) -> bool {
    let counts = &report.record.counts;
    counts.authenticated == 0 && counts.errors.total() > 0
}

/// The most frequent of the reasons stands for all.
fn none_authenticated(report: &Report, address: &dyn Display) -> Failure {
    let errors = &report.record.counts.errors;
    // What was due on them besides is not why.
    let of_connections = errors
        .occurred()
        .filter(|(kind, _)| !matches!(kind, ErrorKind::Unanswered | ErrorKind::Late));
    let reason = of_connections.max_by_key(|(_, number)| *number).map(|(kind, _)| kind);
    let (kind, text) = match reason {
        Some(ErrorKind::Rejected) => (
            Kind::Refused,
            format!(
                "{address} refused the digest of every connection: are the key (-k) and --mac \
                 those of the server?"
            ),
        ),
        Some(ErrorKind::Refused) => (
            Kind::Unreachable,
            format!(
                "{address} refused every connection: is a server running there? `saltecho serve` \
                 starts one"
            ),
        ),
        Some(ErrorKind::ConnectTimeout | ErrorKind::AuthTimeout) => (
            Kind::Unreachable,
            format!(
                "{address} did not answer within {}: is it a saltecho server, and does a firewall \
                 let us through? --timeout allows more time",
                Limit(report.generators[0].setup.timeout)
            ),
        ),
        Some(ErrorKind::Mismatch) => (Kind::Runtime, other_answers(report, address)),
        Some(ErrorKind::Closed) => (
            Kind::Unreachable,
            format!(
                "{address} closed every connection without a challenge: it has no room, is ending, \
                 or is not a saltecho server"
            ),
        ),
        _ => {
            let first =
                report.warnings.iter().find(|warning| warning.starts_with("the first error"));
            let first = first.map(|warning| format!(": {warning}")).unwrap_or_default();
            let text = format!("no connection to {address} was authenticated{first}");
            (Kind::Unreachable, text)
        }
    };
    Failure::because(kind, text)
}

fn other_answers(report: &Report, address: &dyn Display) -> String {
    let (expected, flag) = match report.generators[0].setup.upper {
        true => ("what was sent in upper case", "with --reply same it may answer what was sent"),
        false => ("what was sent", "without --reply same it is expected in upper case"),
    };
    format!(
        "{address} does not answer with {expected}: give `load` the --reply that the server has \
         ({flag}); or is it not a saltecho server?"
    )
}
