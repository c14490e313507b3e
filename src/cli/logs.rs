//! `saltecho report`: what the histogram logs of load runs tell.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use saltecho::load::report::{Comparison, LoadLog, Report, merge};

use super::failure::{Failure, Kind};
use super::judge::judge;

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
    files: Vec<String>,

    /// Put two loads side by side
    #[arg(long, conflicts_with = "json")]
    compare: bool,

    /// Write the report to stdout as JSON
    #[arg(long)]
    json: bool,

    /// Write the report, or the comparison, as a page to this file
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
        let [old, new] = two_loads(&args.files).map_err(usage)?;
        let comparison = Comparison { old: &old, new: &new };
        print(&comparison.to_text());
        args.write_page(|| comparison.to_html())?;
        judge_log(&old).map_err(|failure| failure.of("the old load"))?;
        return judge_log(&new).map_err(|failure| failure.of("the new load"));
    }
    let report = read(&args.files).map_err(usage)?;
    match args.json {
        true => print(&format!("{:#}\n", report.to_json())),
        false => print(&report.to_text()),
    }
    args.write_page(|| report.to_html())?;
    judge_log(&report)
}

impl ReportArgs {
    fn write_page(&self, page: impl FnOnce() -> String) -> Result<()> {
        let Some(path) = &self.html else { return Ok(()) };
        fs::write(path, page()).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn print(text: &str) {
    // A reader that has left has read enough.
    let _ = anstream::stdout().write_all(text.as_bytes());
}

/// What the exit code of the load was, its claims aside, which are in no log.
fn judge_log(report: &Report) -> Result<(), Failure> {
    judge(report, &report.generators[0].setup.target, &[])
}

/// The old one and the new one.
fn two_loads(groups: &[String]) -> Result<[Report; 2]> {
    let [old, new] = groups else {
        bail!("--compare takes two loads, the old one and the new one");
    };
    let read_group = |group: &String| match Path::new(group).exists() {
        true => read(std::slice::from_ref(group)),
        false => read(&group.split(',').map(str::to_owned).collect::<Vec<_>>()),
    };
    Ok([read_group(old)?, read_group(new)?])
}

/// The files and directories as one report.
fn read(places: &[String]) -> Result<Report> {
    let mut logs = Vec::new();
    for place in places {
        for path in files(Path::new(place))? {
            let name = path.display().to_string();
            let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
            logs.push(LoadLog::parse(&name, &bytes)?);
        }
    }
    Ok(merge(logs)?)
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
