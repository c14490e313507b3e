//! Names and connections: `bind`, `listen`, `accept`, `connect` and their like.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{self, sockopt};

use super::inner::{Inner, Origin};
use super::wait::{Interest, Waiter};
use super::{Address, AddressArg, Result, SOMAXCONN, Shutdown, Socket};
use crate::python::Timeout;
use crate::rawopt::{self, Name};

impl Socket {
    /// `bind(address)`. Never waits, except to resolve a host name.
    ///
    /// # Errors
    /// EINVAL if already bound or connected, EADDRINUSE, EADDRNOTAVAIL. Before the descriptor is
    /// looked at: gaierror for the host, OverflowError for a port out of range, OSError without an
    /// errno for a Unix path that is too long, ValueError for one with a zero byte inside.
    pub fn bind<'a>(&self, address: impl Into<AddressArg<'a>>) -> Result<()> {
        let address = address.into().resolve(self.inner.family, "bind")?.to_kernel()?;
        let (fd, _) = self.inner.begin()?;
        Ok(rawopt::bind(fd.as_fd(), &address)?)
    }

    /// `listen([backlog])`: by default min(SOMAXCONN, 128); a negative backlog counts as 0. Linux
    /// queues one more connection than the backlog. Never waits.
    ///
    /// # Errors
    /// EOPNOTSUPP for datagrams, EINVAL for a connected socket.
    pub fn listen(&self, backlog: Option<i32>) -> Result<()> {
        let (fd, _) = self.inner.begin()?;
        Ok(net::listen(fd, backlog.unwrap_or(SOMAXCONN.min(128)).max(0))?)
    }

    /// `accept()`: the next connection and the address of its peer.
    ///
    /// The new socket gets the mode of the default timeout, not of the listener.
    ///
    /// # Errors
    /// As for every waiting call, BlockingIOError or TimeoutError depending on the mode; EINVAL at
    /// once if not listening, EOPNOTSUPP for datagrams.
    pub fn accept(&self) -> Result<(Self, Address)> {
        let (fd, timeout) = self.inner.begin()?;
        let mut waiter = Waiter::begin(&self.inner, fd.as_fd(), timeout);
        if self.inner.origin == Origin::TakenOver && timeout == Timeout::Blocking {
            // This descriptor may block, and accept4(2) has no MSG_DONTWAIT.
            waiter.wait(Interest::Readable, Errno::AGAIN)?;
        }
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let (accepted, peer) =
            waiter.run(Interest::Readable, || rawopt::accept(fd.as_fd(), flags))?;
        let address = Address::from_kernel(&peer)?;
        let Inner { family, kind, proto, .. } = *self.inner;
        Ok((Self::from_parts(accepted, (family, kind, proto), Origin::Made), address))
    }

    /// `connect(address)`: waits for the connection without limit, or up to the timeout.
    ///
    /// After a timeout, and in non-blocking mode after EINPROGRESS, the attempt continues in the
    /// kernel. Another call fails with EALREADY while it is pending, except in blocking mode, which
    /// waits for it; once connected, the next call succeeds and the one after it fails with EISCONN.
    ///
    /// # Errors
    /// ConnectionRefusedError, TimeoutError without an errno, BlockingIOError (EINPROGRESS,
    /// EALREADY), EISCONN, and those of [`bind`](Self::bind) for the address.
    pub fn connect<'a>(&self, address: impl Into<AddressArg<'a>>) -> Result<()> {
        self.connect_to(&address.into().resolve(self.inner.family, "connect")?.to_kernel()?)
    }

    /// `connect_ex(address)`: like [`connect`](Self::connect), but returns the errno: 0 for success,
    /// 11 (EAGAIN) for a timeout, 9 (EBADF) for a closed socket.
    ///
    /// # Errors
    /// Those of the arguments only: OverflowError for the port, gaierror for the host, OSError
    /// without an errno for a Unix path that is too long, ValueError for one with a zero byte inside.
    pub fn connect_ex<'a>(&self, address: impl Into<AddressArg<'a>>) -> Result<i32> {
        let address = address.into().resolve(self.inner.family, "connect_ex")?.to_kernel()?;
        match self.connect_to(&address) {
            Ok(()) => Ok(0),
            Err(error) => Ok(error.errno().unwrap_or(libc::EAGAIN)),
        }
    }

    fn connect_to(&self, address: &Name) -> Result<()> {
        let (fd, timeout) = self.inner.begin()?;
        let mut waiter = Waiter::begin(&self.inner, fd.as_fd(), timeout);
        if timeout == Timeout::Blocking {
            return self.connect_blocking(&mut waiter, &fd, address);
        }
        match rawopt::connect(fd.as_fd(), address) {
            Err(Errno::INPROGRESS | Errno::INTR) if timeout != Timeout::NonBlocking => {
                waiter.wait(Interest::Writable, Errno::INPROGRESS)?;
                match sockopt::socket_error(&fd)? {
                    Ok(()) | Err(Errno::ISCONN) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
            outcome => Ok(outcome?),
        }
    }

    /// Calling connect again, instead of reading SO_ERROR, leaves the socket in the state of a
    /// blocking connect: reusable after a refusal, EISCONN after success.
    fn connect_blocking(
        &self,
        waiter: &mut Waiter<'_>,
        fd: &OwnedFd,
        address: &Name,
    ) -> Result<()> {
        loop {
            match rawopt::connect(fd.as_fd(), address) {
                Err(Errno::INTR) => waiter.interrupted()?,
                Err(errno @ (Errno::INPROGRESS | Errno::ALREADY)) => {
                    waiter.wait(Interest::Writable, errno)?;
                }
                // A Unix listener's queue is full. poll(2) does not tell when there is room, so for
                // this once the kernel waits: nothing else can be done with the socket meanwhile.
                Err(Errno::AGAIN) if self.inner.origin == Origin::Made => {
                    ioctl_fionbio(fd, false)?;
                    let outcome = rawopt::connect(fd.as_fd(), address);
                    ioctl_fionbio(fd, true)?;
                    match outcome {
                        Err(Errno::INTR) => waiter.interrupted()?,
                        outcome => return Ok(outcome?),
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// `getpeername()`. Never waits.
    ///
    /// # Errors
    /// ENOTCONN if unconnected, pending or listening, and after a reset.
    pub fn getpeername(&self) -> Result<Address> {
        let (fd, _) = self.inner.begin()?;
        Address::from_kernel(&rawopt::getpeername(fd.as_fd())?)
    }

    /// `getsockname()`: all zeros if unbound. Never waits.
    ///
    /// # Errors
    /// EBADF on a closed socket.
    pub fn getsockname(&self) -> Result<Address> {
        let (fd, _) = self.inner.begin()?;
        Address::from_kernel(&rawopt::getsockname(fd.as_fd())?)
    }

    /// `shutdown(how)`. Never waits.
    ///
    /// After a shutdown of reading, Linux still delivers data that arrives later.
    ///
    /// # Errors
    /// ENOTCONN when unconnected.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        let (fd, _) = self.inner.begin()?;
        let how = match how {
            Shutdown::Read => net::Shutdown::Read,
            Shutdown::Write => net::Shutdown::Write,
            Shutdown::Both => net::Shutdown::Both,
        };
        Ok(net::shutdown(fd, how)?)
    }
}
