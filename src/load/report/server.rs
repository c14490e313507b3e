//! CPU time and memory of the server in a report.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Report;
use super::generator::nanos;
use super::{Bytes, Nanos};
use crate::python::saturating_nanos;

/// CPU time and memory of the server's process during the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ServerUse {
    /// PID of the server.
    pub pid: u32,
    /// CPU time of all threads.
    #[serde(rename = "cpu_ns", with = "nanos")]
    pub cpu: Duration,
    /// CPU time in user mode, in ticks of 10 ms.
    #[serde(rename = "user_ns", with = "nanos")]
    pub user: Duration,
    /// CPU time in the kernel, in ticks of 10 ms.
    #[serde(rename = "system_ns", with = "nanos")]
    pub system: Duration,
    /// Time that its threads were ready to run and waited for a CPU.
    #[serde(rename = "waited_ns", with = "nanos")]
    pub waited: Duration,
    /// Resident memory before the first connection, in bytes.
    #[serde(rename = "resident_before_bytes")]
    pub resident_before: u64,
    /// Resident memory at the end of the measurement, in bytes.
    #[serde(rename = "resident_bytes")]
    pub resident: u64,
}

/// An upgrade of the server, as its admin endpoint showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    /// When it was seen, counted from the start of the run; it was up to a tenth of a second before.
    #[serde(rename = "at_ns", with = "nanos")]
    pub at: Duration,
    /// Number of the process that serves since, from 1.
    pub generation: u64,
    /// Time in which no process served, as the server measured it.
    #[serde(rename = "freeze_ns", with = "nanos")]
    pub freeze: Duration,
}

impl fmt::Display for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, generation, freeze } = self;
        let freeze = Nanos(saturating_nanos(*freeze));
        write!(f, "generation {generation} at {:.1} s (frozen for {freeze})", at.as_secs_f64())
    }
}

/// Upgrades that the text of a report lists one by one.
const LISTED: usize = 8;

impl Report {
    /// The upgrades of the server in a sentence.
    pub(super) fn upgrades_line(&self) -> Option<String> {
        let each = self.upgrades.iter().take(LISTED).map(ToString::to_string);
        let each: Vec<String> = each.collect();
        let more = match self.upgrades.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let longest = Nanos(saturating_nanos(self.upgrades.iter().map(|it| it.freeze).max()?));
        Some(format!("Upgrades of the server: {}{more}; longest freeze {longest}", each.join(", ")))
    }

    /// CPU time and memory of the server in a sentence.
    pub(super) fn server_line(&self) -> Option<String> {
        let server = self.server?;
        let counts = &self.record.counts;
        let cpu = saturating_nanos(server.cpu);
        let per_message = match cpu.checked_div(self.record.measured.answered) {
            Some(cpu) => format!("{} of CPU time per message, ", Nanos(cpu)),
            None => String::new(),
        };
        let measured = saturating_nanos(self.measured);
        let busy = cpu.saturating_mul(100).checked_div(measured).unwrap_or(0);
        let growth = server.resident.saturating_sub(server.resident_before);
        let each = match growth.checked_div(counts.authenticated) {
            Some(each) => format!(" ({each} B per connection)"),
            None => String::new(),
        };
        Some(format!(
            "Server (PID {}): {per_message}{busy} % of one CPU; resident memory {}, grew by {} since \
             before the first connection{each}",
            server.pid,
            Bytes(server.resident),
            Bytes(growth),
        ))
    }
}
