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

    /// Takes the socket of the admin endpoint out, so that there is none.
    pub fn take_admin(&mut self) -> Option<S> {
        self.loops.iter_mut().find_map(|one| one.admin.take()).map(|(socket, _)| socket)
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
