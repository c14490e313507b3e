//! Keepalive: probes find peers that vanished silently, at a pace that the loop sets.
//!
//! The kernel can probe by itself, but it knows nothing of a crowd. Its keepalive timers round to
//! seconds, so those of a crowd fire together; loopback and veth drop all packets beyond a backlog
//! of 1,000 without telling the sender, the repetitions fire together again, and living peers are
//! declared dead by the thousand. Here each connection is armed in the loop's own wheel at a random
//! time, and a kernel timer fires only on request ([`Kernel::probe`]).
//!
//! A connection stores nothing for this. At its alarm, [`Kernel::liveness`] returns when the peer was
//! last heard of and how many probes it has left unanswered since, which decides the next step. A
//! silent peer costs one probe, two readings and one setting of socket options per period; a talking
//! one costs a reading, and a message costs nothing. A connection that ends before its first alarm,
//! which is its deadline for the digest, costs nothing.

use super::{ConnId, Limits, Server};
use crate::proto::{CloseReason, Config, Handler};
use crate::python::{Monotonic, saturating_nanos};
use crate::reactor::{Kernel, Liveness};

/// Unanswered probes in a row after which a peer is gone. Five losses in a row are no proof: a queue that
/// overflows loses in bursts, and a probe costs little.
const PROBES: u32 = 6;

/// Alarms are set at multiples of 2^25 ns, 34 ms. A crowd that is silent wakes the loop at most 30
/// times a second, and a few dozen probes that leave together disturb no queue.
const GRID_BITS: u32 = 25;

const SECOND: Nanos = 1_000_000_000;

/// Time by which probes may run ahead of their rate, so that a few simultaneous alarms are not put off.
const BURST: Nanos = SECOND / 8;

/// A time in nanoseconds: each new connection computes one, and `Duration` divides for that.
type Nanos = u64;

/// The schedule of probes. The period is in [`Config::keepalive`], the rate in
/// [`Limits::probes_per_second`](super::Limits::probes_per_second).
#[derive(Debug)]
pub(super) struct Keepalive {
    /// True if probes work: they are an option of the listeners.
    possible: bool,
    /// Silence after which a peer is probed.
    period: Option<Nanos>,
    /// Between two probes at the highest rate.
    gap: Nanos,
    /// When the next probe would leave if all kept to the rate.
    next: Nanos,
}

/// The state of a peer by what the kernel knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// It was heard of within the period, so long ago.
    Heard(Nanos),
    /// It was not, and is to be probed.
    Silent,
    /// The same, and the kernel already repeats data that was not acknowledged.
    Unacknowledged,
    /// It has answered nothing for two periods and all probes.
    Gone,
}

impl Keepalive {
    /// A shorter period would ask peers that are heard of, because the kernel counts in seconds.
    const SHORTEST: Nanos = SECOND;
    /// With a longer one the kernel's own timer, of nine hours, would come first.
    const LONGEST: Nanos = 3 * 3600 * SECOND;

    pub(super) fn new(config: &Config, limits: &Limits) -> Self {
        let mut keepalive =
            Self { possible: config.keepalive.is_some(), period: None, gap: 0, next: 0 };
        keepalive.change(config, limits);
        keepalive
    }

    /// Takes other settings. True if silent peers now have to be asked sooner than their connections
    /// are armed for.
    pub(super) fn change(&mut self, config: &Config, limits: &Limits) -> bool {
        let period =
            config.keepalive.map(|p| saturating_nanos(p).clamp(Self::SHORTEST, Self::LONGEST));
        let before = std::mem::replace(&mut self.period, period.filter(|_| self.possible));
        self.gap = SECOND.div_ceil(limits.probes_per_second.max(1) as u64);
        self.period.is_some_and(|period| before.is_none_or(|before| period < before))
    }

    /// Its state for another loop: whether probes work, the period, and when the next probe would leave.
    pub(super) fn park(&self) -> (bool, u64, Monotonic) {
        (self.possible, self.period.unwrap_or(0), Monotonic::from_nanos(self.next))
    }

    /// Goes on from the state of another loop. True if silent peers now have to be asked sooner than
    /// their connections are armed for.
    pub(super) fn unpark(
        &mut self,
        (possible, period, next): (bool, u64, Monotonic),
        config: &Config,
        limits: &Limits,
    ) -> bool {
        self.possible = possible;
        self.period = Some(period).filter(|period| *period > 0);
        self.next = next.as_nanos();
        self.change(config, limits)
    }

