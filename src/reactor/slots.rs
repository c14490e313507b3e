use std::collections::TryReserveError;

use slab::Slab;

use super::Ready;
use super::timers::{Link, Links, Wheel};
use crate::proto::ConnId;
use crate::python::Monotonic;

impl ConnId {
    /// The number of connections that came after `other` up to this one, which is not older.
    /// Numbers start again after four billion, so names have no order as such.
    pub(crate) const fn age_after(self, other: Self) -> u32 {
        self.generation.wrapping_sub(other.generation)
    }
}

/// The subject of an event, in the one word that epoll carries for a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(usize);

/// The meaning of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Another thread wants attention.
    Wake,
    /// A signal came.
    Signal,
    /// The listener with this index.
    Listener(usize),
    /// The part of the admin endpoint with this number.
    Admin(usize),
    /// A connection, perhaps one that is gone.
    Connection(ConnId),
}

/// The generation that no connection has; the index then says what else it is.
const NO_CONNECTION: u32 = u32::MAX;
const WAKE: u32 = u32::MAX;
const SIGNAL: u32 = u32::MAX - 1;
/// The first index of the admin endpoint's parts.
const ADMIN: u32 = SIGNAL - ADMIN_PARTS;
/// Numbers for parts of the admin endpoint.
const ADMIN_PARTS: u32 = 256;

const _: () = assert!(usize::BITS >= 64, "a token packs two 32-bit numbers into a usize");

impl Token {
    /// The token of an event that [`Wake::wake`](super::Wake::wake) causes.
    pub const WAKE: Self = Self::pack(WAKE, NO_CONNECTION);

    /// The token of a signal that [`Kernel::catch_signals`](super::Kernel::catch_signals) caught.
    pub const SIGNAL: Self = Self::pack(SIGNAL, NO_CONNECTION);

    const fn pack(index: u32, generation: u32) -> Self {
        Self((generation as usize) << 32 | index as usize)
    }

    /// The token of the listener with this index.
    ///
    /// # Panics
    /// If there are nearly 2^32 listeners.
    pub fn listener(index: usize) -> Self {
        let index = u32::try_from(index).ok().filter(|&index| index < ADMIN);
        Self::pack(index.expect("fewer than 2^32 listeners"), NO_CONNECTION)
    }

    /// The token that [`as_raw`](Self::as_raw) gave this word for. Any other word is the token of a
    /// connection that is gone, at worst of one that is there: its event is a hint like all others.
    pub const fn from_raw(raw: usize) -> Self {
        Self(raw)
    }

    /// The word to hand to epoll.
    pub const fn as_raw(self) -> usize {
        self.0
    }

    /// The token of a connection.
    pub(crate) const fn connection(id: ConnId) -> Self {
        Self::pack(id.index, id.generation)
    }

    /// The token of the admin endpoint's part with this number, which is below 256.
    pub(crate) const fn admin(number: u8) -> Self {
        Self::pack(ADMIN + number as u32, NO_CONNECTION)
    }

    /// The meaning of the token.
    #[allow(clippy::cast_possible_truncation)] // The two halves are taken apart on purpose.
    pub(crate) const fn target(self) -> Target {
        let (index, generation) = (self.0 as u32, (self.0 >> 32) as u32);
        match (generation, index) {
            (NO_CONNECTION, WAKE) => Target::Wake,
            (NO_CONNECTION, SIGNAL) => Target::Signal,
            (NO_CONNECTION, ADMIN..) => Target::Admin((index - ADMIN) as usize),
            (NO_CONNECTION, _) => Target::Listener(index as usize),
            _ => Target::Connection(ConnId { index, generation }),
        }
    }
}

/// The generation of the connection after one.
pub(crate) const fn generation_after(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        NO_CONNECTION | 0 => 1,
        next => next,
    }
}

/// A socket, the protocol's side of the connection, and what a loop has to know of them. In a
/// server that is all that an idle authenticated connection costs in user space.
pub(crate) struct Slot<S, C> {
    pub(crate) stream: S,
    pub(crate) connection: C,
    pub(super) timer: Link,
    generation: u32,
    pub(crate) ready: Ready,
    /// True if the run queue holds this connection, so that it never does so twice.
    pub(crate) queued: bool,
    /// Whether the stream to the peer has ended.
    pub(crate) half_closed: bool,
}

