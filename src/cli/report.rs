//! What a server says about itself: its terms, its counters, its connections.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use saltecho::proto::{CloseReason, Config};
use saltecho::server::{ConnId, Limits, Observer, Stats};

use super::failure::{Failure, Kind};
use super::log::{Level, Log};
use super::values::{Limit, Size};

/// What the server demands and allows, in one line.
pub(super) fn terms(config: &Config, limits: &Limits, keys: &str, workers: usize) -> String {
    let mut line = format!(
        "{} with {keys}; at most {} connections, {} unauthenticated, backlog {}, recv {}; timeouts \
         auth {}, idle {}, keepalive {}, send {}, drain {}",
        config.keyring.algorithm(),
        limits.connections,
        limits.unauthenticated,
        limits.backlog,
        Size(config.recv_size),
        Limit(config.auth_timeout),
        Limit(config.recv_timeout),
        Limit(config.keepalive),
        Limit(config.send_timeout),
        Limit(limits.drain_timeout),
    );
    if !limits.spin.is_zero() {
        line.push_str(&format!("; spin {}", Limit(Some(limits.spin))));
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

/// Whether everybody got what they were owed. A peer that leaves early on its own is no failure.
pub(super) fn verdict(stats: &Stats) -> Result<(), Failure> {
    match stats.closed(CloseReason::DrainTimeout) + stats.closed(CloseReason::Stopped) {
        0 => Ok(()),
        number => Err(Failure::because(
            Kind::Runtime,
            format!("connections cut off before they had finished: {number}"),
        )),
    }
}

/// Says what happens to connections. It is called from the loop, and a [`Log`] never blocks.
pub(super) struct Reporter {
    log: Log,
    /// Which worker's connections they are, for each counts its own from 1; empty if it is alone.
    worker: String,
    /// The second that is being counted, and the lines said in it.
    second: Instant,
    lines: u32,
    /// When accepting last rested and it was said.
    paused: Option<Instant>,
}

impl Reporter {
    /// Lines in one second; 300 is what journald lets pass by default (10,000 in 30 s).
    const LINES: u32 = 300;
    /// Accepting may rest ten times a second; it is worth a line once in this time.
    const PAUSE: Duration = Duration::from_secs(10);

    pub(super) fn new(log: Log, worker: Option<usize>) -> Self {
        let worker = worker.map_or_else(String::new, |number| format!("worker {number}: "));
        Self { log, worker, second: Instant::now(), lines: 0, paused: None }
    }

    fn say(&mut self, text: fmt::Arguments<'_>) {
        if !self.log.wants(Level::Verbose) {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.lines) = (now, 0);
        }
        self.lines += 1;
        if self.lines > Self::LINES {
            self.log.leave_out();
        } else {
            self.log.say(Level::Verbose, format_args!("{}{text}", self.worker));
        }
    }
}

impl Observer for Reporter {
    fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>) {
        match peer {
            Some(peer) => self.say(format_args!("{id} new, from {peer}")),
            None => self.say(format_args!("{id} new, already gone")),
        }
    }

    fn authenticated(&mut self, id: ConnId) {
        self.say(format_args!("{id} legal"));
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason) {
        match reason {
            CloseReason::Rejected => self.say(format_args!("{id} not legal, closed: {reason}")),
            _ => self.say(format_args!("{id} closed: {reason}")),
        }
    }

    fn accept_paused(&mut self, cause: Option<&io::Error>) {
        if self.paused.is_some_and(|said| said.elapsed() < Self::PAUSE) {
            return;
        }
        self.paused = Some(Instant::now());
        let worker = &self.worker;
        match cause {
            Some(error) => self.log.warn(format_args!("{worker}accepting rests: {error}")),
            None => self.log.warn(format_args!(
                "{worker}accepting rests: all places are taken; --max-connections and `ulimit -n` \
                 set how many there are"
            )),
        }
    }
}
