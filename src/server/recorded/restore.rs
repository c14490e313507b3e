//! A server that goes on from a snapshot in a recording. The snapshot may be of any origin.

use bytes::Bytes;

use super::super::Server;
use super::super::ending::Lifecycle;
use super::super::handover::Counters;
use super::super::lag::Lag;
use super::super::records::Row;
use crate::proto::wire::{Reader, read_time};
use crate::proto::{Connection, Handler, Head, Parked, Peer, State, guarded};
use crate::python::Monotonic;
use crate::reactor::{Arriving, Kernel};
use crate::server::admission::Source;
use crate::trace::{LateBytes, Snapshot, SnapshotConnection, Stream};

/// Slots beyond this are refused: a file of a few bytes could ask for as much memory as it likes.
const MAX_SLOTS: u32 = 1 << 22;
/// Longest unsent message of a snapshot in bytes.
const MAX_MESSAGE: usize = 64 << 20;
/// The byte that stands for unsent payload that is not kept.
const NEUTRAL: u8 = b'x';

/// A connection of a snapshot, restored.
struct Restored<H> {
    arriving: Arriving<Stream, Connection<H>>,
    arrival: Option<(Monotonic, Option<Source>)>,
    row: Option<Row>,
}

impl<K: Kernel<Stream = Stream>, H: Handler + Clone> Server<K, H> {
    /// Goes on from a snapshot, with the listeners, settings and control of the recorded server. `headers`
    /// has bytes that stand for PROXY headers, and loses those that connections had already. `None` if the
    /// snapshot is not one that this build understands.
    pub(in crate::server) fn restore(
        &mut self,
        snapshot: &Snapshot,
        headers: &mut LateBytes,
    ) -> Option<()> {
        let mut reader = Reader::new(&snapshot.parts.state);
        let next_generation = reader.small().filter(|next| (1..u32::MAX).contains(next))?;
        self.restore_connections(snapshot, next_generation, headers)?;
        self.restore_state(&mut reader)?;
        reader.rest().is_empty().then_some(())?;
        self.restore_figures(&mut Reader::new(&snapshot.parts.figures))?;
        self.stats.turns = snapshot.turns;
        #[cfg(any(test, feature = "testing"))]
        self.unsettled.tolerate(self.reactor.slots.len(), self.acceptor.unauthenticated.len());
        Some(())
    }

    fn restore_connections(
        &mut self,
        snapshot: &Snapshot,
        next_generation: u32,
        headers: &mut LateBytes,
    ) -> Option<()> {
        let connections = &snapshot.connections;
        let mut indices = connections.iter().map(|one| one.presence.id.index);
        let is_possible = indices.clone().is_sorted_by(|one, other| one < other)
            && indices.next_back().is_none_or(|last| last < MAX_SLOTS);
        is_possible.then_some(())?;
        let mut restored = Vec::with_capacity(connections.len());
        for one in connections {
            restored.push(self.restored(one, headers.get_mut(&one.stream))?);
        }
        restored.sort_by_key(|one| next_generation.wrapping_sub(one.arriving.id.generation));
        let mut before = None;
        for one in restored.iter().rev() {
            let id = one.arriving.id;
            let is_new = before.replace(id.generation) != Some(id.generation);
            (is_new && (1..u32::MAX).contains(&id.generation)).then_some(())?;
            let unauthenticated = &mut self.acceptor.unauthenticated;
            match one.arrival {
                Some((since, None)) if one.arriving.connection.state() == State::AwaitHeader => {
                    unauthenticated.add_awaiting_header(id, since);
                }
                Some((since, source)) => unauthenticated.add(id, source, since),
                None => {}
            }
        }
        // As in the slab that was rebuilt for the snapshot: free slots are used in the same order.
        restored.sort_by_key(|one| one.arriving.id.index);
        let Self { reactor, records, stats, .. } = self;
        let arriving = restored.into_iter().map(|one| {
            let Restored { arriving, row, .. } = one;
            if let (Some(records), Some(row)) = (&mut *records, row) {
                records.insert(arriving.id, row);
            }
            stats.lingering += usize::from(arriving.half_closed);
            stats.backlog_bytes += arriving.connection.unsent() as u64;
            Ok::<_, ()>(arriving)
        });
        reactor.slots.arrive(next_generation, arriving).ok()?;
        Some(())
    }

