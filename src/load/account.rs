use super::pump::Numbers;
use super::schedule::Schedule;
use super::{Dial, Interval, Load, Mode, Part, Record, Series, Standing};
use crate::python::Monotonic;

/// What is told of a load.
impl<K: Dial> Load<K> {
    /// Reports the interval that ends here and begins the next.
    pub(super) fn report(
        &mut self,
        part: Part,
        ends: Option<Monotonic>,
        on_interval: &mut impl FnMut(Interval),
    ) {
        let now = self.reactor.now();
        let mut record = std::mem::take(&mut self.record);
        if part == Part::Measure {
            record.measured = record.counts.clone();
        }
        self.total.merge(&record);
        on_interval(Interval {
            start: self.interval_began.since(self.began),
            length: now.since(self.interval_began),
            part,
            record,
            standing: self.count_standing(),
            left: ends.map(|end| end.since(now)),
        });
        self.interval_began = now;
    }

    pub(super) fn count_standing(&self) -> Standing {
        let mut standing = Standing::default();
        for id in self.reactor.slots.ids() {
            let session = &self.reactor.slots.get(id).expect("it was just listed").connection;
            let place = match () {
                () if session.is_connecting() => &mut standing.connecting,
                () if !session.has_authenticated() => &mut standing.authenticating,
                () if session.is_busy() => &mut standing.busy,
                () => &mut standing.quiet,
            };
            *place += 1;
        }
        let dialled = usize::try_from(self.dialled).unwrap_or(usize::MAX);
        standing.ended = dialled - self.reactor.slots.len();
        standing.waiting = match self.pacing.mode {
            Mode::Connect => usize::try_from(self.cycles_due).unwrap_or(usize::MAX),
            Mode::Echo | Mode::Idle => self.terms.plan.connections - dialled,
        };
        standing
    }

    /// The end: whatever is still owed was too late, and has waited until now.
    pub(super) fn finish(&mut self, now: Monotonic) {
        debug_assert_eq!(self.part, Part::Drain);
        for id in self.reactor.slots.ids() {
            let session = &self.reactor.slots.get(id).expect("it was just listed").connection;
            let (owed, pacing) = (session.owed(), &self.pacing);
            match (pacing.mode, &pacing.schedule) {
                (Mode::Echo, Some(schedule)) => {
                    let numbers = pacing.numbers(session.number, owed);
                    self.owed -= note_late(&mut self.record, Series::Echo, schedule, numbers, now);
                }
                (Mode::Connect, Some(schedule)) if !session.has_authenticated() => {
                    let numbers = Numbers { first: session.number, step: 1, count: 1 };
                    self.owed -= note_late(&mut self.record, Series::Cycle, schedule, numbers, now);
                }
                (Mode::Connect, None) if !session.has_authenticated() => {
                    self.record.note_late(Series::Cycle, now.since(session.dialled), 1);
                    self.owed -= 1;
                }
                (Mode::Echo, None) => {
                    for begun in session.under_way() {
                        self.record.note_late(Series::Echo, now.since(begun), 1);
                        self.owed -= 1;
                    }
                }
                (Mode::Idle, _) => {
                    let asked = session.under_way().next().unwrap_or(self.part_began);
                    let number = owed.end - owed.start;
                    self.record.note_late(Series::Echo, now.since(asked), number);
                    self.owed -= number;
                }
                (Mode::Connect, _) => {}
            }
        }
        if let Some(schedule) = &self.pacing.schedule {
            let count = std::mem::take(&mut self.cycles_due);
            let numbers = Numbers { first: self.dialled, step: 1, count };
            self.owed -= note_late(&mut self.record, Series::Cycle, schedule, numbers, now);
        }
        debug_assert_eq!(self.owed, 0);
    }
}

/// Records how long messages of a schedule have waited that nothing was answered to; how many they
/// are. There may be hundreds of millions: those that a histogram does not tell apart are one step.
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
