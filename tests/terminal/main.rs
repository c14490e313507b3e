//! The built program on a pseudo-terminal.
//!
//! A process of its own: rexpect opens terminals without `O_CLOEXEC`, so every program started
//! meanwhile inherits them, and tests in `program` count descriptors.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "tui")]
mod load_tui;
mod prompt;
