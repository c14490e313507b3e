//! A server's connection in the protocol of Python's multiprocessing, and an account of what it has
//! to answer that is written from the description.
#![allow(dead_code)] // Others use a part of it.
#![allow(unreachable_pub)] // The fuzz harness includes it.

use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::proto::{
    CloseReason, Config, Connection, Framed, MutualHandshake, Peer, Protocol, Role, State, Upper,
    Wants,
};
use saltecho::python::Monotonic;

pub const SERVER_RANDOM: [u8; 40] = [3; 40];
pub const CLIENT_RANDOM: [u8; 40] = [101; 40];

pub fn config(algorithm: MacAlgorithm) -> Config {
    let mut config = Config::new(Keyring::single(algorithm, &Key::demo()));
    config.protocol = Protocol::Multiprocessing;
    config
}

/// All that an honest client sends in the handshake, and all that it gets: since random bytes are
/// fixed here, it can be known beforehand.
pub fn honest_handshake(algorithm: MacAlgorithm) -> (Vec<u8>, Vec<u8>) {
    let keys = Keyring::single(algorithm, &Key::demo());
    let mut listener = MutualHandshake::new(Role::Listener, &keys, SERVER_RANDOM);
    let mut client = MutualHandshake::new(Role::Client, &keys, CLIENT_RANDOM);
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    while listener.outcome().is_none() || client.outcome().is_none() {
        got.extend(pass_on(&keys, &mut listener, &mut client));
        sent.extend(pass_on(&keys, &mut client, &mut listener));
    }
    (sent, got)
}

/// Takes what one side has to send to the other.
pub fn pass_on(keys: &Keyring, from: &mut MutualHandshake, to: &mut MutualHandshake) -> Vec<u8> {
    let bytes = from.unsent().to_vec();
    from.handle_sent(bytes.len());
    assert_eq!(to.handle_recv(keys, &bytes), bytes.len());
    bytes
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    pub sent: Vec<u8>,
    pub state: State,
    pub authenticated: bool,
}

/// Serves a client that sends `input`: it arrives in pieces, and the kernel takes answers in pieces.
pub fn served(
    config: &Config,
    max_message: Option<u64>,
    mut input: &[u8],
    mut piece: impl FnMut() -> usize,
    room: usize,
) -> Served {
    let now = Monotonic::ZERO;
    let handler = Framed::new(Upper, max_message);
    let mut connection = Connection::open(config, &SERVER_RANDOM, handler, Peer::default(), now);
    let mut sent = Vec::new();
    loop {
        match connection.wants(config) {
            Wants::Send => {
                let n = room.max(1).min(connection.chunk().len());
                sent.extend_from_slice(&connection.chunk()[..n]);
                connection.handle_sent(config, n, now);
            }
            Wants::Recv { limit } if !input.is_empty() => {
                let n = piece().clamp(1, limit.min(input.len()));
                let mut data = input[..n].to_vec();
                input = &input[n..];
                let reply = connection.handle_recv(config, &mut data, now);
                let n = room.min(reply.bytes().len());
                sent.extend_from_slice(&reply.bytes()[..n]);
                reply.sent(n);
            }
            Wants::Shutdown => connection.handle_shutdown(config, now),
            Wants::Recv { .. } | Wants::Nothing => break,
        }
    }
    Served { sent, state: connection.state(), authenticated: connection.has_authenticated() }
}

/// The answer to these frames, and whether one of them is too long.
pub fn answer(mut frames: &[u8], max_message: Option<u64>) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        let (header, len) = match frames {
            [255, 255, 255, 255, rest @ ..] => match rest.first_chunk() {
                Some(long) => (12, u64::from_be_bytes(*long)),
                None => break,
            },
            [a, b, c, d, ..] => {
                (4, u64::try_from(i32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(0))
            }
            _ => break,
        };
        out.extend_from_slice(&frames[..header]);
        if max_message.is_some_and(|most| len > most) {
            return (out, true);
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(frames.len() - header);
        out.extend(frames[header..header + len].to_ascii_uppercase());
        frames = &frames[header + len..];
    }
    out.extend_from_slice(frames);
    (out, false)
}

/// Checks what became of an honest client that sent these frames.
pub fn check(served: &Served, algorithm: MacAlgorithm, frames: &[u8], max_message: Option<u64>) {
    let (answer, is_too_long) = answer(frames, max_message);
    assert!(served.authenticated, "{served:?}");
    let expected = [honest_handshake(algorithm).1, answer].concat();
    assert!(served.sent == expected, "{} instead of {} bytes", served.sent.len(), expected.len());
    let state = if is_too_long { State::Lingering } else { State::Echoing };
    let ended = State::Closed(CloseReason::MessageTooLong);
    assert!(served.state == state || is_too_long && served.state == ended, "{:?}", served.state);
}
