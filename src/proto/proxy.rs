//! The PROXY protocol's header, versions 1 and 2, as a state machine without I/O.
//!
//! A balancer sends it before the first byte of a connection, to say who the client is. A listener
//! either requires it or does not know it: the specification forbids guessing, because a client
//! could otherwise claim any address. So nothing may be sent, and nothing is input, before
//! [`HeaderReader`] has seen the header's last byte.
//!
//! Source: <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>. The crate proxy-header
//! decodes; what it leaves open, and how much may arrive, is decided here.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

/// The longest header that is accepted, in bytes: 536, what fits a segment of the least size that
/// every host has to take, and the specification's advice. HAProxy sends at most 232 with a
/// unique id.
pub const MAX_HEADER: usize = 536;

/// The longest line of version 1, its CR and LF included.
const MAX_LINE: usize = 107;
/// The longest unique id that version 2 allows.
const MAX_UNIQUE_ID: usize = 128;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, the command, the family, and the length of the rest.
const V2_FIXED: usize = V2.len() + 4;

/// The meaning of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the client's connection came from and went to. `None` if the header does not tell:
    /// the balancer's own connection (LOCAL, a health check), or an address family that TCP does
    /// not have (UNKNOWN, UNSPEC, Unix sockets, datagrams). The real endpoints count then.
    pub endpoints: Option<Endpoints>,
    /// The balancer's name for the connection, up to 128 bytes of any kind: something to log,
    /// escaped, so that a connection is found in the logs of both.
    pub unique_id: Option<Box<[u8]>>,
}

/// The two ends of the client's connection to the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// The balancer's address that it asked for.
    pub destination: SocketAddr,
}

/// The state of a header after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// More is to come; all bytes so far belong to the header.
    Incomplete,
    /// It is complete.
    Complete {
        /// Its meaning.
        header: Header,
        /// How many of the bytes that came last belong to it. The others are the client's.
        taken: usize,
    },
}

/// The reason for which what arrived is no header. The connection can only be closed: nothing that
/// follows can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes are those of neither version.
    #[error("no PROXY header in front of the connection")]
    Missing,
    /// It begins as a header, and is none.
    #[error("malformed PROXY header")]
    Malformed,
    /// It is longer than [`MAX_HEADER`].
    #[error("PROXY header of more than {MAX_HEADER} bytes")]
    TooLong,
}

/// Gathers a header from the pieces in which it arrives. No byte behind it is kept.
#[derive(Debug, Default)]
pub struct HeaderReader {
    /// Earlier pieces. A header in one piece, the usual case, allocates nothing.
    seen: Vec<u8>,
}

impl HeaderReader {
    /// A reader that has seen nothing yet.
    pub const fn new() -> Self {
        Self { seen: Vec::new() }
    }

    /// Returns true before the first byte.
    pub const fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Takes what one `recv` returned. The outcome of the same bytes is the same however they
    /// are cut into pieces.
    ///
    /// # Errors
    /// [`HeaderError`] with the first byte that cannot belong to a header, or with the last one of
    /// a header whose parts contradict each other.
    pub fn handle_recv(&mut self, data: &[u8]) -> Result<Status, HeaderError> {
        let before = self.seen.len();
        let room = MAX_HEADER - before;
        let data = &data[..data.len().min(room)];
        let parsed = if before == 0 {
            parse(data)?
        } else {
            self.seen.extend_from_slice(data);
            parse(&self.seen)?
        };
        match parsed {
            Some((header, len)) => Ok(Status::Complete { header, taken: len - before }),
            None => {
                if before == 0 {
                    self.seen = data.to_vec();
                }
                Ok(Status::Incomplete)
            }
        }
    }
}

/// The header at the beginning of `bytes` and its length; `None` if it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let begins = |signature: &[u8]| {
        let len = bytes.len().min(signature.len());
        bytes[..len] == signature[..len]
    };
    match (begins(V1), begins(V2)) {
        // Only of no byte at all both is true.
        (true, true) => Ok(None),
        (true, false) => parse_v1(&bytes[..bytes.len().min(MAX_LINE)]),
        (false, true) => parse_v2(bytes),
        (false, false) => Err(HeaderError::Missing),
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.
fn parse_v1(line: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let Some((decoded, len)) = decode(line)? else { return Ok(None) };
    let endpoints = decoded.proxied_address().map(Endpoints::from);
    // The decoder takes ports with zeros or a plus in front, which the specification forbids.
    let is_strict = |port: &[u8]| {
        port.iter().all(u8::is_ascii_digit) && (port == b"0" || !port.starts_with(b"0"))
    };
    let mut ports = line[..len - 2].rsplit(|byte| *byte == b' ').take(2);
    if endpoints.is_some() && !ports.all(is_strict) {
        return Err(HeaderError::Malformed);
    }
    Ok(Some((Header { endpoints, unique_id: None }, len)))
}

/// The signature, a command, an address family, a length; addresses, and fields of any type.
fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let Some((fixed, _)) = bytes.split_at_checked(V2_FIXED) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let len = V2_FIXED + rest;
    // LOCAL's family and addresses are to be ignored, whatever they are.
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed),
    };
    if len > MAX_HEADER {
        return Err(HeaderError::TooLong);
    }
    let addresses = match fixed[13] {
        _ if is_local => 0,
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(HeaderError::Malformed),
    };
    if rest < addresses {
        return Err(HeaderError::Malformed);
    }
    let Some((whole, _)) = bytes.split_at_checked(len) else { return Ok(None) };
    if is_local {
        return Ok(Some((Header { endpoints: None, unique_id: None }, len)));
    }
    let Some((decoded, _)) = decode(whole)? else { return Err(HeaderError::Malformed) };
    let proxied = decoded.proxied_address().filter(|it| it.protocol == Protocol::Stream);
    let header = Header {
        endpoints: proxied.map(Endpoints::from),
        unique_id: unique_id(&whole[V2_FIXED + addresses..])?,
    };
    Ok(Some((header, len)))
}

fn decode(bytes: &[u8]) -> Result<Option<(ProxyHeader<'_>, usize)>, HeaderError> {
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok(decoded) => Ok(Some(decoded)),
        Err(proxy_header::Error::BufferTooShort) => Ok(None),
        Err(_) => Err(HeaderError::Malformed),
    }
}

/// Walks over the fields behind the addresses. Only the unique id is kept, but the lengths of all
/// of them have to add up.
fn unique_id(mut fields: &[u8]) -> Result<Option<Box<[u8]>>, HeaderError> {
    const PP2_TYPE_UNIQUE_ID: u8 = 0x05;
    let mut unique_id = None;
    while let [kind, high, low, rest @ ..] = fields {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(HeaderError::Malformed)?;
        if *kind == PP2_TYPE_UNIQUE_ID {
            if len > MAX_UNIQUE_ID {
                return Err(HeaderError::Malformed);
            }
            unique_id = Some(value.into());
        }
        fields = rest;
    }
    if fields.is_empty() { Ok(unique_id) } else { Err(HeaderError::Malformed) }
}

impl From<&ProxiedAddress> for Endpoints {
    fn from(proxied: &ProxiedAddress) -> Self {
        Self { source: proxied.source, destination: proxied.destination }
    }
}
