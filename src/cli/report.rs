//! `saltecho report`: a report on the histogram logs of load runs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use saltecho::load::report::{Comparison, LoadLog, Report, SweepComparison, SweepReport, merge};

use super::failure::{Exit, Failure};
use super::load::check::check;
use super::load::check_sweep;
use super::output::{self, Outputs};

/// Report on the logs of `saltecho load --hlog`: merge several, or compare two.
///
/// The logs of several machines are merged histogram by histogram; percentiles are never averaged.
/// A directory means all files in it that end in .hlog. The JSON of a `load --sweep` is read too.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ReportArgs {
    /// Logs to report on; with --compare the old and the new load, each a file, a directory or a
    /// comma-separated list of files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Compare two loads side by side
    #[arg(long, conflicts_with = "json")]
    compare: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Write the report or the comparison as an HTML page to this file
    ///
    /// `-` is stdout; the text report then goes to stderr.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  saltecho load --hlog a.hlog && saltecho report a.hlog
  saltecho report machines/*.hlog --html report.html
  saltecho report --compare before.hlog after.hlog
  saltecho report --compare before/ after1.hlog,after2.hlog
  saltecho report --compare before.json after.json --html curves.html    # of load --sweep --json

Exit codes are those of `saltecho load`: 6 if a load, with --compare either one, is unreliable.";

pub(super) fn run(args: &ReportArgs) -> Result<(), Failure> {
    let usage = |error| Failure::new(Exit::Usage, error);
    if args.files.iter().any(|path| is_json(path)) {
        return report_sweeps(args);
    }
    if args.compare {
        let files = two_loads(&args.files).map_err(usage)?;
        let [old, new] = [read(&files[0]), read(&files[1])];
        let (old, new) = (old.map_err(usage)?, new.map_err(usage)?);
        let comparison = Comparison { old: &old, new: &new };
        args.write(&files.concat(), &comparison.to_text(), || comparison.to_html())?;
        check_log(&old).map_err(|failure| failure.context("the old load"))?;
        return check_log(&new).map_err(|failure| failure.context("the new load"));
    }
    let files = all_files(&args.files).map_err(usage)?;
    let report = read(&files).map_err(usage)?;
    let text = if args.json { report.to_json_text() } else { report.to_text() };
    args.write(&files, &text, || report.to_html())?;
    check_log(&report)
}

/// Reports on a sweep, or compares two.
fn report_sweeps(args: &ReportArgs) -> Result<(), Failure> {
    let usage = |error| Failure::new(Exit::Usage, error);
    let sweeps: Result<Vec<SweepReport>> = args.files.iter().map(|path| read_sweep(path)).collect();
    match (args.compare, &sweeps.map_err(usage)?[..]) {
        (true, [old, new]) => {
            let comparison = SweepComparison { old, new };
            args.write(&args.files, &comparison.to_text(), || comparison.to_html())?;
            check_sweep(old).map_err(|failure| failure.context("the old sweep"))?;
            check_sweep(new).map_err(|failure| failure.context("the new sweep"))
        }
        (false, [sweep]) => {
            let text = if args.json { sweep.to_json_text() } else { sweep.to_text() };
            args.write(&args.files, &text, || sweep.to_html())?;
            check_sweep(sweep)
        }
        _ => {
            let text = "sweeps cannot be merged: name one, or two with --compare";
            Err(Failure::with_message(Exit::Usage, text.to_owned()))
        }
    }
}

/// Returns true for JSON, with which no histogram log begins.
fn is_json(path: &Path) -> bool {
    let mut first = [0; 1];
    let read = |mut file: File| file.read_exact(&mut first);
    path.is_file() && File::open(path).and_then(read).is_ok() && first == *b"{"
}

fn read_sweep(path: &Path) -> Result<SweepReport> {
    let name = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
    SweepReport::parse(&bytes).with_context(|| format!("{name} cannot be used with a sweep"))
}

impl ReportArgs {
    /// Writes the text and the page, which must not overwrite a log.
    fn write(
        &self,
        logs: &[PathBuf],
        text: &str,
        page: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
        let outputs = Outputs::open([("--html", self.html.as_ref())], &logs, self.json);
        let mut outputs = outputs.map_err(|error| Failure::new(Exit::Usage, error))?;
        let report = outputs.report.put(text);
        let [html] = outputs.named;
        let html = html.map_or(Ok(()), |mut html| html.put(&page()));
        Ok(output::all([report, html])?)
    }
}

/// Repeats the exit code of the load, except for assertions, which are not in the log.
fn check_log(report: &Report) -> Result<(), Failure> {
    check(report, &report.generators[0].plan.target, &[])
}

/// The files of the old load and of the new load.
fn two_loads(groups: &[PathBuf]) -> Result<[Vec<PathBuf>; 2]> {
    let [old, new] = groups else {
        bail!("--compare takes exactly two loads: the old one and the new one");
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

/// Reads the logs and merges them into one report.
fn read(files: &[PathBuf]) -> Result<Report> {
    let mut logs = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        logs.push(LoadLog::parse(&name, &bytes)?);
    }
    Ok(merge(logs)?)
}

/// The given files, and those in the given directories.
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
    ensure!(!paths.is_empty(), "no .hlog file in {name}");
    paths.sort();
    Ok(paths)
}
