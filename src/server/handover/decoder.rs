//! The receiving side, up to where sockets are registered. It needs no kernel.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::arrived::{Arrived, ArrivedConnection, ArrivedListener, ArrivedLoop, Extra};
use super::record::{
    ConnectionRecord, CounterRecord, Details, LISTENER, LoopRecord, SuspectRecord, UnsentRecord,
    malformed, read_flag,
};
use super::{HandoverError, Kind, MAX_BYTES, MAX_SOCKETS, MAX_STATE, Totals};
use crate::proto::wire::Reader;
use crate::proto::{ConnId, Head, Parked};

/// Reads the chunks of a handover. `S` is a socket that arrived. Any bytes are read without a panic,
/// and the memory it takes is that of what arrived.
#[derive(Debug)]
pub struct Decoder<S> {
    loops: Vec<ArrivedLoop<S>>,
    /// The slots of the last loop that are taken, a bit each.
    taken: Vec<u64>,
    /// Connections of the last loop that wait for their unsent bytes.
    debtors: HashMap<ConnId, Debtor>,
    totals: Totals,
}

/// A connection that waits for its unsent bytes.
#[derive(Debug)]
struct Debtor {
    /// Its place among the arrived: the chunk, and the place in that.
    place: (usize, usize),
    head: Head,
    missing: u64,
    messages: Vec<Bytes>,
    /// The message that has begun.
    begun: Option<BytesMut>,
}

/// Loops beyond this are refused: no machine has so many cores for one service.
const MAX_LOOPS: usize = 255;

/// Records of one chunk, and what lies behind them.
struct Records<'a> {
    count: usize,
    size: usize,
    records: &'a [u8],
    behind: Reader<'a>,
}

impl<'a> Records<'a> {
    /// # Errors
    /// If the payload is too short for so many records.
    fn new(count: u32, size: u16, payload: &'a [u8]) -> Result<Self, HandoverError> {
        let (count, size) = (count as usize, usize::from(size));
        let (records, behind) = count
            .checked_mul(size)
            .and_then(|len| payload.split_at_checked(len))
            .filter(|_| payload.len() <= MAX_BYTES && count > 0)
            .ok_or(malformed("number of records"))?;
        Ok(Self { count, size, records, behind: Reader::new(behind) })
    }

    /// Reads each record, of which this version knows the first `known` bytes.
    fn read<T, F: FnMut(&mut Reader<'a>) -> Option<T>>(
        &self,
        known: usize,
        what: &'static str,
        mut read: F,
    ) -> Result<impl Iterator<Item = Result<T, HandoverError>> + use<'a, T, F>, HandoverError> {
        if self.size < known {
            return Err(malformed(what));
        }
        let records = self.records;
        Ok(records.chunks_exact(self.size).map(move |record| {
            let mut reader = Reader::new(record);
            let record = read(&mut reader);
            let knows_all = reader.rest().iter().all(|byte| *byte == 0);
            record.filter(|_| knows_all).ok_or(malformed(what))
        }))
    }
}

impl<S> Decoder<S> {
    /// Creates a decoder of one of [`FORMATS`](super::FORMATS).
    pub fn new() -> Self {
        Self {
            loops: Vec::new(),
            taken: Vec::new(),
            debtors: HashMap::new(),
            totals: Totals::default(),
        }
    }

