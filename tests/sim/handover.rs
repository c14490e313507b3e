//! Handovers step by step: what arrives is what was sent, any fault is refused, and a server that goes
//! on is the same as before.

use std::collections::BTreeSet;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{Answer, Config, Handler, Peer, Protocol, Upper};
use saltecho::random::SplitMix;
use saltecho::server::handover::{Decoder, Frozen, HandoverError, Kind, Thawing, Totals};
use saltecho::server::{Limits, Server};
use saltecho::sim::{Faults, Seen, SimKernel, SimMoved};
use saltecho::trace::Recorder;

use crate::world::TestKernel;
use crate::world::World;
use crate::world::handler::UpperHandler;
use crate::world::moving::{Message, Outcome, hand_over, messages};

/// Calls `look` with the frozen server of many random worlds, at each of their turns.
fn each_frozen(seeds: u64, mut look: impl FnMut(&mut World, Frozen<TestKernel, UpperHandler>)) {
    for seed in 0..seeds {
        let mut world = World::draw(SplitMix::new(seed), false);
        world.handovers = 0;
        for _ in 0..60 {
            world.random_turn();
            let frozen = world.take_server().freeze().map_err(|_| "it drains").unwrap();
            look(&mut world, frozen);
        }
    }
}

/// The messages without what may change: the sender's clock, an alarm that is overdue, the number of slots
/// that were ever in use; and with the suspects, which have no order, in one.
pub(crate) fn timeless(mut messages: Vec<Message>) -> Vec<Message> {
    for message in &mut messages {
        if message.kind == Kind::Suspect {
            let mut suspects: Vec<_> = message.payload.chunks(16).collect();
            suspects.sort_unstable();
            message.payload = suspects.concat();
        }
        let (range, size) = match message.kind {
            Kind::Loop => {
                message.payload[12..16].fill(0);
                (32..40, message.payload.len())
            }
            Kind::Connection => (16..24, usize::from(message.record_size)),
            _ => continue,
        };
        let records = message.payload[..size * message.count as usize].chunks_mut(size);
        records.for_each(|record| record[range.clone()].fill(0));
    }
    messages
}

#[test]
fn what_arrives_is_what_was_sent() {
    let mut kinds = BTreeSet::new();
    each_frozen(150, |world, mut frozen| {
        let mut kernel = frozen.exchange_kernel(Recorder::off(SimKernel::new(0, Faults::none())));
        kernel.stop_register_faults();
        kernel.begin_handover();
        let (sent, totals) = messages(&frozen);
        kinds.extend(sent.iter().map(|message| message.kind.code()));
        let mut decoder = Decoder::new();
        for message in sent.clone() {
            message.give(&mut decoder).unwrap();
        }
        let mut loops = decoder.finish(&totals).unwrap().spread(1, |_| unreachable!()).unwrap();
        let mut thawing = world.thawing(kernel);
        thawing.restore(loops.remove(0)).unwrap();
        thawing.server().kernel_mut().end_handover(true);
        thawing.server().kernel_mut().close_admin_streams();
        let frozen = thawing.commit().freeze().map_err(|_| "it drains").unwrap();
        let same = timeless(messages(&frozen).0) == timeless(sent);
        assert!(same, "it is another server");
        world.server = frozen.resume();
    });
    assert_eq!(kinds, (1..=7).collect(), "the worlds have every kind of record");
}

#[test]
fn a_server_that_goes_on_is_the_same_as_before() {
    each_frozen(100, |world, frozen| {
        let (before, _) = messages(&frozen);
        let frozen = frozen.resume().freeze().map_err(|_| "it drains").unwrap();
        assert!(messages(&frozen).0 == before, "it is another server");
        world.server = frozen.resume();
    });
}

