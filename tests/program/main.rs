//! The built program as its user meets it: flags, files, pipes, signals, logs and exit codes.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod command_line;
mod config;
mod connect;
mod lab;
mod load;
mod log_format;
mod outputs;
mod port_file;
mod protocols;
mod recording;
mod reload;
mod serve;
mod serve_log;
mod signals;