    fn restored(
        &self,
        one: &SnapshotConnection,
        header: Option<&mut Vec<u8>>,
    ) -> Option<Restored<H>> {
        let SnapshotConnection { stream, presence, parts } = one;
        let (mut state, mut figures) = (Reader::new(&parts.state), Reader::new(&parts.figures));
        let deadline = state.number()?.wrapping_sub(1);
        let (reason, bytes_left) = (state.u8()?, state.small()?);
        let handshake = state.long_counted()?;
        let messages = messages(&mut state, &mut figures)?;
        let unsent = messages.iter().map(|message| message.len() as u64).sum();
        let stage = Head::stage_of(presence.state, self.config.protocol);
        let head = Head { stage, reason, bytes_left, deadline, unsent };
        let handshake = (!handshake.is_empty()).then_some(handshake);
        let mut parked = Parked::read(&head, handshake)?;
        if !messages.is_empty() {
            parked.owe(&head, messages)?;
        }
        if let Some(header) = header {
            parked.replace_header(header)?;
        }
        let arrival = match read_time(&mut state)? {
            None => None,
            Some(since) => Some((since, source(&mut state)?)),
        };
        (arrival.is_none() == parked.has_authenticated()).then_some(())?;
        let peer = Peer::new(self.inbox.server(), presence.id, None);
        parked.rename(&peer);
        let saved = figures.long_counted()?;
        let is_known = parked.has_authenticated();
        let handler = guarded(|| {
            let mut handler = self.handler.clone();
            (!is_known || handler.restore(&peer, saved)).then_some(handler)
        });
        let half_closed = parked.is_lingering();
        let connection = parked.into_connection(&self.config, handler??);
        let row = match figures.long_counted()? {
            [] => None,
            row => Some(Row::read(row)?),
        };
        let is_as_announced =
            (connection.state(), connection.unsent()) == (presence.state, presence.unsent);
        let is_whole = state.rest().is_empty() && figures.rest().is_empty();
        let (id, ready) = (presence.id, presence.ready);
        let arriving = Arriving { id, stream: *stream, connection, ready, half_closed };
        (is_as_announced && is_whole).then_some(Restored { arriving, arrival, row })
    }

    fn restore_state(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.reactor.unpark(reader)?;
        self.acceptor.unpark(reader)?;
        self.inbox.set_listeners(self.acceptor.listeners.len());
        let (can_probe, next) = (reader.bit()?, Monotonic::from_nanos(reader.number()?));
        self.keepalive.unpark((can_probe, 0, next), &self.config, &self.limits);
        self.unsettled.unpark(slot(reader)?);
        self.lifecycle = lifecycle(reader)?;
        self.restore_control(Monotonic::from_nanos(reader.number()?));
        let since = Monotonic::from_nanos(reader.number()?);
        let mut suspects = Vec::new();
        for _ in 0..reader.number()? {
            let is_newer = reader.bit()?;
            suspects.push((Source::from_number(reader.number()?), is_newer));
        }
        self.acceptor.unauthenticated.suspect(since, &suspects);
        Some(())
    }

    fn restore_figures(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let counters = Counters::unpark(reader)?;
        counters.agree_with(self.reactor.slots.len()).then_some(())?;
        let (lingering, backlog_bytes) = (self.stats.lingering, self.stats.backlog_bytes);
        self.stats = counters.stats;
        self.stats.replace_keys(self.config.keyring.names());
        (self.stats.lingering, self.stats.backlog_bytes) = (lingering, backlog_bytes);
        if let Some(records) = &mut self.records {
            records.count_from(self.stats.bytes_moved());
        }
        self.reactor.unpark_figures(reader)?;
        self.lag = Lag::unpark_exactly(reader, counters.figures)?;
        reader.rest().is_empty().then_some(())
    }
}

/// The unsent messages of a connection; neutral ones if they are not kept.
fn messages(state: &mut Reader<'_>, figures: &mut Reader<'_>) -> Option<Vec<Bytes>> {
    let mut lens = Vec::new();
    for _ in 0..state.number()? {
        lens.push(state.small().filter(|len| (1..=MAX_MESSAGE).contains(len))?);
    }
    // One piece of memory for all of them.
    let neutral = Bytes::from(vec![NEUTRAL; lens.iter().copied().max().unwrap_or(0)]);
    let messages = lens.into_iter().map(|len| {
        let kept = figures.long_counted()?;
        match kept.len() {
            0 => Some(neutral.slice(..len)),
            kept_len => (kept_len == len).then(|| Bytes::copy_from_slice(kept)),
        }
    });
    messages.collect()
}

#[allow(clippy::option_option)] // The outer one is for what is impossible.
fn source(reader: &mut Reader<'_>) -> Option<Option<Source>> {
    let (is_known, number) = (reader.bit()?, reader.number()?);
    Some(is_known.then(|| Source::from_number(number)))
}

#[allow(clippy::option_option)] // The same.
fn slot(reader: &mut Reader<'_>) -> Option<Option<u32>> {
    Some(reader.small::<u32>()?.checked_sub(1))
}

