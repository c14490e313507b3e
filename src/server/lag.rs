//! Loop lag: how long turns take, and how long connections wait in the run queue.
//!
//! A reading of the clock costs a tenth of what the loop itself spends on an echo, so a busy loop
//! takes samples. A turn is timed if it has much to do, or if none was sampled for [`Lag::PERIOD`]:
//! a loop with long turns, or few, times each. An untimed turn counts like the sample before it. For
//! the run queue one connection of a timed turn is timed, at a place that changes from turn to turn,
//! and counts for all of them.

use std::time::Duration;

use crate::metrics::TimeHistogram;
use crate::proto::wire::{Reader, put_number};
use crate::python::{Monotonic, saturating_nanos};

/// The lag of one loop. No decision of the loop rests on it.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// A turn that begins at this time or later is sampled.
    next: Monotonic,
    /// True if this turn is timed.
    timed: bool,
    /// True if this turn stands for the untimed ones after it.
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

/// The figures of a loop that moves.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
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
    /// Time between two samples. One costs about as many instructions as an echo: less than a
    /// percent of them in a loop of 10,000 turns a second or more, and one with fewer is idle for most
    /// of its time.
    const PERIOD: Duration = Duration::from_millis(10);
    /// Queued connections from which on a turn is timed in any case: that costs less than a
    /// percent of the instructions of so many echoes.
    pub(super) const CROWD: usize = 64;

    pub(super) fn new(now: Monotonic) -> Self {
        Self { last_end: now, ..Self::default() }
    }

    /// Goes on from another loop's figures after turn `number`, whose end was long ago.
    pub(super) fn unpark(&mut self, figures: Figures, number: u64, now: Monotonic) {
        let Figures { asleep, turn, queue_wait } = figures;
        *self = Self { last: number, asleep, turn, queue_wait, ..Self::new(now) };
    }

    /// Writes all but the figures themselves, for a snapshot between two turns.
    pub(super) fn park(&self, out: &mut Vec<u8>) {
        let Self { next, sampled, sample, last, last_end, place, carried, .. } = self;
        let Sample { queued, waited, took } = sample;
        for time in [*next, *last_end, carried.since] {
            put_number(out, time.as_nanos());
        }
        let [waited, took] = [*waited, *took].map(saturating_nanos);
        let carries = [carried.turn, carried.count as u64];
        for number in [*last, (*place).into(), *queued, waited, took].into_iter().chain(carries) {
            put_number(out, number);
        }
        out.push((*sampled).into());
    }

    /// Reads what [`park`](Self::park) wrote. `None` if that is impossible.
    pub(super) fn unpark_exactly(reader: &mut Reader<'_>, figures: Figures) -> Option<Self> {
        let Figures { asleep, turn, queue_wait } = figures;
        let mut time = || reader.number().map(Monotonic::from_nanos);
        let (next, last_end, since) = (time()?, time()?, time()?);
        let (last, place, queued) = (reader.number()?, reader.small()?, reader.number()?);
        let mut span = || reader.number().map(Duration::from_nanos);
        let (waited, took) = (span()?, span()?);
        let carried = Carried { turn: reader.number()?, count: reader.small()?, since };
        let (sample, sampled) = (Sample { queued, waited, took }, reader.bit()?);
        let timed = false;
        Some(Self {
            next,
            timed,
            sampled,
            sample,
            last,
            last_end,
            place,
            carried,
            asleep,
            turn,
            queue_wait,
        })
    }

    /// True if a turn that begins now is to be sampled.
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

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: u64 = 1000;

    /// Turns of a loop, under a clock of the test's own.
    struct Turns {
        lag: Lag,
        now: u64,
        number: u64,
    }

    impl Turns {
        fn new() -> Self {
            Self { lag: Lag::new(Monotonic::ZERO), now: 0, number: 0 }
        }

        fn pass(&mut self, micros: u64) -> Monotonic {
            self.now += micros * MICRO;
            Monotonic::from_nanos(self.now)
        }

        /// A turn after so long a poll, whose connections take so long each. Whether it was timed.
        fn turn(&mut self, polled: u64, queued: usize, each: u64) -> bool {
            self.number += 1;
            let started = self.pass(polled);
            let mut place = queued;
            if queued >= Lag::CROWD || self.lag.is_due(started) {
                place = self.lag.begin(self.number, started, true, queued);
                assert!(queued == 0 || place < queued, "{place} of {queued}");
                let now = self.pass(place as u64 * each);
                if queued > 0 {
                    self.lag.waited(place, queued, now);
                }
            } else {
                self.pass(place as u64 * each);
            }
            let ended = self.pass((queued - place) as u64 * each);
            let timed = self.lag.is_timed();
            if timed {
                self.lag.end(self.number, started, true, ended);
            }
            timed
        }
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn each_turn_of_a_quiet_loop_is_timed() {
        let mut turns = Turns::new();
        for _ in 0..100 {
            assert!(turns.turn(12_000, 1, 10));
        }
        let Lag { asleep, turn, queue_wait, .. } = turns.lag;
        assert_eq!((turn.count(), turn.sum()), (100, micros(1000)));
        assert_eq!(asleep, micros(1_200_000));
        assert_eq!((queue_wait.count(), queue_wait.sum()), (100, Duration::ZERO));
    }

    #[test]
    fn samples_stand_for_the_turns_of_a_busy_loop() {
        let mut turns = Turns::new();
        let timed = (0..100_000).filter(|_| turns.turn(2, 1, 8)).count();
        // A second, with a sample every 10 ms.
        assert_eq!(timed, 100);
        let Lag { asleep, turn, .. } = &turns.lag;
        assert_eq!(turn.count(), turns.lag.last);
        assert_eq!(turn.sum(), micros(8) * u32::try_from(turn.count()).unwrap());
        assert_eq!(*asleep, micros(2) * u32::try_from(turn.count()).unwrap());
    }

    #[test]
    fn a_turn_with_much_to_do_is_timed_and_stands_for_itself() {
        let mut turns = Turns::new();
        for round in 0..1000 {
            turns.turn(1, 1, 10);
            if round % 100 == 99 {
                assert!(turns.turn(1, 1000, 10));
            }
        }
        let lag = &turns.lag;
        let slow: u64 =
            lag.turn.buckets().filter(|it| it.0 > Some(micros(5000))).map(|it| it.1).sum();
        assert_eq!(slow, 10);
        // Of each crowd one connection was timed for all, and the places are spread.
        let waits = lag.queue_wait.sum();
        assert!(waits > micros(10 * 1000 * 4000) && waits < micros(10 * 1000 * 6000), "{waits:?}");
    }

    #[test]
    fn a_stall_in_a_sample_does_not_count_for_more_time_than_passed() {
        let mut turns = Turns::new();
        // Shorter than the period, or the next turn would be a sample of its own.
        assert!(turns.turn(1, 1, 9_000));
        while turns.number < 100 {
            assert!(!turns.turn(2, 1, 3));
        }
        assert!(turns.turn(10_000, 1, 3));
        let lag = &turns.lag;
        let sum = lag.turn.sum() + lag.asleep;
        assert_eq!(sum, Duration::from_nanos(turns.now), "all the time there was");
    }

    #[test]
    fn a_connection_with_work_left_waits_since_its_last_turn() {
        let mut lag = Lag::new(Monotonic::ZERO);
        let at = |micros| Monotonic::from_nanos(micros * MICRO);
        // The second of two connections of a turn has used up its share 30 us into it.
        lag.begin(1, at(0), true, 2);
        lag.carry(1, || at(30));
        lag.carry(1, || at(31));
        lag.end(1, at(0), true, at(35));
        let place = lag.begin(2, at(600), false, 3);
        lag.waited(0, 3, at(630));
        assert_eq!((lag.queue_wait.count(), lag.queue_wait.sum()), (3, micros(3 * 600)));
        lag.waited(2, 1, at(630));
        assert_eq!(lag.queue_wait.sum(), micros(3 * 600 + 30), "one with an event ({place})");
        lag.end(2, at(600), false, at(640));
        assert_eq!(lag.asleep, Duration::ZERO, "it polled without waiting");
        // Carried two turns ago: it had another turn meanwhile.
        lag.begin(3, at(2000), true, 1);
        lag.waited(0, 1, at(2001));
        assert_eq!(lag.queue_wait.sum(), micros(3 * 600 + 30 + 1));
    }

    #[test]
    fn a_turn_is_a_sample_unless_it_was_to_be_timed_anyway() {
        let at = |micros| Monotonic::from_nanos(micros * MICRO);
        for (queued, anyway, is_sample) in
            [(1, false, true), (63, false, true), (64, false, false), (1, true, false)]
        {
            let mut lag = Lag::new(Monotonic::ZERO);
            if anyway {
                lag.time_this_turn();
                assert!(lag.is_timed());
            }
            lag.begin(1, at(0), false, queued);
            assert!(lag.is_timed());
            lag.waited(0, queued, at(3));
            lag.end(1, at(0), false, at(5));
            // The four turns between were not timed. After a sample they count as turns like it.
            lag.begin(6, at(1000), false, 0);
            let waits = queued as u64 * if is_sample { 5 } else { 1 };
            assert_eq!(lag.queue_wait.count(), waits, "{queued} queued, timed anyway: {anyway}");
            let took = micros(5) * if is_sample { 5 } else { 1 };
            assert_eq!((lag.turn.count(), lag.turn.sum()), (5, took));
        }
    }

    #[test]
    fn the_figures_of_another_loop_go_on() {
        let mut figures = Figures { asleep: Duration::from_secs(5), ..Figures::default() };
        figures.turn.record(Duration::from_micros(3));
        figures.queue_wait.record(Duration::from_millis(7));
        let mut lag = Lag::new(Monotonic::ZERO);
        lag.unpark(figures.clone(), 9, Monotonic::from_nanos(2));
        assert_eq!(
            (lag.last, lag.last_end, lag.asleep),
            (9, Monotonic::from_nanos(2), figures.asleep)
        );
        assert!(lag.turn == figures.turn && lag.queue_wait == figures.queue_wait);
    }
}
