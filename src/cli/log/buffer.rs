//! Lines between the threads that log and the thread that writes.

use std::fmt::{Display, Write};
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that may wait to be written: 8 MiB hold the three lines each of 40,000
/// connections that come and go at once, twice what one port range allows.
pub(super) const CAPACITY: usize = 8 << 20;

/// Rate-limited lines in one [`PERIOD`].
pub(super) const BURST: u64 = 20;
const PERIOD: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Buffer {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes written, to tell a slow reader from a stalled one.
    pub(super) written: AtomicU64,
}

#[derive(Default)]
struct State {
    text: String,
    /// Lines that did not fit after `text`.
    lost: u64,
    rate_limit: RateLimit,
    closed: bool,
}

/// Counts rate-limited lines in the current period.
#[derive(Default)]
struct RateLimit {
    started: Option<Instant>,
    lines: u64,
    suppressed: u64,
}

impl Buffer {
    /// Adds a line, or counts it as lost if the buffer is full.
    pub(super) fn push(&self, line: &dyn Display) {
        self.lock().push(line);
        self.changed.notify_one();
    }

    /// Adds a line unless there were too many of its kind in this period.
    pub(super) fn push_limited(&self, line: &dyn Display) {
        let mut state = self.lock();
        state.end_period(Instant::now());
        if state.rate_limit.admit() {
            state.push(line);
        }
        self.changed.notify_one();
    }

    /// Tells the writer that no more lines will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for lines; returns them and the number lost after them, or `None` once the buffer is
    /// closed and empty.
    pub(super) fn take(&self) -> Option<(String, u64)> {
        let mut state = self.lock();
        loop {
            state.end_period(Instant::now());
            if !state.text.is_empty() || state.lost > 0 {
                return Some((std::mem::take(&mut state.text), std::mem::take(&mut state.lost)));
            }
            if state.closed {
                return None;
            }
            state = match state.rate_limit.time_left(Instant::now()) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Ignores poisoning: a thread that panicked with the lock held has added its line, whole or
    /// in part.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, line: &dyn Display) {
        if self.text.len() >= CAPACITY {
            self.lost += 1;
        } else {
            writeln!(self.text, "saltecho: {line}").expect("a string takes all text");
        }
    }

    /// Logs the number of suppressed lines once the period is over or the buffer is closed.
    fn end_period(&mut self, now: Instant) {
        let left = self.rate_limit.time_left(now);
        if left.is_none_or(|left| left.is_zero()) || self.closed {
            match std::mem::take(&mut self.rate_limit).suppressed {
                0 => {}
                number => {
                    let plural = if number == 1 { "" } else { "s" };
                    self.push(&format_args!(
                        "{number} similar line{plural} suppressed within {PERIOD:?}"
                    ));
                }
            }
        }
    }
}

impl RateLimit {
    /// Counts a line and returns whether it may be written.
    fn admit(&mut self) -> bool {
        self.started.get_or_insert_with(Instant::now);
        self.lines += 1;
        self.suppressed += u64::from(self.lines > BURST);
        self.lines <= BURST
    }

    /// The rest of the period; `None` between two periods.
    fn time_left(&self, now: Instant) -> Option<Duration> {
        self.started.map(|started| (started + PERIOD).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppressed_lines_are_counted_at_the_end_of_the_period() {
        let mut state = State::default();
        let started = Instant::now();
        assert!((0..=BURST).filter(|_| state.rate_limit.admit()).count() as u64 == BURST);
        state.end_period(started);
        assert_eq!(state.text, "", "the period has not ended");
        state.end_period(started + 2 * PERIOD);
        assert_eq!(state.text, "saltecho: 1 similar line suppressed within 10s\n");
        assert!(state.rate_limit.admit(), "a new period");
    }
}