#[test]
fn another_protocol_or_an_earlier_clock_is_refused() {
    let mut world = World::draw(SplitMix::new(0), false);
    (0..60).for_each(|_| world.random_turn());
    let frozen = world.take_server().freeze().map_err(|_| "it drains").unwrap();
    let (sent, totals) = messages(&frozen);
    let refusal = |config: &Config, uptime| {
        let mut decoder = Decoder::new();
        sent.iter().for_each(|message| message.clone().give(&mut decoder).unwrap());
        let mut loops = decoder.finish(&totals).unwrap().spread(1, |socket| Ok(*socket)).unwrap();
        let mut kernel = Recorder::off(SimKernel::new(0, Faults::none()));
        kernel.pass(uptime);
        let limits = Limits::for_connections(100);
        let thawing = Thawing::new(kernel, config.clone(), limits, Upper);
        match thawing.unwrap().restore(loops.remove(0)) {
            Err(HandoverError::Settings { what }) => what,
            other => panic!("{other:?}"),
        }
    };
    let mut config = Config::new(Keyring::demo());
    let earlier = refusal(&config, Duration::ZERO);
    assert!(earlier.contains("clock"), "{earlier}");
    config.protocol = Protocol::Multiprocessing;
    let other = refusal(&config, Duration::from_secs(86_400));
    assert!(other.contains("protocol"), "{other}");
}

/// Gives these messages to a decoder, and what it makes of them to a server. None of it may panic.
/// Returns the connections of that server that have authenticated; `None` if anything was refused.
fn restore(world: &World, messages: &[Message], totals: &Totals) -> Option<usize> {
    let mut decoder = Decoder::new();
    for message in messages {
        message.clone().give(&mut decoder).ok()?;
    }
    let mut loops = decoder.finish(totals).ok()?.spread(1, |socket| Ok(*socket)).unwrap();
    let mut kernel = Recorder::off(SimKernel::new(0, Faults::none()));
    kernel.pass(Duration::from_secs(86_400));
    // Sockets for the ones that are named.
    let sockets = messages.iter().flat_map(|message| &message.sockets);
    let streams = sockets.filter_map(|socket| match socket {
        SimMoved::Stream(client) => Some(*client),
        SimMoved::Listener | SimMoved::AdminListener => None,
    });
    let last = streams.max();
    while last.is_some_and(|last| kernel.connect(100, 100, 100) < last) {}
    let mut thawing = world.thawing(kernel);
    thawing.restore(loops.remove(0)).ok()?;
    let stats = thawing.server().stats();
    Some(stats.connections - stats.unauthenticated)
}

/// Each byte of every record, changed: it is refused, or means something else that is possible. No
/// client gets in by it.
#[test]
fn a_changed_byte_is_refused_or_harmless() {
    let (mut random, mut refused, mut taken) = (SplitMix::new(1), 0, 0);
    each_frozen(5, |world, frozen| {
        if random.chance(980) {
            return world.server = frozen.resume();
        }
        let (sent, totals) = messages(&frozen);
        world.server = frozen.resume();
        let authenticated = restore(world, &sent, &totals).expect("unchanged it is taken");
        for number in 0..sent.len() {
            for place in 0..sent[number].payload.len().min(300) {
                let mut changed = sent.clone();
                let change = 1 + random.below(255);
                changed[number].payload[place] ^= u8::try_from(change).unwrap();
                match restore(world, &changed, &totals) {
                    None => refused += 1,
                    Some(others) => {
                        taken += 1;
                        assert!(others <= authenticated, "let in by byte {place} of {number}");
                    }
                }
            }
        }
    });
    println!("{refused} were refused, {taken} taken");
    assert!(refused > 500 && taken > 500);
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut random = SplitMix::new(7);
    for _ in 0..20_000 {
        let mut decoder = Decoder::<u8>::new();
        for _ in 0..4 {
            let number = |random: &mut SplitMix, most| u32::try_from(random.below(most)).unwrap();
            let (kind, count) = (number(&mut random, 9), number(&mut random, 4));
            let size = [0, 8, 16, 48, 50, 65_535][random.below(6)];
            let len = random.below(400);
            let bytes: Vec<u8> = (0..len)
                .map(|_| if random.chance(500) { 0 } else { random.next_u64().to_le_bytes()[0] })
                .collect();
            let sockets = vec![0; random.below(4)];
            let kind = u8::try_from(kind).unwrap();
            if decoder.take(kind, count, size, &bytes, sockets).is_err() {
                break;
            }
        }
        let _ = decoder.finish(&Totals::default());
    }
}

