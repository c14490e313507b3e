//! What the service withstands, with figures: floods, famine, drains, memory, loss, timing.
//!
//! ```text
//! cargo run --release --example torture -- all
//! cargo run --release --example torture -- flood 60
//! ```
//!
//! Each trial starts a server as a process of its own (this program again, as `serve`), throws
//! something at it and prints what was thrown and what was lost. The exit code is 1 if a bound was
//! not kept. Traffic stays on loopback or in a network namespace that the trial makes.
#![allow(clippy::unwrap_used)] // A trial that cannot be held has nothing better to do than stop.

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
#[allow(dead_code, unreachable_pub)] // The tests' client; a trial uses its own part of it.
mod client;

/// What a trial found, line by line.
#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    /// A figure without a bound.
    fn tell(&mut self, what: &str, figure: impl std::fmt::Display) {
        println!("  {what:<52} {figure}");
    }

    /// A figure and whether it is within its bound.
    fn check(&mut self, what: &str, figure: impl std::fmt::Display, bound: &str, kept: bool) {
        self.failed |= !kept;
        let verdict = if kept { "ok" } else { "NOT KEPT" };
        println!("  {what:<52} {figure}  ({bound}: {verdict})");
    }
}

/// A trial's name, its default size, and what holds it.
type Trial = (&'static str, u64, fn(u64, &mut Report));

const TRIALS: [Trial; 11] = [
    ("flood", 60, flood::run),
    ("flood-silent", 60, flood::silent),
    ("flood-unjudged", 10, flood::unjudged),
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
        eprintln!("there is no trial {wanted:?}; there are: all, {}", names.join(", "));
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

/// A trial that goes on in a process of its own.
fn inside(size: &str, trial: impl Fn(u64, &mut Report)) {
    let mut report = Report::default();
    trial(size.parse().unwrap(), &mut report);
    std::process::exit(i32::from(report.failed));
}
