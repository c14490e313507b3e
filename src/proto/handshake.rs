use zeroize::Zeroizing;

use super::{Config, Peer};
use crate::auth::{Challenge, Digest};

/// The server's half of a handshake in progress: the challenge, and the part of the digest
/// received so far.
///
/// At most 120 bytes: glibc caches freed blocks of that size; larger ones cost twice as much.
pub(super) struct Handshake {
    challenge: Challenge,
    digest: Zeroizing<[u8; Digest::MAX_LEN]>,
    pub(super) peer: Peer,
    sent: u32,
    received: u32,
}

const _: () = assert!(size_of::<Handshake>() <= 120);

impl Handshake {
    pub(super) fn new(challenge: Challenge) -> Self {
        Self {
            challenge,
            digest: Zeroizing::new([0; Digest::MAX_LEN]),
            peer: Peer::default(),
            sent: 0,
            received: 0,
        }
    }

    /// Unsent bytes of the challenge.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.challenge.as_bytes()[self.sent as usize..]
    }

    /// Records `n` more sent bytes of the challenge.
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += saturating_u32(n);
    }

    /// Copies the part of `input` that belongs to the digest; returns its length.
    ///
    /// The keyring may have been replaced by one with shorter digests, so that more bytes than it
    /// needs are here already.
    #[must_use]
    pub(super) fn take(&mut self, input: &[u8], digest_len: usize) -> usize {
        let received = self.received as usize;
        let taken = input.len().min(digest_len.saturating_sub(received));
        self.digest[received..received + taken].copy_from_slice(&input[..taken]);
        self.received += saturating_u32(taken);
        taken
    }

    /// Verifies the digest; `None` while it is incomplete, then the position of its key in the ring,
    /// if it is right. An unauthenticated client costs one MAC of each key at most, after its last
    /// byte.
    #[must_use]
    pub(super) fn verify(&self, config: &Config) -> Option<Option<usize>> {
        let received = self.received as usize;
        let complete = received >= config.keyring.algorithm().digest_len();
        complete.then(|| config.keyring.find(&self.challenge, &self.digest[..received]))
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handshake {{ sent: {}, received: {} }}", self.sent, self.received)
    }
}

/// `n`, or `u32::MAX` if it is larger.
pub(super) fn saturating_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
