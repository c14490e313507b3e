//! The protocol of Python's multiprocessing.connection: CPython's recorded runs byte for byte, and
//! every segmentation.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::proto::{
    Answer, CloseReason, Config, Connection, Framed, Handler, HandshakeError, Identity,
    MutualHandshake, Peer, Protocol, Role, State, Upper, Wants, frame_header,
};
use saltecho::python::Monotonic;
use saltecho::random::SplitMix;
use serde_json::Value;

use crate::multiprocessing_world::{
    SERVER_RANDOM, Served, check, config, honest_handshake, pass_on, served,
};

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().expect("it is text").as_bytes()).expect("it is hexadecimal")
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [frame_header(payload.len() as u64).as_ref(), payload].concat()
}

/// One side of a recorded run: its keys and random bytes, what it received and what it sent, in
/// order, and how it ended.
struct Side {
    role: Role,
    keys: Keyring,
    random: [u8; 40],
    /// True for bytes that it sent.
    wire: Vec<(bool, Vec<u8>)>,
    ended: String,
    message: String,
}

/// The sides of all recorded runs that CPython played.
fn recorded() -> Vec<(String, Side)> {
    let text = include_str!("../data/challenge.json");
    let recorded: Value = serde_json::from_str(text).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 32);
    let mut sides = Vec::new();
    for case in cases {
        for (name, role, first) in [("server", Role::Listener, 3), ("client", Role::Client, 101)] {
            let algorithm = match case[name].as_str().unwrap() {
                "legacy" => MacAlgorithm::Md5,
                "modern" => MacAlgorithm::Sha256,
                _ => continue,
            };
            let key = Key::new(hex(&case[format!("{name}_key")]));
            let wire = case["wire"].as_array().unwrap().iter();
            let end = &case["ends"][name];
            sides.push((
                format!("{name} of {}", case["name"]),
                Side {
                    role,
                    keys: Keyring::single(algorithm, &key),
                    random: std::array::from_fn(|i| u8::try_from((i + first) % 251).unwrap()),
                    wire: wire.map(|turn| (turn["from"] == name, hex(&turn["bytes"]))).collect(),
                    ended: end["ended"].as_str().unwrap().to_owned(),
                    message: end["msg"].as_str().unwrap_or("").to_owned(),
                },
            ));
        }
    }
    sides
}

impl Side {
    /// How our side should end: the result, and the close reason of a server.
    fn expected(&self) -> (Option<Result<(), HandshakeError>>, Option<CloseReason>) {
        use HandshakeError::{Malformed, Refused, WrongDigest};
        let says = |text| self.message.contains(text);
        let failed = match self.ended.as_str() {
            "ok" => return (Some(Ok(())), None),
            "EOFError" => return (None, Some(CloseReason::AuthAbandoned)),
            "OSError" if says("end of file") => return (None, Some(CloseReason::AuthAbandoned)),
            "OSError" => Malformed,
            "AuthenticationError" if says("digest sent was rejected") => Refused,
            "AuthenticationError" if self.role == Role::Listener => WrongDigest,
            _ => Malformed,
        };
        let reason = match failed {
            WrongDigest => CloseReason::Rejected,
            _ => CloseReason::HandshakeFailed,
        };
        (Some(Err(failed)), Some(reason))
    }

    fn play(&self, name: &str, piece: usize) {
        let mut handshake = MutualHandshake::new(self.role, &self.keys, self.random);
        for (is_ours, bytes) in &self.wire {
            if *is_ours {
                assert_eq!(handshake.unsent(), bytes, "{name}");
                handshake.handle_sent(bytes.len());
            } else {
                assert!(handshake.unsent().is_empty(), "{name} sends more");
                for data in bytes.chunks(piece) {
                    assert_eq!(handshake.handle_recv(&self.keys, data), data.len(), "{name}");
                }
            }
        }
        assert!(handshake.unsent().is_empty(), "{name} sends more");
        assert_eq!(handshake.outcome(), self.expected().0, "{name} in pieces of {piece}");
    }

    /// The same as a whole connection of a server.
    fn serve(&self, name: &str, piece: usize) {
        let mut config = Config::new(self.keys.clone());
        config.protocol = Protocol::Multiprocessing;
        let (now, handler) = (Monotonic::ZERO, Framed::new(Upper, None));
        let mut connection = Connection::open(&config, &self.random, handler, Peer::default(), now);
        for (is_ours, bytes) in &self.wire {
            for data in bytes.chunks(if *is_ours { bytes.len() } else { piece }) {
                if *is_ours {
                    assert_eq!(connection.chunk(), data, "{name}");
                    connection.handle_sent(&config, data.len(), now);
                } else if connection.close_reason().is_none() {
                    let mut data = data.to_vec();
                    let reply = connection.handle_recv(&config, &mut data, now);
                    assert!(reply.bytes().is_empty(), "{name}");
                }
            }
        }
        let authenticated = connection.has_authenticated();
        connection.handle_eof();
        let reason = connection.close_reason().unwrap();
        let expected = self.expected().1;
        assert_eq!(authenticated, expected.is_none(), "{name}");
        assert_eq!(reason, expected.unwrap_or(CloseReason::PeerFinished), "{name}");
    }
}