impl<S, C> Slot<S, C> {
    /// Returns true if an alarm is set.
    pub(crate) fn is_armed(&self) -> bool {
        self.timer.is_armed()
    }

    /// Returns true if an alarm is set for `deadline` or before.
    pub(crate) fn is_armed_by(&self, wheel: &Wheel, deadline: Monotonic) -> bool {
        wheel.is_armed_by(&self.timer, deadline)
    }
}

/// A connection of another loop, with the name that it has there.
pub(crate) struct Arriving<S, C> {
    pub(crate) id: ConnId,
    pub(crate) stream: S,
    pub(crate) connection: C,
    pub(crate) ready: Ready,
    pub(crate) half_closed: bool,
}

/// The connections of one loop.
pub(crate) struct Slots<S, C> {
    slab: Slab<Slot<S, C>>,
    /// Slots that were ever in use since the slab was made: the memory that it holds.
    touched: usize,
    next_generation: u32,
}

impl<S, C> Slots<S, C> {
    /// Address space for more than half a million slots; memory is only what was touched of it.
    ///
    /// Up to 32 MiB glibc adapts to large blocks that are given back: it takes the next one from
    /// its heap, and keeps that (mallopt(3), M_MMAP_THRESHOLD). A larger one is always mapped by
    /// itself, and its memory returns to the system when a crowd is gone.
    const RESERVED: usize = (32 << 20) / size_of::<Slot<S, C>>() + 1;

