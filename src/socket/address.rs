use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

use super::{Error, ErrorKind, Family, Result};

/// An address as returned by the kernel, for example from `getsockname`.
///
/// As an argument, the calls take anything that converts to an [`AddressArg`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Python's `(host, port)`.
    V4(SocketAddrV4),
    /// Python's `(host, port, flowinfo, scope_id)`.
    V6(SocketAddrV6),
    /// A path; empty for a Unix socket without a name, with a leading zero byte for an abstract
    /// one.
    Unix(Vec<u8>),
}

/// An address argument: a host (which may be a name) and a port, or an [`Address`].
///
/// The host `""` means all interfaces and `"<broadcast>"` 255.255.255.255. Names are resolved by
/// the system, which blocks and is outside every timeout, as in Python.
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
    /// An address that needs no resolution.
    Exact(Address),
}

impl Address {
    /// The port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::V4(address) => Some(address.port()),
            Self::V6(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
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

    /// The form in which the kernel takes it. A path that is too long is the kernel's
    /// ENAMETOOLONG, one with a zero byte inside EINVAL.
    pub(super) fn to_kernel(&self) -> Result<SocketAddrAny> {
        Ok(match self {
            Self::V4(address) => SocketAddrAny::from(*address),
            Self::V6(address) => SocketAddrAny::from(*address),
            Self::Unix(path) => match path.split_first() {
                None => SocketAddrUnix::new_unnamed().into(),
                Some((0, name)) => SocketAddrUnix::new_abstract_name(name)?.into(),
                Some(_) => SocketAddrUnix::new(path.as_slice())?.into(),
            },
        })
    }

    /// Converts an address of the kernel; `None` stands for a Unix socket without a name.
    pub(super) fn from_kernel(address: Option<SocketAddrAny>) -> Result<Self> {
        let Some(address) = address else { return Ok(Self::Unix(Vec::new())) };
        match address.address_family() {
            AddressFamily::INET => Ok(Self::V4(address.try_into()?)),
            AddressFamily::INET6 => Ok(Self::V6(address.try_into()?)),
            AddressFamily::UNIX => {
                let name = SocketAddrUnix::try_from(address)?;
                Ok(Self::Unix(match (name.path_bytes(), name.abstract_name()) {
                    (Some(path), _) => path.to_vec(),
                    (None, Some(name)) if !name.is_empty() => [b"\0", name].concat(),
                    (None, _) => Vec::new(),
                }))
            }
            _ => Err(Errno::AFNOSUPPORT.into()),
        }
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
    /// The address for a socket of this family. `caller` is named in the error for a bad port.
    ///
    /// The host comes first and the port second, as in CPython's `getsockaddrarg`.
    pub(super) fn resolve(self, family: Family, caller: &str) -> Result<Address> {
        let (host, port) = match self {
            Self::Exact(address) => return Ok(address),
            Self::HostPort(host, port) => (host, port),
        };
        let address = match family {
            Family::Inet => Address::V4(SocketAddrV4::new(resolve_v4(&host)?, 0)),
            Family::Inet6 => Address::V6(resolve_v6(&host)?),
            Family::Unix => {
                return Err(Error::raised(
                    ErrorKind::TypeError,
                    "a Unix socket's address is a path, not a host and a port",
                ));
            }
        };
        let port = u16::try_from(port).map_err(|_| {
            let text = format!("{caller}(): port must be 0-65535.");
            Error::raised_with(ErrorKind::OverflowError, text)
        })?;
        Ok(match address {
            Address::V4(address) => Address::V4(SocketAddrV4::new(*address.ip(), port)),
            Address::V6(mut address) => {
                address.set_port(port);
                Address::V6(address)
            }
            Address::Unix(_) => address,
        })
    }

    /// Every address of either family that the host has, in the resolver's order
    /// (`create_connection` tries them one after the other).
    pub(super) fn resolve_all(self) -> Result<Vec<Address>> {
        match self {
            Self::Exact(address) => Ok(vec![address]),
            Self::HostPort(host, port) => {
                let port = u16::try_from(port).map_err(|_| {
                    let text = "getaddrinfo(): port must be 0-65535.";
                    Error::raised(ErrorKind::OverflowError, text)
                })?;
                Ok(look_up(&host, port)?.map(Address::from).collect())
            }
        }
    }
}

fn resolve_v4(host: &str) -> Result<Ipv4Addr> {
    match host {
        "" => Ok(Ipv4Addr::UNSPECIFIED),
        "<broadcast>" => Ok(Ipv4Addr::BROADCAST),
        _ => look_up(host, 0)?
            .find_map(|address| match address {
                SocketAddr::V4(address) => Some(*address.ip()),
                SocketAddr::V6(_) => None,
            })
            .ok_or_else(|| no_such_family(host)),
    }
}

fn resolve_v6(host: &str) -> Result<SocketAddrV6> {
    match host {
        "" => Ok(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)),
        "<broadcast>" => Err(Error::raised(ErrorKind::OSError, "address family mismatched")),
        _ => look_up(host, 0)?
            .find_map(|address| match address {
                SocketAddr::V6(address) => Some(address),
                SocketAddr::V4(_) => None,
            })
            .ok_or_else(|| no_such_family(host)),
    }
}

fn look_up(host: &str, port: u16) -> Result<std::vec::IntoIter<SocketAddr>> {
    (host, port)
        .to_socket_addrs()
        .map_err(|error| Error::raised_with(ErrorKind::GaiError, format!("{host}: {error}")))
}

fn no_such_family(host: &str) -> Error {
    let text = format!("{host}: Address family for hostname not supported");
    Error::raised_with(ErrorKind::GaiError, text)
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

    fn resolve(host: &str, port: i32, family: Family) -> Result<String> {
        AddressArg::from((host, port)).resolve(family, "bind").map(|address| address.to_string())
    }

    #[test]
    fn hosts_follow_the_sockets_family() {
        let v4 = |host| resolve(host, 7, Family::Inet);
        let v6 = |host| resolve(host, 7, Family::Inet6);
        assert_eq!(v4("127.0.0.1").as_deref(), Ok("127.0.0.1:7"));
        assert_eq!(v4("").as_deref(), Ok("0.0.0.0:7"));
        assert_eq!(v4("<broadcast>").as_deref(), Ok("255.255.255.255:7"));
        assert_eq!(v6("::1").as_deref(), Ok("[::1]:7"));
        assert_eq!(v6("").as_deref(), Ok("[::]:7"));
        assert_eq!(v4("::1").map_err(|e| e.kind()), Err(ErrorKind::GaiError));
        assert_eq!(v6("<broadcast>").map_err(|e| e.kind()), Err(ErrorKind::OSError));
    }

    #[test]
    fn a_port_out_of_range_names_the_call() {
        for port in [-1, 65536] {
            let error = resolve("127.0.0.1", port, Family::Inet).expect_err("no such port");
            assert_eq!(error.kind(), ErrorKind::OverflowError);
            assert_eq!(error.to_string(), "bind(): port must be 0-65535.");
        }
    }

    #[test]
    fn kernel_forms_survive_the_round_trip() {
        for address in [
            Address::V4("127.0.0.1:80".parse().expect("an address")),
            Address::V6("[fe80::1]:80".parse().expect("an address")),
            Address::Unix(b"/run/echo".to_vec()),
            Address::Unix(b"\0abstract".to_vec()),
            Address::Unix(Vec::new()),
        ] {
            let there = address.to_kernel().expect("a form that the kernel takes");
            assert_eq!(Address::from_kernel(Some(there)).as_ref(), Ok(&address));
        }
        assert_eq!(Address::from_kernel(None), Ok(Address::Unix(Vec::new())));
    }
}
