use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::transfer::zeroed;
use super::raw::not_bytes;
use super::{Access, RawFile};
use crate::socket::{Error, Result};

/// Python's BufferedReader, BufferedWriter and BufferedRWPair over a [`RawFile`].
///
/// Several threads may use it at once. Each buffer has its lock, as in CPython: a read that waits
/// keeps other reads waiting, but no write.
///
/// The pair has two independent buffers over one raw file, so a timeout disables both, and fewer
/// features: no `fileno`, no `mode`, and a `readline` built on `peek`.
#[derive(Debug)]
pub struct BufferedFile {
    raw: RawFile,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Reader(Mutex<ReadBuffer>),
    Writer(Mutex<WriteBuffer>),
    Pair(Mutex<ReadBuffer>, Mutex<WriteBuffer>),
}

impl BufferedFile {
    pub(super) fn new(raw: RawFile, size: usize) -> Result<Self> {
        let reader = || ReadBuffer::new(size).map(Mutex::new);
        let writer = || WriteBuffer::new(size).map(Mutex::new);
        let layout = match raw.access() {
            Access::Read => Layout::Reader(reader()?),
            Access::Write => Layout::Writer(writer()?),
            Access::ReadWrite => Layout::Pair(reader()?, writer()?),
        };
        Ok(Self { raw, layout })
    }

    /// `read(n)` until `n` bytes or the end of the stream, `read()` to the end.
    ///
    /// On a non-blocking socket, short if no more data is there, `None` if there was none at all.
    ///
    /// # Errors
    /// ValueError if closed, UnsupportedOperation for a writer, and the socket's; what the failing
    /// call had gathered is lost.
    pub fn read(&self, n: Option<usize>) -> Result<Option<Vec<u8>>> {
        let (mut reader, raw) = self.reader("read", "read of closed file")?;
        match n {
            None => reader.read_all(raw),
            Some(n) => reader.read(raw, n),
        }
    }

