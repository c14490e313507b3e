use std::time::Duration;

use serde::Serialize;

use super::Report;
use super::about::nanos;
use super::figures::{Bytes, Nanos};
use crate::python::saturating_nanos;

/// What the server's process used while the load was measured, if it could be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ServerUse {
    /// Its process.
    pub pid: u32,
    /// Time on a processor, of all its threads.
    #[serde(rename = "cpu_ns", with = "nanos")]
    pub cpu: Duration,
    /// Of that, in user mode; counted in ticks of 10 ms.
    #[serde(rename = "user_ns", with = "nanos")]
    pub user: Duration,
    /// Of that, in the kernel; counted in ticks of 10 ms.
    #[serde(rename = "system_ns", with = "nanos")]
    pub system: Duration,
    /// Time that its threads could have run and had no processor.
    #[serde(rename = "waited_ns", with = "nanos")]
    pub waited: Duration,
    /// Resident memory before the first connection, in bytes.
    #[serde(rename = "resident_before_bytes")]
    pub resident_before: u64,
    /// Resident memory when the measurement ended, in bytes.
    #[serde(rename = "resident_bytes")]
    pub resident: u64,
}

impl Report {
    /// What the server used, in a sentence.
    pub(super) fn server_line(&self) -> Option<String> {
        let server = self.server?;
        let counts = &self.record.counts;
        let cpu = saturating_nanos(server.cpu);
        let per_message = match cpu.checked_div(self.record.measured.answered) {
            Some(cpu) => format!("{} of processor time a message, ", Nanos(cpu)),
            None => String::new(),
        };
        let measured = saturating_nanos(self.measured);
        let busy = cpu.saturating_mul(100).checked_div(measured).unwrap_or(0);
        let growth = server.resident.saturating_sub(server.resident_before);
        let each = match growth.checked_div(counts.authenticated) {
            Some(each) => format!(", {each} B a connection"),
            None => String::new(),
        };
        Some(format!(
            "Server (process {}): {per_message}{busy} % of one processor; resident memory {}, \
             {} of it since before the first connection{each}",
            server.pid,
            Bytes(server.resident),
            Bytes(growth),
        ))
    }
}
