//! The frame of a recording: its first lines, and chunks of whole turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read, Write};

use super::damage::changed_byte;
use super::decode::{Data, Decoder, Record};
use super::encode::kind;
use super::{Event, Snapshot, SnapshotConnection, Step, Stream};
use crate::python::Monotonic;
use crate::reactor::Parts;

/// The first line of a recording.
const MAGIC: &str = "saltecho recording 1";
/// The part of it that every version has.
const MAGIC_OF_ANY: &str = "saltecho recording ";
/// The end of a segment whose next one is not there.
const NO_NEXT: &str = "its next segment is not there";
/// Maximum length of the lines before the first chunk, in bytes.
const MAX_HEADER: u64 = 64 << 10;
/// Maximum length of a chunk in bytes.
pub(super) const MAX_CHUNK: usize = 64 << 20;

/// The lines before the first event: names and values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header(Vec<(String, String)>);

impl Header {
    /// The first bytes of every recording.
    pub const BEGIN: &str = MAGIC_OF_ANY;

    /// Without a line.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a line. Neither part may have a line break, nor the name an equals sign.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value.into());
        self
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The number of the segment that these lines begin, from 1; `None` if the recording has none.
    /// Others than the first begin with a snapshot.
    pub fn segment(&self) -> Option<u64> {
        self.get("segment")?.parse().ok()
    }

    /// The value of a line.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The file's bytes up to the first chunk.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{MAGIC}\n");
        for (name, value) in &self.0 {
            text.extend([name, "=", value, "\n"]);
        }
        text.push('\n');
        text.into_bytes()
    }

    fn read(input: &mut impl Read) -> Result<Self, ReadError> {
        let (mut input, mut text) = (input.take(MAX_HEADER), Vec::new());
        while !text.ends_with(b"\n\n") {
            let mut byte = [0];
            if input.read(&mut byte)? == 0 || !MAGIC_OF_ANY.starts_with_prefix(&text) {
                return Err(ReadError::NoRecording);
            }
            text.push(byte[0]);
        }
        let text = String::from_utf8(text).map_err(|_| ReadError::NoRecording)?;
        let mut lines = text.lines();
        let magic = lines.next().unwrap_or_default();
        if magic != MAGIC {
            let version = magic.strip_prefix(MAGIC_OF_ANY).ok_or(ReadError::NoRecording)?;
            return Err(ReadError::Version(version.chars().take(20).collect()));
        }
        let mut header = Self::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').ok_or(ReadError::NoRecording)?;
            header.set(name, value.to_owned());
        }
        Ok(header)
    }
}

trait PrefixOf {
    /// Returns true if these bytes begin like this text, as far as they go.
    fn starts_with_prefix(&self, bytes: &[u8]) -> bool;
}

impl PrefixOf for str {
    fn starts_with_prefix(&self, bytes: &[u8]) -> bool {
        let len = self.len().min(bytes.len());
        self.as_bytes()[..len] == bytes[..len]
    }
}

/// Writes a chunk. Its sum tells damage from a difference.
pub(super) fn write_chunk(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).expect("a chunk is at most 64 MiB long");
    let mut head = [0; 8];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    output.write_all(&head)?;
    output.write_all(bytes)
}

/// A chunk of a recording with these bytes, for tests that make their own.
#[cfg(any(test, feature = "testing"))]
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_chunk(&mut out, bytes).expect("memory takes all");
    out
}

/// The record of a recording's end.
pub(super) fn end_record(why: &str) -> Vec<u8> {
    let mut encoder = super::encode::Encoder::default();
    encoder.byte(kind::END);
    encoder.bytes(why.as_bytes());
    encoder.out
}

