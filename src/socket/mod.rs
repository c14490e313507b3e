//! Python's socket object on descriptors that never block.
//!
//! Python switches O_NONBLOCK with the mode. Here it is always on, so the code shows the three modes
//! for what they are: three ways to wait around the same system call.
//!
//! | mode | `settimeout` | a call that cannot proceed |
//! | --- | --- | --- |
//! | blocking | `None` | attempts, polls without limit, attempts again |
//! | timeout | `Some(t)`, t > 0 | polls first, attempts, and fails with `TimeoutError` |
//! | non-blocking | `Some(0.0)` | attempts once and fails with `BlockingIOError` |
//!
//! The rest matches Python too: the names, the calls that make no system call, one deadline for a
//! whole [`sendall`](Socket::sendall), the class, errno and text of each error, and the files of
//! [`makefile`](Socket::makefile). `docs/SEMANTICS.md` lists each rule with the test that shows it.
//!
//! ```
//! use saltecho::socket::{ErrorKind, socketpair};
//!
//! let (a, b) = socketpair()?;
//! b.settimeout(Some(0.01))?;
//! assert_eq!(b.recv(16).unwrap_err().kind(), ErrorKind::TimeoutError);
//! a.sendall(b"hello")?;
//! assert_eq!(b.recv(16)?, b"hello");
//! b.setblocking(false)?;
//! assert_eq!(b.recv(16).unwrap_err().kind(), ErrorKind::BlockingIOError);
//! # Ok::<(), saltecho::socket::Error>(())
//! ```
//!
//! Not imitated: SO_RCVLOWAT in blocking mode, MSG_WAITALL together with MSG_PEEK, and a blocking
//! `connect` to a Unix listener whose queue is full, which is EAGAIN at once.

mod address;
mod create;
mod error;
mod file;
mod inner;
mod options;
mod transfer;
mod wait;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

pub use libc::{
    IP_TTL, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, MSG_DONTWAIT, MSG_MORE,
    MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, SO_ACCEPTCONN, SO_BROADCAST,
    SO_DOMAIN, SO_ERROR, SO_KEEPALIVE, SO_LINGER, SO_PROTOCOL, SO_RCVBUF, SO_RCVTIMEO,
    SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, SO_SNDTIMEO, SO_TYPE, SOL_SOCKET, SOMAXCONN,
    TCP_NODELAY,
};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{self, AddressFamily, SocketFlags, sockopt};

use self::inner::Inner;
use self::wait::{Interest, Waiter};
use crate::python::Timeout;

pub use self::address::{Address, AddressArg};
pub use self::create::{
    ServerOptions, create_connection, create_server, getdefaulttimeout, setdefaulttimeout,
    socketpair,
};
pub use self::error::{Error, ErrorKind, Result};
pub use self::file::{
    BufferedFile, Data, DataArg, DecodeErrors, File, FileOptions, RawFile, TextFile,
};
pub use self::options::{OptionArg, OptionValue};

/// Python's address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// AF_INET.
    Inet,
    /// AF_INET6.
    Inet6,
    /// AF_UNIX.
    Unix,
}

/// Python's socket types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
}

/// `shutdown`'s argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// SHUT_RD.
    Read,
    /// SHUT_WR.
    Write,
    /// SHUT_RDWR.
    Both,
}

/// Python's `socket.socket`.
///
/// All methods take `&self`, because Python's sockets are shared between threads: one may receive
/// while another sends. Dropping a socket closes it, like leaving a `with` block.
///
/// Unlike a [`std::net::TcpStream`], its descriptor never blocks, and its results and errors are
/// Python's.
///
/// ```
/// use saltecho::socket::{ServerOptions, create_connection, create_server};
///
/// let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
/// let client = create_connection(listener.getsockname()?, None, None)?;
/// let (conn, _peer) = listener.accept()?;
///
/// conn.settimeout(Some(2.0))?;
/// client.sendall(b"hello")?;
/// assert_eq!(conn.recv(1024)?, b"hello");
/// client.close();
/// assert_eq!(conn.recv(1024)?, b"", "the end of the stream");
/// # Ok::<(), saltecho::socket::Error>(())
/// ```
pub struct Socket {
    inner: Arc<Inner>,
}

impl Socket {
    /// `socket(family, type)`: not inheritable, in the mode of the default timeout.
    ///
    /// # Errors
    /// The kernel's, for example EMFILE.
    pub fn new(family: Family, kind: SocketType) -> Result<Self> {
        let fd = net::socket_with(family.to_kernel(), kind.to_kernel(), new_flags(), None)?;
        Ok(Self::from_parts(fd, family, kind))
    }

