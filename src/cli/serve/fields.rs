//! The fields of log entries, for programs: schemas/log.schema.json.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use saltecho::proto::CloseReason;
use saltecho::server::{ConnId, Record, Stats};
use serde::Serialize;

/// A connection.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Connection {
    /// The loop that has it, from 1; each numbers its own connections.
    worker: usize,
    id: u32,
    peer: Option<SocketAddr>,
}

impl Connection {
    pub(super) const fn new(worker: usize, id: ConnId, peer: Option<SocketAddr>) -> Self {
        Self { worker, id: id.number(), peer }
    }
}

/// A connection that has authenticated.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Authenticated {
    #[serde(flatten)]
    pub(super) connection: Connection,
    pub(super) key: Option<String>,
}

/// A connection that has ended. What only its record tells is null without one.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Closed {
    #[serde(flatten)]
    connection: Connection,
    listener: Option<SocketAddr>,
    key: Option<String>,
    reason: &'static str,
    duration_ns: Option<u64>,
    bytes_received: Option<u64>,
    bytes_sent: Option<u64>,
}

impl Closed {
    pub(super) fn new(
        connection: Connection,
        reason: CloseReason,
        record: Option<&Record>,
        listeners: &[SocketAddr],
    ) -> Self {
        let listener = record.and_then(|record| listeners.get(usize::from(record.listener)));
        Self {
            connection,
            listener: listener.copied(),
            key: record.and_then(|record| record.key).map(|key| key.to_string()),
            reason: reason.label(),
            duration_ns: record.map(|record| nanos(record.age)),
            bytes_received: record.map(|record| record.bytes_received),
            bytes_sent: record.map(|record| record.bytes_sent),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The addresses that a server listens on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Listening<'a> {
    pub(super) addresses: &'a [SocketAddr],
}

/// The error that ended the program.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failed {
    pub(super) exit_code: u8,
}

/// The counters of all loops together.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Counters {
    workers: usize,
    accepted: u64,
    authenticated: u64,
    authenticated_by_key: BTreeMap<String, u64>,
    connections: usize,
    peak_connections: usize,
    unauthenticated: usize,
    closed: BTreeMap<&'static str, u64>,
    bytes_received: u64,
    bytes_sent: u64,
    bytes_undelivered: u64,
    bytes_discarded: u64,
    shed: u64,
    refused_suspects: u64,
    refused_over_share: u64,
    refused_untrusted_proxies: u64,
    accept_errors: u64,
    accept_pauses: u64,
    probes: u64,
    log_lines_suppressed: u64,
}

impl Counters {
    pub(super) fn new(stats: &Stats, log_lines_suppressed: u64) -> Self {
        let by_key = stats.authenticated_by_key().iter();
        Self {
            workers: stats.loops,
            accepted: stats.accepted,
            authenticated: stats.authenticated,
            authenticated_by_key: by_key.map(|(key, count)| (key.to_string(), *count)).collect(),
            connections: stats.connections,
            peak_connections: stats.peak_connections,
            unauthenticated: stats.unauthenticated,
            closed: stats.closes().map(|(reason, count)| (reason.label(), count)).collect(),
            bytes_received: stats.bytes_received,
            bytes_sent: stats.bytes_sent,
            bytes_undelivered: stats.bytes_undelivered,
            bytes_discarded: stats.bytes_discarded,
            shed: stats.shed,
            refused_suspects: stats.refused_suspects,
            refused_over_share: stats.refused_over_share,
            refused_untrusted_proxies: stats.refused_untrusted_proxies,
            accept_errors: stats.accept_errors,
            accept_pauses: stats.accept_pauses,
            probes: stats.probes,
            log_lines_suppressed,
        }
    }
}
