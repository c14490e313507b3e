//! Long stress trials with figures: floods, descriptor exhaustion, drains, memory, packet loss, timing.
//!
//! ```text
//! cargo run --release --example torture -- all
//! cargo run --release --example torture -- flood 60
//! ```
//!
//! Each trial starts a server in its own process (this program again, as `serve`), puts it under
//! stress and prints the load and the losses. The exit code is 1 if a bound was exceeded. Traffic
//! stays on loopback or in a network namespace made by the trial.
#![allow(clippy::unwrap_used)] // A trial that cannot run stops with the error.

mod closing;
mod drain;
mod endings;
mod famine;
mod flood;
mod idle;
mod memory;
mod partition;
mod server;
mod timing;

#[path = "../../tests/common/client.rs"]
#[allow(dead_code, unreachable_pub)] // The tests' client; each trial uses a part of it.
mod client;

/// Results of a trial, printed line by line.
#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    /// Prints a figure without a bound.
    fn note(&mut self, what: &str, figure: impl std::fmt::Display) {
        println!("  {what:<52} {figure}");
    }

    /// Prints a figure and the result of its check; `kept` is true if it is within the bound.
    fn check(&mut self, what: &str, figure: impl std::fmt::Display, bound: &str, kept: bool) {
        self.failed |= !kept;
        let result = if kept { "ok" } else { "EXCEEDED" };
        println!("  {what:<52} {figure}  ({bound}: {result})");
    }
}

/// Name, default size and function of a trial.
type Trial = (&'static str, u64, fn(u64, &mut Report));

const TRIALS: [Trial; 11] = [
    ("flood", 60, flood::run),
    ("flood-silent", 60, flood::silent),
    ("flood-trusted", 10, flood::trusted),
    ("famine", 10, famine::run),
    ("drain", 5_000, drain::run),
    ("endings", 20, endings::run),
    ("idle", 600, idle::run),
    ("closing", 10_000, closing::run),
    ("memory", 10, memory::run),
    ("partition", 60, partition::run),
    ("timing", 1_000_000, timing::run),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => return server::serve(&args[1..]),
        Some("flooder") => return flood::flooder(&args[1..]),
        Some("idle-crowd") => {
            let size = args[3].parse().unwrap();
            let trial = |seconds, report: &mut _| idle::inside(seconds, &args[2], size, report);
            return inside(&args[1], trial);
        }
        Some("lossy-closing") => inside(&args[1], closing::inside),
        Some("partitioned") => inside(&args[1], partition::inside),
        _ => {}
    }
    let wanted = args.first().map_or("all", String::as_str);
    let size = args.get(1).map(|size| size.parse().expect("the size is a number"));
    let chosen = |name: &str| wanted == "all" || wanted == name;
    if !TRIALS.iter().any(|(name, ..)| chosen(name)) {
        let names: Vec<&str> = TRIALS.iter().map(|(name, ..)| *name).collect();
        eprintln!("no trial {wanted:?}; available: all, {}", names.join(", "));
        std::process::exit(2);
    }
    let mut failed = false;
    for (name, default, run) in TRIALS.into_iter().filter(|(name, ..)| chosen(name)) {
        println!("{name}:");
        let mut report = Report::default();
        run(size.unwrap_or(default), &mut report);
        failed |= report.failed;
    }
    std::process::exit(i32::from(failed));
}

/// Runs a trial in this process, started for it.
fn inside(size: &str, trial: impl Fn(u64, &mut Report)) {
    let mut report = Report::default();
    trial(size.parse().unwrap(), &mut report);
    std::process::exit(i32::from(report.failed));
}