    pub(crate) fn new() -> Self {
        // Counting from 1 makes the generation a connection's number in logs.
        Self { slab: Slab::new(), touched: 0, next_generation: 1 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Makes room for `more` connections.
    ///
    /// # Errors
    /// If there is no memory for them. Existing connections stay.
    #[inline]
    pub(crate) fn make_room(&mut self, more: usize) -> Result<(), TryReserveError> {
        match self.slab.capacity() - self.slab.len() >= more {
            true => Ok(()),
            false => self.grow(more),
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) -> Result<(), TryReserveError> {
        let len = self.slab.len();
        // Doubling costs least, but needs the old block beside the new one until it is filled.
        let wishes = [len.max(Self::RESERVED), len / 4].into_iter().filter(|wish| *wish > more);
        let mut wishes = wishes.filter(|wish| self.try_reserve(*wish).is_ok());
        let wish = match wishes.next() {
            Some(wish) => wish,
            None => self.try_reserve(more).map(|()| more)?,
        };
        self.slab.reserve_exact(wish);
        Ok(())
    }

    /// Asks for the block that the slab would need. The slab itself ends the process where there is
    /// no memory.
    fn try_reserve(&self, more: usize) -> Result<(), TryReserveError> {
        Vec::<Slot<S, C>>::new().try_reserve_exact(self.slab.capacity() + more)
    }

    /// The name that the next connection will have.
    pub(crate) fn next_id(&self) -> ConnId {
        let index = u32::try_from(self.slab.vacant_key()).expect("fewer than 2^31 descriptors");
        ConnId { index, generation: self.next_generation }
    }

    /// Adds a connection. Unless [`make_room`](Self::make_room) was called before, the process ends
    /// where there is no memory.
    pub(crate) fn insert(&mut self, stream: S, connection: C, ready: Ready) -> ConnId {
        let generation = self.next_generation;
        self.next_generation = generation_after(generation);
        let slot = Slot {
            stream,
            connection,
            timer: Link::default(),
            generation,
            ready,
            queued: false,
            half_closed: false,
        };
        // Where this fails, the insertion makes the attempt that counts.
        let _ = self.make_room(1);
        let index = u32::try_from(self.slab.insert(slot)).expect("fewer than 2^31 descriptors");
        self.touched = self.touched.max(index as usize + 1);
        ConnId { index, generation }
    }

    /// The generation of the next connection.
    pub(crate) const fn next_generation(&self) -> u32 {
        self.next_generation
    }

    /// Takes the connections of another loop under the names that they have there, none twice, in the
    /// place of its own.
    ///
    /// # Errors
    /// Those of making a connection. Then none is here.
    pub(crate) fn arrive<E>(
        &mut self,
        next_generation: u32,
        connections: impl Iterator<Item = Result<Arriving<S, C>, E>>,
    ) -> Result<(), E> {
        let (mut touched, mut failed) = (0, None);
        self.slab = connections
            .map_while(|connection| match connection {
                Ok(Arriving { id, stream, connection, ready, half_closed }) => {
                    touched = touched.max(id.index as usize + 1);
                    let (timer, generation, queued) = (Link::default(), id.generation, false);
                    let slot =
                        Slot { stream, connection, timer, generation, ready, queued, half_closed };
                    Some((id.index as usize, slot))
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            })
            .collect();
        (self.touched, self.next_generation) = (touched, next_generation);
        match failed {
            None => Ok(()),
            Some(error) => {
                (self.slab, self.touched) = (Slab::new(), 0);
                Err(error)
            }
        }
    }

    /// The connection of this name, unless it is gone.
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Slot<S, C>> {
        self.slab.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Slot<S, C>> {
        self.slab.get(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    /// The place of a connection in the wheel.
    pub(crate) fn link(&self, index: u32) -> &Link {
        &self.slab[index as usize].timer
    }

    /// The name of the connection that occupies a slot.
    pub(crate) fn id_at(&self, index: u32) -> ConnId {
        self.id_in(index).expect("the slot is occupied")
    }

    /// The name of the connection in a slot, if it is occupied.
    pub(crate) fn id_in(&self, index: u32) -> Option<ConnId> {
        self.slab.get(index as usize).map(|slot| ConnId { index, generation: slot.generation })
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Slot<S, C> {
        debug_assert!(self.get(id).is_some(), "removed twice");
        self.slab.remove(id.index as usize)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        (0..self.bound()).filter_map(|index| self.id_in(index))
    }

    /// The next connection from this index on, for a walk in which connections may end.
    pub(crate) fn id_from(&self, index: u32) -> Option<ConnId> {
        (index..self.bound()).find_map(|index| self.id_in(index))
    }

    /// The number of slots that were ever in use since the slab was made: every index is below it.
    pub(crate) fn bound(&self) -> u32 {
        u32::try_from(self.touched).expect("checked at each insertion")
    }

    /// Makes the slab anew, as [`arrive`](Self::arrive) makes one of the same connections in order.
    /// A slab hides the order in which its free slots will be used; after this both have the same.
    ///
    /// # Errors
    /// If there is no memory for another slab. Then nothing has changed.
    pub(crate) fn rebuild(&mut self) -> Result<(), TryReserveError> {
        // While it is filled a block may be twice as long as what is in it.
        Vec::<Slot<S, C>>::new().try_reserve_exact(2 * self.touched)?;
        self.touched = self.ids().last().map_or(0, |id| id.index as usize + 1);
        self.slab = std::mem::take(&mut self.slab).into_iter().collect();
        Ok(())
    }

    /// Gives memory back once nothing is left of a crowd; that is not possible while slots near the
    /// end are occupied. A new block is asked for when there is need of it: now it would be one more.
    pub(crate) fn shrink_if_empty(&mut self) {
        if self.slab.is_empty() && self.touched > 1024 {
            self.slab = Slab::new();
            self.touched = 0;
        }
    }
}

impl<S, C> Links for Slots<S, C> {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.slab[index as usize].timer
    }
}

/// A slot is smaller than a cache line, the slab's own bookkeeping included. In a debug build mio
/// keeps more in each socket, to catch its use with two polls.
const _: () = {
    #[allow(dead_code)]
    enum Entry {
        Vacant(usize),
        Occupied(Slot<mio::net::TcpStream, crate::proto::Connection>),
    }
    assert!(size_of::<Entry>() <= if cfg!(debug_assertions) { 64 } else { 48 });
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Challenge, Keyring};
    use crate::proto::{Config, Connection, Upper};

    fn connection() -> Connection<Upper> {
        let config = Config::new(Keyring::demo());
        Connection::new(&config, Challenge::new([0; 32]), Upper, Monotonic::ZERO)
    }

    #[test]
    fn tokens_say_what_they_stand_for() {
        let id = ConnId { index: 7, generation: 9 };
        assert_eq!(Token::connection(id).target(), Target::Connection(id));
        assert_eq!(Token::listener(0).target(), Target::Listener(0));
        assert_eq!(Token::admin(0).target(), Target::Admin(0));
        assert_eq!(Token::admin(u8::MAX).target(), Target::Admin(255));
        assert_eq!(Token::WAKE.target(), Target::Wake);
        assert_eq!(Token::SIGNAL.target(), Target::Signal);
    }

    #[test]
    fn a_name_dies_with_its_connection() {
        let mut slots = Slots::new();
        let first = slots.insert((), connection(), Ready::NONE);
        slots.remove(first);
        let second = slots.insert((), connection(), Ready::NONE);
        assert_eq!(first.index, second.index);
        assert!(slots.get_mut(first).is_none());
        assert!(slots.get_mut(second).is_some());
        assert_eq!(slots.id_at(second.index), second);
    }

    #[test]
    fn the_end_of_a_crowd_frees_its_slots_and_the_end_of_a_few_does_not() {
        // A slab that is kept gives the slot that was freed last, a new one begins at its start.
        for (crowd, next) in [(1024, 1023), (1025, 0)] {
            let mut slots = Slots::new();
            let ids: Vec<ConnId> =
                (0..crowd).map(|_| slots.insert((), connection(), Ready::NONE)).collect();
            for id in ids {
                slots.shrink_if_empty();
                slots.remove(id);
            }
            slots.shrink_if_empty();
            let id = slots.insert((), connection(), Ready::NONE);
            assert_eq!(id.index, next, "after {crowd}");
            assert_eq!(id.to_string(), format!("#{}", crowd + 1), "numbers go on");
        }
    }

    #[test]
    fn free_slots_of_a_rebuilt_slab_are_used_as_after_an_arrival() {
        let mut slots = Slots::new();
        let ids: Vec<ConnId> =
            (0..9).map(|_| slots.insert((), connection(), Ready::NONE)).collect();
        // The order in which they are freed is forgotten, and so are those at the end.
        for index in [4, 0, 8, 2, 7] {
            slots.remove(ids[index]);
        }
        slots.rebuild().unwrap();
        let left = slots.ids().map(|id| {
            let connection = connection();
            Ok::<_, ()>(Arriving {
                id,
                stream: (),
                connection,
                ready: Ready::NONE,
                half_closed: false,
            })
        });
        let mut others = Slots::new();
        others.arrive(slots.next_generation(), left.collect::<Vec<_>>().into_iter()).unwrap();
        assert_eq!((slots.len(), slots.bound(), others.bound()), (4, 7, 7));
        for _ in 0..6 {
            let one = slots.insert((), connection(), Ready::NONE);
            assert_eq!(one, others.insert((), connection(), Ready::NONE));
        }
        assert_eq!(slots.bound(), 10);
    }

    #[test]
    fn the_slab_is_mapped_by_itself() {
        let size = size_of::<Slot<mio::net::TcpStream, Upper>>();
        let reserved = Slots::<mio::net::TcpStream, Upper>::RESERVED * size;
        // Not in the heap, as it might be up to 32 MiB; nor much more address space than that.
        assert!(reserved > 32 << 20 && reserved < 33 << 20, "{reserved} bytes");
    }

    #[test]
    fn generations_wrap_without_touching_the_reserved_one() {
        let mut slots = Slots::new();
        slots.next_generation = u32::MAX - 1;
        let last = slots.insert((), connection(), Ready::NONE);
        let first = slots.insert((), connection(), Ready::NONE);
        assert_eq!((last.generation, first.generation), (u32::MAX - 1, 1));
    }

    #[test]
    fn room_is_made_for_as_many_as_are_asked_for_or_refused() {
        let mut slots = Slots::<(), ()>::new();
        slots.make_room(1).unwrap();
        let reserved = slots.slab.capacity();
        assert_eq!(reserved, Slots::<(), ()>::RESERVED);
        for _ in 0..10 {
            slots.insert((), (), Ready::NONE);
        }
        slots.make_room(reserved - 10).unwrap();
        assert_eq!(slots.slab.capacity(), reserved, "there was room");
        slots.make_room(reserved - 9).unwrap();
        assert!(slots.slab.capacity() > reserved);
        assert!(slots.make_room(usize::MAX / 128).is_err());
    }

    #[test]
    fn the_token_of_an_endpoint_is_no_listeners() {
        let last = ADMIN as usize - 1;
        assert_eq!(Token::listener(last).target(), Target::Listener(last));
        assert!(std::panic::catch_unwind(|| Token::listener(ADMIN as usize)).is_err());
    }
}
