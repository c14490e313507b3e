//! The server's log: lines on stderr, written by a thread of its own.
//!
//! The event loop never waits for the reader of stderr. Lines go into a bounded buffer. A line that
//! does not fit or cannot be written (full disk, closed reader) is counted, and the count is logged
//! as soon as writing works again.

mod buffer;
mod writer;

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Reset, Style};

use self::buffer::Buffer;
use self::writer::Writer;
use super::blocking::Blocking;

/// Precedes `error:`.
pub(super) const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
/// Precedes `warning:`.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Ends either.
pub(super) const RESET: Reset = Reset;

/// Time that [`LogThread::finish`] waits for a reader that takes nothing.
const STALLED: Duration = Duration::from_secs(1);

/// Time that it waits for a reader that is merely slow.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// Verbosity of a log, and of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Quiet,
    Normal,
    Verbose,
}

/// Takes lines and never blocks. Clones write to the same log.
#[derive(Clone)]
pub(super) struct Log {
    inlet: Arc<Inlet>,
    level: Level,
    colors: bool,
}

/// A [`Log`] for a thread that may outlive the others: it does not keep the log open.
pub(super) struct WeakLog {
    inlet: Weak<Inlet>,
    level: Level,
    colors: bool,
}

/// The thread behind a [`Log`].
pub(super) struct LogThread {
    buffer: Arc<Buffer>,
    ended: Receiver<()>,
}

/// The buffer as all clones of a log share it; the last one to be dropped closes it.
struct Inlet(Arc<Buffer>);

impl Log {
    /// Opens a log on stderr.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(level: Level) -> io::Result<(Self, LogThread)> {
        let stderr = io::stderr();
        let colors = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
        Self::start_with(level, colors, Blocking(stderr))
    }

    fn start_with(
        level: Level,
        colors: bool,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, LogThread)> {
        let buffer = Arc::new(Buffer::default());
        let (end, ended) = channel();
        let source = Arc::clone(&buffer);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            Writer::new(out).drain(&source);
            // `finish` may have given up already.
            let _ = end.send(());
        })?;
        let inlet = Arc::new(Inlet(Arc::clone(&buffer)));
        Ok((Self { inlet, level, colors }, LogThread { buffer, ended }))
    }

    pub(super) fn downgrade(&self) -> WeakLog {
        let Self { level, colors, .. } = *self;
        WeakLog { inlet: Arc::downgrade(&self.inlet), level, colors }
    }

    /// Returns whether lines of this level are written; saves the caller from formatting one.
    pub(super) fn is_enabled(&self, level: Level) -> bool {
        self.level >= level
    }

    /// Writes a line if its level is enabled.
    pub(super) fn print(&self, level: Level, text: impl Display) {
        if self.is_enabled(level) {
            self.inlet.0.push(&text);
        }
    }

    /// Writes a line of a kind that an attacker can cause in any number: all of them at
    /// [`Level::Verbose`], otherwise a few per period and the number of the rest.
    pub(super) fn print_limited(&self, text: impl Display) {
        if self.is_enabled(Level::Verbose) {
            self.print(Level::Verbose, text);
        } else if self.is_enabled(Level::Normal) {
            self.inlet.0.push_limited(&text);
        }
    }

    /// Writes a warning, unless the log is quiet.
    pub(super) fn warn(&self, text: impl Display) {
        self.warn_at(Level::Normal, text);
    }

    /// Writes a warning if `level` is enabled.
    pub(super) fn warn_at(&self, level: Level, text: impl Display) {
        match self.colors {
            true => self.print(level, format_args!("{WARNING}warning:{RESET} {text}")),
            false => self.print(level, format_args!("warning: {text}")),
        }
    }
}

