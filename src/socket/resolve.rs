//! From a host and a port to addresses: what CPython's `getsockaddrarg` and `getaddrinfo` do.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use super::{Address, AddressArg, Error, ErrorKind, Family, Result};
use crate::rawopt::{self, LookupError};

impl AddressArg<'_> {
    /// The address for a socket of this family. `caller` is named in the error for a bad port.
    ///
    /// The host comes first and the port second, as in CPython's `getsockaddrarg`.
    pub(super) fn resolve(self, family: Family, caller: &str) -> Result<Address> {
        let (host, port, flowinfo, scope) = match self {
            Self::Exact(address) => return address.check_flowinfo(caller),
            Self::Service(..) => {
                let text = "a port's name, or no host at all, is for create_connection only";
                return Err(Error::raised(ErrorKind::TypeError, text));
            }
            Self::HostPort(host, port) => (host, port, 0, 0),
            Self::HostPort6(host, port, flowinfo, scope) if family == Family::Inet6 => {
                (host, port, flowinfo, scope)
            }
            Self::HostPort6(..) => {
                let text = "flowinfo and scope_id are for IPv6 sockets only";
                return Err(Error::raised(ErrorKind::TypeError, text));
            }
        };
        let address = match family {
            Family::Inet => resolve_v4(&host)?,
            Family::Inet6 => resolve_v6(&host)?,
            Family::Unix => {
                let text = "a Unix socket's address is a path, not a host and a port";
                return Err(Error::raised(ErrorKind::TypeError, text));
            }
        };
        let port = check_port(port, caller)?;
        match address {
            Address::V4(address) => Ok(Address::V4(SocketAddrV4::new(*address.ip(), port))),
            Address::V6(address) => {
                let scope = if scope == 0 { address.scope_id() } else { scope };
                let address = SocketAddrV6::new(*address.ip(), port, flowinfo, scope);
                Address::V6(address).check_flowinfo(caller)
            }
            Address::Unix(_) => Ok(address),
        }
    }

    /// Every address of either family that the host has, in the resolver's order
    /// (`create_connection` tries them one after the other).
    pub(super) fn resolve_all(self) -> Result<Vec<Address>> {
        let (host, service) = match self {
            Self::Exact(address) => return Ok(vec![address]),
            Self::Service(host, service) => {
                // The resolver takes a number of any size, modulo 65536.
                service.parse().map_or(Ok(0), |port| check_port(port, "getaddrinfo"))?;
                (host, service.into_owned())
            }
            Self::HostPort(host, port) | Self::HostPort6(host, port, ..) => {
                (Some(host), check_port(port, "getaddrinfo")?.to_string())
            }
        };
        look_up(host.as_deref(), Some(&service), 0, libc::SOCK_STREAM)
    }
}

fn check_port(port: i64, caller: &str) -> Result<u16> {
    u16::try_from(port).map_err(|_| {
        let text = format!("{caller}(): port must be 0-65535.");
        Error::raised_with(ErrorKind::OverflowError, text)
    })
}

fn resolve_v4(host: &str) -> Result<Address> {
    let ip = match host {
        "" => Ipv4Addr::UNSPECIFIED,
        "<broadcast>" => Ipv4Addr::BROADCAST,
        _ => match host.parse() {
            Ok(ip) => ip,
            Err(_) => return resolve_name(host, libc::AF_INET),
        },
    };
    Ok(Address::from(std::net::SocketAddr::from((IpAddr::V4(ip), 0))))
}

fn resolve_v6(host: &str) -> Result<Address> {
    match host {
        "" => Ok(Address::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0))),
        "<broadcast>" | "255.255.255.255" => {
            Err(Error::raised(ErrorKind::OSError, "address family mismatched"))
        }
        _ => resolve_name(host, libc::AF_INET6),
    }
}

fn resolve_name(host: &str, family: i32) -> Result<Address> {
    let first = look_up(Some(host), None, family, 0)?.into_iter().next();
    first.ok_or(Error::raised(ErrorKind::OSError, "getaddrinfo returns an empty list"))
}

fn look_up(
    host: Option<&str>,
    service: Option<&str>,
    family: i32,
    kind: i32,
) -> Result<Vec<Address>> {
    let host = host.map(host_name).transpose()?;
    let service = service
        .map(CString::new)
        .transpose()
        .map_err(|_| Error::value("embedded null character"))?;
    rawopt::getaddrinfo(host.as_ref(), service.as_ref(), family, kind)
        .map_err(|error| match error {
            LookupError::Resolver(number, text) => Error::gai(number, text),
            LookupError::System(errno) => errno.into(),
        })?
        .iter()
        .map(Address::from_kernel)
        .collect()
}

/// The host as the resolver takes it.
fn host_name(host: &str) -> Result<CString> {
    if !host.is_ascii() {
        let text = format!("the host name {host:?} is not ASCII; give it in its \"xn--\" form");
        return Err(Error::raised_with(ErrorKind::UnicodeError, text));
    }
    CString::new(host).map_err(|_| {
        Error::raised(ErrorKind::TypeError, "host name must not contain null character")
    })
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
        assert_eq!(v4("127.1").as_deref(), Ok("127.0.0.1:7"));
        assert_eq!(v4("").as_deref(), Ok("0.0.0.0:7"));
        assert_eq!(v4("<broadcast>").as_deref(), Ok("255.255.255.255:7"));
        assert_eq!(v6("::1").as_deref(), Ok("[::1]:7"));
        assert_eq!(v6("").as_deref(), Ok("[::]:7"));
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
    fn a_zone_and_a_scope_are_kept() {
        for (host, scope, wanted) in [("::1", 0, 0), ("::1", 4, 4), ("fe80::1%1", 0, 1)] {
            let arg = AddressArg::from((host, 7, 5, scope));
            let address = arg.resolve(Family::Inet6, "bind").expect("an address in digits");
            let Address::V6(address) = address else { panic!("{address}") };
            assert_eq!((address.flowinfo(), address.scope_id()), (5, wanted), "{host}");
        }
    }
}
