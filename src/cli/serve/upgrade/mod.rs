//! Upgrades: another process, usually of a newer version, takes over everything that this one serves.
//!
//! The old process starts the new one with a channel to itself, lets it check its settings, stops
//! all loops between two turns, sends what they have, and lets go once the new process has it. Until
//! then the old process goes on with everything if anything fails. docs/OPERATIONS.md says what
//! that promises, docs/HANDOVER-FORMAT.md what is sent.
//!
//! The decisions are those of two state machines, [`old::Old`] and [`new::New`]; around them are
//! [`leader`] and [`follower`].

mod agreement;
mod book;
mod channel;
mod checks;
mod follower;
mod leader;
mod lines;
mod message;
mod new;
mod offer;
mod old;
mod process;
mod reason;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(in crate::cli) use follower::decline;
pub(super) use follower::{Following, Predecessor};
pub(super) use leader::{Handed, Upgrader};
pub(super) use offer::Serving;

/// The reading of CLOCK_MONOTONIC, which is the same in both processes.
fn clock() -> Duration {
    clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default()
}