#[test]
fn the_recorded_handshakes_of_cpython_are_the_same_to_the_byte() {
    for (name, side) in recorded() {
        for piece in [usize::MAX, 1, 7] {
            side.play(&name, piece);
            if side.role == Role::Listener {
                side.serve(&name, piece);
            }
        }
    }
}

#[test]
fn any_key_of_the_ring_is_answered_with_the_same_key() {
    let keys = [Key::new(*b"the newest of the keys"), Key::new(*b"the key before that one")];
    let ring = Keyring::new(MacAlgorithm::Sha256, &keys).unwrap();
    for key in &keys {
        let own = Keyring::single(MacAlgorithm::Sha256, key);
        let mut listener = MutualHandshake::new(Role::Listener, &ring, [1; 40]);
        let mut client = MutualHandshake::new(Role::Client, &own, [2; 40]);
        while listener.outcome().is_none() || client.outcome().is_none() {
            pass_on(&own, &mut listener, &mut client);
            pass_on(&ring, &mut client, &mut listener);
        }
        assert_eq!((listener.outcome(), client.outcome()), (Some(Ok(())), Some(Ok(()))));
    }
}

/// A client that has proved to have a key is answered with it, even if the ring has changed since.
#[test]
fn the_ring_may_be_replaced_in_the_middle() {
    let keys = [Key::new(*b"the newest of the keys"), Key::new(*b"the key before that one")];
    let ring = Keyring::new(MacAlgorithm::Sha256, &keys).unwrap();
    let other = Keyring::single(MacAlgorithm::Sha256, &Key::demo());
    let own = Keyring::single(MacAlgorithm::Sha256, &keys[1]);
    let mut listener = MutualHandshake::new(Role::Listener, &ring, [1; 40]);
    let mut client = MutualHandshake::new(Role::Client, &own, [2; 40]);
    pass_on(&own, &mut listener, &mut client);
    pass_on(&ring, &mut client, &mut listener);
    while listener.outcome().is_none() || client.outcome().is_none() {
        pass_on(&own, &mut listener, &mut client);
        pass_on(&other, &mut client, &mut listener);
    }
    assert_eq!((listener.outcome(), client.outcome()), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn a_payload_from_2_gib_on_has_a_long_header() {
    assert_eq!(frame_header(i32::MAX as u64).as_ref(), b"\x7f\xff\xff\xff");
    assert_eq!(frame_header(1 << 31).as_ref(), b"\xff\xff\xff\xff\0\0\0\0\x80\0\0\0");
}

/// Frames of both forms, empty ones, and one that ends before its payload does.
fn frames() -> Vec<u8> {
    let long = [&b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x03"[..], b"abc"].concat();
    let header_of_letters = frame(&[b'x'; 0x61]);
    let below_minus_one = b"\xff\xff\xff\xfe".to_vec();
    let unfinished = b"\0\0\0\x0fno end".to_vec();
    [frame(b"hello"), frame(b""), long, header_of_letters, below_minus_one, unfinished].concat()
}

#[test]
fn the_segmentation_changes_nothing() {
    for algorithm in [MacAlgorithm::Md5, MacAlgorithm::Sha256] {
        let (config, frames) = (config(algorithm), frames());
        let input = [honest_handshake(algorithm).0, frames.clone()].concat();
        for max_message in [None, Some(97), Some(96), Some(4), Some(0)] {
            for first in (1..=input.len()).step_by(if cfg!(miri) { 97 } else { 1 }) {
                for room in [usize::MAX, 0, 1, 9] {
                    let mut pieces = [first].into_iter().chain(std::iter::repeat(usize::MAX));
                    let piece = || pieces.next().unwrap();
                    let result = served(&config, max_message, &input, piece, room);
                    check(&result, algorithm, &frames, max_message);
                }
            }
            let bytewise = served(&config, max_message, &input, || 1, 1);
            check(&bytewise, algorithm, &frames, max_message);
        }
    }
}

#[test]
fn random_segmentations_change_nothing() {
    for seed in 0..if cfg!(miri) { 4 } else { 2000 } {
        let mut random = SplitMix::new(seed);
        let input = [honest_handshake(MacAlgorithm::Sha256).0, frames()].concat();
        let room = random.below(40);
        let result =
            served(&config(MacAlgorithm::Sha256), None, &input, || 1 + random.below(60), room);
        check(&result, MacAlgorithm::Sha256, &frames(), None);
    }
}

/// Each byte of the handshake counts, apart from those that are the client's to choose.
#[test]
fn a_changed_byte_of_the_handshake_is_noticed() {
    let algorithm = MacAlgorithm::Sha256;
    let (config, (sent, _)) = (config(algorithm), honest_handshake(algorithm));
    let free = sent.len() - 13 - 40..sent.len() - 13;
    for at in 0..sent.len() {
        let mut input = [&sent[..], &frame(b"hello")].concat();
        input[at] ^= 0x10;
        let Served { authenticated, state, sent, .. } =
            served(&config, None, &input, || usize::MAX, usize::MAX);
        assert_eq!(authenticated, free.contains(&at), "byte {at}: {state:?}");
        if !authenticated {
            assert!(!sent.windows(5).any(|window| window == b"HELLO"));
            let failed = [CloseReason::Rejected, CloseReason::HandshakeFailed];
            let is_over = matches!(state, State::Closed(reason) if failed.contains(&reason));
            assert!(is_over || state == State::AwaitDigest, "byte {at}: {state:?}");
        }
    }
}

/// A frame of 5 GiB goes through in place: its answer lies where it was received.
#[test]
fn a_frame_of_any_length_needs_no_memory() {
    let algorithm = MacAlgorithm::Sha256;
    let (config, now, len) = (config(algorithm), Monotonic::ZERO, 5u64 << 30);
    let handler = Framed::new(Identity, None);
    let mut connection = Connection::open(&config, &SERVER_RANDOM, handler, Peer::default(), now);
    connection.handle_sent(&config, connection.chunk().len(), now);
    let mut handshake = honest_handshake(algorithm).0;
    let reply = connection.handle_recv(&config, &mut handshake, now);
    let unsent = reply.bytes().len();
    reply.sent(unsent);
    let mut header = frame_header(len).as_ref().to_vec();
    assert_eq!(header.len(), 12);
    let reply = connection.handle_recv(&config, &mut header, now);
    assert_eq!(reply.bytes().len(), 12);
    reply.sent(12);
    let (mut buffer, mut left) = (vec![b'x'; 1 << 20], len);
    let place = buffer.as_ptr();
    while left > 0 {
        let reply = connection.handle_recv(&config, &mut buffer, now);
        assert_eq!((reply.bytes().as_ptr(), reply.bytes().len()), (place, 1 << 20));
        reply.sent(1 << 20);
        left -= 1 << 20;
    }
    let mut header = b"\0\0\0\x02".to_vec();
    let reply = connection.handle_recv(&config, &mut header, now);
    assert_eq!(reply.bytes(), b"\0\0\0\x02", "a header again");
    reply.sent(4);
    assert_eq!(connection.wants(&config), Wants::Recv { limit: config.recv_size });
}

/// Behind a balancer nothing is sent before its header is complete; then all is as without it.
#[test]
fn the_challenge_waits_for_the_header_of_a_balancer() {
    let algorithm = MacAlgorithm::Sha256;
    let (config, now) = (config(algorithm), Monotonic::ZERO);
    let (sent, got) = honest_handshake(algorithm);
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 9999\r\n";
    for first in 1..=header.len() {
        let handler = Framed::new(Upper, None);
        let mut connection =
            Connection::open_proxied(&config, &SERVER_RANDOM, handler, Peer::default(), now);
        for part in [&header[..first], &header[first..]].into_iter().filter(|part| !part.is_empty())
        {
            assert_eq!((connection.state(), connection.chunk()), (State::AwaitHeader, &b""[..]));
            connection.handle_recv(&config, &mut part.to_vec(), now).sent(0);
        }
        assert_eq!(connection.state(), State::AwaitDigest);
        let client = connection.header().unwrap().endpoints.unwrap().source;
        assert_eq!(client.to_string(), "192.0.2.7:5000");
        assert_eq!(connection.chunk(), &got[..63], "the challenge, with all its random bytes");
        connection.handle_sent(&config, 63, now);
        let mut data = sent.clone();
        let reply = connection.handle_recv(&config, &mut data, now);
        assert_eq!((reply.bytes(), reply.key()), (&got[63..], Some(0)));
        let len = reply.bytes().len();
        reply.sent(len);
        assert!(connection.has_authenticated());
    }
}

/// It cannot answer a challenge that it has not seen.
#[test]
fn a_response_behind_the_header_is_a_wrong_one() {
    let config = config(MacAlgorithm::Sha256);
    let now = Monotonic::ZERO;
    let mut data = [&b"PROXY UNKNOWN\r\n"[..], &frame(&[0; 40])].concat();
    let mut connection =
        Connection::open_proxied(&config, &SERVER_RANDOM, Identity, Peer::default(), now);
    connection.handle_recv(&config, &mut data, now).sent(0);
    assert!(connection.chunk().ends_with(b"\0\0\0\x09#FAILURE#"));
    connection.handle_sent(&config, connection.chunk().len(), now);
    assert_eq!(connection.close_reason(), Some(CloseReason::Rejected));
}

/// Ends each connection at its first message, without a word.
struct HangsUp;

impl Handler for HangsUp {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::Close(Bytes::new())
    }
}

/// A client may accept the server's response before it has it, and send its first message.
#[test]
fn an_end_at_the_first_message_waits_for_what_is_left_of_the_handshake() {
    let (config, now) = (config(MacAlgorithm::Sha256), Monotonic::ZERO);
    let (mut input, output) = honest_handshake(MacAlgorithm::Sha256);
    let mut connection = Connection::open(&config, &SERVER_RANDOM, HangsUp, Peer::default(), now);
    let challenge = connection.chunk().len();
    connection.handle_sent(&config, challenge, now);
    input.extend(b"message");
    let reply = connection.handle_recv(&config, &mut input, now);
    assert_eq!(reply.bytes(), &output[challenge..]);
    reply.sent(output.len() - challenge);
    assert_eq!(
        (connection.state(), connection.wants(&config)),
        (State::Finishing, Wants::Shutdown)
    );
    connection.handle_shutdown(&config, now);
    connection.handle_eof();
    assert_eq!(connection.close_reason(), Some(CloseReason::HandlerClosed));
}

/// A client may answer before it could know, and ask for the longest response that there is.
#[test]
fn all_messages_of_a_listener_may_be_unsent_at_once() {
    let keys = Keyring::single(MacAlgorithm::Sha256, &Key::demo());
    let mut listener = MutualHandshake::new(Role::Listener, &keys, SERVER_RANDOM);
    let mut client = MutualHandshake::new(Role::Client, &keys, SERVER_RANDOM);
    let challenge = listener.unsent().to_vec();
    assert_eq!(client.handle_recv(&keys, &challenge), challenge.len());
    let own = frame(&[&b"#CHALLENGE#{sha3_384}"[..], &SERVER_RANDOM].concat());
    let input = [client.unsent(), &own, &frame(b"#WELCOME#")].concat();
    assert_eq!(listener.handle_recv(&keys, &input), input.len());
    assert_eq!(listener.outcome(), Some(Ok(())));
    // Three headers; the challenge, the welcome, and the response with its tag.
    assert_eq!(listener.unsent().len(), 3 * 4 + (11 + 48) + 9 + (10 + 48));
}

/// No handshake: what is received is answered, and silence is an idle connection.
#[test]
fn a_plain_connection_is_open_from_the_start() {
    let mut config = Config::new(Keyring::demo());
    config.protocol = Protocol::Plain;
    config.idle_timeout = Some(std::time::Duration::from_secs(9));
    let now = Monotonic::ZERO;
    let mut connection = Connection::open(&config, &[0; 40], Identity, Peer::default(), now);
    assert!(connection.has_authenticated());
    assert_eq!(connection.wants(&config), Wants::Recv { limit: config.recv_size });
    let mut data = b"as it is".to_vec();
    let reply = connection.handle_recv(&config, &mut data, now);
    assert_eq!(reply.bytes(), b"as it is");
    reply.sent(8);
    let nine = Monotonic::from_nanos(9_000_000_000);
    assert_eq!(connection.poll_timeout(), Some(nine));
    connection.handle_timeout(nine);
    assert_eq!(connection.state(), State::Finishing);
}

#[test]
fn a_mutual_handshake_knows_its_first_message() {
    let keys = Keyring::demo();
    let mut listener = MutualHandshake::new(Role::Listener, &keys, [7; 40]);
    let mut client = MutualHandshake::new(Role::Client, &keys, [8; 40]);
    assert!(listener.is_first() && client.is_first());
    let told = format!("{listener:?}");
    assert!(told.starts_with("MutualHandshake { role: Listener, step: "), "{told}");
    assert!(!told.contains('7'), "its random bytes: {told}");
    let challenge = listener.unsent().to_vec();
    assert_eq!(client.handle_recv(&keys, &challenge), challenge.len());
    assert!(!client.is_first());
    let response = client.unsent().to_vec();
    assert_eq!(listener.handle_recv(&keys, &response), response.len());
    assert!(!listener.is_first());
}
