//! Lines between the threads that log and the thread that writes.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::entry::{Entry, Format, Line, Severity};

/// Bytes of lines that may wait to be written: 16 MiB hold an object of JSON each, or three lines of
/// text, of 40,000 connections that end at once, twice what one port range allows.
pub(super) const CAPACITY: usize = 16 << 20;

/// Rate-limited lines in one [`PERIOD`].
pub(super) const BURST: u64 = 20;
const PERIOD: Duration = Duration::from_secs(10);

pub(super) struct Buffer {
    format: Format,
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes written, to tell a slow reader from a stalled one.
    pub(super) written: AtomicU64,
    /// Lines left out so far: by the rate limit, for want of room or because of an error.
    suppressed: AtomicU64,
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

/// The field of an entry about lines that were left out.
#[derive(Clone, Copy, Serialize)]
struct Lines {
    lines: u64,
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

impl Buffer {
    pub(super) fn new(format: Format) -> Self {
        let (state, changed, written) = Default::default();
        Self { format, state, changed, written, suppressed: AtomicU64::new(0) }
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// Lines left out so far, each counted once.
    pub(super) fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    pub(super) fn count_suppressed(&self, lines: u64) {
        self.suppressed.fetch_add(lines, Ordering::Relaxed);
    }

    /// Adds a line, or counts it as lost if the buffer is full.
    pub(super) fn push<T: Display, F: Serialize>(&self, entry: &Entry<T, F>) {
        self.add(&mut self.lock(), entry);
        self.changed.notify_one();
    }

    /// Adds a line unless there were too many of its kind in this period.
    pub(super) fn push_limited<T: Display, F: Serialize>(&self, entry: &Entry<T, F>) {
        let mut state = self.lock();
        self.end_period(&mut state, Instant::now());
        if state.rate_limit.admit() {
            self.add(&mut state, entry);
        } else {
            self.count_suppressed(1);
        }
        self.changed.notify_one();
    }

    fn add<T: Display, F: Serialize>(&self, state: &mut State, entry: &Entry<T, F>) {
        if state.text.len() >= CAPACITY {
            state.lost += 1;
            self.count_suppressed(1);
        } else {
            let line = self.line(entry);
            writeln!(state.text, "{line}").expect("a string takes all text");
        }
    }

    fn line<'a, T, F>(&self, entry: &'a Entry<T, F>) -> Line<'a, T, F> {
        Line { format: self.format, time: SystemTime::now(), entry }
    }

    /// The line about lines that were lost.
    pub(super) fn losses(&self, lines: u64) -> String {
        let text = format_args!("{lines} line{} lost", plural(lines));
        let entry = Entry::new(Severity::Warning, "lines_lost", text).with(Lines { lines });
        format!("{}\n", self.line(&entry))
    }

    /// Logs the number of suppressed lines once the period is over or the buffer is closed.
    fn end_period(&self, state: &mut State, now: Instant) {
        let left = state.rate_limit.time_left(now);
        if left.is_none_or(|left| left.is_zero()) || state.closed {
            match std::mem::take(&mut state.rate_limit).suppressed {
                0 => {}
                lines => {
                    let text = format_args!(
                        "{lines} similar line{} suppressed within {PERIOD:?}",
                        plural(lines)
                    );
                    let entry = Entry::new(Severity::Info, "lines_suppressed", text);
                    self.add(state, &entry.with(Lines { lines }));
                }
            }
        }
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
            self.end_period(&mut state, Instant::now());
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
        let buffer = Buffer::new(Format::Plain { colors: false });
        let mut state = buffer.lock();
        let started = Instant::now();
        assert!((0..=BURST).filter(|_| state.rate_limit.admit()).count() as u64 == BURST);
        buffer.end_period(&mut state, started);
        assert_eq!(state.text, "", "the period has not ended");
        buffer.end_period(&mut state, started + 2 * PERIOD);
        assert_eq!(state.text, "saltecho: 1 similar line suppressed within 10s\n");
        assert!(state.rate_limit.admit(), "a new period");
    }
}
