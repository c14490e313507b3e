//! A snapshot of a running server, with which a recording can begin: all that decides about its calls,
//! to the last bit. No socket is touched.

use super::super::ending::Lifecycle;
use super::super::handover::CounterRecord;
use super::super::reconfigure::Reconfiguration;
use super::super::{ConnId, Server};
use crate::proto::wire::{put_bytes, put_number, put_time};
use crate::proto::{Connection, Disguise, Handler};
use crate::python::Monotonic;
use crate::reactor::slots::Slot;
use crate::reactor::{Kernel, Parts, Presence, SnapshotTaker};

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Gives the kernel the snapshot that it wants.
    #[cold]
    #[inline(never)]
    pub(in crate::server) fn take_snapshot(&mut self) {
        let (state, figures) = (self.parked_state(), self.parked_figures());
        let counters = CounterRecord::to_park(self);
        let settings = self.settings().to_words();
        let Self { reactor, acceptor, config, stats, records, .. } = self;
        // The slots of the loop that goes on from here will be used in the same order.
        let rebuilt = reactor.slots.rebuild();
        let slots = &reactor.slots;
        reactor.kernel.snapshot(|taker: &mut dyn SnapshotTaker<K::Stream>| {
            rebuilt.map_err(|_| "there is no memory for a snapshot".to_owned())?;
            taker.begin(stats.turns, &settings, config.keyring.ids());
            taker.server(slots.len(), &mut |disguise, parts| {
                parts.state.extend_from_slice(&state);
                let (since, suspects) = acceptor.unauthenticated.suspects();
                let mut suspects: Vec<_> = suspects
                    .map(|(source, is_newer)| (is_newer, disguise.source(source.to_number())))
                    .collect();
                suspects.sort_unstable();
                put_number(&mut parts.state, since.as_nanos());
                put_number(&mut parts.state, suspects.len() as u64);
                for (is_newer, source) in suspects {
                    parts.state.push(is_newer.into());
                    put_number(&mut parts.state, source);
                }
                CounterRecord::park(&counters, disguise, &mut parts.figures);
                parts.figures.extend_from_slice(&figures);
            });
            for id in slots.ids() {
                let slot = slots.get(id).expect("it was just listed");
                taker.connection(&slot.stream, &mut |disguise, parts| {
                    let presence = presence(id, slot, disguise, parts)?;
                    let unauthenticated = &acceptor.unauthenticated;
                    let arrival = unauthenticated
                        .arrival(id)
                        .filter(|_| !slot.connection.has_authenticated());
                    put_time(&mut parts.state, arrival.map(|(since, _)| since));
                    if let Some((_, source)) = arrival {
                        parts.state.push(source.is_some().into());
                        let source = source.map(|source| disguise.source(source.to_number()));
                        put_number(&mut parts.state, source.unwrap_or(0));
                    }
                    let row = records.as_ref().and_then(|records| records.row(id));
                    let mut bytes = Vec::new();
                    if let Some(row) = row {
                        row.park(disguise, &mut bytes);
                    }
                    put_bytes(&mut parts.figures, &bytes);
                    Ok(presence)
                })?;
            }
            Ok(())
        });
    }

    /// The settings in force.
    fn settings(&self) -> Reconfiguration {
        Reconfiguration {
            config: self.config.clone(),
            limits: self.limits,
            trusted: self.acceptor.unauthenticated.trusted().to_vec(),
            proxies: self.acceptor.proxies.list().to_vec(),
        }
    }

    /// All that decides about calls, but for connections and suspects.
    fn parked_state(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, self.reactor.slots.next_generation().into());
        self.reactor.park(&mut out);
        self.acceptor.park(&mut out);
        let (can_probe, _, next_probe) = self.keepalive.park();
        out.push(can_probe.into());
        put_number(&mut out, next_probe.as_nanos());
        put_number(&mut out, self.unsettled.park().map_or(0, |from| u64::from(from) + 1));
        put_lifecycle(&mut out, self.lifecycle);
        let next_tick = self.controlled.as_ref().map_or(Monotonic::NEVER, |it| it.next_tick());
        put_number(&mut out, next_tick.as_nanos());
        out
    }

    /// What decides about no call, but for counters and records.
    fn parked_figures(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.reactor.park_figures(&mut out);
        self.lag.park(&mut out);
        out
    }
}

pub(super) fn put_lifecycle(out: &mut Vec<u8>, lifecycle: Lifecycle) {
    let mut put = |tag: u8, times: [Option<Monotonic>; 2], next: Option<u32>| {
        out.push(tag);
        times.into_iter().for_each(|time| put_time(out, time));
        put_number(out, next.map_or(0, |next| u64::from(next) + 1));
    };
    match lifecycle {
        Lifecycle::Running => put(0, [None, None], None),
        Lifecycle::Unready { close_at, until } => put(1, [Some(close_at), until], None),
        Lifecycle::Draining { until, next } => put(2, [None, until], next),
        Lifecycle::Stopped => put(3, [None, None], None),
    }
}

/// Writes a connection without what admission knows of it.
fn presence<S, H: Handler>(
    id: ConnId,
    slot: &Slot<S, Connection<H>>,
    disguise: &mut dyn Disguise,
    parts: &mut Parts,
) -> Result<Presence, String> {
    let connection = &slot.connection;
    let (mut handshake, mut handler) = (Vec::new(), Vec::new());
    let head = connection
        .park(disguise, &mut handshake, &mut handler)
        .ok_or("the state of a connection's handler cannot be saved")?;
    let Parts { state, figures } = parts;
    put_number(state, head.deadline.wrapping_add(1));
    state.push(head.reason);
    put_number(state, head.bytes_left.into());
    put_bytes(state, &handshake);
    put_number(state, connection.messages().count() as u64);
    for message in connection.messages() {
        put_number(state, message.len() as u64);
        put_bytes(figures, disguise.payload(message));
    }
    put_bytes(figures, &handler);
    let unsent = connection.unsent();
    Ok(Presence { id, ready: slot.ready, state: connection.state(), unsent })
}
