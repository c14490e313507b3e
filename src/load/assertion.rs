use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::format::Nanos;
use super::unit::split_unit;
use super::{ErrorKind, Mode, Record, Series};

/// A condition on the result of a run, like `p99<5ms`, `errors==0`, `connect.max<1s` or `rate>=50k`.
/// Parsed from a string and checked once the run is over.
///
/// | left of the comparison | meaning |
/// | --- | --- |
/// | `p50`, `p99.9`, any other; `max`, `mean` | a time of the main series: echo, cycle |
/// | `connect.p99`, `auth.max`, `service.p50`, `lateness.p99` | the same for another series |
/// | `errors`, `errors.reset` | errors, or those of one kind |
/// | `rate` | messages answered per second during the measurement |
/// | `answered`, `due`, `connected`, `authenticated` | counts |
///
/// The comparison is one of `<`, `<=`, `>`, `>=`, `==` and `!=`; times have a unit.
#[derive(Clone, Debug)]
pub struct Assertion {
    text: String,
    quantity: Quantity,
    comparison: Comparison,
    bound: f64,
}

/// The result of [`Assertion::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedAssertion {
    /// True if the assertion holds. It fails if there is no value.
    pub holds: bool,
    /// The actual value: `7.20 ms`, `12`, or "nothing was measured".
    pub actual: String,
}

