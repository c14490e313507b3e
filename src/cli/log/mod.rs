//! The server's log: lines on stderr, written by a thread of its own.
//!
//! The event loop never waits for the reader of stderr. Lines go into a bounded buffer. A line that
//! does not fit or cannot be written (full disk, closed reader) is counted, and the count is logged
//! as soon as writing works again.
//!
//! An [`Entry`] has a text for people and fields for programs; the format decides which are written.

mod buffer;
mod entry;
mod writer;

use std::fmt::Display;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Reset, Style};
use serde::Serialize;

use self::buffer::Buffer;
use self::entry::Format;
use self::writer::Writer;
use super::blocking::Blocking;
pub(super) use entry::{Entry, LogFormat, Severity};

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
#[repr(u8)]
pub(super) enum Level {
    Quiet,
    Normal,
    Verbose,
}

impl Level {
    const ALL: [Self; 3] = [Self::Quiet, Self::Normal, Self::Verbose];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Normal => "normal",
            Self::Verbose => "verbose",
        }
    }
}

/// Text that names no [`Level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such log level: use quiet, normal or verbose")]
pub(super) struct NoLevel;

impl FromStr for Level {
    type Err = NoLevel;

    fn from_str(name: &str) -> Result<Self, NoLevel> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or(NoLevel)
    }
}

/// Takes lines and never blocks. Clones write to the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<Inlet>);

/// A [`Log`] for a thread that may outlive the others: it does not keep the log open.
pub(super) struct WeakLog(Weak<Inlet>);

/// The thread behind a [`Log`].
pub(super) struct LogThread {
    buffer: Arc<Buffer>,
    ended: Receiver<()>,
}

/// A log as all its clones share it; the last one to be dropped closes the buffer.
struct Inlet {
    buffer: Arc<Buffer>,
    /// The [`Level`] in force.
    level: AtomicU8,
    /// The [`Level`] that the settings ask for.
    configured: AtomicU8,
}

impl Log {
    /// Opens a log on stderr.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(level: Level, format: LogFormat) -> io::Result<(Self, LogThread)> {
        Self::start_with(level, Format::for_stderr(format), Blocking(io::stderr()))
    }

    fn start_with(
        level: Level,
        format: Format,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, LogThread)> {
        let buffer = Arc::new(Buffer::new(format));
        let (end, ended) = channel();
        let source = Arc::clone(&buffer);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            Writer::new(out).drain(&source);
            // `finish` may have given up already.
            let _ = end.send(());
        })?;
        let [level, configured] = [(); 2].map(|()| AtomicU8::new(level as u8));
        let inlet = Inlet { buffer: Arc::clone(&buffer), level, configured };
        Ok((Self(Arc::new(inlet)), LogThread { buffer, ended }))
    }

    pub(super) fn downgrade(&self) -> WeakLog {
        WeakLog(Arc::downgrade(&self.0))
    }

    /// Changes the level, for all clones and until the configured one changes.
    pub(super) fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    /// Changes the configured level, and with it the one in force.
    pub(super) fn configure_level(&self, level: Level) {
        self.0.configured.store(level as u8, Ordering::Relaxed);
        self.set_level(level);
    }

    /// The level in force, and the configured one.
    pub(super) fn levels(&self) -> (Level, Level) {
        let level = |level: &AtomicU8| Level::ALL[usize::from(level.load(Ordering::Relaxed))];
        (level(&self.0.level), level(&self.0.configured))
    }

    /// Returns whether lines of this level are written; saves the caller from formatting one.
    pub(super) fn is_enabled(&self, level: Level) -> bool {
        self.0.level.load(Ordering::Relaxed) >= level as u8
    }

    /// Returns whether entries are written for programs, in full.
    pub(super) fn is_json(&self) -> bool {
        self.0.buffer.format() == Format::Json
    }

    /// Lines left out so far: suppressed, or lost because the reader was too slow or gone.
    pub(super) fn suppressed(&self) -> u64 {
        self.0.buffer.suppressed()
    }

    /// Writes an entry if its level is enabled.
    pub(super) fn write<T: Display, F: Serialize>(&self, level: Level, entry: &Entry<T, F>) {
        if self.is_enabled(level) {
            self.0.buffer.push(entry);
        }
    }

    /// Writes an entry of a kind that an attacker can cause in any number: all of them at
    /// [`Level::Verbose`], otherwise a few per period and the number of the rest.
    pub(super) fn write_limited<T: Display, F: Serialize>(&self, entry: &Entry<T, F>) {
        if self.is_enabled(Level::Verbose) {
            self.0.buffer.push(entry);
        } else if self.is_enabled(Level::Normal) {
            self.0.buffer.push_limited(entry);
        }
    }

    /// Writes a line if its level is enabled.
    pub(super) fn print(&self, level: Level, text: impl Display) {
        self.write(level, &Entry::new(Severity::Info, MESSAGE, text));
    }

    /// Writes a warning, unless the log is quiet.
    pub(super) fn warn(&self, text: impl Display) {
        self.warn_at(Level::Normal, text);
    }

    /// Writes a warning if `level` is enabled.
    pub(super) fn warn_at(&self, level: Level, text: impl Display) {
        self.write(level, &Entry::new(Severity::Warning, MESSAGE, text));
    }
}

