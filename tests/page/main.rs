//! The page of the stories, docs/loop.html: that it is up to date, that it is right, and that a browser
//! shows it.
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.
#![allow(unreachable_pub)] // The modules of one program.

#[path = "../common/mod.rs"]
mod common;

mod browser;
mod content;
mod devtools;
mod links;
mod replayed;
