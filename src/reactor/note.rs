use std::time::Duration;

use crate::proto::{CloseReason, ConnId};

/// Something that a loop does for another cause than an answer of its [`Kernel`](super::Kernel), or
/// decides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Another thread or a signal left this command, in the words of a recording.
    Command(String),
    /// An administrator ended the connection.
    Killed(ConnId),
    /// The program was called for its tick, and is to be called again after this time.
    Tick(Option<Duration>),
    /// The alarm of a connection's deadline came.
    Due(ConnId),
    /// A connection authenticated, under the key at this position of the ring.
    Authenticated(ConnId, Option<u8>),
    /// A connection ended.
    Closed(ConnId, CloseReason),
    /// Accepting pauses, for this reason.
    Pause(Pause),
}

/// The reason why accepting pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// There are as many connections as there may be.
    Full,
    /// There are as many that have not authenticated as there may be.
    UnauthenticatedFull,
    /// `accept` failed, or there was no memory.
    Error,
}
