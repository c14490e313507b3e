//! Other settings for a running loop, of which no connection takes notice until its next call.

use super::{IpNet, Limits, Server};
use crate::auth::Keyring;
use crate::proto::{Config, Handler};
use crate::reactor::Kernel;

/// Settings that take the place of those in force.
#[derive(Clone, Debug)]
pub(super) struct Reconfiguration {
    pub(super) config: Config,
    pub(super) limits: Limits,
    pub(super) trusted: Vec<IpNet>,
    pub(super) proxies: Vec<IpNet>,
}

/// The part of a change that is still to be done.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// The slot from which on connections are armed for a longer period of keepalive than the one in
    /// force.
    rearm_from: Option<u32>,
    /// Connections, and those of them that had not authenticated, which were there at the change or
    /// at the last check. They may be more than the limits allow.
    #[cfg(any(test, feature = "testing"))]
    present: (usize, usize),
}

impl Unsettled {
    /// Begins to arm connections anew.
    pub(super) const fn rearm_all(&mut self) {
        self.rearm_from = Some(0);
    }

    /// Admits that so many connections, and so many that have not authenticated, may be more than the
    /// limits allow.
    #[cfg(any(test, feature = "testing"))]
    pub(super) const fn tolerate(&mut self, all: usize, unauthenticated: usize) {
        self.present = (all, unauthenticated);
    }

    /// The slot from which on connections are to be armed anew, for a snapshot.
    pub(super) const fn park(&self) -> Option<u32> {
        self.rearm_from
    }

    /// Goes on from there.
    pub(super) const fn unpark(&mut self, rearm_from: Option<u32>) {
        self.rearm_from = rearm_from;
    }

    pub(super) fn is_rearming(&self) -> bool {
        self.rearm_from.is_some()
    }

    /// Number of connections from before the change that can still be there, if there are
    /// so many now.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn still_present(&mut self, all: usize, unauthenticated: usize) -> (usize, usize) {
        self.present = (self.present.0.min(all), self.present.1.min(unauthenticated));
        self.present
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    pub(super) fn reconfigure(&mut self, change: Reconfiguration) {
        let Reconfiguration { mut config, limits, trusted, proxies } = change;
        if config.recv_size != self.config.recv_size {
            match buffer(config.recv_size) {
                Some(scratch) => self.scratch = scratch,
                None => config.recv_size = self.config.recv_size,
            }
        }
        if self.keepalive.change(&config, &limits) {
            self.unsettled.rearm_all();
        }
        #[cfg(any(test, feature = "testing"))]
        self.unsettled.tolerate(self.reactor.slots.len(), self.acceptor.unauthenticated.len());
        self.reactor.set_spin(limits.spin);
        self.trust(&trusted);
        self.trust_proxies(&proxies);
        // There may be room now.
        self.acceptor.end_pause();
        self.replace_keyring(config.keyring.clone());
        (self.config, self.limits) = (config, limits);
    }

    pub(super) fn replace_keyring(&mut self, keyring: Keyring) {
        self.stats.replace_keys(keyring.names());
        self.config.keyring = keyring;
    }

    /// Arms connections anew after the period of keepalive became shorter, as many in a turn as there
    /// are deadlines handled in one.
    #[inline(never)]
    pub(super) fn rearm_some(&mut self) {
        let Some(mut from) = self.unsettled.rearm_from else { return };
        for _ in 0..self.limits.deadlines_per_turn {
            let Some(id) = self.reactor.slots.id_from(from) else {
                self.unsettled.rearm_from = None;
                return;
            };
            let slot = self.reactor.slots.get(id).expect("it was found just now");
            let deadline = slot.connection.poll_timeout();
            if let Some(alarm) = self.alarm(deadline) {
                self.reactor.settle(id, Some(alarm));
            }
            from = id.index + 1;
        }
        self.unsettled.rearm_from = Some(from);
    }
}

/// A buffer of this length, unless there is no memory for it.
fn buffer(len: usize) -> Option<Box<[u8]>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).ok()?;
    bytes.resize(len, 0);
    Some(bytes.into_boxed_slice())
}