    pub(super) fn is_on(&self) -> bool {
        self.period.is_some()
    }

    /// Time that it takes to ask all of a crowd at the highest rate.
    fn round(&self, connections: usize) -> Nanos {
        self.gap.saturating_mul(connections as u64)
    }

    /// The silence after which a peer is asked: at least so long, and shorter than that by no more
    /// than the second. On average it is a round or more, and it is spread over one, so a crowd that
    /// came or spoke all at once keeps to the rate as well.
    fn silences(&self, period: Nanos, connections: usize) -> (Nanos, Nanos) {
        let round = self.round(connections);
        (period.max(round / 2), round.max(period / 2))
    }

    fn silence<K: Kernel>(&self, period: Nanos, kernel: &mut K, connections: usize) -> Nanos {
        let (least, spread) = self.silences(period, connections);
        least.saturating_add(kernel.random_below(spread))
    }

    /// The time that a peer has for its answer: 10 to 15 s if the period is 60 s.
    fn patience<K: Kernel>(period: Nanos, kernel: &mut K) -> Nanos {
        let least = (period / 6).max(Self::SHORTEST);
        least + kernel.random_below(least / 2)
    }

    fn assess(liveness: &Liveness, period: Nanos) -> Finding {
        let silent_for = saturating_nanos(liveness.silent_for);
        if silent_for < period {
            Finding::Heard(silent_for)
        } else if silent_for >= 2 * period && liveness.unanswered >= PROBES {
            Finding::Gone
        } else if liveness.owes_acknowledgement {
            Finding::Unacknowledged
        } else {
            Finding::Silent
        }
    }

    /// Returns whether a probe may leave now, which is then counted. More than the rate come when alarms
    /// have piled up: after the process was stopped, or when a whole network is gone.
    fn may_probe(&mut self, now: Monotonic) -> bool {
        let now = now.as_nanos();
        let may = self.next <= now + BURST;
        if may {
            self.next = self.next.max(now) + self.gap;
        }
        may
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// The alarm of a connection: its deadline, and if that is far off or there is none, a time at which
    /// its peer may have to be asked.
    pub(super) fn alarm(&mut self, deadline: Option<Monotonic>) -> Option<Monotonic> {
        match self.watched(deadline) {
            Some(period) => {
                let connections = self.reactor.slots.len();
                let silence = self.keepalive.silence(period, &mut self.reactor.kernel, connections);
                Some(self.alarm_after(deadline, silence))
            }
            None => deadline,
        }
    }

    /// The period of keepalive, unless there is none or a deadline comes first: that one finds out
    /// by itself whether the peer is there.
    fn watched(&self, deadline: Option<Monotonic>) -> Option<Nanos> {
        let left = deadline
            .map_or(Nanos::MAX, |at| at.as_nanos().saturating_sub(self.reactor.now().as_nanos()));
        self.keepalive.period.filter(|period| left > *period)
    }

    /// The deadline, or the end of the wait if that comes first.
    fn alarm_after(&self, deadline: Option<Monotonic>, wait: Nanos) -> Monotonic {
        let check = on_grid(self.reactor.now(), wait);
        deadline.map_or(check, |deadline| deadline.min(check))
    }

    /// After an alarm without a deadline that has come: checks whether the peer is still there.
    pub(super) fn check_peer(&mut self, id: ConnId) {
        let Some(slot) = self.reactor.slots.get(id) else { return };
        let deadline = slot.connection.poll_timeout();
        let Some(period) = self.watched(deadline) else { return self.close_or_settle(id) };
        let (connections, now) = (self.reactor.slots.len(), self.reactor.now());
        let slot = self.reactor.slots.get_mut(id).expect("it was found above");
        // A socket that cannot tell will say why at its next call.
        let peer = self.reactor.kernel.liveness(&mut slot.stream);
        let finding = peer.map_or(Finding::Heard(0), |peer| Keepalive::assess(&peer, period));
        let wait = match finding {
            Finding::Heard(ago) => {
                let silence = self.keepalive.silence(period, &mut self.reactor.kernel, connections);
                silence.saturating_sub(ago)
            }
            Finding::Silent if self.keepalive.may_probe(now) => {
                self.reactor.kernel.probe(&mut slot.stream);
                self.stats.probes += 1;
                Keepalive::patience(period, &mut self.reactor.kernel)
            }
            // Somewhere within the next round there is room for it.
            Finding::Silent => {
                let round = self.keepalive.round(connections).max(SECOND);
                self.reactor.kernel.random_below(round)
            }
            Finding::Unacknowledged => Keepalive::patience(period, &mut self.reactor.kernel),
            Finding::Gone => return self.abort(id, CloseReason::PeerVanished),
        };
        self.reactor.arm(id, self.alarm_after(deadline, wait));
    }

    /// The latest time at which a silent connection's peer is asked.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn latest_alarm(&self) -> Option<Monotonic> {
        let period = self.keepalive.period?;
        let connections = self.limits.connections.max(self.reactor.slots.len());
        let (least, spread) = self.keepalive.silences(period, connections);
        Some(on_grid(self.reactor.now(), least.saturating_add(spread)))
    }
}

