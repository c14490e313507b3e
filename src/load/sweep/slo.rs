use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;

use crate::load::{Assertion, AssertionError, ErrorKind, Mode, Plan, Record};
use crate::python::saturating_nanos;

/// A service level objective: the share of the messages that must be answered within a limit, written as
/// a percentile of the main series: `p99<5ms`, `p99.9<=20ms`, `max<1s`.
///
/// It is judged by counting, so windows can be added up. A message that was not answered is not within
/// the limit, however short it waited.
#[derive(Clone, Debug)]
pub struct Slo {
    assertion: Assertion,
    target_ppm: u32,
    limit: f64,
    is_inclusive: bool,
}

/// The reason why a string is not an [`Slo`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SloError {
    /// It is no assertion at all.
    #[error(transparent)]
    NoAssertion(#[from] AssertionError),
    /// It is another assertion than a percentile that has an upper limit.
    #[error("expected an upper limit for a percentile of all messages, like p99<5ms or max<=1s")]
    NoLimit,
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let assertion: Assertion = text.parse()?;
        let (percentile, limit, is_inclusive) =
            assertion.percentile_limit().ok_or(SloError::NoLimit)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // From 0 to 100.
        let target_ppm = (percentile * 10_000.0).round() as u32;
        Ok(Self { assertion, target_ppm, limit, is_inclusive })
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.assertion.fmt(f)
    }
}

impl Slo {
    /// The share of the messages that must be within the limit, in parts per million.
    pub const fn target_ppm(&self) -> u32 {
        self.target_ppm
    }

    /// The limit in nanoseconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A time.
    pub const fn limit_ns(&self) -> u64 {
        self.limit as u64
    }

    /// The number of messages within the limit, and that of all that were due.
    pub fn count(&self, mode: Mode, record: &Record) -> (u64, u64) {
        let within = mode.main_series().map_or(0, |series| self.within(record.series(series)));
        let errors = &record.counts.errors;
        // Late ones are in the histogram with the time that they have waited for at least, which is
        // longer than the grace period.
        let late = match self.limit_ns() > saturating_nanos(Plan::GRACE) {
            true => errors.of(ErrorKind::Late),
            false => 0,
        };
        (within.saturating_sub(late), record.counts.due)
    }

    fn within(&self, times: &Histogram<u64>) -> u64 {
        let is_within = |nanos: u64| match self.is_inclusive {
            true => nanos as f64 <= self.limit,
            false => (nanos as f64) < self.limit,
        };
        let recorded = times.iter_recorded();
        recorded
            .take_while(|step| is_within(times.highest_equivalent(step.value_iterated_to())))
            .map(|step| step.count_since_last_iteration())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Series;

    #[test]
    fn messages_within_the_limit_are_counted() {
        let mut record = Record::new();
        for millis in 1..=100 {
            record.note(Series::Echo, Duration::from_millis(millis));
        }
        // Four were lost with their connection: they have no time.
        record.counts.due = 104;
        for (text, within, target_ppm) in [
            ("p99<50ms", 49, 990_000),
            ("p99<=50.1ms", 50, 990_000),
            ("p99.9<1ns", 0, 999_000),
            ("max<1s", 100, 1_000_000),
        ] {
            let slo: Slo = text.parse().unwrap();
            assert_eq!(slo.count(Mode::Echo, &record), (within, 104), "{text}");
            assert_eq!((slo.target_ppm(), slo.to_string().as_str()), (target_ppm, text));
        }
        // The same messages as cycles are none.
        let slo: Slo = "p50<1s".parse().unwrap();
        assert_eq!(slo.count(Mode::Connect, &record), (0, 104));
    }

    /// They are recorded with a lower bound of their time.
    #[test]
    fn late_messages_are_not_within_any_limit() {
        let mut record = Record::new();
        record.note(Series::Echo, Duration::from_millis(1));
        record.note_late(Series::Echo, Duration::from_millis(1500), 3);
        record.counts.due = 4;
        for limit in ["p50<500ms", "p50<1s", "p50<10s"] {
            let slo: Slo = limit.parse().unwrap();
            assert_eq!(slo.count(Mode::Echo, &record), (1, 4), "{limit}");
        }
    }

    #[test]
    fn it_agrees_with_the_assertion_of_the_same_words() {
        let mut record = Record::new();
        for nanos in (1..=1000).map(|i| i * i * 977) {
            record.note(Series::Echo, Duration::from_nanos(nanos));
        }
        record.counts.due = 1000;
        for micros in (1..1000).map(|i| i * 1000) {
            for text in [format!("p99<{micros}us"), format!("p90<={micros}us")] {
                let (slo, assertion): (Slo, Assertion) =
                    (text.parse().unwrap(), text.parse().unwrap());
                let (within, of) = slo.count(Mode::Echo, &record);
                let holds = within * 1_000_000 >= u64::from(slo.target_ppm()) * of;
                let second = Duration::from_secs(1);
                assert_eq!(holds, assertion.check(Mode::Echo, &record, second).holds, "{text}");
            }
        }
    }

    #[test]
    fn other_conditions_are_refused() {
        for text in ["p99>5ms", "mean<5ms", "errors==0", "service.p99<5ms", "rate>=5", "p99==5ms"] {
            assert_eq!(text.parse::<Slo>().unwrap_err(), SloError::NoLimit, "{text}");
        }
        assert!(matches!("p99".parse::<Slo>().unwrap_err(), SloError::NoAssertion(_)));
    }
}
