//! Compares a server's records of its connections with the kernel's ledgers.

use std::collections::HashMap;
use std::net::SocketAddr;

use saltecho::auth::{KeyName, Keyring};
use saltecho::python::Monotonic;
use saltecho::server::{ConnId, Record};
use saltecho::sim::{Ledger, SimKernel};

pub struct Records {
    /// Whether the server keeps any.
    pub kept: bool,
    /// The only key of its ring.
    key: KeyName,
    /// The open connections, each with whether it has authenticated.
    open: HashMap<ConnId, bool>,
    /// The clients that headers named.
    clients: HashMap<ConnId, SocketAddr>,
}

impl Records {
    pub fn new(keyring: &Keyring) -> Self {
        Self { kept: false, key: keyring.names()[0], open: HashMap::new(), clients: HashMap::new() }
    }

    pub fn opened(&mut self, id: ConnId) {
        assert_eq!(self.open.insert(id, false), None, "{id} was opened twice");
    }

    pub fn authenticated(&mut self, id: ConnId, key: Option<KeyName>) {
        assert_eq!(key, Some(self.key), "{id}");
        assert_eq!(self.open.insert(id, true), Some(false), "{id}");
    }

    /// A header names this client of a connection.
    pub fn proxied(&mut self, id: ConnId, client: Option<SocketAddr>) {
        self.clients.extend(client.map(|client| (id, client)));
    }

    pub fn closed(&mut self, kernel: &SimKernel, id: ConnId, record: Option<&Record>) {
        self.check(kernel, id, record);
        self.open.remove(&id).expect("it was opened before");
    }

    /// How many open connections have authenticated, and how many have not.
    pub fn authenticated_and_others(&self) -> (u64, u64) {
        let authenticated = self.open.values().filter(|known| **known).count() as u64;
        (authenticated, self.open.len() as u64 - authenticated)
    }

    pub fn open(&self) -> Vec<ConnId> {
        self.open.keys().copied().collect()
    }

    /// Checks the record of a connection that is open or has just ended.
    pub fn check(&self, kernel: &SimKernel, id: ConnId, record: Option<&Record>) {
        let Some(record) = record else { return assert!(!self.kept, "{id} has no record") };
        assert!(self.kept, "{id} has a record");
        let key = self.open[&id].then_some(self.key);
        assert_eq!((record.key, record.listener), (key, 0), "{id}");
        // One that could not be registered has no name in the kernel.
        let Some(client) = kernel.client_named(id) else { return };
        let (ledger, now) = (kernel.ledger(client), kernel.last_reading());
        let accepted = ledger.accepted_at.expect("it was accepted");
        let idle = now.since(last_active(ledger, accepted));
        let named = self.clients.get(&id).copied();
        assert_eq!(record.peer, named.or(kernel.peer(client)), "{id}");
        assert_eq!(record.age, now.since(accepted), "{id}");
        assert_eq!(record.bytes_sent, ledger.sent, "{id}");
        if ledger.shut_down_at.is_none() {
            assert_eq!((record.bytes_received, record.idle), (ledger.received, idle), "{id}");
        } else {
            // The ledger does not count what was read and discarded after that.
            assert!(record.bytes_received >= ledger.received, "{id}");
            assert!(record.idle <= idle, "{id}");
        }
    }
}

fn last_active(ledger: &Ledger, accepted: Monotonic) -> Monotonic {
    accepted.max(ledger.received_at.max(ledger.sent_at).unwrap_or(accepted))
}
