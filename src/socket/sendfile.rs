//! `sendfile`, and its form for what is not a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::wait::{Interest, Waiter};
use super::{Error, ErrorKind, Result, Socket, SocketType};
use crate::python::Timeout;

/// The most that sendfile(2) is asked for at once.
const BLOCK: u64 = 1 << 30;
/// Bytes read at once where sendfile(2) does not work.
const PIECE: usize = 8192;

impl Socket {
    /// `sendfile(file, offset, count)`: sends a file from `offset` on, up to its end or `count`
    /// bytes, and returns how many were sent. The kernel copies, by sendfile(2); a file of a kind
    /// that it cannot copy from is read and sent, as by [`sendfile_from`](Self::sendfile_from). What
    /// has no size, for instance a pipe, counts as empty, as in Python.
    ///
    /// The file's position is afterwards behind the last byte sent, also after an error. In timeout
    /// mode each wait for room has the whole timeout. sendfile(2) knows no MSG_NOSIGNAL: where a
    /// program has undone the standard library's ignoring of SIGPIPE, a peer that is gone raises it.
    ///
    /// # Errors
    /// ValueError for a datagram socket, for a count of 0, and in non-blocking mode; TimeoutError,
    /// the socket's errors and the file's.
    pub fn sendfile(&self, file: &File, offset: u64, count: Option<u64>) -> Result<u64> {
        self.check_sendfile(count)?;
        if file.metadata().map_err(from_io)?.len() == 0 {
            return Ok(0);
        }
        let mut at = offset;
        let outcome = self.copy_in_kernel(file, &mut at, count);
        if at == offset && outcome.as_ref().is_err_and(falls_back) {
            return self.sendfile_from(&mut &*file, offset, count);
        }
        if at > offset {
            (&*file).seek(SeekFrom::Start(at)).map_err(from_io)?;
        }
        outcome.map(|()| at - offset)
    }

    /// `sendfile(file, offset, count)` for a file object that has no descriptor: it is read in
    /// pieces of at most 8192 bytes, which are sent (CPython's `_sendfile_use_send`).
    ///
    /// # Errors
    /// As [`sendfile`](Self::sendfile), and those of `file`.
    pub fn sendfile_from<F: Read + Seek>(
        &self,
        file: &mut F,
        offset: u64,
        count: Option<u64>,
    ) -> Result<u64> {
        self.check_sendfile(count)?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(from_io)?;
        }
        let mut sent = 0;
        let outcome = self.read_and_send(file, &mut sent, count);
        if sent > 0 {
            file.seek(SeekFrom::Start(offset + sent)).map_err(from_io)?;
        }
        outcome.map(|()| sent)
    }

    fn check_sendfile(&self, count: Option<u64>) -> Result<()> {
        if self.inner.kind != SocketType::Stream {
            return Err(Error::value("only SOCK_STREAM type sockets are supported"));
        }
        if count == Some(0) {
            return Err(Error::value("count must be a positive integer (got 0)"));
        }
        if self.timeout() == Timeout::NonBlocking {
            return Err(Error::value("non-blocking sockets are not supported"));
        }
        Ok(())
    }

    /// Moves `at` forward as it goes.
    fn copy_in_kernel(&self, file: &File, at: &mut u64, count: Option<u64>) -> Result<()> {
        let end = count.map_or(u64::MAX, |count| at.saturating_add(count));
        while *at < end {
            let (fd, timeout) = self.inner.begin()?;
            let block = usize::try_from((end - *at).min(BLOCK)).unwrap_or(usize::MAX);
            let sent = Waiter::begin(&self.inner, fd.as_fd(), timeout)
                .run(Interest::Writable, || rustix::fs::sendfile(&fd, file, Some(at), block))?;
            if sent == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Counts `sent` up as it goes.
    fn read_and_send(
        &self,
        file: &mut impl Read,
        sent: &mut u64,
        count: Option<u64>,
    ) -> Result<()> {
        let mut piece = [0; PIECE];
        loop {
            let left = count.map_or(u64::MAX, |count| count - *sent);
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let mut data = match file.read(&mut piece[..room]) {
                Ok(0) => return Ok(()),
                Ok(length) => &piece[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(from_io(error)),
            };
            while !data.is_empty() {
                let taken = self.send(data)?;
                data = &data[taken..];
                *sent += taken as u64;
            }
        }
    }
}

/// Returns true if the kernel objects to the file, not to the socket: only a call that fails without
/// having waited or been interrupted says something about the file.
fn falls_back(error: &Error) -> bool {
    error.errno().is_some_and(|errno| {
        ![Errno::INTR, Errno::AGAIN, Errno::BADF].map(Errno::raw_os_error).contains(&errno)
    })
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn from_io(error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(errno) => errno.into(),
        None => Error::raised_with(ErrorKind::OSError, error.to_string()),
    }
}
