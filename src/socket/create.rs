//! Functions that create sockets, and the default timeout of new sockets.

use std::sync::{Mutex, PoisonError};

use rustix::net::{self, AddressFamily};

use super::{
    Address, AddressArg, Error, ErrorKind, Family, IPPROTO_IPV6, IPV6_V6ONLY, Result, SO_REUSEADDR,
    SO_REUSEPORT, SOL_SOCKET, Socket, SocketType, new_flags,
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

/// `socket.socketpair()`: two connected Unix stream sockets.
///
/// # Errors
/// The kernel's, for example EMFILE.
pub fn socketpair() -> Result<(Socket, Socket)> {
    let (a, b) = net::socketpair(AddressFamily::UNIX, net::SocketType::STREAM, new_flags(), None)?;
    let whole = |fd| Socket::from_parts(fd, Family::Unix, SocketType::Stream);
    Ok((whole(a), whole(b)))
}

/// `socket.create_connection(address, timeout, source_address)`: tries each address of the host,
/// IPv6 and IPv4, until one connects.
///
/// The timeout is set before the attempt, so each address has it afresh; `None` leaves the default
/// timeout in force (and `Some(Timeout::Blocking)` is Python's `timeout=None`).
///
/// # Errors
/// The last attempt's error; gaierror if the host cannot be resolved.
pub fn create_connection<'a>(
    address: impl Into<AddressArg<'a>>,
    timeout: Option<Timeout>,
    source: Option<&AddressArg<'_>>,
) -> Result<Socket> {
    let mut last = Error::raised(ErrorKind::OSError, "getaddrinfo returns an empty list");
    for address in address.into().resolve_all()? {
        match connect_one(&address, timeout, source) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_one(
    address: &Address,
    timeout: Option<Timeout>,
    source: Option<&AddressArg<'_>>,
) -> Result<Socket> {
    let socket = Socket::new(address.family(), SocketType::Stream)?;
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
/// Those of `bind`, whose text then names the address, and of `listen`.
pub fn create_server<'a>(
    address: impl Into<AddressArg<'a>>,
    options: ServerOptions,
) -> Result<Socket> {
    let ServerOptions { family, backlog, reuse_port, dualstack_ipv6 } = options;
    if dualstack_ipv6 && family != Family::Inet6 {
        return Err(Error::value("dualstack_ipv6 requires AF_INET6 family"));
    }
    let address = address.into().resolve(family, "bind")?;
    let socket = Socket::new(family, SocketType::Stream)?;
    // Without this option the server is still usable; Python ignores the error too.
    let _ = socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    if reuse_port {
        socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)?;
    }
    if family == Family::Inet6 {
        socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, !dualstack_ipv6)?;
    }
    socket.bind(&address).map_err(|error| {
        error.with_detail(format!("(while attempting to bind on address {address})"))
    })?;
    socket.listen(backlog)?;
    Ok(socket)
}
