use std::time::Duration;

/// A reading of a monotonic clock in nanoseconds, as `time.monotonic_ns()` returns.
///
/// Not a [`std::time::Instant`], which only the system's clock can make: the state machines must
/// also run under a test's own clock. The caller chooses the zero point; do not mix readings of
/// different clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// The end of the range, 584 years after the clock's zero: a time that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Creates the reading `nanos` nanoseconds after the clock's zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The reading `wait` later, at most the end of the range, 584 years after the clock's zero.
    pub fn saturating_add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(wait)))
    }
}

/// Converts a duration to nanoseconds, at most `u64::MAX` (584 years).
pub fn saturating_nanos(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(time.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_and_sums_saturate() {
        let (a, b) = (Monotonic::from_nanos(3), Monotonic::from_nanos(10));
        assert_eq!(b.since(a), Duration::from_nanos(7));
        assert_eq!(a.since(b), Duration::ZERO);
        assert_eq!(a.saturating_add(Duration::from_nanos(7)), b);
        assert_eq!(a.saturating_add(Duration::MAX), Monotonic::NEVER);
    }

    #[test]
    fn nanoseconds_saturate_where_they_do_not_fit() {
        let most = Duration::from_nanos(u64::MAX);
        for time in [Duration::ZERO, Duration::new(3, 999_999_999), most] {
            assert_eq!(u128::from(saturating_nanos(time)), time.as_nanos());
        }
        for more in [Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX] {
            assert_eq!(saturating_nanos(most.saturating_add(more)), u64::MAX);
        }
    }
}
