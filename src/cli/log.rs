//! The server's log: lines on stderr, written by a thread of their own.
//!
//! The loop never waits for the reader of stderr. Lines go into a bounded buffer; a line that does
//! not fit, or that cannot be written (a full disk, a reader that has left), is counted, and the
//! count is written as soon as writing works again.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Reset, Style};
use rustix::event::{PollFd, PollFlags, poll};

/// Precedes `error:`.
pub(super) const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
/// Precedes `warning:`.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Ends either.
pub(super) const RESET: Reset = Reset;

/// Bytes of lines that may wait to be written: 8 MiB hold the three lines each of 40,000
/// connections that come and go at once, twice what one port range allows.
const BUFFER: usize = 8 << 20;

/// Bytes of one write, whole lines as far as possible. A pipe takes so many at once or none
/// (PIPE_BUF), so that no other writer's text comes between.
const BLOCK: usize = 4096;

/// How long the end of the program waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits for a reader that is merely slow.
const MAX_PATIENCE: Duration = Duration::from_secs(3);

/// Lines of [`Log::say_sparingly`] in one [`PERIOD`].
const SPARING: u64 = 20;
const PERIOD: Duration = Duration::from_secs(10);

/// Which lines are wanted.
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

/// A [`Log`] for a thread that may outlive the others: it does not keep the log from ending.
pub(super) struct WeakLog {
    inlet: Weak<Inlet>,
    level: Level,
    colors: bool,
}

/// The thread behind a [`Log`].
pub(super) struct Writer {
    buffer: Arc<Buffer>,
    ended: Receiver<()>,
}

/// What all clones of a log share; dropped with the last of them.
struct Inlet(Arc<Buffer>);

#[derive(Default)]
struct Buffer {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes written, to tell a slow reader from one that has stopped.
    written: AtomicU64,
}

#[derive(Default)]
struct State {
    text: String,
    /// Lines that did not fit after `text`.
    lost: u64,
    sparing: Sparing,
    closed: bool,
}

/// The lines of [`Log::say_sparingly`] in the current period.
#[derive(Default)]
struct Sparing {
    began: Option<Instant>,
    said: u64,
    hidden: u64,
}

impl Log {
    /// A log at stderr.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(level: Level) -> io::Result<(Self, Writer)> {
        let stderr = io::stderr();
        let colors = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
        Self::start_with(level, colors, Patient(stderr))
    }

    fn start_with(
        level: Level,
        colors: bool,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, Writer)> {
        let buffer = Arc::new(Buffer::default());
        let (end, ended) = channel();
        let source = Arc::clone(&buffer);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            Outlet { out, unfinished: Vec::new(), lost: 0 }.drain(&source);
            // Nobody waits any more if it took too long.
            let _ = end.send(());
        })?;
        let inlet = Arc::new(Inlet(Arc::clone(&buffer)));
        Ok((Self { inlet, level, colors }, Writer { buffer, ended }))
    }

    pub(super) fn downgrade(&self) -> WeakLog {
        let Self { level, colors, .. } = *self;
        WeakLog { inlet: Arc::downgrade(&self.inlet), level, colors }
    }

    /// Whether lines of this level are wanted; saves the caller from making one.
    pub(super) fn wants(&self, level: Level) -> bool {
        self.level >= level
    }

    /// Says something if its level is wanted.
    pub(super) fn say(&self, level: Level, text: impl Display) {
        if self.wants(level) {
            self.inlet.0.lock().push(&text);
            self.inlet.0.changed.notify_one();
        }
    }

    /// Says something that comes in floods when the server is attacked: with [`Level::Verbose`]
    /// all of it, else a few lines in each period and the number of the others.
    pub(super) fn say_sparingly(&self, text: impl Display) {
        if self.wants(Level::Verbose) {
            return self.say(Level::Verbose, text);
        }
        if self.wants(Level::Normal) {
            let mut state = self.inlet.0.lock();
            state.end_period(Instant::now());
            if state.may_say_sparingly() {
                state.push(&text);
            }
            self.inlet.0.changed.notify_one();
        }
    }

    /// Warns, unless the log is quiet.
    pub(super) fn warn(&self, text: impl Display) {
        self.warn_at(Level::Normal, text);
    }

    /// Warns if `level` is wanted.
    pub(super) fn warn_at(&self, level: Level, text: impl Display) {
        match self.colors {
            true => self.say(level, format_args!("{WARNING}warning:{RESET} {text}")),
            false => self.say(level, format_args!("warning: {text}")),
        }
    }
}

