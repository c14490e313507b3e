//! The sending side: a frozen server as a sequence of chunks.

use std::iter::Peekable;

use bytes::Bytes;

use super::record::{ConnectionRecord, CounterRecord, LoopRecord, SuspectRecord, UnsentRecord};
use super::{Frozen, Kind, Lent, MAX_BYTES, MAX_SOCKETS, Totals, record};
use crate::proto::{ConnId, Handler};
use crate::reactor::{Adopt, Kernel};
use crate::server::admission::Source;

/// A part of a frozen server, to be sent in one message.
pub struct Chunk<'a, K: Kernel> {
    /// The kind of its records.
    pub kind: Kind,
    /// Number of records.
    pub count: u32,
    /// Length of each record in bytes.
    pub record_size: u16,
    /// The records, one after the other, and behind them the bytes that belong to them.
    pub payload: Vec<u8>,
    /// The sockets that go with the records, in their order. They stay the server's.
    pub sockets: Vec<Lent<'a, K>>,
}

/// The chunks of a frozen server, each made when it is asked for: nothing is copied as a whole.
pub struct Chunks<'a, K: Kernel, H> {
    frozen: &'a Frozen<K, H>,
    next: Step,
    listeners: usize,
    connections: Peekable<Box<dyn Iterator<Item = ConnId> + 'a>>,
    messages: Peekable<Box<dyn Iterator<Item = (ConnId, &'a Bytes)> + 'a>>,
    /// Bytes of the next message that are sent.
    offset: usize,
    suspects: Peekable<Box<dyn Iterator<Item = (Source, bool)> + 'a>>,
    totals: Totals,
}

/// The kind of the next chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Loop,
    Listeners,
    AdminListener,
    Connections,
    Unsent,
    Suspects,
    Counters,
    Done,
}

/// The room for a piece of a message at which it is worth its record.
const LEAST_PIECE: usize = 1024;

impl<'a, K: Kernel, H: Handler + Clone> Chunks<'a, K, H> {
    pub(super) fn new(frozen: &'a Frozen<K, H>) -> Self {
        let slots = &frozen.server.reactor.slots;
        let moving = || slots.ids().filter(|id| !frozen.staying.contains(id));
        let messages = moving().flat_map(|id| {
            let slot = slots.get(id).expect("it was just listed");
            slot.connection.messages().map(move |message| (id, message))
        });
        let suspects = frozen.server.acceptor.unauthenticated.suspects().1;
        Self {
            frozen,
            next: Step::Loop,
            listeners: 0,
            connections: (Box::new(moving()) as Box<dyn Iterator<Item = _>>).peekable(),
            messages: (Box::new(messages) as Box<dyn Iterator<Item = _>>).peekable(),
            offset: 0,
            suspects: (Box::new(suspects) as Box<dyn Iterator<Item = _>>).peekable(),
            totals: Totals::default(),
        }
    }

