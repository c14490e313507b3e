use super::pump::can_go_on;
use super::timers::Links;
use super::{Kernel, Server};
use crate::proto::Handler;

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
                connection.chunk().len() <= self.config.max_answer.max(32),
                "{id} holds more than one answer"
            );
            let deadline = connection.poll_timeout();
            let alarm = self.timers.alarm(self.slots.link(id.index));
            armed += usize::from(alarm.is_some());
            match (deadline, alarm) {
                (None, None) => {}
                (Some(deadline), Some(alarm)) => assert!(
                    alarm.as_nanos() < deadline.as_nanos().saturating_add(2 << 20),
                    "invariant 11: {id} is due at {deadline:?} and armed for {alarm:?}"
                ),
                (deadline, alarm) => {
                    panic!("invariant 11: {id} is due at {deadline:?} and armed for {alarm:?}")
                }
            }
        }
        assert_eq!(strangers, self.strangers.len(), "strangers");
        self.strangers.assert_consistent(|id| {
            self.slots.get(id).is_some_and(|slot| !slot.connection.has_authenticated())
        });
        assert_eq!(armed, self.timers.armed(), "armed deadlines");
        let in_queue = self.run_queue.iter().filter(|id| self.slots.get(**id).is_some()).count();
        assert_eq!(queued, in_queue, "queued connections");
        assert!(self.slots.len() <= self.limits.connections, "more connections than allowed");
        assert!(self.strangers.len() <= self.limits.unauthenticated, "too many strangers");
        let open = self.stats.accepted - self.stats.closed_in_all();
        assert_eq!(self.slots.len() as u64, open, "invariant 9: one reason for each connection");
    }
}
