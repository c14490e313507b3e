//! Log lines of a server: its settings, its counters, its connections.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use saltecho::auth::KeyName;
use saltecho::proto::proxy::Header;
use saltecho::proto::{CloseReason, Config, Protocol};
use saltecho::server::{AcceptPause, ConnId, Fault, Limits, Note, Record, Refusal, Stats};

use super::fields::{Authenticated, Closed, Connection, Counters};
use crate::cli::failure::{Exit, Failure};
use crate::cli::log::{Entry, Level, Log, Severity};
use crate::cli::values::{Limit, Size, Spin};

/// `1 connection`, `2 connections`.
fn connections(number: u64) -> String {
    format!("{number} connection{}", if number == 1 { "" } else { "s" })
}

/// The settings in one line.
pub(super) fn settings(
    config: &Config,
    limits: &Limits,
    keys: &[String],
    workers: usize,
) -> String {
    let mut line = match config.protocol {
        Protocol::Tutorial => String::new(),
        protocol => format!("{protocol}, "),
    };
    match config.protocol {
        Protocol::Plain => line.push_str("no authentication"),
        _ => line.push_str(&format!(
            "{} with key{} {}",
            config.keyring.algorithm(),
            if keys.len() == 1 { "" } else { "s" },
            keys.join(", ")
        )),
    }
    line.push_str(&format!(
        "; at most {}, {} unauthenticated, backlog {}, recv size {}; timeouts auth \
         {}, idle {}, keepalive {}, send {}, drain {}",
        connections(limits.connections as u64),
        limits.unauthenticated,
        limits.backlog,
        Size(config.recv_size),
        Limit(config.auth_timeout),
        Limit(config.idle_timeout),
        Limit(config.keepalive),
        Limit(config.send_timeout),
        Limit(limits.drain_timeout),
    ));
    if !limits.drain_delay.is_zero() {
        line.push_str(&format!(" after {}", Limit(Some(limits.drain_delay))));
    }
    if !limits.spin.is_zero() {
        line.push_str(&format!("; spin {}", Spin(limits.spin)));
    }
    if workers > 1 {
        line.push_str(&format!("; {workers} workers"));
    }
    line
}

/// The counters in one line. Those that are zero in normal operation appear only if they are not.
pub(super) fn counters(stats: &Stats) -> String {
    let mut line = format!(
        "accepted {}, authenticated {}; bytes received {}, sent {}",
        stats.accepted, stats.authenticated, stats.bytes_received, stats.bytes_sent
    );
    for (name, number) in [
        (", undelivered", stats.bytes_undelivered),
        ("; bytes discarded", stats.bytes_discarded),
        ("; shed", stats.shed),
        ("; refused as suspect", stats.refused_suspects),
        ("; refused over share", stats.refused_over_share),
        ("; refused as untrusted proxy", stats.refused_untrusted_proxies),
        ("; open", stats.connections as u64),
        (", unauthenticated", stats.unauthenticated as u64),
    ] {
        if number > 0 {
            line.push_str(&format!("{name} {number}"));
        }
    }
    let closes = stats.closes().map(|(reason, number)| format!("{number} {reason}"));
    let closes: Vec<String> = closes.collect();
    if !closes.is_empty() {
        line.push_str(&format!("; closed: {}", closes.join(", ")));
    }
    if let Some(imbalance) = stats.imbalance().filter(|imbalance| *imbalance > 1.0) {
        let loops = stats.loops;
        line.push_str(&format!(
            "; the busiest of {loops} workers accepted {imbalance:.2} x the mean"
        ));
    }
    line
}

/// Fails if the server cut connections off. A peer that leaves early is not a failure.
pub(super) fn check(stats: &Stats) -> Result<(), Failure> {
    match stats.closed(CloseReason::DrainTimeout) + stats.closed(CloseReason::Stopped) {
        0 => Ok(()),
        number => Err(Failure::with_message(
            Exit::Runtime,
            format!("cut off before the last answer was delivered: {}", connections(number)),
        )),
    }
}

/// Logs the counters.
pub(super) fn print_counters(log: &Log, level: Level, stats: &Stats) {
    let entry = Entry::new(Severity::Info, "counters", counters(stats));
    log.write(level, &entry.with(Counters::new(stats, log.suppressed())));
}

