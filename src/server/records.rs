//! A row for each connection: what an operator asks about it, and what the loop itself does not need.
//!
//! The rows stand beside the slots, at the same indices, and exist only if they are asked for. So a slot
//! stays small, and a server without them pays one branch for a turn of a connection.

use std::collections::TryReserveError;
use std::net::SocketAddr;
use std::time::Duration;

use super::{ConnId, Server};
use crate::auth::{KeyId, KeyName};
use crate::proto::wire::{Reader, put_address};
use crate::proto::{Disguise, Handler};
use crate::python::Monotonic;
use crate::reactor::Kernel;

/// Facts about one connection, open or just ended, at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The peer's address; `None` if the peer was gone before it could be read. Behind a balancer it is
    /// the client's, once a PROXY header names it.
    pub peer: Option<SocketAddr>,
    /// Position of the listener that it came through in [`Server::addresses`](super::Server::addresses).
    /// Beyond 65,535 all have that number.
    pub listener: u16,
    /// The key under which it authenticated; `None` before.
    pub key: Option<KeyName>,
    /// Time since it was accepted.
    pub age: Duration,
    /// Time since the last turn in which a byte was received or sent, at first since it was accepted.
    pub idle: Duration,
    /// Bytes received, a PROXY header and the digest included.
    pub bytes_received: u64,
    /// Bytes that the kernel took, the challenge included.
    pub bytes_sent: u64,
}

/// A record as it is kept, with times of the loop's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) peer: Option<SocketAddr>,
    listener: u16,
    key: Option<KeyName>,
    opened_at: Monotonic,
    active_at: Monotonic,
    bytes_received: u64,
    bytes_sent: u64,
}

impl Row {
    /// A connection that was accepted at `now`.
    pub(super) fn new(peer: Option<SocketAddr>, listener: usize, now: Monotonic) -> Self {
        Self {
            peer,
            listener: u16::try_from(listener).unwrap_or(u16::MAX),
            key: None,
            opened_at: now,
            active_at: now,
            bytes_received: 0,
            bytes_sent: 0,
        }
    }

    /// Adds the bytes of a turn at `now`.
    fn add(&mut self, received: u64, sent: u64, now: Monotonic) {
        self.bytes_received += received;
        self.bytes_sent += sent;
        self.active_at = now;
    }

    /// Writes it for another loop.
    pub(super) fn park(&self, disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        let Self { peer, listener, key, opened_at, active_at, bytes_received, bytes_sent } = self;
        put_address(out, peer.map(|peer| disguise.address(peer)));
        out.extend(listener.to_le_bytes());
        put_key(out, *key, disguise);
        for number in [opened_at.as_nanos(), active_at.as_nanos(), *bytes_received, *bytes_sent] {
            out.extend(number.to_le_bytes());
        }
    }

    /// Reads what [`park`](Self::park) wrote; `None` if that is impossible.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let row = Self {
            peer: reader.address()?,
            listener: reader.u16()?,
            key: read_key(&mut reader)?,
            opened_at: Monotonic::from_nanos(reader.u64()?),
            active_at: Monotonic::from_nanos(reader.u64()?),
            bytes_received: reader.u64()?,
            bytes_sent: reader.u64()?,
        };
        reader.rest().is_empty().then_some(row)
    }

    fn at(&self, now: Monotonic) -> Record {
        Record {
            peer: self.peer,
            listener: self.listener,
            key: self.key,
            age: now.since(self.opened_at),
            idle: now.since(self.active_at),
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
        }
    }
}

/// Writes the name of a key, or none: a tag and the identifier.
pub(super) fn put_key(out: &mut Vec<u8>, key: Option<KeyName>, disguise: &mut dyn Disguise) {
    let id = key.and_then(KeyName::id).map(|id| disguise.key(id));
    out.push(match (key, id) {
        (None, _) => 0,
        (Some(_), Some(_)) => 1,
        (Some(_), None) => 2,
    });
    out.extend(id.map_or([0; 4], KeyId::to_bytes));
}

