use super::slots::{Slot, Slots};
use crate::proto::ConnId;
use crate::proto::wire::{Reader, put_number};

/// Connections that may have work to do, each at most once, in the order of their turns.
///
/// It takes memory for those that are busy at once, not for all. If there is none for one more, that
/// one is missed, and every slot is queued in turn, as places come free, until it must have been found:
/// a turn without work costs a no-op.
pub(super) struct RunQueue {
    ids: Vec<ConnId>,
    /// The first of them have had their turn, and go with the next [`tidy`](Self::tidy).
    taken: usize,
    /// Slots still to be queued because one was missed.
    unseen: u32,
    /// The first of them.
    next_unseen: u32,
    /// Makes every attempt to take more memory fail.
    #[cfg(test)]
    starved: bool,
}

/// Places in an empty queue that are kept.
const KEPT: usize = 1024;

/// Places that are there from the beginning, so that there is always a turn for some.
const FIRST: usize = 64;

impl RunQueue {
    pub(super) fn new() -> Self {
        Self {
            ids: Vec::with_capacity(FIRST),
            taken: 0,
            unseen: 0,
            next_unseen: 0,
            #[cfg(test)]
            starved: false,
        }
    }

    /// Returns true if no connection is queued, and none was missed.
    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0 && self.unseen == 0
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len() - self.taken
    }

    #[cfg(feature = "page")]
    pub(super) fn place(&self, id: ConnId) -> Option<usize> {
        self.ids[self.taken..].iter().position(|queued| *queued == id)
    }

    /// Writes it for a snapshot, connections that are gone among it.
    pub(super) fn park(&self, out: &mut Vec<u8>) {
        put_number(out, self.len() as u64);
        for id in &self.ids[self.taken..] {
            put_number(out, id.index.into());
            put_number(out, id.generation.into());
        }
        put_number(out, self.unseen.into());
        put_number(out, self.next_unseen.into());
    }

    /// Reads what [`park`](Self::park) wrote, and marks the connections in it. `None` if that is
    /// impossible.
    pub(super) fn unpark<S, T>(reader: &mut Reader<'_>, slots: &mut Slots<S, T>) -> Option<Self> {
        let mut queue = Self::new();
        for _ in 0..reader.number()? {
            let id = ConnId { index: reader.small()?, generation: reader.small()? };
            if let Some(slot) = slots.get_mut(id) {
                (!slot.queued).then(|| slot.queued = true)?;
            }
            queue.ids.push(id);
        }
        queue.unseen = reader.small()?;
        queue.next_unseen = reader.small()?;
        Some(queue)
    }

    /// Puts a connection at the back, unless it is in the queue.
    pub(super) fn push<S, T>(&mut self, slot: &mut Slot<S, T>, id: ConnId) {
        if slot.queued {
            return;
        }
        if self.ids.len() == self.ids.capacity() {
            return self.push_into_more(slot, id);
        }
        slot.queued = true;
        self.ids.push(id);
    }

    #[cold]
    fn push_into_more<S, T>(&mut self, slot: &mut Slot<S, T>, id: ConnId) {
        #[cfg(test)]
        let is_starved = self.starved;
        #[cfg(not(test))]
        let is_starved = false;
        if is_starved || self.ids.try_reserve(1).is_err() {
            // Every slot has an index below this.
            self.unseen = u32::MAX;
        } else {
            self.push(slot, id);
        }
    }

    /// Takes the connection at the front; `None` if it is gone by now, or there is none.
    pub(super) fn pop<'a, S, T>(
        &mut self,
        slots: &'a mut Slots<S, T>,
    ) -> Option<(ConnId, &'a mut Slot<S, T>)> {
        let id = *self.ids.get(self.taken)?;
        self.taken += 1;
        let slot = slots.get_mut(id)?;
        slot.queued = false;
        Some((id, slot))
    }

    /// Queues slots in place of one that was missed, and gives memory back when a crowd is gone. To be
    /// called before each poll.
    pub(super) fn tidy<S, T>(&mut self, slots: &mut Slots<S, T>) {
        if self.taken > 0 {
            if self.len() == 0 {
                self.ids.clear();
            } else {
                self.ids.drain(..self.taken);
            }
            self.taken = 0;
        }
        if self.unseen > 0 {
            self.queue_unseen(slots);
        }
        if self.ids.capacity() > 4 * KEPT {
            self.shrink(slots.len());
        }
    }

    #[cold]
    fn queue_unseen<S, T>(&mut self, slots: &mut Slots<S, T>) {
        self.unseen = self.unseen.min(slots.bound());
        while self.unseen > 0 && self.ids.len() < self.ids.capacity() {
            self.unseen -= 1;
            self.next_unseen = (self.next_unseen + 1) % slots.bound();
            let Some(id) = slots.id_in(self.next_unseen) else { continue };
            let slot = slots.get_mut(id).expect("it was found just now");
            self.push(slot, id);
        }
    }

    #[cold]
    fn shrink(&mut self, connections: usize) {
        let need = connections.max(KEPT);
        if self.ids.is_empty() && self.ids.capacity() / 4 > need {
            self.ids.shrink_to(need);
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl RunQueue {
    /// Connections in the queue that are still there.
    pub(super) fn present<S, T>(&self, slots: &Slots<S, T>) -> usize {
        self.ids[self.taken..].iter().filter(|id| slots.get(**id).is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Ready;

    /// Gives each queued connection its turn.
    fn turn(queue: &mut RunQueue, slots: &mut Slots<(), ()>) -> Vec<ConnId> {
        (0..queue.len()).filter_map(|_| Some(queue.pop(slots)?.0)).collect()
    }

    #[test]
    fn one_that_finds_no_memory_has_its_turn_later() {
        let (mut queue, mut slots) = (RunQueue::new(), Slots::new());
        let all: Vec<_> = (0..1000).map(|_| slots.insert((), (), Ready::NONE)).collect();
        queue.starved = true;
        for id in &all {
            queue.push(slots.get_mut(*id).unwrap(), *id);
        }
        let mut seen = turn(&mut queue, &mut slots);
        assert_eq!(seen, all[..queue.ids.capacity()]);
        assert!(!queue.is_idle(), "the others were missed");
        for turns in 1.. {
            // New events must not keep the search from its end.
            queue.tidy(&mut slots);
            queue.push(slots.get_mut(all[0]).unwrap(), all[0]);
            seen.extend(turn(&mut queue, &mut slots));
            if all.iter().all(|id| seen.contains(id)) {
                break;
            }
            assert!(turns < 20, "{} of {} had a turn", seen.len(), all.len());
        }
        queue.starved = false;
        while !queue.is_idle() {
            queue.tidy(&mut slots);
            turn(&mut queue, &mut slots);
        }
    }

    #[test]
    fn the_queue_of_a_crowd_is_given_back() {
        let (mut queue, mut slots) = (RunQueue::new(), Slots::new());
        let all: Vec<_> = (0..100_000).map(|_| slots.insert((), (), Ready::NONE)).collect();
        for id in &all {
            queue.push(slots.get_mut(*id).unwrap(), *id);
        }
        queue.tidy(&mut slots);
        assert_eq!(turn(&mut queue, &mut slots), all);
        queue.tidy(&mut slots);
        assert!(queue.ids.capacity() >= all.len(), "the crowd is still there");
        for id in all {
            slots.remove(id);
        }
        queue.tidy(&mut slots);
        assert!(queue.ids.capacity() <= 4 * KEPT);
    }

    #[test]
    fn an_empty_queue_gives_the_memory_of_a_crowd_back() {
        let mut slots = Slots::<(), ()>::new();
        let id = slots.insert((), (), Ready::NONE);
        for (capacity, has_one, left) in [
            (4 * KEPT + 3, false, 4 * KEPT + 3),
            (4 * KEPT + 4, false, KEPT),
            (4 * KEPT + 4, true, 4 * KEPT + 4),
        ] {
            let mut queue = RunQueue::new();
            queue.ids = Vec::with_capacity(capacity);
            queue.ids.extend(Some(id).filter(|_| has_one));
            queue.tidy(&mut slots);
            assert_eq!(queue.ids.capacity(), left);
        }
    }

    #[cfg(feature = "page")]
    #[test]
    fn a_place_counts_those_before_it() {
        let (mut queue, mut slots) = (RunQueue::new(), Slots::<(), ()>::new());
        let all = [(); 3].map(|()| slots.insert((), (), Ready::NONE));
        for id in all {
            queue.push(slots.get_mut(id).unwrap(), id);
        }
        assert_eq!(all.map(|id| queue.place(id)), [Some(0), Some(1), Some(2)]);
        queue.pop(&mut slots);
        assert_eq!(all.map(|id| queue.place(id)), [None, Some(0), Some(1)]);
    }
}
