//! Where a recording goes: a file by way of a thread of its own, or memory.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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

    /// Ends the recording, with an empty reason if its loop has ended. Waits until all is written.
    pub(super) fn finish(&mut self, bytes: &[u8], why: &str) {
        let end = end_record(why);
        match self {
            Self::File(file) => file.finish(bytes, &end),
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
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread sleeps until there is something.
    idle: bool,
    /// Nothing more comes.
    done: bool,
    /// Why nothing more is written.
    fault: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileSink {
    /// Writes the first lines, and starts the thread. At `limit` bytes the recording ends.
    ///
    /// # Errors
    /// If the lines cannot be written or the thread cannot start.
    pub(super) fn start(
        mut output: impl Write + Send + 'static,
        header: &[u8],
        limit: Option<u64>,
        on_end: OnEnd,
    ) -> io::Result<Self> {
        output.write_all(header)?;
        let shared = Arc::new(Shared::default());
        let mut writer =
            Writer { output, written: header.len() as u64, limit, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name("recording".to_owned()).spawn(move || {
            if let Err(why) = writer.run() {
                writer.shared.lock().fault = Some(why.clone());
                on_end(&why);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn push(&self, bytes: &mut Vec<u8>) -> Result<(), String> {
        // The thread holds the lock for a few instructions only; what it is in the way of goes with the
        // next turn.
        let Ok(mut state) = self.shared.state.try_lock() else { return Ok(()) };
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        if state.waiting.len() + bytes.len() > MAX_WAITING {
            return Err("the disk is too slow".to_owned());
        }
        state.waiting.extend_from_slice(bytes);
        bytes.clear();
        let wake = state.idle || state.waiting.len() >= SOON;
        state.idle = false;
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    fn finish(&mut self, bytes: &[u8], end: &[u8]) {
        let mut state = self.shared.lock();
        state.waiting.extend_from_slice(bytes);
        state.waiting.extend_from_slice(end);
        state.done = true;
        drop(state);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there is the end of the recording, not of the loop.
            let _ = thread.join();
        }
    }
}

struct Writer<W> {
    output: W,
    written: u64,
    limit: Option<u64>,
    shared: Arc<Shared>,
}

impl<W: Write> Writer<W> {
    /// Writes until nothing more comes.
    fn run(&mut self) -> Result<(), String> {
        loop {
            let (chunk, done) = self.wait();
            if !chunk.is_empty() {
                self.write(&chunk)?;
            }
            if done {
                return self.output.flush().map_err(|error| error.to_string());
            }
        }
    }

    /// Waits for the next chunk, and for a while so that it becomes longer.
    fn wait(&self) -> (Vec<u8>, bool) {
        let mut state = self.shared.lock();
        while state.waiting.is_empty() && !state.done {
            state.idle = true;
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let is_short = |state: &mut State| state.waiting.len() < SOON && !state.done;
        let waited = self.shared.wake.wait_timeout_while(state, PERIOD, is_short);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (std::mem::take(&mut state.waiting), state.done)
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), String> {
        let end = "its limit is reached";
        let len = 8 + chunk.len() as u64;
        // There has to be room for the end mark.
        if self.limit.is_some_and(|limit| self.written + len + 64 > limit) {
            write_chunk(&mut self.output, &end_record(end)).map_err(|error| error.to_string())?;
            return Err(end.to_owned());
        }
        write_chunk(&mut self.output, chunk).map_err(|error| error.to_string())?;
        self.written += len;
        Ok(())
    }
}
