//! The report of a finished load.

use anyhow::Error;
use saltecho::load::report::{Report, SinkFailure};

use super::args::LoadArgs;
use super::check::{check, has_no_connection};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output};

/// Writes the report to its destinations, then checks the result. The report comes first, so that it
/// is there even if the check fails.
pub(super) fn report(
    args: &LoadArgs,
    report: &Report,
    failures: Vec<SinkFailure>,
    mut stdout: Output,
    html: Option<Output>,
) -> Result<(), Failure> {
    let text = match args.json {
        true => Some(report.to_json_text()),
        // A table of zeros would hide the error message.
        false => (!has_no_connection(report)).then(|| report.to_text()),
    };
    let text = text.map(|text| stdout.put(&text));
    let html = html.map(|mut html| html.put(&report.to_html()));
    let sinks = failures.into_iter().map(|SinkFailure { name, error }| {
        Err(Error::new(error).context(format!("cannot write {name}")))
    });
    output::all(text.into_iter().chain(html).chain(sinks))?;
    check(report, &args.address, &args.assertions)
}