    /// `read1(n)`: from the buffer if it has anything, otherwise by one raw read. Nothing there on
    /// a non-blocking socket is empty.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read1(&self, n: Option<usize>) -> Result<Vec<u8>> {
        let (mut reader, raw) = self.reader("read1", "read of closed file")?;
        reader.read1(raw, n)
    }

    /// `readinto(buffer)`: as `read(len(buffer))`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn readinto(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let (mut reader, raw) = self.reader("read", "readinto of closed file")?;
        reader.readinto(raw, buffer)
    }

    /// `peek()`: the content of the buffer, after one raw read if it was empty. Consumes nothing.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn peek(&self) -> Result<Vec<u8>> {
        let (mut reader, raw) = self.reader("peek", "peek of closed file")?;
        Ok(reader.peek(raw)?.to_vec())
    }

    /// `readline(limit)`: through `"\n"`, to `limit` bytes, or to the end. On a non-blocking socket
    /// what is there of the line; the pair raises OSError instead.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn readline(&self, limit: Option<usize>) -> Result<Vec<u8>> {
        if let Layout::Writer(_) | Layout::Pair(..) = self.layout {
            return self.readline_by_peeking(limit);
        }
        let (mut reader, raw) = self.reader("read", "readline of closed file")?;
        reader.readline(raw, limit)
    }

    /// The generic `readline` of Python's IOBase, which the pair and the writer inherit (the
    /// writer to no avail).
    ///
    /// The limit applies to each peeked piece, not to the whole line, so a line of several pieces can
    /// exceed it. CPython does the same.
    fn readline_by_peeking(&self, limit: Option<usize>) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        while limit.is_none_or(|limit| line.len() < limit) {
            let (mut reader, raw) = self.reader("read", "peek of closed file")?;
            let ahead = reader.peek(raw)?;
            let ahead = &ahead[..limit.map_or(ahead.len(), |limit| limit.min(ahead.len()))];
            let wanted = find_newline(ahead).unwrap_or(ahead.len()).max(1);
            let piece = reader.read(raw, wanted)?.ok_or_else(not_bytes)?;
            line.extend_from_slice(&piece);
            if piece.is_empty() || piece.ends_with(b"\n") {
                break;
            }
        }
        Ok(line)
    }

    /// `write(data)`: all of it, into the buffer as far as it fits, the rest sent.
    ///
    /// # Errors
    /// ValueError if closed, UnsupportedOperation for a reader, and the socket's. On a full
    /// non-blocking socket BlockingIOError, with the number of bytes that the buffer took.
    pub fn write(&self, data: &[u8]) -> Result<usize> {
        let closed = self.raw.closed();
        let (Layout::Writer(writer) | Layout::Pair(_, writer)) = &self.layout else {
            return Err(Error::unsupported("write"));
        };
        if closed {
            return Err(Error::value("write to closed file"));
        }
        lock(writer).write(&self.raw, data)
    }

    /// `flush()`: sends the buffered data.
    ///
    /// # Errors
    /// ValueError if closed, and the socket's; the unsent rest stays for the next flush.
    pub fn flush(&self) -> Result<()> {
        match &self.layout {
            Layout::Reader(_) => self.raw.flush(),
            Layout::Writer(_) | Layout::Pair(..) if self.raw.closed() => {
                Err(Error::value("flush of closed file"))
            }
            Layout::Writer(writer) | Layout::Pair(_, writer) => lock(writer).flush(&self.raw),
        }
    }

    /// `close()`: flushes, and closes the raw file even if that fails.
    ///
    /// # Errors
    /// Those of the flush.
    pub fn close(&self) -> Result<()> {
        if self.raw.closed() {
            return Ok(());
        }
        let flushed = self.flush();
        self.raw.close();
        if let Layout::Reader(reader) = &self.layout {
            lock(reader).clear();
        }
        flushed
    }

    /// The attribute `closed`.
    pub fn closed(&self) -> bool {
        self.raw.closed()
    }

    /// `readable()`.
    ///
    /// # Errors
    /// ValueError if closed, except for a writer, which never is.
    pub fn readable(&self) -> Result<bool> {
        match self.layout {
            Layout::Reader(_) | Layout::Pair(..) => self.raw.readable(),
            Layout::Writer(_) => Ok(false),
        }
    }

    /// `writable()`.
    ///
    /// # Errors
    /// ValueError if closed, except for a reader, which never is.
    pub fn writable(&self) -> Result<bool> {
        match self.layout {
            Layout::Writer(_) | Layout::Pair(..) => self.raw.writable(),
            Layout::Reader(_) => Ok(false),
        }
    }

    /// `seekable()`: never.
    ///
    /// # Errors
    /// ValueError if closed, except for a pair.
    pub fn seekable(&self) -> Result<bool> {
        match self.layout {
            Layout::Reader(_) | Layout::Writer(_) => self.raw.seekable(),
            Layout::Pair(..) => Ok(false),
        }
    }

    /// `fileno()`.
    ///
    /// # Errors
    /// ValueError if closed; UnsupportedOperation for a pair.
    pub fn fileno(&self) -> Result<i32> {
        match self.layout {
            Layout::Reader(_) | Layout::Writer(_) => self.raw.fileno(),
            Layout::Pair(..) => Err(Error::unsupported("fileno")),
        }
    }

    /// The attribute `mode`; a pair has none.
    pub fn mode(&self) -> Option<&str> {
        match self.layout {
            Layout::Reader(_) | Layout::Writer(_) => Some(self.raw.mode()),
            Layout::Pair(..) => None,
        }
    }

    pub(super) fn raw(&self) -> &RawFile {
        &self.raw
    }

    fn reader(
        &self,
        call: &'static str,
        if_closed: &'static str,
    ) -> Result<(MutexGuard<'_, ReadBuffer>, &RawFile)> {
        let (Layout::Reader(reader) | Layout::Pair(reader, _)) = &self.layout else {
            return Err(Error::unsupported(call));
        };
        let reader = lock(reader);
        // What was read ahead through a pair can still be taken after it was closed: CPython closes
        // the writer's half, which closes the raw file, and then leaves the reader's alone.
        if self.raw.closed() && reader.ahead().is_empty() {
            return Err(Error::value(if_closed));
        }
        Ok((reader, &self.raw))
    }
}

impl Drop for BufferedFile {
    fn drop(&mut self) {
        // Python's finalizer closes and ignores the errors.
        let _ = self.close();
    }
}

/// Bytes read ahead, and the rules for reading more.
#[derive(Debug)]
struct ReadBuffer {
    bytes: Vec<u8>,
    /// The bytes read ahead and not yet taken are `bytes[start..end]`.
    start: usize,
    end: usize,
}

impl ReadBuffer {
    fn new(size: usize) -> Result<Self> {
        Ok(Self { bytes: zeroed(size)?, start: 0, end: 0 })
    }

