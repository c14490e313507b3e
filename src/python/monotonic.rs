use std::time::Duration;

/// A reading of a monotonic clock in nanoseconds, as `time.monotonic_ns()` returns.
///
/// It is not a [`std::time::Instant`]: that one can only be had from the system's clock, and the
/// state machines here must also run under a clock that a test makes up. Where zero lies is the
/// caller's choice; readings of different clocks must not be mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// The reading that lies `nanos` nanoseconds after the clock's zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How far `self` lies after `earlier`; zero if it does not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The reading `wait` later. Stops at the end of the clock's range, 584 years after its zero.
    pub fn saturating_add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(wait)))
    }
}

/// A duration as whole nanoseconds; more than 584 years count as that.
pub fn saturating_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
        assert_eq!(a.saturating_add(Duration::MAX).as_nanos(), u64::MAX);
    }
}
