//! Instruction counts of the protocol and the loop, by valgrind's callgrind. They repeat exactly,
//! so a change of a few percent shows that no clock would show.
//!
//! ```text
//! cargo test --release --test instructions -- --nocapture                # compares
//! SALTECHO_INSTRUCTIONS=record cargo test --release --test instructions   # records
//! ```
//!
//! Each scenario runs in a process of its own (this test again, with its name in the environment),
//! and callgrind collects only inside [`measured`], so neither setup nor test harness is counted.
//! The share of the simulated kernel's functions is recorded apart. `benches/instructions.json` holds
//! the counts of the optimized build; a plain `cargo test` checks only what is true of any build: that
//! a turn costs no more with more connections.
#![cfg(all(feature = "metrics", feature = "server"))]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;
mod recorded;
mod scenarios;
#[path = "../../benches/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::Command;

use common::needs::{VALGRIND, say};
use recorded::{Counts, Instructions, Recorded, differences};
use scenarios::{CROWDS, SCENARIOS, Scenario};

/// The environment variable that names the scenario a process is to run.
const RUN: &str = "SALTECHO_SCENARIO";

/// Repetitions of an operation; the count is divided by them.
const TIMES: u64 = 20;

/// The function in which callgrind collects.
#[inline(never)]
fn measured(operation: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        operation();
    }
}

/// Runs a scenario if the environment names one.
fn run_scenario() -> bool {
    let Ok(name) = std::env::var(RUN) else { return false };
    let (_, scenario) = SCENARIOS
        .iter()
        .chain(&CROWDS)
        .find(|(known, _)| *known == name)
        .expect("a scenario is named");
    let mut operation = scenario();
    // The first run differs: buffers grow.
    operation();
    measured(&mut *operation);
    true
}

/// The instructions per operation of each scenario; `None` without valgrind.
fn count(scenarios: &[(&str, Scenario)], test: &str) -> Option<Counts> {
    if VALGRIND.is_missing() {
        return None;
    }
    let count = |(name, _): &(&str, Scenario)| ((*name).to_owned(), count_one(name, test));
    Some(scenarios.iter().map(count).collect::<BTreeMap<_, _>>())
}

fn count_one(name: &str, test: &str) -> Instructions {
    let profile = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .arg("--toggle-collect=*instructions*measured*")
        .arg(format!("--callgrind-out-file={}", profile.path().display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(RUN, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, n)| n);
    let collected: u64 = collected.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap();
    assert!(collected >= TIMES, "{name}: callgrind did not find the place to collect");
    let kernel = inside(&std::fs::read_to_string(profile.path()).unwrap(), "scripted_");
    Instructions { loop_and_core: (collected - kernel) / TIMES, simulated_kernel: kernel / TIMES }
}

/// The instructions of the functions with this in their names, and of all that they call, in a file of
/// callgrind's (its manual, "Callgrind Format Specification"). None of them calls another of them.
fn inside(profile: &str, name: &str) -> u64 {
    let (mut is_inside, mut sum) = (false, 0);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            is_inside = function.contains(name);
        } else if is_inside && line.starts_with(|first: char| first.is_ascii_digit()) {
            // A place and its own cost, or after "calls=" that of the call.
            let (_, cost) = line.split_once(' ').expect("a place and a cost");
            sum += cost.parse::<u64>().expect("one kind of event");
        }
    }
    sum
}

#[test]
fn a_turn_costs_no_more_with_more_connections() {
    const THIS: &str = "a_turn_costs_no_more_with_more_connections";
    if run_scenario() {
        return;
    }
    let Some(counts) = count(&CROWDS, THIS) else { return };
    let counts: Vec<f64> =
        CROWDS.iter().map(|(name, _)| counts[*name].loop_and_core as f64).collect();
    println!("a turn with 100 ready of 100 and of 2,000: {counts:?} instructions");
    // Twenty times as many connections: work for each of the 1,900 silent ones would show.
    assert!((counts[1] / counts[0] - 1.0).abs() <= 0.02, "{counts:?}");
}

#[test]
fn the_counts_match_the_recorded_ones() {
    const THIS: &str = "the_counts_match_the_recorded_ones";
    if run_scenario() {
        return;
    }
    if cfg!(debug_assertions) {
        say("counts not compared: this build is not optimized, `cargo test --release` is");
        return;
    }
    let Some(counts) = count(&SCENARIOS, THIS) else { return };
    if std::env::var("SALTECHO_INSTRUCTIONS").is_ok_and(|wish| wish == "record") {
        return Recorded::here(counts).write();
    }
    let recorded = Recorded::read();
    print!("{}", recorded.table(&counts));
    let tolerance = recorded.tolerance();
    if recorded.is_of_another_compiler() {
        say(&format!("counts compared loosely, within a factor of two: {}", recorded.compilers()));
    }
    let different = differences(&recorded.counts, &counts, tolerance);
    assert!(
        different.is_empty(),
        "more than {} % away from benches/instructions.json: {}\n\
         If that is meant, `SALTECHO_INSTRUCTIONS=record cargo test --release --test instructions` \
         records it.",
        tolerance * 100.0,
        different.join(", ")
    );
}
