use std::iter::Sum;
use std::time::{Duration, SystemTime};

use super::TimeHistogram;
use crate::proto::CloseReason;

/// A copy of all that a scrape shows. Those of several loops of one process add up ([`Sum`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The program's version.
    pub version: &'static str,
    /// The commit that it was built from, if that was known then.
    pub commit: Option<&'static str>,
    /// True while new connections are accepted: false from the first moment of a drain.
    pub ready: bool,
    /// The operating system's figures for the process; `None` in a simulation.
    pub process: Option<Process>,
    /// Descriptors that the loops hold: connections, listeners and those for polling. Shown if the
    /// system does not count the descriptors of the process.
    pub descriptors: u64,
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
    /// Times that accepting had to rest: out of places or out of descriptors.
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
    /// Loops that did not answer in time, whose figures are those of their last answer.
    pub workers_missing: u64,
    /// The upgrades of the program; `None` if there can be none.
    pub upgrades: Option<Upgrades>,
    /// Each loop's own figures, in the order of their numbers.
    pub workers: Vec<Worker>,
}

impl Snapshot {
    /// Adds the figures of other loops of the same process.
    fn add(&mut self, other: Self) {
        // Destructured, so that a new figure cannot be forgotten here.
        let Self {
            version: _,
            commit: _,
            ready,
            process: _,
            descriptors,
            connections,
            connections_limit,
            accepted,
            refused,
            accept_errors,
            accept_pauses,
            authenticated,
            closed,
            bytes_received,
            bytes_sent,
            bytes_undelivered,
            bytes_discarded,
            backlog_bytes,
            deadlines,
            log_lines_suppressed,
            workers_missing,
            upgrades: _,
            workers,
        } = other;
        self.ready &= ready;
        self.descriptors += descriptors;
        self.connections.add(connections);
        self.connections_limit += connections_limit;
        self.accepted += accepted;
        self.refused.add(refused);
        self.accept_errors += accept_errors;
        self.accept_pauses += accept_pauses;
        for (key, count) in authenticated {
            match self.authenticated.iter_mut().find(|(known, _)| *known == key) {
                Some((_, sum)) => *sum += count,
                None => self.authenticated.push((key, count)),
            }
        }
        for (sum, count) in self.closed.iter_mut().zip(closed) {
            *sum += count;
        }
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
        self.bytes_undelivered += bytes_undelivered;
        self.bytes_discarded += bytes_discarded;
        self.backlog_bytes += backlog_bytes;
        self.deadlines += deadlines;
        self.log_lines_suppressed += log_lines_suppressed;
        self.workers_missing += workers_missing;
        self.workers.extend(workers);
    }
}

/// The figures of the process are those of the first.
impl Sum for Snapshot {
    fn sum<I: Iterator<Item = Self>>(mut snapshots: I) -> Self {
        let mut sum = snapshots.next().unwrap_or_default();
        snapshots.for_each(|snapshot| sum.add(snapshot));
        sum
    }
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
    /// Open descriptors; `None` before Linux 6.2, which counts them.
    pub descriptors: Option<u64>,
    /// The most descriptors that it may have open.
    pub descriptors_limit: u64,
}

/// Upgrades: handovers of everything to a new process. Numbers go on from process to process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrades {
    /// Number of attempts by result and reason.
    pub attempts: Vec<(&'static str, &'static str, u64)>,
    /// True during an attempt.
    pub in_progress: bool,
    /// Number of processes so far, this one included.
    pub generation: u64,
    /// When the first of them started.
    pub service_started: Option<SystemTime>,
    /// When this process took over, if it did.
    pub last_success: Option<SystemTime>,
    /// Times in which no process served.
    pub freezes: TimeHistogram,
    /// The last of them.
    pub last_freeze: Duration,
    /// Time that the new process needed to get ready, the last time.
    pub last_prepare: Duration,
    /// Connections that were handed over.
    pub connections: u64,
    /// Connections that were not.
    pub dropped: u64,
}

/// Connections by [`State`](crate::proto::State).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Behind a balancer, whose PROXY header is incomplete.
    pub await_header: u64,
    /// Not authenticated yet.
    pub await_digest: u64,
    /// Authenticated. Also those that are about to end their stream, which they are for no longer
    /// than a turn.
    pub echoing: u64,
    /// Half-closed, and reading the peer's rest away.
    pub lingering: u64,
}

impl Connections {
    const fn add(&mut self, Self { await_header, await_digest, echoing, lingering }: Self) {
        self.await_header += await_header;
        self.await_digest += await_digest;
        self.echoing += echoing;
        self.lingering += lingering;
    }
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
    /// They may not send a PROXY header.
    pub untrusted_proxy: u64,
}

impl Refusals {
    const fn add(&mut self, Self { no_room, suspect, over_share, untrusted_proxy }: Self) {
        self.untrusted_proxy += untrusted_proxy;
        self.no_room += no_room;
        self.suspect += suspect;
        self.over_share += over_share;
    }
}

/// One loop's figures: what it did, and how late that made its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// The number of the loop in its process, from 1.
    pub number: usize,
    /// Turns of the loop.
    pub turns: u64,
    /// Events that its polls reported.
    pub events: u64,
    /// Events that came for a connection that was gone.
    pub stale_events: u64,
    /// Time in polls that were to wait for events.
    pub asleep: Duration,
    /// Time of each turn without its poll: how long a new event waits at most.
    pub turn: TimeHistogram,
    /// Time from when a connection could go on to when it did: since the poll that reported its
    /// event, or since it had used up its share of a turn.
    pub queue_wait: TimeHistogram,
}
