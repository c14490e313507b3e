use bytes::Bytes;

use crate::python::upper;

/// What an authenticated connection answers to the bytes of one `recv`.
///
/// A handler sees a stream, not messages: where one call's bytes end says nothing about where the
/// peer's message does. Each connection has a handler of its own, so it may keep state.
pub trait Handler {
    /// Answers `data`, the bytes of one `recv` (never empty), which may be changed in place.
    ///
    /// Nothing more is read from this peer until the answer has been handed to the kernel.
    fn handle(&mut self, data: &mut [u8]) -> Answer;
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
