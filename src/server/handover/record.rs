//! The records of a handover, byte by byte. docs/HANDOVER-FORMAT.md shows them as tables.
//!
//! All numbers are little endian. A record may only grow at its end; bytes that this version does not
//! know must be zero, which means that nothing else is meant.

use super::HandoverError;
use crate::proto::wire::Reader;
use crate::proto::{ConnId, Handler, Head, Protocol, Undisguised};
use crate::python::Monotonic;
use crate::reactor::Kernel;
use crate::server::Server;
use crate::server::admission::Source;
use crate::server::records::Row;

pub(super) use super::counter::CounterRecord;

/// The error of a part of a record.
pub(super) const fn malformed(what: &'static str) -> HandoverError {
    HandoverError::Malformed { what }
}

/// Length of the record of a listener.
pub(super) const LISTENER: usize = 8;

/// Writes the record of a listener: whether it requires a PROXY header, and of the admin endpoint's
/// whether a file goes with it.
pub(super) fn write_flag(flag: bool, out: &mut Vec<u8>) {
    out.extend(u64::from(flag).to_le_bytes());
}

pub(super) fn read_flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.u64()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// A loop, in the first chunk of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoopRecord {
    /// The generation of the next connection.
    pub(super) next_generation: u32,
    pub(super) connections: u32,
    /// Every connection's slot is below this.
    pub(super) slots: u32,
    pub(super) protocol: Protocol,
    /// Whether probes work, the period of keepalive, and when the next probe would leave.
    pub(super) keepalive: (bool, u64, Monotonic),
    /// The sender's clock.
    pub(super) now: Monotonic,
    /// When the newer half of the suspects was begun.
    pub(super) suspects_since: Monotonic,
}

/// Slots beyond this are refused: more than a process has descriptors.
const MAX_SLOTS: u32 = 1 << 24;

impl LoopRecord {
    pub(super) const LEN: usize = 48;

    pub(super) fn of<K: Kernel, H: Handler + Clone>(server: &Server<K, H>, moving: usize) -> Self {
        Self {
            next_generation: server.reactor.slots.next_generation(),
            connections: u32::try_from(moving).expect("fewer than 2^31 descriptors"),
            slots: server.reactor.slots.bound(),
            protocol: server.config.protocol,
            keepalive: server.keepalive.park(),
            now: server.reactor.now(),
            suspects_since: server.acceptor.unauthenticated.suspects().0,
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (can_probe, period, next_probe) = self.keepalive;
        out.extend(self.next_generation.to_le_bytes());
        out.extend(self.connections.to_le_bytes());
        out.extend([protocol_code(self.protocol), u8::from(can_probe), 0, 0]);
        out.extend(self.slots.to_le_bytes());
        out.extend(period.to_le_bytes());
        for time in [next_probe, self.now, self.suspects_since] {
            out.extend(time.as_nanos().to_le_bytes());
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let next_generation = reader.u32().filter(|next| (1..u32::MAX).contains(next))?;
        let connections = reader.u32()?;
        let protocol = protocol_of(reader.u8()?)?;
        let can_probe = bit(reader.u8()?)?;
        reader.u16().filter(|zero| *zero == 0)?;
        let slots = reader.u32().filter(|slots| *slots <= MAX_SLOTS)?;
        let period = reader.u64()?;
        let mut time = || reader.u64().map(Monotonic::from_nanos);
        let (next_probe, now, suspects_since) = (time()?, time()?, time()?);
        let keepalive = (can_probe, period, next_probe);
        Some(Self { next_generation, connections, slots, protocol, keepalive, now, suspects_since })
    }
}

const fn protocol_code(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tutorial => 1,
        Protocol::Multiprocessing => 2,
        Protocol::Plain => 3,
    }
}

const fn protocol_of(code: u8) -> Option<Protocol> {
    match code {
        1 => Some(Protocol::Tutorial),
        2 => Some(Protocol::Multiprocessing),
        3 => Some(Protocol::Plain),
        _ => None,
    }
}

const fn bit(number: u8) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// A connection. Its details, whose length it has, lie behind the records of its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionRecord {
    pub(super) id: ConnId,
    pub(super) head: Head,
    /// When its deadline or its peer is looked after, if it is armed.
    pub(super) alarm: Option<Monotonic>,
    pub(super) details: u32,
}

impl ConnectionRecord {
    pub(super) const LEN: usize = 48;