    /// Takes one chunk with the sockets that came with it. `kind`, `count` and `record_size` are
    /// those of the message's header, whatever they are.
    ///
    /// # Errors
    /// [`HandoverError`]; then the handover is over.
    pub fn take(
        &mut self,
        kind: u8,
        count: u32,
        record_size: u16,
        payload: &[u8],
        sockets: Vec<S>,
    ) -> Result<(), HandoverError> {
        let kind = Kind::from_code(kind).ok_or(malformed("kind of chunk"))?;
        let records = Records::new(count, record_size, payload)?;
        let expected = if kind.has_sockets() { records.count } else { 0 };
        if sockets.len() != expected || expected > MAX_SOCKETS {
            return Err(HandoverError::Incomplete { what: "sockets of a chunk" });
        }
        self.totals.chunks += 1;
        match kind {
            Kind::Loop => self.begin(&records),
            Kind::Listener => self.listeners(&records, sockets),
            Kind::AdminListener => self.admin_listener(&records, sockets),
            Kind::Connection => self.connections(records, sockets),
            Kind::Unsent => self.unsent(records),
            Kind::Suspect => {
                let suspects = records.read(SuspectRecord::LEN, "suspect", SuspectRecord::read)?;
                let suspects: Vec<_> = suspects.collect::<Result<_, _>>()?;
                let suspects = suspects.into_iter().map(|it| (it.source, it.is_newer));
                self.last()?.suspects.extend(suspects);
                records.end()
            }
            Kind::Counter => {
                let counters = records.read(CounterRecord::LEN, "counter", CounterRecord::read)?;
                let last = self.last()?;
                for counter in counters {
                    last.counters.add(counter?).ok_or(malformed("counter"))?;
                }
                records.end()
            }
        }
    }

    /// Ends it, if all has arrived that was sent.
    ///
    /// # Errors
    /// [`HandoverError::Incomplete`], or [`HandoverError::Malformed`] if counters disagree with the
    /// connections.
    pub fn finish(mut self, totals: &Totals) -> Result<Arrived<S>, HandoverError> {
        self.end_loop()?;
        let what = if self.totals.loops == 0 {
            "loops"
        } else if self.totals.connections != totals.connections {
            "connections"
        } else if self.totals.listeners != totals.listeners {
            "listeners"
        } else if self.totals.unsent != totals.unsent {
            "unsent bytes"
        } else if self.totals != *totals {
            "chunks"
        } else {
            return Ok(Arrived { loops: self.loops });
        };
        Err(HandoverError::Incomplete { what })
    }

    /// The loop whose chunks come now.
    fn last(&mut self) -> Result<&mut ArrivedLoop<S>, HandoverError> {
        self.loops.last_mut().ok_or(malformed("order of chunks"))
    }

    fn begin(&mut self, records: &Records<'_>) -> Result<(), HandoverError> {
        self.end_loop()?;
        let mut heads = records.read(LoopRecord::LEN, "loop", LoopRecord::read)?;
        let head = heads.next().ok_or(malformed("loop"))??;
        if records.count != 1 || self.loops.len() == MAX_LOOPS {
            return Err(malformed("number of loops"));
        }
        self.totals.loops += 1;
        self.loops.push(ArrivedLoop::new(head));
        records.end()
    }

    /// Checks that the last loop is complete.
    fn end_loop(&mut self) -> Result<(), HandoverError> {
        if !self.debtors.is_empty() {
            return Err(HandoverError::Incomplete { what: "unsent bytes of a connection" });
        }
        self.taken = Vec::new();
        let Some(last) = self.loops.last() else { return Ok(()) };
        if last.connections() != last.head.connections as usize {
            return Err(HandoverError::Incomplete { what: "connections of a loop" });
        }
        match last.counters.agree_with(last.connections()) {
            true => Ok(()),
            false => Err(malformed("number of connections")),
        }
    }

    fn listeners(&mut self, records: &Records<'_>, sockets: Vec<S>) -> Result<(), HandoverError> {
        let flags = records.read(LISTENER, "listener", read_flag)?;
        let flags: Vec<bool> = flags.collect::<Result<_, _>>()?;
        self.totals.listeners += flags.len() as u64;
        let listeners = flags
            .into_iter()
            .zip(sockets)
            .map(|(proxied, socket)| ArrivedListener { socket, proxied });
        self.last()?.listeners.extend(listeners);
        records.end()
    }

