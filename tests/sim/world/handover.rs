//! Handovers of the simulated server: to a fresh registration of the same sockets, or given up at any
//! step.

use std::collections::BTreeMap;
use std::time::Duration;

use saltecho::random::SplitMix;
use saltecho::server::Server;
use saltecho::server::handover::{
    Arrived, Chunk, Decoder, Frozen, HandoverError, Kind, Lent, Thawing, Totals,
};
use saltecho::sim::{Faults, SimClient, SimKernel, SimMoved};

use super::World;
use super::handler::UpperHandler;

/// How a handover ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new loop takes over.
    Done,
    /// Before this chunk, as when the receiver dies.
    Cut(usize),
    /// With this chunk, of which something is missing.
    Truncated(usize),
    /// With everything restored, and no commit.
    NotCommitted,
}

/// A chunk as it arrives.
#[derive(Clone, Debug)]
pub struct Message {
    pub kind: Kind,
    pub count: u32,
    pub record_size: u16,
    pub payload: Vec<u8>,
    pub sockets: Vec<SimMoved>,
}

impl Message {
    pub fn of(chunk: &Chunk<'_, SimKernel>) -> Self {
        let sockets = chunk.sockets.iter().map(|lent| match lent {
            Lent::Listener(()) => SimMoved::Listener,
            Lent::AdminListener(_) => SimMoved::AdminListener,
            Lent::Stream(stream) => SimMoved::Stream(stream.client()),
        });
        let Chunk { kind, count, record_size, .. } = *chunk;
        let (payload, sockets) = (chunk.payload.clone(), sockets.collect());
        Self { kind, count, record_size, payload, sockets }
    }

    pub fn give(self, decoder: &mut Decoder<SimMoved>) -> Result<(), HandoverError> {
        let Self { kind, count, record_size, payload, sockets } = self;
        decoder.take(kind.code(), count, record_size, &payload, sockets)
    }

    /// Brings the connections into another order.
    pub fn shuffle(&mut self, random: &mut SplitMix) {
        if self.kind != Kind::Connection {
            return;
        }
        let (size, count) = (usize::from(self.record_size), self.count as usize);
        let (records, mut details) = self.payload.split_at(size * count);
        let mut parts: Vec<_> = records
            .chunks(size)
            .zip(&self.sockets)
            .map(|(record, socket)| {
                let len = u32::from_le_bytes(record[32..36].try_into().unwrap()) as usize;
                let own;
                (own, details) = details.split_at(len);
                (record, own, *socket)
            })
            .collect();
        for place in (1..parts.len()).rev() {
            parts.swap(place, random.below(place + 1));
        }
        let records = parts.iter().flat_map(|(record, ..)| *record);
        let payload = records.chain(parts.iter().flat_map(|(_, own, _)| *own)).copied().collect();
        self.sockets = parts.iter().map(|(.., socket)| *socket).collect();
        self.payload = payload;
    }

    /// Loses a socket, a byte or a record.
    fn spoil(&mut self, random: &mut SplitMix) {
        match random.below(3) {
            0 if !self.sockets.is_empty() => drop(self.sockets.pop()),
            1 => self.count -= 1,
            _ => drop(self.payload.pop()),
        }
    }
}

/// The messages of a whole handover.
pub fn messages(frozen: &Frozen<SimKernel, UpperHandler>) -> (Vec<Message>, Totals) {
    let mut chunks = frozen.chunks();
    let messages = chunks.by_ref().map(|chunk| Message::of(&chunk)).collect();
    (messages, chunks.totals())
}

impl World {
    /// A random handover, perhaps in the middle of a drain, which refuses it.
    pub(super) fn random_handover(&mut self) {
        let outcome = match self.random.below(8) {
            0 => Outcome::Cut(self.random.below(6)),
            1 => Outcome::Truncated(self.random.below(6)),
            2 => Outcome::NotCommitted,
            _ => Outcome::Done,
        };
        self.hand_over(outcome);
    }

