use std::net::SocketAddr;
use std::time::Duration;

use super::Fault;
use crate::auth::KeyName;
use crate::proto::proxy::Header;
use crate::proto::{CloseReason, ConnId};

/// Something that a loop does for another cause than an answer of its [`Kernel`](super::Kernel), or
/// decides.
///
/// The notes and the calls of its kernel are the whole story of a loop. Each is told once: the kernel
/// hears all of them ([`Kernel::note`](super::Kernel::note)), and a server's observer those about
/// clients, from [`Refused`](Note::Refused) on.
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
    /// A client was accepted and closed at once. The address is missing if the client was already gone.
    Refused(Option<SocketAddr>, Refusal),
    /// A client was accepted as this connection. The address is missing if the peer is already gone;
    /// behind a balancer it is the balancer's.
    Opened(ConnId, Option<SocketAddr>),
    /// The PROXY header in front of a connection is complete. If it names endpoints, their source is the
    /// client's address, which counts from now on instead of the balancer's. No recording has the header
    /// here: it is among the bytes that were received.
    Proxied(ConnId, Option<Box<Header>>),
    /// A connection authenticated, under this key; in a protocol without a handshake under none.
    Authenticated(ConnId, Option<RingKey>),
    /// A connection ended.
    Closed(ConnId, CloseReason),
    /// An accepted client could not be served: there were no random bytes, or the poller refused its
    /// socket. It is counted as [`CloseReason::SetupFailed`].
    SetupFailed(Option<SocketAddr>, Fault),
    /// Accepting rests for a moment. Clients wait in the kernel's queue meanwhile.
    AcceptPaused(AcceptPause),
}

impl Note {
    /// The connection that it is about, if it is about one that has a name.
    pub const fn connection(&self) -> Option<ConnId> {
        match self {
            Self::Killed(id)
            | Self::Due(id)
            | Self::Opened(id, _)
            | Self::Proxied(id, _)
            | Self::Authenticated(id, _)
            | Self::Closed(id, _) => Some(*id),
            Self::Command(_)
            | Self::Tick(_)
            | Self::Refused(..)
            | Self::SetupFailed(..)
            | Self::AcceptPaused(_) => None,
        }
    }

    /// Returns true if it reached the loop from outside. Otherwise the loop decided it.
    pub const fn is_input(&self) -> bool {
        matches!(self, Self::Command(_) | Self::Killed(_) | Self::Tick(_))
    }
}

/// A key of the ring under which a connection authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingKey {
    /// Its position in the ring.
    pub position: u8,
    /// Its name, which no recording has.
    pub name: Option<KeyName>,
}

/// The reason for which a client was closed before it was sent anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Its source failed lately, and half of the places for unauthenticated connections are taken.
    Suspect,
    /// Its source has as many unauthenticated connections as it may, and half of the places are taken.
    OverShare,
    /// It may not send a PROXY header; see `Server::trust_proxies`.
    UntrustedProxy,
}

/// The reason for a pause of accepting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptPause {
    /// There are as many connections as there may be (`Limits::connections`). If the rest does not help, a
    /// few clients are turned away.
    Full,
    /// There are as many that have not authenticated as there may be (`Limits::unauthenticated`), and the
    /// oldest is too young to make room.
    UnauthenticatedFull,
    /// This error of `accept`, or a lack of memory.
    Error(Fault),
}
