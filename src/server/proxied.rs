//! Connections from balancers, before their PROXY header is complete.
//!
//! A header says who the client is, so admission by source waits for it. Until then a connection has
//! no source: it takes one of the places for unauthenticated connections, and the oldest of all makes
//! room as always, but the share of the balancer's address does not count, behind which all clients
//! come. Only the networks that [`Server::trust_proxies`] names may send a header at all.

use ipnet::IpNet;

use super::admission::Networks;
use super::{ConnId, Server, pump};
use crate::proto::proxy::Header;
use crate::proto::{CloseReason, Handler, Protocol};
use crate::reactor::{Kernel, Note};

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Requires a PROXY header, version 1 or 2, at the beginning of each connection that the listener
    /// with this index accepts from now on. The index is the listener's place in the order in which
    /// the listeners were given.
    ///
    /// # Panics
    /// If there is no such listener, or with [`Protocol::Plain`].
    pub fn require_proxy(&mut self, listener: usize) {
        assert!(self.config.protocol != Protocol::Plain, "a plain connection cannot be proxied");
        self.acceptor.listeners[listener].require_proxy();
    }

    /// Accepts connections with a PROXY header from these networks only; replaces the list so far.
    /// With an empty list, as in the beginning, any peer may name any client: then only balancers may
    /// be able to reach the listeners that require a header.
    pub fn trust_proxies(&mut self, networks: &[IpNet]) {
        self.acceptor.proxies = Networks::new(networks);
    }

    /// Receives once, and admits the client when its header is complete. Nothing is sent before.
    #[inline(never)]
    pub(super) fn pump_header(&mut self, id: ConnId) {
        let now = self.reactor.now();
        let Some(slot) = self.reactor.slots.get_mut(id) else { return };
        let (scratch, stats) = (&mut self.scratch, &mut self.stats);
        let kernel = &mut self.reactor.kernel;
        // The least share is one call: the challenge must not follow before the client is admitted.
        let pumped = pump::pump(kernel, &self.config, slot, scratch, 1, now, stats);
        let header = slot.connection.header().cloned();
        self.note_moved(id);
        match header {
            Some(header) => self.identified(id, &header),
            None => {
                if pumped.unfinished {
                    self.reactor.requeue(id);
                }
                self.close_or_settle(id);
            }
        }
    }

    /// Admits the client that a header names, or closes its connection.
    fn identified(&mut self, id: ConnId, header: &Header) {
        self.tell(|| Note::Proxied(id, Some(Box::new(header.clone()))));
        let (limits, now) = (&self.limits, self.reactor.now());
        let unauthenticated = &mut self.acceptor.unauthenticated;
        // A connection of the balancer's own, like a health check, has no source.
        let client = header.endpoints.map(|endpoints| endpoints.source);
        if let Some(row) = self.records.as_mut().and_then(|records| records.row_mut(id)) {
            row.peer = client.or(row.peer);
        }
        let source = unauthenticated.source_of(client, limits);
        match unauthenticated.identify(id, source, limits, now) {
            Ok(()) => self.pump(id),
            Err(refusal) => {
                self.stats.count_refusal(refusal);
                self.abort(id, CloseReason::Refused);
            }
        }
    }
}
