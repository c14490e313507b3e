//! What the log says about an upgrade.

use serde::Serialize;

use crate::cli::log::{Entry, Level, Log, Severity};

/// A step of an upgrade, for programs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step<'a> {
    /// The same in all lines of an upgrade, of both processes.
    pub(super) upgrade: &'a str,
    pub(super) step: &'static str,
    /// Of the process that writes the line.
    pub(super) generation: u64,
    pub(super) pid: u32,
    pub(super) version: &'static str,
    /// The other process, once there is one.
    pub(super) other_pid: Option<u32>,
    /// Why there was no upgrade.
    pub(super) reason: Option<&'static str>,
    /// Time since the loops were stopped.
    pub(super) freeze_ns: Option<u64>,
    pub(super) connections: Option<u64>,
}

impl<'a> Step<'a> {
    pub(super) fn new(upgrade: &'a str, step: &'static str, generation: u64) -> Self {
        Self {
            upgrade,
            step,
            generation,
            pid: std::process::id(),
            version: VERSION,
            other_pid: None,
            reason: None,
            freeze_ns: None,
            connections: None,
        }
    }

    /// Writes the line. `text` is what follows the name of the step.
    pub(super) fn log(self, log: &Log, text: &str) {
        let level = if self.reason.is_some() { Severity::Warning } else { Severity::Info };
        let Self { upgrade, step, generation, pid, .. } = &self;
        let line =
            format!("upgrade {upgrade}, process {pid}, generation {generation}: {step}{text}");
        log.write(Level::Quiet, &Entry::new(level, "upgrade", line).with(self));
    }
}

/// The version of this program and the commit that it was built from, as `--version` shows them: two
/// builds of one version are told apart by it.
pub(super) const VERSION: &str = env!("BUILD_SOURCE");
