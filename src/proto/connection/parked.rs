//! A connection on its way to another loop.

use super::{Connection, Stage};
use crate::auth::KeyId;
use crate::proto::backlog::Backlog;
use crate::proto::connection::mutual::Mutual;
use crate::proto::handshake::Handshake;
use crate::proto::proxy::Header;
use crate::proto::wire::Reader;
use crate::proto::{
    CloseReason, Config, Disguise, Handler, MutualHandshake, Peer, Protocol, State, guarded,
};
use crate::python::Call;

use bytes::Bytes;

/// The part of a connection's state that has the same form in every stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// One of the tags below.
    pub(crate) stage: u8,
    /// [`CloseReason::code`] of the reason for which it finishes, lingers, or will close when its
    /// answer is sent; 0 for none.
    pub(crate) reason: u8,
    /// Bytes that it discards before it closes anyway.
    pub(crate) bytes_left: u32,
    /// Deadline of the call in progress in nanoseconds of the monotonic clock; `u64::MAX` for none.
    pub(crate) deadline: u64,
    /// Bytes of answers that are unsent.
    pub(crate) unsent: u64,
}

impl Head {
    /// The tag of a state, of which there are two in a handshake.
    pub(crate) const fn stage_of(state: State, protocol: Protocol) -> u8 {
        match (state, protocol) {
            (State::AwaitHeader, _) => AWAIT_DIGEST,
            (State::AwaitDigest, Protocol::Multiprocessing) => MUTUAL,
            (State::AwaitDigest, Protocol::Tutorial | Protocol::Plain) => AWAIT_DIGEST,
            (State::Echoing, _) => ECHOING,
            (State::Finishing, _) => FINISHING,
            (State::Lingering, _) => LINGERING,
            (State::Closed(_), _) => 0,
        }
    }
}

pub(super) const AWAIT_DIGEST: u8 = 1;
pub(super) const MUTUAL: u8 = 2;
pub(super) const ECHOING: u8 = 3;
pub(super) const FINISHING: u8 = 4;
pub(super) const LINGERING: u8 = 5;

/// A connection without its handler.
#[derive(Debug)]
pub(crate) struct Parked {
    stage: Stage,
    call: Call,
    /// The key that the peer of a mutual handshake has proved to have. It is looked up again.
    key: Option<KeyId>,
}

/// A connection is nearly as small while it has no handler.
const _: () = assert!(size_of::<Parked>() <= 32);

impl<H: Handler> Connection<H> {
    /// Writes what another loop needs to go on: the handshake to `handshake`, the state of the
    /// handler to `handler`. `None` if the handler cannot move.
    pub(crate) fn park(
        &self,
        disguise: &mut dyn Disguise,
        handshake: &mut Vec<u8>,
        handler: &mut Vec<u8>,
    ) -> Option<Head> {
        let (stage, reason, bytes_left) = match &self.stage {
            Stage::AwaitDigest(state) => {
                state.park(disguise, handshake);
                (AWAIT_DIGEST, None, 0)
            }
            Stage::Mutual(mutual) => {
                mutual.handshake.park(disguise, handshake);
                mutual.peer.park(disguise, handshake);
                Header::park(mutual.header.as_ref(), disguise, handshake);
                (MUTUAL, None, 0)
            }
            Stage::Echoing(backlog) => {
                (ECHOING, backlog.as_ref().and_then(|backlog| backlog.then_close), 0)
            }
            Stage::Finishing(reason) => (FINISHING, Some(*reason), 0),
            Stage::Lingering { reason, bytes_left } => (LINGERING, Some(*reason), *bytes_left),
            Stage::Closed { .. } => return None,
        };
        // Before its conversation a handler is as good as a new one.
        let can_move =
            !self.has_authenticated() || guarded(|| self.handler.save(handler)) == Some(true);
        can_move.then(|| Head {
            stage,
            reason: reason.map_or(0, CloseReason::code),
            bytes_left,
            deadline: self.call.to_nanos(),
            unsent: self.messages().map(|message| message.len() as u64).sum(),
        })
    }

