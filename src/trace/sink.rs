//! Where a recording goes: a file by way of a thread of its own, or memory.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::encode::kind;
use super::file::{end_record, write_chunk};

/// Bytes that may wait for the thread: beyond it the disk is too slow for the loop.
const MAX_WAITING: usize = 16 << 20;
/// Bytes from which on the thread writes at once.
const SOON: usize = 1 << 20;
/// Time between two writes otherwise: what a killed process loses at most.
const PERIOD: Duration = Duration::from_millis(200);
/// Bytes of a chunk in memory.
const CHUNK: usize = 64 << 10;

/// Called with the reason when a recording ends before its loop.
pub type OnEnd = Box<dyn FnOnce(&str) + Send>;

/// Where the segments of a recording go, of which each is a file of its own.
pub trait Segments: Write + Send {
    /// Makes what is written from now on the next segment. Only the last two have to stay.
    ///
    /// # Errors
    /// If there can be none: the recording ends.
    fn begin_next(&mut self) -> io::Result<()>;
}

/// A recording that is no ring.
struct Single<W>(W);

impl<W: Write> Write for Single<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> Segments for Single<W> {
    fn begin_next(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
pub(super) enum Sink {
    File(FileSink),
    Memory { chunk: Vec<u8>, file: Arc<Mutex<Vec<u8>>> },
}

impl Sink {
    /// Takes the bytes of whole turns. Never blocks.
    ///
    /// # Errors
    /// The reason for which the recording has ended.
    pub(super) fn push(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::File(file) => file.push(bytes),
            Self::Memory { chunk, file } => {
                chunk.append(bytes);
                if chunk.len() >= CHUNK {
                    write_to(file, chunk);
                    chunk.clear();
                }
                Ok(())
            }
        }
    }

    /// Returns true if something is to go to the thread that has not gone with its turn.
    pub(super) fn has_kept(&self) -> bool {
        matches!(self, Self::File(file) if !file.kept.is_empty())
    }

    /// Begins the next segment behind these bytes of whole turns.
    pub(super) fn begin_next(&mut self, bytes: &mut Vec<u8>, segment: Vec<u8>) {
        if let Self::File(file) = self {
            file.kept.push(Part::Turns(std::mem::take(bytes)));
            file.kept.push(Part::Segment(segment));
        }
    }

    /// Waits until a recording that has ended is written.
    pub(super) fn wait(&mut self) {
        if let Self::File(file) = self {
            file.wait();
        }
    }

    /// Ends the recording, with an empty reason if its loop has ended. It waits until all is written only
    /// if that is asked for.
    pub(super) fn finish(&mut self, bytes: &[u8], why: &str, waits: bool) {
        let end = end_record(why);
        match self {
            Self::File(file) => file.finish(bytes, &end, waits),
            Self::Memory { chunk, file } => {
                chunk.extend_from_slice(bytes);
                chunk.extend_from_slice(&end);
                write_to(file, chunk);
                chunk.clear();
            }
        }
    }
}

fn write_to(file: &Mutex<Vec<u8>>, chunk: &[u8]) {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    write_chunk(&mut *file, chunk).expect("memory takes all");
}

/// A file that a thread of its own writes.
#[derive(Debug)]
pub(super) struct FileSink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Parts that go to the thread with the next turn.
    kept: Vec<Part>,
}

/// What is to be written.
#[derive(Debug)]
enum Part {
    /// Whole turns.
    Turns(Vec<u8>),
    /// The beginning of the next segment, as it is in the file.
    Segment(Vec<u8>),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Part>,
    /// Bytes of turns among them.
    bytes: usize,
    /// The thread sleeps until there is something.
    idle: bool,
    /// Nothing more comes.
    done: bool,
    /// Why nothing more is written.
    fault: Option<String>,
}

