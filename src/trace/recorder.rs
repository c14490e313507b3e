use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::guise::Guise;
use super::mask::Mask;
use super::sink::{FileSink, Limit, OnEnd, Segments, Sink};
use super::snapshot::Taker;
use super::tape::{Recorded, Ring, Tape, begin, end_once, of_ring};
use super::{Event, Fault, Header, Stream, Subject};
use crate::metrics::Process;
use crate::proto::Protocol;
use crate::python::Monotonic;
use crate::reactor::{Adopt, Close, Kernel, Liveness, Note, Ready, SnapshotTaker, Token, Wake};

/// A kernel whose calls are recorded, with their answers.
///
/// What must not be in a file is replaced by something else of the same length: challenges and digests
/// always, by such as are made with a public key; addresses always, by numbered ones; payload unless it
/// is asked for. The calls of the admin endpoint are left out: they decide nothing about connections, and
/// what administrators do to these is recorded by itself.
///
/// Recording never blocks the loop. When it cannot go on it ends, and says so once.
pub struct Recorder<K> {
    kernel: K,
    /// The reading, in nanoseconds, that the loop has for zero: a recording does not tell how long the machine
    /// has run.
    zero: u64,
    /// `None` once the recording has ended.
    tape: Option<Box<Tape>>,
    /// The last of a recording that ended before its loop may still have to be written.
    ending: Option<Sink>,
}

/// Options of a recording.
#[derive(Default)]
pub struct RecordOptions {
    /// The first lines, among them the settings of the loop: from
    /// [`build_workers_over`](crate::server::ServerBuilder::build_workers_over) or
    /// [`recording_header`](crate::server::recording_header).
    pub header: Header,
    /// Keeps the payload too, as it was received.
    pub keeps_payload: bool,
    /// Maximum length in bytes of the file, at which the recording ends, or of two segments.
    pub limit: Option<u64>,
}

/// A listener with its name.
#[derive(Debug)]
pub struct RecordedListener<L> {
    listener: L,
    subject: Subject,
}

/// A listener that is not registered.
impl<L> From<L> for RecordedListener<L> {
    fn from(listener: L) -> Self {
        Self { listener, subject: Subject::Listener(0) }
    }
}

impl<L: AsFd> AsFd for RecordedListener<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl<K: Kernel> Recorder<K> {
    /// Records into a file, which a thread of its own writes. `on_end` is called, on whatever thread, if
    /// the recording ends before the loop.
    ///
    /// # Errors
    /// If the first lines cannot be written, or the thread cannot start.
    pub fn to_file(
        kernel: K,
        output: impl Write + Send + 'static,
        options: RecordOptions,
        on_end: OnEnd,
    ) -> io::Result<Self> {
        let (mask, header, proxied) = begin(options.header, options.keeps_payload);
        let lines = header.to_bytes();
        let start = |on_end| FileSink::start(output, &lines, options.limit, on_end);
        Self::start(kernel, start, mask, proxied, on_end, None)
    }

    /// Records into segments, of which the last two are no longer than the limit of the options together:
    /// each begins with a snapshot of the loop, so that its end can be replayed without its beginning. A
    /// snapshot costs a fraction of a microsecond for each connection, in one turn. It has what
    /// [`Handler::save`](crate::proto::Handler::save) writes as it is: if that is payload, it has payload.
    /// If a handler cannot be saved, the recording ends at its first snapshot.
    ///
    /// # Errors
    /// Those of [`to_file`](Self::to_file), and without a limit.
    pub fn to_segments(
        mut kernel: K,
        output: impl Segments + 'static,
        options: RecordOptions,
        on_end: OnEnd,
    ) -> io::Result<Self> {
        let limit = options.limit.ok_or(io::ErrorKind::InvalidInput)?;
        // It tells the segments of two recordings apart.
        let run = kernel.random_below(u64::MAX);
        let (mask, header, proxied) = begin(options.header, options.keeps_payload);
        let lines = of_ring(header.clone(), run, 1).to_bytes();
        let ring = Ring::new(header, run, limit, lines.len() as u64);
        let start = |on_end| FileSink::start_ring(output, &lines, Limit::Ring(limit), on_end);
        Self::start(kernel, start, mask, proxied, on_end, Some(ring))
    }

