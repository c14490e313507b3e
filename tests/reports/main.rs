//! Reports of load runs and comparisons of benchmarks, made from invented measurements.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod bench_compare;
#[path = "../../examples/bench_compare/change.rs"]
#[allow(dead_code)] // The test uses only the comparison.
mod change;
#[path = "../../examples/bench_compare/estimates.rs"]
#[allow(dead_code)] // As above.
mod estimates;
mod hlog;
mod html;
mod report;
mod sweep;
