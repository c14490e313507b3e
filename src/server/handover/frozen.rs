use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use super::chunks::Chunks;
use super::{MAX_STATE, Totals};
use crate::proto::{ConnId, Handler, Undisguised, guarded};
use crate::reactor::{Adopt, Kernel};
use crate::server::{Lifecycle, Server};

/// A server that was stopped between two turns, with everything that it has. Its sockets are open,
/// registered and untouched, so that it can go on at any time.
pub struct Frozen<K: Kernel, H> {
    pub(super) server: Server<K, H>,
    /// Connections whose handlers cannot move.
    pub(super) staying: HashSet<ConnId>,
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

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Stops between two turns and keeps everything as it is. Commands that were posted before are
    /// carried out first; those that come later wait until the server goes on, and are dropped if it
    /// does not.
    ///
    /// # Errors
    /// The server itself, unharmed, if it drains or has ended.
    pub fn freeze(mut self) -> Result<Frozen<K, H>, Box<Self>> {
        self.handle_commands();
        // Whatever becomes of it, it is to turn again.
        self.unpark();
        if self.lifecycle != Lifecycle::Running {
            return Err(Box::new(self));
        }
        let mut state = Vec::new();
        let slots = &self.reactor.slots;
        let staying = slots.ids().filter(|id| {
            state.clear();
            let slot = slots.get(*id).expect("it was just listed");
            let moves =
                slot.connection.park(&mut Undisguised, &mut Vec::new(), &mut state).is_some();
            !moves || state.len() > MAX_STATE
        });
        let staying = staying.collect();
        Ok(Frozen { server: self, staying })
    }
}

impl<K: Kernel, H: Handler + Clone> Frozen<K, H> {
    /// The chunks to send, in their order.
    pub fn chunks(&self) -> Chunks<'_, K, H> {
        Chunks::new(self)
    }

    /// The numbers of what [`chunks`](Self::chunks) sends. It makes all of them;
    /// [`Chunks::totals`] does not.
    pub fn totals(&self) -> Totals
    where
        K: Adopt,
    {
        let mut chunks = self.chunks();
        while chunks.next().is_some() {}
        chunks.totals()
    }

    /// Number of connections whose handlers cannot move.
    pub fn staying(&self) -> usize {
        self.staying.len()
    }

    /// The server's counters, as of the freeze.
    pub fn stats(&self) -> crate::server::Stats {
        self.server.stats()
    }

    /// Goes on as if nothing had happened: with the same kernel and the same registrations. The
    /// first turn tries every socket once.
    pub fn resume(self) -> Server<K, H> {
        let mut server = self.server;
        server.try_everything();
        server
    }

    /// Leaves everything that was sent to the other loop. What remains is a draining server with the
    /// connections whose handlers cannot move, and with the exchanges of the admin endpoint in
    /// progress. Peers of the others notice nothing, nor do their handlers.
    pub fn leave(self) -> Server<K, H>
    where
        K: Adopt,
    {
        let Self { mut server, staying } = self;
        for listening in server.acceptor.take_listeners() {
            server.reactor.kernel.release_listener(listening.listener);
        }
        if let Some(admin) = &mut server.admin
            && let Some(listener) = admin.leave()
        {
            server.reactor.kernel.release_admin_listener(listener);
        }
        server.for_each(|server, id| {
            if !staying.contains(&id) {
                server.release(id);
            }
        });
        // None of them can have a handler that stays.
        server.acceptor.unauthenticated.clear();
        server.reactor.suspect_all();
        let now = server.reactor.now();
        let until = server.limits.drain_timeout.map(|limit| now.saturating_add(limit));
        server.lifecycle = Lifecycle::Draining { until, next: Some(0) };
        server
    }

    /// Exchanges the kernel, so that a simulated one can serve both sides.
    #[cfg(any(test, feature = "testing"))]
    pub const fn exchange_kernel(&mut self, kernel: K) -> K {
        std::mem::replace(&mut self.server.reactor.kernel, kernel)
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Forgets a connection that another loop has.
    fn release(&mut self, id: ConnId)
    where
        K: Adopt,
    {
        let Some(slot) = self.reactor.slots.get(id) else { return };
        self.stats.lingering -= usize::from(slot.half_closed);
        let connection = self.reactor.release(id);
        self.stats.backlog_bytes -= connection.unsent() as u64;
        self.stats.elsewhere += 1;
        self.forget_record(id);
        // The destructor of its handler is user code.
        guarded(|| drop(connection));
    }

    /// Tries every socket in the next turn, since no event tells what has happened meanwhile.
    fn try_everything(&mut self) {
        self.reactor.read_clock();
        self.reactor.suspect_all();
        self.acceptor.suspect_all();
        if let Some(admin) = &mut self.admin {
            admin.suspect_all();
        }
    }
}
