use std::net::SocketAddr;

#[cfg(feature = "server")]
use super::Disguise;
#[cfg(feature = "server")]
use super::wire::{Reader, put_address};

/// Identifier of a connection, unique within its server: the index of a slot, and a generation
/// because slots are reused.
///
/// No connection has the default value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// The connection's number in logs: its server counts them from 1.
    pub const fn number(self) -> u32 {
        self.generation
    }
}

impl std::fmt::Display for ConnId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.generation)
    }
}

/// The other end of a connection: its identifier and its address.
///
/// A [`Handler`](super::Handler) keeps it to push messages later, possibly from another thread; see
/// `server::Handle::push`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    id: ConnId,
    address: Option<SocketAddr>,
    /// Number of the server, unique in this process; 0 for none.
    pub(crate) server: u32,
}

impl Peer {
    /// Creates a peer with this address that belongs to no server.
    pub const fn at(address: SocketAddr) -> Self {
        Self { id: ConnId { index: 0, generation: 0 }, address: Some(address), server: 0 }
    }

    #[cfg(feature = "server")]
    pub(crate) const fn new(server: u32, id: ConnId, address: Option<SocketAddr>) -> Self {
        Self { id, address, server }
    }

    /// The same peer at another address.
    pub(super) const fn moved_to(self, address: SocketAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// The same peer with this address, or without one. For a handler that moved to another loop and
    /// kept the address ([`Handler::restore`](super::Handler::restore)).
    #[must_use]
    pub const fn with_address(self, address: Option<SocketAddr>) -> Self {
        Self { address, ..self }
    }

    /// Writes its address. Its name in another loop is another.
    #[cfg(feature = "server")]
    pub(super) fn park(&self, disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        put_address(out, self.address.map(|address| disguise.address(address)));
    }

    /// Reads what [`park`](Self::park) wrote.
    #[cfg(feature = "server")]
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::default().with_address(reader.address()?))
    }

    /// The connection's identifier, as in the notes that a server's observer hears.
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// The peer's address; `None` if the peer was gone before it could be read. Behind a balancer
    /// this is the client's address, if the PROXY header names it.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}