/// The reason why a string is not an assertion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssertionError {
    /// It has no comparison.
    #[error("expected a comparison, like p99<5ms, errors==0 or rate>=50k")]
    NoComparison,
    /// The left side is unknown.
    #[error(
        "{0:?} is not measured: expected p50, p99.9, max or mean, optionally prefixed by connect., \
         auth., echo., cycle., service. or lateness., errors, errors.KIND, rate, answered, due, \
         connected or authenticated"
    )]
    UnknownQuantity(String),
    /// A time is compared with something that is not a duration.
    #[error("{0:?} is not a duration: expected a number with a unit, like 5ms, 250us or 1s")]
    NotADuration(String),
    /// A count is compared with something that is not a number.
    #[error("{0:?} is not a number: expected one like 0, 1000 or 50k")]
    NotANumber(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Quantity {
    Time(Option<Series>, Statistic),
    Errors(Option<ErrorKind>),
    Rate,
    Answered,
    Due,
    Connected,
    Authenticated,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Percentile(f64),
    Max,
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Comparison {
    /// All comparisons; longer ones come first, because shorter ones are their prefixes.
    const ALL: [(&'static str, Self); 6] = [
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    #[allow(clippy::float_cmp)] // Whole numbers are exact.
    fn holds(self, actual: f64, bound: f64) -> bool {
        match self {
            Self::Less => actual < bound,
            Self::LessOrEqual => actual <= bound,
            Self::Greater => actual > bound,
            Self::GreaterOrEqual => actual >= bound,
            Self::Equal => actual == bound,
            Self::NotEqual => actual != bound,
        }
    }
}

impl FromStr for Assertion {
    type Err = AssertionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let begin = text.find(['<', '>', '=', '!']).ok_or(AssertionError::NoComparison)?;
        let (left, rest) = text.split_at(begin);
        let (sign, comparison) = Comparison::ALL
            .into_iter()
            .find(|(sign, _)| rest.starts_with(sign))
            .ok_or(AssertionError::NoComparison)?;
        let (left, right) = (left.trim(), rest[sign.len()..].trim());
        let quantity =
            quantity(left).ok_or_else(|| AssertionError::UnknownQuantity(left.to_owned()))?;
        let bound = match quantity {
            Quantity::Time(..) => {
                time(right).ok_or_else(|| AssertionError::NotADuration(right.to_owned()))?
            }
            _ => number(right).ok_or_else(|| AssertionError::NotANumber(right.to_owned()))?,
        };
        Ok(Self { text: text.to_owned(), quantity, comparison, bound })
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Assertion {
    /// Checks the assertion against the record of a run of this mode that was measured this long.
    pub fn check(&self, mode: Mode, record: &Record, measured: Duration) -> CheckedAssertion {
        #[allow(clippy::cast_precision_loss)] // Counts stay far below 2^53.
        let count = |n: u64| (Some(n as f64), n.to_string());
        let counts = &record.counts;
        let (actual, shown) = match self.quantity {
            Quantity::Time(series, statistic) => {
                let series = series.or(mode.main_series());
                match series.and_then(|series| statistic.of(record, series)) {
                    Some(nanos) => (Some(nanos), show_time(nanos)),
                    None => (None, "nothing was measured".to_owned()),
                }
            }
            Quantity::Errors(None) => count(counts.errors.total()),
            Quantity::Errors(Some(kind)) => count(counts.errors.of(kind)),
            Quantity::Answered => count(counts.answered),
            Quantity::Due => count(counts.due),
            Quantity::Connected => count(counts.connected),
            Quantity::Authenticated => count(counts.authenticated),
            Quantity::Rate if measured.is_zero() => (None, "nothing was measured".to_owned()),
            Quantity::Rate => {
                #[allow(clippy::cast_precision_loss)]
                let rate = record.measured.answered as f64 / measured.as_secs_f64();
                (Some(rate), format!("{rate:.1}"))
            }
        };
        let holds = actual.is_some_and(|actual| self.comparison.holds(actual, self.bound));
        CheckedAssertion { holds, actual: shown }
    }
}

impl Assertion {
    /// The percentile of the main series that it limits from above, the limit in nanoseconds, and whether
    /// the limit itself is allowed.
    pub(super) fn percentile_limit(&self) -> Option<(f64, f64, bool)> {
        let percentile = match self.quantity {
            Quantity::Time(None, Statistic::Percentile(percentile)) => percentile,
            Quantity::Time(None, Statistic::Max) => 100.0,
            _ => return None,
        };
        match self.comparison {
            Comparison::Less => Some((percentile, self.bound, false)),
            Comparison::LessOrEqual => Some((percentile, self.bound, true)),
            _ => None,
        }
    }
}

impl Statistic {
    #[allow(clippy::cast_precision_loss)] // An hour in nanoseconds is below 2^53.
    fn of(self, record: &Record, series: Series) -> Option<f64> {
        let histogram = record.series(series);
        (!histogram.is_empty()).then(|| match self {
            Self::Percentile(percentile) => histogram.value_at_percentile(percentile) as f64,
            Self::Max => histogram.max() as f64,
            Self::Mean => histogram.mean(),
        })
    }
}

fn quantity(text: &str) -> Option<Quantity> {
    Some(match text {
        "errors" => Quantity::Errors(None),
        "rate" => Quantity::Rate,
        "answered" => Quantity::Answered,
        "due" => Quantity::Due,
        "connected" => Quantity::Connected,
        "authenticated" => Quantity::Authenticated,
        _ => match text.split_once('.') {
            Some(("errors", kind)) => Quantity::Errors(Some(
                ErrorKind::ALL.into_iter().find(|known| known.as_str() == kind)?,
            )),
            // A percentile may have a point of its own.
            Some((series, rest)) if !series.starts_with('p') => {
                Quantity::Time(Some(Series::from_name(series)?), statistic(rest)?)
            }
            _ => Quantity::Time(None, statistic(text)?),
        },
    })
}

fn statistic(text: &str) -> Option<Statistic> {
    match text {
        "max" => Some(Statistic::Max),
        "mean" => Some(Statistic::Mean),
        _ => {
            let percentile = text.strip_prefix('p')?;
            let digits = percentile.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let percentile: f64 = percentile.parse().ok().filter(|_| digits)?;
            (0.0..=100.0).contains(&percentile).then_some(Statistic::Percentile(percentile))
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Times beyond 104 days lose nanoseconds.
fn time(text: &str) -> Option<f64> {
    humantime::parse_duration(text).ok().map(|time| time.as_nanos() as f64)
}

fn number(text: &str) -> Option<f64> {
    let (digits, power) = split_unit(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = digits.parse().ok().filter(|_| plain)?;
    Some(number * 1000_f64.powi(power.cast_signed()))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A recorded time.
fn show_time(nanos: f64) -> String {
    Nanos(nanos as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record = Record::new();
        for millis in 1..=100 {
            record.note(Series::Echo, Duration::from_millis(millis));
            record.note(Series::Service, Duration::from_micros(millis));
        }
        record.counts.answered = 120;
        record.measured.answered = 100;
        record.counts.due = 103;
        record.counts.errors.add(ErrorKind::Late, 2);
        record.counts.errors.add(ErrorKind::Reset, 1);
        record
    }

    #[test]
    fn assertions_are_checked_against_the_record() {
        for (text, holds, actual) in [
            ("p50 < 51ms", true, "50.0 ms"),
            ("p50<50ms", false, "50.0 ms"),
            ("p99.9<=101ms", true, "100 ms"),
            ("max<99ms", false, "100 ms"),
            ("mean > 50ms", true, "50.5 ms"),
            ("service.p99<1ms", true, "99.0 µs"),
            ("connect.p99<1s", false, "nothing was measured"),
            ("errors==0", false, "3"),
            ("errors<=3", true, "3"),
            ("errors.reset==1", true, "1"),
            ("errors.mismatch!=0", false, "0"),
            ("rate>=50", true, "50.0"),
            ("rate>0.1k", false, "50.0"),
            ("answered==120", true, "120"),
            ("due>100", true, "103"),
            ("connected>=1", false, "0"),
            ("authenticated==0", true, "0"),
        ] {
            let assertion: Assertion = text.parse().unwrap();
            let checked = assertion.check(Mode::Echo, &record(), Duration::from_secs(2));
            assert_eq!(checked.holds, holds, "{text}: {checked:?}");
            assert!(checked.actual.contains(actual), "{text}: {checked:?}");
            assert_eq!(assertion.to_string(), text);
        }
        // The main series depends on the mode.
        let cycles: Assertion = "p50<1s".parse().unwrap();
        assert!(!cycles.check(Mode::Connect, &record(), Duration::from_secs(2)).holds);
        let rate: Assertion = "rate>=0".parse().unwrap();
        assert!(!rate.check(Mode::Echo, &record(), Duration::ZERO).holds, "never measured");
    }

    #[test]
    fn invalid_assertions_are_refused_with_the_valid_forms() {
        use AssertionError::{NoComparison, NotADuration, NotANumber, UnknownQuantity};
        let unknown = |text: &str| UnknownQuantity(text.to_owned());
        for (text, error) in [
            ("", NoComparison),
            ("p99", NoComparison),
            ("p99=5ms", NoComparison),
            ("<5ms", unknown("")),
            ("p101<5ms", unknown("p101")),
            ("p<5ms", unknown("p")),
            ("p-1<5ms", unknown("p-1")),
            ("ping.p99<5ms", unknown("ping.p99")),
            ("errors.typo==0", unknown("errors.typo")),
            ("p99<5", NotADuration("5".to_owned())),
            ("p99<fast", NotADuration("fast".to_owned())),
            ("errors==none", NotANumber("none".to_owned())),
            ("errors==-1", NotANumber("-1".to_owned())),
            ("rate>=", NotANumber(String::new())),
        ] {
            assert_eq!(text.parse::<Assertion>().unwrap_err(), error, "{text:?}");
        }
        for text in ["p50<250us", "p50<1.5s", "p50<1m 30s"] {
            text.parse::<Assertion>().unwrap();
        }
    }
}
