//! A handover between two loops over one simulated kernel, which may fail at any step.

use std::time::Duration;

use saltecho::proto::Handler;
use saltecho::random::SplitMix;
use saltecho::server::Server;
use saltecho::server::handover::{
    Arrived, Chunk, Decoder, Frozen, HandoverError, Kind, Lent, Thawing, Totals,
};
use saltecho::sim::{Faults, SimKernel, SimMoved};
use saltecho::trace::Recorder;

use super::TestKernel;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub count: u32,
    pub record_size: u16,
    pub payload: Vec<u8>,
    pub sockets: Vec<SimMoved>,
}

impl Message {
    pub fn of(chunk: &Chunk<'_, TestKernel>) -> Self {
        let sockets = chunk.sockets.iter().map(|lent| match lent {
            Lent::Listener(_) => SimMoved::Listener,
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
pub fn messages<H: Handler + Clone>(frozen: &Frozen<TestKernel, H>) -> (Vec<Message>, Totals) {
    let mut chunks = frozen.chunks();
    let messages = chunks.by_ref().map(|chunk| Message::of(&chunk)).collect();
    (messages, chunks.totals())
}

/// A server after a handover, or after one that failed.
pub struct HandedOver<H> {
    pub server: Server<TestKernel, H>,
    pub taken_over: bool,
}

/// Hands a server over, or tries to. It takes this long. `thawing` makes the server that is to take over.
///
/// # Errors
/// The server, if it drains.
pub fn hand_over<H: Handler + Clone>(
    server: Server<TestKernel, H>,
    outcome: Outcome,
    time: Duration,
    random: &mut SplitMix,
    thawing: impl FnOnce(TestKernel) -> Thawing<TestKernel, H>,
) -> Result<HandedOver<H>, Box<Server<TestKernel, H>>> {
    let mut frozen = server.freeze()?;
    let mut kernel = frozen.exchange_kernel(Recorder::off(SimKernel::new(0, Faults::none())));
    kernel.remark(|| format!("handover: {outcome:?}"));
    kernel.begin_handover();
    let mut thawing = thawing(kernel);
    thawing.server().kernel_mut().pass(time);
    let arrived = transfer(&frozen, outcome, random);
    let restored = arrived.is_some_and(|arrived| {
        let mut loops = arrived.spread(1, |_| unreachable!("as many loops")).unwrap();
        thawing.restore(loops.remove(0)).is_ok()
    });
    if restored && outcome == Outcome::Done {
        let kernel = thawing.server().kernel_mut();
        kernel.end_handover(true);
        kernel.close_admin_streams();
        leave(frozen);
        return Ok(HandedOver { server: thawing.commit(), taken_over: true });
    }
    let mut kernel = thawing.into_kernel();
    kernel.end_handover(false);
    frozen.exchange_kernel(kernel);
    Ok(HandedOver { server: frozen.resume(), taken_over: false })
}

/// Ends the old loop's part once the other has taken over: nothing is left, and nothing is forgotten twice.
fn leave<H: Handler + Clone>(frozen: Frozen<TestKernel, H>) {
    let before = frozen.stats();
    assert_eq!(frozen.staying(), 0, "every handler of these worlds moves");
    let mut server = frozen.leave();
    server.assert_invariants();
    let after = server.stats();
    assert_eq!(after.elsewhere, before.elsewhere + before.connections as u64, "moved");
    let left = (after.connections, after.unauthenticated, after.lingering, after.backlog_bytes);
    assert_eq!(left, (0, 0, 0, 0), "connections, unauthenticated, lingering, unsent bytes");
}

/// What the other side receives; `None` if it is given up.
fn transfer<H: Handler + Clone>(
    frozen: &Frozen<TestKernel, H>,
    outcome: Outcome,
    random: &mut SplitMix,
) -> Option<Arrived<SimMoved>> {
    let (messages, totals) = messages(frozen);
    assert_eq!(frozen.totals(), totals);
    let has_admin = messages.iter().any(|message| message.kind == Kind::AdminListener);
    let mut decoder = Decoder::new();
    for (number, mut message) in messages.into_iter().enumerate() {
        message.shuffle(random);
        match outcome {
            Outcome::Cut(at) if at == number => {
                decoder.finish(&totals).expect_err("it is incomplete");
                return None;
            }
            Outcome::Truncated(at) if at == number => {
                message.spoil(random);
                message.give(&mut decoder).expect_err("something is missing");
                return None;
            }
            _ => message.give(&mut decoder).expect("it is whole"),
        }
    }
    let arrived = decoder.finish(&totals).expect("it is complete");
    let listeners: usize = arrived.listeners().map(<[_]>::len).sum();
    let numbers = [arrived.loops(), listeners, arrived.connections()].map(|number| number as u64);
    assert_eq!(numbers, [totals.loops, totals.listeners, totals.connections]);
    assert_eq!(arrived.admin().is_some(), has_admin, "an admin endpoint");
    Some(arrived)
}

impl Outcome {
    /// Most succeed; the others fail somewhere.
    pub fn draw(random: &mut SplitMix) -> Self {
        match random.below(8) {
            0 => Self::Cut(random.below(6)),
            1 => Self::Truncated(random.below(6)),
            2 => Self::NotCommitted,
            _ => Self::Done,
        }
    }
}

/// The time that a handover takes.
pub fn draw_time(random: &mut SplitMix) -> Duration {
    Duration::from_millis([0, 0, 3, 900][random.below(4)])
}
