//! The parts that any event loop needs: one thread, one poll, any number of connections.
//!
//! `Reactor` holds the connections of one loop with their sockets, their deadlines and the run
//! queue; the server and the load generator are policies on top of it. Everything that a loop asks
//! of the operating system goes through [`Kernel`], so the same loop runs over real sockets and
//! over simulated ones.

mod admin_listener;
mod adopt;
mod arrive;
mod fault;
mod kernel;
mod listen;
mod mio_kernel;
mod note;
mod process;
mod random_pool;
mod ready;
mod run_queue;
pub(crate) mod slots;
mod snapshot;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
mod timers;
pub(crate) mod transfer;

use std::collections::TryReserveError;
use std::io;
use std::time::Duration;

use run_queue::RunQueue;
use slots::{Slot, Slots};
#[cfg(not(feature = "testing"))]
pub(crate) use timers::{Step, Wheel};

use crate::proto::ConnId;
use crate::python::{Monotonic, saturating_nanos};

pub use admin_listener::{AdminAddress, AdminListener};
pub use adopt::Adopt;
pub use fault::Fault;
pub use kernel::{Close, Kernel, Liveness, Wake};
pub use listen::ListenOptions;
pub use mio_kernel::MioKernel;
pub use note::{AcceptPause, Note, Refusal, RingKey};
pub use process::{release_memory, resident_bytes};
pub use ready::Ready;
pub use slots::Token;
pub(crate) use slots::{Arriving, Target, generation_after};
pub use snapshot::{Parts, Presence, SnapshotTaker, WritePresence};
#[cfg(feature = "testing")]
pub use timers::{Link, Links, Step, Wheel};

/// The connections of one loop, each with its socket, its deadline and a value of type `T`.
///
/// Events only set bits and queue connections; all work is done from the run queue. So every
/// wake-up is a hint, and a stale, late or spurious one costs a no-op.
pub(crate) struct Reactor<K: Kernel, T> {
    pub(crate) kernel: K,
    pub(crate) slots: Slots<K::Stream, T>,
    timers: Wheel,
    run_queue: RunQueue,
    now: Monotonic,
    /// The poll does not sleep before this time, because the last event is recent.
    awake_until: Monotonic,
    /// Nanoseconds after an event for which it does not sleep.
    spin: u64,
    /// Events that polls reported.
    events: u64,
    /// Connections whose alarm is set.
    armed: usize,
    /// The wheel has nothing to do before this time; zero if that is not known.
    quiet_until: Monotonic,
}

/// A connection whose turn it is, with the parts of the reactor that a turn needs.
pub(crate) struct Turn<'a, K: Kernel, T> {
    pub(crate) id: ConnId,
    pub(crate) kernel: &'a mut K,
    pub(crate) slot: &'a mut Slot<K::Stream, T>,
    /// To look at.
    pub(crate) wheel: &'a Wheel,
}

impl<K: Kernel, T> Reactor<K, T> {
    /// A reactor without connections. For `spin` after an event it does not sleep.
    pub(crate) fn new(mut kernel: K, spin: Duration) -> Self {
        let now = kernel.now();
        Self {
            now,
            kernel,
            slots: Slots::new(),
            timers: Wheel::starting_at(now),
            run_queue: RunQueue::new(),
            awake_until: Monotonic::ZERO,
            spin: saturating_nanos(spin),
            events: 0,
            armed: 0,
            quiet_until: Monotonic::ZERO,
        }
    }

    /// Changes the time after an event for which it does not sleep, from the next event on.
    pub(crate) fn set_spin(&mut self, spin: Duration) {
        self.spin = saturating_nanos(spin);
    }

    /// The clock as of the last poll.
    pub(crate) const fn now(&self) -> Monotonic {
        self.now
    }

    /// Events that polls reported so far.
    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    /// The number of connections whose alarm is set.
    pub(crate) const fn armed(&self) -> usize {
        self.armed
    }

    /// Polls once and reads the clock. An event for a connection sets its bits and queues it;
    /// `on_other` gets every other target, a connection that is gone among them.
    pub(crate) fn poll(
        &mut self,
        wait: Option<Duration>,
        mut on_other: impl FnMut(Target, Ready),
    ) -> io::Result<()> {
        let Self { kernel, slots, run_queue, .. } = self;
        run_queue.tidy(slots);
        let mut events = 0;
        kernel.poll(wait, |token, ready| {
            events += 1;
            let target = token.target();
            if let Target::Connection(id) = target
                && let Some(slot) = slots.get_mut(id)
            {
                slot.ready.insert(ready);
                run_queue.push(slot, id);
            } else {
                on_other(target, ready);
            }
        })?;
        self.now = self.kernel.now();
        self.events += events;
        if events > 0 {
            self.awake_until = Monotonic::from_nanos(self.now.as_nanos().saturating_add(self.spin));
        }
        Ok(())
    }

