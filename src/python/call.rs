use std::time::Duration;

use super::{Monotonic, Timeout};

/// One socket call in progress, reduced to what decides how long it may still wait.
///
/// A `recv` is one call each time; a `sendall` is one call however many sends it takes, which is
/// why its whole length shares one deadline (CPython's `sock_sendall` fixes it before the first
/// send). It is eight bytes because every connection of a crowd carries one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Nanoseconds of the deadline, or one of the two constants below.
    gives_up: u64,
}

const AT_ONCE: u64 = 0;
const NEVER: u64 = u64::MAX;

/// What becomes of a call when the kernel has just said "would block".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait for readiness, this long at most (`None`: for ever), then try again.
    Wait(Option<Duration>),
    /// The call does not wait: Python's `BlockingIOError`, errno EAGAIN.
    WouldBlock,
    /// The time is used up: Python's `TimeoutError`, "timed out", without an errno.
    TimedOut,
}

impl Call {
    /// A call that begins at `now` under this timeout.
    pub fn begin(timeout: Timeout, now: Monotonic) -> Self {
        Self {
            gives_up: match timeout {
                Timeout::Blocking => NEVER,
                Timeout::NonBlocking => AT_ONCE,
                Timeout::After(wait) => {
                    now.saturating_add(wait).as_nanos().clamp(AT_ONCE + 1, NEVER - 1)
                }
            },
        }
    }

    /// When the call gives up, if it ever does of its own accord.
    pub const fn deadline(self) -> Option<Monotonic> {
        match self.gives_up {
            AT_ONCE | NEVER => None,
            nanos => Some(Monotonic::from_nanos(nanos)),
        }
    }

    /// Whether readiness is waited for before the first attempt: in timeout mode only.
    ///
    /// CPython polls first even if the call would succeed at once. It shows: an empty `send` on a
    /// full socket succeeds in non-blocking mode but times out in timeout mode. The server's
    /// loop has no use for this, since it attempts nothing before readiness was announced.
    pub const fn waits_first(self) -> bool {
        self.deadline().is_some()
    }

    /// Whether the deadline has come. A call without one is never late.
    pub fn is_late(self, now: Monotonic) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// What to do after the kernel said "would block" at `now`.
    ///
    /// The wait is computed afresh from the deadline each time, so false alarms and interrupted
    /// waits (PEP 475) neither shorten nor stretch the timeout.
    pub fn would_block(self, now: Monotonic) -> Verdict {
        match self.gives_up {
            AT_ONCE => Verdict::WouldBlock,
            NEVER => Verdict::Wait(None),
            _ if self.is_late(now) => Verdict::TimedOut,
            nanos => Verdict::Wait(Some(Monotonic::from_nanos(nanos).since(now))),
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.gives_up {
            AT_ONCE => f.write_str("Call(never waits)"),
            NEVER => f.write_str("Call(waits for ever)"),
            nanos => write!(f, "Call(gives up at {nanos} ns)"),
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
    fn each_mode_has_its_own_verdict() {
        let begin = |timeout| Call::begin(timeout, at(500));
        assert_eq!(begin(Timeout::Blocking).would_block(at(u64::MAX)), Verdict::Wait(None));
        assert_eq!(begin(Timeout::NonBlocking).would_block(at(500)), Verdict::WouldBlock);
        let timed = begin(Timeout::After(SECOND));
        assert_eq!(timed.would_block(at(500)), Verdict::Wait(Some(SECOND)));
        assert_eq!(
            timed.would_block(at(1_000_000_499)),
            Verdict::Wait(Some(Duration::from_nanos(1)))
        );
        assert_eq!(timed.would_block(at(1_000_000_500)), Verdict::TimedOut);
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
    fn debug_tells_the_modes_apart() {
        let begin = |timeout| format!("{:?}", Call::begin(timeout, at(7)));
        assert_eq!(begin(Timeout::NonBlocking), "Call(never waits)");
        assert_eq!(begin(Timeout::Blocking), "Call(waits for ever)");
        assert_eq!(begin(Timeout::After(SECOND)), "Call(gives up at 1000000007 ns)");
    }

    #[test]
    fn the_ends_of_the_clock_are_ordinary_deadlines() {
        let far = Call::begin(Timeout::After(Duration::MAX), at(9));
        assert_eq!(far.deadline(), Some(at(u64::MAX - 1)));
        let near = Call::begin(Timeout::After(Duration::ZERO), Monotonic::ZERO);
        assert_eq!(near.would_block(at(1)), Verdict::TimedOut);
    }
}