/// The end of the part of the grid that lies this long after `now`.
fn on_grid(now: Monotonic, wait: Nanos) -> Monotonic {
    let within = (1 << GRID_BITS) - 1;
    Monotonic::from_nanos(now.as_nanos().saturating_add(wait) | within)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Keyring;
    use crate::proto::Upper;
    use crate::sim::{Faults, SimKernel};

    const PERIOD: Nanos = 60 * SECOND;

    fn keepalive() -> Keepalive {
        Keepalive::new(&Config::new(Keyring::demo()), &Limits::for_connections(1))
    }

    #[test]
    fn a_crowd_is_asked_within_its_time_and_at_its_rate() {
        let (mut kernel, keepalive) = (SimKernel::new(1, Faults::none()), keepalive());
        for (connections, least, most) in
            [(1, 60, 90), (19_000, 60, 90), (100_000, 60, 110), (1_000_000, 250, 750)]
        {
            let draws: Vec<Nanos> =
                (0..10_000).map(|_| keepalive.silence(PERIOD, &mut kernel, connections)).collect();
            let bounds = least * SECOND..most * SECOND;
            assert!(draws.iter().all(|draw| bounds.contains(draw)), "{connections}");
            // Evenly over that time: each tenth of it has its share of a crowd that came at once.
            let tenth = (bounds.end - bounds.start) / 10;
            for part in 0..10 {
                let begin = bounds.start + part * tenth;
                let share = draws.iter().filter(|d| (begin..begin + tenth).contains(d)).count();
                assert!((800..1200).contains(&share), "{connections}: {share} of 10,000");
            }
        }
    }

    #[test]
    fn probes_that_pile_up_leave_at_the_rate() {
        let mut keepalive = keepalive();
        let mut now = Monotonic::ZERO;
        for _ in 0..3 {
            now = now.saturating_add(Duration::from_secs(300));
            let at_once = (0..19_000).filter(|_| keepalive.may_probe(now)).count();
            assert_eq!(at_once, 251, "an eighth of a second's, and one");
        }
        let mut within_a_second = 0;
        for _ in 0..1000 {
            now = now.saturating_add(Duration::from_millis(1));
            within_a_second += (0..100).filter(|_| keepalive.may_probe(now)).count();
        }
        assert_eq!(within_a_second, 2000);
    }

    #[test]
    fn a_peer_is_gone_when_it_left_six_probes_unanswered_for_two_periods() {
        use Finding::{Gone, Heard, Silent, Unacknowledged};
        for (seconds, unanswered, owes, finding) in [
            (0, 0, false, Heard(0)),
            (59, 200, true, Heard(59 * SECOND)),
            (60, 0, false, Silent),
            (119, 6, false, Silent),
            (120, 6, false, Gone),
            (100_000, 5, false, Silent),
            (60, 0, true, Unacknowledged),
            (119, 9, true, Unacknowledged),
            (120, 6, true, Gone),
            // A peer whose window is closed answers each question about it.
            (125, 1, true, Unacknowledged),
        ] {
            let silent_for = Duration::from_secs(seconds);
            let liveness = Liveness { silent_for, unanswered, owes_acknowledgement: owes };
            assert_eq!(Keepalive::assess(&liveness, PERIOD), finding, "{liveness:?}");
        }
    }

    #[test]
    fn a_period_that_cannot_be_kept_is_not_tried() {
        let mut config = Config::new(Keyring::demo());
        for (asked, kept) in
            [(None, None), (Some(0), Some(1)), (Some(60), Some(60)), (Some(99_999), Some(10_800))]
        {
            config.keepalive = asked.map(Duration::from_secs);
            let keepalive = Keepalive::new(&config, &Limits::for_connections(1));
            assert_eq!(keepalive.period, kept.map(|seconds: Nanos| seconds * SECOND));
        }
    }

    #[test]
    fn a_peer_has_a_sixth_of_the_period_or_more_for_its_answer() {
        let mut kernel = SimKernel::new(1, Faults::none());
        for (period, least) in [(60, 10 * SECOND), (1, SECOND), (600, 100 * SECOND)] {
            let mut draw = || Keepalive::patience(period * SECOND, &mut kernel);
            let draws: Vec<Nanos> = (0..1000).map(|_| draw()).collect();
            let (tenth, most) = (least / 20, least + least / 2);
            assert!(draws.iter().all(|draw| (least..most).contains(draw)));
            assert!(
                draws.iter().any(|draw| *draw < least + tenth),
                "the first tenth of the spread"
            );
            assert!(draws.iter().any(|draw| *draw > most - tenth), "the last one");
        }
    }

    #[test]
    fn another_loop_asks_no_peer_later_and_keeps_to_the_rate() {
        let mut config = Config::new(Keyring::demo());
        let limits = Limits::for_connections(1);
        config.keepalive = Some(Duration::from_secs(60));
        let mut before = Keepalive::new(&config, &limits);
        assert!(before.may_probe(Monotonic::from_nanos(SECOND)));
        let state = before.park();
        assert_eq!((state.0, state.1), (true, 60 * SECOND));
        assert!(state.2 > Monotonic::ZERO, "a probe has left");
        // Shorter periods have to come sooner, also where there was none.
        let sooner = |state, seconds: Option<u64>| {
            let mut config = Config::new(Keyring::demo());
            config.keepalive = seconds.map(Duration::from_secs);
            let mut after = Keepalive::new(&config, &limits);
            let sooner = after.unpark(state, &config, &limits);
            assert_eq!(after.next, state.2.as_nanos());
            (sooner, after.period.map(|period| period / SECOND))
        };
        assert_eq!(sooner(state, Some(60)), (false, Some(60)));
        assert_eq!(sooner(state, Some(61)), (false, Some(61)));
        assert_eq!(sooner(state, Some(59)), (true, Some(59)));
        assert_eq!(sooner(state, None), (false, None));
        assert_eq!(sooner((true, 0, state.2), Some(60)), (true, Some(60)));
        assert_eq!(sooner((false, 0, state.2), Some(60)), (false, None), "its listeners cannot");
    }
    fn server(keepalive: Option<u64>) -> Server<SimKernel, Upper> {
        let (mut config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
        config.keepalive = keepalive.map(Duration::from_secs);
        let kernel = SimKernel::new(1, Faults::none());
        Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap()
    }

    #[test]
    fn a_peer_is_watched_if_no_deadline_comes_within_the_period() {
        let at = |nanos| Some(Monotonic::from_nanos(nanos));
        let (on, off) = (server(Some(60)), server(None));
        assert_eq!((on.keepalive.is_on(), off.keepalive.is_on()), (true, false));
        for (deadline, watched) in [
            (None, Some(PERIOD)),
            (at(PERIOD - 1), None),
            (at(PERIOD), None),
            (at(PERIOD + 1), Some(PERIOD)),
        ] {
            assert_eq!(on.watched(deadline), watched, "{deadline:?}");
            assert_eq!(off.watched(deadline), None);
        }
    }

    #[test]
    fn a_silent_peer_is_asked_within_one_and_a_half_periods() {
        assert_eq!(server(None).latest_alarm(), None);
        // At the end of a part of 2^25 ns.
        let latest = (90 * SECOND).next_multiple_of(1 << 25) - 1;
        assert_eq!(server(Some(60)).latest_alarm(), Some(Monotonic::from_nanos(latest)));
    }
}
