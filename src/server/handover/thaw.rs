use std::io;

use super::HandoverError;
use super::arrived::{ArrivedConnection, ArrivedListener, ArrivedLoop};
use super::record::{LoopRecord, malformed};
use crate::proto::{Config, ConnId, Handler, Peer, guarded};
use crate::python::Monotonic;
use crate::reactor::{Adopt, Arriving, Ready, Token};
use crate::server::accept::Listening;
use crate::server::admission::Source;
use crate::server::pump::can_go_on;
use crate::server::{Handle, Limits, Server};

/// A server that is ready to take over what another leaves: with keys, settings and memory, and
/// without a socket.
pub struct Thawing<K: Adopt, H> {
    server: Server<K, H>,
    /// Reaches all loops, for the admin endpoint.
    all: Option<Handle>,
    owns_file: bool,
}

/// What the adopted connections leave to be done once all are there.
#[derive(Default)]
struct Rest {
    alarms: Vec<(ConnId, Monotonic)>,
    /// Those that can go on without an event.
    queued: Vec<ConnId>,
    unauthenticated: Vec<Arrival>,
    lingering: usize,
    unsent: u64,
}

struct Arrival {
    id: ConnId,
    since: Monotonic,
    source: Option<Source>,
    awaits_header: bool,
}

impl<K: Adopt, H: Handler + Clone> Thawing<K, H> {
    /// A server over any kernel.
    ///
    /// # Errors
    /// None of a kernel of this crate.
    pub fn new(kernel: K, config: Config, limits: Limits, handler: H) -> io::Result<Self> {
        let server = Server::with_kernel(kernel, Vec::new(), config, limits, handler)?;
        Ok(Self { server, all: None, owns_file: false })
    }

    /// The server, to give it an observer, a control or networks to trust.
    pub const fn server(&mut self) -> &mut Server<K, H> {
        &mut self.server
    }

    /// Reaches all loops that take over together, for the admin endpoint; this one alone by default.
    pub fn set_all(&mut self, all: Handle) {
        self.all = Some(all);
    }

    /// Registers the sockets that arrived, and restores all that belongs to them. It touches no
    /// socket: nothing is accepted, received, sent, changed or closed before
    /// [`commit`](Self::commit). Call it once.
    ///
    /// # Errors
    /// [`HandoverError`]; then this server is of no more use. To drop it closes its copies of the
    /// sockets, which the other side still has.
    pub fn restore(&mut self, arrived: ArrivedLoop<K::Moved>) -> Result<(), HandoverError> {
        let ArrivedLoop { head, listeners, admin, chunks, suspects, counters } = arrived;
        self.check(&head)?;
        self.adopt_listeners(listeners)?;
        self.adopt_admin(admin)?;
        let mut rest = Rest::default();
        let connections = chunks.into_iter().flatten();
        self.adopt_connections(head.next_generation, connections, &mut rest)?;
        self.settle(rest)?;
        let Server { config, limits, acceptor, reactor, keepalive, unsettled, .. } =
            &mut self.server;
        acceptor.unauthenticated.suspect(head.suspects_since, &suspects);
        let connections = reactor.slots.len();
        reactor.count_events_from(counters.events);
        if keepalive.unpark(head.keepalive, config, limits) {
            unsettled.rearm_all();
        }
        #[cfg(any(test, feature = "testing"))]
        unsettled.tolerate(connections, acceptor.unauthenticated.len());
        reactor.read_clock();
        let now = reactor.now();
        let stats = &mut self.server.stats;
        let (lingering, backlog_bytes) = (stats.lingering, stats.backlog_bytes);
        *stats = counters.stats;
        stats.replace_keys(self.server.config.keyring.names());
        (stats.lingering, stats.backlog_bytes) = (lingering, backlog_bytes);
        stats.peak_connections = stats.peak_connections.max(connections);
        if let Some(records) = &mut self.server.records {
            records.count_from(stats.bytes_moved());
        }
        self.server.lag.unpark(counters.figures, stats.turns, now);
        Ok(())
    }

    /// Takes over, which cannot fail. Registration made the kernel report what waits in each socket, so
    /// there is none to try.
    pub fn commit(self) -> Server<K, H> {
        let Self { mut server, owns_file, .. } = self;
        if owns_file && let Some(admin) = &mut server.admin {
            admin.own_file(&mut server.reactor.kernel);
        }
        server.reactor.read_clock();
        server
    }

    /// The kernel, if the handover has failed.
    #[cfg(any(test, feature = "testing"))]
    pub fn into_kernel(self) -> K {
        self.server.reactor.kernel
    }

