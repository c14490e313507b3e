//! Addresses in flags: to listen on, to connect to, and to connect from.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use saltecho::server::AdminAddress;

/// Parses an address to listen on; the default port is 9999. `localhost` is the only name, because a
/// server should not depend on how a name resolves today. A number alone is a port of 127.0.0.1, not
/// the IPv4 address that it could also be.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    listen_address_or(text, ServerAddress::DEFAULT_PORT)
}

/// Default port of an admin endpoint.
pub(super) const ADMIN_PORT: u16 = 9998;

/// Parses the address of an admin endpoint to listen on; the default port is 9998.
pub(super) fn admin_address(text: &str) -> Result<AdminAddress, String> {
    match text.starts_with("unix:") {
        true => text.parse().map_err(|error: &str| error.to_owned()),
        false => listen_address_or(text, ADMIN_PORT).map(AdminAddress::Tcp),
    }
}

fn listen_address_or(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    if let Some(port) = port(text) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let expected =
        || format!("expected an IP address and a port, like 127.0.0.1:{default_port} or [::1]:0");
    let (host, port) = match listen_host(unbracketed(text)) {
        Some(_) => (unbracketed(text), default_port),
        None => match split(text) {
            Some((host, digits)) => (host, port(digits).ok_or_else(expected)?),
            None => (text, default_port),
        },
    };
    if host.is_empty() && text.starts_with(':') {
        return Err(format!(
            "the address is missing: {port} alone listens on 127.0.0.1, and 0.0.0.0:{port} or \
             [::]:{port} on all addresses"
        ));
    }
    match listen_host(host) {
        // An IPv4 address may be written as IPv6 (::ffff:127.0.0.1); IPv6 sockets refuse it.
        Some(address) => address.map(|address| match address.ip().to_canonical() {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(_) => with_port(address, port),
        }),
        None if host.is_empty() || host.contains(is_in_no_name) => Err(expected()),
        None if host.bytes().all(|byte| byte.is_ascii_digit()) => Err(expected()),
        None => Err(format!(
            "{host} is not an IP address, and host names may resolve differently tomorrow: give \
             the address, like 127.0.0.1:{port}"
        )),
    }
}

fn listen_host(host: &str) -> Option<Result<SocketAddr, String>> {
    match host {
        "localhost" => Some(Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))),
        _ => ip_address(host),
    }
}

/// Parses a local address to connect from; its port is 0.
pub(super) fn source_address(text: &str) -> Result<SocketAddr, String> {
    ip_address(text).unwrap_or_else(|| {
        Err("expected local addresses: 127.0.0.2, a range like 127.0.0.2-20, an address with its \
             interface like fe80::1%eth0, or several separated by commas"
            .to_owned())
    })
}

/// The address of a server: an IP address or a host name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerAddress {
    /// The name, or the IP address without brackets and with its zone if any, as getaddrinfo(3)
    /// takes it.
    pub(super) host: String,
    pub(super) port: u16,
}

impl ServerAddress {
    pub(super) const DEFAULT_PORT: u16 = 9999;

    fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected a host and a port, like 127.0.0.1:{default_port}, [::1]:{default_port} \
                 or localhost:{default_port}"
            )
        };
        if let Some(port) = port(text) {
            return Ok(Self { host: Ipv4Addr::LOCALHOST.to_string(), port });
        }
        let is_alone = ip_address(text).is_some() || !text.contains(':');
        let (host, port) = match is_alone {
            true => (text, default_port),
            false => {
                let (host, digits) = split(text).ok_or_else(expected)?;
                (host, port(digits).ok_or_else(expected)?)
            }
        };
        match ip_address(host) {
            Some(Err(unknown)) => return Err(unknown),
            Some(Ok(_)) => {}
            None => {
                let is_number = host.bytes().all(|byte| byte.is_ascii_digit());
                if is_number || host.contains(is_in_no_name) {
                    return Err(expected());
                }
            }
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, Self::DEFAULT_PORT)
    }
}

/// The admin endpoint of a server, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminTarget {
    Tcp(ServerAddress),
    Unix(PathBuf),
}

impl AdminTarget {
    /// The endpoint of the installed service.
    const SERVICE: &str = "/run/saltecho/admin.sock";

    /// The endpoint to ask if none is named: the installed service's, if it has one, or else
    /// 127.0.0.1:9998.
    pub(super) fn find() -> Self {
        let path = Path::new(Self::SERVICE);
        // Without permission to look, the attempt to connect says so.
        match path.symlink_metadata() {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => {
                let host = Ipv4Addr::LOCALHOST.to_string();
                Self::Tcp(ServerAddress { host, port: ADMIN_PORT })
            }
            _ => Self::Unix(path.to_owned()),
        }
    }
}

impl FromStr for AdminTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err("the path is missing behind `unix:`".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => ServerAddress::parse(text, ADMIN_PORT).map(Self::Tcp),
        }
    }
}

