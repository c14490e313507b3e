//! The values that flags take, each with what is accepted when it refuses one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// How long something may take: `5s`, `500ms`, `1m 30s`, or `off` for as long as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<Duration>);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(time) if time.is_zero() => Err("zero would end everything at once; `off` means \
                                               without limit"),
            Ok(time) => Ok(Self(Some(time))),
            Err(_) => Err("expected a number with its unit, like 5s, 500ms or 2m, or `off`"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => humantime::format_duration(time).fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A period of keepalive probes: what the kernel can count, and a loop can pace.
pub(super) fn keepalive(text: &str) -> Result<Limit, &'static str> {
    const EXPECTED: &str = "expected a time from 1s to 3h, like 60s or 5m, or `off`";
    let limit: Limit = text.parse().map_err(|_| EXPECTED)?;
    let possible = Duration::from_secs(1)..=Duration::from_secs(3 * 3600);
    match limit.0.is_none_or(|period| possible.contains(&period)) {
        true => Ok(limit),
        false => Err(EXPECTED),
    }
}

/// A number of bytes from 1 to 16 MiB: `1000`, `1k`, `32k`, `1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

impl Size {
    /// The longest answer that a server keeps for one connection; what one `recv` returns is
    /// answered whole, so it cannot be longer.
    const MAX: usize = 16 << 20;
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number of bytes from 1 to 16m, like 1000, 1k or 32k";
        let (digits, unit) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
            _ => (text, 1),
        };
        // A sign is none of the digits, though `parse` takes one.
        let number: usize = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| EXPECTED)?,
            false => return Err(EXPECTED),
        };
        match number.checked_mul(unit) {
            Some(size @ 1..=Self::MAX) => Ok(Self(size)),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size % (1 << 20) == 0 => write!(f, "{}m", size >> 20),
            size if size % (1 << 10) == 0 => write!(f, "{}k", size >> 10),
            size => write!(f, "{size}"),
        }
    }
}

/// An address to listen on. Not a name: a server must not depend on what a name means today.
/// A number alone is a port on this machine, not the IPv4 address that it may also spell.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    if let Some(port) = port(text) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| "expected an IP address and a port, like 127.0.0.1:9999 or [::1]:0")
}

fn port(text: &str) -> Option<u16> {
    // A sign is none of the digits, though `parse` takes one.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Where a server is: an IP address or a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl ServerAddress {
    const DEFAULT_PORT: u16 = 9999;
}

impl FromStr for ServerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a host and a port, like 127.0.0.1:9999, [::1]:9999 or localhost:9999";
        if let Some(port) = port(text) {
            return Ok(Self { host: Ipv4Addr::LOCALHOST.to_string(), port });
        }
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        let (host, port) = match (bracketed, text.split_once(':')) {
            (Some((host, port)), _) => (host, Some(port)),
            (None, Some(_)) if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            (None, Some((host, port))) => (host, Some(port)),
            (None, None) => (text, None),
        };
        let port = port.map_or(Some(Self::DEFAULT_PORT), self::port).ok_or(EXPECTED)?;
        let number = host.bytes().all(|byte| byte.is_ascii_digit());
        if number || host.contains(['[', ']', '/', ' ', '+']) {
            return Err(EXPECTED);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_durations_or_off() {
        for (text, limit, shown) in [
            ("off", None, "off"),
            ("5s", Some(5_000), "5s"),
            ("500ms", Some(500), "500ms"),
            ("1.5s", Some(1_500), "1s 500ms"),
            ("1m 30s", Some(90_000), "1m 30s"),
        ] {
            let parsed: Limit = text.parse().unwrap();
            assert_eq!(parsed, Limit(limit.map(Duration::from_millis)));
            assert_eq!(parsed.to_string(), shown);
        }
        for text in ["", "5", "0s", "-1s", "5 parsecs", "OFF", "99999999999999999999s"] {
            assert!(text.parse::<Limit>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_keepalive_period_is_one_that_can_be_kept() {
        for (text, seconds) in
            [("off", None), ("1s", Some(1)), ("60s", Some(60)), ("3h", Some(10_800))]
        {
            assert_eq!(keepalive(text), Ok(Limit(seconds.map(Duration::from_secs))), "{text:?}");
        }
        for text in ["", "0s", "999ms", "10801s", "60", "never"] {
            assert!(keepalive(text).unwrap_err().contains("from 1s to 3h"), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_kibibytes_or_mebibytes() {
        for (text, size, shown) in [
            ("1", 1, "1"),
            ("1000", 1000, "1000"),
            ("1k", 1024, "1k"),
            ("32K", 32 << 10, "32k"),
            ("16m", 16 << 20, "16m"),
            ("16777216", 16 << 20, "16m"),
        ] {
            let parsed: Size = text.parse().unwrap();
            assert_eq!((parsed, parsed.to_string().as_str()), (Size(size), shown));
        }
        for text in ["", "k", "0", "0k", "+1", "-1", "1.5k", "17m", "1kb", "1g", "é"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        assert!(format!("{}k", usize::MAX).parse::<Size>().is_err());
    }

    #[test]
    fn listeners_have_an_ip_address_and_a_port() {
        for (text, shown) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:0", "[::1]:0"), ("80", "127.0.0.1:80")]
        {
            assert_eq!(listen_address(text).unwrap().to_string(), shown);
        }
        for text in ["", "localhost:80", "127.0.0.1", "65536", "+80", ":80", "::1"] {
            assert!(listen_address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn servers_have_a_host_and_perhaps_a_port() {
        for (text, host, port, shown) in [
            ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1:80"),
            ("[::1]:80", "::1", 80, "[::1]:80"),
            ("[fe80::1%2]:80", "fe80::1%2", 80, "[fe80::1%2]:80"),
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
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
        }
    }
}