/// Logs the events of connections. The event loop calls it, and a [`Log`] never blocks.
pub(super) struct Reporter {
    log: Log,
    /// The loop's number, from 1.
    worker: usize,
    /// Prefix that names the worker, since each numbers its connections from 1; empty for a single
    /// worker.
    prefix: String,
    listeners: Vec<SocketAddr>,
    /// Addresses of connections that are not authenticated yet: a failure is logged with the
    /// address, and the socket may be gone by then.
    unauthenticated: HashMap<ConnId, SocketAddr>,
    /// Time of the last line about a pause of accepting.
    paused: Option<Instant>,
}

impl Reporter {
    /// Minimum time between two lines about pauses, of which there may be ten per second.
    const PAUSE_PERIOD: Duration = Duration::from_secs(10);
    /// Addresses for which memory is kept after a crowd has authenticated or left.
    const KEPT: usize = 1024;

    /// A reporter for the loop of this number, from 1, of so many.
    pub(super) fn new(log: Log, worker: usize, workers: usize, listeners: Vec<SocketAddr>) -> Self {
        let prefix = if workers > 1 { format!("worker {worker}: ") } else { String::new() };
        let (unauthenticated, paused) = (HashMap::new(), None);
        Self { log, worker, prefix, listeners, unauthenticated, paused }
    }

    fn forget(&mut self, id: ConnId) -> Option<SocketAddr> {
        let peer = self.unauthenticated.remove(&id);
        if self.unauthenticated.is_empty() && self.unauthenticated.capacity() > 2 * Self::KEPT {
            self.unauthenticated.shrink_to(Self::KEPT);
        }
        peer
    }

    const fn connection(&self, id: ConnId, peer: Option<SocketAddr>) -> Connection {
        Connection::new(self.worker, id, peer)
    }

    /// Returns whether the end of each connection is logged, not only failures.
    fn logs_every_end(&self) -> bool {
        let level = if self.log.is_json() { Level::Normal } else { Level::Verbose };
        self.log.is_enabled(level)
    }
}

/// What it makes of each note.
impl Reporter {
    pub(super) fn hear(&mut self, note: &Note, record: Option<&Record>) {
        match note {
            Note::Opened(id, peer) => self.opened(*id, *peer),
            Note::Proxied(id, Some(header)) => self.proxied(*id, header),
            Note::Refused(peer, Refusal::UntrustedProxy) => self.proxy_refused(*peer),
            Note::Authenticated(id, key) => self.authenticated(*id, key.and_then(|key| key.name)),
            Note::Closed(id, reason) => self.closed(*id, *reason, record),
            Note::SetupFailed(peer, fault) => self.setup_failed(*peer, *fault),
            Note::AcceptPaused(pause) => self.accept_paused(*pause),
            // Refusals by source are counted, and come in floods.
            _ => {}
        }
    }

    fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>) {
        if let Some(peer) = peer.filter(|_| self.log.is_enabled(Level::Normal)) {
            self.unauthenticated.insert(id, peer);
        }
        if !self.log.is_enabled(Level::Verbose) {
            return;
        }
        let origin = match peer {
            Some(peer) => format!("new from {peer}"),
            None => "new, but already gone".to_owned(),
        };
        let text = format_args!("{}{id} {origin}", self.prefix);
        let entry = Entry::new(Severity::Info, "connection_opened", text);
        self.log.write(Level::Verbose, &entry.with(self.connection(id, peer)));
    }

    fn proxied(&mut self, id: ConnId, header: &Header) {
        let client = header.endpoints.map(|endpoints| endpoints.source);
        if let (Some(client), Some(peer)) = (client, self.unauthenticated.get_mut(&id)) {
            *peer = client;
        }
        if !self.log.is_enabled(Level::Verbose) {
            return;
        }
        let name = header.unique_id.as_deref().map(<[u8]>::escape_ascii);
        let name = name.map_or_else(String::new, |name| format!(", unique id {name}"));
        let text = match header.endpoints {
            Some(ends) => format!("comes from {} to {}{name}", ends.source, ends.destination),
            None => "is the balancer's own connection".to_owned(),
        };
        let text = format_args!("{}{id} {text}", self.prefix);
        let entry = Entry::new(Severity::Info, "connection_proxied", text);
        self.log.write(Level::Verbose, &entry.with(self.connection(id, client)));
    }

    fn proxy_refused(&self, peer: Option<SocketAddr>) {
        let peer = peer.map_or_else(|| "a peer that left".to_owned(), |peer| peer.to_string());
        let text = format_args!(
            "{}refused a PROXY connection from {peer}, which --proxy-trust does not name",
            self.prefix
        );
        self.log.write_limited(&Entry::new(Severity::Info, "proxy_refused", text));
    }

    fn authenticated(&mut self, id: ConnId, key: Option<KeyName>) {
        let peer = self.forget(id);
        if !self.log.is_enabled(Level::Verbose) {
            return;
        }
        let text = format_args!("{}{id} authenticated", self.prefix);
        let entry = Entry::new(Severity::Info, "connection_authenticated", text);
        let key = key.map(|key| key.to_string());
        let fields = Authenticated { connection: self.connection(id, peer), key };
        self.log.write(Level::Verbose, &entry.with(fields));
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason, record: Option<&Record>) {
        let unauthenticated = self.forget(id);
        let is_failure = matches!(
            reason,
            CloseReason::Rejected
                | CloseReason::HandshakeFailed
                | CloseReason::AuthTimeout
                | CloseReason::HeaderMissing
                | CloseReason::HeaderMalformed
                | CloseReason::HeaderTimeout
        );
        let every = self.logs_every_end();
        let is_logged = every || (is_failure && self.log.is_enabled(Level::Normal));
        if !is_logged {
            return;
        }
        let peer = unauthenticated.or(record.and_then(|record| record.peer));
        // The fields of an object have the rest.
        let details = record.filter(|_| !self.log.is_json());
        let end = End { reason, peer, record: details };
        let text = format_args!("{}{id} closed: {end}", self.prefix);
        let fields = Closed::new(self.connection(id, peer), reason, record, &self.listeners);
        let entry = Entry::new(Severity::Info, "connection_closed", text).with(fields);
        match every {
            true => self.log.write(Level::Normal, &entry),
            false => self.log.write_limited(&entry),
        }
    }

    fn setup_failed(&self, peer: Option<SocketAddr>, fault: Fault) {
        let peer = peer.map_or_else(String::new, |peer| format!(" {peer}"));
        let text = format_args!("{}cannot serve client{peer}: {}", self.prefix, fault.to_error());
        self.log.write_limited(&Entry::new(Severity::Warning, "setup_failed", text));
    }

    fn accept_paused(&mut self, pause: AcceptPause) {
        if self.paused.is_some_and(|time| time.elapsed() < Self::PAUSE_PERIOD) {
            return;
        }
        self.paused = Some(Instant::now());
        let why = match pause {
            AcceptPause::Error(fault) => fault.to_error().to_string(),
            AcceptPause::Full => "the maximum number of connections is reached; \
                 --max-connections and `ulimit -n` set it"
                .to_owned(),
            AcceptPause::UnauthenticatedFull => "the maximum number of unauthenticated \
                 connections is reached; --max-unauthenticated sets it"
                .to_owned(),
        };
        let text = format_args!("{}accepting paused: {why}", self.prefix);
        let entry = Entry::new(Severity::Warning, "accept_paused", text);
        self.log.write(Level::Normal, &entry);
    }
}

/// The end of a connection as text.
struct End<'a> {
    reason: CloseReason,
    peer: Option<SocketAddr>,
    record: Option<&'a Record>,
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, peer, record } = self;
        match reason {
            CloseReason::Rejected => write!(f, "authentication failed ({reason})")?,
            _ => write!(f, "{reason}")?,
        }
        if let Some(peer) = peer {
            write!(f, ", from {peer}")?;
        }
        let Some(Record { key, age, bytes_received, bytes_sent, .. }) = record else {
            return Ok(());
        };
        if let Some(key) = key {
            write!(f, " with key {key}")?;
        }
        write!(f, " after {age:.1?}; bytes received {bytes_received}, sent {bytes_sent}")
    }
}
