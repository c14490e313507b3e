use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::inner::Inner;
use super::super::transfer::zeroed;
use super::{Access, DEFAULT_BUFFER_SIZE, closed_file};
use crate::socket::{Error, ErrorKind, Result};

/// Python's `SocketIO`: a file whose every call is one call on the socket.
///
/// The socket's mode is looked up at each call. Nothing there on a non-blocking socket is `None`,
/// not an error, and the end of the stream is empty. Several threads may use it at once.
pub struct RawFile {
    /// `None` once this file is closed, regardless of the socket.
    socket: Mutex<Option<Arc<Inner>>>,
    access: Access,
    /// A read timed out: every later read fails, even in blocking mode (`_timeout_occurred`).
    spoiled: AtomicBool,
}

impl RawFile {
    pub(super) fn new(inner: &Arc<Inner>, access: Access) -> Self {
        inner.file_opened();
        Self {
            socket: Mutex::new(Some(Arc::clone(inner))),
            access,
            spoiled: AtomicBool::new(false),
        }
    }

    /// `read(n)`: one receive; `read()` until the end, or until nothing more is there.
    ///
    /// # Errors
    /// As [`readinto`](Self::readinto).
    pub fn read(&self, n: Option<usize>) -> Result<Option<Vec<u8>>> {
        let Some(n) = n else { return self.readall() };
        let mut buffer = zeroed(n)?;
        Ok(self.readinto(&mut buffer)?.map(|count| {
            buffer.truncate(count);
            buffer
        }))
    }

    /// `readall()`: until the end of the stream, or until nothing more is there; `None` if nothing
    /// was.
    ///
    /// # Errors
    /// As [`readinto`](Self::readinto); what was read before the error is lost.
    pub fn readall(&self) -> Result<Option<Vec<u8>>> {
        let mut all = Vec::new();
        let mut piece = zeroed(DEFAULT_BUFFER_SIZE)?;
        loop {
            match self.readinto(&mut piece)? {
                None if all.is_empty() => return Ok(None),
                None | Some(0) => return Ok(Some(all)),
                Some(count) => all.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// `readinto(buffer)`: one receive; `None` if nothing is there on a non-blocking socket.
    ///
    /// # Errors
    /// ValueError if closed, UnsupportedOperation for a writer, OSError without an errno after an
    /// earlier timeout, and the socket's own.
    pub fn readinto(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let socket = self.socket().ok_or_else(closed_file)?;
        if !self.access.reads() {
            return Err(Error::unsupported("File or stream is not readable."));
        }
        if self.spoiled.load(Ordering::Relaxed) {
            return Err(Error::raised(ErrorKind::OSError, "cannot read from timed out object"));
        }
        match socket.recv_into(buffer, 0) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.is_would_block() => Ok(None),
            Err(error) => {
                if error.kind() == ErrorKind::TimeoutError {
                    self.spoiled.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    /// `readline(limit)`, byte by byte, because excess bytes could not be put back.
    ///
    /// # Errors
    /// As [`readinto`](Self::readinto); OSError if nothing is there on a non-blocking socket, and
    /// what the line had so far is lost.
    pub fn readline(&self, limit: Option<usize>) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        while limit.is_none_or(|limit| line.len() < limit) {
            let byte = self.read(Some(1))?.ok_or_else(not_bytes)?;
            line.extend_from_slice(&byte);
            if byte.is_empty() || byte == b"\n" {
                break;
            }
        }
        Ok(line)
    }

    /// `write(data)`: one send; `None` on a full non-blocking socket. A timeout does not disable the
    /// file.
    ///
    /// # Errors
    /// ValueError if closed, UnsupportedOperation for a reader, and the socket's own.
    pub fn write(&self, data: &[u8]) -> Result<Option<usize>> {
        let socket = self.socket().ok_or_else(closed_file)?;
        if !self.access.writes() {
            return Err(Error::unsupported("File or stream is not writable."));
        }
        match socket.send(data, 0, None) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.is_would_block() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `flush()`: does nothing.
    ///
    /// # Errors
    /// ValueError if closed.
    pub fn flush(&self) -> Result<()> {
        self.socket().map(drop).ok_or_else(closed_file)
    }

    /// `close()`: drops the reference to the socket. Closing twice is allowed.
    pub fn close(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = socket {
            socket.file_closed();
        }
    }

    /// The attribute `closed`.
    pub fn closed(&self) -> bool {
        self.socket().is_none()
    }

    /// `readable()`.
    ///
    /// # Errors
    /// ValueError if closed.
    pub fn readable(&self) -> Result<bool> {
        self.open_socket().map(|_| self.access.reads())
    }

    /// `writable()`.
    ///
    /// # Errors
    /// ValueError if closed.
    pub fn writable(&self) -> Result<bool> {
        self.open_socket().map(|_| self.access.writes())
    }

    /// `seekable()`: never.
    ///
    /// # Errors
    /// ValueError if closed.
    pub fn seekable(&self) -> Result<bool> {
        self.open_socket().map(|_| false)
    }

    /// `fileno()`: -1 if the socket is closed and this file is not.
    ///
    /// # Errors
    /// ValueError if closed.
    pub fn fileno(&self) -> Result<i32> {
        use std::os::fd::AsRawFd;
        let socket = self.socket().ok_or_else(closed_file)?;
        Ok(socket.begin().map_or(-1, |(fd, _)| fd.as_raw_fd()))
    }

    /// The attribute `mode`, always with `b`.
    pub fn mode(&self) -> &'static str {
        match self.access {
            Access::Read => "rb",
            Access::Write => "wb",
            Access::ReadWrite => "rwb",
        }
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    fn open_socket(&self) -> Result<Arc<Inner>> {
        self.socket().ok_or(Error::value("I/O operation on closed socket."))
    }

    fn socket(&self) -> Option<Arc<Inner>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for RawFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawFile")
            .field("mode", &self.mode())
            .field("closed", &self.closed())
            .field("spoiled", &self.spoiled)
            .finish()
    }
}

impl Access {
    const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// Error of CPython's generic `readline` when `read` has no data on a non-blocking socket.
pub(super) const fn not_bytes() -> Error {
    Error::raised(ErrorKind::OSError, "read() should have returned a bytes object, not 'NoneType'")
}
