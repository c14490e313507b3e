//! The PROXY protocol header, versions 1 and 2, as a state machine without I/O.
//!
//! A load balancer sends the header before the first byte of a connection, with the address of the
//! client. A listener either requires a header or accepts none: the specification forbids guessing,
//! because a client could otherwise claim any address. So nothing is sent, and no byte counts as
//! input, before [`HeaderReader`] has read the last byte of the header.
//!
//! Source: <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>. The crate proxy-header
//! decodes; this module adds the checks that it leaves out, and limits the length.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

#[cfg(feature = "server")]
use super::wire::{Reader, put_address, put_counted};
#[cfg(feature = "server")]
use super::{Disguise, Sensitive};

/// Maximum length of a header in bytes. 536 is the specification's advice: it fits one segment of the
/// minimum size that every host must accept. HAProxy sends at most 232 bytes, unique id included.
pub const MAX_HEADER: usize = 536;

/// Maximum length of a version 1 line, CR and LF included.
const MAX_LINE: usize = 107;
/// Maximum length of a unique id in version 2.
const MAX_UNIQUE_ID: usize = 128;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length of the signature, the command, the family and the length field.
const V2_FIXED: usize = V2.len() + 4;

/// The contents of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source and destination of the client's connection. `None` if the header has none: the
    /// balancer's own connection (LOCAL, a health check), or an address family other than TCP's
    /// (UNKNOWN, UNSPEC, Unix sockets, datagrams). The socket's own addresses count then.
    pub endpoints: Option<Endpoints>,
    /// The balancer's name for the connection, up to 128 arbitrary bytes. Logged (escaped), it helps
    /// to find a connection in the logs of both.
    pub unique_id: Option<Box<[u8]>>,
}

/// The two ends of the client's connection to the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// The address of the balancer that the client connected to.
    pub destination: SocketAddr,
}

/// The state of a header after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The header is incomplete; all bytes so far belong to it.
    Incomplete,
    /// The header is complete.
    Complete {
        /// Its contents.
        header: Header,
        /// Number of bytes of the last piece that belong to it. The others are the client's.
        taken: usize,
    },
}

/// The reason why the bytes are not a header. The connection must be closed, because the bytes that
/// follow cannot be interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes are not a signature of either version.
    #[error("no PROXY header in front of the connection")]
    Missing,
    /// It starts like a header and is invalid.
    #[error("malformed PROXY header")]
    Malformed,
    /// It is longer than [`MAX_HEADER`].
    #[error("PROXY header of more than {MAX_HEADER} bytes")]
    TooLong,
}

/// Reads a header that arrives in pieces. Keeps no byte behind it.
#[derive(Debug, Default)]
pub struct HeaderReader {
    /// Earlier pieces. A header in one piece, the usual case, allocates nothing.
    seen: Vec<u8>,
}

impl HeaderReader {
    /// Creates a reader for a new connection.
    pub const fn new() -> Self {
        Self { seen: Vec::new() }
    }

    /// Returns true before the first byte.
    pub const fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Takes the bytes of one `recv`. The result does not depend on how the bytes are cut into pieces.
    ///
    /// # Errors
    /// [`HeaderError`] at the first byte that cannot belong to a header, or at the last one of a header
    /// whose fields contradict each other.
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

#[cfg(feature = "server")]
impl HeaderReader {
    /// Writes the pieces so far.
    pub(super) fn park(&self, disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        put_counted(out, &disguise.bytes(Sensitive::Header, &self.seen));
    }

    /// Takes the first of these bytes in the place of the pieces so far. `None` if they are too few or not
    /// the beginning of a header.
    pub(super) fn replace(&mut self, bytes: &mut Vec<u8>) -> Option<()> {
        let len = Some(self.seen.len()).filter(|len| *len <= bytes.len())?;
        self.seen = bytes.drain(..len).collect();
        parse(&self.seen).ok()?.is_none().then_some(())
    }

    /// Reads what [`park`](Self::park) wrote; `None` if that is not the beginning of a header.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let seen = reader.counted(MAX_HEADER - 1)?;
        parse(seen).ok()?.is_none().then(|| Self { seen: seen.to_vec() })
    }
}

#[cfg(feature = "server")]
impl Header {
    /// Writes a header, or none.
    pub(super) fn park(header: Option<&Self>, disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        let Some(Self { endpoints, unique_id }) = header else { return out.push(0) };
        out.push(1);
        put_address(out, endpoints.map(|endpoints| disguise.address(endpoints.source)));
        put_address(out, endpoints.map(|endpoints| disguise.destination(endpoints.destination)));
        out.push(unique_id.is_some().into());
        let unique_id = unique_id.as_deref().unwrap_or_default();
        put_counted(out, &disguise.bytes(Sensitive::UniqueId, unique_id));
    }

    /// Reads what [`park`](Self::park) wrote.
    #[allow(clippy::option_option)] // The outer one is for what is impossible.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Option<Self>> {
        match reader.u8()? {
            0 => return Some(None),
            1 => {}
            _ => return None,
        }
        let endpoints = match (reader.address()?, reader.address()?) {
            (Some(source), Some(destination)) => Some(Endpoints { source, destination }),
            (None, None) => None,
            _ => return None,
        };
        let (has_id, id) = (reader.u8()?, reader.counted(MAX_UNIQUE_ID)?);
        let unique_id = match has_id {
            0 if id.is_empty() => None,
            1 => Some(id.into()),
            _ => return None,
        };
        Some(Some(Self { endpoints, unique_id }))
    }
}

/// Parses the header at the start of `bytes`. Returns it and its length; `None` if it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let begins = |signature: &[u8]| {
        let len = bytes.len().min(signature.len());
        bytes[..len] == signature[..len]
    };
    match (begins(V1), begins(V2)) {
        // Both are true only without any byte.
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
    // The decoder accepts ports with leading zeros or a plus, which the specification forbids.
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
    // The specification says to ignore the family and addresses of LOCAL.
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

/// Returns the unique id from the fields behind the addresses. The lengths of all fields must add up.
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
