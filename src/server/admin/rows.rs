//! Lists of connections, and the search for one, a limited number of slots at a time.
//!
//! Both may go from loop to loop, so they hold nothing of the loop that they are at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;

use super::query::{Query, SortKey};
use crate::proto::http::Progress;
use crate::proto::{CloseReason, ConnId, Handler};
use crate::reactor::{Kernel, Note};
use crate::server::{Record, Server};

/// Slots that are looked at in one turn.
const SLOTS_PER_TURN: u32 = 1024;

/// A list of connections in progress. Of a loop it shows each connection once that is there from the
/// beginning to the end, and of those that come and go meanwhile some.
pub(super) struct Rows {
    query: Query,
    /// The next slot to look at.
    next: u32,
    /// Rows that may still be written.
    left: usize,
    /// The first rows of a sorted list, as far as they are known; the last of them on top.
    top: BinaryHeap<Reverse<Ranked>>,
    /// The rows of a sorted list in reverse, once all connections have been looked at.
    sorted: Option<Vec<Reverse<Ranked>>>,
}

/// A row with its place in a sorted list: the highest rank comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    rank: u64,
    text: Vec<u8>,
}

impl Rows {
    pub(super) const fn new(query: Query) -> Self {
        Self { query, next: 0, left: query.limit, top: BinaryHeap::new(), sorted: None }
    }

    /// Looks at some connections of a loop, which has this number if there are several. Appends
    /// about `max` bytes of rows, unless the list is sorted. Done when it has seen the whole loop.
    pub(super) fn visit<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &Server<K, H>,
        worker: Option<usize>,
        out: &mut Vec<u8>,
        max: usize,
    ) -> Progress {
        let begin = out.len();
        let slots = &server.reactor.slots;
        let end = self.next.saturating_add(SLOTS_PER_TURN).min(slots.bound());
        while self.next < end && self.left > 0 && out.len() - begin < max {
            self.next += 1;
            if let Some(id) = slots.id_in(self.next - 1) {
                self.look_at(server, worker, id, out);
            }
        }
        if self.next < slots.bound() && self.left > 0 {
            return Progress::More;
        }
        self.next = 0;
        Progress::Done
    }

    fn look_at<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &Server<K, H>,
        worker: Option<usize>,
        id: ConnId,
        out: &mut Vec<u8>,
    ) {
        let slots = &server.reactor.slots;
        let connection = &slots.get(id).expect("it was just found").connection;
        let row = Row {
            worker,
            id,
            state: connection.state().name(),
            unsent: connection.unsent(),
            record: server.record(id),
        };
        if self.query.state.is_some_and(|name| name != row.state) {
            return;
        }
        let Some(sort) = self.query.sort else {
            self.left -= 1;
            return row.write(out);
        };
        // Without records the older one has the lower number. Numbers go round, like `age_after`.
        let age = slots.next_id().age_after(id).into();
        let rank = row.rank(sort.key, age);
        let rank = if sort.reversed { u64::MAX - rank } else { rank };
        if self.top.len() == self.query.limit {
            let last = self.top.peek_mut();
            match last.filter(|last| last.0.rank < rank) {
                Some(last) => drop(std::collections::binary_heap::PeekMut::pop(last)),
                None => return,
            }
        }
        let mut text = Vec::new();
        row.write(&mut text);
        self.top.push(Reverse(Ranked { rank, text }));
    }

    /// Appends about `max` bytes of a sorted list, once the last loop has been seen.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>, max: usize) -> Progress {
        let begin = out.len();
        let top = std::mem::take(&mut self.top);
        let sorted = self.sorted.get_or_insert_with(|| {
            let mut sorted = top.into_sorted_vec();
            sorted.reverse();
            sorted
        });
        while let Some(Reverse(row)) = sorted.pop() {
            out.extend_from_slice(&row.text);
            if out.len() - begin >= max {
                return Progress::More;
            }
        }
        Progress::Done
    }
}

/// One connection in a list.
struct Row {
    worker: Option<usize>,
    id: ConnId,
    state: &'static str,
    unsent: usize,
    record: Option<Record>,
}

impl Row {
    fn rank(&self, key: SortKey, age: u64) -> u64 {
        let record = self.record.as_ref();
        let of_record = |read: fn(&Record) -> u64| record.map_or(0, read);
        match key {
            SortKey::Age => record.map_or(age, |record| nanos(record.age)),
            SortKey::Idle => of_record(|record| nanos(record.idle)),
            SortKey::Received => of_record(|record| record.bytes_received),
            SortKey::Sent => of_record(|record| record.bytes_sent),
            SortKey::Unsent => self.unsent as u64,
        }
    }

    /// Appends it as an object in JSON. No text in it needs an escape.
    fn write(&self, out: &mut Vec<u8>) {
        let Self { id, state, unsent, .. } = self;
        let mut add = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("a Vec takes every byte");
        };
        add(format_args!("{{"));
        if let Some(worker) = self.worker {
            add(format_args!("\"worker\":{worker},"));
        }
        add(format_args!("\"id\":{},\"state\":\"{state}\",\"unsent\":{unsent}", id.generation));
        if let Some(record) = &self.record {
            if let Some(peer) = record.peer {
                add(format_args!(",\"peer\":\"{peer}\""));
            }
            if let Some(key) = record.key {
                add(format_args!(",\"key\":\"{key}\""));
            }
            add(format_args!(
                ",\"listener\":{},\"age_ms\":{},\"idle_ms\":{},\"received\":{},\"sent\":{}",
                record.listener,
                record.age.as_millis(),
                record.idle.as_millis(),
                record.bytes_received,
                record.bytes_sent
            ));
        }
        add(format_args!("}}\n"));
    }
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The search for a connection that is to be killed, by its number.
pub(super) struct Search {
    pub(super) number: u32,
    next: u32,
    pub(super) found: bool,
}

impl Search {
    pub(super) const fn new(number: u32) -> Self {
        Self { number, next: 0, found: false }
    }

    /// Looks at some connections of a loop, and kills the one that is wanted.
    pub(super) fn visit<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &mut Server<K, H>,
    ) -> Progress {
        let slots = &server.reactor.slots;
        let end = self.next.saturating_add(SLOTS_PER_TURN).min(slots.bound());
        let mut ids = (self.next..end).filter_map(|index| slots.id_in(index));
        if let Some(id) = ids.find(|id| id.generation == self.number) {
            server.reactor.kernel.note(|| Note::Killed(id));
            server.abort(id, CloseReason::Killed);
            self.found = true;
            return Progress::Done;
        }
        self.next = end;
        if end < slots.bound() { Progress::More } else { Progress::Done }
    }
}
