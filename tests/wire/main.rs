//! The wire protocol without a socket: every segmentation of a digest, every chunking of an echo,
//! every deadline and every close reason.
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

mod answers;
mod deadlines;
mod digest;
mod endings;
mod header;
mod memory;
mod moving;
mod multiprocessing;
mod multiprocessing_world;
mod peer;
mod pushes;
