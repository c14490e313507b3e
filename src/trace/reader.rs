use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;

use super::damage::changed_byte;
use super::decode::{Data, Decoder, Record};
use super::file::{Ending, Header, MAX_CHUNK, ReadError, read_up_to};
use super::{Event, Snapshot, SnapshotConnection, Step, Stream};
use crate::python::Monotonic;
use crate::reactor::Parts;

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
    /// Segments that were read to their end.
    segments_read: usize,
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
            segments_read: 0,
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
            self.last = number;
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
                self.ending = Some(Ending::Cut);
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
                // The next segment is read as the next chunk, if it is there.
                Record::GoesOn => {}
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

#[cfg(test)]
mod tests;
