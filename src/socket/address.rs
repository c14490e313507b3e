use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::{Error, ErrorKind, Family, Result};
use crate::rawopt::Name;

/// An address as returned by the kernel, for example from `getsockname`.
///
/// As an argument, the calls take anything that converts to an [`AddressArg`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Python's `(host, port)`.
    V4(SocketAddrV4),
    /// Python's `(host, port, flowinfo, scope_id)`, the flow information in the host's byte order
    /// and at most 20 bits of it.
    V6(SocketAddrV6),
    /// A path of at most 107 bytes (108 come back if a peer uses all of them); empty for a Unix
    /// socket without a name, with a leading zero byte for an abstract one of at most 108 bytes.
    Unix(Vec<u8>),
}

/// An address argument: a host (which may be a name) and a port, or an [`Address`].
///
/// The host `""` means all interfaces and `"<broadcast>"` 255.255.255.255. Names are resolved by
/// the system, which blocks and is outside every timeout, as in Python. They are ASCII: a name in
/// another script is given in its `xn--` form. An IPv6 host may end in a zone, `"fe80::1%eth0"`.
///
/// ```
/// use saltecho::socket::AddressArg;
/// let _ = AddressArg::from(("127.0.0.1", 9999));
/// let _ = AddressArg::from("[::1]:9999".parse::<std::net::SocketAddr>().unwrap());
/// ```
#[derive(Clone, Debug)]
pub enum AddressArg<'a> {
    /// Python's `(host, port)`; the call checks the range of the port (OverflowError).
    HostPort(Cow<'a, str>, i64),
    /// Python's `(host, port, flowinfo, scope_id)`, for IPv6 sockets only. A scope of 0 leaves the
    /// host's zone in force.
    HostPort6(Cow<'a, str>, i64, u32, u32),
    /// The arguments of `getaddrinfo`: an optional host (by default this machine), and the name or
    /// number of a service. For [`create_connection`](super::create_connection) only, as in Python.
    Service(Option<Cow<'a, str>>, Cow<'a, str>),
    /// An address that needs no resolution.
    Exact(Address),
}

/// The length of `sun_path`.
const PATH_CAPACITY: usize = 108;
/// The maximum of IPv6's flow information.
const FLOWINFO_MAX: u32 = 0xf_ffff;

impl Address {
    /// The port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        self.as_socket_addr().map(|address| address.port())
    }

    /// The IP address and port; `None` for a Unix socket.
    pub fn as_socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::V4(address) => Some((*address).into()),
            Self::V6(address) => Some((*address).into()),
            Self::Unix(_) => None,
        }
    }

    pub(super) const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::Inet,
            Self::V6(_) => Family::Inet6,
            Self::Unix(_) => Family::Unix,
        }
    }

    /// The form in which the kernel takes it.
    ///
    /// # Errors
    /// OSError without an errno for a path that is too long, as in Python; ValueError for a path
    /// with a zero byte inside, which the kernel would cut there.
    pub(super) fn to_kernel(&self) -> Result<Name> {
        let family = self.family().to_kernel().as_raw().to_ne_bytes();
        let name = match self {
            Self::V4(address) => Name::from_parts(&[
                &family,
                &address.port().to_be_bytes(),
                &address.ip().octets(),
                &[0; 8],
            ]),
            Self::V6(address) => Name::from_parts(&[
                &family,
                &address.port().to_be_bytes(),
                &address.flowinfo().to_be_bytes(),
                &address.ip().octets(),
                &address.scope_id().to_ne_bytes(),
            ]),
            Self::Unix(path) if matches!(path.first(), None | Some(0)) => Some(path)
                .filter(|path| path.len() <= PATH_CAPACITY)
                .and_then(|path| Name::from_parts(&[&family, path])),
            Self::Unix(path) if path.contains(&0) => {
                return Err(Error::value("embedded null byte"));
            }
            Self::Unix(path) => Some(path)
                .filter(|path| path.len() < PATH_CAPACITY)
                .and_then(|path| Name::from_parts(&[&family, path, b"\0"])),
        };
        name.ok_or(Error::raised(ErrorKind::OSError, "AF_UNIX path too long"))
    }

    /// Converts the kernel's address; an empty one is a Unix socket without a name.
    ///
    /// # Errors
    /// EAFNOSUPPORT for an address of another family.
    pub(super) fn from_kernel(name: &Name) -> Result<Self> {
        let Some((family, rest)) = name.as_bytes().split_first_chunk() else {
            return Ok(Self::Unix(Vec::new()));
        };
        let mut rest = Fields(rest);
        let address = match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let (port, ip) = (rest.take().map(u16::from_be_bytes), rest.take::<4>());
                ip.zip(port).map(|(ip, port)| Self::V4(SocketAddrV4::new(ip.into(), port)))
            }
            libc::AF_INET6 => rest.take_v6().map(Self::V6),
            libc::AF_UNIX => Some(Self::Unix(match rest.0 {
                [0, ..] => rest.0.to_vec(),
                // Up to the zero byte, for which a path of full length leaves no room.
                path => path.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
            })),
            _ => None,
        };
        address.ok_or(Errno::AFNOSUPPORT.into())
    }

    /// The address as Python's `repr` shows it.
    pub(super) fn repr(&self) -> String {
        match self {
            Self::V4(address) => format!("('{}', {})", address.ip(), address.port()),
            Self::V6(address) => {
                let (flowinfo, scope) = (address.flowinfo(), address.scope_id());
                format!("('{}', {}, {flowinfo}, {scope})", address.ip(), address.port())
            }
            Self::Unix(path) => super::repr(&String::from_utf8_lossy(path)),
        }
    }

    /// Python's range check of the flow information; `caller` is named in the text.
    pub(super) fn check_flowinfo(self, caller: &str) -> Result<Self> {
        match &self {
            Self::V6(address) if address.flowinfo() > FLOWINFO_MAX => {
                let text = format!("{caller}(): flowinfo must be 0-{FLOWINFO_MAX}.");
                Err(Error::raised_with(ErrorKind::OverflowError, text))
            }
            _ => Ok(self),
        }
    }
}

