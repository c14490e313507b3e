//! Helpers that several areas share. Each area includes this module once, by its path.
#![allow(dead_code)] // No area uses all of it.
#![allow(unreachable_pub)] // Public within the test that includes it.

#[cfg(feature = "server")]
pub mod client;
pub mod fake;
pub mod needs;
pub mod pages;
#[cfg(feature = "cli")]
pub mod program;
pub mod python;
#[cfg(feature = "load")]
pub mod run;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "cli")]
pub mod strace;
