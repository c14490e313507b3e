//! Loops that have arrived, before their sockets are registered.

use std::io;

use super::counter::Counters;
use super::record::LoopRecord;
use crate::proto::{ConnId, Parked};
use crate::python::Monotonic;
use crate::reactor::generation_after;
use crate::server::admission::Source;
use crate::server::records::Row;

/// Loops that have arrived whole.
#[derive(Debug)]
pub struct Arrived<S> {
    pub(super) loops: Vec<ArrivedLoop<S>>,
}

/// One loop that has arrived, for one [`Thawing`](super::Thawing).
#[derive(Debug)]
pub struct ArrivedLoop<S> {
    pub(super) head: LoopRecord,
    pub(super) listeners: Vec<ArrivedListener<S>>,
    /// With whether a file goes with it.
    pub(super) admin: Option<(S, bool)>,
    /// Connections, as they came: each chunk's memory is freed when it is restored.
    pub(super) chunks: Vec<Vec<ArrivedConnection<S>>>,
    /// Sources that failed lately, each with whether it is in the newer half.
    pub(super) suspects: Vec<(Source, bool)>,
    pub(super) counters: Counters,
}

/// A listener that has arrived.
#[derive(Debug)]
pub struct ArrivedListener<S> {
    /// Its socket.
    pub socket: S,
    /// True if its clients come through a balancer that sends a PROXY header.
    pub proxied: bool,
}

/// A connection that has arrived.
#[derive(Debug)]
pub(super) struct ArrivedConnection<S> {
    pub(super) id: ConnId,
    pub(super) socket: S,
    pub(super) parked: Parked,
    pub(super) alarm: Option<Monotonic>,
    pub(super) extra: Option<Box<Extra>>,
}

/// What not every connection has.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) handler: Box<[u8]>,
    pub(super) row: Option<Row>,
    pub(super) arrival: Option<(Monotonic, Option<Source>)>,
}

impl<S> ArrivedConnection<S> {
    /// When it came, and its source, as long as it has not authenticated.
    pub(super) fn arrival(&self) -> Option<(Monotonic, Option<Source>)> {
        self.extra.as_ref()?.arrival
    }
}

impl<S> ArrivedLoop<S> {
    pub(super) fn new(head: LoopRecord) -> Self {
        Self {
            head,
            listeners: Vec::new(),
            admin: None,
            chunks: Vec::new(),
            suspects: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }
}

impl<S> Arrived<S> {
    /// Number of loops.
    pub fn loops(&self) -> usize {
        self.loops.len()
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.loops.iter().map(ArrivedLoop::connections).sum()
    }

    /// The listeners of each loop.
    pub fn listeners(&self) -> impl Iterator<Item = &[ArrivedListener<S>]> {
        self.loops.iter().map(|one| &one.listeners[..])
    }

    /// The socket of the admin endpoint, if there is one.
    pub fn admin(&self) -> Option<&S> {
        self.loops.iter().find_map(|one| one.admin.as_ref().map(|(socket, _)| socket))
    }

    /// Spreads all that arrived over so many loops, at least one. If their number has changed,
    /// connections get new numbers above all that were in use, and `share` makes copies of listeners
    /// for loops that have none of their own.
    ///
    /// # Errors
    /// Those of `share`.
    pub fn spread(
        self,
        loops: usize,
        mut share: impl FnMut(&S) -> io::Result<S>,
    ) -> io::Result<Vec<ArrivedLoop<S>>> {
        let loops = loops.max(1);
        if loops == self.loops.len() {
            return Ok(self.loops);
        }
        let first_free = self.loops.iter().map(|one| one.head.next_generation).max().unwrap_or(1);
        let mut connections = Vec::with_capacity(self.connections());
        let mut spread: Vec<ArrivedLoop<S>> = Vec::with_capacity(loops);
        for (index, mut one) in self.loops.into_iter().enumerate() {
            let moving = one.chunks.drain(..).flatten();
            let before = connections.len();
            connections.extend(moving);
            let moved = i64::try_from(connections.len() - before).unwrap_or(i64::MAX);
            one.counters.count_moved(-moved);
            match index < loops {
                true => spread.push(one),
                false => spread[index % loops].merge(one),
            }
        }
        let had = spread.len();
        for index in had..loops {
            // The listeners, and the suspicions, of one that there was.
            let copy = spread[index % had].copy(&mut share)?;
            spread.push(copy);
        }
        deal(connections, &mut spread, first_free);
        Ok(spread)
    }
}

impl<S> ArrivedLoop<S> {
    /// Adds what another loop has, but for connections.
    fn merge(&mut self, other: Self) {
        let Self { head, listeners, admin, suspects, counters, .. } = other;
        let (_, _, next_probe) = &mut self.head.keepalive;
        *next_probe = (*next_probe).max(head.keepalive.2);
        self.head.suspects_since = self.head.suspects_since.max(head.suspects_since);
        self.listeners.extend(listeners);
        self.admin = self.admin.take().or(admin);
        self.suspects.extend(suspects);
        self.counters.merge(counters);
    }