    fn start(
        mut kernel: K,
        start: impl FnOnce(OnEnd) -> io::Result<FileSink>,
        mask: Mask,
        proxied: Vec<bool>,
        on_end: OnEnd,
        ring: Option<Ring>,
    ) -> io::Result<Self> {
        let once = Arc::new(Mutex::new(Some(on_end)));
        let of_thread = Arc::clone(&once);
        let sink = start(Box::new(move |why| end_once(&of_thread, why)))?;
        let tape = Tape::new(Sink::File(sink), mask, proxied, Some(once), ring);
        let zero = kernel.now().as_nanos();
        Ok(Self { kernel, zero, tape: Some(Box::new(tape)), ending: None })
    }

    /// Records into memory, where the file is as it grows, in whole chunks.
    pub fn to_memory(kernel: K, options: RecordOptions) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let (mask, header, proxied) = begin(options.header, options.keeps_payload);
        let file = Arc::new(Mutex::new(header.to_bytes()));
        let sink = Sink::Memory { chunk: Vec::new(), file: Arc::clone(&file) };
        let tape = Tape::new(sink, mask, proxied, None, None);
        (Self { kernel, zero: 0, tape: Some(Box::new(tape)), ending: None }, file)
    }

    /// Passes calls on and records nothing.
    pub const fn off(kernel: K) -> Self {
        Self { kernel, zero: 0, tape: None, ending: None }
    }

    #[inline]
    fn write(&mut self, event: &Event) {
        if let Some(tape) = &mut self.tape {
            tape.encoder.event(event);
        }
    }

    /// Between two turns: hands over what was written.
    #[inline]
    fn hand_over(&mut self) {
        if let Some(tape) = &mut self.tape
            && let Err(why) = tape.hand_over()
        {
            self.end(&why);
        }
    }

    /// Ends the recording before its loop.
    #[cold]
    fn end(&mut self, why: &str) {
        if let Some(mut tape) = self.tape.take() {
            tape.end(why);
            self.ending = Some(tape.sink);
        }
    }
}

impl<K> Drop for Recorder<K> {
    /// The end of the loop, also by a panic.
    fn drop(&mut self) {
        if let Some(mut tape) = self.tape.take() {
            let why = if std::thread::panicking() { "the loop panicked" } else { "" };
            let bytes = std::mem::take(&mut tape.encoder.out);
            tape.sink.finish(&bytes, why, true);
        }
        if let Some(sink) = &mut self.ending {
            sink.wait();
        }
    }
}

impl<K> Deref for Recorder<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.kernel
    }
}

impl<K> DerefMut for Recorder<K> {
    fn deref_mut(&mut self) -> &mut K {
        &mut self.kernel
    }
}

/// Sockets move as they are. What arrives is not recorded: a recording begins with its loop. So does the
/// clock of a recorder to a file: deadlines do not survive a move from it to another kernel, and a move to
/// it is refused.
impl<K: Adopt> Adopt for Recorder<K> {
    type Moved = K::Moved;

    fn adopt_listener(&mut self, socket: K::Moved) -> io::Result<Self::Listener> {
        self.kernel.adopt_listener(socket).map(RecordedListener::from)
    }

    fn adopt_stream(&mut self, socket: K::Moved) -> Self::Stream {
        Recorded::off(self.kernel.adopt_stream(socket))
    }

    fn adopt_admin_listener(&mut self, socket: K::Moved) -> io::Result<K::AdminListener> {
        self.kernel.adopt_admin_listener(socket)
    }

    fn has_file(&self, listener: &K::AdminListener) -> bool {
        self.kernel.has_file(listener)
    }

    fn own_file(&mut self, listener: &mut K::AdminListener) {
        self.kernel.own_file(listener);
    }

    fn share(&self, listener: &K::Moved) -> io::Result<K::Moved> {
        self.kernel.share(listener)
    }

    fn release(&mut self, stream: Self::Stream) {
        self.kernel.release(stream.stream);
    }