/// The rest of a `sockaddr`.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn take_v6(&mut self) -> Option<SocketAddrV6> {
        let port = u16::from_be_bytes(self.take()?);
        let flowinfo = u32::from_be_bytes(self.take()?);
        let ip = Ipv6Addr::from(self.take::<16>()?);
        let scope = u32::from_ne_bytes(self.take()?);
        Some(SocketAddrV6::new(ip, port, flowinfo, scope))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
            Self::Unix(path) => String::from_utf8_lossy(path).fmt(f),
        }
    }
}

impl AddressArg<'_> {
    /// The argument as Python's `repr` shows it.
    pub(super) fn repr(&self) -> String {
        let host = |host: &str| super::repr(host);
        match self {
            Self::HostPort(name, port) => format!("({}, {port})", host(name)),
            Self::HostPort6(name, port, flowinfo, scope) => {
                format!("({}, {port}, {flowinfo}, {scope})", host(name))
            }
            Self::Service(name, service) => {
                let name = name.as_deref().map_or("None".to_owned(), host);
                format!("({name}, {})", host(service))
            }
            Self::Exact(address) => address.repr(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(address),
            SocketAddr::V6(address) => Self::V6(address),
        }
    }
}

impl<'a> From<(&'a str, i32)> for AddressArg<'a> {
    fn from((host, port): (&'a str, i32)) -> Self {
        Self::HostPort(Cow::Borrowed(host), port.into())
    }
}

impl<'a> From<(&'a str, u16)> for AddressArg<'a> {
    fn from((host, port): (&'a str, u16)) -> Self {
        Self::HostPort(Cow::Borrowed(host), port.into())
    }
}

impl<'a> From<(&'a str, u16, u32, u32)> for AddressArg<'a> {
    fn from((host, port, flowinfo, scope): (&'a str, u16, u32, u32)) -> Self {
        Self::HostPort6(Cow::Borrowed(host), port.into(), flowinfo, scope)
    }
}

impl<'a> From<(&'a str, &'a str)> for AddressArg<'a> {
    fn from((host, service): (&'a str, &'a str)) -> Self {
        Self::Service(Some(Cow::Borrowed(host)), Cow::Borrowed(service))
    }
}

impl From<SocketAddr> for AddressArg<'_> {
    fn from(address: SocketAddr) -> Self {
        Self::Exact(address.into())
    }
}

impl From<Address> for AddressArg<'_> {
    fn from(address: Address) -> Self {
        Self::Exact(address)
    }
}

impl From<&Address> for AddressArg<'_> {
    fn from(address: &Address) -> Self {
        Self::Exact(address.clone())
    }
}

impl From<&Path> for AddressArg<'_> {
    /// The address of a Unix socket.
    fn from(path: &Path) -> Self {
        Self::Exact(Address::Unix(path.as_os_str().as_bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_forms_survive_the_round_trip() {
        for address in [
            Address::V4("127.0.0.1:80".parse().expect("an address")),
            Address::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, FLOWINFO_MAX, 3)),
            Address::Unix(b"/run/echo".to_vec()),
            Address::Unix(vec![b'p'; PATH_CAPACITY - 1]),
            Address::Unix(b"\0abstract".to_vec()),
            Address::Unix([&[0], &[b'a'; PATH_CAPACITY - 1][..]].concat()),
            Address::Unix(Vec::new()),
        ] {
            let there = address.to_kernel().expect("a form that the kernel takes");
            assert_eq!(Address::from_kernel(&there).as_ref(), Ok(&address));
        }
    }

    #[test]
    fn the_kernel_may_report_nothing_or_a_path_without_an_end() {
        let family = libc::AF_UNIX.to_ne_bytes();
        let unix = |path: &[u8]| {
            let name = Name::from_parts(&[&family[..2], path]).expect("it fits");
            Address::from_kernel(&name)
        };
        assert_eq!(Address::from_kernel(&Name::from_parts(&[]).expect("it fits")), unix(b""));
        for (path, end) in [(&[b'p'; PATH_CAPACITY][..], PATH_CAPACITY), (b"path\0\0\0", 4)] {
            assert_eq!(unix(path), Ok(Address::Unix(path[..end].to_vec())));
        }
        for short in [&[9, 0, 0, 0][..], &[2, 0, 0, 80, 127, 0, 0], &[10, 0, 0, 80]] {
            let name = Name::from_parts(&[short]).expect("it fits");
            assert_eq!(Address::from_kernel(&name), Err(Errno::AFNOSUPPORT.into()));
        }
    }
}