/// The reason why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is something else.
    #[error("this is not a recording of `saltecho serve --record`")]
    NoRecording,
    /// The file has another format.
    #[error(
        "this recording has format {0}, and this build reads format 1: use the build that wrote it"
    )]
    Version(String),
    /// The bytes are not those that were written.
    #[error("the recording is damaged {}", place_of(*turn, *step, *offset, *segment))]
    Damaged {
        /// The turn of the step, or the last one before the chunk.
        turn: u64,
        /// The step, if one byte has changed and it can be told which.
        step: Option<u64>,
        /// The place in the file of the byte, or of the chunk.
        offset: u64,
        /// Segments before that file.
        segment: usize,
    },
    /// The file cannot be read.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] io::Error),
}

fn place_of(turn: u64, step: Option<u64>, offset: u64, segment: usize) -> String {
    let file = match segment {
        0 => String::new(),
        1 => " of its next segment".to_owned(),
        more => format!(" of segment {}", more + 1),
    };
    match step {
        Some(step) => format!("at byte {offset}{file}, in step {step}, in turn {turn}"),
        None => format!("after turn {turn}, in the chunk at byte {offset}{file}"),
    }
}

/// How a recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the loop.
    Complete,
    /// Before it, for this reason.
    Stopped(String),
    /// Without a mark: the process was killed, or the file cut off.
    Cut,
}

/// Reads the events of a recording of unknown origin. Its memory is bounded by the longest chunk.
pub struct Reader<R> {
    input: R,
    header: Header,
    chunk: Vec<u8>,
    /// Chunks that were read in search of bytes that come late.
    chunks_ahead: VecDeque<Vec<u8>>,
    /// The part of the chunk that was read.
    at: usize,
    /// The place of the next chunk in the file.
    offset: u64,
    chunk_offset: u64,
    decoder: Decoder,
    /// The segments behind this one, each with the place of its first chunk.
    following: VecDeque<(R, u64)>,
    /// The number of the last segment, if the recording has segments.
    last: Option<u64>,
    /// There was one behind the first.
    has_next: bool,
    /// Segments that were read to their end.
    segments_read: usize,
    /// The last record says that the recording goes on in another segment.
    goes_on: bool,
    ahead: Option<Ahead>,
    now: Monotonic,
    turn: u64,
    step: u64,
    ending: Option<Ending>,
}

/// An event with what belongs to it.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) event: Event,
    pub(super) data: Data,
    /// The sum of what `send` was given.
    pub(super) sum: Option<u32>,
}

