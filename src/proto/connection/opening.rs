//! The beginning of a connection, in each protocol and behind a balancer.

use std::time::Duration;

use super::{Connection, Mutual, Stage};
use crate::auth::Challenge;
use crate::proto::handshake::Handshake;
use crate::proto::proxy::HeaderError;
use crate::proto::{CloseReason, Config, Handler, MutualHandshake, Peer, Protocol, Role};
use crate::python::{Call, Monotonic};

impl<H: Handler> Connection<H> {
    /// Creates a connection of the tutorial's protocol accepted at `now`, to be authenticated with
    /// this challenge.
    pub fn new(config: &Config, challenge: Challenge, handler: H, now: Monotonic) -> Self {
        let stage = Stage::AwaitDigest(Box::new(Handshake::new(challenge, Peer::default())));
        Self::begin(stage, config.auth_timeout, handler, now)
    }

    /// Creates a connection accepted at `now` from a balancer, whose PROXY header comes before the
    /// challenge. Until the last byte of the [`header`](Self::header) nothing is sent. What follows
    /// it is the client's, which cannot know the challenge yet: a whole digest that is there before
    /// the challenge is sent is a guess, and rejected.
    pub fn behind_proxy(config: &Config, challenge: Challenge, handler: H, now: Monotonic) -> Self {
        let handshake = Handshake::behind_proxy(challenge, [0; 8], Peer::default());
        let stage = Stage::AwaitDigest(Box::new(handshake));
        Self::begin(stage, config.header_timeout, handler, now)
    }

    /// Creates a connection from this peer, accepted at `now`, in the protocol of the
    /// configuration. The handshake takes what it needs ([`Protocol::random_len`]) of `random`, bytes
    /// of a cryptographic random source.
    pub fn open(
        config: &Config,
        random: &[u8; Protocol::MAX_RANDOM],
        handler: H,
        peer: Peer,
        now: Monotonic,
    ) -> Self {
        match config.protocol {
            Protocol::Tutorial => {
                let (challenge, _) = split(random);
                let stage = Stage::AwaitDigest(Box::new(Handshake::new(challenge, peer)));
                Self::begin(stage, config.auth_timeout, handler, now)
            }
            Protocol::Multiprocessing => {
                let handshake = MutualHandshake::new(Role::Listener, &config.keyring, *random);
                let stage = Stage::Mutual(Box::new(Mutual { handshake, peer, header: None }));
                Self::begin(stage, config.auth_timeout, handler, now)
            }
            Protocol::Plain => {
                let stage = Stage::Echoing(None);
                let mut connection = Self::begin(stage, config.idle_timeout, handler, now);
                connection.enter_conversation(&peer);
                connection
            }
        }
    }

    /// The same from a balancer, whose PROXY header comes first; see
    /// [`behind_proxy`](Self::behind_proxy). Not in [`Protocol::Plain`], which begins with nothing
    /// that could wait for the header.
    pub fn open_proxied(
        config: &Config,
        random: &[u8; Protocol::MAX_RANDOM],
        handler: H,
        peer: Peer,
        now: Monotonic,
    ) -> Self {
        let (challenge, more) = split(random);
        let handshake = Handshake::behind_proxy(challenge, more, peer);
        let stage = Stage::AwaitDigest(Box::new(handshake));
        Self::begin(stage, config.header_timeout, handler, now)
    }

    fn begin(stage: Stage, timeout: Option<Duration>, handler: H, now: Monotonic) -> Self {
        Self { stage, call: Call::within(timeout, now), handler }
    }

    /// Sets the peer that the handler gets in [`Handler::opened`]; a PROXY header that names a client
    /// replaces its address. No effect once authenticated.
    pub const fn set_peer(&mut self, peer: Peer) {
        match &mut self.stage {
            Stage::AwaitDigest(handshake) => handshake.peer = peer,
            Stage::Mutual(mutual) => mutual.peer = peer,
            Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => {}
        }
    }

    /// Takes the bytes of one `recv` as a part of the header.
    #[inline(never)]
    pub(super) fn take_header(&mut self, config: &Config, data: &[u8], now: Monotonic) {
        let Stage::AwaitDigest(handshake) = &mut self.stage else { return };
        match handshake.take_header(data) {
            Ok(None) => {}
            Ok(Some(behind)) => {
                self.call = Call::within(config.auth_timeout, now);
                if config.protocol == Protocol::Multiprocessing {
                    self.stage = Stage::Mutual(Box::new(Mutual::behind(handshake, config, behind)));
                }
            }
            Err(HeaderError::Missing) => self.end(CloseReason::HeaderMissing),
            Err(HeaderError::Malformed | HeaderError::TooLong) => {
                self.end(CloseReason::HeaderMalformed);
            }
        }
    }
}

/// The challenge, and what a longer one has behind it.
fn split(random: &[u8; Protocol::MAX_RANDOM]) -> (Challenge, [u8; 8]) {
    let challenge = std::array::from_fn(|i| random[i]);
    (Challenge::new(challenge), std::array::from_fn(|i| random[Challenge::LEN + i]))
}