fn lifecycle(reader: &mut Reader<'_>) -> Option<Lifecycle> {
    let (tag, one, until, next) =
        (reader.u8()?, read_time(reader)?, read_time(reader)?, slot(reader)?);
    Some(match (tag, one) {
        (0, None) => Lifecycle::Running,
        (1, Some(close_at)) => Lifecycle::Unready { close_at, until },
        (2, None) => Lifecycle::Draining { until, next },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::super::super::accept::Listening;
    use super::super::super::{Limits, Replay, Replayed};
    use super::super::recording_header;
    use super::super::snapshot::put_lifecycle;
    use super::*;
    use crate::auth::{Challenge, Key, Keyring, MacAlgorithm};
    use crate::proto::{Config, ConnId, Upper};
    use crate::sim::{Faults, SimKernel};
    use crate::trace::{self, RecordOptions, Recorder, ReplayKernel, Segments};

    /// The segments of a recording.
    #[derive(Clone)]
    struct Memory(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().last_mut().expect("there is one").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Segments for Memory {
        fn begin_next(&mut self) -> io::Result<()> {
            self.0.lock().unwrap().push(Vec::new());
            Ok(())
        }
    }

    fn settings() -> (Config, Limits) {
        let mut config = Config::new(Keyring::demo());
        // So that one that echoes has no alarm.
        (config.keepalive, config.send_timeout) = (None, None);
        (config, Limits::for_connections(10))
    }

    const HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

    /// Bytes of the answer that the last connection is owed.
    const UNSENT: usize = 68;

    /// A segment that begins with the start of a server, and one that begins with a snapshot of it. By then
    /// it has four connections from a balancer: two that wait for their headers, one that waits for a digest,
    /// and one that is owed a part of an answer. It is about to arm them anew.
    fn segments() -> Vec<Vec<u8>> {
        let ((config, limits), segments) = (settings(), Memory(Arc::new(vec![Vec::new()].into())));
        let header = recording_header(&config, &limits, &[], &[], &[true]);
        let options = RecordOptions { header, keeps_payload: true, limit: Some(1 << 20) };
        let (kernel, output) = (SimKernel::new(1, Faults::none()), segments.clone());
        let kernel = Recorder::to_segments(kernel, output, options, Box::new(|_| {})).unwrap();
        let mut server =
            Server::with_kernel(kernel, vec![().into()], config, limits, Upper).unwrap();
        server.require_proxy(0);
        server.keep_records(true);
        let [_, _, third, fourth] = [(); 4].map(|()| server.kernel_mut().connect(200, 32, 200));
        for client in [third, fourth] {
            server.kernel_mut().client_send(client, HEADER);
        }
        (0..4).for_each(|_| server.turn().map(drop).unwrap());
        let challenge = server.kernel_mut().client_recv(fourth, 32).unwrap();
        let challenge = Challenge::new(challenge.try_into().unwrap());
        let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge);
        server.kernel_mut().client_send(fourth, digest.as_bytes());
        server.turn().unwrap();
        server.kernel_mut().client_send(fourth, &[b'a'; 32 + UNSENT]);
        (0..4).for_each(|_| server.turn().map(drop).unwrap());
        assert_eq!(server.stats().backlog_bytes, UNSENT as u64);
        server.unsettled.rearm_all();
        server.force_snapshot();
        drop(server);
        std::mem::take(&mut segments.0.lock().unwrap())
    }

    fn segment() -> Vec<u8> {
        segments().swap_remove(1)
    }

    type Change = fn(&mut Snapshot);

    /// The server that goes on from the snapshot of a segment once it was changed, unless it is refused.
    fn restored(segment: &[u8], change: Change) -> Option<Server<ReplayKernel<&[u8]>, Upper>> {
        let (mut kernel, _) = ReplayKernel::new(trace::Reader::new(segment).unwrap());
        let mut snapshot = kernel.begin_with_snapshot().unwrap().expect("it begins with one");
        change(&mut snapshot);
        let (config, limits) = settings();
        let mut server = Server::with_kernel(kernel, Vec::new(), config, limits, Upper).unwrap();
        server.acceptor.add(Listening::arrived(0, true));
        server.keep_records(true);
        server.restore(&snapshot, &mut LateBytes::new()).map(|()| server)
    }

    fn last(snapshot: &mut Snapshot) -> &mut SnapshotConnection {
        snapshot.connections.last_mut().unwrap()
    }

    #[test]
    fn a_server_goes_on_from_its_snapshot() {
        let segment = segment();
        let mut server = restored(&segment, |_| {}).unwrap();
        server.assert_invariants();
        let stats = server.stats();
        assert_eq!((stats.connections, stats.accepted, stats.authenticated), (4, 4, 1));
        assert_eq!(stats.backlog_bytes, UNSENT as u64);
        let unauthenticated = &server.acceptor.unauthenticated;
        assert_eq!((unauthenticated.len(), unauthenticated.awaiting_header()), (3, 2));
        assert_eq!(server.unsettled.park(), Some(0), "it arms them from the first on");
    }

    #[test]
    fn a_snapshot_that_contradicts_itself_is_refused() {
        let segment = segment();
        let changes: [(&str, Change); 11] = [
            ("another order", |snapshot| snapshot.connections.swap(0, 1)),
            ("two connections in one slot", |snapshot| {
                last(snapshot).presence.id.index = 2;
                // The number that were accepted is the first counter, and would give it away.
                snapshot.parts.figures[1 + 8] = 3;
            }),
            ("a slot beyond the last", |snapshot| last(snapshot).presence.id.index = 1 << 22),
            ("two connections of one number", |snapshot| {
                last(snapshot).presence.id.generation =
                    snapshot.connections[0].presence.id.generation;
            }),
            ("number 0", |snapshot| last(snapshot).presence.id.generation = 0),
            ("another state", |snapshot| {
                snapshot.connections[0].presence.state = State::AwaitDigest;
            }),
            ("other unsent bytes", |snapshot| last(snapshot).presence.unsent -= 1),
            ("more of a connection", |snapshot| last(snapshot).parts.state.push(0)),
            ("more figures of a connection", |snapshot| last(snapshot).parts.figures.push(0)),
            ("more of the loop", |snapshot| snapshot.parts.state.push(0)),
            ("more figures of the loop", |snapshot| snapshot.parts.figures.push(0)),
        ];
        for (what, change) in changes {
            assert!(restored(&segment, change).is_none(), "{what}");
        }
        let other = restored(&segment, |snapshot| last(snapshot).presence.id.index = 70);
        assert!(other.is_some(), "slots may be free");
    }

    #[test]
    fn a_segment_that_begins_with_a_snapshot_cannot_be_replayed_from_the_start() {
        let segments = segments();
        let over = |segment: usize| {
            let reader = trace::Reader::new(&segments[segment][..]).unwrap();
            let header = reader.header().clone();
            let (kernel, sign) = ReplayKernel::new(reader);
            Replay::over(kernel, sign, &header, Upper)
        };
        let mut first = over(0).unwrap();
        let end = std::iter::repeat_with(|| first.turn()).find(|it| !matches!(it, Replayed::Turn));
        assert!(matches!(end, Some(Replayed::End)), "{end:?}");
        assert_eq!(first.server().stats().connections, 4);
        let refused = over(1).err().unwrap();
        assert!(refused.contains("is replayed by itself"), "{refused}");
    }

    #[test]
    fn a_replay_knows_its_connections_by_their_streams() {
        let segment = segment();
        let replay = Replay::new(trace::Reader::new(&segment[..]).unwrap(), Upper).unwrap();
        let number = |stream| replay.connection_of(Stream(stream)).map(ConnId::number);
        assert_eq!([1, 2, 3, 4, 5].map(number), [Some(1), Some(2), Some(3), Some(4), None]);
        #[cfg(feature = "page")]
        {
            use crate::trace::page::Fact::{Deadline, Held, Place, Stage};
            let views = replay.views();
            assert_eq!(views.len(), 4 * 4);
            assert!(views[..4].iter().all(|(stream, _)| *stream == Stream(1)));
            let echoing = [Stage("echoing"), Held(UNSENT), Deadline(None), Place(None)];
            assert_eq!(views[12..], echoing.map(|fact| (Stream(4), fact)));
        }
    }

    /// Few random worlds are recorded while they drain.
    #[test]
    fn each_state_of_a_drain_is_restored() {
        let time = Monotonic::from_nanos;
        for before in [
            Lifecycle::Running,
            Lifecycle::Unready { close_at: time(7), until: None },
            Lifecycle::Unready { close_at: time(7), until: Some(time(9)) },
            Lifecycle::Draining { until: None, next: Some(0) },
            Lifecycle::Draining { until: Some(time(9)), next: Some(u32::MAX - 1) },
            Lifecycle::Draining { until: Some(time(9)), next: None },
        ] {
            let mut bytes = Vec::new();
            put_lifecycle(&mut bytes, before);
            let mut reader = Reader::new(&bytes);
            assert_eq!(lifecycle(&mut reader), Some(before));
            assert!(reader.rest().is_empty(), "{before:?}");
        }
    }
}
