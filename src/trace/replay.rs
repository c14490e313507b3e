use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::file::{Ahead, ReadError, Reader};
use super::{Event, Fault, Recorder, Stream, Subject};
use crate::python::Monotonic;
use crate::reactor::{Close, Kernel, Liveness, Note, Ready, Token, Wake};

/// A kernel that gives the answers of a recording, and compares each call with the one that was
/// recorded. At the first difference, and at the end, it unwinds out of the loop.
pub struct ReplayKernel<R> {
    reader: Reader<R>,
    /// The last reading of the clock.
    now: Monotonic,
    /// The recorded loop also had deadlines of an admin endpoint, which is not replayed.
    has_admin: bool,
    /// Bytes of streams that were recorded later than their `recv`, as far as they are not yet received.
    late: HashMap<Stream, Vec<u8>>,
    stop: Arc<Mutex<Option<Stop>>>,
}

/// A kernel that replays, or stands above one that does.
pub trait Replays: Kernel {
    /// Returns true if there is more to replay.
    ///
    /// # Errors
    /// [`ReadError`].
    fn goes_on(&mut self) -> Result<bool, ReadError>;
}

impl<R: Read> Replays for ReplayKernel<R> {
    fn goes_on(&mut self) -> Result<bool, ReadError> {
        Ok(self.reader.peek()?.is_some())
    }
}

impl<K: Replays> Replays for Recorder<K> {
    fn goes_on(&mut self) -> Result<bool, ReadError> {
        (**self).goes_on()
    }
}

/// The reason why a replay stopped.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stop {
    /// There is nothing more to replay.
    End,
    /// The loop made another call than the recorded one, or decided otherwise.
    Different(Difference),
    /// The recording cannot be read on.
    Unreadable(ReadError),
}

/// The first call in which a loop differs from a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The turn in which it made the call.
    pub turn: u64,
    /// Number of events before it.
    pub step: u64,
    /// The recorded event. `None` if the recording has no further one in a turn that it has.
    pub recorded: Event,
    /// The call of the loop, without an answer where there is none.
    pub called: String,
    /// The stream of the call, if it is about one.
    pub stream: Option<Stream>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { turn, step, recorded, called, .. } = self;
        write!(f, "turn {turn}, step {step}: recorded {recorded}, the loop called {called}")
    }
}

/// Knows why a replay stopped.
#[derive(Clone, Debug)]
pub struct StopSign(Arc<Mutex<Option<Stop>>>);

impl StopSign {
    /// The reason, once.
    pub fn take(&self) -> Option<Stop> {
        lock(&self.0).take()
    }
}

fn lock(stop: &Mutex<Option<Stop>>) -> MutexGuard<'_, Option<Stop>> {
    stop.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Read> ReplayKernel<R> {
    /// A kernel that answers from a recording. The sign tells why it unwound.
    pub fn new(reader: Reader<R>) -> (Self, StopSign) {
        let has_admin = reader.header().get("admin") == Some("yes");
        let stop = Arc::new(Mutex::new(None));
        let sign = StopSign(Arc::clone(&stop));
        (Self { reader, now: Monotonic::ZERO, has_admin, late: HashMap::new(), stop }, sign)
    }

    /// The recording.
    pub const fn reader(&self) -> &Reader<R> {
        &self.reader
    }

    fn stop(&self, why: Stop) -> ! {
        *lock(&self.stop) = Some(why);
        std::panic::resume_unwind(Box::new(()));
    }

    /// The next event, which stays the next.
    fn next(&mut self) -> &Event {
        // Looked at twice, because a reference cannot be returned from within the match.
        match self.reader.peek() {
            Ok(Some(_)) => {}
            Ok(None) => self.stop(Stop::End),
            Err(error) => self.stop(Stop::Unreadable(error)),
        }
        &self.reader.peek().ok().flatten().expect("it was there just now").event
    }

    fn take(&mut self) -> Ahead {
        self.next();
        self.reader.take().expect("it was there just now")
    }

    fn differ(&mut self, called: String, stream: Option<Stream>) -> ! {
        let recorded = self.next().clone();
        let (turn, step) = (self.reader.turn(), self.reader.step());
        self.stop(Stop::Different(Difference { turn, step, recorded, called, stream }));
    }

    /// Takes the next event if it is the answer to a call.
    ///
    /// `called` is the call as an event; its answer does not matter.
    fn answer<T>(
        &mut self,
        called: impl FnOnce() -> Event,
        matching: impl FnOnce(&Event) -> Option<T>,
    ) -> (T, Ahead) {
        self.skip_timing();
        match matching(self.next()) {
            Some(found) => (found, self.take()),
            None => {
                let called = called();
                self.differ(called.call(), called.stream())
            }
        }
    }

    /// Finds the bytes of a stream that were recorded later than their `recv`.
    fn await_bytes(&mut self, stream: Stream) {
        if self.late.contains_key(&stream) {
            return;
        }
        match self.reader.late(stream) {
            Ok(Some(bytes)) => drop(self.late.insert(stream, bytes)),
            // The process was killed before.
            Ok(None) => self.stop(Stop::End),
            Err(error) => self.stop(Stop::Unreadable(error)),
        }
    }

    /// Readings that only time turns decide nothing: a build may make others.
    fn skip_timing(&mut self) {
        while matches!(self.next(), Event::Timing(_)) {
            self.take();
        }
    }
}

