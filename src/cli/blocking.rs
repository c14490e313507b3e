//! Blocking calls on standard streams and sockets that may be non-blocking.
//!
//! O_NONBLOCK belongs to the open file, which stdin, stdout and stderr share with other processes:
//! any of them may have set it, and clearing it would affect all of them. So EAGAIN here means:
//! wait with poll(2) and try again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A stream whose calls block, even if its descriptor is non-blocking.
pub(super) struct Blocking<F>(pub(super) F);

impl Blocking<File> {
    /// Duplicates a descriptor; both refer to the same open file.
    pub(super) fn duplicate(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self(File::from(fd.as_fd().try_clone_to_owned()?)))
    }
}

impl<F: AsFd + Read> Read for Blocking<F> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(self.0.as_fd(), PollFlags::IN)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<F: AsFd + Write> Write for Blocking<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(self.0.as_fd(), PollFlags::OUT)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    poll_until(&mut [PollFd::from_borrowed_fd(fd, flags)], None)
}

/// Calls poll(2) until a descriptor is ready or the deadline has passed. Signals do not end it.
pub(super) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let limit = deadline.map(|deadline| timespec(deadline - Instant::now().min(deadline)));
        match poll(fds, limit.as_ref()) {
            Err(Errno::INTR) => {}
            result => return result.map(drop).map_err(io::Error::from),
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    // `i64::MAX` seconds are for ever.
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() }
}
