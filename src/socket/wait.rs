//! The only place where a call waits: poll(2) on one descriptor, for one [`Call`].
//!
//! The three modes are three ways through the same loop. Blocking: attempt, wait without limit,
//! attempt again. Non-blocking: attempt, and return "would block". Timeout: wait **first**, up to
//! the deadline, then attempt; "would block" after that was a spurious wakeup.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::inner::Inner;
use super::{Error, Result};
use crate::python::{Blocked, Call, Monotonic, Timeout};

/// Asked by waiting calls after a signal has interrupted them.
static INTERRUPT_HOOK: RwLock<Option<fn() -> bool>> = RwLock::new(None);

/// Installs a function that decides whether a waiting call that a signal handler has interrupted
/// ends: `true` ends it with InterruptedError (EINTR), `false` repeats it with the time that is
/// left. Process-wide, and asked on the thread that was interrupted; `None` always repeats.
///
/// It is the place where CPython runs Python's signal handlers (`PyErr_CheckSignals`, PEP 475),
/// whose exceptions end a call. The handler itself only has to leave a mark that the hook finds:
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// static STOP: AtomicBool = AtomicBool::new(false); // set by a handler for SIGINT
/// saltecho::socket::set_interrupt_hook(Some(|| STOP.load(Ordering::Relaxed)));
/// # saltecho::socket::set_interrupt_hook(None);
/// ```
///
/// A signal that comes just before the call begins to wait interrupts nothing. If that matters, wait
/// for a descriptor (`signalfd(2)`, a pipe) together with the socket instead.
pub fn set_interrupt_hook(hook: Option<fn() -> bool>) {
    *INTERRUPT_HOOK.write().unwrap_or_else(PoisonError::into_inner) = hook;
}

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
pub(super) struct Waiter<'a> {
    socket: &'a Inner,
    fd: BorrowedFd<'a>,
    call: Call,
    /// Clock reading from which the deadline was computed. The first check uses it too, so that even
    /// a timeout of one nanosecond polls once.
    began: Option<Monotonic>,
}

impl<'a> Waiter<'a> {
    /// Starts a call now. Reads the clock in timeout mode only.
    pub(super) fn begin(socket: &'a Inner, fd: BorrowedFd<'a>, timeout: Timeout) -> Self {
        let began = match timeout {
            Timeout::Blocking | Timeout::NonBlocking => Monotonic::ZERO,
            Timeout::After(_) => clock(),
        };
        Self { socket, fd, call: Call::begin(timeout, began), began: Some(began) }
    }

    /// Attempts until the kernel's result is not "would block", or the deadline passes.
    ///
    /// A call that goes on (`sendall`) may run several times under its one deadline. EINTR repeats
    /// the attempt or the wait, with the time that is left (PEP 475), unless the hook objects.
    pub(super) fn run<T>(
        &mut self,
        interest: Interest,
        attempt: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T> {
        self.run_with(interest, attempt, |waiter| waiter.wait(interest, Errno::AGAIN))
    }

    /// As `run`, with another way to wait after an attempt that would block.
    pub(super) fn run_with<T>(
        &mut self,
        interest: Interest,
        mut attempt: impl FnMut() -> rustix::io::Result<T>,
        mut wait: impl FnMut(&mut Self) -> Result<Readiness>,
    ) -> Result<T> {
        if self.call.waits_first() {
            self.wait(interest, Errno::AGAIN)?;
        }
        loop {
            match attempt() {
                Err(Errno::INTR) => self.interrupted()?,
                Err(Errno::AGAIN) => {
                    wait(self)?;
                }
                result => return Ok(result?),
            }
        }
    }

    /// Attempts until `wanted` bytes have been moved, as the kernel does for a blocking `send` or
    /// for MSG_WAITALL. `attempt` is given the count so far and returns what it added; it may lower
    /// what is wanted.
    ///
    /// Once something was moved the call no longer fails: it returns the count, also after a
    /// signal. A pending error is then left where it is for the next call, as the kernel would,
    /// hence no attempt after poll has reported one. Zero from `attempt` is the end of the stream.
    pub(super) fn run_to_the_end(
        &mut self,
        interest: Interest,
        wanted: &Cell<usize>,
        mut attempt: impl FnMut(usize) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        let mut done = 0;
        loop {
            match attempt(done) {
                Ok(0) => return Ok(done),
                Ok(count) if done + count >= wanted.get() => return Ok(done + count),
                Ok(count) => done += count,
                Err(Errno::INTR) if done == 0 => {
                    self.interrupted()?;
                    continue;
                }
                Err(Errno::AGAIN) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno.into()),
            }
            match self.wait_or_signal(self.fd, interest, Errno::AGAIN) {
                Ok(Readiness::Failed | Readiness::Interrupted) | Err(_) if done > 0 => {
                    return Ok(done);
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the descriptor is ready; `refusal` is the errno for a call that must not wait.
    ///
    /// Errors and hang-ups count as ready: the next attempt returns the kernel's error.
    pub(super) fn wait(&mut self, interest: Interest, refusal: Errno) -> Result<Readiness> {
        self.wait_for(self.fd, interest, refusal)
    }

    /// As `wait`, for another descriptor than the socket's.
    pub(super) fn wait_for(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        refusal: Errno,
    ) -> Result<Readiness> {
        loop {
            match self.wait_or_signal(fd, interest, refusal)? {
                Readiness::Interrupted => {}
                readiness => return Ok(readiness),
            }
        }
    }

    /// As `wait_for`, but a signal ends the wait.
    fn wait_or_signal(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        refusal: Errno,
    ) -> Result<Readiness> {
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
            match poll_once(fd, interest, limit)? {
                None => {}
                Some(Readiness::Interrupted) => {
                    self.interrupted()?;
                    return Ok(Readiness::Interrupted);
                }
                Some(readiness) => {
                    // Python reads the descriptor's number afresh for the attempt; a blocking call
                    // is inside the kernel, where a close from another thread does not reach it.
                    if self.call.deadline().is_some() {
                        self.socket.still_open()?;
                    }
                    return Ok(readiness);
                }
            }
        }
    }

    /// A signal came: CPython runs the handlers, and then repeats the call on what the socket's
    /// descriptor is by now.
    pub(super) fn interrupted(&self) -> Result<()> {
        let hook = *INTERRUPT_HOOK.read().unwrap_or_else(PoisonError::into_inner);
        if hook.is_some_and(|hook| hook()) {
            return Err(Errno::INTR.into());
        }
        self.socket.still_open()
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
    /// Not ready: a signal came, and the call goes on.
    Interrupted,
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

/// One poll(2); `None` if the limit passed.
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
        Ok(0) => Ok(None),
        Err(Errno::INTR) => Ok(Some(Readiness::Interrupted)),
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
