//! The state of a reactor between two turns, to the last bit: with it another one goes on in exactly the
//! same way, over a kernel that gives the same answers.

use super::run_queue::RunQueue;
use super::timers::Wheel;
use super::{Kernel, Reactor, Ready};
use crate::auth::KeyId;
use crate::proto::wire::{Reader, put_number};
use crate::proto::{ConnId, Disguise, State};
use crate::python::Monotonic;

/// Takes the parts of a snapshot of a loop, for a [`Kernel`] that keeps an account of its run: first the
/// loop's own, then that of each connection.
pub trait SnapshotTaker<S> {
    /// Begins, between two turns, of which there were so many; with the settings in words and the keys
    /// of the ring.
    fn begin(&mut self, turns: u64, settings: &str, keys: &[KeyId]);

    /// Takes the loop's own part, and the number of connections.
    fn server(&mut self, connections: usize, write: &mut dyn FnMut(&mut dyn Disguise, &mut Parts));

    /// Takes the part of the connection with this stream.
    ///
    /// # Errors
    /// Those of `write`.
    fn connection(&mut self, stream: &S, write: &mut WritePresence<'_>) -> Result<(), String>;
}

/// Writes the part of a connection.
///
/// # Errors
/// The reason why there can be no snapshot.
pub type WritePresence<'a> =
    dyn FnMut(&mut dyn Disguise, &mut Parts) -> Result<Presence, String> + 'a;

/// A part of a snapshot, in bytes whose meaning is the loop's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The same for all loops that make the same calls.
    pub state: Vec<u8>,
    /// Statistics and the like, which may differ.
    pub figures: Vec<u8>,
}

/// A connection in a snapshot, as far as it is of interest outside of its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Its name.
    pub id: ConnId,
    /// The calls that its socket is believed ready for.
    pub ready: Ready,
    /// Its state, which is not [`State::Closed`].
    pub state: State,
    /// Bytes of answers that are unsent.
    pub unsent: usize,
}

impl<K: Kernel, T> Reactor<K, T> {
    /// Writes all but the connections themselves.
    pub(crate) fn park(&self, out: &mut Vec<u8>) {
        for time in [self.now, self.quiet_until] {
            put_number(out, time.as_nanos());
        }
        self.timers.park(|index| *self.slots.link(index), out);
        self.run_queue.park(out);
    }

    /// Reads what [`park`](Self::park) wrote, with the connections in their slots already, of which none
    /// is armed or queued. `None` if that is impossible.
    pub(crate) fn unpark(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut time = || reader.number().map(Monotonic::from_nanos);
        (self.now, self.quiet_until) = (time()?, time()?);
        let exists = |slots: &super::Slots<K::Stream, T>, index| slots.id_in(index).is_some();
        self.timers = Wheel::unpark(reader, &mut self.slots, exists)?;
        self.run_queue = RunQueue::unpark(reader, &mut self.slots)?;
        let slots = self.slots.ids().filter_map(|id| self.slots.get(id));
        self.armed = slots.filter(|slot| slot.is_armed()).count();
        Some(())
    }

    /// Writes what may differ from loop to loop where the calls are the same: the events of an admin
    /// endpoint count.
    pub(crate) fn park_figures(&self, out: &mut Vec<u8>) {
        put_number(out, self.events);
        put_number(out, self.awake_until.as_nanos());
    }

    /// Reads what [`park_figures`](Self::park_figures) wrote.
    pub(crate) fn unpark_figures(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.events = reader.number()?;
        self.awake_until = Monotonic::from_nanos(reader.number()?);
        Some(())
    }
}