    fn ahead(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes at most `limit` of the bytes read ahead.
    fn take(&mut self, limit: usize) -> &[u8] {
        let from = self.start;
        self.start += limit.min(self.end - self.start);
        &self.bytes[from..self.start]
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// One raw read behind what is there; `None` if nothing is there on a non-blocking socket.
    fn fill(&mut self, raw: &RawFile) -> Result<Option<usize>> {
        let count = raw.readinto(&mut self.bytes[self.end..])?;
        self.end += count.unwrap_or(0);
        Ok(count)
    }

    /// Everything up to the end. The bytes read ahead are given up even if the rest fails.
    fn read_all(&mut self, raw: &RawFile) -> Result<Option<Vec<u8>>> {
        let ahead = self.take(usize::MAX).to_vec();
        self.clear();
        let rest = raw.readall()?;
        if ahead.is_empty() {
            return Ok(rest);
        }
        Ok(Some([ahead, rest.unwrap_or_default()].concat()))
    }

    /// Whole blocks go directly to the result; the last part of one goes through the buffer, which
    /// may then hold more than was asked for. There is no read once `n` bytes are there.
    fn read(&mut self, raw: &RawFile, n: usize) -> Result<Option<Vec<u8>>> {
        if n <= self.ahead().len() {
            return Ok(Some(self.take(n).to_vec()));
        }
        let mut data = zeroed(n)?;
        let ahead = self.take(n);
        let mut done = ahead.len();
        data[..done].copy_from_slice(ahead);
        self.clear();
        while done < n {
            let missing = n - done;
            let whole_blocks = missing - missing % self.bytes.len();
            let count = if whole_blocks > 0 {
                let count = raw.readinto(&mut data[done..done + whole_blocks])?;
                done += count.unwrap_or(0);
                count
            } else {
                let count = self.fill(raw)?;
                let piece = self.take(missing);
                data[done..done + piece.len()].copy_from_slice(piece);
                done += piece.len();
                count
            };
            match count {
                None if done == 0 => return Ok(None),
                None | Some(0) => break,
                Some(_) => {}
            }
        }
        data.truncate(done);
        Ok(Some(data))
    }

    fn read1(&mut self, raw: &RawFile, n: Option<usize>) -> Result<Vec<u8>> {
        let n = n.unwrap_or(self.bytes.len());
        if n == 0 || !self.ahead().is_empty() {
            return Ok(self.take(n).to_vec());
        }
        self.clear();
        let mut data = zeroed(n)?;
        let count = raw.readinto(&mut data)?.unwrap_or(0);
        data.truncate(count);
        Ok(data)
    }

    fn readinto(&mut self, raw: &RawFile, buffer: &mut [u8]) -> Result<Option<usize>> {
        let ahead = self.take(buffer.len());
        let mut done = ahead.len();
        buffer[..done].copy_from_slice(ahead);
        if done == buffer.len() {
            return Ok(Some(done));
        }
        self.clear();
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let count = if rest.len() > self.bytes.len() {
                let count = raw.readinto(rest)?;
                done += count.unwrap_or(0);
                count
            } else {
                let count = self.fill(raw)?;
                let piece = self.take(rest.len());
                rest[..piece.len()].copy_from_slice(piece);
                done += piece.len();
                count
            };
            match count {
                None if done == 0 => return Ok(None),
                None | Some(0) => break,
                Some(_) => {}
            }
        }
        Ok(Some(done))
    }

    fn peek(&mut self, raw: &RawFile) -> Result<&[u8]> {
        if self.ahead().is_empty() {
            self.clear();
            self.fill(raw)?;
        }
        Ok(self.ahead())
    }

    fn readline(&mut self, raw: &RawFile, limit: Option<usize>) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let limit = limit.map_or(usize::MAX, |limit| limit - line.len());
            let ahead = self.ahead();
            let within = &ahead[..limit.min(ahead.len())];
            let newline = find_newline(within);
            let wanted = newline.unwrap_or(within.len());
            line.extend_from_slice(self.take(wanted));
            if newline.is_some() || wanted == limit {
                return Ok(line);
            }
            self.clear();
            if self.fill(raw)?.unwrap_or(0) == 0 {
                return Ok(line);
            }
        }
    }
}

/// Unsent bytes.
#[derive(Debug)]
struct WriteBuffer {
    /// The bytes held back are `held[sent..]`; the room taken up by the part already sent is
    /// available again only once everything is, or when a full socket makes it necessary.
    held: Vec<u8>,
    sent: usize,
    size: usize,
}

impl WriteBuffer {
    fn new(size: usize) -> Result<Self> {
        let mut held = zeroed(size)?;
        held.clear();
        Ok(Self { held, sent: 0, size })
    }

    fn write(&mut self, raw: &RawFile, data: &[u8]) -> Result<usize> {
        if data.len() <= self.size - self.held.len() {
            self.held.extend_from_slice(data);
            return Ok(data.len());
        }
        if let Err(error) = self.flush(raw) {
            if error.characters_written().is_none() {
                return Err(error);
            }
            self.held.drain(..self.sent);
            self.sent = 0;
            let fits = data.len().min(self.size - self.held.len());
            self.held.extend_from_slice(&data[..fits]);
            return if fits == data.len() { Ok(fits) } else { Err(Error::short_write(fits)) };
        }
        let mut done = 0;
        while data.len() - done > self.size {
            match raw.write(&data[done..])? {
                Some(count) => done += count,
                None => {
                    let fits = &data[done..done + self.size];
                    self.held.extend_from_slice(fits);
                    return Err(Error::short_write(done + fits.len()));
                }
            }
        }
        self.held.extend_from_slice(&data[done..]);
        Ok(data.len())
    }

    fn flush(&mut self, raw: &RawFile) -> Result<()> {
        while self.sent < self.held.len() {
            match raw.write(&self.held[self.sent..])? {
                Some(count) => self.sent += count,
                None => return Err(Error::short_write(0)),
            }
        }
        self.held.clear();
        self.sent = 0;
        Ok(())
    }
}

fn lock<T>(buffer: &Mutex<T>) -> MutexGuard<'_, T> {
    // A buffer that is written to half-way is still one: its counts are set last.
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The length of the first line, its newline included.
fn find_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1)
}
