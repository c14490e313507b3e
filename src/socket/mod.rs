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
//! It also lists what is not imitated, with the reason.

mod address;
mod connect;
mod create;
mod error;
mod file;
mod inner;
mod message;
mod options;
mod resolve;
mod sendfile;
mod transfer;
mod wait;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

pub use libc::{
    IP_TTL, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPV6_HOPLIMIT, IPV6_RECVHOPLIMIT,
    IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_UNICAST_HOPS, IPV6_V6ONLY, MSG_CMSG_CLOEXEC, MSG_CTRUNC,
    MSG_DONTWAIT, MSG_EOR, MSG_ERRQUEUE, MSG_FASTOPEN, MSG_MORE, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK,
    MSG_TRUNC, MSG_WAITALL, SCM_CREDENTIALS, SCM_RIGHTS, SO_ACCEPTCONN, SO_BROADCAST, SO_DOMAIN,
    SO_ERROR, SO_KEEPALIVE, SO_LINGER, SO_PASSCRED, SO_PROTOCOL, SO_RCVBUF, SO_RCVTIMEO,
    SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, SO_SNDTIMEO, SO_TYPE, SOL_SOCKET, SOMAXCONN,
    TCP_NODELAY,
};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd, ioctl_fionbio};
use rustix::net::{self, AddressFamily, sockopt};

use self::error::repr;
use self::inner::{Inner, Origin};
use crate::python::Timeout;

pub use self::address::{Address, AddressArg};
pub use self::create::{
    ServerOptions, SocketOptions, create_connection, create_connection_all_errors, create_server,
    getdefaulttimeout, setdefaulttimeout, socketpair, socketpair_with,
};
pub use self::error::{Error, ErrorKind, FromFdError, Result};
pub use self::file::{
    BufferedFile, Data, DataArg, DecodeErrors, File, FileOptions, RawFile, TextFile,
};
pub use self::message::{
    Ancillary, AncillaryArg, Message, cmsg_len, cmsg_space, recv_fds, send_fds,
};
pub use self::options::{OptionArg, OptionValue};
pub use self::wait::set_interrupt_hook;

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
        Self::new_with(family, kind, SocketOptions::default())
    }

    /// `socket(fileno=fd)`: takes over a descriptor and finds out what it is. Its mode comes from
    /// the default timeout.
    ///
    /// Others may hold the same open file description, to which O_NONBLOCK belongs. As in Python a
    /// blocking socket leaves the flag as it is, and choosing a mode sets it for all of them. Unlike
    /// there, a blocking socket waits on a descriptor that came with the flag set.
    ///
    /// # Errors
    /// ENOTSOCK and the like; EAFNOSUPPORT or EPROTOTYPE for a socket of a kind not known here. The
    /// descriptor comes back with the error, unchanged.
    pub fn from_fd(fd: OwnedFd) -> std::result::Result<Self, FromFdError> {
        match Self::identify(&fd) {
            Ok(what) => Ok(Self::from_parts(fd, what, Origin::TakenOver)),
            Err(error) => Err(FromFdError::new(error, fd)),
        }
    }

    /// Finds the family, type and protocol of a descriptor, and sets it non-blocking if sockets start
    /// with a timeout.
    fn identify(fd: &OwnedFd) -> Result<(Family, SocketType, i32)> {
        let family = match sockopt::socket_domain(fd)? {
            AddressFamily::INET => Family::Inet,
            AddressFamily::INET6 => Family::Inet6,
            AddressFamily::UNIX => Family::Unix,
            _ => return Err(Errno::AFNOSUPPORT.into()),
        };
        let kind = match sockopt::socket_type(fd)? {
            net::SocketType::STREAM => SocketType::Stream,
            net::SocketType::DGRAM => SocketType::Datagram,
            _ => return Err(Errno::PROTOTYPE.into()),
        };
        let proto = sockopt::socket_protocol(fd)?;
        let proto = proto.map_or(0, |proto| proto.as_raw().get().cast_signed());
        if create::default_timeout() != Timeout::Blocking {
            ioctl_fionbio(fd, true)?;
        }
        Ok((family, kind, proto))
    }

    /// `dup()`: another socket on a duplicate of the descriptor, with the same timeout. It is not
    /// inheritable.
    ///
    /// # Errors
    /// EBADF on a closed socket, EMFILE.
    pub fn dup(&self) -> Result<Self> {
        let (fd, timeout) = self.inner.begin()?;
        let Inner { family, kind, proto, origin, .. } = *self.inner;
        let fd = fcntl_dupfd_cloexec(&*fd, 0)?;
        Ok(Self { inner: Arc::new(Inner::new(fd, (family, kind, proto), origin, timeout)) })
    }

    /// `get_inheritable()`: whether child processes that this one executes get the descriptor.
    ///
    /// # Errors
    /// EBADF on a closed socket.
    pub fn get_inheritable(&self) -> Result<bool> {
        let (fd, _) = self.inner.begin()?;
        Ok(!fcntl_getfd(&*fd)?.contains(FdFlags::CLOEXEC))
    }

    /// `set_inheritable(inheritable)`.
    ///
    /// # Errors
    /// EBADF on a closed socket.
    pub fn set_inheritable(&self, inheritable: bool) -> Result<()> {
        let (fd, _) = self.inner.begin()?;
        let mut flags = fcntl_getfd(&*fd)?;
        flags.set(FdFlags::CLOEXEC, !inheritable);
        Ok(fcntl_setfd(&*fd, flags)?)
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
    /// As in Python the descriptor blocks if the socket was in blocking mode. While another thread
    /// is in a call on this socket, it returns a duplicate with another number: that call still uses
    /// the first one, whose number must not be free for another file yet.
    ///
    /// # Errors
    /// EMFILE if such a duplicate cannot be had.
    pub fn detach(&self) -> Result<Option<OwnedFd>> {
        let Some(shared) = self.inner.detach() else { return Ok(None) };
        let fd = match Arc::try_unwrap(shared) {
            Ok(fd) => fd,
            Err(in_use) => fcntl_dupfd_cloexec(in_use.as_fd(), 0)?,
        };
        if self.inner.origin == Origin::Made {
            ioctl_fionbio(&fd, self.inner.timeout() != Timeout::Blocking)?;
        }
        Ok(Some(fd))
    }

    /// Duplicates the descriptor; the duplicate is as non-blocking as the original.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(self.inner.begin()?.0, 0)?)
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
    /// For looking at, or for a readiness API. The descriptor is non-blocking in every mode, unless
    /// it was taken over by [`from_fd`](Self::from_fd).
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

    /// The protocol it was made with; Python's attribute `proto`. 0 is the default one of the family
    /// and type.
    pub fn proto(&self) -> i32 {
        self.inner.proto
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

    fn from_parts(fd: OwnedFd, what: (Family, SocketType, i32), origin: Origin) -> Self {
        let inner = Inner::new(fd, what, origin, create::default_timeout());
        Self { inner: Arc::new(inner) }
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