impl<R: Read> Kernel for ReplayKernel<R> {
    type Listener = usize;
    type Stream = Stream;
    type AdminListener = ();

    fn now(&mut self) -> Monotonic {
        if let Event::Clock(now) | Event::Timing(now) = self.next() {
            self.now = *now;
            self.take();
        }
        self.now
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        let has_admin = self.has_admin;
        self.answer(
            || Event::Poll(timeout),
            |event| match event {
                Event::Poll(recorded) if *recorded == timeout => Some(()),
                Event::Poll(Some(recorded))
                    if has_admin && timeout.is_none_or(|it| *recorded < it) =>
                {
                    Some(())
                }
                _ => None,
            },
        );
        loop {
            match self.next() {
                Event::Ready(subject, ready) => {
                    let (subject, ready) = (*subject, *ready);
                    self.take();
                    on_event(token(subject), ready);
                }
                Event::PollFailed(fault) => {
                    let fault = *fault;
                    self.take();
                    return Err(fault.to_error());
                }
                _ => return Ok(()),
            }
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Asleep)
    }

    fn catch_signals(&mut self, _signals: &[i32]) -> io::Result<()> {
        Ok(())
    }

    fn next_signal(&mut self) -> Option<i32> {
        let called = || Event::Signal(None);
        self.answer(called, |event| match event {
            Event::Signal(signal) => Some(*signal),
            _ => None,
        })
        .0
    }