    /// The numbers of what was sent so far; of all of it, behind the last chunk.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    fn chunk(&self, kind: Kind, record_size: usize) -> Chunk<'a, K> {
        let record_size = u16::try_from(record_size).expect("a record is short");
        Chunk { kind, count: 0, record_size, payload: Vec::new(), sockets: Vec::new() }
    }

    fn begin(&mut self) -> Chunk<'a, K> {
        let (server, frozen) = (&self.frozen.server, self.frozen);
        let mut chunk = self.chunk(Kind::Loop, LoopRecord::LEN);
        let connections = server.reactor.slots.len() - frozen.staying.len();
        chunk.add(|out| LoopRecord::of(server, connections).write(out));
        self.totals.loops += 1;
        chunk
    }

    fn some_listeners(&mut self) -> Option<Chunk<'a, K>> {
        let listeners = &self.frozen.server.acceptor.listeners[self.listeners..];
        let mut chunk = self.chunk(Kind::Listener, record::LISTENER);
        for listening in listeners.iter().take(MAX_SOCKETS) {
            chunk.add(|out| record::write_flag(listening.is_proxied(), out));
            chunk.sockets.push(Lent::Listener(&listening.listener));
        }
        self.listeners += chunk.sockets.len();
        self.totals.listeners += u64::from(chunk.count);
        chunk.unless_empty()
    }

    fn some_connections(&mut self) -> Option<Chunk<'a, K>> {
        let server = &self.frozen.server;
        let mut chunk = self.chunk(Kind::Connection, ConnectionRecord::LEN);
        let mut details = Vec::new();
        while let Some(&id) = self.connections.peek() {
            let before = details.len();
            let record = ConnectionRecord::of(server, id, &mut details);
            let len = chunk.payload.len() + ConnectionRecord::LEN + details.len();
            if chunk.sockets.len() == MAX_SOCKETS || len > MAX_BYTES && chunk.count > 0 {
                details.truncate(before);
                break;
            }
            chunk.add(|out| record.write(out));
            let slot = server.reactor.slots.get(id).expect("it is frozen");
            chunk.sockets.push(Lent::Stream(&slot.stream));
            self.connections.next();
        }
        chunk.payload.append(&mut details);
        self.totals.connections += u64::from(chunk.count);
        chunk.unless_empty()
    }

    fn some_messages(&mut self) -> Option<Chunk<'a, K>> {
        let mut chunk = self.chunk(Kind::Unsent, UnsentRecord::LEN);
        let mut bytes = Vec::new();
        while let Some(&(id, message)) = self.messages.peek() {
            let used = chunk.payload.len() + UnsentRecord::LEN + bytes.len();
            let rest = &message[self.offset..];
            let room = MAX_BYTES.saturating_sub(used);
            if room < rest.len().min(LEAST_PIECE) {
                break;
            }
            let piece = &rest[..rest.len().min(room)];
            let (begins, ends) = (self.offset == 0, piece.len() == rest.len());
            let len = u32::try_from(piece.len()).expect("a piece fits a chunk");
            chunk.add(|out| UnsentRecord { id, len, begins, ends }.write(out));
            bytes.extend_from_slice(piece);
            self.totals.unsent += u64::from(len);
            self.offset = if ends { 0 } else { self.offset + piece.len() };
            if ends {
                self.messages.next();
            }
        }
        chunk.payload.append(&mut bytes);
        chunk.unless_empty()
    }

    fn some_suspects(&mut self) -> Option<Chunk<'a, K>> {
        let mut chunk = self.chunk(Kind::Suspect, SuspectRecord::LEN);
        while chunk.payload.len() + SuspectRecord::LEN <= MAX_BYTES
            && let Some((source, is_newer)) = self.suspects.next()
        {
            chunk.add(|out| SuspectRecord { source, is_newer }.write(out));
        }
        chunk.unless_empty()
    }

    fn counters(&self) -> Chunk<'a, K> {
        let mut chunk = self.chunk(Kind::Counter, CounterRecord::LEN);
        let staying = self.frozen.staying.len() as u64;
        for counter in CounterRecord::all_of(&self.frozen.server, staying) {
            chunk.add(|out| counter.write(out));
        }
        chunk
    }
}

impl<'a, K: Adopt, H: Handler + Clone> Chunks<'a, K, H> {
    fn admin_listener(&self) -> Option<Chunk<'a, K>> {
        let server = &self.frozen.server;
        let listener = server.admin.as_ref()?.listener()?;
        let mut chunk = self.chunk(Kind::AdminListener, record::LISTENER);
        let has_file = server.reactor.kernel.has_file(listener);
        chunk.add(|out| record::write_flag(has_file, out));
        chunk.sockets.push(Lent::AdminListener(listener));
        Some(chunk)
    }
}

impl<'a, K: Adopt, H: Handler + Clone> Iterator for Chunks<'a, K, H> {
    type Item = Chunk<'a, K>;

    fn next(&mut self) -> Option<Chunk<'a, K>> {
        let chunk = loop {
            let (chunk, then) = match self.next {
                Step::Loop => (Some(self.begin()), Step::Listeners),
                Step::Listeners => (self.some_listeners(), Step::AdminListener),
                Step::AdminListener => (self.admin_listener(), Step::Connections),
                Step::Connections => (self.some_connections(), Step::Unsent),
                Step::Unsent => (self.some_messages(), Step::Suspects),
                Step::Suspects => (self.some_suspects(), Step::Counters),
                Step::Counters => (Some(self.counters()), Step::Done),
                Step::Done => return None,
            };
            // Of these there is one chunk; the others go on until there is none.
            let is_single = matches!(self.next, Step::Loop | Step::AdminListener | Step::Counters);
            if is_single || chunk.is_none() {
                self.next = then;
            }
            if let Some(chunk) = chunk {
                break chunk;
            }
        };
        self.totals.chunks += 1;
        Some(chunk)
    }
}

impl<K: Kernel> Chunk<'_, K> {
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.payload);
        self.count += 1;
    }

    fn unless_empty(self) -> Option<Self> {
        (self.count > 0).then_some(self)
    }
}
