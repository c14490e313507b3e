//! Functions that create sockets, and the default timeout of new sockets.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use rustix::net::{self, Protocol, SocketFlags};

use super::inner::Origin;
use super::{
    Address, AddressArg, Error, ErrorKind, Family, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, Result,
    SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET, Socket, SocketType,
};
use crate::python::Timeout;

/// Mode of new sockets, accepted ones included. Process-wide, as in Python.
static DEFAULT_TIMEOUT: Mutex<Timeout> = Mutex::new(Timeout::Blocking);

/// `socket.setdefaulttimeout(seconds)`: sets the mode of future sockets; existing ones keep theirs.
///
/// # Errors
/// ValueError or OverflowError, as for [`Socket::settimeout`].
pub fn setdefaulttimeout(seconds: Option<f64>) -> Result<()> {
    let timeout = Timeout::from_secs(seconds)?;
    *DEFAULT_TIMEOUT.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
    Ok(())
}

/// `socket.getdefaulttimeout()`.
pub fn getdefaulttimeout() -> Option<f64> {
    default_timeout().as_secs()
}

pub(super) fn default_timeout() -> Timeout {
    *DEFAULT_TIMEOUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arguments of `socket.socket` besides family and type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// The protocol, for instance [`IPPROTO_TCP`]; 0 for the default of the family and type.
    pub proto: i32,
    /// Python's type flag SOCK_NONBLOCK: non-blocking mode, regardless of the default timeout. (Its
    /// other one, SOCK_CLOEXEC, changes nothing: no new socket is inheritable.)
    pub nonblocking: bool,
}

impl Socket {
    /// `socket(family, type | flags, proto)`.
    ///
    /// # Errors
    /// Those of socket(2), for instance EPROTONOSUPPORT.
    pub fn new_with(family: Family, kind: SocketType, options: SocketOptions) -> Result<Self> {
        let SocketOptions { proto, nonblocking } = options;
        let protocol = raw_protocol(proto);
        let fd = net::socket_with(family.to_kernel(), kind.to_kernel(), new_flags(), protocol)?;
        let socket = Self::from_parts(fd, (family, kind, proto), Origin::Made);
        if nonblocking {
            socket.setblocking(false)?;
        }
        Ok(socket)
    }
}

/// `socket.socketpair()`: two connected Unix stream sockets.
///
/// # Errors
/// The kernel's, for example EMFILE.
pub fn socketpair() -> Result<(Socket, Socket)> {
    socketpair_with(Family::Unix, SocketType::Stream, 0)
}

/// `socket.socketpair(family, type, proto)`. Linux has pairs of Unix sockets only.
///
/// # Errors
/// EOPNOTSUPP for another family, and what else the kernel says.
pub fn socketpair_with(family: Family, kind: SocketType, proto: i32) -> Result<(Socket, Socket)> {
    let protocol = raw_protocol(proto);
    let (a, b) = net::socketpair(family.to_kernel(), kind.to_kernel(), new_flags(), protocol)?;
    let whole = |fd| Socket::from_parts(fd, (family, kind, proto), Origin::Made);
    Ok((whole(a), whole(b)))
}

const fn raw_protocol(proto: i32) -> Option<Protocol> {
    match NonZeroU32::new(proto.cast_unsigned()) {
        Some(proto) => Some(Protocol::from_raw(proto)),
        None => None,
    }
}

/// Flags of every new descriptor: non-blocking, not inherited by child processes.
fn new_flags() -> SocketFlags {
    SocketFlags::NONBLOCK | SocketFlags::CLOEXEC
}

/// `socket.create_connection(address, timeout, source_address)`: tries each address of the host,
/// IPv6 and IPv4, until one connects.
///
/// The port may be the name of a service, and the host may be missing, which is this machine (see
/// [`AddressArg::Service`]). The timeout is set before the attempt, so each address has it afresh;
/// `None` leaves the default timeout in force (and `Some(Timeout::Blocking)` is Python's
/// `timeout=None`).
///
/// # Errors
/// The last attempt's error; gaierror if the host cannot be resolved, OverflowError for a port
/// outside 0 to 65535.
pub fn create_connection<'a>(
    address: impl Into<AddressArg<'a>>,
    timeout: Option<Timeout>,
    source: Option<&AddressArg<'_>>,
) -> Result<Socket> {
    try_all(address.into(), timeout, source)?
        .map_err(|mut errors| errors.pop().unwrap_or(Error::raised(ErrorKind::OSError, EMPTY)))
}

