//! The files of `makefile`: Python's raw, buffered and text layers over one socket.

mod buffered;
mod decoder;
mod raw;
mod text;

use std::sync::Arc;

use super::error::repr;
use super::inner::Inner;
use super::{Error, ErrorKind, Result};

pub use self::buffered::BufferedFile;
pub use self::decoder::DecodeErrors;
pub use self::raw::RawFile;
pub use self::text::TextFile;

/// Result of `makefile`: one of Python's three layers, with their common methods.
///
/// The socket counts its open files: a `close` of the socket takes effect when the last one is
/// closed. Dropping a file flushes and closes it; call [`close`](Self::close) to see the errors.
///
/// After a timeout while reading, the file can never be read again, as in Python: the data collected
/// by the failed call is lost, so the next read would misread the stream. The socket still works.
#[derive(Debug)]
pub enum File {
    /// `buffering=0`, binary only: each call is one call on the socket.
    Raw(RawFile),
    /// Binary with a buffer: Python's BufferedReader, BufferedWriter or BufferedRWPair.
    Buffered(BufferedFile),
    /// A mode without `b`: UTF-8 text over a buffered file.
    Text(TextFile),
}

/// `makefile`'s arguments after the mode. The default is Python's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOptions<'a> {
    /// Buffer size in bytes; `None` or negative for 8192, 0 for a raw file. 1 does **not** mean line
    /// buffering.
    pub buffering: Option<i64>,
    /// A name of UTF-8. `None` is UTF-8 too, where Python uses the locale.
    pub encoding: Option<&'a str>,
    /// Treatment of bytes that are not UTF-8.
    pub errors: DecodeErrors,
    /// `None`: every line ending is read as `"\n"`. `""`: every one ends a line, untranslated. One
    /// of `"\n"`, `"\r"`, `"\r\n"`: only that one ends a line, and is written for `"\n"`.
    pub newline: Option<&'a str>,
}

/// Data read: bytes from a binary file, a string from a text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// From a binary file.
    Bytes(Vec<u8>),
    /// From a text file.
    Text(String),
}

