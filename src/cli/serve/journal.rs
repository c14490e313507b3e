//! Log lines of a server: its settings, its counters, its connections.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use saltecho::auth::KeyName;
use saltecho::proto::proxy::Header;
use saltecho::proto::{CloseReason, Config, Protocol};
use saltecho::server::{AcceptPause, ConnId, Limits, Observer, Record, Stats};

use crate::cli::failure::{Exit, Failure};
use crate::cli::log::{Level, Log};
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

/// Logs the events of connections. The event loop calls it, and a [`Log`] never blocks.
pub(super) struct Reporter {
    log: Log,
    /// Prefix that names the worker, since each numbers its connections from 1; empty for a single
    /// worker.
    worker: String,
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

    pub(super) fn new(log: Log, worker: Option<usize>) -> Self {
        let worker = worker.map_or_else(String::new, |number| format!("worker {number}: "));
        Self { log, worker, unauthenticated: HashMap::new(), paused: None }
    }

    fn print(&self, text: fmt::Arguments<'_>) {
        if self.log.is_enabled(Level::Verbose) {
            self.log.print(Level::Verbose, format_args!("{}{text}", self.worker));
        }
    }

    fn forget(&mut self, id: ConnId) -> Option<SocketAddr> {
        let peer = self.unauthenticated.remove(&id);
        if self.unauthenticated.is_empty() && self.unauthenticated.capacity() > 2 * Self::KEPT {
            self.unauthenticated.shrink_to(Self::KEPT);
        }
        peer
    }
}

impl Observer for Reporter {
    fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>) {
        if let Some(peer) = peer.filter(|_| self.log.is_enabled(Level::Normal)) {
            self.unauthenticated.insert(id, peer);
        }
        match peer {
            Some(peer) => self.print(format_args!("{id} new from {peer}")),
            None => self.print(format_args!("{id} new, but already gone")),
        }
    }

    fn proxied(&mut self, id: ConnId, header: &Header) {
        let Some(endpoints) = header.endpoints else {
            return self.print(format_args!("{id} is the balancer's own connection"));
        };
        let (client, asked) = (endpoints.source, endpoints.destination);
        if let Some(peer) = self.unauthenticated.get_mut(&id) {
            *peer = client;
        }
        let name = header.unique_id.as_deref().map(<[u8]>::escape_ascii);
        let name = name.map_or_else(String::new, |name| format!(", unique id {name}"));
        self.print(format_args!("{id} comes from {client} to {asked}{name}"));
    }

    fn proxy_refused(&mut self, peer: Option<SocketAddr>) {
        let peer = peer.map_or_else(|| "a peer that left".to_owned(), |peer| peer.to_string());
        self.log.print_limited(format_args!(
            "{}refused a PROXY connection from {peer}, which --proxy-trust does not name",
            self.worker
        ));
    }

    fn authenticated(&mut self, id: ConnId, _: Option<KeyName>) {
        self.forget(id);
        self.print(format_args!("{id} authenticated"));
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason, _: Option<&Record>) {
        let Some(peer) = self.forget(id) else {
            return self.print(format_args!("{id} closed: {reason}"));
        };
        let worker = &self.worker;
        match reason {
            CloseReason::Rejected | CloseReason::HandshakeFailed => self.log.print_limited(
                format_args!("{worker}{id} closed: authentication failed ({reason}), from {peer}"),
            ),
            CloseReason::AuthTimeout
            | CloseReason::HeaderMissing
            | CloseReason::HeaderMalformed
            | CloseReason::HeaderTimeout => {
                self.log.print_limited(format_args!("{worker}{id} closed: {reason}, from {peer}"));
            }
            _ => self.print(format_args!("{id} closed: {reason}")),
        }
    }

    fn accept_paused(&mut self, pause: AcceptPause<'_>) {
        if self.paused.is_some_and(|time| time.elapsed() < Self::PAUSE_PERIOD) {
            return;
        }
        self.paused = Some(Instant::now());
        let worker = &self.worker;
        match pause {
            AcceptPause::Error(error) => {
                self.log.warn(format_args!("{worker}accepting paused: {error}"));
            }
            AcceptPause::Full => self.log.warn(format_args!(
                "{worker}accepting paused: the maximum number of connections is reached; \
                 --max-connections and `ulimit -n` set it"
            )),
            AcceptPause::UnauthenticatedFull => self.log.warn(format_args!(
                "{worker}accepting paused: the maximum number of unauthenticated connections is \
                 reached; --max-unauthenticated sets it"
            )),
        }
    }
}