impl WeakLog {
    /// The log, if it is still open.
    pub(super) fn upgrade(&self) -> Option<Log> {
        let Self { level, colors, .. } = *self;
        self.inlet.upgrade().map(|inlet| Log { inlet, level, colors })
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl LogThread {
    /// Waits until everything is written, for as long as the reader makes progress and at most
    /// three seconds; returns whether it was. All logs must have been dropped.
    pub(super) fn finish(self) -> bool {
        let deadline = Instant::now() + MAX_WAIT;
        let mut seen = self.buffer.written.load(Ordering::Relaxed);
        while let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(STALLED) {
            let written = self.buffer.written.load(Ordering::Relaxed);
            if written == seen || Instant::now() >= deadline {
                return false;
            }
            seen = written;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::buffer::{BURST, CAPACITY};
    use super::writer::Gate;
    use super::*;

    fn start(level: Level, gate: &Gate) -> (Log, LogThread) {
        Log::start_with(level, false, gate.clone()).unwrap()
    }

    /// The written lines, and the number of lines reported as lost.
    fn written_and_lost(text: &str) -> (Vec<&str>, u64) {
        let (lost, written): (Vec<&str>, _) =
            text.lines().partition(|line| line.ends_with(" lost"));
        let lost = lost.into_iter().map(|line| {
            let number = line.strip_prefix("saltecho: ").unwrap().split(' ').next().unwrap();
            number.parse::<u64>().unwrap()
        });
        (written, lost.sum())
    }

    #[test]
    fn a_stalled_reader_does_not_block_and_losses_are_counted() {
        let gate = Gate::default();
        let (log, thread) = start(Level::Normal, &gate);
        let lines = 2 * CAPACITY as u64 / 1000;
        for number in 0..lines {
            log.print(Level::Normal, format_args!("{number:0>1000}"));
        }
        gate.open();
        drop(log);
        assert!(thread.finish());
        let text = gate.text();
        let (written, lost) = written_and_lost(&text);
        assert!(lost > 0, "nothing was lost");
        assert_eq!(written.len() as u64 + lost, lines);
    }

    #[test]
    fn a_burst_is_written_completely() {
        let gate = Gate::default();
        let (log, thread) = start(Level::Verbose, &gate);
        for number in 0..60_000 {
            log.print(Level::Verbose, format_args!("#{number} closed: left before authenticating"));
        }
        gate.open();
        drop(log);
        assert!(thread.finish());
        let text = gate.text();
        assert_eq!((written_and_lost(&text).0.len(), written_and_lost(&text).1), (60_000, 0));
    }

    #[test]
    fn enabled_lines_are_written_in_order() {
        let gate = Gate::with_room(usize::MAX);
        let (log, thread) = start(Level::Normal, &gate);
        log.print(Level::Quiet, "one");
        log.print(Level::Verbose, "two");
        log.print(Level::Normal, "three");
        log.warn("four");
        drop(log);
        assert!(thread.finish());
        assert_eq!(gate.text(), "saltecho: one\nsaltecho: three\nsaltecho: warning: four\n");
    }

    #[test]
    fn a_flood_is_limited_and_the_rest_is_counted() {
        for (level, printed) in [(Level::Normal, BURST + 1), (Level::Verbose, 3 * BURST)] {
            let gate = Gate::with_room(usize::MAX);
            let (log, thread) = start(level, &gate);
            for number in 0..3 * BURST {
                log.print_limited(format_args!("failure {number}"));
            }
            drop(log);
            assert!(thread.finish());
            let text = gate.text();
            let hidden = format!("saltecho: {} similar lines suppressed within 10s", 2 * BURST);
            assert_eq!(text.lines().count() as u64, printed, "{text}");
            assert_eq!(text.lines().any(|line| line == hidden), level == Level::Normal, "{text}");
        }
    }

    #[test]
    fn a_non_blocking_stream_is_written_completely() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (log, thread) = Log::start_with(Level::Normal, false, Blocking(writer)).unwrap();
        let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}")).collect();
        for line in &lines {
            log.print(Level::Normal, line);
        }
        let expected: String = lines.iter().map(|line| format!("saltecho: {line}\n")).collect();
        let mut text = vec![0; expected.len()];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert!(text == expected.as_bytes(), "torn or lost");
        drop(log);
        assert!(thread.finish());
    }
}