    /// Makes room for `more` connections.
    ///
    /// # Errors
    /// If there is no memory for them. Existing connections stay.
    pub(crate) fn make_room(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.slots.make_room(more)
    }

    /// Returns true if the next poll must not sleep: a connection is queued, or the last event is
    /// recent enough to spin.
    pub(crate) fn busy(&self) -> bool {
        !self.run_queue.is_idle() || self.now < self.awake_until
    }

    /// A time before which no deadline is due; [`Monotonic::NEVER`] if none is armed.
    pub(crate) fn next_step(&self) -> Monotonic {
        match self.quiet_until {
            Monotonic::ZERO => self.timers.next_step().unwrap_or(Monotonic::NEVER),
            known => known,
        }
    }

    /// Connections in the run queue.
    pub(crate) fn queued(&self) -> usize {
        self.run_queue.len()
    }

    /// The place of a connection in the run queue, from zero.
    #[cfg(feature = "page")]
    pub(crate) fn place(&self, id: ConnId) -> Option<usize> {
        self.run_queue.place(id)
    }

    /// Takes the first connection out of the run queue; `None` if it is gone by now.
    ///
    /// One turn calls this [`queued`](Self::queued) times. A connection with work left goes to the
    /// back of the queue, behind the others and behind the next poll.
    #[inline(always)] // Or every message would pay for the memory of what it returns.
    pub(crate) fn next_turn(&mut self) -> Option<Turn<'_, K, T>> {
        let Self { kernel, slots, run_queue, timers, .. } = self;
        let (id, slot) = run_queue.pop(slots)?;
        Some(Turn { id, kernel, slot, wheel: timers })
    }

    /// A turn of a connection out of its order.
    pub(crate) fn turn_of(&mut self, id: ConnId) -> Option<Turn<'_, K, T>> {
        let Self { kernel, slots, timers, .. } = self;
        Some(Turn { id, kernel, slot: slots.get_mut(id)?, wheel: timers })
    }

    /// Queues a connection for a turn, unless it is queued or gone.
    pub(crate) fn requeue(&mut self, id: ConnId) {
        if let Some(slot) = self.slots.get_mut(id) {
            self.run_queue.push(slot, id);
        }
    }

    /// Returns true if a deadline may have come.
    #[inline]
    pub(crate) fn is_anything_due(&self) -> bool {
        self.now >= self.quiet_until
    }

    /// The next connection whose deadline has come; it is no longer armed. Each step of the wheel
    /// takes one of `steps`, so a crowd that is due at once is handled in slices.
    pub(crate) fn due(&mut self, steps: &mut usize) -> Option<ConnId> {
        while *steps > 0 && self.is_anything_due() {
            *steps -= 1;
            match self.timers.step(&mut self.slots, self.now) {
                Step::Due(index) => {
                    self.armed -= 1;
                    return Some(self.slots.id_at(index));
                }
                Step::Moved => {}
                Step::Done => {
                    self.quiet_until = self.timers.next_step().unwrap_or(Monotonic::NEVER);
                    break;
                }
            }
        }
        None
    }

    /// Arms a connection that is not armed.
    pub(crate) fn arm(&mut self, id: ConnId, deadline: Monotonic) {
        self.armed += 1;
        // The wheel may have to move it before it is due, or had nothing else to do.
        self.quiet_until = Monotonic::ZERO;
        self.timers.arm(&mut self.slots, id.index, deadline);
    }

    /// Arms a connection so that it is due at `deadline` or before, or disarms it.
    ///
    /// An alarm that is set is never moved to later: when it fires, the caller settles again. So a
    /// deadline that every message renews costs a comparison.
    #[inline]
    pub(crate) fn settle(&mut self, id: ConnId, deadline: Option<Monotonic>) {
        let link = self.slots.link(id.index);
        if deadline.is_none_or(|deadline| !self.timers.is_armed_by(link, deadline)) {
            self.set_alarm(id, deadline);
        }
    }

    /// Not inlined: a message finds its alarm set.
    #[inline(never)]
    fn set_alarm(&mut self, id: ConnId, deadline: Option<Monotonic>) {
        let was_armed = self.slots.link(id.index).is_armed();
        self.armed = self.armed + usize::from(deadline.is_some()) - usize::from(was_armed);
        // The wheel may have to move it before it is due, or had nothing else to do.
        self.quiet_until = Monotonic::ZERO;
        match deadline {
            Some(deadline) => self.timers.arm_by(&mut self.slots, id.index, deadline),
            None => self.timers.disarm(&mut self.slots, id.index),
        }
    }

    /// One alarm less.
    fn count_disarmed(&mut self) {
        self.armed -= 1;
        // The wheel was perhaps to wake for it.
        self.quiet_until = Monotonic::ZERO;
    }

    /// The name that the next connection to [enter](Self::enter) will have.
    pub(crate) fn next_id(&self) -> ConnId {
        self.slots.next_id()
    }

    /// Registers a socket for all events and keeps it with its value.
    ///
    /// # Errors
    /// Those of [`Kernel::register`]. The socket is then closed, and the value comes back.
    pub(crate) fn enter(
        &mut self,
        stream: K::Stream,
        value: T,
        ready: Ready,
    ) -> Result<ConnId, (io::Error, T)> {
        let id = self.slots.insert(stream, value, ready);
        let slot = self.slots.get_mut(id).expect("it was inserted just now");
        match self.kernel.register(&mut slot.stream, Token::connection(id)) {
            Ok(()) => Ok(id),
            Err(error) => Err((error, self.leave(id, Close::Orderly))),
        }
    }

    /// Closes a connection's socket and returns its value. The connection must be there.
    pub(crate) fn leave(&mut self, id: ConnId, how: Close) -> T {
        let slot = self.slots.remove(id);
        if slot.is_armed() {
            self.count_disarmed();
            self.timers.unlink(&mut self.slots, slot.timer);
        }
        self.kernel.close(slot.stream, how);
        self.slots.shrink_if_empty();
        slot.connection
    }
}