    /// Hands the server over, or tries to, between two turns.
    pub fn hand_over(&mut self, outcome: Outcome) {
        let placeholder = self.placeholder();
        let server = std::mem::replace(&mut self.server, placeholder);
        let mut frozen = match server.freeze() {
            Ok(frozen) => frozen,
            Err(server) => {
                assert!(self.judge.draining.is_some(), "a running server was not frozen");
                return self.server = *server;
            }
        };
        let mut kernel = frozen.exchange_kernel(SimKernel::new(0, Faults::none()));
        kernel.note(|| format!("handover: {outcome:?}"));
        kernel.begin_handover();
        // Time goes on meanwhile, and clients do what they like.
        kernel.pass(Duration::from_millis([0, 0, 3, 900][self.random.below(4)]));
        let calls = self.calls(&kernel);
        let peers = self.handler.calls.lock().unwrap().opened.clone();
        let arrived = self.transfer(&frozen, outcome);
        let mut thawing = self.thawing(kernel);
        let restored = arrived.is_some_and(|arrived| {
            let mut loops = arrived.spread(1, |_| unreachable!("as many loops")).unwrap();
            thawing.restore(loops.remove(0)).is_ok()
        });
        if restored && outcome == Outcome::Done {
            let kernel = thawing.server().kernel_mut();
            kernel.end_handover(true);
            kernel.close_admin_streams();
            self.server = thawing.commit();
        } else {
            let mut kernel = thawing.into_kernel();
            kernel.end_handover(false);
            frozen.exchange_kernel(kernel);
            self.server = frozen.resume();
            self.handler.calls.lock().unwrap().opened = peers;
        }
        self.server.assert_invariants();
        self.judge.handed_over(self.server.kernel_mut());
        self.turn();
        self.assert_all_tried(&calls);
    }

    /// What the other side receives; `None` if it is given up.
    fn transfer(
        &mut self,
        frozen: &Frozen<SimKernel, UpperHandler>,
        outcome: Outcome,
    ) -> Option<Arrived<SimMoved>> {
        let (messages, totals) = messages(frozen);
        let mut decoder = Decoder::new();
        for (number, mut message) in messages.into_iter().enumerate() {
            message.shuffle(&mut self.random);
            match outcome {
                Outcome::Cut(at) if at == number => {
                    decoder.finish(&totals).expect_err("it is incomplete");
                    return None;
                }
                Outcome::Truncated(at) if at == number => {
                    message.spoil(&mut self.random);
                    message.give(&mut decoder).expect_err("something is missing");
                    return None;
                }
                _ => message.give(&mut decoder).expect("it is whole"),
            }
        }
        Some(decoder.finish(&totals).expect("it is complete"))
    }

    pub fn thawing(&self, kernel: SimKernel) -> Thawing<SimKernel, UpperHandler> {
        let (config, limits) = (self.config.clone(), self.limits);
        let mut thawing = Thawing::new(kernel, config, limits, self.handler.clone()).unwrap();
        let server = thawing.server();
        server.set_observer(self.judge.observer());
        server.keep_records(self.judge.records.kept);
        if self.judge.names_balancers() {
            server.trust_proxies(&["192.0.2.0/24".parse().unwrap()]);
        }
        thawing
    }

    fn placeholder(&self) -> Server<SimKernel, UpperHandler> {
        let (config, limits) = (self.config.clone(), self.limits);
        let kernel = SimKernel::new(0, Faults::none());
        Server::with_kernel(kernel, Vec::new(), config, limits, self.handler.clone()).unwrap()
    }

    /// The calls for each open connection so far.
    fn calls(&self, kernel: &SimKernel) -> BTreeMap<SimClient, u64> {
        let open = self.clients.iter().filter(|client| kernel.is_served(client.end));
        open.map(|client| (client.end, kernel.ledger(client.end).calls)).collect()
    }

    /// Checks that the first turn tried every connection, whatever events it got.
    fn assert_all_tried(&mut self, before: &BTreeMap<SimClient, u64>) {
        let kernel = self.server.kernel_mut();
        for (client, before) in before {
            let ledger = kernel.ledger(*client);
            let tried = ledger.calls > *before || ledger.shut_down_at.is_some();
            assert!(tried || !kernel.is_served(*client), "{client:?} was not tried: {ledger:?}");
        }
    }
}
