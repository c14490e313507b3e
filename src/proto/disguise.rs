use std::borrow::Cow;
use std::net::SocketAddr;

use crate::auth::KeyId;

/// What stands in the record of a connection for what must not leave the process. Each method returns
/// what is written in the place of what there is; bytes have as many bytes. By default all is written as
/// it is.
pub trait Disguise {
    /// What stands for bytes.
    fn bytes<'a>(&mut self, _what: Sensitive, real: &'a [u8]) -> Cow<'a, [u8]> {
        Cow::Borrowed(real)
    }

    /// Unsent payload, if that is written at all: else nothing.
    fn payload<'a>(&self, real: &'a [u8]) -> &'a [u8] {
        real
    }

    /// What stands for the address of a client or of a balancer.
    fn address(&mut self, real: SocketAddr) -> SocketAddr {
        real
    }

    /// What stands for the address that a client connected to, of which its PROXY header tells.
    fn destination(&mut self, real: SocketAddr) -> SocketAddr {
        real
    }

    /// What stands for the number of a source in admission.
    fn source(&mut self, real: u64) -> u64 {
        real
    }

    /// What stands for the identifier of the key of an authenticated connection.
    fn key(&mut self, real: KeyId) -> KeyId {
        real
    }
}

/// Bytes of a connection that may have to stay in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sensitive {
    /// The server's challenge.
    Challenge,
    /// Random bytes that a longer challenge has behind the first 32.
    MoreRandom,
    /// The part of a digest that was received.
    Digest,
    /// The part of a frame of the mutual handshake that was received.
    Frame,
    /// Unsent bytes of the mutual handshake.
    Unsent,
    /// The part of a PROXY header that was received.
    Header,
    /// The unique id of a PROXY header.
    UniqueId,
    /// The identifier of the key that a peer has proved to have, while it is still to prove more.
    ProvedKey,
}

/// Writes everything as it is.
pub(crate) struct Undisguised;

impl Disguise for Undisguised {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_disguise_everything_is_written_as_it_is() {
        let mut none = Undisguised;
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let key = KeyId::from_bytes([1, 2, 3, 4]);
        assert_eq!(*none.bytes(Sensitive::Challenge, b"bytes"), *b"bytes");
        assert_eq!(none.payload(b"payload"), b"payload");
        assert_eq!((none.address(address), none.destination(address)), (address, address));
        assert_eq!((none.source(7), none.key(key)), (7, key));
    }
}
