use std::io;

use super::pump::Numbers;
use super::schedule::Schedule;
use super::session::Session;
use super::{Counts, Dial, ErrorKind, Interval, Load, Mode, Phase, Record, Series, StateCounts};
use crate::python::Monotonic;

/// The records of a run.
pub(super) struct Recorder {
    pub(super) interval_began: Monotonic,
    /// The record of this interval.
    pub(super) record: Record,
    /// The sum of the intervals before.
    pub(super) total: Record,
    /// The states of the connections when the measurement ended.
    pub(super) states: StateCounts,
    /// The first failure of the kind "other", so that a report can name it.
    pub(super) first_other: Option<io::Error>,
}

impl Recorder {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            interval_began: now,
            record: Record::new(),
            total: Record::new(),
            states: StateCounts::default(),
            first_other: None,
        }
    }

    /// The counts of this interval.
    pub(super) const fn counts(&mut self) -> &mut Counts {
        &mut self.record.counts
    }

    pub(super) fn note_error(&mut self, error: io::Error) {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => ErrorKind::Reset,
            // The kernel's own limit, which by default is far beyond ours.
            io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
            _ => ErrorKind::Other,
        };
        self.counts().errors.add(kind, 1);
        if kind == ErrorKind::Other {
            self.first_other.get_or_insert(error);
        }
    }
}

/// Reports of a load.
impl<K: Dial> Load<K> {
    /// Reports the interval that ends here and begins the next.
    pub(super) fn report(
        &mut self,
        phase: Phase,
        ends: Option<Monotonic>,
        on_interval: &mut impl FnMut(Interval),
    ) {
        let now = self.reactor.now();
        let mut record = std::mem::take(&mut self.recorder.record);
        if phase == Phase::Measure {
            record.measured = record.counts.clone();
        }
        self.recorder.total.merge(&record);
        let began = std::mem::replace(&mut self.recorder.interval_began, now);
        on_interval(Interval {
            start: began.since(self.progress.began),
            length: now.since(began),
            phase,
            record,
            states: self.count_states(),
            left: ends.map(|end| end.since(now)),
        });
    }

    /// Checks the counters against every session, in a debug build.
    pub(super) fn check_counters(&self) {
        if cfg!(debug_assertions) {
            self.counters.check(self.pacing.mode, self.sessions());
        }
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        let slots = &self.reactor.slots;
        slots.ids().map(|id| &slots.get(id).expect("it was just listed").connection)
    }

    pub(super) fn count_states(&self) -> StateCounts {
        let mut states = StateCounts::default();
        for session in self.sessions() {
            let count = match () {
                () if session.is_connecting() => &mut states.connecting,
                () if !session.has_authenticated() => &mut states.authenticating,
                () if session.is_busy() => &mut states.busy,
                () => &mut states.quiet,
            };
            *count += 1;
        }
        let dialed = usize::try_from(self.counters.dialed()).unwrap_or(usize::MAX);
        states.ended = dialed - self.reactor.slots.len();
        states.waiting = match self.pacing.mode {
            Mode::Connect => usize::try_from(self.counters.waiting_cycles()).unwrap_or(usize::MAX),
            Mode::Echo | Mode::Idle => self.terms.plan.connections - dialed,
        };
        states
    }

    /// Ends the run: messages still pending are late, and have waited until now.
    pub(super) fn finish(&mut self, now: Monotonic) {
        self.check_counters();
        let (pacing, record) = (&self.pacing, &mut self.recorder.record);
        let slots = &self.reactor.slots;
        for id in slots.ids() {
            let session = &slots.get(id).expect("it was just listed").connection;
            let pending = session.pending();
            match (pacing.mode, &pacing.schedule) {
                (Mode::Echo, Some(schedule)) => {
                    let numbers = pacing.numbers(session.number, pending);
                    self.counters.lost(note_late(record, Series::Echo, schedule, numbers, now));
                }
                (Mode::Connect, Some(schedule)) if !session.has_authenticated() => {
                    let numbers = Numbers { first: session.number, step: 1, count: 1 };
                    self.counters.lost(note_late(record, Series::Cycle, schedule, numbers, now));
                }
                (Mode::Connect, None) if !session.has_authenticated() => {
                    record.note_late(Series::Cycle, now.since(session.dialed), 1);
                    self.counters.lost(1);
                }
                (Mode::Echo, None) => {
                    for begun in session.under_way() {
                        record.note_late(Series::Echo, now.since(begun), 1);
                        self.counters.lost(1);
                    }
                }
                (Mode::Idle, _) => {
                    let asked = session.under_way().next().unwrap_or(self.progress.stage_began);
                    let number = pending.end - pending.start;
                    record.note_late(Series::Echo, now.since(asked), number);
                    self.counters.lost(number);
                }
                (Mode::Connect, _) => {}
            }
        }
        if let Some(schedule) = &pacing.schedule {
            let count = self.counters.lose_waiting_cycles();
            let numbers = Numbers { first: self.counters.dialed(), step: 1, count };
            note_late(record, Series::Cycle, schedule, numbers, now);
        }
        debug_assert_eq!(self.counters.pending(), 0, "every message is accounted for");
    }
}

/// Records how long unanswered messages of a schedule have waited. Returns their number.
///
/// There may be hundreds of millions: those that a histogram does not tell apart are one step.
fn note_late(
    record: &mut Record,
    series: Series,
    schedule: &Schedule,
    numbers: Numbers,
    now: Monotonic,
) -> u64 {
    let Numbers { mut first, step, count } = numbers;
    let mut left = count;
    while left > 0 {
        let waited = now.since(schedule.due_at(first));
        let least = record.least_like(series, waited);
        let until = Monotonic::from_nanos(now.as_nanos().saturating_sub(least));
        let alike = schedule.due_by(until).saturating_sub(first).div_ceil(step).clamp(1, left);
        record.note_late(series, waited, alike);
        first += alike * step;
        left -= alike;
    }
    count
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_counted_together_is_counted_as_if_one_by_one() {
        let second = Duration::from_secs(1);
        for (rate, step, first, count) in [
            (1, 1, 0, 1),
            (1_000, 7, 3, 142),
            (777_777, 3, 1, 100_000),
            (1_000_000_000, 1, 5, 9_999),
        ] {
            let rate = NonZeroU64::new(rate).unwrap();
            let schedule = Schedule::new(rate, Monotonic::from_nanos(17), second);
            let now = Monotonic::from_nanos(17).saturating_add(second);
            let (mut together, mut apart) = (Record::new(), Record::new());
            let numbers = Numbers { first, step, count };
            assert_eq!(note_late(&mut together, Series::Echo, &schedule, numbers, now), count);
            for k in 0..count {
                apart.note_late(Series::Echo, now.since(schedule.due_at(first + k * step)), 1);
            }
            assert!(together == apart, "{count} of {rate} a second, each {step}.");
        }
    }
}