#[cfg(any(test, feature = "testing"))]
impl<K: Kernel, T> Reactor<K, T> {
    /// Compares the run queue and the wheel with what the slots say.
    ///
    /// # Panics
    /// If they disagree.
    pub(crate) fn assert_consistent(&self) {
        let slots = || self.slots.ids().filter_map(|id| self.slots.get(id));
        let flagged = slots().filter(|slot| slot.queued).count();
        let queued = self.run_queue.present(&self.slots);
        assert_eq!(flagged, queued, "queued connections");
        let armed = slots().filter(|slot| slot.is_armed()).count();
        assert_eq!(armed, self.timers.armed(|index| *self.slots.link(index)), "armed deadlines");
        assert_eq!(armed, self.armed, "the number of armed deadlines");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::sim::{Faults, SimKernel};

    type World = Reactor<SimKernel, &'static str>;

    /// A reactor, and the socket of a client that was accepted.
    fn world(faults: Faults) -> (World, <SimKernel as Kernel>::Stream) {
        let mut reactor = Reactor::new(SimKernel::new(1, faults), Duration::ZERO);
        reactor.kernel.connect(100, 100, 100);
        let (stream, _) = reactor.kernel.accept(&mut ()).unwrap();
        (reactor, stream)
    }

    #[test]
    fn a_value_that_cannot_be_registered_comes_back() {
        let faults = Faults { register_error: Faults::ALWAYS, ..Faults::none() };
        let (mut reactor, stream) = world(faults);
        let (error, value) = reactor.enter(stream, "value", Ready::NONE).unwrap_err();
        assert_eq!((error.raw_os_error(), value), (Some(libc::ENOSPC), "value"));
        assert_eq!((reactor.slots.len(), reactor.kernel.open_streams()), (0, 0));
    }

    #[test]
    fn the_next_name_is_that_of_the_connection_that_enters_next() {
        let (mut reactor, stream) = world(Faults::none());
        let name = reactor.next_id();
        let first = reactor.enter(stream, "first", Ready::NONE).unwrap();
        assert_eq!(first, name);
        assert_eq!(reactor.leave(first, Close::Orderly), "first");
        reactor.kernel.connect(100, 100, 100);
        let (stream, _) = reactor.kernel.accept(&mut ()).unwrap();
        let name = reactor.next_id();
        assert_ne!(name, first, "the slot is used again, the name is not");
        assert_eq!(reactor.enter(stream, "second", Ready::NONE).unwrap(), name);
    }

    #[test]
    fn a_deadline_that_is_due_is_handled_within_the_steps_of_a_turn() {
        let (mut reactor, stream) = world(Faults::none());
        let id = reactor.enter(stream, "value", Ready::NONE).unwrap();
        reactor.settle(id, Some(Monotonic::from_nanos(1)));
        reactor.kernel.pass(Duration::from_secs(1));
        reactor.poll(Some(Duration::ZERO), |_, _| {}).unwrap();
        assert_eq!(reactor.due(&mut 0), None, "no step is left");
        assert_eq!(reactor.due(&mut 100), Some(id));
        assert_eq!(reactor.due(&mut 100), None, "it is disarmed");
        assert_eq!(reactor.next_step(), Monotonic::NEVER);
        // The wheel was empty when it was last looked at.
        let soon = reactor.now().saturating_add(Duration::from_millis(10));
        reactor.settle(id, Some(soon));
        for passes in [5, 6] {
            reactor.kernel.pass(Duration::from_millis(passes));
            reactor.poll(Some(Duration::ZERO), |_, _| {}).unwrap();
            assert_eq!(reactor.due(&mut 100), (passes == 6).then_some(id));
        }
    }

    #[test]
    fn a_crowd_that_is_due_at_once_is_handled_in_slices() {
        let (mut reactor, stream) = world(Faults::none());
        let enter = |reactor: &mut World, stream| {
            let id = reactor.enter(stream, "value", Ready::NONE).unwrap();
            reactor.settle(id, Some(Monotonic::from_nanos(1)));
        };
        enter(&mut reactor, stream);
        for _ in 1..5 {
            reactor.kernel.connect(100, 100, 100);
            let (stream, _) = reactor.kernel.accept(&mut ()).unwrap();
            enter(&mut reactor, stream);
        }
        reactor.kernel.pass(Duration::from_secs(1));
        reactor.poll(Some(Duration::ZERO), |_, _| {}).unwrap();
        let mut left = 5;
        for expected in [2, 2, 1] {
            assert!(reactor.next_step() <= reactor.now(), "the next poll does not sleep");
            let mut steps = 2;
            let due = std::iter::from_fn(|| reactor.due(&mut steps)).count();
            left -= due;
            assert_eq!((due, reactor.armed()), (expected, left));
        }
    }

    #[test]
    fn a_connection_that_is_gone_has_no_turn() {
        let (mut reactor, stream) = world(Faults::none());
        let id = reactor.enter(stream, "value", Ready::NONE).unwrap();
        reactor.requeue(id);
        reactor.requeue(id);
        assert_eq!(reactor.queued(), 1);
        assert!(reactor.busy());
        reactor.leave(id, Close::Orderly);
        reactor.requeue(id);
        assert_eq!((reactor.next_turn().is_none(), reactor.queued()), (true, 0));
        assert!(!reactor.busy());
    }

    #[test]
    fn each_inconsistency_is_found() {
        type Falsify = fn(&mut World, ConnId);
        let falsify: [(&str, Falsify); 4] = [
            ("the number of armed deadlines", |world, _| world.armed += 1),
            ("queued connections", |world, id| {
                world.requeue(id);
                world.slots.get_mut(id).unwrap().queued = false;
            }),
            ("queued connections", |world, id| world.slots.get_mut(id).unwrap().queued = true),
            ("armed deadlines", |world, id| {
                world.settle(id, Some(Monotonic::from_nanos(1)));
                world.timers = Wheel::new();
            }),
        ];
        for (expected, falsify) in falsify {
            let (mut reactor, stream) = world(Faults::none());
            let id = reactor.enter(stream, "value", Ready::NONE).unwrap();
            reactor.assert_consistent();
            falsify(&mut reactor, id);
            let panic = catch_unwind(AssertUnwindSafe(|| reactor.assert_consistent())).unwrap_err();
            let message = panic.downcast_ref::<String>().expect("it has a message");
            assert!(message.contains(expected), "{expected:?} expected, not {message:?}");
        }
    }

    #[cfg(feature = "page")]
    #[test]
    fn one_that_has_work_has_a_place_in_the_queue() {
        let (mut reactor, stream) = world(Faults::none());
        let id = reactor.enter(stream, "value", Ready::NONE).unwrap();
        reactor.requeue(id);
        assert_eq!(reactor.place(id), Some(0));
    }

    #[test]
    fn room_for_too_many_is_refused() {
        let (mut world, _) = world(Faults::none());
        world.make_room(10).unwrap();
        assert!(world.make_room(usize::MAX / 1024).is_err());
    }
}
