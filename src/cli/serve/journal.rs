//! The text of the server's log: its terms, its counters, its connections.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use saltecho::proto::{CloseReason, Config};
use saltecho::server::{AcceptPause, ConnId, Limits, Observer, Stats};

use crate::cli::failure::{Failure, Kind};
use crate::cli::log::{Level, Log};
use crate::cli::values::{Limit, Size, Spin};

/// `1 connection`, `2 connections`.
fn connections(number: u64) -> String {
    format!("{number} connection{}", if number == 1 { "" } else { "s" })
}

/// What the server demands and allows, in one line.
pub(super) fn terms(config: &Config, limits: &Limits, keys: &str, workers: usize) -> String {
    let mut line = format!(
        "{} with {keys}; at most {}, {} unauthenticated, backlog {}, recv {}; timeouts auth {}, \
         idle {}, keepalive {}, send {}, drain {}",
        config.keyring.algorithm(),
        connections(limits.connections as u64),
        limits.unauthenticated,
        limits.backlog,
        Size(config.recv_size),
        Limit(config.auth_timeout),
        Limit(config.idle_timeout),
        Limit(config.keepalive),
        Limit(config.send_timeout),
        Limit(limits.drain_timeout),
    );
    if !limits.spin.is_zero() {
        line.push_str(&format!("; spin {}", Spin(limits.spin)));
    }
    if workers > 1 {
        line.push_str(&format!("; {workers} workers"));
    }
    line
}

/// The counters in one line; those that should be zero only if they are not.
pub(super) fn counters(stats: &Stats) -> String {
    let mut line = format!(
        "accepted {}, authenticated {}; bytes received {}, sent {}",
        stats.accepted, stats.authenticated, stats.bytes_received, stats.bytes_sent
    );
    for (what, number) in [
        (", undelivered", stats.bytes_undelivered),
        ("; bytes discarded", stats.bytes_discarded),
        ("; turned away", stats.shed),
        ("; refused as suspect", stats.refused_suspects),
        ("; refused over their share", stats.refused_over_share),
        ("; open", stats.connections as u64),
        (", of them unauthenticated", stats.unauthenticated as u64),
    ] {
        if number > 0 {
            line.push_str(&format!("{what} {number}"));
        }
    }
    let closes = stats.closes().map(|(reason, number)| format!("{number} {reason}"));
    let closes: Vec<String> = closes.collect();
    if !closes.is_empty() {
        line.push_str(&format!("; closed: {}", closes.join(", ")));
    }
    if let Some(imbalance) = stats.imbalance().filter(|imbalance| *imbalance > 1.0) {
        let loops = stats.loops;
        let busiest =
            format!("; of {loops} workers the busiest accepted {imbalance:.2} x the mean");
        line.push_str(&busiest);
    }
    line
}

/// Fails if connections were cut off. A peer that leaves early on its own is no failure.
pub(super) fn verdict(stats: &Stats) -> Result<(), Failure> {
    match stats.closed(CloseReason::DrainTimeout) + stats.closed(CloseReason::Stopped) {
        0 => Ok(()),
        number => Err(Failure::because(
            Kind::Runtime,
            format!("cut off before the last answer was delivered: {}", connections(number)),
        )),
    }
}

/// Logs what happens to connections. It is called from the loop, and a [`Log`] never blocks.
pub(super) struct Reporter {
    log: Log,
    /// The worker whose connections they are, since each counts its own from 1; empty for one.
    worker: String,
    /// The addresses of connections that have not authenticated: a failure names them, and the
    /// socket may be gone by then.
    unauthenticated: HashMap<ConnId, SocketAddr>,
    /// When accepting last rested and it was said.
    paused: Option<Instant>,
}

impl Reporter {
    /// Accepting may rest ten times a second; it is worth a line once in this time.
    const PAUSE: Duration = Duration::from_secs(10);
    /// Addresses for which memory is kept once a crowd has authenticated or left.
    const KEPT: usize = 1024;

    pub(super) fn new(log: Log, worker: Option<usize>) -> Self {
        let worker = worker.map_or_else(String::new, |number| format!("worker {number}: "));
        Self { log, worker, unauthenticated: HashMap::new(), paused: None }
    }

    fn say(&self, text: fmt::Arguments<'_>) {
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
            Some(peer) => self.say(format_args!("{id} new, from {peer}")),
            None => self.say(format_args!("{id} new, already gone")),
        }
    }

    fn authenticated(&mut self, id: ConnId) {
        self.forget(id);
        self.say(format_args!("{id} authenticated"));
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason) {
        let Some(peer) = self.forget(id) else {
            return self.say(format_args!("{id} closed: {reason}"));
        };
        let worker = &self.worker;
        match reason {
            CloseReason::Rejected => self.log.print_limited(format_args!(
                "{worker}{id} closed: authentication failed ({reason}), from {peer}"
            )),
            CloseReason::AuthTimeout => {
                self.log.print_limited(format_args!("{worker}{id} closed: {reason}, from {peer}"));
            }
            _ => self.say(format_args!("{id} closed: {reason}")),
        }
    }

    fn accept_paused(&mut self, pause: AcceptPause<'_>) {
        if self.paused.is_some_and(|said| said.elapsed() < Self::PAUSE) {
            return;
        }
        self.paused = Some(Instant::now());
        let worker = &self.worker;
        match pause {
            AcceptPause::Error(error) => {
                self.log.warn(format_args!("{worker}accepting rests: {error}"));
            }
            AcceptPause::Full => self.log.warn(format_args!(
                "{worker}accepting rests: all places are taken; --max-connections and `ulimit -n` \
                 set how many there are"
            )),
            AcceptPause::UnauthenticatedFull => self.log.warn(format_args!(
                "{worker}accepting rests: all places for unauthenticated clients are taken; \
                 --max-unauthenticated sets how many there are"
            )),
        }
    }
}