    /// A loop with the same listeners and suspicions, and without connections.
    fn copy(&self, share: &mut impl FnMut(&S) -> io::Result<S>) -> io::Result<Self> {
        let listeners = self.listeners.iter().map(|ArrivedListener { socket, proxied }| {
            Ok(ArrivedListener { socket: share(socket)?, proxied: *proxied })
        });
        let listeners = listeners.collect::<io::Result<_>>()?;
        Ok(Self { listeners, suspects: self.suspects.clone(), ..Self::new(self.head) })
    }
}

/// Deals connections to loops without any, under new numbers from this one on.
fn deal<S>(
    mut connections: Vec<ArrivedConnection<S>>,
    loops: &mut [ArrivedLoop<S>],
    first_free: u32,
) {
    // Those that have not authenticated are numbered in the order in which they came.
    connections.sort_by_key(|connection| connection.arrival().map(|(since, _)| since));
    let mut generation = first_free;
    let (mut dealt, count) = (Vec::new(), loops.len());
    dealt.resize_with(count, Vec::new);
    for (number, mut connection) in connections.into_iter().enumerate() {
        let index = u32::try_from(number / count).expect("fewer than 2^31 descriptors");
        connection.id = ConnId { index, generation };
        generation = generation_after(generation);
        dealt[number % count].push(connection);
    }
    for (one, connections) in loops.iter_mut().zip(dealt) {
        one.head.next_generation = generation;
        one.counters.count_moved(i64::try_from(connections.len()).unwrap_or(i64::MAX));
        one.chunks = vec![connections];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::server::handover::{Decoder, Kind, Totals};

    /// Numbers that stand for sockets: connections count from 0, and each loop has a listener.
    const LISTENER: u32 = 1000;
    const ADMIN: u32 = 2000;
    /// What is added to the number of a socket that was copied.
    const COPY: u32 = 10_000;
    /// Connections that were once there and have ended, in each loop.
    const ENDED: u64 = 3;

    /// Loops with so many connections each, the second of them with the admin endpoint. The slots and
    /// generations of different loops are the same.
    fn arrived(connections: &[u32]) -> Arrived<u32> {
        let mut decoder = Decoder::new();
        let mut totals = Totals::default();
        let mut take = |kind: Kind, count, size, payload: &[u8], sockets| {
            totals.chunks += 1;
            decoder.take(kind.code(), count, size, payload, sockets).unwrap();
        };
        let mut next = 0;
        for (index, &count) in (0_u32..).zip(connections) {
            let mut head = [0; LoopRecord::LEN];
            head[0..4].copy_from_slice(&(100 + index).to_le_bytes());
            head[4..8].copy_from_slice(&u32::to_le_bytes(count));
            (head[8], head[12]) = (1, 200);
            take(Kind::Loop, 1, 48, &head, Vec::new());
            take(Kind::Listener, 1, 8, &[0; 8], vec![LISTENER + index]);
            if index == 1 {
                take(Kind::AdminListener, 1, 8, &[0; 8], vec![ADMIN]);
            }
            let records: Vec<[u8; 48]> = (0..count).map(echoing).collect();
            if count > 0 {
                let sockets = (next..next + count).collect();
                take(Kind::Connection, count, 48, records.as_flattened(), sockets);
            }
            next += count;
            take(Kind::Suspect, 1, 16, &suspect(index), Vec::new());
            let accepted = counter(1, 1, u64::from(count) + ENDED);
            let ended = counter(2, 1, ENDED);
            take(Kind::Counter, 2, 16, &[accepted, ended].concat(), Vec::new());
        }
        totals.loops = connections.len() as u64;
        totals.listeners = totals.loops;
        totals.connections = next.into();
        decoder.finish(&totals).unwrap()
    }

    /// A connection between two messages, without a deadline.
    fn echoing(index: u32) -> [u8; 48] {
        let mut record = [0; 48];
        record[0..4].copy_from_slice(&index.to_le_bytes());
        record[4..8].copy_from_slice(&(index + 1).to_le_bytes());
        record[8..24].fill(255);
        record[24] = 3;
        record
    }

    fn suspect(index: u32) -> [u8; 16] {
        let mut record = [0; 16];
        record[0..4].copy_from_slice(&(index + 1).to_le_bytes());
        record
    }

    fn counter(group: u16, number: u16, value: u64) -> [u8; 16] {
        let mut record = [0; 16];
        record[0..2].copy_from_slice(&group.to_le_bytes());
        record[2..4].copy_from_slice(&number.to_le_bytes());
        record[8..16].copy_from_slice(&value.to_le_bytes());
        record
    }

    fn spread(from: &[u32], to: usize) -> Vec<ArrivedLoop<u32>> {
        arrived(from).spread(to, |socket| Ok(socket + COPY)).unwrap()
    }

    /// Spreads loops with these connections over another number, and checks what must hold each time.
    /// Returns the number of connections of each, and the listeners.
    fn check(from: &[u32], to: usize) -> (Vec<usize>, Vec<Vec<u32>>) {
        let loops = spread(from, to);
        let all: u32 = from.iter().sum();
        let connections = || loops.iter().flat_map(|one| one.chunks.iter().flatten());
        let sockets: BTreeSet<u32> = connections().map(|connection| connection.socket).collect();
        assert_eq!(sockets, (0..all).collect(), "each connection is in one loop");
        assert_eq!(connections().count(), all as usize);
        let numbers: BTreeSet<u32> =
            connections().map(|connection| connection.id.generation).collect();
        let first_free = 100 + u32::try_from(from.len()).unwrap() - 1;
        assert_eq!(numbers, (first_free..first_free + all).collect(), "new and different numbers");
        for one in &loops {
            assert_eq!(one.head.next_generation, first_free + all, "none of them is given again");
            assert!(one.counters.agree_with(one.connections()), "{:?}", one.counters.stats);
            let slots: BTreeSet<u32> =
                one.chunks.iter().flatten().map(|connection| connection.id.index).collect();
            assert_eq!(slots, (0..u32::try_from(one.connections()).unwrap()).collect());
        }
        let accepted: u64 = loops.iter().map(|one| one.counters.stats.accepted).sum();
        assert_eq!(accepted, u64::from(all) + ENDED * from.len() as u64, "counted once");
        let admin: Vec<u32> = loops.iter().filter_map(|one| Some(one.admin.as_ref()?.0)).collect();
        assert_eq!(admin, if from.len() > 1 { vec![ADMIN] } else { Vec::new() });
        let suspects: BTreeSet<String> =
            loops.iter().flat_map(|one| &one.suspects).map(|one| format!("{one:?}")).collect();
        assert_eq!(suspects.len(), from.len(), "no suspicion is lost");
        let listeners = |one: &ArrivedLoop<u32>| one.listeners.iter().map(|it| it.socket).collect();
        (
            loops.iter().map(ArrivedLoop::connections).collect(),
            loops.iter().map(listeners).collect(),
        )
    }

    #[test]
    fn four_loops_become_one_and_every_listener_is_served() {
        let (connections, listeners) = check(&[7, 0, 5, 9], 1);
        assert_eq!(connections, [21]);
        assert_eq!(listeners, [[LISTENER, LISTENER + 1, LISTENER + 2, LISTENER + 3]]);
    }

    #[test]
    fn four_loops_become_three_with_as_many_connections_each() {
        let (connections, listeners) = check(&[7, 0, 5, 9], 3);
        assert_eq!(connections, [7, 7, 7]);
        let expected = [vec![LISTENER, LISTENER + 3], vec![LISTENER + 1], vec![LISTENER + 2]];
        assert_eq!(listeners, expected);
        let (connections, _) = check(&[5, 5, 5, 5], 3);
        assert_eq!(connections, [7, 7, 6]);
    }

    #[test]
    fn one_loop_becomes_four_which_share_its_listener() {
        let (connections, listeners) = check(&[10], 4);
        assert_eq!(connections, [3, 3, 2, 2]);
        assert_eq!(
            listeners,
            [[LISTENER], [LISTENER + COPY], [LISTENER + COPY], [LISTENER + COPY]]
        );
        let suspects = spread(&[10], 4).iter().map(|one| one.suspects.len()).collect::<Vec<_>>();
        assert_eq!(suspects, [1; 4], "its suspect may come to any of them");
    }

    #[test]
    fn as_many_loops_keep_what_they_have() {
        assert_eq!(arrived(&[2, 3]).loops(), 2);
        let loops = spread(&[2, 3], 2);
        let sockets = |one: &ArrivedLoop<u32>| -> Vec<u32> {
            one.chunks.iter().flatten().map(|connection| connection.socket).collect()
        };
        assert_eq!(loops.iter().map(sockets).collect::<Vec<_>>(), [vec![0, 1], vec![2, 3, 4]]);
        let ids = loops.iter().flat_map(|one| one.chunks.iter().flatten());
        assert_eq!(ids.map(|it| it.id.generation).collect::<Vec<_>>(), [1, 2, 1, 2, 3]);
    }

    /// The oldest has to make room first in the new loops too.
    #[test]
    fn the_unauthenticated_are_numbered_in_the_order_in_which_they_came() {
        let mut arrived = arrived(&[2, 2, 2]);
        let since = [50, 10, 40, 20, 60, 30];
        let connections = arrived.loops.iter_mut().flat_map(|one| one.chunks.iter_mut().flatten());
        for (connection, since) in connections.zip(since) {
            let arrival = Some((Monotonic::from_nanos(since), None));
            connection.extra = Some(Box::new(Extra { arrival, ..Extra::default() }));
        }
        let loops = arrived.spread(2, |socket| Ok(*socket)).unwrap();
        let mut numbered: Vec<_> = loops
            .iter()
            .flat_map(|one| one.chunks.iter().flatten())
            .map(|it| (it.id.generation, it.arrival().unwrap().0.as_nanos()))
            .collect();
        numbered.sort_unstable();
        let since: Vec<u64> = numbered.iter().map(|(_, since)| *since).collect();
        assert_eq!(since, [10, 20, 30, 40, 50, 60]);
    }

    #[test]
    fn a_listener_that_cannot_be_copied_is_an_error() {
        let refused = arrived(&[1]).spread(2, |_| Err(io::ErrorKind::OutOfMemory.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
