//! Python's socket object and the authenticated client, call by call.
#![cfg(all(feature = "server", feature = "socket", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod client;
mod semantics;
mod sendall_law;
mod socket_calls;
