//! The built program under injected errors and hostile clients, and the system calls it makes.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod chaos;
mod hot_path;
mod scarce_memory;
mod strace;
