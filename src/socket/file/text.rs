use std::sync::{Mutex, MutexGuard, PoisonError};

use super::decoder::{Decoder, Newlines};
use super::{BufferedFile, FileOptions, closed_file};
use crate::socket::{Error, ErrorKind, Result};

/// Python's TextIOWrapper over a [`BufferedFile`], in UTF-8.
///
/// Written text gathers here until there are 8192 bytes of it and then in the buffer below; a flush
/// empties both. Reading and writing through one text file is possible, but a write throws away
/// text that was read ahead and not taken (CPython resets its decoder then). Threads that share it
/// take turns: a write waits behind a read that waits.
#[derive(Debug)]
pub struct TextFile {
    buffer: BufferedFile,
    mode: String,
    newline: Newline,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` for a write-only file.
    reader: Option<TextReader>,
    /// Encoded text that the buffer below has not been given; `None` for a file not writable.
    pending: Option<Vec<u8>>,
}

/// `makefile`'s `newline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newline {
    /// `None`: every line end is read as `"\n"`.
    Translated,
    /// `""`: any ends a line, untranslated.
    Universal,
    /// Only this one ends a line; it is written for `"\n"`.
    Given(&'static str),
}

#[derive(Debug)]
struct TextReader {
    decoder: Decoder,
    /// Decoded text; what was not yet taken is `decoded[taken..]`.
    decoded: String,
    taken: usize,
    /// Bytes per character in the last chunk, from which the next chunk's size follows.
    bytes_per_char: f64,
}

/// Python's TextIOWrapper chunk size: how much is asked for, and how much is held, at a time.
const CHUNK: usize = 8192;

impl TextFile {
    pub(super) fn new(buffer: BufferedFile, mode: &str, options: FileOptions<'_>) -> Result<Self> {
        let newline = Newline::parse(options.newline)?;
        check_encoding(options.encoding)?;
        let reader = buffer.readable()?.then(|| TextReader {
            decoder: Decoder::new(options.errors, newline.reading()),
            decoded: String::new(),
            taken: 0,
            bytes_per_char: 0.0,
        });
        let pending = buffer.writable()?.then(Vec::new);
        let state = Mutex::new(State { reader, pending });
        Ok(Self { buffer, mode: mode.to_owned(), newline, state })
    }

    /// `read(n)`: `n` characters or up to the end of the stream; `read()` to the end.
    ///
    /// # Errors
    /// ValueError if closed, UnsupportedOperation for a writer, UnicodeDecodeError, the socket's;
    /// TypeError for `read()` with nothing there on a non-blocking socket.
    pub fn read(&self, n: Option<usize>) -> Result<String> {
        self.check_open()?;
        let mut state = self.lock();
        if state.reader.is_none() {
            return Err(Error::unsupported("not readable"));
        }
        state.pass_on_pending(&self.buffer)?;
        let reader = state.reader.as_mut().ok_or(Error::unsupported("not readable"))?;
        let Some(n) = n else {
            let bytes = self.buffer.read(None)?.ok_or_else(none_is_not_bytes)?;
            let rest = reader.decoder.decode(&bytes, true)?;
            let text = [reader.take(usize::MAX).as_str(), rest.as_str()].concat();
            reader.clear();
            return Ok(text);
        };
        let mut text = reader.take(n);
        let mut missing = n - text.chars().count();
        while missing > 0 && reader.read_chunk(&self.buffer, missing)? {
            let piece = reader.take(missing);
            missing -= piece.chars().count();
            text += &piece;
        }
        Ok(text)
    }

    /// `readline(limit)`: through the line's end, or `limit` characters; empty at the end of the
    /// stream.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn readline(&self, limit: Option<usize>) -> Result<String> {
        self.check_open()?;
        let mut state = self.lock();
        state.pass_on_pending(&self.buffer)?;
        let newline = self.newline;
        let reader = state.reader.as_mut().ok_or(Error::unsupported("not readable"))?;
        let mut line = String::new();
        // The last character of a chunk, if an ending of two could begin with it.
        let mut carried = String::new();
        loop {
            while reader.decoded.is_empty() {
                if !reader.read_chunk(&self.buffer, 0)? {
                    reader.clear();
                    return Ok(line + &carried);
                }
            }
            let from_last = carried.len();
            let mut chunk = &reader.decoded[reader.taken..];
            let joined;
            if from_last > 0 {
                joined = std::mem::take(&mut carried) + chunk;
                chunk = &joined;
            }
            let ending = newline.find_in(chunk);
            let end = ending.unwrap_or(chunk.len() - newline.could_begin_at_the_end_of(chunk));
            let room = limit.map_or(usize::MAX, |limit| limit - line.chars().count());
            let full = room <= chunk[..end].chars().count();
            let end = byte_index(&chunk[..end], room);
            line.push_str(&chunk[..end]);
            if full || ending.is_some() {
                reader.taken += end - from_last;
                return Ok(line);
            }
            carried.push_str(&chunk[end..]);
            reader.clear();
        }
    }

    /// `write(text)`: the number of characters, all of which are taken.
    ///
    /// # Errors
    /// ValueError if closed, UnsupportedOperation for a reader, and what the buffer below says when
    /// it is given the text gathered so far, which is then lost.
    pub fn write(&self, text: &str) -> Result<usize> {
        self.check_open()?;
        let mut state = self.lock();
        let Some(pending) = &mut state.pending else {
            return Err(Error::unsupported("not writable"));
        };
        let encoded = match self.newline {
            Newline::Given(newline) if newline != "\n" => text.replace('\n', newline).into_bytes(),
            Newline::Given(_) | Newline::Translated | Newline::Universal => {
                text.as_bytes().to_vec()
            }
        };
        if !pending.is_empty() && pending.len() + encoded.len() > CHUNK {
            let gathered = std::mem::take(pending);
            self.buffer.write(&gathered)?;
        }
        pending.extend_from_slice(&encoded);
        if pending.len() >= CHUNK {
            state.pass_on_pending(&self.buffer)?;
        }
        if let Some(reader) = &mut state.reader {
            reader.clear();
            reader.decoder.reset();
        }
        Ok(text.chars().count())
    }

    /// `flush()`: sends the text gathered here and what the buffer below holds.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&self) -> Result<()> {
        self.check_open()?;
        self.lock().pass_on_pending(&self.buffer)?;
        self.buffer.flush()
    }

