//! The loop's invariants, checked between two turns.

use std::time::Duration;

use super::pump::can_go_on;
use super::{ConnId, Server};
use crate::proto::{Connection, Handler, State};
use crate::reactor::Kernel;

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Gives the kernel a snapshot, whether it wants one or not.
    pub fn force_snapshot(&mut self) {
        self.take_snapshot();
    }

    /// Checks the loop's invariants between two turns. Their numbers are those of
    /// docs/ARCHITECTURE.md.
    ///
    /// It looks at every connection, so it is for simulations, not for service.
    ///
    /// # Panics
    /// If one does not hold: that is a fault of this crate.
    pub fn assert_invariants(&mut self) {
        self.assert_connections();
        self.reactor.assert_consistent();
        if let Some(admin) = &self.admin {
            admin.assert_consistent(self.reactor.now());
        }
        self.acceptor.assert_consistent();
        self.acceptor.unauthenticated.assert_consistent(|id| {
            self.reactor.slots.get(id).is_some_and(|slot| !slot.connection.has_authenticated())
        });
        assert!(
            self.reactor.queued() == 0 || self.wait() == Some(Duration::ZERO),
            "invariant 10: it is going to sleep while a connection could go on"
        );
        if let Some(records) = &self.records {
            let slots = self.reactor.slots.ids();
            let with_record = slots.filter(|id| self.record(*id).is_some()).count();
            assert_eq!(records.len(), with_record, "a record without a connection");
        }
        self.assert_limits();
        let open = self.stats.accepted - self.stats.closed_in_all() - self.stats.elsewhere;
        let connections = self.reactor.slots.len() as u64;
        assert_eq!(connections, open, "invariant 9: one reason for each connection");
        let by_key = self.stats.authenticated_by_key().iter().map(|(_, count)| count).sum::<u64>();
        assert!(by_key <= self.stats.authenticated, "keys counted more often than connections");
    }

    /// Checks each connection, and the counts of what they are doing.
    fn assert_connections(&self) {
        let (mut unauthenticated, mut headers, mut lingering, mut unsent) = (0, 0, 0, 0);
        for id in self.reactor.slots.ids() {
            let slot = self.reactor.slots.get(id).expect("it was just listed");
            let connection = &slot.connection;
            assert_eq!(connection.close_reason(), None, "{id} is over and still here");
            unauthenticated += usize::from(!connection.has_authenticated());
            headers += usize::from(connection.state() == State::AwaitHeader);
            lingering += usize::from(connection.state() == State::Lingering);
            unsent += connection.unsent() as u64;
            assert!(
                slot.queued || !can_go_on(&self.config, connection, slot.ready),
                "invariant 10: {id} could go on and is not queued"
            );
            assert!(
                connection.unsent() <= self.config.max_answer,
                "{id} holds more than one answer may have"
            );
            self.assert_armed(id, connection);
        }
        assert_eq!(unauthenticated, self.acceptor.unauthenticated.len(), "unauthenticated");
        let awaiting_header = self.acceptor.unauthenticated.awaiting_header();
        assert_eq!(headers, awaiting_header, "those that wait for a header");
        assert_eq!(lingering, self.stats.lingering, "the number that linger");
        assert_eq!(unsent, self.stats.backlog_bytes, "bytes that wait for their peers");
    }

    fn assert_armed(&self, id: ConnId, connection: &Connection<H>) {
        // One that is to be half-closed does not wait for its peer.
        let is_watched = connection.state() != State::Finishing && !self.unsettled.is_rearming();
        let watched = self.latest_alarm().filter(|_| is_watched);
        let latest = [connection.poll_timeout(), watched].into_iter().flatten().min();
        // A slot that is armed for no reason fires once, and is then left alone.
        let Some(latest) = latest else { return };
        let alarm = self.reactor.alarm(id);
        // One that passed during a handover is due at once.
        let latest = latest.max(self.reactor.now());
        assert!(
            alarm.is_some_and(|alarm| alarm.as_nanos() < latest.as_nanos().saturating_add(2 << 20)),
            "invariant 11: {id} is due at {latest:?} and armed for {alarm:?}"
        );
    }

    fn assert_limits(&mut self) {
        let connections = self.reactor.slots.len();
        let unauthenticated = self.acceptor.unauthenticated.len();
        // Connections from before a limit was lowered stay, and there are no new ones.
        let (veterans, unproven) = self.unsettled.still_present(connections, unauthenticated);
        assert!(
            connections <= self.limits.connections.max(veterans),
            "more connections than allowed"
        );
        assert!(
            unauthenticated <= self.limits.unauthenticated.max(unproven),
            "too many unauthenticated"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::{Limits, admission::Unauthenticated, records::Row};
    use super::*;
    use crate::auth::Keyring;
    use crate::proto::{Config, Upper};
    use crate::reactor::{Ready, Target, Token};
    use crate::sim::{Faults, SimKernel};

    type World = Server<SimKernel, Upper>;

    /// A server with one unauthenticated connection, whose challenge has been sent.
    fn world() -> (World, ConnId) {
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(4));
        let kernel = SimKernel::new(1, Faults::none());
        let mut world = Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap();
        world.keep_records(true);
        world.kernel_mut().connect(100, 100, 100);
        world.turn().unwrap();
        let id = world.reactor.slots.ids().next().expect("it was accepted");
        (world, id)
    }

    /// Each invariant check must fail when its invariant is broken.
    #[test]
    fn each_broken_invariant_is_found() {
        type Falsify = fn(&mut World, ConnId);
        let falsify: [(&str, Falsify); 15] = [
            ("those that wait for a header", |world, id| {
                world.acceptor.unauthenticated = Unauthenticated::default();
                let now = world.reactor.now();
                world.acceptor.unauthenticated.add_awaiting_header(id, now);
            }),
            ("the number that linger", |world, _| world.stats.lingering += 1),
            ("bytes that wait for their peers", |world, _| world.stats.backlog_bytes += 1),
            ("invariant 10: #1 could", |world, id| {
                world.reactor.slots.get_mut(id).unwrap().ready = Ready::READABLE;
            }),
            ("invariant 11: #1 is due", |world, id| {
                world.reactor.settle(id, None);
            }),
            ("unauthenticated", |world, id| {
                world.acceptor.unauthenticated.remove(id);
            }),
            ("one that is not unauthenticated is listed", |world, _| {
                let Target::Connection(absent) = Token::from_raw(99).target() else {
                    unreachable!()
                };
                world.acceptor.unauthenticated = Unauthenticated::default();
                world.acceptor.unauthenticated.add(absent, None, world.reactor.now());
            }),
            ("queued connections", |world, id| {
                world.reactor.slots.get_mut(id).unwrap().queued = true;
            }),
            ("more connections than allowed", |world, _| world.limits.connections = 0),
            ("too many unauthenticated", |world, _| world.limits.unauthenticated = 0),
            ("invariant 9", |world, _| world.stats.accepted += 1),
            ("a record without a connection", |world, id| {
                world
                    .records
                    .as_mut()
                    .unwrap()
                    .insert(ConnId { index: 7, ..id }, Row::new(None, 0, world.reactor.now()));
            }),
            ("keys counted", |world, _| {
                world.stats.count_authenticated(Some(Keyring::demo().names()[0]));
                world.stats.authenticated = 0;
            }),
            ("clients that may be waiting", |world, _| {
                world.acceptor.handle_event(0);
                world.acceptor.listeners.clear();
            }),
            ("is over and still here", |world, id| {
                world.reactor.slots.get_mut(id).unwrap().connection.handle_eof();
            }),
        ];
        for (expected, falsify) in falsify {
            let (mut world, id) = world();
            world.assert_invariants();
            falsify(&mut world, id);
            let panic = catch_unwind(AssertUnwindSafe(|| world.assert_invariants())).unwrap_err();
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap();
            assert!(said.contains(expected), "{expected:?} is wrong, and it said {said:?}");
        }
    }
}
