//! The event loop and the load generator without a socket: over a simulated kernel, a scripted one,
//! and a virtual clock. `truth` compares the simulated kernel with real sockets.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

mod accept;
mod admin;
mod control;
mod exhaustive;
mod fleet;
mod handover;
mod handover_image;
mod lab;
mod lag;
#[cfg(feature = "load")]
mod load;
#[cfg(feature = "load")]
mod load_failures;
#[cfg(feature = "load")]
mod load_world;
mod memory;
#[path = "../wire/multiprocessing_world.rs"]
mod multiprocessing_world;
#[cfg(feature = "load")]
mod perfetto;
mod random_protocols;
mod random_worlds;
mod reconfigure;
mod recording;
mod ring;
#[path = "../../benches/support/mod.rs"]
mod support;
mod truth;
mod world;
