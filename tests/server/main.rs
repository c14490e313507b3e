//! The event loop over real sockets.
#![cfg(feature = "cli")] // Some of these tests run the program.
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod admission;
mod handler;
mod handover;
mod keepalive;
mod loopback;
mod proxy;
mod records;
mod workers;