    fn register_listener(&mut self, listener: &mut usize, token: Token) -> io::Result<()> {
        let subject = Subject::from(token);
        if let Subject::Listener(index) = subject {
            *listener = index;
        }
        let called = || Event::Listen(subject, Ok(()));
        let (result, _) = self.answer(called, |event| match event {
            Event::Listen(recorded, result) if *recorded == subject => Some(*result),
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn register(&mut self, stream: &mut Stream, token: Token) -> io::Result<()> {
        let (stream, subject) = (*stream, Subject::from(token));
        let called = || Event::Register(stream, subject, Ok(()));
        let (result, _) = self.answer(called, |event| match event {
            Event::Register(one, name, result) if (*one, *name) == (stream, subject) => {
                Some(*result)
            }
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn accept(&mut self, listener: &mut usize) -> io::Result<(Stream, Option<SocketAddr>)> {
        let subject = Subject::Listener(*listener);
        let called = || Event::Accept(subject, Err(Fault::WOULD_BLOCK));
        let (result, _) = self.answer(called, |event| match event {
            Event::Accept(recorded, result) if *recorded == subject => Some(*result),
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn register_admin_listener(&mut self, _listener: &mut (), _token: Token) -> io::Result<()> {
        Ok(())
    }

    fn accept_admin(&mut self, _listener: &mut ()) -> io::Result<Stream> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shed(&mut self, listener: &mut usize) -> io::Result<()> {
        let subject = Subject::Listener(*listener);
        let called = || Event::Shed(subject, Ok(()));
        let (result, _) = self.answer(called, |event| match event {
            Event::Shed(recorded, result) if *recorded == subject => Some(*result),
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn recv(&mut self, stream: &mut Stream, data: &mut [u8]) -> io::Result<usize> {
        let (stream, len) = (*stream, data.len());
        let called = || Event::Recv { stream, room: len, result: Ok(0) };
        let (result, ahead) = self.answer(called, |event| match event {
            Event::Recv { stream: one, room, result } if (*one, *room) == (stream, len) => {
                Some(*result)
            }
            _ => None,
        });
        if ahead.data.is_awaited() {
            self.await_bytes(stream);
        }
        let late = self.late.get_mut(&stream);
        ahead.data.copy_to(data, late.unwrap_or(&mut Vec::new()));
        result.map_err(Fault::to_error)
    }

    fn send(&mut self, stream: &mut Stream, data: &[u8]) -> io::Result<usize> {
        let stream = *stream;
        let called = || Event::Send { stream, len: data.len(), result: Ok(0) };
        self.skip_timing();
        let sum = self.reader.peek().ok().flatten().and_then(|ahead| ahead.sum);
        if sum.is_some_and(|sum| sum != crc32fast::hash(data)) {
            self.differ(called().call() + ", with other bytes", Some(stream));
        }
        let (result, _) = self.answer(called, |event| match event {
            Event::Send { stream: one, len, result } if (*one, *len) == (stream, data.len()) => {
                Some(*result)
            }
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn shutdown(&mut self, stream: &mut Stream) -> io::Result<()> {
        let stream = *stream;
        let called = || Event::Shutdown(stream, Ok(()));
        let (result, _) = self.answer(called, |event| match event {
            Event::Shutdown(one, result) if *one == stream => Some(*result),
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn close(&mut self, stream: Stream, how: Close) {
        let closed = Event::Close(stream, how);
        self.answer(|| closed.clone(), |event| (*event == closed).then_some(()));
        self.late.remove(&stream);
    }

    fn liveness(&mut self, stream: &mut Stream) -> io::Result<Liveness> {
        let stream = *stream;
        let called = || Event::Liveness(stream, Err(Fault::WOULD_BLOCK));
        let (result, _) = self.answer(called, |event| match event {
            Event::Liveness(one, result) if *one == stream => Some(*result),
            _ => None,
        });
        result.map_err(Fault::to_error)
    }

    fn probe(&mut self, stream: &mut Stream) {
        let probed = Event::Probe(*stream);
        self.answer(|| probed.clone(), |event| (*event == probed).then_some(()));
    }

    fn random_below(&mut self, below: u64) -> u64 {
        let called = || Event::RandomBelow { limit: below, drawn: 0 };
        self.answer(called, |event| match event {
            Event::RandomBelow { limit, drawn } if *limit == below => Some(*drawn),
            _ => None,
        })
        .0
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let wanted = bytes.len();
        let called = || Event::FillRandom(wanted, Ok(()));
        let (result, ahead) = self.answer(called, |event| match event {
            Event::FillRandom(len, result) if *len == wanted => Some(*result),
            _ => None,
        });
        ahead.data.copy_to(bytes, &mut Vec::new());
        result.map_err(Fault::to_error)
    }

    /// What the loop decides has to be what it decided.
    fn note(&mut self, note: impl FnOnce() -> Note) {
        let note = note();
        // It was taken out of the recording.
        if note.is_input() {
            return;
        }
        let called = || Event::Note(note.clone());
        self.answer(called, |event| match (event, &note) {
            // Digests that came in pieces are replayed with the first key, and no recording has a header.
            (Event::Note(Note::Authenticated(one, _)), Note::Authenticated(other, _))
            | (Event::Note(Note::Proxied(one, _)), Note::Proxied(other, _)) => {
                (one == other).then_some(())
            }
            (Event::Note(recorded), note) => (recorded == note).then_some(()),
            _ => None,
        });
    }

    fn replayed(&mut self) -> Option<Note> {
        // At the end there is nothing to repeat, and the loop may still have to end.
        let ahead = self.reader.peek().ok().flatten()?;
        match &ahead.event {
            Event::Note(note) if note.is_input() => {
                let note = note.clone();
                self.take();
                Some(note)
            }
            _ => None,
        }
    }
}

/// Nothing wakes a replay: its events come from the recording.
struct Asleep;

impl Wake for Asleep {
    fn wake(&self) {}
}

fn token(subject: Subject) -> Token {
    match subject {
        Subject::Wake => Token::WAKE,
        Subject::Signal => Token::SIGNAL,
        Subject::Listener(index) => Token::listener(index.min(1 << 20)),
        #[allow(clippy::cast_possible_truncation)] // Another number is no part's.
        Subject::Admin(number) => Token::admin(number as u8),
        Subject::Connection(id) => Token::connection(id),
    }
}
