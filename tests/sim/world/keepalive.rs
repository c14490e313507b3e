//! Checks the probes of silent peers with an independent implementation of the rules in
//! docs/TESTING.md.

use std::time::Duration;

use saltecho::proto::Config;
use saltecho::python::Monotonic;
use saltecho::server::{Limits, Stats};
use saltecho::sim::SimClient;

/// Unanswered probes after which a peer may be given up.
const PROBES: u32 = 6;
/// The longest jump of the clock between an alarm and the turn that handles it.
const JUMP: Duration = Duration::from_secs(31);

pub struct Keepalive {
    period: Option<Duration>,
    rate: f64,
    /// The longest time until a vanished peer is closed.
    most: Duration,
    probes: u64,
}

impl Keepalive {
    pub fn new(config: &Config, limits: &Limits) -> Self {
        let rate = limits.probes_per_second as f64;
        let round = Duration::from_secs_f64(limits.connections as f64 / rate);
        let period = config.keepalive.unwrap_or_default();
        let first = period.max(round / 2) + round.max(period / 2);
        let patience = (period / 6).max(Duration::from_secs(1)) * 3 / 2;
        // The rate delays a probe only if there are more connections than may be probed at once;
        // and each alarm is late if a turn does not handle them all.
        let held_up = if limits.connections as f64 > rate / 8.0 { 60 } else { 1 };
        let late = if limits.deadlines_per_turn < 1000 { 10 * JUMP } else { JUMP };
        let step = patience + held_up * (late + round + Duration::from_secs(1));
        Self { period: config.keepalive, rate, most: first + late + PROBES * step, probes: 0 }
    }

    /// Checks a vanished peer that is still connected.
    pub fn check_vanished(&self, client: SimClient, heard_at: Monotonic, now: Monotonic) {
        let silent_for = now.since(heard_at);
        assert!(silent_for <= self.most, "{client:?} has been silent for {silent_for:?}");
    }

    /// The earliest time to give up a peer that was last active at `heard_at`.
    pub fn least(&self, heard_at: Monotonic) -> Monotonic {
        heard_at.saturating_add(2 * self.period.expect("keepalive is on"))
    }

    /// Checks that probes keep to their rate.
    pub fn audit(&mut self, stats: &Stats, now: Monotonic) {
        // An eighth of a second's probes may come at once.
        let burst = 1.0 + self.rate / 8.0;
        let seconds = now.since(Monotonic::ZERO).as_secs_f64();
        let (turn, all) = (stats.probes - self.probes, stats.probes);
        assert!(turn as f64 <= burst + 1.0, "{turn} probes in one turn");
        assert!(all as f64 <= burst + 1.0 + seconds * self.rate, "{all} probes in {seconds} s");
        assert!(all == 0 || self.period.is_some(), "keepalive is off");
        self.probes = all;
    }
}
