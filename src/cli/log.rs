//! What the program says while it runs: lines on stderr, from a thread of their own.
//!
//! Whoever has something to say never waits for whoever reads it: lines go into a bounded queue,
//! and what does not fit is counted instead of written.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Reset, Style};

/// Precedes `error:`.
pub(super) const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
/// Precedes `warning:`.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Ends either.
pub(super) const RESET: Reset = Reset;

/// Lines that may wait to be written: 1024 of 100 bytes are 100 KiB, and more than a reader that
/// is merely slow falls behind by.
const QUEUE: usize = 1024;

/// How long the end of the program waits for a reader that is slow or gone.
const PATIENCE: Duration = Duration::from_secs(1);

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
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
    level: Level,
}

/// The thread behind a [`Log`].
pub(super) struct Writer {
    ended: Receiver<()>,
}

impl Log {
    /// A log at stderr.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(super) fn start(level: Level) -> io::Result<(Self, Writer)> {
        Self::start_with(level, anstream::stderr())
    }

    fn start_with(level: Level, out: impl Write + Send + 'static) -> io::Result<(Self, Writer)> {
        let (lines, queue) = sync_channel(QUEUE);
        let (end, ended) = channel();
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            write_lines(&queue, &counter, out);
            // Nobody waits any more if it took too long.
            let _ = end.send(());
        })?;
        Ok((Self { lines, lost, level }, Writer { ended }))
    }

    /// Whether lines of this level are wanted; saves whoever asks from making one.
    pub(super) fn wants(&self, level: Level) -> bool {
        self.level >= level
    }

    /// Says something if its level is wanted.
    pub(super) fn say(&self, level: Level, text: impl std::fmt::Display) {
        if self.wants(level) && self.lines.try_send(format!("saltecho: {text}\n")).is_err() {
            self.leave_out();
        }
    }

    pub(super) fn warn(&self, text: impl std::fmt::Display) {
        self.say(Level::Normal, format_args!("{WARNING}warning:{RESET} {text}"));
    }

    /// Counts a line that is not going to be written.
    pub(super) fn leave_out(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl Writer {
    /// Waits until everything is written, though not for ever. All logs must be gone.
    pub(super) fn finish(self) {
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

fn write_lines(queue: &Receiver<String>, lost: &AtomicU64, out: impl Write) {
    let mut out = BufWriter::new(out);
    // Nowhere below is there a place to report that stderr does not work.
    loop {
        let line = match queue.try_recv() {
            Ok(line) => Ok(line),
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                report_losses(lost, &mut out);
                let _ = out.flush();
                queue.recv()
            }
        };
        let Ok(line) = line else { break };
        let _ = out.write_all(line.as_bytes());
    }
    report_losses(lost, &mut out);
    let _ = out.flush();
}

fn report_losses(lost: &AtomicU64, out: &mut impl Write) {
    match lost.swap(0, Ordering::Relaxed) {
        0 => {}
        n => drop(writeln!(out, "saltecho: {n} lines lost")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// A reader that takes nothing until it is told to.
    #[derive(Clone, Default)]
    struct Gate {
        open: Arc<(Mutex<bool>, Condvar)>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Gate {
        fn open(&self) {
            *self.open.0.lock().unwrap() = true;
            self.open.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.open.1.wait_while(self.open.0.lock().unwrap(), |open| !*open).unwrap());
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_blocks_nobody_and_losses_are_counted() {
        let gate = Gate::default();
        let (log, writer) = Log::start_with(Level::Normal, gate.clone()).unwrap();
        for number in 0..10 * QUEUE {
            log.say(Level::Normal, format_args!("{number:0>200}"));
        }
        gate.open();
        drop(log);
        writer.finish();
        let text = gate.text();
        let lost = text.lines().filter_map(|line| {
            line.strip_prefix("saltecho: ")?.strip_suffix(" lines lost")?.parse::<usize>().ok()
        });
        let lost: usize = lost.sum();
        let written = text.lines().filter(|line| !line.ends_with("lost")).count();
        assert!(lost > 0, "nothing was lost");
        assert_eq!(written + lost, 10 * QUEUE);
    }

    #[test]
    fn lines_come_in_order_and_only_those_that_are_wanted() {
        let gate = Gate::default();
        gate.open();
        let (log, writer) = Log::start_with(Level::Normal, gate.clone()).unwrap();
        log.say(Level::Quiet, "one");
        log.say(Level::Verbose, "two");
        log.say(Level::Normal, "three");
        drop(log);
        writer.finish();
        assert_eq!(gate.text(), "saltecho: one\nsaltecho: three\n");
    }
}
