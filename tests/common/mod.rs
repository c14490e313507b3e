//! What the integration tests share.
#![allow(dead_code)] // Each test uses its own part of it.
#![allow(unreachable_pub)] // Public towards the test that includes it.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these are their hands.

pub mod client;
pub mod fake;
pub mod needs;
pub mod program;
pub mod python;
pub mod run;
pub mod server;
pub mod strace;
