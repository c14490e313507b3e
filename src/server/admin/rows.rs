//! Lists of connections, and the search for one, a limited number of slots a turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;

use super::query::{MAX_SORTED, Query, Sort, SortKey};
use super::routes;
use crate::proto::http::{Progress, Response};
use crate::proto::{CloseReason, ConnId, Connection, Handler};
use crate::reactor::Kernel;
use crate::reactor::slots::Slots;
use crate::server::Server;

/// Slots that are looked at in one turn: some tens of microseconds.
const SLOTS_PER_TURN: u32 = 1024;

/// A list of connections in progress. It shows each connection that is there from the beginning to
/// the end once, and of those that come and go meanwhile some.
pub(super) struct Rows {
    query: Query,
    /// The name of the connection after the newest at the beginning. Ages count from it, and a
    /// sorted list has none that is newer.
    after: Option<ConnId>,
    /// The next slot to look at.
    next: u32,
    left: usize,
    /// The first rows of a sorted list, as far as they are known; the last of them on top.
    top: BinaryHeap<Reverse<Ranked>>,
    /// The rows of a sorted list in reverse, once all slots have been looked at.
    sorted: Option<Vec<Reverse<Ranked>>>,
}

/// A connection with its place in a sorted list: a higher rank comes first, and of equal ones the
/// older connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    rank: u64,
    age: u32,
    index: u32,
}

impl Rows {
    pub(super) fn new(query: Query) -> Self {
        let left = query.limit;
        Self { query, after: None, next: 0, left, top: BinaryHeap::new(), sorted: None }
    }

    /// Appends about `max` bytes of rows, or looks at as many slots as it may.
    pub(super) fn fill<S, H: Handler>(
        &mut self,
        slots: &Slots<S, Connection<H>>,
        out: &mut Vec<u8>,
        max: usize,
    ) -> Progress {
        let (begin, after) = (out.len(), *self.after.get_or_insert(slots.next_id()));
        let end = self.next.saturating_add(SLOTS_PER_TURN).min(slots.bound());
        if self.sorted.is_none() {
            while self.next < end && self.left > 0 && out.len() - begin < max {
                self.next += 1;
                let Some(id) = slots.id_in(self.next - 1) else { continue };
                self.look_at(slots, id, after, out);
            }
            if self.next < slots.bound() && self.left > 0 {
                return Progress::More;
            }
            if self.query.sort.is_none() {
                return Progress::Done;
            }
        }
        let top = std::mem::take(&mut self.top);
        let sorted = self.sorted.get_or_insert_with(|| {
            let mut sorted = top.into_sorted_vec();
            sorted.reverse();
            sorted
        });
        while let Some(Reverse(row)) = sorted.pop() {
            // It may have ended since.
            if let Some(id) = slots.id_in(row.index).filter(|id| after.age_after(*id) == row.age) {
                write_row(slots, id, out);
            }
            if out.len() - begin >= max {
                return Progress::More;
            }
        }
        Progress::Done
    }

    fn look_at<S, H: Handler>(
        &mut self,
        slots: &Slots<S, Connection<H>>,
        id: ConnId,
        after: ConnId,
        out: &mut Vec<u8>,
    ) {
        let connection = &slots.get(id).expect("it was just found").connection;
        if self.query.state.is_some_and(|name| name != connection.state().name()) {
            return;
        }
        let Some(Sort { key, reversed }) = self.query.sort else {
            self.left -= 1;
            return write_row(slots, id, out);
        };
        let age = after.age_after(id);
        if age > u32::MAX / 2 {
            return; // It came after the beginning: numbers go round.
        }
        let rank = match key {
            SortKey::Id => age.into(),
            SortKey::Unsent => connection.unsent() as u64,
        };
        let rank = if reversed { u64::MAX - rank } else { rank };
        self.top.push(Reverse(Ranked { rank, age, index: id.index }));
        if self.top.len() > self.query.limit.min(MAX_SORTED) {
            self.top.pop();
        }
    }
}

fn write_row<S, H: Handler>(slots: &Slots<S, Connection<H>>, id: ConnId, out: &mut Vec<u8>) {
    let connection = &slots.get(id).expect("it was just found").connection;
    writeln!(
        out,
        "{{\"id\":{},\"state\":\"{}\",\"unsent\":{}}}",
        id.generation,
        connection.state().name(),
        connection.unsent()
    )
    .expect("a Vec takes every byte");
}

/// The search for a connection by its number.
pub(super) struct Search {
    number: u32,
    next: u32,
}

impl Search {
    pub(super) const fn new(number: u32) -> Self {
        Self { number, next: 0 }
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Kills a connection, or goes on looking for it.
    pub(super) fn kill(&mut self, search: &mut Search) -> Option<Response> {
        let slots = &self.reactor.slots;
        let end = search.next.saturating_add(SLOTS_PER_TURN).min(slots.bound());
        let ids = (search.next..end).filter_map(|index| slots.id_in(index));
        if let Some(id) = ids.into_iter().find(|id| id.generation == search.number) {
            self.abort(id, CloseReason::Killed);
            return Some(routes::killed(search.number));
        }
        search.next = end;
        (end >= slots.bound()).then(|| routes::no_connection(search.number))
    }
}
