use std::time::Duration;

use super::pump::can_go_on;
use super::timers::Links;
use super::{Kernel, Server};
use crate::proto::{Handler, State};

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Holds the loop's books against each other, between two turns.
    ///
    /// It looks at every connection, so it is for simulations, not for service. The invariants by
    /// number are in docs/ARCHITECTURE.md.
    ///
    /// # Panics
    /// If one does not hold: that is a fault of this crate.
    pub fn assert_invariants(&mut self) {
        let (mut strangers, mut queued, mut armed) = (0, 0, 0);
        let latest_alarm = self.latest_alarm();
        for id in self.slots.ids().collect::<Vec<_>>() {
            let slot = self.slots.get(id).expect("it was just listed");
            let connection = &slot.connection;
            assert_eq!(connection.close_reason(), None, "{id} is over and still here");
            strangers += usize::from(!connection.has_authenticated());
            queued += usize::from(slot.queued);
            assert!(
                slot.queued || !can_go_on(&self.config, connection, slot.ready),
                "invariant 10: {id} could go on and is not queued"
            );
            assert!(
                connection.unsent() <= self.config.max_answer,
                "{id} holds more than one answer may have"
            );
            let deadline = connection.poll_timeout();
            // One that is to be half-closed does not wait for its peer.
            let watched = latest_alarm.filter(|_| connection.state() != State::Finishing);
            let alarm = self.timers.alarm(self.slots.link(id.index));
            armed += usize::from(alarm.is_some());
            // A slot that is armed for no reason fires once, and is then left alone.
            if let Some(latest) = [deadline, watched].into_iter().flatten().min() {
                assert!(
                    alarm.is_some_and(
                        |alarm| alarm.as_nanos() < latest.as_nanos().saturating_add(2 << 20)
                    ),
                    "invariant 11: {id} is due at {latest:?} and armed for {alarm:?}"
                );
            }
        }
        assert_eq!(strangers, self.strangers.len(), "strangers");
        self.strangers.assert_consistent(|id| {
            self.slots.get(id).is_some_and(|slot| !slot.connection.has_authenticated())
        });
        assert_eq!(armed, self.timers.armed(), "armed deadlines");
        let in_queue = self.run_queue.iter().filter(|id| self.slots.get(**id).is_some()).count();
        assert_eq!(queued, in_queue, "queued connections");
        assert!(
            self.run_queue.is_empty() || self.wait() == Some(Duration::ZERO),
            "invariant 10: it is going to sleep while somebody could go on"
        );
        assert!(self.slots.len() <= self.limits.connections, "more connections than allowed");
        assert!(self.strangers.len() <= self.limits.unauthenticated, "too many strangers");
        let open = self.stats.accepted - self.stats.closed_in_all();
        assert_eq!(self.slots.len() as u64, open, "invariant 9: one reason for each connection");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::{ConnId, Limits, Ready, Target, Token, admission::Strangers};
    use super::*;
    use crate::auth::Keyring;
    use crate::proto::{Config, Upper};
    use crate::sim::{Faults, SimKernel};

    type World = Server<SimKernel, Upper>;

    /// A server with one stranger, whose challenge has been sent.
    fn world() -> (World, ConnId) {
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(4));
        let kernel = SimKernel::new(1, Faults::none());
        let mut world = Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap();
        world.kernel_mut().connect(100, 100, 100);
        world.turn().unwrap();
        let id = world.slots.ids().next().expect("it was accepted");
        (world, id)
    }

    /// Whoever judges has to be able to say no: each of the books, falsified.
    #[test]
    fn each_disagreement_is_seen() {
        type Falsify = fn(&mut World, ConnId);
        let falsify: [(&str, Falsify); 9] = [
            ("invariant 10: #1 could", |world, id| {
                world.slots.get_mut(id).unwrap().ready = Ready::READABLE;
            }),
            ("invariant 11: #1 is due", |world, id| {
                world.timers.disarm(&mut world.slots, id.index);
            }),
            ("strangers", |world, id| {
                world.strangers.remove(id);
            }),
            ("one who is none is listed", |world, _| {
                let Target::Connection(nobody) = Token(99).target() else { unreachable!() };
                world.strangers = Strangers::default();
                world.strangers.add(nobody, None, world.now);
            }),
            ("queued connections", |world, id| world.run_queue.push_back(id)),
            ("more connections than allowed", |world, _| world.limits.connections = 0),
            ("too many strangers", |world, _| world.limits.unauthenticated = 0),
            ("invariant 9", |world, _| world.stats.accepted += 1),
            ("is over and still here", |world, id| {
                world.slots.get_mut(id).unwrap().connection.handle_eof();
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
