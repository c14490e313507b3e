//! Comparison of two saved benchmark baselines, with synthetic data.

use std::fs;
use std::path::Path;

use crate::change::{Change, classify};
use crate::common::pages::example;
use crate::estimates::Estimate;
use tempfile::TempDir;

#[test]
fn a_change_is_what_the_intervals_show_and_noise_does_not_explain() {
    let estimate = |low, point, high| Estimate { low, point, high };
    let old = estimate(99.0, 100.0, 101.0);
    for (new, expected) in [
        (estimate(109.0, 110.0, 111.0), Change::Slower),
        (estimate(89.0, 90.0, 91.0), Change::Faster),
        // Certainly different, but by less than the noise.
        (estimate(102.0, 103.0, 104.0), Change::Same),
        (estimate(96.5, 97.5, 98.5), Change::Same),
        // Overlapping and close.
        (estimate(99.5, 100.5, 101.5), Change::Same),
        // The estimates differ much, but perhaps by chance.
        (estimate(100.5, 110.0, 125.0), Change::Inconclusive),
        (estimate(80.0, 90.0, 99.5), Change::Inconclusive),
        // The estimates agree, but neither is precise.
        (estimate(90.0, 100.0, 110.0), Change::Inconclusive),
    ] {
        assert_eq!(classify(old, new, 0.05), expected, "{new:?}");
    }
    assert_eq!(classify(old, estimate(102.0, 103.0, 104.0), 0.02), Change::Slower);
}

/// Writes estimates as criterion does: `slope` is null for benches of few iterations.
fn save(directory: &Path, bench: &str, baseline: &str, [low, point, high]: [f64; 3], slope: bool) {
    let path = directory.join(bench.replace('/', "_")).join(baseline);
    fs::create_dir_all(&path).unwrap();
    let statistic = |factor: f64| {
        serde_json::json!({
            "confidence_interval": {
                "confidence_level": 0.95,
                "lower_bound": low * factor,
                "upper_bound": high * factor,
            },
            "point_estimate": point * factor,
            "standard_error": 1.0,
        })
    };
    // With a slope the mean must not be used.
    let estimates = if slope {
        serde_json::json!({ "mean": statistic(7.0), "slope": statistic(1.0) })
    } else {
        serde_json::json!({ "mean": statistic(1.0), "slope": null })
    };
    fs::write(path.join("estimates.json"), estimates.to_string()).unwrap();
    let benchmark = serde_json::json!({ "full_id": bench }).to_string();
    fs::write(path.join("benchmark.json"), benchmark).unwrap();
}

/// Runs the comparison; returns its exit code and its output on both streams.
fn compare(directory: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = example("bench_compare");
    let output = command.arg("--directory").arg(directory).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The line of the table about this benchmark.
fn line<'a>(table: &'a str, bench: &str) -> &'a str {
    table.lines().find(|line| line.starts_with(bench)).unwrap_or_else(|| panic!("{table}"))
}

#[test]
fn a_regression_that_the_intervals_show_is_exit_code_5() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    save(path, "core/echo", "before", [99.0, 100.0, 101.0], true);
    save(path, "core/echo", "after", [109.0, 110.0, 111.0], true);
    save(path, "loop/turn", "before", [9.0, 10.0, 11.0], false);
    save(path, "loop/turn", "after", [4.0, 5.0, 6.0], false);
    let (code, table) = compare(path, &["before", "after"]);
    assert_eq!(code, Some(5), "{table}");
    assert!(line(&table, "core/echo").ends_with("+10.0 %  SLOWER"), "{table}");
    assert!(line(&table, "loop/turn").ends_with("-50.0 %  faster"), "{table}");
    assert!(table.ends_with("1 slower, 1 faster, 0 the same within the noise, 0 inconclusive\n"));
    // In the other direction another one is slower.
    let (code, table) = compare(path, &["after", "before"]);
    assert_eq!(code, Some(5), "{table}");
    // Filtered benchmarks are not compared, and a larger noise bound explains more.
    assert_eq!(compare(path, &["before", "after", "--filter", "loop"]).0, Some(0));
    assert_eq!(compare(path, &["before", "after", "--noise", "12"]).0, Some(0));
}

#[test]
fn overlapping_intervals_are_inconclusive_but_not_a_failure() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    save(path, "core/echo", "before", [90.0, 100.0, 115.0], true);
    save(path, "core/echo", "after", [110.0, 120.0, 130.0], true);
    save(path, "gone", "before", [1.0, 1.0, 1.0], true);
    save(path, "come", "after", [1.0, 1.0, 1.0], true);
    let (code, table) = compare(path, &["before", "after"]);
    assert_eq!(code, Some(0), "{table}");
    assert!(line(&table, "core/echo").ends_with("inconclusive"), "{table}");
    assert!(line(&table, "gone").ends_with("only old"), "{table}");
    assert!(line(&table, "come").ends_with("only new"), "{table}");
    assert!(table.ends_with("1 inconclusive, 2 in one baseline only\n"), "{table}");
}

#[test]
fn wrong_arguments_are_explained() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let (code, text) = compare(path, &["before", "after"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("run `cargo bench -- --save-baseline NAME` first"), "{text}");

    save(path, "core/echo", "base", [1.0, 1.0, 1.0], true);
    save(path, "core/echo", "before", [1.0, 1.0, 1.0], true);
    let (code, text) = compare(path, &["before", "aftr"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("no baseline \"aftr\""), "{text}");
    assert!(text.ends_with("available: base, before\n"), "{text}");

    for (args, complaint) in [
        (&["before"][..], "two baselines, not 1"),
        (&["before", "base", "--noise", "much"], "\"much\" is not a percentage"),
        (&["before", "base", "--nois", "1"], "unknown flag --nois"),
        (&["before", "base", "--filter"], "--filter needs a value"),
        (&["before", "base", "--filter", "nothing"], "no benchmark in common"),
    ] {
        let (code, text) = compare(path, args);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(text.contains(complaint), "{args:?}: {text}");
    }
    assert_eq!(compare(path, &["--help"]).0, Some(0));
}

#[test]
fn a_file_not_written_by_criterion_is_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    save(path, "core/echo", "before", [1.0, 1.0, 1.0], true);
    save(path, "core/echo", "after", [1.0, 1.0, 1.0], true);
    let file = path.join("core_echo/after/estimates.json");
    for text in ["{", "{}", r#"{"mean": {"point_estimate": -1.0}}"#] {
        fs::write(&file, text).unwrap();
        let (code, complaint) = compare(path, &["before", "after"]);
        assert_eq!(code, Some(1), "{complaint}");
        assert!(complaint.contains("core_echo/after/estimates.json: "), "{complaint}");
    }
}
