use std::time::Duration;

use super::{Monotonic, Timeout};

/// The deadline of one socket call in progress.
///
/// A `recv` is one call. A `sendall` is one call too, with any number of sends under one deadline
/// (CPython's `sock_sendall` computes it before the first send). Eight bytes, because every
/// connection of a crowd has one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Deadline in nanoseconds, or one of the two constants below.
    deadline_nanos: u64,
}

const AT_ONCE: u64 = 0;
const NEVER: u64 = u64::MAX;

/// Next step of a call after the kernel returned "would block" (EAGAIN).
///
/// Exhaustive on purpose: these are Python's three modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Blocked {
    /// Wait for readiness up to this long (`None`: without limit), then try again.
    Wait(Option<Duration>),
    /// Fail without waiting: Python's `BlockingIOError`, errno EAGAIN.
    WouldBlock,
    /// Fail because the time is up: Python's `TimeoutError`, "timed out", without an errno.
    TimedOut,
}

impl Call {
    /// Starts a call at `now` with this timeout.
    pub fn begin(timeout: Timeout, now: Monotonic) -> Self {
        match timeout {
            Timeout::Blocking => Self::within(None, now),
            Timeout::NonBlocking => Self { deadline_nanos: AT_ONCE },
            Timeout::After(wait) => Self::within(Some(wait), now),
        }
    }

    /// Starts a call at `now` that waits at most so long (`None`: without limit). A limit of zero passes
    /// at once; it does not mean non-blocking.
    #[inline]
    pub fn within(limit: Option<Duration>, now: Monotonic) -> Self {
        let deadline = |wait| now.saturating_add(wait).as_nanos().clamp(AT_ONCE + 1, NEVER - 1);
        Self { deadline_nanos: limit.map_or(NEVER, deadline) }
    }

    /// Time of the deadline; `None` in blocking and in non-blocking mode.
    pub const fn deadline(self) -> Option<Monotonic> {
        match self.deadline_nanos {
            AT_ONCE | NEVER => None,
            nanos => Some(Monotonic::from_nanos(nanos)),
        }
    }

    /// The call as a number that [`from_nanos`](Self::from_nanos) takes: its deadline, 0 in
    /// non-blocking and `u64::MAX` in blocking mode.
    pub const fn to_nanos(self) -> u64 {
        self.deadline_nanos
    }

    /// The call that [`to_nanos`](Self::to_nanos) gave this number for, by the same clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { deadline_nanos: nanos }
    }

    /// Returns true if the call polls before its first attempt: in timeout mode only.
    ///
    /// CPython polls first even if the call would succeed at once. The effect is visible: an empty
    /// `send` on a full socket succeeds in non-blocking mode but times out in timeout mode. The
    /// server's loop does not need this: it attempts a call only after a readiness event.
    pub const fn waits_first(self) -> bool {
        self.deadline().is_some()
    }

    /// Returns true once the deadline has passed; never without one.
    pub fn is_late(self, now: Monotonic) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Decides the next step after the kernel returned "would block" at `now`.
    ///
    /// Each wait is computed from the deadline, so spurious wakeups and interrupted waits (PEP 475)
    /// neither shorten nor extend the timeout.
    pub fn would_block(self, now: Monotonic) -> Blocked {
        match self.deadline_nanos {
            AT_ONCE => Blocked::WouldBlock,
            NEVER => Blocked::Wait(None),
            _ if self.is_late(now) => Blocked::TimedOut,
            nanos => Blocked::Wait(Some(Monotonic::from_nanos(nanos).since(now))),
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.deadline_nanos {
            AT_ONCE => f.write_str("Call(never waits)"),
            NEVER => f.write_str("Call(waits for ever)"),
            nanos => write!(f, "Call(deadline {nanos} ns)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(nanos: u64) -> Monotonic {
        Monotonic::from_nanos(nanos)
    }

    #[test]
    fn each_mode_has_its_own_result() {
        let begin = |timeout| Call::begin(timeout, at(500));
        assert_eq!(begin(Timeout::Blocking).would_block(at(u64::MAX)), Blocked::Wait(None));
        assert_eq!(begin(Timeout::NonBlocking).would_block(at(500)), Blocked::WouldBlock);
        let timed = begin(Timeout::After(SECOND));
        assert_eq!(timed.would_block(at(500)), Blocked::Wait(Some(SECOND)));
        assert_eq!(
            timed.would_block(at(1_000_000_499)),
            Blocked::Wait(Some(Duration::from_nanos(1)))
        );
        assert_eq!(timed.would_block(at(1_000_000_500)), Blocked::TimedOut);
    }

    #[test]
    fn only_a_timed_call_has_a_deadline() {
        assert_eq!(Call::begin(Timeout::Blocking, at(7)).deadline(), None);
        assert_eq!(Call::begin(Timeout::NonBlocking, at(7)).deadline(), None);
        assert!(!Call::begin(Timeout::Blocking, at(7)).waits_first());
        assert!(!Call::begin(Timeout::NonBlocking, at(7)).waits_first());
        assert!(!Call::begin(Timeout::NonBlocking, at(7)).is_late(at(8)));
        let timed = Call::begin(Timeout::After(SECOND), at(7));
        assert_eq!(timed.deadline(), Some(at(1_000_000_007)));
        assert!(timed.waits_first());
        assert!(!timed.is_late(at(1_000_000_006)));
        assert!(timed.is_late(at(1_000_000_007)));
    }

    #[test]
    fn debug_shows_the_mode() {
        let begin = |timeout| format!("{:?}", Call::begin(timeout, at(7)));
        assert_eq!(begin(Timeout::NonBlocking), "Call(never waits)");
        assert_eq!(begin(Timeout::Blocking), "Call(waits for ever)");
        assert_eq!(begin(Timeout::After(SECOND)), "Call(deadline 1000000007 ns)");
    }

    #[test]
    fn the_ends_of_the_clock_are_ordinary_deadlines() {
        let far = Call::begin(Timeout::After(Duration::MAX), at(9));
        assert_eq!(far.deadline(), Some(at(u64::MAX - 1)));
        let near = Call::begin(Timeout::After(Duration::ZERO), Monotonic::ZERO);
        assert_eq!(near.would_block(at(1)), Blocked::TimedOut);
    }
}
