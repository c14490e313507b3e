//! `saltecho report`: what the histogram logs of load runs tell.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use saltecho::load::report::{Comparison, LoadLog, Report, merge};

use super::failure::{Failure, Kind};

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
}

const EXAMPLES: &str = "\
Examples:
  saltecho load --hlog a.hlog && saltecho report a.hlog
  saltecho report machines/*.hlog
  saltecho report --compare before.hlog after.hlog
  saltecho report --compare before/ after1.hlog,after2.hlog";

pub(super) fn run(args: &ReportArgs) -> Result<(), Failure> {
    let text = tell(args).map_err(|error| Failure::new(Kind::Usage, error))?;
    // A reader that has left has read enough.
    let _ = anstream::stdout().write_all(text.as_bytes());
    Ok(())
}

fn tell(args: &ReportArgs) -> Result<String> {
    if args.compare {
        ensure!(args.files.len() == 2, "--compare takes two loads, the old one and the new one");
        let read_group = |group: &String| match Path::new(group).exists() {
            true => read(std::slice::from_ref(group)),
            false => read(&group.split(',').map(str::to_owned).collect::<Vec<_>>()),
        };
        let (old, new) = (read_group(&args.files[0])?, read_group(&args.files[1])?);
        return Ok(Comparison { old: &old, new: &new }.to_text());
    }
    let report = read(&args.files)?;
    Ok(match args.json {
        true => format!("{:#}\n", report.to_json()),
        false => report.to_text(),
    })
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
