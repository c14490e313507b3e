//! Comparison with CPython: recorded scenarios, random programs, and Python programs as peers.
#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod multiprocessing;
mod oracle;
mod peers;
mod programs;
mod replay;
mod socket_random;
mod tutorial;
