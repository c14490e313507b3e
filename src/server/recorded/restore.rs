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
    use super::super::snapshot::put_lifecycle;
    use super::*;

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