    fn release_listener(&mut self, listener: Self::Listener) {
        self.kernel.release_listener(listener.listener);
    }

    fn release_admin_listener(&mut self, listener: K::AdminListener) {
        self.kernel.release_admin_listener(listener);
    }
}

/// A result as a recording has it.
fn outcome<T: Copy>(result: &io::Result<T>) -> Result<T, Fault> {
    result.as_ref().copied().map_err(Fault::from)
}

impl<K: Kernel> Kernel for Recorder<K> {
    type Listener = RecordedListener<K::Listener>;
    type Stream = Recorded<K::Stream>;
    type AdminListener = K::AdminListener;

    fn now(&mut self) -> Monotonic {
        let now = Monotonic::from_nanos(self.kernel.now().as_nanos().saturating_sub(self.zero));
        if let Some(tape) = &mut self.tape {
            let event = match std::mem::take(&mut tape.polled) {
                true => Event::Clock(now),
                false => Event::Timing(now),
            };
            tape.encoder.event(&event);
        }
        now
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        self.hand_over();
        let Self { kernel, tape, .. } = self;
        let Some(tape) = tape else { return kernel.poll(timeout, on_event) };
        tape.encoder.event(&Event::Poll(timeout));
        let encoder = &mut tape.encoder;
        let result = kernel.poll(timeout, |token, ready| {
            let subject = Subject::from(token);
            if !matches!(subject, Subject::Admin(_)) {
                encoder.event(&Event::Ready(subject, ready));
            }
            on_event(token, ready);
        });
        if let Err(error) = &result {
            tape.encoder.event(&Event::PollFailed(error.into()));
        }
        tape.polled = true;
        result
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.kernel.waker()
    }

    fn catch_signals(&mut self, signals: &[i32]) -> io::Result<()> {
        self.kernel.catch_signals(signals)
    }

    fn next_signal(&mut self) -> Option<i32> {
        let signal = self.kernel.next_signal();
        self.write(&Event::Signal(signal));
        signal
    }

    fn register_listener(&mut self, listener: &mut Self::Listener, token: Token) -> io::Result<()> {
        listener.subject = token.into();
        let result = self.kernel.register_listener(&mut listener.listener, token);
        self.write(&Event::Listen(listener.subject, outcome(&result)));
        result
    }

    fn register(&mut self, stream: &mut Self::Stream, token: Token) -> io::Result<()> {
        let result = self.kernel.register(&mut stream.stream, token);
        if let Some(tape) = &mut self.tape
            && stream.number > 0
        {
            stream.guise = Guise::new(&tape.mask, stream.proxied);
            let event = Event::Register(Stream(stream.number), token.into(), outcome(&result));
            tape.encoder.event(&event);
        }
        result
    }

    fn accept(
        &mut self,
        listener: &mut Self::Listener,
    ) -> io::Result<(Self::Stream, Option<SocketAddr>)> {
        let result = self.kernel.accept(&mut listener.listener);
        let subject = listener.subject;
        let Some(tape) = &mut self.tape else {
            return result.map(|(stream, peer)| (Recorded::off(stream), peer));
        };
        match result {
            Ok((stream, peer)) => {
                let recorded = tape.next_stream(stream, tape.is_proxied(subject));
                let masked = tape.accepted(subject, peer);
                let event = Event::Accept(subject, Ok((Stream(recorded.number), masked)));
                tape.encoder.event(&event);
                Ok((recorded, peer))
            }
            Err(error) => {
                tape.encoder.event(&Event::Accept(subject, Err(Fault::from(&error))));
                Err(error)
            }
        }
    }

    fn register_admin_listener(
        &mut self,
        listener: &mut Self::AdminListener,
        token: Token,
    ) -> io::Result<()> {
        self.kernel.register_admin_listener(listener, token)
    }

    fn accept_admin(&mut self, listener: &mut Self::AdminListener) -> io::Result<Self::Stream> {
        self.kernel.accept_admin(listener).map(Recorded::off)
    }

    fn shed(&mut self, listener: &mut Self::Listener) -> io::Result<()> {
        let result = self.kernel.shed(&mut listener.listener);
        self.write(&Event::Shed(listener.subject, outcome(&result)));
        result
    }

