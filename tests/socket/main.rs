//! Python's socket object and the authenticated client, call by call.
#![cfg(all(feature = "server", feature = "socket", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod client;
mod proc_self;
mod semantics;
mod sendall_law;
#[path = "../python/replay/signals.rs"]
mod signals;
mod socket_calls;
mod socket_edges;
mod socket_messages;
mod socket_sendfile;
