//! Upgrades: a running server hands everything over to another process, or goes on.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod aborts;
mod administrators;
mod deaths;
mod handover;
mod observed;
mod refusals;
mod scarcity;
mod service;
mod signals;
mod sockets;
mod stages;
mod surroundings;
mod table;
mod versions;
