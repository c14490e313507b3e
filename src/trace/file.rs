//! The frame of a recording: its first lines, and chunks of whole turns.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::decode::{Data, Decoder, Record};
use super::encode::kind;
use super::{Event, Step, Stream};
use crate::python::Monotonic;

/// The first line of a recording.
const MAGIC: &str = "saltecho recording 2";
/// The part of it that every version has.
const MAGIC_OF_ANY: &str = "saltecho recording ";
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
    #[error("the recording is damaged after turn {turn}, in the chunk at byte {offset}")]
    Damaged {
        /// The last turn before it.
        turn: u64,
        /// The place in the file.
        offset: u64,
    },
    /// The file cannot be read.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] io::Error),
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
        let offset = header.to_bytes().len() as u64;
        Ok(Self {
            input,
            header,
            chunk: Vec::new(),
            chunks_ahead: VecDeque::new(),
            at: 0,
            offset,
            chunk_offset: offset,
            decoder: Decoder::default(),
            ahead: None,
            now: Monotonic::ZERO,
            turn: 0,
            step: 0,
            ending: None,
        })
    }

    /// The lines before the first event.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Number of turns that have begun.
    pub const fn turn(&self) -> u64 {
        self.turn
    }

    /// Number of events read.
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// How the recording ends, once there is no further event.
    pub const fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The next event, with its time. `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`].
    pub fn next_step(&mut self) -> Result<Option<Step>, ReadError> {
        self.peek()?;
        Ok(self.take().map(|ahead| Step { at: self.now, event: ahead.event }))
    }

    /// The next event, which stays the next.
    pub(super) fn peek(&mut self) -> Result<Option<&Ahead>, ReadError> {
        let mut sum = None;
        while self.ahead.is_none() && self.ending.is_none() {
            if self.at == self.chunk.len() && !self.next_chunk()? {
                self.ending = Some(Ending::Cut);
                break;
            }
            let damaged = ReadError::Damaged { turn: self.turn, offset: self.chunk_offset };
            let (record, data, len) = self.decoder.next(&self.chunk[self.at..]).ok_or(damaged)?;
            self.at += len;
            match record {
                Record::Event(event) => self.ahead = Some(Ahead { event, data, sum }),
                Record::Sum(one) => sum = Some(one),
                // Found when its first byte was awaited.
                Record::Late(..) => {}
                Record::End(why) if why.is_empty() => self.ending = Some(Ending::Complete),
                Record::End(why) => self.ending = Some(Ending::Stopped(why)),
            }
        }
        Ok(self.ahead.as_ref())
    }

    /// Takes the event that was peeked at.
    pub(super) fn take(&mut self) -> Option<Ahead> {
        let ahead = self.ahead.take()?;
        self.step += 1;
        match ahead.event {
            Event::Poll(_) => self.turn += 1,
            Event::Clock(now) | Event::Timing(now) => self.now = now,
            _ => {}
        }
        Some(ahead)
    }

    /// Looks ahead for the awaited bytes of a stream; `None` if they are not within reach.
    pub(super) fn late(&mut self, stream: Stream) -> Result<Option<Vec<u8>>, ReadError> {
        let (mut decoder, mut place) = (self.decoder.clone(), self.at);
        let mut index = 0;
        loop {
            let chunk = match index {
                0 => &self.chunk,
                _ => match self.chunks_ahead.get(index - 1) {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
            };
            while place < chunk.len() {
                match decoder.next(&chunk[place..]) {
                    Some((Record::Late(one, bytes), ..)) if one == stream => {
                        return Ok(Some(bytes));
                    }
                    Some((_, _, len)) => place += len,
                    // Reported when it is read.
                    None => return Ok(None),
                }
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
        if !read_whole(&mut self.input, &mut head)? {
            return Ok(None);
        }
        let [len, sum] = [&head[..4], &head[4..]]
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        self.chunk_offset = self.offset;
        let damaged = ReadError::Damaged { turn: self.turn, offset: self.offset };
        let len = usize::try_from(len).expect("a usize has 32 bits");
        if len > MAX_CHUNK {
            return Err(damaged);
        }
        // No more memory than there are bytes.
        let mut chunk = Vec::new();
        (&mut self.input).take(len as u64).read_to_end(&mut chunk)?;
        if chunk.len() < len {
            return Ok(None);
        }
        if crc32fast::hash(&chunk) != sum {
            return Err(damaged);
        }
        self.offset += 8 + len as u64;
        Ok(Some(chunk))
    }
}

/// Fills the buffer; false if there are fewer bytes.
fn read_whole(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
