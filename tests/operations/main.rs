//! Operations: the machine's limits, generated files, metrics, and the formats that balancers and
//! monitors speak.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod doctor;
mod generate;
mod haproxy;
mod http;
mod http_world;
mod metrics;
mod proxy;
mod service;
