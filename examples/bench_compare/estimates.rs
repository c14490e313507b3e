//! What criterion has saved: a directory for each benchmark, in it one for each baseline, in that
//! the estimates and the benchmark's name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The question was wrong.
    Usage(String),
    /// A file could not be read, or is not what criterion writes.
    File(String),
}

impl Failure {
    fn at(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::File(format!("{}: {what}", path.display()))
    }
}

/// The time of one iteration in nanoseconds, and the interval in which it lies with criterion's
/// confidence (95 % unless told otherwise).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) low: f64,
    pub(crate) point: f64,
    pub(crate) high: f64,
}

/// Every baseline that any benchmark has.
pub(crate) fn baselines(directory: &Path) -> Result<BTreeSet<String>, Failure> {
    let saved = saved(directory)?;
    if saved.is_empty() {
        return Err(Failure::Usage(format!(
            "no benchmark is saved in {}: run `cargo bench -- --save-baseline NAME` first",
            directory.display()
        )));
    }
    Ok(saved.iter().map(|path| name_of(path)).collect())
}

/// The benchmarks that have this baseline, by their names, each with its estimate.
pub(crate) fn read(
    directory: &Path,
    baseline: &str,
) -> Result<BTreeMap<String, Estimate>, Failure> {
    saved(directory)?
        .iter()
        .filter(|path| name_of(path) == baseline)
        .map(|path| {
            let benchmark = path.join("benchmark.json");
            let name = json(&benchmark)?["full_id"]
                .as_str()
                .ok_or_else(|| Failure::at(&benchmark, "there is no full_id"))?
                .to_owned();
            Ok((name, estimate(&path.join("estimates.json"))?))
        })
        .collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Every directory below this one that holds estimates of a benchmark. `change` has some too, of a
/// difference and without a benchmark's name.
fn saved(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::at(directory, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Failure::at(directory, error))?.path();
        if path.is_dir() {
            if path.join("estimates.json").exists() && path.join("benchmark.json").exists() {
                found.push(path.clone());
            }
            found.extend(saved(&path)?);
        }
    }
    Ok(found)
}

fn json(path: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::at(path, error))?;
    serde_json::from_str(&text).map_err(|error| Failure::at(path, error))
}

/// Criterion's own choice: the slope if it measured with growing numbers of iterations, which
/// takes out what a measurement costs by itself, else the mean.
fn estimate(path: &Path) -> Result<Estimate, Failure> {
    let estimates = json(path)?;
    let chosen = match &estimates["slope"] {
        Value::Null => &estimates["mean"],
        slope => slope,
    };
    let number = |value: &Value| {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| Failure::at(path, "there is no estimate as criterion writes it"))
    };
    let interval = &chosen["confidence_interval"];
    Ok(Estimate {
        low: number(&interval["lower_bound"])?,
        point: number(&chosen["point_estimate"])?,
        high: number(&interval["upper_bound"])?,
    })
}
