//! Servers as earlier states of the source froze them: what they wrote stays readable, and means the
//! same, for as long as its format is one of `FORMATS`.
//!
//! A change that makes this test fail is one to the format: it needs a number of its own, and images of
//! its own. `SALTECHO_HANDOVER_IMAGE=record cargo test --test sim handover_image` writes those of formats
//! that have none.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::{Config, Framed, Handler, MutualHandshake, Protocol, Role, Upper};
use saltecho::random::SplitMix;
use saltecho::server::handover::{Decoder, FORMATS, Kind, Thawing, Totals};
use saltecho::server::{Limits, Server, Stats};
use saltecho::sim::{Faults, SimKernel, SimMoved};
use saltecho::trace::Recorder;

use crate::handover::timeless;
use crate::world::World;
use crate::world::handler::UpperHandler;
use crate::world::moving::{Message, messages};

/// The most images of a format.
const IMAGES: usize = 8;

/// The file with the images of a format in a protocol, which have an empty line between them. The first
/// line of each has the [`figures`] as they were then. Then there is a line for each message, with kind,
/// number of records, their length and the payload. The last line has the totals.
fn path(format: u16, protocol: Protocol) -> PathBuf {
    let name = format!("tests/data/handover/format-{format}-{protocol}.txt");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A frozen server: its figures, its messages, and their totals.
type Image = ([u64; 6], Vec<Message>, Totals);

fn read(image: &str) -> Image {
    let mut lines: Vec<&str> = image.lines().collect();
    let totals = Totals::from_bytes(&bytes(lines.pop().unwrap())).unwrap();
    let figures = lines.remove(0).split(' ').map(|figure| figure.parse().unwrap());
    let figures: Vec<u64> = figures.collect();
    (figures.try_into().unwrap(), lines.into_iter().map(message).collect(), totals)
}

fn message(line: &str) -> Message {
    let words: Vec<&str> = line.split(' ').collect();
    let kind = Kind::from_code(words[0].parse().unwrap()).unwrap();
    let count: u32 = words[1].parse().unwrap();
    let socket = match kind {
        Kind::Listener => Some(SimMoved::Listener),
        Kind::AdminListener => Some(SimMoved::AdminListener),
        // Each gets a stream of its own.
        _ => None,
    };
    let sockets = socket.map_or(Vec::new(), |socket| vec![socket; count as usize]);
    let (record_size, payload) = (words[2].parse().unwrap(), bytes(words[3]));
    Message { kind, count, record_size, payload, sockets }
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Messages without what depends on the settings of the receiver, with lists in one order.
fn comparable(messages: Vec<Message>) -> Vec<Message> {
    let mut messages = timeless(messages);
    for message in &mut messages {
        message.sockets.clear();
        match message.kind {
            // Keepalive.
            Kind::Loop => {
                message.payload[9] = 0;
                message.payload[16..32].fill(0);
            }
            Kind::Counter => {
                let mut counters: Vec<_> = message.payload.chunks(16).collect();
                counters.sort_unstable();
                message.payload = counters.concat();
            }
            _ => {}
        }
    }
    messages
}

#[test]
fn what_an_earlier_state_of_the_source_wrote_is_read_and_means_the_same() {
    if std::env::var_os("SALTECHO_HANDOVER_IMAGE").is_some() {
        record();
    }
    let mut seen = BTreeSet::new();
    for format in FORMATS {
        for protocol in [Protocol::Tutorial, Protocol::Multiprocessing] {
            let text = fs::read_to_string(path(*format, protocol)).expect("each has its images");
            for (number, image) in text.split("\n\n").enumerate() {
                let image = read(image);
                seen.extend(different(&image.1));
                let what = format!("image {number} of format {format}, {protocol}");
                match protocol {
                    Protocol::Multiprocessing => check(&what, image, protocol, framed()),
                    _ => check(&what, image, protocol, UpperHandler::new()),
                }
            }
        }
    }
    let kinds: BTreeSet<u8> = seen.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, (1..=7).collect(), "every kind of record is there");
    let stages: BTreeSet<u8> = seen.iter().map(|(_, [stage, ..], _)| *stage).collect();
    assert_eq!(stages, [0, 1, 2, 3, 5].into(), "handshakes, an echo and an end are there");
}

fn framed() -> Framed<Upper> {
    Framed::new(Upper, None)
}

fn config(protocol: Protocol) -> Config {
    let mut config = Config::new(Keyring::demo());
    config.protocol = protocol;
    config
}

/// Thaws an image, and freezes it again.
fn check<H: Handler + Clone>(what: &str, image: Image, protocol: Protocol, handler: H) {
    let (expected, mut sent, totals) = image;
    let mut kernel = Recorder::off(SimKernel::new(0, Faults::none()));
    // Later than when it was frozen.
    kernel.pass(Duration::from_secs(1_000_000));
    let mut decoder = Decoder::new();
    for message in &mut sent {
        if message.kind == Kind::Connection {
            let streams = (0..message.count).map(|_| kernel.connect(100, 100, 100));
            message.sockets = streams.map(SimMoved::Stream).collect();
        }
        message.clone().give(&mut decoder).unwrap();
    }
    let arrived = decoder.finish(&totals).unwrap();
    let mut loops = arrived.spread(1, |_| unreachable!("as many loops")).unwrap();
    let limits = Limits::for_connections(1000);
    let mut thawing = Thawing::new(kernel, config(protocol), limits, handler).unwrap();
    thawing.server().keep_records(true);
    thawing.restore(loops.remove(0)).unwrap();
    assert_eq!(figures(&thawing.server().stats()), expected, "{what}");
    let frozen = thawing.commit().freeze().map_err(|_| "it drains").unwrap();
    let again = messages(&frozen).0;
    assert!(comparable(again) == comparable(sent), "{what} means something else");
}

/// Connections, unauthenticated and half-closed ones, unsent bytes, accepted and closed so far.
fn figures(stats: &Stats) -> [u64; 6] {
    [
        stats.connections as u64,
        stats.unauthenticated as u64,
        stats.lingering as u64,
        stats.backlog_bytes,
        stats.accepted,
        stats.closes().map(|(_, count)| count).sum(),
    ]
}

/// What an image has: each kind of record, and of connections also stage, reason, what they wait for, and
/// the sections of their details.
type Seen = BTreeSet<(u8, [u8; 3], Vec<u8>)>;

/// Writes the images of formats that have none.
fn record() {
    for format in FORMATS {
        for protocol in [Protocol::Tutorial, Protocol::Multiprocessing] {
            let path = path(*format, protocol);
            if path.exists() {
                continue;
            }
            let images = match protocol {
                Protocol::Multiprocessing => vec![in_frames()],
                _ => differing(),
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, images.join("\n")).unwrap();
        }
    }
}

/// Servers of random worlds, those whose records differ most.
fn differing() -> Vec<String> {
    let mut candidates: Vec<(Seen, String)> = (0..600).flat_map(frozen_servers).collect();
    let (mut seen, mut images) = (Seen::new(), Vec::new());
    while images.len() < IMAGES {
        // A stage that is new counts before everything else.
        let stages = |seen: &Seen| -> BTreeSet<u8> {
            seen.iter().map(|(_, [stage, ..], _)| *stage).collect()
        };
        let news = |(has, _): &(Seen, String)| {
            (stages(has).difference(&stages(&seen)).count(), has.difference(&seen).count())
        };
        let best = (0..candidates.len()).max_by_key(|place| news(&candidates[*place]));
        let (has, image) = candidates.swap_remove(best.expect("there are enough"));
        if has.is_subset(&seen) {
            break;
        }
        seen.extend(has);
        images.push(image);
    }
    images
}

/// A server in frames, with a client at each step of its handshake, and in the middle of each part of a
/// frame; it owes answers to the last.
fn in_frames() -> String {
    let kernel = Recorder::off(SimKernel::new(1, Faults::none()));
    let limits = Limits::for_connections(20);
    let config = config(Protocol::Multiprocessing);
    let mut server =
        Server::with_kernel(kernel, vec![().into()], config, limits, framed()).unwrap();
    server.keep_records(true);
    let keys = Keyring::demo();
    let (short, long) = ([0, 0, 0, 9], [[255; 4], [0; 4], [0, 1, 0, 0]].concat());
    let whole = [&short[..], b"the whole"].concat();
    let parts: [&[u8]; 6] =
        [&short[..2], &whole[..7], &long[..6], &long, &whole.repeat(30), &whole];
    for number in 0..12_usize {
        let end = server.kernel_mut().connect(600, 60, 60);
        let random = [u8::try_from(number).unwrap(); 40];
        let mut client = MutualHandshake::new(Role::Client, &keys, random);
        // Some stop in the middle of the handshake.
        for _ in 0..(2 * number).min(12) {
            server.turn().unwrap();
            while let Ok(bytes) = server.kernel_mut().client_recv(end, 60) {
                assert_eq!(client.handle_recv(&keys, &bytes), bytes.len());
            }
            let bytes = client.unsent().to_vec();
            let sent = server.kernel_mut().client_send(end, &bytes);
            client.handle_sent(sent);
        }
        if let Some(place) = number.checked_sub(6) {
            assert_eq!(client.outcome(), Some(Ok(())));
            server.turn().unwrap();
            while server.kernel_mut().client_recv(end, 60).is_ok() {}
            server.kernel_mut().client_send(end, parts[place]);
        }
        server.turn().unwrap();
    }
    let frozen = server.freeze().map_err(|_| "it drains").unwrap();
    let (messages, totals) = messages(&frozen);
    assert!(totals.unsent > 0, "{totals:?}");
    image(&frozen.stats(), &messages, &totals)
}

/// The text of an image.
fn image(stats: &Stats, messages: &[Message], totals: &Totals) -> String {
    let figures = figures(stats).map(|figure| figure.to_string()).join(" ");
    let line = |message: &Message| {
        let Message { kind, count, record_size, payload, .. } = message;
        format!("{} {count} {record_size} {}\n", kind.code(), hex(payload))
    };
    let lines: String = messages.iter().map(line).collect();
    format!("{figures}\n{lines}{}\n", hex(&totals.to_bytes()))
}

/// The server of a world at some of its turns, each with what it has.
fn frozen_servers(seed: u64) -> Vec<(Seen, String)> {
    let mut world = World::draw(SplitMix::new(seed), false);
    world.handovers = 0;
    let mut servers: Vec<(Seen, String)> = Vec::new();
    // Records of connections are a part of the format, and some worlds keep none.
    while world.judge.records.kept && world.server.stats().turns < 120 {
        world.random_turn();
        let frozen = world.take_server().freeze().map_err(|_| "it drains").unwrap();
        let (messages, totals) = messages(&frozen);
        let has = different(&messages);
        if servers.iter().all(|(before, _)| !has.is_subset(before)) {
            servers.push((has, image(&frozen.stats(), &messages, &totals)));
        }
        world.server = frozen.resume();
    }
    servers
}

fn different(messages: &[Message]) -> Seen {
    let mut seen = Seen::new();
    for message in messages {
        seen.insert((message.kind.code(), [0; 3], Vec::new()));
        if message.kind != Kind::Connection {
            continue;
        }
        let (size, count) = (usize::from(message.record_size), message.count as usize);
        let (records, mut details) = message.payload.split_at(size * count);
        for record in records.chunks(size) {
            let len = u32::from_le_bytes(record[32..36].try_into().unwrap()) as usize;
            let own;
            (own, details) = details.split_at(len);
            // Whether it owes bytes, and has a deadline.
            let owes = u8::from(record[40..48].iter().any(|byte| *byte > 0));
            let is_timed = u8::from(record[8..16].iter().any(|byte| *byte < 255));
            let what = [record[24], record[25], 2 * owes + is_timed];
            seen.insert((message.kind.code(), what, sections(own)));
        }
    }
    seen
}

/// The tag and the length of each section of a connection's details.
fn sections(mut details: &[u8]) -> Vec<u8> {
    let mut sections = Vec::new();
    while let [tag, one, two, three, ..] = *details {
        sections.extend([tag, one]);
        let len = u32::from_le_bytes([one, two, three, 0]) as usize;
        details = &details[4 + len..];
    }
    sections
}