/// `socket.create_connection(address, timeout, source_address, all_errors=True)`.
///
/// # Errors
/// An ExceptionGroup of every attempt's error (see [`Error::exceptions`]), the first attempt's
/// first; otherwise as [`create_connection`].
pub fn create_connection_all_errors<'a>(
    address: impl Into<AddressArg<'a>>,
    timeout: Option<Timeout>,
    source: Option<&AddressArg<'_>>,
) -> Result<Socket> {
    try_all(address.into(), timeout, source)?.map_err(|errors| match errors.is_empty() {
        true => Error::raised(ErrorKind::OSError, EMPTY),
        false => Error::group(errors),
    })
}

const EMPTY: &str = "getaddrinfo returns an empty list";

/// The first socket that connects, or else the error of each attempt. An error that is no OSError
/// ends it at once.
fn try_all(
    address: AddressArg<'_>,
    timeout: Option<Timeout>,
    source: Option<&AddressArg<'_>>,
) -> Result<std::result::Result<Socket, Vec<Error>>> {
    let mut errors = Vec::new();
    for address in address.resolve_all()? {
        match connect_one(&address, timeout, source) {
            Ok(socket) => return Ok(Ok(socket)),
            Err(error) if error.is_os_error() => errors.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(Err(errors))
}

fn connect_one(
    address: &Address,
    timeout: Option<Timeout>,
    source: Option<&AddressArg<'_>>,
) -> Result<Socket> {
    let proto = if address.family() == Family::Unix { 0 } else { IPPROTO_TCP };
    let options = SocketOptions { proto, nonblocking: false };
    let socket = Socket::new_with(address.family(), SocketType::Stream, options)?;
    if let Some(timeout) = timeout {
        socket.inner.set_timeout(timeout)?;
    }
    if let Some(source) = source {
        socket.bind(source.clone())?;
    }
    socket.connect(address)?;
    Ok(socket)
}

/// Arguments of `socket.create_server` after the address. The default is Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Address family, by default [`Family::Inet`].
    pub family: Family,
    /// Backlog of `listen`; `None` for Python's default.
    pub backlog: Option<i32>,
    /// Sets SO_REUSEPORT.
    pub reuse_port: bool,
    /// Accepts IPv4 connections on an IPv6 server too; a ValueError for another family.
    pub dualstack_ipv6: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { family: Family::Inet, backlog: None, reuse_port: false, dualstack_ipv6: false }
    }
}

/// `socket.create_server(address, ...)`: a listening stream socket with SO_REUSEADDR.
///
/// # Errors
/// Those of `bind`, whose text then names the address as it was given (a gaierror becomes an
/// OSError), and of `listen`.
pub fn create_server<'a>(
    address: impl Into<AddressArg<'a>>,
    options: ServerOptions,
) -> Result<Socket> {
    let ServerOptions { family, backlog, reuse_port, dualstack_ipv6 } = options;
    if dualstack_ipv6 && family != Family::Inet6 {
        return Err(Error::value("dualstack_ipv6 requires AF_INET6 family"));
    }
    let address = address.into();
    let socket = Socket::new(family, SocketType::Stream)?;
    // Without this option the server is still usable; Python ignores the error too.
    let _ = socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    if reuse_port {
        socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)?;
    }
    if family == Family::Inet6 {
        socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, !dualstack_ipv6)?;
    }
    let shown = address.repr();
    socket.bind(address).map_err(|error| {
        error.with_detail(&format!("(while attempting to bind on address {shown})"))
    })?;
    socket.listen(backlog)?;
    Ok(socket)
}
