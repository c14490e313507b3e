use super::proxy::{Header, HeaderError, HeaderReader, Status};
#[cfg(feature = "server")]
use super::wire::{Reader, put_counted};
use super::{Config, Peer};
#[cfg(feature = "server")]
use super::{Disguise, Sensitive};
use crate::auth::{Challenge, Digest};

/// The server's half of a handshake in progress: the header of a balancer if there is one, the
/// challenge, and the part of the digest received so far.
///
/// At most 120 bytes: glibc caches freed blocks of that size; larger ones cost twice as much.
pub(super) struct Handshake {
    challenge: Challenge,
    /// What came over the wire is no secret, so it is not wiped.
    digest: [u8; Digest::MAX_LEN],
    /// `None` unless a balancer's header comes first. Boxed, since most connections have none.
    preface: Option<Box<Preface>>,
    pub(super) peer: Peer,
    sent: u16,
    received: u16,
}

/// The bytes that are there when a header is complete: the client's bytes, and the random ones that were kept.
#[derive(Clone, Copy)]
pub(super) struct Behind<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) more: [u8; 8],
}

/// The PROXY header in front of a connection. Nothing is sent before it is complete.
enum Preface {
    /// With the random bytes that a longer challenge has behind the first 32.
    Awaited(HeaderReader, [u8; 8]),
    Read(Header),
}

const _: () = assert!(size_of::<Handshake>() <= 120);

impl Handshake {
    pub(super) fn new(challenge: Challenge, peer: Peer) -> Self {
        Self { challenge, digest: [0; Digest::MAX_LEN], preface: None, peer, sent: 0, received: 0 }
    }

    /// The same behind a balancer, whose header comes first.
    pub(super) fn behind_proxy(challenge: Challenge, more: [u8; 8], peer: Peer) -> Self {
        let preface = Some(Box::new(Preface::Awaited(HeaderReader::new(), more)));
        Self { preface, ..Self::new(challenge, peer) }
    }

    /// Returns true while the header is incomplete.
    pub(super) fn awaits_header(&self) -> bool {
        matches!(self.preface.as_deref(), Some(Preface::Awaited(..)))
    }

    /// The complete header.
    pub(super) fn header(&self) -> Option<&Header> {
        match self.preface.as_deref() {
            Some(Preface::Read(header)) => Some(header),
            Some(Preface::Awaited(..)) | None => None,
        }
    }

    /// Handles the bytes of one `recv` while the header is awaited; returns what is behind it once it
    /// is complete.
    ///
    /// The bytes behind it are the client's. It cannot know the challenge yet, so they are kept as
    /// the beginning of a digest that will be wrong, and none beyond the longest digest is kept.
    pub(super) fn take_header<'a>(
        &mut self,
        data: &'a [u8],
    ) -> Result<Option<Behind<'a>>, HeaderError> {
        let Some(Preface::Awaited(reader, more)) = self.preface.as_deref_mut() else {
            return Ok(None);
        };
        let Status::Complete { header, taken } = reader.handle_recv(data)? else {
            return Ok(None);
        };
        let more = *more;
        if let Some(endpoints) = header.endpoints {
            self.peer = self.peer.moved_to(endpoints.source);
        }
        self.preface = Some(Box::new(Preface::Read(header)));
        let _ = self.take(&data[taken..], Digest::MAX_LEN);
        Ok(Some(Behind { bytes: &data[taken..], more }))
    }

    /// Returns true if a peer that leaves now does what a balancer's health check does: it sends
    /// nothing, or its header names no client.
    pub(super) fn may_be_health_check(&self) -> bool {
        match self.preface.as_deref() {
            None => false,
            Some(Preface::Awaited(reader, _)) => reader.is_empty(),
            Some(Preface::Read(header)) => header.endpoints.is_none(),
        }
    }

    /// The challenge.
    pub(super) fn challenge(&self) -> &[u8; Challenge::LEN] {
        self.challenge.as_bytes()
    }

    /// Unsent bytes of the challenge; none while the header is awaited.
    pub(super) fn unsent(&self) -> &[u8] {
        match self.awaits_header() {
            true => &[],
            false => &self.challenge.as_bytes()[usize::from(self.sent)..],
        }
    }

    /// Records `n` more sent bytes of the challenge.
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += saturating_u16(n);
    }

    /// Copies the part of `input` that belongs to the digest; returns its length.
    ///
    /// The keyring may have been replaced by one with shorter digests, so that more bytes than it
    /// needs are here already.
    #[must_use]
    pub(super) fn take(&mut self, input: &[u8], digest_len: usize) -> usize {
        let received = usize::from(self.received);
        let taken = input.len().min(digest_len.saturating_sub(received));
        self.digest[received..received + taken].copy_from_slice(&input[..taken]);
        self.received += saturating_u16(taken);
        taken
    }

    /// Returns true if the digest has all its bytes.
    #[must_use]
    pub(super) fn is_complete(&self, config: &Config) -> bool {
        usize::from(self.received) >= config.keyring.algorithm().digest_len()
    }

    /// Verifies the digest; `None` while it is incomplete, then the position of its key in the ring,
    /// if it is right. An unauthenticated client costs one MAC of each key at most, after its last
    /// byte.
    #[must_use]
    pub(super) fn verify(&self, config: &Config) -> Option<Option<u8>> {
        let digest = &self.digest[..usize::from(self.received)];
        self.is_complete(config).then(|| config.keyring.position(&self.challenge, digest))
    }
}

