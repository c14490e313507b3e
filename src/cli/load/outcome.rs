//! What is told of a load that is over.

use std::io::Write;

use anyhow::Context;
use saltecho::load::report::{Report, SinkFailure};

use super::LoadArgs;
use crate::cli::failure::Failure;
use crate::cli::judge::judge;

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
    judge(report, &args.address, &args.assertions)
}
