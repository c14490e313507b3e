//! Values in numbered places. The place that was given back last is used first.
//!
//! The crate of this name does the same, and hides the order in which vacant places will be used. A
//! snapshot of a loop needs it: the places of connections are part of their names.

use std::ops::{Index, IndexMut};

pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    len: usize,
    /// The place to be used next: the first of the vacant ones, or the end.
    next: usize,
}

enum Entry<T> {
    /// With the place to be used after it.
    Vacant(usize),
    Occupied(T),
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), len: 0, next: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// The number of places that were ever in use: every place is below it.
    pub(super) const fn bound(&self) -> usize {
        self.entries.len()
    }

    /// Makes room for so many more values.
    pub(super) fn reserve_exact(&mut self, more: usize) {
        let vacant = self.entries.len() - self.len;
        self.entries.reserve_exact(more.saturating_sub(vacant));
    }

    /// The place of the value to be inserted next.
    pub(super) const fn vacant_key(&self) -> usize {
        self.next
    }

    pub(super) fn insert(&mut self, value: T) -> usize {
        let key = self.next;
        self.len += 1;
        if key == self.entries.len() {
            self.entries.push(Entry::Occupied(value));
            self.next = key + 1;
        } else {
            self.next = match self.entries.get(key) {
                Some(&Entry::Vacant(next)) => next,
                _ => unreachable!("the next place is vacant"),
            };
            self.entries[key] = Entry::Occupied(value);
        }
        key
    }

    pub(super) fn get(&self, key: usize) -> Option<&T> {
        match self.entries.get(key) {
            Some(Entry::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        match self.entries.get_mut(key) {
            Some(Entry::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    /// # Panics
    /// If the place is vacant.
    pub(super) fn remove(&mut self, key: usize) -> T {
        let entry = self.entries.get_mut(key).filter(|entry| matches!(entry, Entry::Occupied(_)));
        let entry = entry.expect("the place is occupied");
        match std::mem::replace(entry, Entry::Vacant(self.next)) {
            Entry::Occupied(value) => {
                self.len -= 1;
                self.next = key;
                value
            }
            Entry::Vacant(_) => unreachable!("it was occupied just now"),
        }
    }

    /// The vacant places, in the order in which they will be used.
    pub(super) fn vacant(&self) -> impl Iterator<Item = usize> + '_ {
        let after = |key: &usize| match self.entries.get(*key) {
            Some(Entry::Vacant(next)) => Some(*next),
            _ => None,
        };
        std::iter::successors(Some(self.next), after).take_while(|key| *key < self.entries.len())
    }

    /// Changes the order of the vacant places. False, and no change, if these are not all of them.
    #[must_use]
    pub(super) fn set_vacant(&mut self, order: &[usize]) -> bool {
        let mut known: Vec<usize> = order.to_vec();
        known.sort_unstable();
        let vacant = |key: &usize| matches!(self.entries[*key], Entry::Vacant(_));
        let is_all = known.iter().copied().eq((0..self.entries.len()).filter(vacant));
        if is_all {
            self.next = self.entries.len();
            for key in order.iter().rev() {
                self.entries[*key] = Entry::Vacant(self.next);
                self.next = *key;
            }
        }
        is_all
    }

    /// Adds vacant places until there are so many in all.
    pub(super) fn extend_to(&mut self, bound: usize) {
        while self.entries.len() < bound {
            let key = self.entries.len();
            self.entries.push(Entry::Vacant(self.next));
            self.next = key;
        }
    }
}

/// In any order, none twice. The vacant places between them are used from the lowest on.
impl<T> FromIterator<(usize, T)> for Slab<T> {
    fn from_iter<I: IntoIterator<Item = (usize, T)>>(values: I) -> Self {
        let mut slab = Self::new();
        for (key, value) in values {
            while slab.entries.len() <= key {
                slab.entries.push(Entry::Vacant(0));
            }
            slab.entries[key] = Entry::Occupied(value);
            slab.len += 1;
        }
        slab.next = slab.entries.len();
        for key in (0..slab.entries.len()).rev() {
            if let Entry::Vacant(next) = &mut slab.entries[key] {
                *next = std::mem::replace(&mut slab.next, key);
            }
        }
        slab
    }
}

impl<T> Index<usize> for Slab<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        self.get(key).expect("the place is occupied")
    }
}

impl<T> IndexMut<usize> for Slab<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        self.get_mut(key).expect("the place is occupied")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_used_again_before_a_new_one() {
        let mut slab = Slab::new();
        assert_eq!(["a", "b", "c"].map(|value| slab.insert(value)), [0, 1, 2]);
        assert_eq!((slab.remove(0), slab.remove(2)), ("a", "c"));
        assert_eq!(slab.vacant().collect::<Vec<_>>(), [2, 0]);
        assert_eq!((slab.vacant_key(), slab.insert("d"), slab.insert("e")), (2, 2, 0));
        assert_eq!((slab.insert("f"), slab.len(), slab.bound()), (3, 4, 4));
        assert_eq!((slab.get(2), slab[1], slab.get(9)), (Some(&"d"), "b", None));
    }

    proptest! {
        /// A slab that was made anew goes on like the one that it was made from.
        #[test]
        fn a_copy_gives_the_same_places(
            acts in proptest::collection::vec(any::<Option<u8>>(), 1..60),
            later in 1..20_usize,
        ) {
            let mut slab = Slab::new();
            for act in acts {
                match act.map(usize::from) {
                    Some(key) if slab.get(key % 16).is_some() => slab.remove(key % 16),
                    _ => {
                        slab.insert(());
                    }
                }
            }
            let values = (0..slab.bound()).rev().filter(|key| slab.get(*key).is_some());
            let mut copy: Slab<()> = values.map(|key| (key, ())).collect();
            copy.extend_to(slab.bound());
            let vacant: Vec<usize> = slab.vacant().collect();
            prop_assert!(copy.set_vacant(&vacant));
            prop_assert!(vacant.is_empty() || !copy.set_vacant(&vacant[1..]), "one is missing");
            prop_assert_eq!((copy.len(), copy.bound()), (slab.len(), slab.bound()));
            for _ in 0..later {
                prop_assert_eq!(copy.insert(()), slab.insert(()));
            }
        }
    }
}