    /// The unsent messages, the rest of the one in progress first.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Bytes> {
        let backlog = match &self.stage {
            Stage::Echoing(backlog) => backlog.as_ref(),
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => None,
        };
        backlog.into_iter().flat_map(|backlog| backlog.messages())
    }
}

impl Parked {
    /// Reads what [`Connection::park`] wrote. `None` if that is impossible: of two contradicting
    /// values neither is believed.
    pub(crate) fn read(head: &Head, handshake: Option<&[u8]>) -> Option<Self> {
        let reason = match head.reason {
            0 => None,
            code => Some(CloseReason::from_code(code)?),
        };
        let (mut reader, mut key) = (Reader::new(handshake.unwrap_or_default()), None);
        let stage = match (head.stage, reason) {
            (AWAIT_DIGEST, None) => Stage::AwaitDigest(Box::new(Handshake::read(&mut reader)?)),
            (MUTUAL, None) => {
                let handshake;
                (handshake, key) = MutualHandshake::read(&mut reader)?;
                let (peer, header) = (Peer::read(&mut reader)?, Header::read(&mut reader)?);
                Stage::Mutual(Box::new(Mutual { handshake, peer, header }))
            }
            (ECHOING, _) => Stage::Echoing(None),
            (FINISHING, Some(reason)) => Stage::Finishing(reason),
            (LINGERING, Some(reason)) => Stage::Lingering { reason, bytes_left: head.bytes_left },
            _ => return None,
        };
        let (is_echoing, is_lingering) = (head.stage == ECHOING, head.stage == LINGERING);
        let possible = reader.rest().is_empty()
            && handshake.is_some() == matches!(head.stage, AWAIT_DIGEST | MUTUAL)
            && (is_lingering || head.bytes_left == 0)
            && (is_echoing || head.unsent == 0)
            // It closes when its answer is sent; without one it would have closed.
            && (!is_echoing || reason.is_none() || head.unsent > 0);
        possible.then(|| Self { stage, call: Call::from_nanos(head.deadline), key })
    }

    pub(crate) const fn has_authenticated(&self) -> bool {
        !matches!(self.stage, Stage::AwaitDigest(_) | Stage::Mutual(_))
    }

    pub(crate) fn awaits_header(&self) -> bool {
        matches!(&self.stage, Stage::AwaitDigest(handshake) if handshake.awaits_header())
    }

    pub(crate) const fn is_lingering(&self) -> bool {
        matches!(self.stage, Stage::Lingering { .. })
    }

    /// Gives it the messages that were unsent, of which there is at least one and none is empty.
    /// `None` if there is no memory for them.
    pub(crate) fn owe(&mut self, head: &Head, messages: Vec<Bytes>) -> Option<()> {
        let then_close = CloseReason::from_code(head.reason);
        self.stage = Stage::Echoing(Some(Backlog::arrived(messages, then_close)?));
        Some(())
    }

    /// Takes the first of these bytes in the place of as many that it has of a PROXY header. `None` if they
    /// are not the beginning of one.
    pub(crate) fn replace_header(&mut self, bytes: &mut Vec<u8>) -> Option<()> {
        match &mut self.stage {
            Stage::AwaitDigest(handshake) => handshake.replace_header(bytes),
            _ => None,
        }
    }

    /// Changes the name and the server that the peer has in the handshake.
    pub(crate) fn rename(&mut self, peer: &Peer) {
        match &mut self.stage {
            Stage::AwaitDigest(handshake) => {
                handshake.peer = peer.with_address(handshake.peer.address());
            }
            Stage::Mutual(mutual) => mutual.peer = peer.with_address(mutual.peer.address()),
            Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => {}
        }
    }

    /// The connection, with its handler.
    pub(crate) fn into_connection<H>(mut self, config: &Config, handler: H) -> Connection<H> {
        if let (Some(id), Stage::Mutual(mutual)) = (self.key, &mut self.stage) {
            mutual.handshake.find_key(&config.keyring, id);
        }
        Connection { stage: self.stage, call: self.call, handler }
    }
}
