//! The only place where a call waits: poll(2) on one descriptor, for one [`Call`].
//!
//! The three modes are three ways through the same loop. Blocking: attempt, wait without limit,
//! attempt again. Non-blocking: attempt, and return "would block". Timeout: wait **first**, up to
//! the deadline, then attempt; "would block" after that was a spurious wakeup.

use std::os::fd::BorrowedFd;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::{Error, Result};
use crate::python::{Blocked, Call, Monotonic, Timeout};

/// Event that a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Data to receive, or a connection to accept.
    Readable,
    /// Room to send, or the result of a connection attempt.
    Writable,
}

/// One call in progress on one descriptor.
///
/// Each wait polls the descriptor again, as Python does. There is no registration, so no early
/// readiness event can be missed.
pub(super) struct Waiter<'fd> {
    fd: BorrowedFd<'fd>,
    call: Call,
    /// Clock reading from which the deadline was computed. The first check uses it too, so that even
    /// a timeout of one nanosecond polls once.
    began: Option<Monotonic>,
}

impl<'fd> Waiter<'fd> {
    /// Starts a call now. Reads the clock in timeout mode only.
    pub(super) fn begin(fd: BorrowedFd<'fd>, timeout: Timeout) -> Self {
        let began = match timeout {
            Timeout::Blocking | Timeout::NonBlocking => Monotonic::ZERO,
            Timeout::After(_) => clock(),
        };
        Self { fd, call: Call::begin(timeout, began), began: Some(began) }
    }

    /// Attempts until the kernel's result is not "would block", or the deadline passes.
    ///
    /// A call that goes on (`sendall`) may run several times under its one deadline. EINTR repeats
    /// the attempt or the wait, with the time that is left (PEP 475).
    pub(super) fn run<T>(
        &mut self,
        interest: Interest,
        mut attempt: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T> {
        if self.call.waits_first() {
            self.wait(interest, Errno::AGAIN)?;
        }
        loop {
            match attempt() {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait(interest, Errno::AGAIN)?;
                }
                result => return Ok(result?),
            }
        }
    }

    /// Attempts until `wanted` bytes have been moved, as the kernel does for a blocking `send` or
    /// for MSG_WAITALL. `attempt` is given the count so far and returns what it added.
    ///
    /// Once something was moved the call no longer fails: it returns the count. A pending error is
    /// then left where it is for the next call, as the kernel would, hence no attempt after poll
    /// has reported one. Zero from `attempt` is the end of the stream.
    pub(super) fn run_to_the_end(
        &mut self,
        interest: Interest,
        wanted: usize,
        mut attempt: impl FnMut(usize) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        let mut done = 0;
        loop {
            match attempt(done) {
                Ok(0) => return Ok(done),
                Ok(count) if done + count >= wanted => return Ok(done + count),
                Ok(count) => done += count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno.into()),
            }
            match self.wait(interest, Errno::AGAIN) {
                Ok(Readiness::Failed) | Err(_) if done > 0 => return Ok(done),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the descriptor is ready; `refusal` is the errno for a call that must not wait.
    ///
    /// Errors and hang-ups count as ready: the next attempt returns the kernel's error.
    pub(super) fn wait(&mut self, interest: Interest, refusal: Errno) -> Result<Readiness> {
        let kernels = self.kernels_own_timeout(interest);
        loop {
            let now = self.now();
            let limit = match self.call.would_block(now) {
                Blocked::WouldBlock => return Err(refusal.into()),
                Blocked::TimedOut => return Err(Error::timed_out()),
                Blocked::Wait(Some(limit)) => Some(limit),
                Blocked::Wait(None) => match kernels.map(|call| call.would_block(now)) {
                    Some(Blocked::Wait(limit)) => limit,
                    Some(Blocked::WouldBlock | Blocked::TimedOut) => return Err(refusal.into()),
                    None => None,
                },
            };
            if let Some(readiness) = poll_once(self.fd, interest, limit)? {
                return Ok(readiness);
            }
        }
    }

    /// SO_RCVTIMEO or SO_SNDTIMEO, the kernel's time limit on a blocking descriptor.
    ///
    /// This descriptor never blocks, so the kernel would ignore the option, while a Python program in
    /// blocking mode gets EAGAIN after that time. It is read only when a blocking call is about to
    /// sleep anyway.
    fn kernels_own_timeout(&mut self, interest: Interest) -> Option<Call> {
        if self.call.would_block(Monotonic::ZERO) != Blocked::Wait(None) {
            return None;
        }
        let option = match interest {
            Interest::Readable => sockopt::Timeout::Recv,
            Interest::Writable => sockopt::Timeout::Send,
        };
        let limit = sockopt::socket_timeout(self.fd, option).ok().flatten()?;
        let now = clock();
        self.began = Some(now);
        Some(Call::begin(Timeout::After(limit), now))
    }

    fn now(&mut self) -> Monotonic {
        self.began.take().unwrap_or_else(clock)
    }
}

/// Result of poll(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Ready without an error or a hang-up.
    Ready,
    /// Ready because of an error or a hang-up; there may still be data.
    Failed,
}

/// Waits for an error or a hang-up, ignoring data; returns false after `limit`.
pub(super) fn fails_within(fd: BorrowedFd<'_>, limit: Duration) -> Result<bool> {
    let began = Instant::now();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
        match poll(&mut fds, Some(&poll_timeout(left))) {
            Err(Errno::INTR) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One poll(2); `None` if the limit passed or a signal came.
fn poll_once(
    fd: BorrowedFd<'_>,
    interest: Interest,
    limit: Option<Duration>,
) -> Result<Option<Readiness>> {
    let events = match interest {
        Interest::Readable => PollFlags::IN,
        Interest::Writable => PollFlags::OUT,
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    match poll(&mut fds, limit.map(poll_timeout).as_ref()) {
        Ok(0) | Err(Errno::INTR) => Ok(None),
        Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
            Ok(Some(Readiness::Failed))
        }
        Ok(_) => Ok(Some(Readiness::Ready)),
        Err(errno) => Err(errno.into()),
    }
}

/// Converts a wait to milliseconds, rounded up so that no timeout fires early, and at most 2^31 - 1:
/// CPython's argument to poll(2).
fn poll_timeout(limit: Duration) -> Timespec {
    let millis = limit.as_nanos().div_ceil(1_000_000);
    let millis = i32::try_from(millis).unwrap_or(i32::MAX);
    Timespec { tv_sec: (millis / 1000).into(), tv_nsec: (millis % 1000 * 1_000_000).into() }
}

/// Reads the monotonic clock; its zero is the first reading.
fn clock() -> Monotonic {
    static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);
    let zero = *ZERO;
    Monotonic::ZERO.saturating_add(zero.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up_to_milliseconds() {
        for (limit, (sec, nsec)) in [
            (Duration::from_nanos(1), (0, 1_000_000)),
            (Duration::from_millis(7), (0, 7_000_000)),
            (Duration::from_nanos(2_000_000_001), (2, 1_000_000)),
            (Duration::MAX, (2_147_483, 647_000_000)),
        ] {
            let timespec = poll_timeout(limit);
            assert_eq!((timespec.tv_sec, timespec.tv_nsec), (sec, nsec), "{limit:?}");
        }
    }
}
