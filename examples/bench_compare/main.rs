//! Compares two baselines that criterion has saved, and fails when something became slower.
//!
//! ```text
//! cargo bench -- --save-baseline before
//! cargo bench -- --save-baseline after        # in the other state of the source
//! cargo run --example bench_compare -- before after
//! ```
//!
//! Criterion itself never fails. This exits with 5 if any benchmark became slower beyond doubt: the
//! confidence intervals are apart and the estimates differ by more than the noise. It exits with 0
//! if none did, which includes those that remain undecided, with 2 if the question was wrong and
//! with 1 if a file cannot be read.

mod estimates;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use estimates::{Failure, baselines, read};
use verdict::{Row, Verdict, compare, report};

const USAGE: &str = "\
usage: bench_compare [--noise PERCENT] [--filter TEXT] [--directory DIR] OLD NEW

OLD and NEW are baselines that `cargo bench -- --save-baseline NAME` has saved;
criterion also writes the last run as `new`, and the one before it as `base`.

  --noise PERCENT   differences up to this are noise [default: 5]
  --filter TEXT     only benchmarks whose names contain this
  --directory DIR   where criterion saves [default: target/criterion]";

struct Question {
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
    let Some(question) = parse(args)? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let known = baselines(&question.directory)?;
    for name in [&question.old, &question.new] {
        if !known.contains(name) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let directory = question.directory.display();
            return Err(Failure::Usage(format!(
                "there is no baseline {name:?} in {directory}; there are: {}",
                known.join(", ")
            )));
        }
    }
    let [mut old, mut new] =
        [read(&question.directory, &question.old)?, read(&question.directory, &question.new)?];
    for all in [&mut old, &mut new] {
        all.retain(|name, _| name.contains(&question.filter));
    }
    let rows = compare(&old, &new, question.noise);
    if rows.iter().all(Row::is_one_sided) {
        return Err(Failure::Usage("the two baselines have no benchmark in common".to_owned()));
    }
    print!("{}", report(&rows));
    let slower = rows.iter().any(|row| row.verdict == Verdict::Slower);
    Ok(ExitCode::from(if slower { 5 } else { 0 }))
}

/// `None`: help is wanted.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Question>, Failure> {
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
                    Failure::Usage(format!("{text:?} is no percentage between 0 and 1000"))
                })? / 100.0;
            }
            _ if arg.starts_with('-') => {
                return Err(Failure::Usage(format!("there is no flag {arg}\n\n{USAGE}")));
            }
            _ => names.push(arg),
        }
    }
    let [old, new] = <[String; 2]>::try_from(names).map_err(|names| {
        Failure::Usage(format!("two baselines, not {}\n\n{USAGE}", names.len()))
    })?;
    Ok(Some(Question { old, new, noise, filter, directory }))
}