    fn admin_listener(
        &mut self,
        records: &Records<'_>,
        sockets: Vec<S>,
    ) -> Result<(), HandoverError> {
        let mut flags = records.read(LISTENER, "admin listener", read_flag)?;
        let has_file = flags.next().ok_or(malformed("admin listener"))??;
        let is_second = self.loops.iter().any(|one| one.admin.is_some()) || records.count != 1;
        let last = self.last()?;
        last.admin = sockets.into_iter().next().map(|socket| (socket, has_file));
        match is_second {
            true => Err(malformed("number of admin listeners")),
            false => records.end(),
        }
    }

    fn connections(
        &mut self,
        mut records: Records<'_>,
        sockets: Vec<S>,
    ) -> Result<(), HandoverError> {
        let heads = records.read(ConnectionRecord::LEN, "connection", ConnectionRecord::read)?;
        let mut arrived = Vec::with_capacity(records.count);
        for (record, socket) in heads.zip(sockets) {
            let record = record?;
            let details = records.behind.bytes(record.details as usize);
            let details = details.and_then(Details::read).ok_or(malformed("details"))?;
            let connection = self.connection(&record, details, socket)?;
            if record.head.unsent > 0 {
                let place = (self.last()?.chunks.len(), arrived.len());
                self.owe(&record, place);
            }
            arrived.push(connection);
        }
        self.totals.connections += arrived.len() as u64;
        self.last()?.chunks.push(arrived);
        records.end()
    }

    fn connection(
        &mut self,
        record: &ConnectionRecord,
        details: Details<'_>,
        socket: S,
    ) -> Result<ArrivedConnection<S>, HandoverError> {
        let Details { handshake, handler, row, arrival } = details;
        let parked = Parked::read(&record.head, handshake).ok_or(malformed("stage"))?;
        let is_known = parked.has_authenticated();
        if is_known == arrival.is_some() || !is_known && handler.is_some() {
            return Err(malformed("authentication"));
        }
        if handler.is_some_and(|state| state.len() > MAX_STATE) {
            return Err(malformed("handler"));
        }
        let awaits_header = parked.awaits_header();
        if awaits_header && arrival.is_some_and(|(_, source)| source.is_some()) {
            return Err(malformed("source"));
        }
        self.claim(record.id)?;
        let extra = (handler.is_some() || row.is_some() || arrival.is_some())
            .then(|| Box::new(Extra { handler: handler.unwrap_or_default().into(), row, arrival }));
        Ok(ArrivedConnection { id: record.id, socket, parked, alarm: record.alarm, extra })
    }

    /// Marks a slot as taken.
    fn claim(&mut self, id: ConnId) -> Result<(), HandoverError> {
        if id.index >= self.last()?.head.slots {
            return Err(malformed("slot"));
        }
        let (word, bit) = (id.index as usize / 64, 1 << (id.index % 64));
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        if self.taken[word] & bit != 0 {
            return Err(malformed("slot"));
        }
        self.taken[word] |= bit;
        Ok(())
    }

    fn owe(&mut self, record: &ConnectionRecord, place: (usize, usize)) {
        let ConnectionRecord { id, head, .. } = *record;
        let missing = head.unsent;
        let debtor = Debtor { place, head, missing, messages: Vec::new(), begun: None };
        self.debtors.insert(id, debtor);
    }

    fn unsent(&mut self, mut records: Records<'_>) -> Result<(), HandoverError> {
        let pieces = records.read(UnsentRecord::LEN, "unsent bytes", UnsentRecord::read)?;
        for piece in pieces {
            let piece = piece?;
            let bytes = records.behind.bytes(piece.len as usize);
            let bytes = bytes.ok_or(malformed("length of unsent bytes"))?;
            let debtor =
                self.debtors.get_mut(&piece.id).ok_or(malformed("owner of unsent bytes"))?;
            debtor.take(&piece, bytes).ok_or(malformed("unsent bytes"))?;
            self.totals.unsent += bytes.len() as u64;
            if debtor.missing == 0 {
                let debtor = self.debtors.remove(&piece.id).expect("it was found just now");
                debtor.settle(self.last()?)?;
            }
        }
        records.end()
    }
}

