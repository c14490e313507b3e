//! The mutual handshake of Python's multiprocessing in progress.

use super::{Connection, Stage};
use crate::proto::handshake::{Behind, Handshake};
use crate::proto::proxy::Header;
use crate::proto::{
    CloseReason, Config, Handler, HandshakeError, MutualHandshake, Peer, Protocol, Reply, Role,
};
use crate::python::Monotonic;

/// The listener's part of [`Protocol::Multiprocessing`] in progress.
#[derive(Debug)]
pub(super) struct Mutual {
    pub(super) handshake: MutualHandshake,
    pub(super) peer: Peer,
    /// The PROXY header that came first.
    pub(super) header: Option<Header>,
}

impl Mutual {
    /// Begins when the header of a balancer is complete. A client cannot answer a challenge that is
    /// not sent; what it sends all the same is taken for its answer.
    pub(super) fn behind(preface: &Handshake, config: &Config, behind: Behind<'_>) -> Self {
        let (mut random, challenge) = ([0; Protocol::MAX_RANDOM], preface.challenge());
        random[..challenge.len()].copy_from_slice(challenge);
        random[challenge.len()..].copy_from_slice(&behind.more);
        let mut handshake = MutualHandshake::new(Role::Listener, &config.keyring, random);
        let _ = handshake.handle_recv(&config.keyring, behind.bytes);
        Self { handshake, peer: preface.peer, header: preface.header().cloned() }
    }

    /// Reports sent bytes; the reason for the end if that is over with them.
    #[inline(never)]
    pub(super) fn sent(&mut self, n: usize) -> Option<CloseReason> {
        self.handshake.handle_sent(n);
        let is_over = self.handshake.outcome().is_some();
        is_over.then(|| self.reason(CloseReason::HandshakeFailed))
    }

    /// Returns true if a peer that leaves now does what a balancer's health check does.
    #[inline(never)]
    pub(super) fn may_be_health_check(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.endpoints.is_none())
    }

    /// The reason for an end that comes now, which is the peer's doing unless the handshake has
    /// failed before.
    #[inline(never)]
    pub(super) const fn reason(&self, now: CloseReason) -> CloseReason {
        match self.handshake.error() {
            Some(HandshakeError::WrongDigest) => CloseReason::Rejected,
            Some(HandshakeError::Refused | HandshakeError::Malformed) => {
                CloseReason::HandshakeFailed
            }
            None => now,
        }
    }
}

impl<H: Handler> Connection<H> {
    /// Handles bytes of the mutual handshake, and what may be behind it. Not inlined, so that a
    /// message does not prepare for this.
    #[inline(never)]
    pub(super) fn recv_mutual<'a>(
        &'a mut self,
        config: &'a Config,
        input: &'a mut [u8],
        now: Monotonic,
    ) -> Reply<'a, H> {
        let Stage::Mutual(mutual) = &mut self.stage else {
            return Reply::empty(self, config, now, None);
        };
        assert!(mutual.handshake.unsent().is_empty(), "received while a message is unsent");
        let taken = mutual.handshake.handle_recv(&config.keyring, input);
        match mutual.handshake.outcome() {
            None => Reply::empty(self, config, now, None),
            Some(Err(_)) => {
                let reason = mutual.reason(CloseReason::HandshakeFailed);
                self.end(reason);
                Reply::empty(self, config, now, None)
            }
            Some(Ok(())) => {
                let Mutual { handshake, peer, .. } = &**mutual;
                // Something if the client has accepted the response before it was sent.
                let (unsent, peer) = (handshake.unsent().to_vec(), *peer);
                let key = handshake.key().and_then(|key| config.keyring.position_of(key));
                self.recv_again(config, now);
                self.enter_conversation(&peer);
                let reply = match &mut input[taken..] {
                    [] => Reply::empty(self, config, now, None),
                    rest => self.handle_recv(config, rest, now),
                };
                let reply = if unsent.is_empty() { reply } else { reply.behind(&unsent) };
                reply.with_key(key)
            }
        }
    }
}
