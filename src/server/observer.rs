use std::io;
use std::net::SocketAddr;

use super::ConnId;
use crate::proto::CloseReason;

/// Is told of what happens to connections, never of single messages.
///
/// It is called from the loop, so it must not block: everybody waits for it.
#[allow(unused_variables)] // What is not overridden does nothing.
pub trait Observer: Send {
    /// A connection was accepted. The address is missing if the peer is already gone.
    fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>) {}

    /// Its digest was right.
    fn authenticated(&mut self, id: ConnId) {}

    /// It ended.
    fn closed(&mut self, id: ConnId, reason: CloseReason) {}

    /// Accepting rests for a moment: because of this error, or because all places are taken.
    fn accept_paused(&mut self, cause: Option<&io::Error>) {}
}