impl Debtor {
    /// Takes a piece of a message. `None` if it does not continue what is there.
    fn take(&mut self, piece: &UnsentRecord, bytes: &[u8]) -> Option<()> {
        self.missing = self.missing.checked_sub(bytes.len() as u64)?;
        if piece.begins == self.begun.is_some() {
            return None;
        }
        let begun = self.begun.get_or_insert_default();
        begun.extend_from_slice(bytes);
        if piece.ends {
            let message = self.begun.take()?;
            self.messages.push(message.freeze());
        }
        (self.missing > 0 || piece.ends).then_some(())
    }

    fn settle<S>(self, arrived: &mut ArrivedLoop<S>) -> Result<(), HandoverError> {
        let Self { place: (chunk, place), head, messages, .. } = self;
        let parked = &mut arrived.chunks[chunk][place].parked;
        parked.owe(&head, messages).ok_or(HandoverError::Io(std::io::ErrorKind::OutOfMemory.into()))
    }
}

impl Records<'_> {
    /// # Errors
    /// If bytes are left.
    fn end(&self) -> Result<(), HandoverError> {
        match self.behind.rest() {
            [] => Ok(()),
            _ => Err(malformed("length of a chunk")),
        }
    }
}

impl<S> Default for Decoder<S> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(begins: bool, ends: bool) -> UnsentRecord {
        UnsentRecord { id: ConnId::default(), len: 1, begins, ends }
    }

    fn owing(missing: u64) -> Debtor {
        let head = Head { unsent: missing, ..Head::default() };
        Debtor { place: (0, 0), head, missing, messages: Vec::new(), begun: None }
    }

    /// A decoder in whose loop so many connections are to come.
    fn decoder(connections: u32) -> Decoder<()> {
        let mut decoder = Decoder::new();
        decoder.take(Kind::Loop.code(), 1, 48, &loop_record(connections), Vec::new()).unwrap();
        decoder
    }

    /// The tutorial's protocol, and slots below 130.
    fn loop_record(connections: u32) -> [u8; 48] {
        let mut record = [0; 48];
        (record[0], record[8], record[12]) = (1, 1, 130);
        record[4..8].copy_from_slice(&connections.to_le_bytes());
        record
    }

    #[test]
    fn an_answer_comes_in_pieces_that_fit_each_other() {
        let mut whole = owing(6);
        assert_eq!(whole.take(&piece(true, false), b"ab"), Some(()));
        assert_eq!(whole.take(&piece(false, false), b"c"), Some(()));
        assert_eq!(whole.take(&piece(false, true), b"d"), Some(()));
        assert_eq!(whole.take(&piece(true, true), b"ef"), Some(()));
        assert_eq!((whole.missing, whole.messages), (0, vec!["abcd".into(), "ef".into()]));
        assert_eq!(owing(3).take(&piece(false, true), b"abc"), None, "it has not begun");
        assert_eq!(owing(3).take(&piece(true, true), b"abcd"), None, "more than is owed");
        assert_eq!(owing(3).take(&piece(true, false), b"abc"), None, "the last piece ends nothing");
        let mut begun = owing(3);
        assert_eq!(begun.take(&piece(true, false), b"a"), Some(()));
        assert_eq!(begun.take(&piece(true, false), b"b"), None, "it has begun already");
    }

    #[test]
    fn a_slot_has_one_connection() {
        let mut decoder = decoder(0);
        let mut is_free = |index| decoder.claim(ConnId { index, generation: 1 }).is_ok();
        for index in [0, 1, 63, 64, 129] {
            assert!(is_free(index), "{index}");
        }
        for index in [0, 1, 63, 64, 129, 130] {
            assert!(!is_free(index), "{index}");
        }
    }

    /// The part of a message that is refused, if any is.
    fn refused(result: Result<(), HandoverError>) -> Option<&'static str> {
        match result {
            Ok(()) => None,
            Err(HandoverError::Malformed { what }) => Some(what),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_newer_version_may_write_longer_records_if_zero_means_nothing_new() {
        for news in [0, 1] {
            let record = [&loop_record(0)[..], &[0, 0, 0, news]].concat();
            let taken = Decoder::<()>::new().take(Kind::Loop.code(), 1, 52, &record, Vec::new());
            assert_eq!(refused(taken).is_some(), news != 0);
        }
    }

    /// A part of a connection's details: its tag, its length and its bytes.
    fn part(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[tag], &len[..3], bytes].concat()
    }

    #[test]
    fn a_connection_that_cannot_be_is_refused() {
        let (authenticated, early) = (3, 1);
        // A challenge, none of which was sent, and behind a balancer the rest of the random bytes and a header
        // of which nothing has come.
        let handshake = part(1, &[0; 32 + 2 + 2 + 1 + 1]);
        let awaiting = part(1, &[&[0; 32 + 2 + 2 + 1][..], &[1], &[0; 8], &[0; 2]].concat());
        let (known, unknown) = (part(4, &[1; 17]), part(4, &[0; 17]));
        let (longest, longer) = (part(2, &[0; 32_768]), part(2, &[0; 32_769]));
        for (stage, details, expected) in [
            (authenticated, vec![], None),
            (authenticated, vec![&longest], None),
            (authenticated, vec![&longer], Some("handler")),
            (authenticated, vec![&known], Some("authentication")),
            (authenticated, vec![&known, &known], Some("details")),
            (authenticated, vec![&handshake], Some("stage")),
            (early, vec![&handshake, &known], None),
            (early, vec![&handshake, &unknown], None),
            (early, vec![&handshake], Some("authentication")),
            (early, vec![&handshake, &longest, &known], Some("authentication")),
            (early, vec![&known, &handshake], Some("details")),
            (early, vec![&awaiting, &unknown], None),
            (early, vec![&awaiting, &known], Some("source")),
            (early, vec![&known], Some("stage")),
        ] {
            let details = details.into_iter().flatten().copied().collect::<Vec<u8>>();
            let mut record = [0; 48];
            (record[4], record[24]) = (1, stage);
            record[8..24].fill(255);
            record[32..36].copy_from_slice(&u32::try_from(details.len()).unwrap().to_le_bytes());
            let payload = [&record[..], &details].concat();
            let taken = decoder(1).take(Kind::Connection.code(), 1, 48, &payload, vec![()]);
            assert_eq!(refused(taken), expected, "stage {stage}, {} bytes", details.len());
        }
    }

    #[test]
    fn there_are_at_most_255_loops_each_in_a_chunk_of_its_own() {
        let mut loops = Decoder::<()>::new();
        let mut take = |count: u32| {
            let records = [loop_record(0); 2];
            let payload = &records.as_flattened()[..48 * count as usize];
            refused(loops.take(Kind::Loop.code(), count, 48, payload, Vec::new()))
        };
        assert_eq!(take(2), Some("number of loops"), "in one chunk");
        for number in 1..=255 {
            assert_eq!(take(1), None, "loop {number}");
        }
        assert_eq!(take(1), Some("number of loops"), "one more");
    }

    #[test]
    fn there_is_one_admin_listener() {
        let admin = |decoder: &mut Decoder<()>, count: u8| {
            let (payload, sockets) = (vec![0; 8 * usize::from(count)], vec![(); count.into()]);
            refused(decoder.take(Kind::AdminListener.code(), count.into(), 8, &payload, sockets))
        };
        let (mut twice, mut loops) = (decoder(0), decoder(0));
        assert_eq!(admin(&mut twice, 2), Some("number of admin listeners"), "in one chunk");
        assert_eq!(admin(&mut loops, 1), None);
        loops.take(Kind::Loop.code(), 1, 48, &loop_record(0), Vec::new()).unwrap();
        assert_eq!(admin(&mut loops, 1), Some("number of admin listeners"), "of another loop");
    }
}