    #[inline]
    fn recv(&mut self, stream: &mut Self::Stream, data: &mut [u8]) -> io::Result<usize> {
        let result = self.kernel.recv(&mut stream.stream, data);
        if let Some(tape) = &mut self.tape
            && stream.number > 0
        {
            tape.received(stream, data, &result);
        }
        result
    }

    #[inline]
    fn send(&mut self, stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize> {
        let result = self.kernel.send(&mut stream.stream, data);
        if let Some(tape) = &mut self.tape
            && stream.number > 0
        {
            if tape.held > 0 {
                // The only other verdict in a frame is #WELCOME#.
                tape.judged(&mut stream.guise, data.get(4..13) != Some(b"#FAILURE#"));
            }
            let is_tutorial = tape.mask.protocol != Protocol::Multiprocessing;
            if tape.mask.keeps_payload && is_tutorial && stream.guise.is_payload() {
                tape.encoder.sum(data);
            }
            let (number, len) = (Stream(stream.number), data.len());
            let result = outcome(&result);
            tape.encoder.event(&Event::Send { stream: number, len, result });
        }
        result
    }

    fn shutdown(&mut self, stream: &mut Self::Stream) -> io::Result<()> {
        let result = self.kernel.shutdown(&mut stream.stream);
        if stream.number > 0 {
            self.write(&Event::Shutdown(Stream(stream.number), outcome(&result)));
        }
        result
    }

    fn close(&mut self, mut stream: Self::Stream, how: Close) {
        self.kernel.close(stream.stream, how);
        if let Some(tape) = &mut self.tape
            && stream.number > 0
        {
            tape.judged(&mut stream.guise, true);
            if let Some(late) = stream.guise.unfinished() {
                tape.encoder.late(stream.number, &late);
            }
            tape.encoder.event(&Event::Close(Stream(stream.number), how));
        }
    }

    fn liveness(&mut self, stream: &mut Self::Stream) -> io::Result<Liveness> {
        let result = self.kernel.liveness(&mut stream.stream);
        self.write(&Event::Liveness(Stream(stream.number), outcome(&result)));
        result
    }

    fn probe(&mut self, stream: &mut Self::Stream) {
        self.kernel.probe(&mut stream.stream);
        self.write(&Event::Probe(Stream(stream.number)));
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        let drawn = self.kernel.random_below(limit);
        self.write(&Event::RandomBelow { limit, drawn });
        drawn
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let result = self.kernel.fill_random(bytes);
        if let Some(tape) = &mut self.tape {
            tape.encoder.event(&Event::FillRandom(bytes.len(), outcome(&result)));
            if result.is_ok() {
                let drawn = tape.mask.draw(bytes.len());
                tape.encoder.out.extend_from_slice(drawn);
            }
        }
        result
    }

    fn note(&mut self, note: impl FnOnce() -> Note) {
        let note = note();
        self.kernel.note(|| note.clone());
        if let Some(tape) = &mut self.tape {
            tape.note(note);
        }
    }

    fn replayed(&mut self, wanted: fn(&Note) -> bool) -> Option<Note> {
        let note = self.kernel.replayed(wanted)?;
        // A tick is noted by the loop itself.
        if let Some(tape) = &mut self.tape
            && !matches!(note, Note::Tick(_))
        {
            tape.note(note.clone());
        }
        Some(note)
    }

    #[inline]
    fn wants_snapshot(&mut self) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.wants_snapshot())
    }

    fn snapshot(
        &mut self,
        take: impl FnOnce(&mut dyn SnapshotTaker<Self::Stream>) -> Result<(), String>,
    ) {
        let Some(tape) = &mut self.tape else { return };
        let mut taker = Taker::new(tape);
        let taken = take(&mut taker);
        let (segment, encoder) = taker.finish();
        if let Err(why) = taken.and_then(|()| tape.begin_next(segment, encoder)) {
            self.end(&why);
        }
    }

    fn process(&self) -> Option<Process> {
        self.kernel.process()
    }
}

#[cfg(test)]
mod tests;
