//! What is told of a load that is over.

use anyhow::Error;
use saltecho::load::report::{Report, SinkFailure};

use super::args::LoadArgs;
use super::check::{is_none, judge};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output};

/// Writes the report to where it was asked for. The figures were made, so they are told first;
/// whatever is wrong with them is the exit code's affair.
pub(super) fn tell(
    args: &LoadArgs,
    report: &Report,
    failures: Vec<SinkFailure>,
    mut stdout: Output,
    html: Option<Output>,
) -> Result<(), Failure> {
    let text = match args.json {
        true => Some(report.to_json_text()),
        // A table of zeros would hide the line that says why.
        false => (!is_none(report)).then(|| report.to_text()),
    };
    let text = text.map(|text| stdout.put(&text));
    let html = html.map(|mut html| html.put(&report.to_html()));
    let sinks = failures.into_iter().map(|SinkFailure { name, error }| {
        Err(Error::new(error).context(format!("cannot write {name}")))
    });
    output::all(text.into_iter().chain(html).chain(sinks))?;
    judge(report, &args.address, &args.assertions)
}
