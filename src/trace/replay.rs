mod comparison;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::reader::Ahead;
use super::{
    Difference, Event, Fault, ReadError, Reader, Recorder, Snapshot, SnapshotConnection, Stop,
    StopSign, Stream, Subject,
};
use crate::proto::State;
use crate::python::Monotonic;
use crate::reactor::{Close, Kernel, Liveness, Note, Ready, SnapshotTaker, Token, Wake};
use comparison::Comparison;

/// Bytes of streams that come later than their `recv`.
pub(crate) type LateBytes = BTreeMap<Stream, Vec<u8>>;

/// A kernel that gives the answers of a recording, and compares each call with the one that was
/// recorded. At the first difference, and at the end, it unwinds out of the loop.
pub struct ReplayKernel<R> {
    reader: Reader<R>,
    /// The last reading of the clock.
    now: Monotonic,
    /// The recorded loop also had deadlines of an admin endpoint, which is not replayed.
    has_admin: bool,
    /// Bytes of streams that were recorded later than their `recv`, as far as they are not yet received.
    late: LateBytes,
    /// Snapshots are compared: they are this build's.
    compares: bool,
    stop: StopSign,
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

impl<R: Read> ReplayKernel<R> {
    /// A kernel that answers from a recording. The sign tells why it unwound.
    pub fn new(reader: Reader<R>) -> (Self, StopSign) {
        let has_admin = reader.header().get("admin") == Some("yes");
        let stop = StopSign::default();
        let sign = stop.clone();
        let build = option_env!("BUILD_COMMIT");
        let compares = build.is_some() && reader.header().get("commit") == build;
        let (now, late) = (Monotonic::ZERO, BTreeMap::new());
        (Self { reader, now, has_admin, late, compares, stop }, sign)
    }

    /// The recording.
    pub const fn reader(&self) -> &Reader<R> {
        &self.reader
    }

    fn stop(&self, why: Stop) -> ! {
        self.stop.set(why);
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
        match self.reader.late([stream].into()) {
            Ok(found) => self.late.extend(found),
            Err(error) => self.stop(Stop::Unreadable(error)),
        }
        if !self.late.contains_key(&stream) {
            // The process was killed before.
            self.stop(Stop::End);
        }
    }

    /// The snapshot that the recording begins with; `None` if it is cut off in it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) fn begin_with_snapshot(&mut self) -> Result<Option<Snapshot>, ReadError> {
        let Some(snapshot) = self.reader.snapshot()? else { return Ok(None) };
        self.now = self.reader.now();
        Ok(Some(snapshot))
    }

    /// The bytes that stand for all of the PROXY headers of these connections but their last pieces, as far
    /// as they are known.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) fn headers(&mut self, snapshot: &Snapshot) -> Result<LateBytes, ReadError> {
        let has_none = |one: &&SnapshotConnection| one.presence.state == State::AwaitHeader;
        let wanted = snapshot.connections.iter().filter(has_none).map(|one| one.stream).collect();
        self.reader.late(wanted)
    }

    /// Goes on with bytes of headers that are still to be received.
    pub(crate) fn set_late(&mut self, late: LateBytes) {
        self.late = late;
    }

    /// Readings that only time turns decide nothing: a build may make others. Snapshots that are not
    /// compared are left out too.
    fn skip_timing(&mut self) {
        while matches!(self.next(), Event::Timing(_) | Event::Snapshot { .. } | Event::Present(..))
        {
            self.take();
        }
    }
}

impl<R: Read> Kernel for ReplayKernel<R> {
    type Listener = usize;
    type Stream = Stream;
    type AdminListener = ();

    fn now(&mut self) -> Monotonic {
        // The end, and what cannot be read, are for the next call.
        let event = self.reader.peek().ok().flatten().map(|ahead| &ahead.event);
        if let Some(Event::Clock(now) | Event::Timing(now)) = event {
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

    /// Also if it compares none: to take one puts the loop's free slots in order.
    fn wants_snapshot(&mut self) -> bool {
        loop {
            match self.reader.peek() {
                // A reading that timed the end of the turn before.
                Ok(Some(Ahead { event: Event::Timing(_), .. })) => drop(self.reader.take()),
                Ok(Some(Ahead { event: Event::Snapshot { .. }, .. })) => return true,
                _ => return false,
            }
        }
    }

    fn snapshot(
        &mut self,
        take: impl FnOnce(&mut dyn SnapshotTaker<Stream>) -> Result<(), String>,
    ) {
        if let Err(fault) = take(&mut Comparison::new(self)) {
            self.differ(format!("snapshot: {fault}"), None);
        }
    }

    fn replayed(&mut self, wanted: fn(&Note) -> bool) -> Option<Note> {
        // At the end there is nothing to repeat, and the loop may still have to end.
        let ahead = self.reader.peek().ok().flatten()?;
        match &ahead.event {
            Event::Note(note) if note.is_input() && wanted(note) => {
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

#[cfg(test)]
mod tests;
