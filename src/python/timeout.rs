use std::time::Duration;

/// Mode of a socket: the one field behind `setblocking`, `settimeout` and `gettimeout`.
///
/// Exhaustive on purpose: Python has these three modes.
///
/// | Python | here | `gettimeout()` | `getblocking()` |
/// | --- | --- | --- | --- |
/// | `settimeout(None)`, `setblocking(True)` | `Blocking` | `None` | true |
/// | `settimeout(0)`, `setblocking(False)` | `NonBlocking` | `0.0` | false |
/// | `settimeout(t)`, t > 0 | `After(t)` | `t` | **true** |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Timeout {
    /// Calls wait without limit.
    #[default]
    Blocking,
    /// Calls never wait: if they cannot proceed they fail with `BlockingIOError` (EAGAIN).
    NonBlocking,
    /// Calls wait up to this long, then fail with `TimeoutError`. Never zero.
    After(Duration),
}

/// Error of `settimeout` for a bad value; the old timeout stays in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutValueError {
    /// Python's `ValueError` for a negative number of seconds.
    #[error("Timeout value out of range")]
    Negative,
    /// Python's `ValueError` for not-a-number.
    #[error("Invalid value NaN (not a number)")]
    NotANumber,
    /// Python's `OverflowError` for an infinity, or more than 2^63 - 1 nanoseconds.
    #[error("timestamp out of range for platform time_t")]
    Overflow,
}

impl Timeout {
    /// `settimeout(seconds)`: `None` waits without limit, zero does not wait.
    ///
    /// The value is stored in whole nanoseconds, rounded away from zero. As in CPython, seconds are
    /// multiplied by 10^9 as a double first, so 0.07 stays 0.07 and 1e-10 becomes one nanosecond.
    ///
    /// # Errors
    /// [`TimeoutValueError`], checked in CPython's order: NaN, range, then sign (so minus infinity
    /// is an overflow, not a negative number).
    pub fn from_secs(seconds: Option<f64>) -> Result<Self, TimeoutValueError> {
        let Some(seconds) = seconds else { return Ok(Self::Blocking) };
        if seconds.is_nan() {
            return Err(TimeoutValueError::NotANumber);
        }
        let nanos = seconds * 1e9;
        let nanos = if nanos >= 0.0 { nanos.ceil() } else { nanos.floor() };
        // 2^63 as a double: the first value that a signed 64-bit count of nanoseconds cannot hold.
        const LIMIT: f64 = 9_223_372_036_854_775_808.0;
        if !(-LIMIT..LIMIT).contains(&nanos) {
            return Err(TimeoutValueError::Overflow);
        }
        if nanos < 0.0 {
            return Err(TimeoutValueError::Negative);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 <= nanos < 2^63
        Ok(Self::after(Duration::from_nanos(nanos as u64)))
    }

    /// `setblocking(flag)`.
    pub const fn from_blocking(flag: bool) -> Self {
        if flag { Self::Blocking } else { Self::NonBlocking }
    }

    /// Creates a timeout of `wait`; [`Timeout::NonBlocking`] if that is zero.
    pub const fn after(wait: Duration) -> Self {
        if wait.is_zero() { Self::NonBlocking } else { Self::After(wait) }
    }

    /// `gettimeout()`: seconds, zero when non-blocking, `None` when blocking.
    pub fn as_secs(self) -> Option<f64> {
        match self {
            Self::Blocking => None,
            Self::NonBlocking => Some(0.0),
            // One division of the exact count, as in CPython; as_secs_f64 would round twice.
            Self::After(wait) => Some(wait.as_nanos() as f64 / 1e9),
        }
    }

    /// `getblocking()`: true also for a positive timeout.
    pub const fn is_blocking(self) -> bool {
        !matches!(self, Self::NonBlocking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_and_rust_forms_agree() {
        for (seconds, timeout) in [
            (None, Timeout::Blocking),
            (Some(0.0), Timeout::NonBlocking),
            (Some(-0.0), Timeout::NonBlocking),
            (Some(2.5), Timeout::After(Duration::from_millis(2500))),
            (Some(0.07), Timeout::After(Duration::from_millis(70))),
        ] {
            assert_eq!(Timeout::from_secs(seconds), Ok(timeout));
            assert_eq!(timeout.as_secs(), seconds.map(f64::abs));
            assert_eq!(timeout.is_blocking(), seconds.is_none_or(|s| s > 0.0));
        }
    }

    #[test]
    fn rounding_is_away_from_zero() {
        for (seconds, nanos) in
            [(1.0 / 3.0, 333_333_334), (1e-10, 1), (1.5e-9, 2), (5.0, 5_000_000_000)]
        {
            let expected = Timeout::After(Duration::from_nanos(nanos));
            assert_eq!(Timeout::from_secs(Some(seconds)), Ok(expected), "{seconds}");
        }
    }

    #[test]
    fn bad_values_are_refused_in_the_order_of_cpython() {
        use TimeoutValueError::{Negative, NotANumber, Overflow};
        for (seconds, error) in [
            (-1.0, Negative),
            (-1e-10, Negative),
            (f64::NAN, NotANumber),
            (f64::INFINITY, Overflow),
            (f64::NEG_INFINITY, Overflow),
            (9.3e9, Overflow),
        ] {
            assert_eq!(Timeout::from_secs(Some(seconds)), Err(error), "{seconds}");
        }
        assert!(Timeout::from_secs(Some(9.2e9)).is_ok());
    }
}