/// The memory for a million connections is that of the connections: nothing is kept of a chunk.
#[test]
fn the_memory_of_the_decoder_does_not_grow_with_the_number_of_chunks() {
    const CHUNKS: u32 = 4167;
    const EACH: u32 = 240;
    let mut record = [0; 48];
    record[8..24].fill(255); // No deadline, no alarm.
    record[24] = 3; // Authenticated, between two messages.
    let mut head = [0; 48];
    head[..8].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0]);
    head[4..8].copy_from_slice(&(CHUNKS * EACH).to_le_bytes());
    head[8] = 1;
    head[12..16].copy_from_slice(&(CHUNKS * EACH).to_le_bytes());
    let mut decoder = Decoder::<u32>::new();
    let measured = allocation_counter::measure(|| {
        decoder.take(Kind::Loop.code(), 1, 48, &head, Vec::new()).unwrap();
        let mut payload = Vec::with_capacity(48 * EACH as usize);
        for chunk in 0..CHUNKS {
            payload.clear();
            for place in 0..EACH {
                let index = chunk * EACH + place;
                record[..4].copy_from_slice(&index.to_le_bytes());
                record[4..8].copy_from_slice(&(index + 1).to_le_bytes());
                payload.extend_from_slice(&record);
            }
            let sockets = (0..EACH).collect();
            decoder.take(Kind::Connection.code(), EACH, 48, &payload, sockets).unwrap();
        }
    });
    let kept = u64::try_from(measured.bytes_current).unwrap();
    let connections = u64::from(CHUNKS * EACH);
    println!("{} bytes each, {} more at most", kept / connections, measured.bytes_max - kept);
    assert!(kept < 80 * connections, "{kept} bytes are kept");
    assert!(measured.bytes_max - kept < 1 << 20, "{} at most", measured.bytes_max);
}

/// Answers once, and closes behind the answer.
#[derive(Clone)]
struct Farewell;

impl Handler for Farewell {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::Close(vec![b'z'; 100].into())
    }

    fn save(&self, _state: &mut Vec<u8>) -> bool {
        true
    }

    fn restore(&mut self, _peer: &Peer, state: &[u8]) -> bool {
        state.is_empty()
    }
}

#[test]
fn a_connection_that_is_to_close_behind_its_answer_does() {
    let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
    let thawing = |kernel| Thawing::new(kernel, config.clone(), limits, Farewell).unwrap();
    let kernel = Recorder::off(SimKernel::new(1, Faults::none()));
    let mut server =
        Server::with_kernel(kernel, vec![().into()], config.clone(), limits, Farewell).unwrap();
    let client = server.kernel_mut().connect(100, 40, 100);
    server.turn().unwrap();
    let challenge = server.kernel_mut().client_recv(client, 100).unwrap();
    let challenge = Challenge::new(challenge.try_into().unwrap());
    let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge);
    server.kernel_mut().client_send(client, &[digest.as_bytes(), b"x"].concat());
    server.turn().unwrap();
    let mut got = 0;
    let end = loop {
        let time = Duration::from_millis(1);
        let mut random = SplitMix::new(1);
        let moved = hand_over(server, Outcome::Done, time, &mut random, thawing);
        server = moved.map_err(|_| "it drains").unwrap().server;
        server.turn().unwrap();
        match server.kernel_mut().client_recv(client, 100) {
            Ok(bytes) => got += bytes.len(),
            Err(Seen::Nothing) => {}
            Err(end) => break end,
        }
        assert!(server.stats().turns < 100, "it does not end: {got} bytes came");
    };
    assert_eq!((got, end), (100, Seen::End));
}
