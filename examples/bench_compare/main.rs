//! Compares two baselines saved by criterion, and fails if a benchmark became slower.
//!
//! ```text
//! cargo bench -- --save-baseline before
//! cargo bench -- --save-baseline after        # with the changed source
//! cargo run --example bench_compare -- before after
//! ```
//!
//! Criterion itself never fails. This exits with 5 if a benchmark is certainly slower: the confidence
//! intervals are disjoint and the estimates differ by more than the noise. It exits with 0 if none
//! is, also with inconclusive ones, with 2 for wrong arguments and with 1 for an unreadable file.

mod change;
mod estimates;

use std::path::PathBuf;
use std::process::ExitCode;

use change::{Change, Row, compare, report};
use estimates::{Failure, baselines, read};

const USAGE: &str = "\
usage: bench_compare [--noise PERCENT] [--filter TEXT] [--directory DIR] OLD NEW

OLD and NEW are baselines saved by `cargo bench -- --save-baseline NAME`;
criterion also saves the last run as `new` and the run before it as `base`.

  --noise PERCENT   largest difference that counts as noise [default: 5]
  --filter TEXT     compare only benchmarks with this in their names
  --directory DIR   criterion's output directory [default: target/criterion]";

struct Args {
    old: String,
    new: String,
    noise: f64,
    filter: String,
    directory: PathBuf,
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(code) => code,
        Err(Failure::Usage(text)) => {
            eprintln!("bench_compare: {text}");
            ExitCode::from(2)
        }
        Err(Failure::File(text)) => {
            eprintln!("bench_compare: {text}");
            ExitCode::from(1)
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<ExitCode, Failure> {
    let Some(args) = parse(args)? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let known = baselines(&args.directory)?;
    for name in [&args.old, &args.new] {
        if !known.contains(name) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let directory = args.directory.display();
            return Err(Failure::Usage(format!(
                "no baseline {name:?} in {directory}; available: {}",
                known.join(", ")
            )));
        }
    }
    let [mut old, mut new] = [read(&args.directory, &args.old)?, read(&args.directory, &args.new)?];
    for all in [&mut old, &mut new] {
        all.retain(|name, _| name.contains(&args.filter));
    }
    let rows = compare(&old, &new, args.noise);
    if rows.iter().all(Row::is_one_sided) {
        return Err(Failure::Usage("the two baselines have no benchmark in common".to_owned()));
    }
    print!("{}", report(&rows));
    let slower = rows.iter().any(|row| row.change == Change::Slower);
    Ok(ExitCode::from(if slower { 5 } else { 0 }))
}

/// Parses the arguments; `None` for `--help`.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Args>, Failure> {
    let mut names = Vec::new();
    let (mut noise, mut filter) = (0.05, String::new());
    let mut directory = PathBuf::from("target/criterion");
    while let Some(arg) = args.next() {
        let mut value =
            || args.next().ok_or_else(|| Failure::Usage(format!("{arg} needs a value\n\n{USAGE}")));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--filter" => filter = value()?,
            "--directory" => directory = value()?.into(),
            "--noise" => {
                let text = value()?;
                let percent = text.trim_end_matches('%').parse::<f64>().ok();
                let percent = percent.filter(|percent| (0.0..=1000.0).contains(percent));
                noise = percent.ok_or_else(|| {
                    Failure::Usage(format!("{text:?} is not a percentage between 0 and 1000"))
                })? / 100.0;
            }
            _ if arg.starts_with('-') => {
                return Err(Failure::Usage(format!("unknown flag {arg}\n\n{USAGE}")));
            }
            _ => names.push(arg),
        }
    }
    let [old, new] = <[String; 2]>::try_from(names).map_err(|names| {
        Failure::Usage(format!("expected two baselines, not {}\n\n{USAGE}", names.len()))
    })?;
    Ok(Some(Args { old, new, noise, filter, directory }))
}