impl WeakLog {
    /// The log, unless it has ended.
    pub(super) fn upgrade(&self) -> Option<Log> {
        let Self { level, colors, .. } = *self;
        self.inlet.upgrade().map(|inlet| Log { inlet, level, colors })
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Writer {
    /// Waits until everything is written, as long as the reader takes some of it and not for ever;
    /// whether it was. All logs must be gone.
    pub(super) fn finish(self) -> bool {
        let deadline = Instant::now() + MAX_PATIENCE;
        let mut seen = self.buffer.written.load(Ordering::Relaxed);
        while let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(PATIENCE) {
            let written = self.buffer.written.load(Ordering::Relaxed);
            if written == seen || Instant::now() >= deadline {
                return false;
            }
            seen = written;
        }
        true
    }
}

impl Buffer {
    /// A thread that panicked while it held the lock has added its line or a part of it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines; they, and how many were lost after them. `None` once the log has ended.
    fn take(&self) -> Option<(String, u64)> {
        let mut state = self.lock();
        loop {
            state.end_period(Instant::now());
            if !state.text.is_empty() || state.lost > 0 {
                return Some((std::mem::take(&mut state.text), std::mem::take(&mut state.lost)));
            }
            if state.closed {
                return None;
            }
            state = match state.sparing.period_left(Instant::now()) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl State {
    fn push(&mut self, line: &dyn Display) {
        if self.text.len() >= BUFFER {
            self.lost += 1;
        } else {
            writeln!(self.text, "saltecho: {line}").expect("a string takes all text");
        }
    }

    fn may_say_sparingly(&mut self) -> bool {
        let sparing = &mut self.sparing;
        sparing.began.get_or_insert_with(Instant::now);
        sparing.said += 1;
        sparing.hidden += u64::from(sparing.said > SPARING);
        sparing.said <= SPARING
    }

    /// Says how many lines were hidden, once the period is over or the log has ended.
    fn end_period(&mut self, now: Instant) {
        let left = self.sparing.period_left(now);
        if left.is_none_or(|left| left.is_zero()) || self.closed {
            match std::mem::take(&mut self.sparing).hidden {
                0 => {}
                hidden => self.push(&format_args!("{hidden} more like that in {PERIOD:?}")),
            }
        }
    }
}

impl Sparing {
    /// How much of the period is left; `None` between two periods.
    fn period_left(&self, now: Instant) -> Option<Duration> {
        self.began.map(|began| (began + PERIOD).saturating_duration_since(now))
    }
}

/// The writing end of a log.
struct Outlet<W> {
    out: W,
    /// The rest of a line of which a part has been written.
    unfinished: Vec<u8>,
    /// Lines that could not be written since that was last said.
    lost: u64,
}

impl<W: Write> Outlet<W> {
    fn drain(&mut self, buffer: &Buffer) {
        while let Some((text, lost)) = buffer.take() {
            self.say_losses(buffer);
            self.write_lines(text.as_bytes(), buffer);
            self.lost += lost;
            self.say_losses(buffer);
        }
    }

    fn say_losses(&mut self, buffer: &Buffer) {
        // Cleared first: this line is lost like any other if it cannot be written.
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => {
                let line =
                    format!("saltecho: {lost} line{} lost\n", if lost == 1 { "" } else { "s" });
                self.write_lines(line.as_bytes(), buffer);
                if self.lost > 0 {
                    self.lost = lost;
                }
            }
        }
    }

    /// Writes whole lines. The first error loses all that are not begun: what it says of one
    /// (no space left, no reader) holds for the next.
    fn write_lines(&mut self, mut text: &[u8], buffer: &Buffer) {
        let unfinished = std::mem::take(&mut self.unfinished);
        let written = self.write(&unfinished, buffer);
        self.unfinished = unfinished[written..].to_vec();
        while !text.is_empty() && self.unfinished.is_empty() {
            let block = &text[..block_len(text)];
            let written = self.write(block, buffer);
            text = &text[written..];
            if written < block.len() {
                if written > 0 && block[written - 1] != b'\n' {
                    let rest = line_len(text);
                    self.unfinished = text[..rest].to_vec();
                    text = &text[rest..];
                }
                break;
            }
        }
        self.lost += text.iter().filter(|byte| **byte == b'\n').count() as u64;
    }

    /// Writes as much as it can; how much that was. There is no place to report the error.
    fn write(&mut self, bytes: &[u8], buffer: &Buffer) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(n) => {
                    written += n;
                    buffer.written.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}

/// The lines that fit into one block, or the first line if that is longer.
fn block_len(text: &[u8]) -> usize {
    let fits = text[..text.len().min(BLOCK)].iter().rposition(|byte| *byte == b'\n');
    fits.map_or_else(|| line_len(text), |end| end + 1)
}

fn line_len(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1)
}

/// A stream that may have been left non-blocking by another program that shares it: waits for room
/// as a blocking one does.
pub(super) struct Patient<W>(pub(super) W);

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes nothing until it is told to, or a disk with so much room.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<Held>, Condvar)>);

    #[derive(Default)]
    struct Held {
        open: bool,
        room: usize,
        text: Vec<u8>,
    }

    impl Gate {
        /// One that takes this many bytes and then has no space left.
        fn with_room(room: usize) -> Self {
            let gate = Self::default();
            gate.set(|held| (held.open, held.room) = (true, room));
            gate
        }

        fn set(&self, change: impl FnOnce(&mut Held)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().text.clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let held = self.0.0.lock().unwrap();
            let mut held = self.0.1.wait_while(held, |held| !held.open).unwrap();
            let taken = bytes.len().min(held.room);
            held.room -= taken;
            held.text.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(level: Level, gate: &Gate) -> (Log, Writer) {
        Log::start_with(level, false, gate.clone()).unwrap()
    }

    /// The lines that were written, and how many are said to be lost.
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
    fn a_reader_that_does_not_read_blocks_no_one_and_losses_are_counted() {
        let gate = Gate::default();
        let (log, writer) = start(Level::Normal, &gate);
        let lines = 2 * BUFFER as u64 / 1000;
        for number in 0..lines {
            log.say(Level::Normal, format_args!("{number:0>1000}"));
        }
        gate.set(|held| (held.open, held.room) = (true, usize::MAX));
        drop(log);
        assert!(writer.finish());
        let text = gate.text();
        let (written, lost) = written_and_lost(&text);
        assert!(lost > 0, "nothing was lost");
        assert_eq!(written.len() as u64 + lost, lines);
    }

    #[test]
    fn a_burst_is_written_whole() {
        let gate = Gate::default();
        let (log, writer) = start(Level::Verbose, &gate);
        for number in 0..60_000 {
            log.say(Level::Verbose, format_args!("#{number} closed: left before authenticating"));
        }
        gate.set(|held| (held.open, held.room) = (true, usize::MAX));
        drop(log);
        assert!(writer.finish());
        let text = gate.text();
        assert_eq!((written_and_lost(&text).0.len(), written_and_lost(&text).1), (60_000, 0));
    }

    #[test]
    fn lines_come_in_order_and_only_those_that_are_wanted() {
        let gate = Gate::with_room(usize::MAX);
        let (log, writer) = start(Level::Normal, &gate);
        log.say(Level::Quiet, "one");
        log.say(Level::Verbose, "two");
        log.say(Level::Normal, "three");
        log.warn("four");
        drop(log);
        assert!(writer.finish());
        assert_eq!(gate.text(), "saltecho: one\nsaltecho: three\nsaltecho: warning: four\n");
    }

    #[test]
    fn a_full_disk_loses_whole_lines_and_their_number_is_said_when_there_is_room() {
        let buffer = Buffer::default();
        let gate = Gate::with_room(5 + 2);
        let mut outlet = Outlet { out: gate.clone(), unfinished: Vec::new(), lost: 0 };
        outlet.write_lines(b"1234\n1234\n1234\n", &buffer);
        assert_eq!((gate.text().as_str(), outlet.lost), ("1234\n12", 1));
        outlet.write_lines(b"lost\n", &buffer);
        outlet.say_losses(&buffer);
        assert_eq!((gate.text().as_str(), outlet.lost), ("1234\n12", 2));
        gate.set(|held| held.room = usize::MAX);
        outlet.say_losses(&buffer);
        outlet.write_lines(b"after\n", &buffer);
        assert_eq!(gate.text(), "1234\n1234\nsaltecho: 2 lines lost\nafter\n");
        assert_eq!(outlet.lost, 0);
    }

    #[test]
    fn blocks_end_with_a_line_and_hold_a_long_line_whole() {
        let long = [vec![b'x'; 2 * BLOCK], b"\nshort\n".to_vec()].concat();
        assert_eq!(block_len(&long), 2 * BLOCK + 1);
        let many = b"0123456\n".repeat(BLOCK / 4);
        assert_eq!(block_len(&many), BLOCK);
        assert_eq!(block_len(b"one\ntwo\n"), 8);
    }

    #[test]
    fn a_flood_is_said_sparingly_and_its_rest_counted() {
        for (level, said) in [(Level::Normal, SPARING + 1), (Level::Verbose, 3 * SPARING)] {
            let gate = Gate::with_room(usize::MAX);
            let (log, writer) = start(level, &gate);
            for number in 0..3 * SPARING {
                log.say_sparingly(format_args!("failure {number}"));
            }
            drop(log);
            assert!(writer.finish());
            let text = gate.text();
            let hidden = format!("saltecho: {} more like that in 10s", 2 * SPARING);
            assert_eq!(text.lines().count() as u64, said, "{text}");
            assert_eq!(text.lines().any(|line| line == hidden), level == Level::Normal, "{text}");
        }
        let mut state = State::default();
        let began = Instant::now();
        assert!((0..=SPARING).filter(|_| state.may_say_sparingly()).count() as u64 == SPARING);
        state.end_period(began);
        assert_eq!(state.text, "", "the period has not ended");
        state.end_period(began + 2 * PERIOD);
        assert_eq!(state.text, "saltecho: 1 more like that in 10s\n");
        assert!(state.may_say_sparingly(), "a new period");
    }

    #[test]
    fn a_stream_that_is_not_blocking_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (log, writer) = Log::start_with(Level::Normal, false, Patient(writer)).unwrap();
        let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}")).collect();
        for line in &lines {
            log.say(Level::Normal, line);
        }
        let expected: String = lines.iter().map(|line| format!("saltecho: {line}\n")).collect();
        let mut text = vec![0; expected.len()];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert!(text == expected.as_bytes(), "torn or lost");
        drop(log);
        assert!(writer.finish());
    }
}