impl fmt::Display for AdminTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Parses an IP address, with the zone that a link-local one needs (RFC 4007, section 11): the name
/// or the number of an interface. `None` if the text is not an IP address.
fn ip_address(text: &str) -> Option<Result<SocketAddr, String>> {
    let Some((address, zone)) = text.split_once('%') else {
        return text.parse::<IpAddr>().ok().map(|address| Ok(SocketAddr::new(address, 0)));
    };
    address.parse::<Ipv6Addr>().ok()?;
    // getaddrinfo(3) resolves interface names, and does not query DNS for an IP address.
    let found = Some(zone)
        .filter(|zone| !zone.is_empty())
        .and_then(|_| (text, 0).to_socket_addrs().ok()?.next());
    Some(found.ok_or_else(|| {
        format!(
            "no interface {zone:?} for {address} on this machine (`ip link` lists them; only \
             link-local addresses, fe80::, have one)"
        )
    }))
}

fn is_in_no_name(c: char) -> bool {
    c.is_control() || c.is_whitespace() || "[]/+%:".contains(c)
}

/// Splits `host:port` or `[address]:port`.
fn split(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").filter(|(host, _)| host.contains(':')),
        None => text.split_once(':'),
    }
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text)
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn port(text: &str) -> Option<u16> {
    // `parse` would accept a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_have_an_ip_address_and_a_port() {
        for (text, shown) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:0", "[::1]:0"),
            ("80", "127.0.0.1:80"),
            ("localhost", "127.0.0.1:9999"),
            ("localhost:80", "127.0.0.1:80"),
            ("127.0.0.2", "127.0.0.2:9999"),
            ("::1", "[::1]:9999"),
            ("[::1]", "[::1]:9999"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("fe80::1%lo", "[fe80::1%1]:9999"),
            // The loopback interface is the first of every network namespace.
            ("[fe80::1%1]:80", "[fe80::1%1]:80"),
            ("[fe80::1%lo]:80", "[fe80::1%1]:80"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), shown);
        }
        for text in
            ["", "65536", "+80", "::1:80:x", "[::1]:", "[127.0.0.1]:80", "a b:80", "a:+80", "a\nb"]
        {
            let error = listen_address(text).unwrap_err();
            assert!(error.contains("like 127.0.0.1:9999"), "{text:?}: {error}");
        }
    }

    #[test]
    fn admin_endpoints_are_at_an_ip_address_or_a_path() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1:9998"),
            ("80", "127.0.0.1:80"),
            ("[::1]:0", "[::1]:0"),
            ("localhost", "127.0.0.1:9998"),
            ("unix:admin.sock", "unix:admin.sock"),
        ] {
            assert_eq!(admin_address(text).unwrap().to_string(), shown);
        }
        for (text, words) in [("unix:", "path"), ("", "127.0.0.1:9998"), ("a.org:1", "127.0.0.1:1")]
        {
            let error = admin_address(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_refused_listener_names_the_remedy() {
        for (text, remedy) in [
            ("example.org:9000", "127.0.0.1:9000"),
            ("example.org", "127.0.0.1:9999"),
            (":9000", "0.0.0.0:9000"),
            ("[fe80::1%nowhere]:80", "`ip link`"),
            ("[fe80::1%]:80", "`ip link`"),
        ] {
            let error = listen_address(text).unwrap_err();
            assert!(error.contains(remedy), "{text:?}: {error}");
        }
    }

    #[test]
    fn servers_have_a_host_and_an_optional_port() {
        for (text, host, port, shown) in [
            ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1:80"),
            ("[::1]:80", "::1", 80, "[::1]:80"),
            ("[fe80::1%1]:80", "fe80::1%1", 80, "[fe80::1%1]:80"),
            ("[fe80::1%lo]:80", "fe80::1%lo", 80, "[fe80::1%lo]:80"),
            ("fe80::1%lo", "fe80::1%lo", 9999, "[fe80::1%lo]:9999"),
            ("::1", "::1", 9999, "[::1]:9999"),
            ("localhost", "localhost", 9999, "localhost:9999"),
            ("8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
            ("example.org:1", "example.org", 1, "example.org:1"),
        ] {
            let parsed: ServerAddress = text.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), shown);
        }
        for text in [
            "",
            ":80",
            "host:",
            "host:port",
            "host:65536",
            "[::1]",
            "a:b:80",
            "http://a",
            "65536",
            "+80",
            "a:+80",
            "fe80::1%nowhere",
            "a%lo:80",
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sources_have_no_port() {
        for (text, shown) in [("127.0.0.2", "127.0.0.2:0"), ("fe80::1%lo", "[fe80::1%1]:0")] {
            assert_eq!(source_address(text).unwrap().to_string(), shown);
        }
        for text in ["", "localhost", "127.0.0.1:80", "[::1]", "fe80::1%nowhere"] {
            assert!(source_address(text).is_err(), "{text:?}");
        }
    }
}