impl<R: Read> Reader<R> {
    /// Reads the first lines. Give it a buffered reader.
    ///
    /// # Errors
    /// [`ReadError`] if it is not a recording, or one of another format.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let header = Header::read(&mut input)?;
        let (offset, last) = (header.to_bytes().len() as u64, header.segment());
        Ok(Self {
            input,
            header,
            chunk: Vec::new(),
            chunks_ahead: VecDeque::new(),
            at: 0,
            offset,
            chunk_offset: offset,
            decoder: Decoder::default(),
            following: VecDeque::new(),
            last,
            has_next: false,
            segments_read: 0,
            goes_on: false,
            ahead: None,
            now: Monotonic::ZERO,
            turn: 0,
            step: 0,
            ending: None,
        })
    }

    /// Reads on behind its end in the next segment of the recording. Returns whether this is the next one;
    /// else it is left out.
    pub fn follow(&mut self, mut next: R) -> bool {
        let Ok(header) = Header::read(&mut next) else { return false };
        let number = self.last.map(|number| number.saturating_add(1));
        let run = |header: &Header| header.get("run").map(str::to_owned);
        let is_next =
            number.is_some() && number == header.segment() && run(&self.header) == run(&header);
        if is_next {
            self.following.push_back((next, header.to_bytes().len() as u64));
            (self.last, self.has_next) = (number, true);
        }
        is_next
    }

    /// The lines before the first event.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Number of turns that have begun.
    pub const fn turn(&self) -> u64 {
        self.turn
    }

    /// The last reading of the clock.
    pub(super) const fn now(&self) -> Monotonic {
        self.now
    }

    /// Number of events read, but for snapshots.
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// How the recording ends, once there is no further event.
    pub const fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The next event, with its time. `None` at the end. Snapshots between segments are left out: only the
    /// first of a recording that begins with one is told.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`].
    pub fn next_step(&mut self) -> Result<Option<Step>, ReadError> {
        loop {
            self.peek()?;
            let Some(ahead) = self.take() else { return Ok(None) };
            if self.step == 0 || !is_of_snapshot(&ahead.event) {
                return Ok(Some(Step { at: self.now, event: ahead.event }));
            }
        }
    }

    /// The next event, which stays the next.
    pub(super) fn peek(&mut self) -> Result<Option<&Ahead>, ReadError> {
        let mut sum = None;
        while self.ahead.is_none() && self.ending.is_none() {
            if self.at == self.chunk.len() && !self.next_chunk()? {
                self.ending = Some(match self.goes_on && !self.has_next {
                    true => Ending::Stopped(NO_NEXT.to_owned()),
                    false => Ending::Cut,
                });
                break;
            }
            let next = self.decoder.next(&self.chunk[self.at..]);
            let Some((record, data, len)) = next else {
                return Err(self.damaged(self.chunk_offset));
            };
            self.at += len;
            match record {
                Record::Event(event) => self.ahead = Some(Ahead { event, data, sum }),
                Record::Sum(one) => sum = Some(one),
                // Found when its first byte was awaited.
                Record::Late(..) => {}
                Record::End(why) if why.is_empty() => self.ending = Some(Ending::Complete),
                Record::End(why) => self.ending = Some(Ending::Stopped(why)),
                Record::GoesOn => self.goes_on = true,
            }
        }
        Ok(self.ahead.as_ref())
    }

    /// Takes the event that was peeked at.
    pub(super) fn take(&mut self) -> Option<Ahead> {
        let ahead = self.ahead.take()?;
        self.step += u64::from(!is_of_snapshot(&ahead.event));
        match ahead.event {
            Event::Poll(_) => self.turn += 1,
            Event::Clock(now) | Event::Timing(now) => self.now = now,
            Event::Snapshot { turns, at, .. } => (self.turn, self.now) = (turns, at),
            _ => {}
        }
        Some(ahead)
    }

    /// The snapshot that the recording begins with: `None` if it is cut off in it.
    pub(super) fn snapshot(&mut self) -> Result<Option<Snapshot>, ReadError> {
        let mut snapshot = Snapshot::default();
        let Some(Event::Snapshot { turns, connections, .. }) = self.peek_event()? else {
            return Ok(None);
        };
        let connections = *connections;
        snapshot.turns = *turns;
        snapshot.parts = self.take_parts();
        while (snapshot.connections.len() as u64) < connections {
            let Some(Event::Present(stream, presence)) = self.peek_event()? else {
                return Ok(None);
            };
            let (stream, presence) = (*stream, *presence);
            let parts = self.take_parts();
            snapshot.connections.push(SnapshotConnection { stream, presence, parts });
        }
        Ok(Some(snapshot))
    }

    fn peek_event(&mut self) -> Result<Option<&Event>, ReadError> {
        Ok(self.peek()?.map(|ahead| &ahead.event))
    }

    /// Takes a part of a snapshot.
    fn take_parts(&mut self) -> Parts {
        match self.take().map(|ahead| ahead.data) {
            Some(Data::Parts(parts)) => parts,
            _ => Parts::default(),
        }
    }

    /// Looks ahead for the awaited bytes of streams; those that are not within reach are not in the
    /// result.
    pub(super) fn late(
        &mut self,
        mut wanted: BTreeSet<Stream>,
    ) -> Result<BTreeMap<Stream, Vec<u8>>, ReadError> {
        let mut found = BTreeMap::new();
        let (mut decoder, mut place) = (self.decoder.clone(), self.at);
        let mut index = 0;
        loop {
            let chunk = match index {
                0 => &self.chunk,
                _ => match self.chunks_ahead.get(index - 1) {
                    Some(chunk) => chunk,
                    None => return Ok(found),
                },
            };
            while place < chunk.len() && !wanted.is_empty() {
                // What is no record is reported when it is read.
                let Some((record, _, len)) = decoder.next(&chunk[place..]) else {
                    return Ok(found);
                };
                place += len;
                if let Record::Late(stream, bytes) = record
                    && wanted.remove(&stream)
                {
                    found.insert(stream, bytes);
                }
            }
            if wanted.is_empty() {
                return Ok(found);
            }
            (index, place) = (index + 1, 0);
            let held: usize = self.chunks_ahead.iter().map(Vec::len).sum();
            if index > self.chunks_ahead.len() && held < MAX_CHUNK {
                let offset = self.offset;
                match self.read_chunk()? {
                    Some(chunk) => self.chunks_ahead.push_back(chunk),
                    None => self.offset = offset,
                }
            }
        }
    }

    fn damaged(&self, offset: u64) -> ReadError {
        ReadError::Damaged { turn: self.turn, step: None, offset, segment: self.segments_read }
    }

    /// The damage of the chunk behind the current one, if it can be told which byte has changed.
    fn damaged_byte(&self, mut chunk: Vec<u8>, sum: u32) -> Option<ReadError> {
        // Chunks that were read ahead are not decoded yet, so their steps are not known.
        let is_next = self.at == self.chunk.len() && self.chunks_ahead.is_empty();
        let (at, bits) = changed_byte(&chunk, sum).filter(|_| is_next)?;
        chunk[at] ^= bits;
        let (mut decoder, mut place) = (self.decoder.clone(), 0);
        let (mut turn, mut step) = (self.turn, self.step);
        while place <= at {
            let (record, _, len) = decoder.next(&chunk[place..])?;
            place += len;
            if let Record::Event(event) = record {
                step += u64::from(!is_of_snapshot(&event));
                match event {
                    Event::Poll(_) => turn += 1,
                    Event::Snapshot { turns, .. } => turn = turns,
                    _ => {}
                }
            }
        }
        let offset = self.offset + 8 + at as u64;
        let segment = self.segments_read;
        Some(ReadError::Damaged { turn, step: Some(step), offset, segment })
    }

    /// Goes on to the next chunk; false if there is no whole one.
    fn next_chunk(&mut self) -> Result<bool, ReadError> {
        let chunk = match self.chunks_ahead.pop_front() {
            Some(chunk) => Some(chunk),
            None => self.read_chunk()?,
        };
        (self.at, self.chunk) = (0, chunk.unwrap_or_default());
        Ok(!self.chunk.is_empty())
    }

    /// Reads the next chunk, if there is a whole one.
    fn read_chunk(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        let mut head = [0; 8];
        loop {
            match read_up_to(&mut self.input, &mut head)? {
                8 => break,
                0 => match self.following.pop_front() {
                    Some((next, offset)) => {
                        (self.input, self.offset) = (next, offset);
                        self.segments_read += 1;
                    }
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        let [len, sum] = [&head[..4], &head[4..]]
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        self.chunk_offset = self.offset;
        let len = usize::try_from(len).expect("a usize has 32 bits");
        if len > MAX_CHUNK {
            return Err(self.damaged(self.offset));
        }
        // No more memory than there are bytes.
        let mut chunk = Vec::new();
        (&mut self.input).take(len as u64).read_to_end(&mut chunk)?;
        if chunk.len() < len {
            return Ok(None);
        }
        if crc32fast::hash(&chunk) != sum {
            return Err(self.damaged_byte(chunk, sum).unwrap_or_else(|| self.damaged(self.offset)));
        }
        self.offset += 8 + len as u64;
        Ok(Some(chunk))
    }
}

/// True for what is no call of the loop.
const fn is_of_snapshot(event: &Event) -> bool {
    matches!(event, Event::Snapshot { .. } | Event::Present(..))
}

/// Fills the buffer; returns the number of bytes that there are for it.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
