//! What the exit code says of a load, whether it has just been made or was kept in logs.

use std::fmt::Display;

use saltecho::load::report::{Report, Verdict};
use saltecho::load::{Assertion, ErrorKind};

use super::failure::{Failure, Kind};
use super::values::Limit;

/// From the gravest on: a load that was none, bytes that were wrong, claims that do not hold,
/// figures that are not to be trusted. `address` is the server's as the user knows it.
pub(super) fn judge(
    report: &Report,
    address: &dyn Display,
    assertions: &[Assertion],
) -> Result<(), Failure> {
    let counts = &report.record.counts;
    let errors = &counts.errors;
    if counts.authenticated == 0 && errors.total() > 0 {
        return Err(nobody_authenticated(report, address));
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
        Verdict::Unreliable(reason) => {
            Err(Failure::because(Kind::Unreliable, format!("the result is unreliable: {reason}")))
        }
        Verdict::Nothing(reason) => Err(Failure::because(Kind::Unreliable, reason.clone())),
        Verdict::Reliable => Ok(()),
    }
}

/// The most frequent of the reasons stands for all.
fn nobody_authenticated(report: &Report, address: &dyn Display) -> Failure {
    let errors = &report.record.counts.errors;
    let reason = errors.occurred().max_by_key(|(_, number)| *number).map(|(kind, _)| kind);
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
        _ => (Kind::Unreachable, format!("no connection to {address} was authenticated")),
    };
    Failure::because(kind, text)
}