#[cfg(feature = "server")]
impl Handshake {
    /// Writes all that another loop needs to go on. The challenge is not used again: this side stops, or
    /// writes another.
    pub(super) fn park(&self, disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        let digest = &self.digest[..usize::from(self.received)];
        out.extend_from_slice(&disguise.bytes(Sensitive::Challenge, self.challenge.as_bytes()));
        out.extend(self.sent.to_le_bytes());
        put_counted(out, &disguise.bytes(Sensitive::Digest, digest));
        self.peer.park(disguise, out);
        match self.preface.as_deref() {
            None => out.push(NO_HEADER),
            Some(Preface::Awaited(reader, more)) => {
                out.push(HEADER_AWAITED);
                out.extend_from_slice(&disguise.bytes(Sensitive::MoreRandom, more));
                reader.park(disguise, out);
            }
            Some(Preface::Read(header)) => {
                out.push(HEADER_READ);
                Header::park(Some(header), disguise, out);
            }
        }
    }

    /// Takes the first of these bytes in the place of as many that it has of a header. `None` if they are
    /// not the beginning of one.
    pub(super) fn replace_header(&mut self, bytes: &mut Vec<u8>) -> Option<()> {
        match self.preface.as_deref_mut() {
            Some(Preface::Awaited(reader, _)) => reader.replace(bytes),
            Some(Preface::Read(_)) | None => None,
        }
    }

    /// Reads what [`park`](Self::park) wrote; `None` if that is impossible.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut handshake = Self::new(Challenge::new(reader.array()?), Peer::default());
        handshake.sent = reader.u16().filter(|sent| usize::from(*sent) <= Challenge::LEN)?;
        let digest = reader.counted(Digest::MAX_LEN)?;
        let _ = handshake.take(digest, Digest::MAX_LEN);
        handshake.peer = Peer::read(reader)?;
        handshake.preface = match reader.u8()? {
            NO_HEADER => None,
            HEADER_AWAITED if handshake.sent == 0 && handshake.received == 0 => {
                let more = reader.array()?;
                Some(Box::new(Preface::Awaited(HeaderReader::read(reader)?, more)))
            }
            HEADER_READ => Some(Box::new(Preface::Read(Header::read(reader)??))),
            _ => return None,
        };
        Some(handshake)
    }
}

#[cfg(feature = "server")]
const NO_HEADER: u8 = 0;
#[cfg(feature = "server")]
const HEADER_AWAITED: u8 = 1;
#[cfg(feature = "server")]
const HEADER_READ: u8 = 2;

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handshake {{ sent: {}, received: {} }}", self.sent, self.received)
    }
}

fn saturating_u16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// `n`, or `u32::MAX` if it is larger.
pub(super) fn saturating_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
