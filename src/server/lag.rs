//! Loop lag: how long turns take, and how long connections wait in the run queue.
//!
//! A reading of the clock costs a tenth of what the loop itself spends on an echo, so a busy loop
//! takes samples. A turn is timed if it has much to do, or if none was sampled for [`Lag::PERIOD`]:
//! a loop with long turns, or few, times each. An untimed turn counts like the sample before it. For
//! the run queue one connection of a timed turn is timed, at a place that changes from turn to turn,
//! and counts for all of them.

use std::time::Duration;

use crate::metrics::TimeHistogram;
use crate::python::Monotonic;

/// The lag of one loop. No decision of the loop rests on it.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// A turn that begins at this time or later is sampled.
    next: Monotonic,
    /// Whether this turn is timed.
    timed: bool,
    /// Whether this turn stands for the untimed ones after it.
    sampled: bool,
    sample: Sample,
    /// The turn that was timed last, and when it ended.
    last: u64,
    last_end: Monotonic,
    /// Place of the connection to be timed, as a fraction of the queue in 2^-32.
    place: u32,
    carried: Carried,
    pub(super) asleep: Duration,
    pub(super) turn: TimeHistogram,
    pub(super) queue_wait: TimeHistogram,
}

/// A turn with little to do: the connections that were queued, the wait of one of them, and the
/// time of all.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    queued: u64,
    waited: Duration,
    took: Duration,
}

/// Connections that used up their share of a turn, so that they are the first of the next.
#[derive(Debug, Default)]
struct Carried {
    /// The number of that turn.
    turn: u64,
    count: usize,
    /// When the first of them was done.
    since: Monotonic,
}

impl Lag {
    /// Time between two samples: 2,000 a second cost less than a thousandth of a core, and at
    /// 100,000 turns a second one turn in fifty.
    const PERIOD: Duration = Duration::from_micros(500);
    /// Queued connections from which on a turn is timed in any case: that costs less than a
    /// percent of the instructions of so many echoes.
    pub(super) const CROWD: usize = 64;

    pub(super) fn new(now: Monotonic) -> Self {
        Self { last_end: now, ..Self::default() }
    }

    /// Whether a turn that begins now is to be sampled.
    #[inline]
    pub(super) fn is_due(&self, now: Monotonic) -> bool {
        now >= self.next
    }

    #[inline]
    pub(super) const fn is_timed(&self) -> bool {
        self.timed
    }

    /// Times this turn, because it has more to do than to serve a few connections.
    pub(super) const fn time_this_turn(&mut self) {
        (self.timed, self.sampled) = (true, false);
    }

    /// Begins to time turn `number`, whose poll returned at `now`, after it had been to wait if
    /// `slept`. Returns the number of queued connections before the one to be timed.
    pub(super) fn begin(
        &mut self,
        number: u64,
        now: Monotonic,
        slept: bool,
        queued: usize,
    ) -> usize {
        self.settle(number, now, slept);
        self.sampled = !self.timed && queued < Self::CROWD;
        self.timed = true;
        if self.is_due(now) {
            self.next = now.saturating_add(Self::PERIOD);
        }
        if self.sampled {
            self.sample = Sample::default();
        }
        // Steps of the golden ratio spread places evenly, however few there are.
        self.place = self.place.wrapping_add(0x9e37_79b9);
        #[allow(clippy::cast_possible_truncation)] // It is less than `queued`.
        let place = ((u64::from(self.place) * queued as u64) >> 32) as usize;
        place
    }

    /// Records the wait of the connection at `place`, whose turn it is `now`.
    pub(super) fn waited(&mut self, place: usize, queued: usize, now: Monotonic) {
        let carried = self.carried.turn + 1 == self.last && place < self.carried.count;
        let since = if carried { self.carried.since } else { self.last_end };
        let (waited, queued) = (now.since(since), queued as u64);
        self.queue_wait.record_times(waited, queued);
        if self.sampled {
            (self.sample.queued, self.sample.waited) = (queued, waited);
        }
    }

    /// Ends the timing of turn `number`, which began at `started`.
    pub(super) fn end(&mut self, number: u64, started: Monotonic, slept: bool, now: Monotonic) {
        if self.last != number {
            self.settle(number, started, slept);
        }
        let took = now.since(started);
        self.turn.record(took);
        if self.sampled {
            self.sample.took = took;
        }
        (self.timed, self.sampled, self.last_end) = (false, false, now);
    }

    /// A connection has used up its share of turn `number`.
    pub(super) fn carry(&mut self, number: u64, now: impl FnOnce() -> Monotonic) {
        if self.carried.turn != number {
            self.carried = Carried { turn: number, count: 0, since: now() };
        }
        self.carried.count += 1;
    }

    /// Accounts for the time from the end of the last timed turn to the start of turn `number`.
    fn settle(&mut self, number: u64, started: Monotonic, slept: bool) {
        let time = started.since(self.last_end);
        let untimed = number.saturating_sub(self.last + 1);
        let mut busy = Duration::ZERO;
        if untimed > 0 {
            let count = u32::try_from(untimed).unwrap_or(u32::MAX);
            // The sample may have met a stall, and these had no more time than there was.
            let most = time / count;
            let Sample { queued, waited, took } = self.sample;
            self.turn.record_times(took.min(most), untimed);
            self.queue_wait.record_times(waited.min(most), untimed * queued);
            busy = took.min(most) * count;
        }
        if slept {
            self.asleep += time.saturating_sub(busy);
        }
        (self.last, self.last_end) = (number, started);
    }
}
