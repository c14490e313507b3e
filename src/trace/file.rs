//! The frame of a recording: its first lines, and chunks of whole turns.

use std::io::{self, Read, Write};

use super::encode::kind;

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

    pub(super) fn read(input: &mut impl Read) -> Result<Self, ReadError> {
        let (mut input, mut text) = (input.take(MAX_HEADER), Vec::new());
        while !text.ends_with(b"\n\n") {
            let mut byte = [0];
            if read_up_to(&mut input, &mut byte)? == 0 || !MAGIC_OF_ANY.starts_with_prefix(&text) {
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

/// Fills the buffer; returns the number of bytes that there are for it.
pub(super) fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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
        "this recording has format {0}, and this build reads format 2: use the build that wrote it"
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
    /// Without a mark: the process was killed, the file cut off, or its next segment is not there.
    Cut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_its_length_its_sum_and_its_bytes() {
        // The sum of these bytes is the check value of this CRC in every catalogue.
        let expected = [&[9, 0, 0, 0][..], &0xcbf4_3926_u32.to_le_bytes(), b"123456789"].concat();
        assert_eq!(chunk(b"123456789"), expected);
    }

    #[test]
    fn damage_has_a_place() {
        let damaged = |turn, step, offset, segment| {
            ReadError::Damaged { turn, step, offset, segment }.to_string()
        };
        for (error, place) in [
            (damaged(3, None, 71, 0), "after turn 3, in the chunk at byte 71"),
            (damaged(3, Some(40), 71, 0), "at byte 71, in step 40, in turn 3"),
            (damaged(3, None, 71, 1), "after turn 3, in the chunk at byte 71 of its next segment"),
            (damaged(3, Some(40), 71, 2), "at byte 71 of segment 3, in step 40, in turn 3"),
        ] {
            assert_eq!(error, format!("the recording is damaged {place}"));
        }
    }

    #[test]
    fn something_else_is_known_by_its_first_bytes_and_endless_lines_by_64_kib() {
        let first = b"saltecho recording 2\n";
        let endless = [&first[..], &[b'a'; 70_000]].concat();
        for (file, read) in [
            // The byte behind the first other one is read too.
            (&b"GET / HTTP/1.1\r\n\r\n"[..], 2),
            (b"saltecho Recording 2\n\n", 11),
            (first, first.len()),
            (&endless, 65_536),
        ] {
            let mut rest = file;
            let fault = Header::read(&mut rest).unwrap_err();
            assert!(matches!(fault, ReadError::NoRecording), "{fault}");
            assert_eq!(file.len() - rest.len(), read);
        }
    }
}