    /// `socket(fileno=fd)`: takes over a descriptor, finds out what it is and makes it
    /// non-blocking. Its mode comes from the default timeout.
    ///
    /// # Errors
    /// ENOTSOCK and the like; EAFNOSUPPORT or EPROTOTYPE for a socket of a kind not known here.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let family = match sockopt::socket_domain(&fd)? {
            AddressFamily::INET => Family::Inet,
            AddressFamily::INET6 => Family::Inet6,
            AddressFamily::UNIX => Family::Unix,
            _ => return Err(Errno::AFNOSUPPORT.into()),
        };
        let kind = match sockopt::socket_type(&fd)? {
            net::SocketType::STREAM => SocketType::Stream,
            net::SocketType::DGRAM => SocketType::Datagram,
            _ => return Err(Errno::PROTOTYPE.into()),
        };
        ioctl_fionbio(&fd, true)?;
        Ok(Self::from_parts(fd, family, kind))
    }

    /// `bind(address)`. Never waits, except to resolve a host name.
    ///
    /// # Errors
    /// EINVAL if already bound or connected, EADDRINUSE, EADDRNOTAVAIL; OverflowError for a port
    /// out of range, before the descriptor is looked at.
    pub fn bind<'a>(&self, address: impl Into<AddressArg<'a>>) -> Result<()> {
        let address = address.into().resolve(self.inner.family, "bind")?.to_kernel()?;
        let (fd, _) = self.inner.begin()?;
        Ok(net::bind(fd, &address)?)
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
        let (accepted, peer) = Waiter::begin(fd.as_fd(), timeout)
            .run(Interest::Readable, || net::acceptfrom_with(&fd, new_flags()))?;
        let address = Address::from_kernel(peer)?;
        Ok((Self::from_parts(accepted, self.inner.family, self.inner.kind), address))
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
        self.connect_to(&address.into().resolve(self.inner.family, "connect")?)
    }

    /// `connect_ex(address)`: like [`connect`](Self::connect), but returns the errno: 0 for success,
    /// 11 (EAGAIN) for a timeout, 9 (EBADF) for a closed socket.
    ///
    /// # Errors
    /// Those of the arguments only: OverflowError for the port, gaierror for the host.
    pub fn connect_ex<'a>(&self, address: impl Into<AddressArg<'a>>) -> Result<i32> {
        let address = address.into().resolve(self.inner.family, "connect_ex")?;
        match self.connect_to(&address) {
            Ok(()) => Ok(0),
            Err(error) => Ok(error.errno().unwrap_or(libc::EAGAIN)),
        }
    }

    fn connect_to(&self, address: &Address) -> Result<()> {
        let address = address.to_kernel()?;
        let (fd, timeout) = self.inner.begin()?;
        let mut waiter = Waiter::begin(fd.as_fd(), timeout);
        if timeout == Timeout::Blocking {
            // Calling connect again, instead of reading SO_ERROR, leaves the socket in the state of
            // a blocking connect: reusable after a refusal, EISCONN after success.
            loop {
                match net::connect(&fd, &address) {
                    Err(Errno::INTR) => {}
                    Err(errno @ (Errno::INPROGRESS | Errno::ALREADY)) => {
                        waiter.wait(Interest::Writable, errno)?;
                    }
                    outcome => return Ok(outcome?),
                }
            }
        }
        match net::connect(&fd, &address) {
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

    /// `recv(n)`: up to `n` bytes, as soon as there are any; empty at the end of a stream.
    ///
    /// `recv(0)` returns empty at once, without a system call, even on a closed socket.
    ///
    /// # Errors
    /// ValueError for a negative `n`, before anything else; BlockingIOError or TimeoutError by
    /// mode; ConnectionResetError once; ENOTCONN at once on an unconnected stream.
    pub fn recv(&self, n: isize) -> Result<Vec<u8>> {
        self.recv_with_flags(n, 0)
    }

    /// `recv(n, flags)`, with flags like [`MSG_PEEK`].
    ///
    /// MSG_DONTWAIT and MSG_WAITALL have an effect in blocking mode only, as in Python.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_with_flags(&self, n: isize, flags: i32) -> Result<Vec<u8>> {
        let limit = usize::try_from(n).map_err(|_| Error::value("negative buffersize in recv"))?;
        self.inner.recv(limit, flags)
    }

    /// `recv_into(buffer)`: like [`recv`](Self::recv) into the caller's buffer; returns the count.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.inner.recv_into(buffer, 0)
    }

    /// `recv_into(buffer, 0, flags)`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_into_with_flags(&self, buffer: &mut [u8], flags: i32) -> Result<usize> {
        self.inner.recv_into(buffer, flags)
    }

    /// `recvfrom(n)`: the data and its sender, `None` on a stream.
    ///
    /// Unlike `recv`, a limit of 0 makes the system call: it waits like any other read and consumes a
    /// datagram. A datagram longer than `n` is truncated; the rest is lost.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), with its own text for a negative `n`.
    pub fn recvfrom(&self, n: isize) -> Result<(Vec<u8>, Option<Address>)> {
        self.recvfrom_with_flags(n, 0)
    }

    /// `recvfrom(n, flags)`.
    ///
    /// # Errors
    /// As [`recvfrom`](Self::recvfrom).
    pub fn recvfrom_with_flags(&self, n: isize, flags: i32) -> Result<(Vec<u8>, Option<Address>)> {
        let limit =
            usize::try_from(n).map_err(|_| Error::value("negative buffersize in recvfrom"))?;
        self.inner.recvfrom(limit, flags)
    }

    /// `send(data)`: the number of bytes taken.
    ///
    /// In blocking mode a stream takes everything; in the other modes as much as fits at once. An
    /// empty `send` on a full stream returns 0 in non-blocking mode but times out in timeout mode.
    ///
    /// # Errors
    /// BlockingIOError or TimeoutError depending on the mode; BrokenPipeError on an unconnected
    /// stream, after `shutdown`, or after a reported reset; EDESTADDRREQ for an unconnected datagram
    /// socket.
    pub fn send(&self, data: &[u8]) -> Result<usize> {
        self.inner.send(data, 0, None)
    }

    /// `send(data, flags)`. MSG_NOSIGNAL is always added: no SIGPIPE, as in Python.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with_flags(&self, data: &[u8], flags: i32) -> Result<usize> {
        self.inner.send(data, flags, None)
    }

    /// `sendall(data)`: sends until everything is queued in the kernel.
    ///
    /// Like the loop `while data: data = data[send(data):]`, with three differences: it makes at least
    /// one call, also for empty data; in timeout mode one deadline covers all of it; and a failure
    /// does not report the length of the part already sent.
    ///
    /// # Errors
    /// As [`send`](Self::send); BlockingIOError in non-blocking mode as soon as the kernel is full.
    pub fn sendall(&self, data: &[u8]) -> Result<()> {
        self.inner.sendall(data, 0)
    }

    /// `sendall(data, flags)`.
    ///
    /// # Errors
    /// As [`sendall`](Self::sendall).
    pub fn sendall_with_flags(&self, data: &[u8], flags: i32) -> Result<()> {
        self.inner.sendall(data, flags)
    }

    /// `sendto(data, address)`: one datagram. On a connected stream the address is ignored.
    ///
    /// # Errors
    /// As [`send`](Self::send), EMSGSIZE for a datagram over 65507 bytes, and those of
    /// [`bind`](Self::bind) for the address.
    pub fn sendto<'a>(&self, data: &[u8], address: impl Into<AddressArg<'a>>) -> Result<usize> {
        self.sendto_with_flags(data, 0, address)
    }

    /// `sendto(data, flags, address)`.
    ///
    /// # Errors
    /// As [`sendto`](Self::sendto).
    pub fn sendto_with_flags<'a>(
        &self,
        data: &[u8],
        flags: i32,
        address: impl Into<AddressArg<'a>>,
    ) -> Result<usize> {
        let address = address.into().resolve(self.inner.family, "sendto")?.to_kernel()?;
        self.inner.send(data, flags, Some(&address))
    }

    /// `getpeername()`. Never waits.
    ///
    /// # Errors
    /// ENOTCONN if unconnected, pending or listening, and after a reset.
    pub fn getpeername(&self) -> Result<Address> {
        let (fd, _) = self.inner.begin()?;
        Address::from_kernel(net::getpeername(fd)?)
    }

    /// `getsockname()`: all zeros if unbound. Never waits.
    ///
    /// # Errors
    /// EBADF on a closed socket.
    pub fn getsockname(&self) -> Result<Address> {
        let (fd, _) = self.inner.begin()?;
        Address::from_kernel(Some(net::getsockname(fd)?))
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

    /// `close()`. Closing twice is allowed. With open files it takes effect when the last one is
    /// closed; until then all calls still work.
    ///
    /// With unread input the kernel sends a reset instead of a normal end.
    pub fn close(&self) {
        self.inner.close();
    }

    /// `detach()`: closes the object and returns its descriptor; `None` if it was already closed.
    ///
    /// As in Python the descriptor blocks if the socket was in blocking mode.
    ///
    /// # Errors
    /// EMFILE if another thread is in a call on this socket and no second descriptor can be had.
    pub fn detach(&self) -> Result<Option<OwnedFd>> {
        let Some(shared) = self.inner.detach() else { return Ok(None) };
        let fd = match Arc::try_unwrap(shared) {
            Ok(fd) => fd,
            Err(in_use) => rustix::io::fcntl_dupfd_cloexec(in_use.as_fd(), 0)?,
        };
        ioctl_fionbio(&fd, self.inner.timeout() != Timeout::Blocking)?;
        Ok(Some(fd))
    }

    /// Duplicates the descriptor; the duplicate is as non-blocking as the original.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self.inner.begin()?.0, 0)?)
    }

    /// Waits until the connection has failed or both directions have ended; false after `limit`.
    pub(crate) fn fails_within(&self, limit: Duration) -> Result<bool> {
        wait::fails_within(self.inner.begin()?.0.as_fd(), limit)
    }

    /// `settimeout(seconds)`: `None` waits without limit, zero does not wait.
    ///
    /// # Errors
    /// ValueError or OverflowError for a bad value, which changes nothing; EBADF on a closed
    /// socket, whose stored timeout still changes.
    pub fn settimeout(&self, seconds: Option<f64>) -> Result<()> {
        self.inner.set_timeout(Timeout::from_secs(seconds)?)
    }

    /// `gettimeout()`: seconds, 0.0 in non-blocking mode, `None` in blocking mode.
    pub fn gettimeout(&self) -> Option<f64> {
        self.timeout().as_secs()
    }

    /// `setblocking(flag)`.
    ///
    /// # Errors
    /// EBADF on a closed socket, whose stored mode still changes.
    pub fn setblocking(&self, flag: bool) -> Result<()> {
        self.inner.set_timeout(Timeout::from_blocking(flag))
    }

    /// `getblocking()`: also true in timeout mode.
    pub fn getblocking(&self) -> bool {
        self.timeout().is_blocking()
    }

    /// The mode, with the timeout in whole nanoseconds; Python has it only as a float.
    pub fn timeout(&self) -> Timeout {
        self.inner.timeout()
    }

    /// `fileno()`: the descriptor's number, -1 once closed.
    ///
    /// For looking at, or for a readiness API: the descriptor is non-blocking in every mode.
    pub fn fileno(&self) -> i32 {
        self.inner.begin().map_or(-1, |(fd, _)| fd.as_raw_fd())
    }

    /// The address family, fixed at creation.
    pub fn family(&self) -> Family {
        self.inner.family
    }

    /// The socket type, fixed at creation; Python's attribute `type`.
    pub fn kind(&self) -> SocketType {
        self.inner.kind
    }

    /// `makefile(mode, ...)`: a file on this socket; see [`File`].
    ///
    /// # Errors
    /// ValueError for a mode with letters other than r, w and b, for unbuffered text, or for an
    /// illegal newline; LookupError for an encoding other than UTF-8. A failed call keeps no
    /// reference to the socket.
    pub fn makefile(&self, mode: &str, options: FileOptions<'_>) -> Result<File> {
        File::open(&self.inner, mode, options)
    }

    fn from_parts(fd: OwnedFd, family: Family, kind: SocketType) -> Self {
        Self { inner: Arc::new(Inner::new(fd, family, kind, create::default_timeout())) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("fd", &self.fileno())
            .field("family", &self.inner.family)
            .field("type", &self.inner.kind)
            .field("timeout", &self.timeout())
            .finish()
    }
}

impl Family {
    const fn to_kernel(self) -> AddressFamily {
        match self {
            Self::Inet => AddressFamily::INET,
            Self::Inet6 => AddressFamily::INET6,
            Self::Unix => AddressFamily::UNIX,
        }
    }
}

impl SocketType {
    const fn to_kernel(self) -> net::SocketType {
        match self {
            Self::Stream => net::SocketType::STREAM,
            Self::Datagram => net::SocketType::DGRAM,
        }
    }
}

/// Flags of every new descriptor: non-blocking, not inherited by child processes.
fn new_flags() -> SocketFlags {
    SocketFlags::NONBLOCK | SocketFlags::CLOEXEC
}
