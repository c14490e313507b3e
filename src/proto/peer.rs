use std::net::SocketAddr;

/// The name of one connection, never used for another of its server: a slot's index, and a
/// generation because slots are used again.
///
/// The default is no connection's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl std::fmt::Display for ConnId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.generation)
    }
}

/// The other end of a connection: its name here, and its address.
///
/// A [`Handler`](super::Handler) that wants to push later keeps it, or hands it to the thread that
/// does; see `server::Handle::push`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    id: ConnId,
    address: Option<SocketAddr>,
    /// The number of the server, which is unique in this process; 0 is none's.
    pub(crate) server: u32,
}

impl Peer {
    /// A peer at this address, of no server.
    pub const fn at(address: SocketAddr) -> Self {
        Self { id: ConnId { index: 0, generation: 0 }, address: Some(address), server: 0 }
    }

    #[cfg(feature = "server")]
    pub(crate) const fn of(server: u32, id: ConnId, address: Option<SocketAddr>) -> Self {
        Self { id, address, server }
    }

    /// The connection's name, the same that a server's observer hears.
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// The peer's address; `None` if the peer was gone when it was asked for.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}
