//! What is told of a load that is over, and what the exit code says of it.

use std::io::Write;

use anyhow::Context;
use saltecho::load::ErrorKind;
use saltecho::load::report::{Report, SinkFailure, Verdict};

use super::LoadArgs;
use crate::cli::failure::{Failure, Kind};

/// Writes the report to where it was asked for. The figures were made, so they are told first;
/// whatever is wrong with them is the exit code's affair.
pub(super) fn tell(
    args: &LoadArgs,
    report: &Report,
    failures: Vec<SinkFailure>,
) -> Result<(), Failure> {
    let text = match args.json {
        true => format!("{:#}\n", report.to_json()),
        false => report.to_text(),
    };
    // A reader that has left has read enough.
    let _ = anstream::stdout().write_all(text.as_bytes());
    if let Some(path) = &args.html {
        let written = std::fs::write(path, report.to_html());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(SinkFailure { name, error }) = failures.into_iter().next() {
        return Err(anyhow::Error::new(error).context(format!("cannot write {name}")).into());
    }
    judge(args, report)
}

/// From the gravest on: a load that was none, bytes that were wrong, claims that do not hold,
/// figures that are not to be trusted.
fn judge(args: &LoadArgs, report: &Report) -> Result<(), Failure> {
    let counts = &report.record.counts;
    let errors = &counts.errors;
    if counts.authenticated == 0 && errors.total() > 0 {
        return Err(nobody_authenticated(args, report));
    }
    if errors.of(ErrorKind::Mismatch) > 0 {
        let text = format!(
            "{} connections got bytes that were not the answer; does the server answer in another \
             way (--reply)?",
            errors.of(ErrorKind::Mismatch)
        );
        return Err(Failure::because(Kind::Runtime, text));
    }
    let broken: Vec<String> = args
        .assertions
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
        Verdict::Unreliable(reason) => {
            Err(Failure::because(Kind::Unreliable, format!("the result is unreliable: {reason}")))
        }
        Verdict::Reliable | Verdict::Nothing(_) => Ok(()),
    }
}

/// The most frequent of the reasons stands for all.
fn nobody_authenticated(args: &LoadArgs, report: &Report) -> Failure {
    let address = &args.address;
    let errors = &report.record.counts.errors;
    let reason = errors.occurred().max_by_key(|(_, number)| *number).map(|(kind, _)| kind);
    let (kind, text) = match reason {
        Some(ErrorKind::Rejected) => (
            Kind::Refused,
            format!(
                "{address} refused the digest of every connection: are the key (-k) and --mac those \
                 of the server?"
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
                args.timeout
            ),
        ),
        _ => (Kind::Unreachable, format!("no connection to {address} was authenticated")),
    };
    Failure::because(kind, text)
}