#[allow(clippy::option_option)] // The outer one is for what is impossible.
pub(super) fn read_key(reader: &mut Reader<'_>) -> Option<Option<KeyName>> {
    let (tag, id) = (reader.u8()?, reader.array()?);
    match tag {
        0 => Some(None),
        1 => Some(Some(KeyName::from_id(Some(KeyId::from_bytes(id))))),
        2 => Some(Some(KeyName::from_id(None))),
        _ => None,
    }
}

/// The memory that records cost for each connection.
const _: () = assert!(size_of::<Option<Row>>() == 72);

/// Rows for which memory is kept without connections.
const KEPT: usize = 1024;

/// Rows beyond which glibc maps a block by itself, so that its memory returns to the system when a crowd
/// is gone (mallopt(3), M_MMAP_THRESHOLD).
const RESERVED: usize = (32 << 20) / size_of::<Option<Row>>() + 1;

/// The records of the open connections, by slot.
#[derive(Debug, Default)]
pub(super) struct Records {
    rows: Vec<Option<Row>>,
    /// The loop's bytes received and sent, as far as they are in a row or belong to none.
    counted: (u64, u64),
}

impl Records {
    /// Makes room for `rows` in all.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn make_room(&mut self, rows: usize) -> Result<(), TryReserveError> {
        if rows <= self.rows.capacity() {
            return Ok(());
        }
        let more = rows - self.rows.len();
        // Address space, of which memory is what was touched.
        let reserved = self.rows.try_reserve(more.max(RESERVED));
        reserved.or_else(|_| self.rows.try_reserve(more))
    }

    /// Adds the row of a new connection, for which there is room.
    pub(super) fn insert(&mut self, id: ConnId, row: Row) {
        let index = id.index as usize;
        if self.rows.len() <= index {
            self.rows.resize(index + 1, None);
        }
        self.rows[index] = Some(row);
    }

    /// The record of an open connection; `None` if it was accepted before records were kept.
    fn get(&self, id: ConnId, now: Monotonic) -> Option<Record> {
        Some(self.rows.get(id.index as usize)?.as_ref()?.at(now))
    }

    pub(super) fn row(&self, id: ConnId) -> Option<&Row> {
        self.rows.get(id.index as usize)?.as_ref()
    }

    pub(super) fn row_mut(&mut self, id: ConnId) -> Option<&mut Row> {
        self.rows.get_mut(id.index as usize)?.as_mut()
    }

    /// Frees the row of a connection that has ended.
    fn remove(&mut self, id: ConnId) {
        if let Some(row) = self.rows.get_mut(id.index as usize) {
            *row = None;
        }
    }

    /// Gives memory back once nothing is left of a crowd, as the slots do.
    fn shrink(&mut self) {
        if self.rows.len() > KEPT {
            self.rows = Vec::new();
        }
    }

    /// Counts the bytes from here on.
    pub(super) const fn count_from(&mut self, moved: (u64, u64)) {
        self.counted = moved;
    }

    /// Connections that have a record.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn len(&self) -> usize {
        self.rows.iter().flatten().count()
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Keeps a [`Record`] of each connection accepted from now on, or stops keeping any. 72 bytes for
    /// each connection of the largest crowd, until the last connection is gone; a branch for each turn
    /// of a connection. Off at first.
    pub fn keep_records(&mut self, keep: bool) {
        if keep != self.records.is_some() {
            let counted = self.stats.bytes_moved();
            self.records = keep.then(|| Records { counted, ..Records::default() });
        }
    }

    /// The record of an open connection. `None` if it is gone, or was accepted while no records were
    /// kept.
    pub fn record(&self, id: ConnId) -> Option<Record> {
        self.reactor.slots.get(id)?;
        self.record_of(id)
    }

    /// The same of one that is about to have a slot, or had one just now.
    pub(super) fn record_of(&self, id: ConnId) -> Option<Record> {
        self.records.as_ref()?.get(id, self.reactor.now())
    }

    /// Adds what a turn of a connection moved to its record. To be called after each turn.
    pub(super) fn note_moved(&mut self, id: ConnId) {
        let Some(records) = &mut self.records else { return };
        let (received_now, sent_now) = self.stats.bytes_moved();
        let (received, sent) = std::mem::replace(&mut records.counted, (received_now, sent_now));
        let (received, sent) = (received_now - received, sent_now - sent);
        if received + sent > 0
            && let Some(row) = records.row_mut(id)
        {
            row.add(received, sent, self.reactor.now());
        }
    }

    /// Adds the key under which a connection authenticated to its record.
    pub(super) fn note_key(&mut self, id: ConnId, key: Option<KeyName>) {
        if let Some(row) = self.records.as_mut().and_then(|records| records.row_mut(id)) {
            row.key = key;
        }
    }

    /// Frees the record of a connection that has ended.
    pub(super) fn forget_record(&mut self, id: ConnId) {
        let Some(records) = &mut self.records else { return };
        records.remove(id);
        if self.reactor.slots.is_empty() {
            records.shrink();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Keyring;
    use crate::proto::{Config, Undisguised, Upper};
    use crate::server::Limits;
    use crate::sim::{Faults, SimKernel};

    fn id(index: u32) -> ConnId {
        ConnId { index, generation: index + 1 }
    }

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_row_belongs_to_one_connection_at_a_time() {
        let mut records = Records::default();
        records.remove(id(3));
        assert_eq!(records.get(id(3), at(0)), None);
        let peer = Some(SocketAddr::from(([192, 0, 2, 1], 1024)));
        records.insert(id(3), Row::new(peer, 1, at(10)));
        records.row_mut(id(3)).unwrap().add(16, 32, at(15));
        let record = records.get(id(3), at(18)).unwrap();
        assert_eq!((record.age, record.idle), (Duration::from_millis(8), Duration::from_millis(3)));
        assert_eq!((record.bytes_received, record.bytes_sent), (16, 32));
        assert_eq!((record.peer, record.listener, record.key), (peer, 1, None));
        assert_eq!(records.get(id(2), at(18)), None);
        records.remove(id(3));
        assert_eq!(records.get(id(3), at(18)), None);
        records.insert(id(3), Row::new(None, 0, at(20)));
        assert_eq!(records.get(id(3), at(20)).unwrap().bytes_sent, 0);
        assert_eq!(records.len(), 1);
    }

    #[test]
    fn the_end_of_a_crowd_frees_its_rows_and_the_end_of_a_few_does_not() {
        for (crowd, kept) in [(1024, true), (1025, false)] {
            let mut records = Records::default();
            records.make_room(crowd as usize).unwrap();
            let room = records.rows.capacity();
            (0..crowd).for_each(|index| records.insert(id(index), Row::new(None, 0, at(0))));
            assert_eq!(records.rows.capacity(), room, "room was made before");
            assert_eq!(records.len(), crowd as usize);
            (0..crowd).for_each(|index| records.remove(id(index)));
            assert_eq!(records.len(), 0);
            records.shrink();
            assert_eq!(records.rows.capacity() > 0, kept, "after {crowd}");
        }
    }

    #[test]
    fn a_listener_beyond_the_last_number_has_the_last() {
        assert_eq!(Row::new(None, 70_000, at(0)).at(at(0)).listener, u16::MAX);
    }
    /// 32 MiB and more are mapped by themselves; what is not touched costs nothing.
    #[test]
    fn the_rows_of_a_server_are_a_block_of_their_own_from_the_first_connection_on() {
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(4));
        let kernel = SimKernel::new(1, Faults::none());
        let mut server = Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap();
        server.keep_records(true);
        server.kernel_mut().connect(100, 100, 100);
        server.turn().unwrap();
        let records = server.records.as_ref().unwrap();
        assert_eq!(records.len(), 1);
        let bytes = records.rows.capacity() * 72;
        assert!(bytes > 32 << 20 && bytes <= (32 << 20) + 72, "{bytes} bytes");
    }

    #[test]
    fn the_key_of_a_row_is_read_as_it_was_written() {
        let known = KeyName::from_id(Some(KeyId::from_bytes([1, 2, 3, 4])));
        for (key, tag) in [(None, 0), (Some(known), 1), (Some(KeyName::from_id(None)), 2)] {
            let mut bytes = Vec::new();
            put_key(&mut bytes, key, &mut Undisguised);
            assert_eq!((bytes[0], bytes.len()), (tag, 5));
            assert_eq!(read_key(&mut Reader::new(&bytes)), Some(key));
        }
        assert_eq!(read_key(&mut Reader::new(&[3, 0, 0, 0, 0])), None);
    }
}
