//! Results saved by criterion: a directory per benchmark, in it a directory per baseline, in that
//! the estimates and the name of the benchmark.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Reason for a failed comparison.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong arguments.
    Usage(String),
    /// A file that cannot be read or was not written by criterion.
    File(String),
}

impl Failure {
    fn at(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::File(format!("{}: {what}", path.display()))
    }
}

/// Time of one iteration in nanoseconds with its confidence interval (criterion's default: 95 %).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) low: f64,
    pub(crate) point: f64,
    pub(crate) high: f64,
}

/// Lists the baselines of all benchmarks.
pub(crate) fn baselines(directory: &Path) -> Result<BTreeSet<String>, Failure> {
    let saved = saved(directory)?;
    if saved.is_empty() {
        return Err(Failure::Usage(format!(
            "no saved benchmark in {}: run `cargo bench -- --save-baseline NAME` first",
            directory.display()
        )));
    }
    Ok(saved.iter().map(|path| name_of(path)).collect())
}

/// Reads the estimates of all benchmarks with this baseline, by name.
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
                .ok_or_else(|| Failure::at(&benchmark, "full_id is missing"))?
                .to_owned();
            Ok((name, estimate(&path.join("estimates.json"))?))
        })
        .collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Finds all directories with estimates of a benchmark. Criterion's `change` has estimates too, but
/// of a difference and without a benchmark's name.
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

/// Reads the estimate that criterion itself prefers: the slope, if it measured growing numbers of
/// iterations, which excludes the overhead of a measurement, otherwise the mean.
fn estimate(path: &Path) -> Result<Estimate, Failure> {
    let estimates = json(path)?;
    let chosen = match &estimates["slope"] {
        Value::Null => &estimates["mean"],
        slope => slope,
    };
    let number = |value: &Value| {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| Failure::at(path, "not an estimate of criterion"))
    };
    let interval = &chosen["confidence_interval"];
    Ok(Estimate {
        low: number(&interval["lower_bound"])?,
        point: number(&chosen["point_estimate"])?,
        high: number(&interval["upper_bound"])?,
    })
}
