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

#[cfg(test)]
mod tests {
    use super::super::{Arrived, Decoder, HandoverError};
    use super::*;
    use crate::auth::Keyring;
    use crate::proto::wire::Reader;
    use crate::proto::{Answer, Config, Peer, Protocol};
    use crate::python::Monotonic;
    use crate::server::{Limits, Server};
    use crate::sim::{Faults, SimKernel};

    /// A handler whose clients set the length of its state, ask for an answer of some length, or keep it from
    /// moving to another process.
    #[derive(Clone, Default)]
    struct Told {
        state: usize,
        stays: bool,
    }

    impl Handler for Told {
        fn handle(&mut self, data: &mut [u8]) -> Answer {
            match str::from_utf8(data).unwrap().split_once(' ').unwrap() {
                ("state", len) => self.state = len.parse().unwrap(),
                ("answer", len) => return Answer::Bytes(answer(len.parse().unwrap()).into()),
                (_, yes) => self.stays = yes == "yes",
            }
            Answer::Nothing
        }

        fn save(&self, state: &mut Vec<u8>) -> bool {
            state.resize(self.state, b's');
            !self.stays
        }

        fn restore(&mut self, _peer: &Peer, state: &[u8]) -> bool {
            self.state = state.len();
            true
        }
    }

    /// Bytes no two of whose neighbouring pieces are the same.
    fn answer(len: usize) -> Vec<u8> {
        (0..len).map(|place| u8::try_from(place % 251).unwrap()).collect()
    }

    /// A server without handshakes, frozen once each of these clients has told its handler what to do. They
    /// read nothing, and there is room for one byte of an answer.
    fn frozen(told: &[&str], listeners: usize) -> Frozen<SimKernel, Told> {
        let mut config = Config::new(Keyring::demo());
        config.protocol = Protocol::Plain;
        let (kernel, limits) = (SimKernel::new(1, Faults::none()), Limits::for_connections(1000));
        let listeners = vec![(); listeners];
        let mut server =
            Server::with_kernel(kernel, listeners, config, limits, Told::default()).unwrap();
        for text in told {
            let client = server.kernel_mut().connect(100, 1, 100);
            server.kernel_mut().client_send(client, text.as_bytes());
        }
        let sent: usize = told.iter().map(|text| text.len()).sum();
        while server.stats().connections < told.len() || server.stats().bytes_received < sent as u64
        {
            server.turn().unwrap();
            assert!(server.stats().turns < 1000, "{:?}", server.stats());
        }
        server.freeze().map_err(|_| "it drains").unwrap()
    }

