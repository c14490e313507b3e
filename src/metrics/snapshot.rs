use std::time::{Duration, SystemTime};

use super::TimeHistogram;
use crate::proto::CloseReason;

/// A copy of all that a scrape shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The program's version.
    pub version: &'static str,
    /// The commit that it was built from, if that was known then.
    pub commit: Option<&'static str>,
    /// Whether new connections are accepted: false from the first moment of a drain.
    pub ready: bool,
    /// The operating system's figures for the process.
    pub process: Process,
    /// Connections now, by state.
    pub connections: Connections,
    /// The most connections at once that are allowed.
    pub connections_limit: u64,
    /// Connections accepted and served.
    pub accepted: u64,
    /// Clients turned away after their connection had been accepted.
    pub refused: Refusals,
    /// Errors of accept(2) that concerned one client and were passed over.
    pub accept_errors: u64,
    /// How often accepting had to rest: out of places or out of descriptors.
    pub accept_pauses: u64,
    /// Right digests by the id of their key; of a key that was removed, what it had.
    pub authenticated: Vec<(String, u64)>,
    /// Connections that ended, in the order of [`CloseReason::ALL`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Bytes received, digests included.
    pub bytes_received: u64,
    /// Bytes that the kernel took from us, challenges included.
    pub bytes_sent: u64,
    /// Bytes of answers that had not been handed to the kernel when their connection ended.
    pub bytes_undelivered: u64,
    /// Bytes that were read and not answered, because our stream had already ended.
    pub bytes_discarded: u64,
    /// Bytes of answers that wait in our memory for their peers to read.
    pub backlog_bytes: u64,
    /// Deadlines that are armed.
    pub deadlines: u64,
    /// Log lines that were left out, because there were too many in a second or the reader of the
    /// log was too slow.
    pub log_lines_suppressed: u64,
    /// Each loop's own figures.
    pub workers: Vec<Worker>,
}

/// The operating system's figures for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// When it started.
    pub started: SystemTime,
    /// Processor time, of the user and of the kernel.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// The most descriptors that it may have open.
    pub descriptors_limit: u64,
}

/// Connections by [`State`](crate::proto::State).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Not authenticated yet.
    pub await_digest: u64,
    /// Authenticated.
    pub echoing: u64,
    /// About to end their stream.
    pub finishing: u64,
    /// Half-closed, and reading the peer's rest away.
    pub lingering: u64,
}

/// Clients turned away, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// All places were taken.
    pub no_room: u64,
    /// Their source had failed to authenticate lately.
    pub suspect: u64,
    /// Their source had its share of unauthenticated connections.
    pub over_share: u64,
}

/// One loop's figures: what it did, and how late that made its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// Turns of the loop.
    pub turns: u64,
    /// Events that its polls reported.
    pub events: u64,
    /// Events that came for a connection that was gone.
    pub stale_events: u64,
    /// Time asleep in a poll.
    pub asleep: Duration,
    /// Time of each turn, its sleep aside: how long a new event waits at most.
    pub turn: TimeHistogram,
    /// Time from when a connection could go on to when it did.
    pub queue_wait: TimeHistogram,
}