    fn check(&mut self, head: &LoopRecord) -> Result<(), HandoverError> {
        let what = if head.protocol != self.server.config.protocol {
            "they speak another protocol; restart to change it"
        } else if head.now > self.server.reactor.kernel.now() {
            "the clock of the sender is ahead; both sides have to be on one machine"
        } else {
            return Ok(());
        };
        Err(HandoverError::Settings { what })
    }

    fn adopt_listeners(
        &mut self,
        listeners: Vec<ArrivedListener<K::Moved>>,
    ) -> Result<(), HandoverError> {
        let Server { reactor, acceptor, inbox, .. } = &mut self.server;
        for ArrivedListener { socket, proxied } in listeners {
            let mut listener = reactor.kernel.adopt_listener(socket)?;
            let token = Token::listener(acceptor.listeners.len());
            reactor.kernel.register_listener(&mut listener, token)?;
            acceptor.add(Listening::arrived(listener, proxied));
        }
        inbox.set_listeners(acceptor.listeners.len());
        Ok(())
    }

    fn adopt_admin(&mut self, admin: Option<(K::Moved, bool)>) -> Result<(), HandoverError> {
        let Some((socket, has_file)) = admin else { return Ok(()) };
        let listener = self.server.reactor.kernel.adopt_admin_listener(socket)?;
        let all = self.all.take().unwrap_or_else(|| self.server.handle());
        self.server.set_admin(listener, all)?;
        self.owns_file = has_file;
        Ok(())
    }

    fn adopt_connections(
        &mut self,
        next_generation: u32,
        connections: impl Iterator<Item = ArrivedConnection<K::Moved>>,
        rest: &mut Rest,
    ) -> Result<(), HandoverError> {
        let Server { reactor, config, handler, inbox, records, .. } = &mut self.server;
        let kernel = &mut reactor.kernel;
        let connections = connections.map(|arrived| {
            let ArrivedConnection { id, socket, mut parked, alarm, extra } = arrived;
            let extra = extra.map(|extra| *extra).unwrap_or_default();
            let mut stream = kernel.adopt_stream(socket);
            kernel.register(&mut stream, Token::connection(id))?;
            let peer = Peer::new(inbox.server(), id, None);
            parked.rename(&peer);
            let is_known = parked.has_authenticated();
            let handler = guarded(|| {
                let mut handler = handler.clone();
                (!is_known || handler.restore(&peer, &extra.handler)).then_some(handler)
            });
            let handler = handler.flatten().ok_or(malformed("state of a handler"))?;
            let (half_closed, awaits_header) = (parked.is_lingering(), parked.awaits_header());
            let connection = parked.into_connection(config, handler);
            // An alarm that is later than the deadline would let it pass.
            let due = [alarm, connection.poll_timeout()].into_iter().flatten().min();
            rest.alarms.extend(due.map(|due| (id, due)));
            // As at its accept: a send may be tried until one finds no room, and what there is to read is
            // for an event to say.
            let ready = Ready::WRITABLE;
            rest.queued.extend(can_go_on(config, &connection, ready).then_some(id));
            rest.lingering += usize::from(half_closed);
            rest.unsent += connection.unsent() as u64;
            if let Some((since, source)) = extra.arrival {
                rest.unauthenticated.push(Arrival { id, since, source, awaits_header });
            }
            if let (Some(records), Some(row)) = (&mut *records, extra.row) {
                records.insert(id, row);
            }
            Ok(Arriving { id, stream, connection, ready, half_closed })
        });
        reactor.slots.arrive(next_generation, connections)
    }

    /// Arms and queues what was adopted. Each connection was registered, and epoll then reports whatever is
    /// already there (the first event of EPOLL_CTL_ADD).
    fn settle(&mut self, rest: Rest) -> Result<(), HandoverError> {
        let Rest { alarms, queued, mut unauthenticated, lingering, unsent } = rest;
        let Server { reactor, acceptor, stats, .. } = &mut self.server;
        for (id, alarm) in alarms {
            reactor.settle(id, Some(alarm));
        }
        queued.into_iter().for_each(|id| reactor.requeue(id));
        // Oldest first. Numbers begin again after four billion.
        let next = reactor.next_id();
        unauthenticated.sort_by_key(|arrival| std::cmp::Reverse(next.age_after(arrival.id)));
        let mut before = None;
        for Arrival { id, since, source, awaits_header } in unauthenticated {
            if before.replace(id.number()) == Some(id.number()) {
                return Err(malformed("number of a connection"));
            }
            match awaits_header {
                true => acceptor.unauthenticated.add_awaiting_header(id, since),
                false => acceptor.unauthenticated.add(id, source, since),
            }
        }
        (stats.lingering, stats.backlog_bytes) = (lingering, unsent);
        Ok(())
    }
}