/// The event of an entry that has only a text.
const MESSAGE: &str = "message";

impl WeakLog {
    /// The log, if it is still open.
    pub(super) fn upgrade(&self) -> Option<Log> {
        self.0.upgrade().map(Log)
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.buffer.close();
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

    const PLAIN: Format = Format::Plain { colors: false };

    fn start(level: Level, gate: &Gate) -> (Log, LogThread) {
        Log::start_with(level, PLAIN, gate.clone()).unwrap()
    }

    fn limited(number: u64) -> Entry<String> {
        Entry::new(Severity::Info, "failure", format!("failure {number}"))
    }

    /// The written lines, and the number of lines reported as lost.
    fn written_and_lost(text: &str) -> (Vec<&str>, u64) {
        let (lost, written): (Vec<&str>, _) =
            text.lines().partition(|line| line.ends_with(" lost"));
        let lost = lost.into_iter().map(|line| {
            let number =
                line.strip_prefix("saltecho: warning: ").unwrap().split(' ').next().unwrap();
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
        let suppressed = log.suppressed();
        drop(log);
        assert!(thread.finish());
        let text = gate.text();
        let (written, lost) = written_and_lost(&text);
        assert!(lost > 0, "nothing was lost");
        assert_eq!(suppressed, lost);
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

    /// A drain: the loop reports the ends of a crowd while the reader takes nothing.
    #[test]
    fn the_ends_of_a_crowd_are_kept_as_objects_for_a_reader_that_comes_late() {
        const CROWD: u64 = 40_000;
        let gate = Gate::default();
        let (log, thread) = Log::start_with(Level::Normal, Format::Json, gate.clone()).unwrap();
        for id in 0..CROWD {
            let end = format!("#{id} closed: drained, from 203.0.113.254:65535");
            let fields = serde_json::json!({
                "worker": 1, "id": id, "peer": "203.0.113.254:65535", "listener": "192.0.2.1:9999",
                "key": "bab78a7f", "reason": "drained", "duration_ns": 3_600_000_000_000_u64,
                "bytes_received": 1_000_000_000, "bytes_sent": 1_000_000_000,
            });
            let entry = Entry::new(Severity::Info, "connection_closed", end).with(fields);
            log.write(Level::Normal, &entry);
        }
        assert_eq!(log.suppressed(), 0);
        gate.open();
        drop(log);
        assert!(thread.finish());
        let text = gate.text();
        let ids = text.lines().map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            object["id"].as_u64().unwrap()
        });
        assert!(ids.eq(0..CROWD));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_as_suppressed() {
        let gate = Gate::with_room("saltecho: one\n".len());
        let (log, thread) = start(Level::Normal, &gate);
        let buffer = Arc::clone(&thread.buffer);
        log.print(Level::Normal, "one");
        log.print(Level::Normal, "two");
        drop(log);
        assert!(thread.finish());
        assert_eq!((gate.text().as_str(), buffer.suppressed()), ("saltecho: one\n", 1));
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
                log.write_limited(&limited(number));
            }
            let suppressed = if level == Level::Normal { 2 * BURST } else { 0 };
            assert_eq!(log.suppressed(), suppressed);
            drop(log);
            assert!(thread.finish());
            let text = gate.text();
            let hidden = format!("saltecho: {} similar lines suppressed within 10s", 2 * BURST);
            assert_eq!(text.lines().count() as u64, printed, "{text}");
            assert_eq!(text.lines().any(|line| line == hidden), level == Level::Normal, "{text}");
        }
    }

    #[test]
    fn the_level_changes_for_all_clones() {
        let gate = Gate::with_room(usize::MAX);
        let (log, thread) = start(Level::Normal, &gate);
        let clone = log.clone();
        for name in ["verbose", "quiet"] {
            log.set_level(name.parse().unwrap());
            clone.print(Level::Verbose, name);
            clone.print(Level::Normal, name);
        }
        assert_eq!("loud".parse::<Level>(), Err(NoLevel));
        drop((log, clone));
        assert!(thread.finish());
        assert_eq!(gate.text(), "saltecho: verbose\nsaltecho: verbose\n");
    }

    #[test]
    fn a_non_blocking_stream_is_written_completely() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (log, thread) = Log::start_with(Level::Normal, PLAIN, Blocking(writer)).unwrap();
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