impl State {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        match self.waiting.last_mut() {
            Some(Part::Turns(last)) => last.extend_from_slice(bytes),
            _ => self.waiting.push(Part::Turns(bytes.to_vec())),
        }
    }

    fn add_all(&mut self, parts: &mut Vec<Part>) {
        for part in parts.drain(..) {
            match part {
                Part::Turns(bytes) => self.add(&bytes),
                Part::Segment(_) => self.waiting.push(part),
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size of a recording.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    None,
    /// The recording ends there.
    End(u64),
    /// Its last two segments together are no longer.
    Ring(u64),
}

impl FileSink {
    /// Writes the first lines of a file, and starts the thread. At the limit the recording ends.
    ///
    /// # Errors
    /// If the lines cannot be written or the thread cannot start.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        header: &[u8],
        limit: Option<u64>,
        on_end: OnEnd,
    ) -> io::Result<Self> {
        let limit = limit.map_or(Limit::None, Limit::End);
        Self::start_ring(Single(output), header, limit, on_end)
    }

    /// The same for segments, of which the last two are no longer than the limit.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub(super) fn start_ring(
        mut output: impl Segments + 'static,
        header: &[u8],
        limit: Limit,
        on_end: OnEnd,
    ) -> io::Result<Self> {
        output.write_all(header)?;
        let shared = Arc::new(Shared::default());
        let (written, before) = (header.len() as u64, 0);
        let mut writer = Writer { output, written, before, limit, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name("recording".to_owned()).spawn(move || {
            if let Err(why) = writer.run() {
                writer.shared.lock().fault = Some(why.clone());
                on_end(&why);
            }
        })?;
        Ok(Self { shared, thread: Some(thread), kept: Vec::new() })
    }

    fn push(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        // The thread holds the lock for a few instructions only; what it is in the way of goes with the
        // next turn.
        let Ok(mut state) = self.shared.state.try_lock() else { return Ok(()) };
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        if state.bytes + bytes.len() > MAX_WAITING {
            return Err("the disk is too slow".to_owned());
        }
        state.add_all(&mut self.kept);
        state.add(bytes);
        bytes.clear();
        let wake = state.idle || state.bytes >= SOON;
        state.idle = false;
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    fn finish(&mut self, bytes: &[u8], end: &[u8], waits: bool) {
        let mut state = self.shared.lock();
        state.add_all(&mut self.kept);
        state.add(bytes);
        state.add(end);
        state.done = true;
        drop(state);
        self.shared.wake.notify_one();
        if waits {
            self.wait();
        }
    }

    /// Waits until all is written.
    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there is the end of the recording, not of the loop.
            let _ = thread.join();
        }
    }
}

struct Writer<W> {
    output: W,
    /// Length of the file that is being written, and of the segment before it.
    written: u64,
    before: u64,
    limit: Limit,
    shared: Arc<Shared>,
}

/// Room that there has to be for the end mark, and for the mark of a segment's end.
const ROOM_FOR_END: u64 = 64;

impl<W: Segments> Writer<W> {
    /// Writes until nothing more comes.
    fn run(&mut self) -> Result<(), String> {
        loop {
            let (parts, done) = self.wait();
            for part in parts {
                match part {
                    Part::Turns(bytes) if bytes.is_empty() => {}
                    Part::Turns(bytes) => self.write(&bytes)?,
                    Part::Segment(bytes) => self.begin_next(&bytes)?,
                }
            }
            if done {
                return self.output.flush().map_err(|error| error.to_string());
            }
        }
    }

    /// Waits for the next parts, and for a while so that there are more.
    fn wait(&self) -> (Vec<Part>, bool) {
        let mut state = self.shared.lock();
        while state.waiting.is_empty() && !state.done {
            state.idle = true;
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let is_short = |state: &mut State| state.bytes < SOON && !state.done;
        let waited = self.shared.wake.wait_timeout_while(state, PERIOD, is_short);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.bytes = 0;
        (std::mem::take(&mut state.waiting), state.done)
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), String> {
        let len = 8 + chunk.len() as u64;
        let end = match self.limit {
            Limit::End(limit) if self.written + len + ROOM_FOR_END > limit => {
                "its limit is reached"
            }
            Limit::Ring(limit) if self.before + self.written + len + ROOM_FOR_END > limit => {
                "its limit is too small for what happens in a turn"
            }
            _ => return self.put(chunk),
        };
        self.put(&end_record(end))?;
        Err(end.to_owned())
    }

    fn begin_next(&mut self, segment: &[u8]) -> Result<(), String> {
        self.put(&[kind::GOES_ON])?;
        let begun = self.output.flush().and_then(|()| self.output.begin_next());
        begun.and_then(|()| self.output.write_all(segment)).map_err(|error| error.to_string())?;
        (self.before, self.written) = (self.written, segment.len() as u64);
        Ok(())
    }

    fn put(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.written += 8 + chunk.len() as u64;
        write_chunk(&mut self.output, chunk).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
