//! `saltecho report`: what the histogram logs of load runs tell.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use saltecho::load::report::{Comparison, LoadLog, Report, merge};

use super::failure::{Failure, Kind};
use super::load::check::judge;
use super::output::{self, Outputs};

/// Report on logs that `saltecho load --hlog` wrote: several as one load, or two side by side.
///
/// The logs of several machines are added up, histogram by histogram; percentiles are never
/// averaged. A directory stands for all files in it that end in .hlog.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ReportArgs {
    /// The logs; with --compare the old one and the new one, each perhaps a directory or a list
    /// with commas between its files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Put two loads side by side
    #[arg(long, conflicts_with = "json")]
    compare: bool,

    /// Write the report to stdout as JSON
    #[arg(long)]
    json: bool,

    /// Write the report, or the comparison, as a page to this file
    ///
    /// `-` is stdout; the text then goes to stderr.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  saltecho load --hlog a.hlog && saltecho report a.hlog
  saltecho report machines/*.hlog --html report.html
  saltecho report --compare before.hlog after.hlog
  saltecho report --compare before/ after1.hlog,after2.hlog

Exit codes are those of `saltecho load`: 6 if a load is unreliable, with --compare either of them.";

pub(super) fn run(args: &ReportArgs) -> Result<(), Failure> {
    let usage = |error| Failure::new(Kind::Usage, error);
    if args.compare {
        let files = two_loads(&args.files).map_err(usage)?;
        let [old, new] = [read(&files[0]), read(&files[1])];
        let (old, new) = (old.map_err(usage)?, new.map_err(usage)?);
        let comparison = Comparison { old: &old, new: &new };
        args.write(&files.concat(), &comparison.to_text(), || comparison.to_html())?;
        judge_log(&old).map_err(|failure| failure.of("the old load"))?;
        return judge_log(&new).map_err(|failure| failure.of("the new load"));
    }
    let files = all_files(&args.files).map_err(usage)?;
    let report = read(&files).map_err(usage)?;
    let text = if args.json { report.to_json_text() } else { report.to_text() };
    args.write(&files, &text, || report.to_html())?;
    judge_log(&report)
}

impl ReportArgs {
    /// Writes the text and the page, which may overwrite none of the logs.
    fn write(
        &self,
        logs: &[PathBuf],
        text: &str,
        page: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
        let outputs = Outputs::open([("--html", self.html.as_ref())], &logs, self.json);
        let mut outputs = outputs.map_err(|error| Failure::new(Kind::Usage, error))?;
        let report = outputs.report.put(text);
        let [html] = outputs.named;
        let html = html.map_or(Ok(()), |mut html| html.put(&page()));
        Ok(output::all([report, html])?)
    }
}

/// What the exit code of the load was, its claims aside, which are in no log.
fn judge_log(report: &Report) -> Result<(), Failure> {
    judge(report, &report.generators[0].setup.target, &[])
}

/// The files of the old one and of the new one.
fn two_loads(groups: &[PathBuf]) -> Result<[Vec<PathBuf>; 2]> {
    let [old, new] = groups else {
        bail!("--compare takes two loads, the old one and the new one");
    };
    let files = |group: &PathBuf| match group.exists() {
        true => all_files(std::slice::from_ref(group)),
        false => {
            let parts = group.as_os_str().as_bytes().split(|byte| *byte == b',');
            all_files(&parts.map(|part| OsStr::from_bytes(part).into()).collect::<Vec<_>>())
        }
    };
    Ok([files(old)?, files(new)?])
}

/// The logs as one report.
fn read(files: &[PathBuf]) -> Result<Report> {
    let mut logs = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        logs.push(LoadLog::parse(&name, &bytes)?);
    }
    Ok(merge(logs)?)
}

/// The files, and those in the directories.
fn all_files(places: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let files: Result<Vec<_>> = places.iter().map(|place| files(place)).collect();
    Ok(files?.concat())
}

fn files(place: &Path) -> Result<Vec<PathBuf>> {
    if !place.is_dir() {
        return Ok(vec![place.to_owned()]);
    }
    let name = place.display();
    let entries = fs::read_dir(place).with_context(|| format!("cannot read {name}"))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {name}"))?.path();
        if path.extension().is_some_and(|extension| extension == "hlog") {
            paths.push(path);
        }
    }
    ensure!(!paths.is_empty(), "there is no .hlog file in {name}");
    paths.sort();
    Ok(paths)
}