    /// `close()`: flushes, and closes even if that fails.
    ///
    /// # Errors
    /// Those of the flush.
    pub fn close(&self) -> Result<()> {
        if self.buffer.closed() {
            return Ok(());
        }
        let flushed = self.flush();
        // If both fail, Python raises the second and keeps the first as its context.
        let closed = self.buffer.close();
        closed.and(flushed)
    }

    /// The attribute `closed`.
    pub fn closed(&self) -> bool {
        self.buffer.closed()
    }

    /// The attribute `mode`: the string given.
    pub fn mode(&self) -> &str {
        &self.mode
    }

    pub(super) fn buffer(&self) -> &BufferedFile {
        &self.buffer
    }

    fn check_open(&self) -> Result<()> {
        if self.buffer.closed() { Err(closed_file()) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands the gathered text to the buffer below; if that fails the text is gone.
    fn pass_on_pending(&mut self, buffer: &BufferedFile) -> Result<()> {
        match &mut self.pending {
            Some(pending) if !pending.is_empty() => {
                let gathered = std::mem::take(pending);
                buffer.write(&gathered).map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        // Python's finalizer closes and ignores the errors.
        let _ = self.close();
    }
}

impl TextReader {
    /// Takes at most `n` characters of what is decoded.
    fn take(&mut self, n: usize) -> String {
        let rest = &self.decoded[self.taken..];
        let text = rest[..byte_index(rest, n)].to_owned();
        self.taken += text.len();
        text
    }

    /// Reads and decodes one chunk in place of the last; false at the end of the stream, which on a
    /// non-blocking socket cannot be told from "nothing there".
    fn read_chunk(&mut self, buffer: &BufferedFile, wanted: usize) -> Result<bool> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a size hint
        let hint = (self.bytes_per_char.max(1.0) * wanted as f64) as usize;
        let bytes = buffer.read1(Some(CHUNK.max(hint)))?;
        self.decoded = self.decoder.decode(&bytes, bytes.is_empty())?;
        self.taken = 0;
        let chars = self.decoded.chars().count();
        self.bytes_per_char = if chars > 0 { bytes.len() as f64 / chars as f64 } else { 0.0 };
        Ok(!bytes.is_empty() || chars > 0)
    }

    fn clear(&mut self) {
        self.decoded.clear();
        self.taken = 0;
    }
}

impl Newline {
    fn parse(newline: Option<&str>) -> Result<Self> {
        Ok(match newline {
            None => Self::Translated,
            Some("") => Self::Universal,
            Some("\n") => Self::Given("\n"),
            Some("\r") => Self::Given("\r"),
            Some("\r\n") => Self::Given("\r\n"),
            Some(other) => {
                let text = format!("illegal newline value: {other}");
                return Err(Error::raised_with(ErrorKind::ValueError, text));
            }
        })
    }

    const fn reading(self) -> Newlines {
        match self {
            Self::Translated => Newlines::Translated,
            Self::Universal => Newlines::Universal,
            Self::Given(_) => Newlines::AsGiven,
        }
    }

    /// The length of the first line in `text`, its ending included.
    fn find_in(self, text: &str) -> Option<usize> {
        let ending = match self {
            Self::Translated => "\n",
            Self::Given(ending) => ending,
            Self::Universal => {
                let at = text.find(['\n', '\r'])?;
                return Some(at + if text[at..].starts_with("\r\n") { 2 } else { 1 });
            }
        };
        text.find(ending).map(|at| at + ending.len())
    }

    /// Number of bytes at the end of `text` that could start a line ending. The decoder never
    /// splits `"\r\n"` where both end a line, so this concerns a given `"\r\n"` only.
    fn could_begin_at_the_end_of(self, text: &str) -> usize {
        usize::from(self == Self::Given("\r\n") && text.ends_with('\r'))
    }
}

/// Where the character with this number begins; the text's end if there are not so many.
fn byte_index(text: &str, chars: usize) -> usize {
    text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at)
}

fn check_encoding(encoding: Option<&str>) -> Result<()> {
    let name = encoding.unwrap_or("utf-8");
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
    if plain.eq_ignore_ascii_case("utf8") || plain.eq_ignore_ascii_case("u8") {
        return Ok(());
    }
    let text = format!("unknown encoding: {name} (text files are UTF-8; decode a binary file)");
    Err(Error::raised_with(ErrorKind::LookupError, text))
}

/// CPython's error for the `None` of a non-blocking read.
const fn none_is_not_bytes() -> Error {
    Error::raised(ErrorKind::TypeError, "can't concat NoneType to bytes")
}
