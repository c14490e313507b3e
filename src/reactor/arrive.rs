//! A reactor whose connections move to another loop, or come from one.

use super::{Adopt, Kernel, Reactor, Ready};
use crate::proto::ConnId;
use crate::python::Monotonic;

impl<K: Kernel, T> Reactor<K, T> {
    /// When a connection's alarm is set for, if it is armed.
    pub(crate) fn alarm(&self, id: ConnId) -> Option<Monotonic> {
        self.timers.alarm(self.slots.link(id.index))
    }

    /// Reads the clock, after this reactor has done nothing for a while. It is awake from then on, as after
    /// an event.
    pub(crate) fn read_clock(&mut self) {
        self.now = self.kernel.now();
        self.awake_until = Monotonic::from_nanos(self.now.as_nanos().saturating_add(self.spin));
    }

    /// Counts on from so many events.
    pub(crate) fn count_events_from(&mut self, events: u64) {
        self.events = events;
    }

    /// Gives every connection a turn in which each call is tried, whatever events there were.
    pub(crate) fn suspect_all(&mut self) {
        let mut next = self.slots.id_from(0);
        while let Some(id) = next {
            let slot = self.slots.get_mut(id).expect("it was found just now");
            slot.ready.insert(Ready::UNKNOWN);
            self.run_queue.push(slot, id);
            next = self.slots.id_from(id.index + 1);
        }
    }

    /// Forgets a connection that another loop has, and returns its value. Its peer notices nothing.
    pub(crate) fn release(&mut self, id: ConnId) -> T
    where
        K: Adopt,
    {
        self.settle(id, None);
        let slot = self.slots.remove(id);
        self.kernel.release(slot.stream);
        self.slots.shrink_if_empty();
        slot.connection
    }
}