    /// The record of a connection that moves. Appends its details.
    pub(super) fn of<K: Kernel, H: Handler + Clone>(
        server: &Server<K, H>,
        id: ConnId,
        details: &mut Vec<u8>,
    ) -> Self {
        let before = details.len();
        let slot = server.reactor.slots.get(id).expect("it is frozen");
        let (mut handshake, mut handler) = (Vec::new(), Vec::new());
        let head = slot
            .connection
            .park(&mut Undisguised, &mut handshake, &mut handler)
            .expect("its handler moves");
        let row = server.records.as_ref().and_then(|records| records.row(id));
        let arrival = server.acceptor.unauthenticated.arrival(id);
        put_section(Section::Handshake, &handshake, details);
        put_section(Section::Handler, &handler, details);
        if let Some(row) = row {
            let mut bytes = Vec::new();
            row.park(&mut Undisguised, &mut bytes);
            put_section(Section::Row, &bytes, details);
        }
        if let Some((since, source)) = arrival.filter(|_| !slot.connection.has_authenticated()) {
            let mut bytes = since.as_nanos().to_le_bytes().to_vec();
            bytes.push(source.is_some().into());
            bytes.extend(source.map_or(0, Source::to_number).to_le_bytes());
            put_section(Section::Arrival, &bytes, details);
        }
        let details = u32::try_from(details.len() - before).expect("details are short");
        Self { id, head, alarm: server.reactor.alarm(id), details }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self { id, head, alarm, details } = self;
        out.extend(id.index.to_le_bytes());
        out.extend(id.generation.to_le_bytes());
        out.extend(head.deadline.to_le_bytes());
        out.extend(alarm.map_or(u64::MAX, Monotonic::as_nanos).to_le_bytes());
        out.extend([head.stage, head.reason, 0, 0]);
        out.extend(head.bytes_left.to_le_bytes());
        out.extend(details.to_le_bytes());
        out.extend([0; 4]);
        out.extend(head.unsent.to_le_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let index = reader.u32()?;
        let generation = reader.u32().filter(|it| (1..u32::MAX).contains(it))?;
        let deadline = reader.u64()?;
        let alarm = match reader.u64()? {
            u64::MAX => None,
            nanos => Some(Monotonic::from_nanos(nanos)),
        };
        let (stage, reason) = (reader.u8()?, reader.u8()?);
        reader.u16().filter(|zero| *zero == 0)?;
        let (bytes_left, details) = (reader.u32()?, reader.u32()?);
        reader.u32().filter(|zero| *zero == 0)?;
        let unsent = reader.u64()?;
        let head = Head { stage, reason, bytes_left, deadline, unsent };
        Some(Self { id: ConnId { index, generation }, head, alarm, details })
    }
}

/// A part of a connection's details, which not every connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Handshake = 1,
    Handler = 2,
    Row = 3,
    Arrival = 4,
}

/// Appends a part, unless it is empty: a tag, a length in three bytes, and its bytes.
fn put_section(section: Section, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        let len = u32::try_from(bytes.len()).expect("a part is short");
        out.extend((len << 8 | section as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }
}

/// The details of a connection.
#[derive(Debug, Default)]
pub(super) struct Details<'a> {
    pub(super) handshake: Option<&'a [u8]>,
    pub(super) handler: Option<&'a [u8]>,
    pub(super) row: Option<Row>,
    /// When it came, and its source, as long as it has not authenticated.
    pub(super) arrival: Option<(Monotonic, Option<Source>)>,
}

impl<'a> Details<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (mut details, mut reader, mut last) = (Self::default(), Reader::new(bytes), 0);
        while !reader.rest().is_empty() {
            let head = reader.u32()?;
            let part = reader.bytes(usize::try_from(head >> 8).ok()?)?;
            // Each at most once, in the order of their tags.
            let tag = head & 0xff;
            if tag <= last {
                return None;
            }
            last = tag;
            match tag {
                1 => details.handshake = Some(part),
                2 => details.handler = Some(part),
                3 => details.row = Some(Row::read(part)?),
                4 => details.arrival = Some(read_arrival(part)?),
                _ => return None,
            }
        }
        Some(details)
    }
}

fn read_arrival(bytes: &[u8]) -> Option<(Monotonic, Option<Source>)> {
    let mut reader = Reader::new(bytes);
    let since = Monotonic::from_nanos(reader.u64()?);
    let source = match (bit(reader.u8()?)?, reader.u64()?) {
        (true, number) => Some(Source::from_number(number)),
        (false, 0) => None,
        (false, _) => return None,
    };
    reader.rest().is_empty().then_some((since, source))
}

/// Unsent bytes of a connection. They lie behind the records of their chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnsentRecord {
    pub(super) id: ConnId,
    pub(super) len: u32,
    /// They begin, and end, a message.
    pub(super) begins: bool,
    pub(super) ends: bool,
}

impl UnsentRecord {
    pub(super) const LEN: usize = 16;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self { id, len, begins, ends } = self;
        out.extend(id.index.to_le_bytes());
        out.extend(id.generation.to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend((u32::from(*begins) | u32::from(*ends) << 1).to_le_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let id = ConnId { index: reader.u32()?, generation: reader.u32()? };
        let len = reader.u32().filter(|len| *len > 0)?;
        let flags = reader.u32().filter(|flags| *flags < 4)?;
        Some(Self { id, len, begins: flags & 1 != 0, ends: flags & 2 != 0 })
    }
}

/// A source that failed to authenticate lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SuspectRecord {
    pub(super) source: Source,
    /// It is in the newer half.
    pub(super) is_newer: bool,
}

impl SuspectRecord {
    pub(super) const LEN: usize = 16;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.source.to_number().to_le_bytes());
        out.extend(u64::from(self.is_newer).to_le_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let source = Source::from_number(reader.u64()?);
        let is_newer = read_flag(reader)?;
        Some(Self { source, is_newer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_a_number() {
        for protocol in [Protocol::Tutorial, Protocol::Multiprocessing, Protocol::Plain] {
            assert_eq!(protocol_of(protocol_code(protocol)), Some(protocol));
        }
        assert_eq!((protocol_of(0), protocol_of(4)), (None, None));
    }

    #[test]
    fn a_piece_of_an_answer_is_read_as_it_was_written() {
        let id = ConnId { index: 1, generation: 2 };
        for (begins, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            let piece = UnsentRecord { id, len: 1, begins, ends };
            let mut bytes = Vec::new();
            piece.write(&mut bytes);
            assert_eq!(bytes.len(), UnsentRecord::LEN);
            assert_eq!(UnsentRecord::read(&mut Reader::new(&bytes)), Some(piece));
            for (at, byte) in [(8, 0), (12, 4)] {
                let mut bad = bytes.clone();
                bad[at] = byte;
                assert_eq!(UnsentRecord::read(&mut Reader::new(&bad)), None, "byte {at}");
            }
        }
    }
}