    /// The chunks of a kind.
    fn chunks(frozen: &Frozen<SimKernel, Told>, kind: Kind) -> Vec<Chunk<'_, SimKernel>> {
        frozen.chunks().filter(|chunk| chunk.kind == kind).collect()
    }

    fn counts(chunks: &[Chunk<'_, SimKernel>]) -> Vec<u32> {
        chunks.iter().map(|chunk| chunk.count).collect()
    }

    /// Gives all that is sent to a decoder.
    fn decode(frozen: &Frozen<SimKernel, Told>) -> Result<Arrived<()>, HandoverError> {
        let (mut decoder, mut chunks) = (Decoder::new(), frozen.chunks());
        for Chunk { kind, count, record_size, payload, sockets } in chunks.by_ref() {
            let sockets = vec![(); sockets.len()];
            decoder.take(kind.code(), count, record_size, &payload, sockets)?;
        }
        decoder.finish(&chunks.totals())
    }

    #[test]
    fn no_chunk_has_more_than_240_sockets() {
        let frozen = frozen(&[""; 241], 241);
        for kind in [Kind::Listener, Kind::Connection] {
            let chunks = chunks(&frozen, kind);
            assert_eq!(counts(&chunks), [240, 1], "{kind:?}");
            assert!(chunks.iter().all(|chunk| chunk.sockets.len() == chunk.count as usize));
        }
    }

    /// A connection takes 48 bytes, its handler's state four and its own.
    #[test]
    fn a_chunk_takes_connections_up_to_64_kib() {
        for (states, lens) in [
            (["state 32768", "state 32664", "state 0"], [65_536, 48]),
            (["state 32768", "state 32665", "state 0"], [32_820, 32_717 + 48]),
        ] {
            let frozen = frozen(&states, 1);
            let chunks = chunks(&frozen, Kind::Connection);
            let found: Vec<usize> = chunks.iter().map(|chunk| chunk.payload.len()).collect();
            assert_eq!(found, lens, "{states:?}");
            decode(&frozen).unwrap();
        }
    }

    /// The pieces of messages in each chunk: the length of each, and whether it begins and ends its message.
    /// Checks that together they are the answers.
    fn pieces(answers: &[usize]) -> Vec<Vec<(u32, bool, bool)>> {
        // The kernel takes the first byte.
        let told: Vec<String> = answers.iter().map(|len| format!("answer {}", len + 1)).collect();
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        let frozen = frozen(&told, 1);
        let (mut pieces, mut sent) = (Vec::new(), Vec::new());
        for chunk in chunks(&frozen, Kind::Unsent) {
            let mut reader = Reader::new(&chunk.payload);
            let records = (0..chunk.count).map(|_| UnsentRecord::read(&mut reader).unwrap());
            pieces.push(records.map(|piece| (piece.len, piece.begins, piece.ends)).collect());
            assert!(chunk.payload.len() <= 65_536, "{}", chunk.payload.len());
            sent.extend_from_slice(reader.rest());
        }
        let expected: Vec<u8> =
            answers.iter().flat_map(|len| answer(len + 1).split_off(1)).collect();
        assert!(sent == expected, "other bytes than the answers of {answers:?}");
        assert_eq!(frozen.totals().unsent, sent.len() as u64);
        decode(&frozen).unwrap();
        pieces
    }

    /// A piece takes 16 bytes and its own.
    #[test]
    fn an_answer_is_cut_where_a_chunk_is_full_if_a_kibibyte_or_all_of_it_fits() {
        let whole = |len| (len, true, true);
        assert_eq!(pieces(&[65_520]), [[whole(65_520)]]);
        assert_eq!(pieces(&[65_521]), [[(65_520, true, false)], [(1, false, true)]]);
        let long = pieces(&[200_000]);
        let expected = [(true, false), (false, false), (false, false), (false, true)];
        let expected = expected.map(|(begins, ends)| vec![(65_520, begins, ends)]);
        assert_eq!(long[..3], expected[..3]);
        assert_eq!(long[3..], [[(200_000 - 3 * 65_520, false, true)]]);
        // 1024 bytes are left.
        let cut = [vec![whole(64_480), (1024, true, false)], vec![(976, false, true)]];
        assert_eq!(pieces(&[64_480, 2000]), cut);
        // One less.
        assert_eq!(pieces(&[64_481, 2000]), [[whole(64_481)], [whole(2000)]]);
        assert_eq!(pieces(&[64_481, 1023]), [[whole(64_481), whole(1023)]]);
        assert_eq!(pieces(&[64_482, 1023]), [[whole(64_482)], [whole(1023)]]);
    }

    #[test]
    fn a_chunk_takes_4096_suspects() {
        let mut frozen = frozen(&[], 1);
        let suspects: Vec<_> =
            (0..4097).map(|number| (Source::from_number(number), true)).collect();
        frozen.server.acceptor.unauthenticated.suspect(Monotonic::ZERO, &suspects);
        assert_eq!(counts(&chunks(&frozen, Kind::Suspect)), [4096, 1]);
    }

    #[test]
    fn a_connection_that_cannot_move_stays_and_the_others_go() {
        let told = ["state 32768", "state 32769", "stays yes", "state 5"];
        let frozen = frozen(&told, 1);
        assert_eq!(frozen.staying(), 2, "with too long a state, and with none that can be saved");
        let arrived = decode(&frozen).unwrap();
        assert_eq!((arrived.connections(), frozen.totals().connections), (2, 2));
        let mut server = frozen.leave();
        server.assert_invariants();
        let stats = server.stats();
        assert_eq!((stats.connections, stats.elsewhere, stats.accepted), (2, 2, 4));
    }
}
