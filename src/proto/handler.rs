use bytes::Bytes;

use super::{CloseReason, Peer};
use crate::python::upper;

/// Application logic for one authenticated connection.
///
/// A handler sees a stream, not messages: the end of one call's bytes is not the end of a message.
/// Each connection has its own handler, so a handler may keep state.
///
/// The event loop makes all three calls and serves no other connection meanwhile, so none of them
/// may block. A panic in any of them ends this connection only, with
/// [`CloseReason::HandlerPanicked`].
///
/// ```
/// use bytes::Bytes;
/// use saltecho::proto::{Answer, Handler};
///
/// /// Answers with the number of bytes received so far.
/// #[derive(Clone, Default)]
/// struct Counter(usize);
///
/// impl Handler for Counter {
///     fn handle(&mut self, data: &mut [u8]) -> Answer {
///         self.0 += data.len();
///         Answer::Bytes(Bytes::from(format!("{}\n", self.0)))
///     }
/// }
/// assert_eq!(Counter(1).handle(b"abc".to_vec().as_mut()), Answer::Bytes(Bytes::from("4\n")));
/// ```
#[allow(unused_variables)] // The default methods do nothing.
pub trait Handler {
    /// Called once when the client has authenticated, before the first [`handle`](Self::handle).
    fn opened(&mut self, peer: &Peer) {}

    /// Answers `data`, the bytes of one `recv` (never empty). It may be changed in place.
    ///
    /// The next bytes of this peer are read after the kernel has taken the answer.
    fn handle(&mut self, data: &mut [u8]) -> Answer;

    /// Called once at the end of the connection if [`opened`](Self::opened) was called, also after
    /// a panic. Not called if the loop itself fails; that only drops the handler.
    fn closed(&mut self, reason: CloseReason) {}

    /// Writes its state for a handover (`server::handover`), in which the connection goes on with
    /// another handler in another loop, perhaps of another process and of another version. Returns true
    /// if it has: then [`closed`](Self::closed) is not called. By default a handler cannot move, and its
    /// connection drains where it is. More than 32 KiB do not move either.
    ///
    /// It is called after [`opened`](Self::opened), and must not change the handler, which goes on if the
    /// handover fails.
    fn save(&self, state: &mut Vec<u8>) -> bool {
        false
    }

    /// Goes on from what [`save`](Self::save) wrote, as a new clone for a connection that was opened
    /// elsewhere: [`opened`](Self::opened) is not called. The peer has its name in the new loop and no
    /// address; a handler that needs that saves it. Returns false if it does not understand the state;
    /// then the whole handover fails, and all goes on where it was.
    fn restore(&mut self, peer: &Peer, state: &[u8]) -> bool {
        false
    }
}

/// Result of [`Handler::handle`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Answer {
    /// Send `data` as it is now, without a copy or an allocation.
    InPlace,
    /// Send nothing and receive on.
    Nothing,
    /// Send these bytes, up to [`Config::max_answer`](super::Config::max_answer).
    Bytes(Bytes),
    /// Send these bytes, or none, then close the connection in an orderly way.
    Close(Bytes),
    /// Send the first bytes of `data` as they are now, then close the connection in an orderly way
    /// with [`CloseReason::MessageTooLong`].
    MessageTooLong {
        /// The number of these bytes, up to the length of `data`.
        answered: usize,
    },
}

/// The default handler: `data.upper()`, as the tutorial's server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upper;

impl Handler for Upper {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        upper(data);
        Answer::InPlace
    }

    fn save(&self, _state: &mut Vec<u8>) -> bool {
        true
    }

    fn restore(&mut self, _peer: &Peer, state: &[u8]) -> bool {
        state.is_empty()
    }
}

/// Echoes every byte unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl Handler for Identity {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::InPlace
    }

    fn save(&self, _state: &mut Vec<u8>) -> bool {
        true
    }

    fn restore(&mut self, _peer: &Peer, state: &[u8]) -> bool {
        state.is_empty()
    }
}
