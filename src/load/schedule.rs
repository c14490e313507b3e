use std::num::NonZeroU64;
use std::ops::Range;
use std::time::Duration;

use crate::python::Monotonic;

/// Nanoseconds of a second.
const NANOS: u128 = 1_000_000_000;

/// When messages are due in the open model: the `k`-th at `begin + k / rate`, to the nanosecond,
/// until the end. Not a timer: it is asked.
#[derive(Debug)]
pub(super) struct Schedule {
    begin: Monotonic,
    end: Monotonic,
    rate: NonZeroU64,
    next: u64,
}

impl Schedule {
    pub(super) fn new(rate: NonZeroU64, begin: Monotonic, duration: Duration) -> Self {
        Self { begin, end: begin.saturating_add(duration), rate, next: 0 }
    }

    /// When the message of this number is due.
    pub(super) fn due_at(&self, number: u64) -> Monotonic {
        let nanos = u128::from(number) * NANOS / u128::from(self.rate.get());
        self.begin.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The numbers of the messages that have become due since the last call. It takes the same
    /// time for any rate.
    pub(super) fn take_due(&mut self, now: Monotonic) -> Range<u64> {
        let first = self.next;
        self.next = self.due_by(now).max(first);
        first..self.next
    }

    /// The number of messages that are due at this time or before.
    pub(super) fn due_by(&self, time: Monotonic) -> u64 {
        let length = self.end.since(self.begin).as_nanos();
        if time < self.begin || length == 0 {
            return 0;
        }
        let nanos = time.since(self.begin).as_nanos().min(length - 1);
        // The `k`-th is due by then if k / rate is less than a nanosecond more.
        let due = ((nanos + 1) * u128::from(self.rate.get())).div_ceil(NANOS);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// When the next message is due, if any is to come.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        Some(self.due_at(self.next)).filter(|due| *due < self.end)
    }

    /// Nothing more is due.
    pub(super) fn stop(&mut self, now: Monotonic) {
        self.end = self.end.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_even_distances_until_the_end() {
        let begin = Monotonic::from_nanos(5);
        let rate = NonZeroU64::new(3).unwrap();
        let mut schedule = Schedule::new(rate, begin, Duration::from_secs(2));
        let mut due = Vec::new();
        while let Some(next) = schedule.next_due() {
            assert!(schedule.take_due(Monotonic::from_nanos(next.as_nanos() - 1)).is_empty());
            let number = due.len() as u64;
            assert_eq!(schedule.take_due(next), number..number + 1);
            assert_eq!(schedule.due_at(number), next);
            due.push(next.since(begin).as_nanos());
        }
        // No rounding error adds up.
        assert_eq!(due, [0, 333_333_333, 666_666_666, 1_000_000_000, 1_333_333_333, 1_666_666_666]);
        assert!(schedule.take_due(Monotonic::from_nanos(u64::MAX)).is_empty());
        // All at once they are the same.
        let mut schedule = Schedule::new(rate, begin, Duration::from_secs(2));
        assert!(schedule.take_due(Monotonic::ZERO).is_empty(), "before it begins");
        assert_eq!(schedule.take_due(Monotonic::from_nanos(u64::MAX)), 0..6);
    }

    #[test]
    fn it_can_be_stopped_and_bears_any_rate() {
        let rate = NonZeroU64::new(u64::MAX).unwrap();
        let mut schedule = Schedule::new(rate, Monotonic::ZERO, Duration::from_secs(1));
        assert_eq!(schedule.due_at(u64::MAX), Monotonic::from_nanos(1_000_000_000));
        assert_eq!(schedule.take_due(Monotonic::ZERO).start, 0);
        schedule.stop(Monotonic::ZERO);
        assert_eq!(schedule.next_due(), None);
        assert!(schedule.take_due(Monotonic::from_nanos(1)).is_empty());
    }
}