/// Data to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataArg<'a> {
    /// For a binary file.
    Bytes(&'a [u8]),
    /// For a text file.
    Text(&'a str),
}

/// Python's `io.DEFAULT_BUFFER_SIZE`.
const DEFAULT_BUFFER_SIZE: usize = 8192;

impl File {
    pub(super) fn open(inner: &Arc<Inner>, mode: &str, options: FileOptions<'_>) -> Result<Self> {
        if mode.chars().any(|letter| !matches!(letter, 'r' | 'w' | 'b')) {
            let text = format!("invalid mode {} (only r, w, b allowed)", repr(mode));
            return Err(Error::raised_with(ErrorKind::ValueError, text));
        }
        let access = match (mode.contains('r'), mode.contains('w')) {
            (true, true) => Access::ReadWrite,
            (false, true) => Access::Write,
            (_, false) => Access::Read,
        };
        let binary = mode.contains('b');
        // From here on the reference is counted, and given back by the drop of a failing call.
        let raw = RawFile::new(inner, access);
        let size = match options.buffering {
            Some(0) if binary => return Ok(Self::Raw(raw)),
            Some(0) => return Err(Error::value("unbuffered streams must be binary")),
            Some(size) => usize::try_from(size).unwrap_or(DEFAULT_BUFFER_SIZE),
            None => DEFAULT_BUFFER_SIZE,
        };
        let buffered = BufferedFile::new(raw, size)?;
        if binary {
            return Ok(Self::Buffered(buffered));
        }
        Ok(Self::Text(TextFile::new(buffered, mode, options)?))
    }

    /// `read(n)`, or `read()` to the end of the stream.
    ///
    /// A raw file makes one call on the socket; the others repeat until `n` is reached or the stream
    /// ends. `None` means no data on a non-blocking socket.
    ///
    /// # Errors
    /// UnsupportedOperation for a writer, ValueError for a closed file, and the socket's errors.
    pub fn read(&self, n: Option<usize>) -> Result<Option<Data>> {
        Ok(match self {
            Self::Raw(file) => file.read(n)?.map(Data::Bytes),
            Self::Buffered(file) => file.read(n)?.map(Data::Bytes),
            Self::Text(file) => Some(Data::Text(file.read(n)?)),
        })
    }

    /// `read1(n)`: the content of the buffer, or one raw read if it is empty. Buffered files only.
    ///
    /// # Errors
    /// As [`read`](Self::read); UnsupportedOperation for a raw or text file.
    pub fn read1(&self, n: Option<usize>) -> Result<Vec<u8>> {
        match self {
            Self::Buffered(file) => file.read1(n),
            Self::Raw(_) | Self::Text(_) => Err(Error::unsupported("read1")),
        }
    }

    /// `readinto(buffer)`: as `read(len(buffer))` into the caller's memory. Binary files only.
    ///
    /// # Errors
    /// As [`read`](Self::read); UnsupportedOperation for a text file.
    pub fn readinto(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self {
            Self::Raw(file) => file.readinto(buffer),
            Self::Buffered(file) => file.readinto(buffer),
            Self::Text(_) => Err(Error::unsupported("readinto")),
        }
    }

    /// `peek()`: the content of the buffer, after one raw read if it was empty. Buffered files only.
    ///
    /// # Errors
    /// As [`read`](Self::read); UnsupportedOperation for a raw or text file.
    pub fn peek(&self) -> Result<Vec<u8>> {
        match self {
            Self::Buffered(file) => file.peek(),
            Self::Raw(_) | Self::Text(_) => Err(Error::unsupported("peek")),
        }
    }

    /// `readline(limit)`: up to and including the line's end, at most `limit` bytes or characters;
    /// empty at the end of the stream.
    ///
    /// # Errors
    /// As [`read`](Self::read). A raw file on a non-blocking socket with nothing there: OSError.
    pub fn readline(&self, limit: Option<usize>) -> Result<Data> {
        match self {
            Self::Raw(file) => file.readline(limit).map(Data::Bytes),
            Self::Buffered(file) => file.readline(limit).map(Data::Bytes),
            Self::Text(file) => file.readline(limit).map(Data::Text),
        }
    }

    /// `readlines()`: the lines up to the end of the stream.
    ///
    /// # Errors
    /// As [`readline`](Self::readline); the lines read before the error are lost.
    pub fn readlines(&self) -> Result<Vec<Data>> {
        if self.closed() {
            return Err(closed_file());
        }
        let mut lines = Vec::new();
        loop {
            let line = self.readline(None)?;
            if line.is_empty() {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    /// `write(data)`: the number of bytes or characters taken; `None` from a raw file on a full
    /// non-blocking socket.
    ///
    /// # Errors
    /// UnsupportedOperation for a reader, ValueError for a closed file, TypeError for text to a
    /// binary file or the reverse, and the socket's errors. A buffered writer on a full
    /// non-blocking socket: BlockingIOError with [`Error::characters_written`].
    pub fn write<'a>(&self, data: impl Into<DataArg<'a>>) -> Result<Option<usize>> {
        match (self, data.into()) {
            (Self::Raw(file), DataArg::Bytes(bytes)) => file.write(bytes),
            (Self::Buffered(file), DataArg::Bytes(bytes)) => file.write(bytes).map(Some),
            (Self::Text(file), DataArg::Text(text)) => file.write(text).map(Some),
            (Self::Raw(_) | Self::Buffered(_), DataArg::Text(_)) => Err(Error::raised(
                ErrorKind::TypeError,
                "a bytes-like object is required, not 'str'",
            )),
            (Self::Text(_), DataArg::Bytes(_)) => {
                Err(Error::raised(ErrorKind::TypeError, "write() argument must be str, not bytes"))
            }
        }
    }

    /// `flush()`: sends the buffered data.
    ///
    /// # Errors
    /// As [`write`](Self::write); after a failure the unsent rest is kept for the next flush.
    pub fn flush(&self) -> Result<()> {
        match self {
            Self::Raw(file) => file.flush(),
            Self::Buffered(file) => file.flush(),
            Self::Text(file) => file.flush(),
        }
    }

    /// `close()`: flushes and drops the reference to the socket. Closing twice is allowed.
    ///
    /// # Errors
    /// Those of the flush; the file is closed anyway.
    pub fn close(&self) -> Result<()> {
        match self {
            Self::Raw(file) => {
                file.close();
                Ok(())
            }
            Self::Buffered(file) => file.close(),
            Self::Text(file) => file.close(),
        }
    }

    /// The attribute `closed`.
    pub fn closed(&self) -> bool {
        self.raw().closed()
    }

    /// `readable()`.
    ///
    /// # Errors
    /// ValueError for a closed file.
    pub fn readable(&self) -> Result<bool> {
        match self {
            Self::Raw(file) => file.readable(),
            Self::Buffered(file) => file.readable(),
            Self::Text(file) => file.buffer().readable(),
        }
    }

    /// `writable()`.
    ///
    /// # Errors
    /// ValueError for a closed file.
    pub fn writable(&self) -> Result<bool> {
        match self {
            Self::Raw(file) => file.writable(),
            Self::Buffered(file) => file.writable(),
            Self::Text(file) => file.buffer().writable(),
        }
    }

    /// `seekable()`: never.
    ///
    /// # Errors
    /// ValueError for a closed file.
    pub fn seekable(&self) -> Result<bool> {
        match self {
            Self::Raw(file) => file.seekable(),
            Self::Buffered(file) => file.seekable(),
            Self::Text(file) => file.buffer().seekable(),
        }
    }

    /// `fileno()`: the socket's descriptor, -1 if the socket is closed.
    ///
    /// # Errors
    /// ValueError for a closed file; UnsupportedOperation for a file that reads and writes through
    /// buffers, since Python's BufferedRWPair has none.
    pub fn fileno(&self) -> Result<i32> {
        match self {
            Self::Raw(file) => file.fileno(),
            Self::Buffered(file) => file.fileno(),
            Self::Text(file) => file.buffer().fileno(),
        }
    }

    /// The attribute `mode`: `"rb"`, `"wb"` or `"rwb"` for binary files, the string given for text;
    /// `None` for a BufferedRWPair, which has no such attribute.
    pub fn mode(&self) -> Option<&str> {
        match self {
            Self::Raw(file) => Some(file.mode()),
            Self::Buffered(file) => file.mode(),
            Self::Text(file) => Some(file.mode()),
        }
    }

    fn raw(&self) -> &RawFile {
        match self {
            Self::Raw(file) => file,
            Self::Buffered(file) => file.raw(),
            Self::Text(file) => file.buffer().raw(),
        }
    }
}

impl Data {
    /// Returns true if there are no bytes, or no characters.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Text(text) => text.is_empty(),
        }
    }

    /// The bytes; those of a text in UTF-8.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Text(text) => text.into_bytes(),
        }
    }

    /// The text; `None` if it came from a binary file.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Bytes(_) => None,
            Self::Text(text) => Some(text),
        }
    }
}

impl<'a> From<&'a [u8]> for DataArg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for DataArg<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a str> for DataArg<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

/// Direction of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    ReadWrite,
}

const fn closed_file() -> Error {
    Error::value("I/O operation on closed file.")
}
