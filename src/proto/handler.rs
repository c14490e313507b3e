use bytes::Bytes;

use super::{CloseReason, Peer};
use crate::python::upper;

/// The conversation with one authenticated client.
///
/// A handler sees a stream, not messages: where one call's bytes end says nothing about where the
/// peer's message does. Each connection has a handler of its own, so it may keep state.
///
/// All three calls come from the loop, which serves nobody else meanwhile: none may block. A panic
/// in any of them ends this connection alone, with [`CloseReason::HandlerPanicked`].
#[allow(unused_variables)] // The defaults do nothing.
pub trait Handler {
    /// The client has authenticated. Called once, before the first byte is [handled](Self::handle).
    fn opened(&mut self, peer: &Peer) {}

    /// Answers `data`, the bytes of one `recv` (never empty), which may be changed in place.
    ///
    /// Nothing more is read from this peer until the answer has been handed to the kernel.
    fn handle(&mut self, data: &mut [u8]) -> Answer;

    /// The connection is over. Called once if [`opened`](Self::opened) was, also after a panic;
    /// not if the loop itself ends by an error, which drops the handler unasked.
    fn closed(&mut self, reason: CloseReason) {}
}

/// A handler's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send `data` as it now stands. Nothing is copied or allocated.
    InPlace,
    /// Send nothing and receive on.
    Nothing,
    /// Send these bytes instead, as many as there are.
    Bytes(Bytes),
    /// Send these bytes (there may be none), then end the connection in an orderly way.
    Close(Bytes),
}

/// The default handler: `data.upper()`, as the tutorial's server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upper;

impl Handler for Upper {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        upper(data);
        Answer::InPlace
    }
}

/// Echoes every byte as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl Handler for Identity {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::InPlace
    }
}
