//! The wire protocol without a socket: every segmentation of a digest, every chunking of an echo,
//! every deadline and every close reason.
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

mod header;
mod multiprocessing;
mod multiprocessing_world;

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{
    Answer, CloseReason, Config, Connection, Handler, Identity, State, Upper, Wants,
};
use saltecho::python::Monotonic;

const CHALLENGE: [u8; 32] = [0x5a; 32];

fn config() -> Config {
    Config::new(Keyring::demo())
}

fn digest() -> Vec<u8> {
    MacAlgorithm::Md5.digest(&Key::demo(), &Challenge::new(CHALLENGE)).as_bytes().to_vec()
}

fn at(millis: u64) -> Monotonic {
    Monotonic::from_nanos(millis * 1_000_000)
}

/// A connection, all that it sent, and the calls that an event loop makes.
struct Peer<H: Handler = Upper> {
    config: Config,
    connection: Connection<H>,
    sent: Vec<u8>,
    now: Monotonic,
    /// The keys that replies named.
    keys: Vec<usize>,
}

impl Peer {
    fn new() -> Self {
        Self::with(config(), Upper)
    }
}

impl<H: Handler> Peer<H> {
    fn with(config: Config, handler: H) -> Self {
        let challenge = Challenge::new(CHALLENGE);
        let connection = Connection::new(&config, challenge, handler, Monotonic::ZERO);
        let (sent, now, keys) = (Vec::new(), Monotonic::ZERO, Vec::new());
        let mut peer = Self { config, connection, sent, now, keys };
        assert_eq!(peer.connection.chunk(), CHALLENGE, "the challenge, and nothing else");
        peer.take_chunk(usize::MAX);
        peer.sent.clear();
        peer
    }

    fn authenticated(config: Config, handler: H) -> Self {
        let mut peer = Self::with(config, handler);
        peer.receive(&digest());
        assert_eq!(peer.connection.state(), State::Echoing);
        peer
    }

    /// A recv that returns `data`; the kernel accepts the whole answer.
    fn receive(&mut self, data: &[u8]) {
        self.receive_with_room(data, usize::MAX);
    }

    /// The same with room for `room` bytes of the answer.
    fn receive_with_room(&mut self, data: &[u8], room: usize) {
        assert!(matches!(self.connection.wants(&self.config), Wants::Recv { limit } if limit > 0));
        let mut data = data.to_vec();
        let reply = self.connection.handle_recv(&self.config, &mut data, self.now);
        self.keys.extend(reply.key());
        let n = room.min(reply.bytes().len());
        self.sent.extend_from_slice(&reply.bytes()[..n]);
        reply.sent(n);
    }

    /// A send that accepts at most `room` bytes.
    fn take_chunk(&mut self, room: usize) {
        assert_eq!(self.connection.wants(&self.config), Wants::Send);
        let n = room.min(self.connection.chunk().len());
        self.sent.extend_from_slice(&self.connection.chunk()[..n]);
        self.connection.handle_sent(&self.config, n, self.now);
    }

    fn shut_down(&mut self) {
        assert_eq!(self.connection.wants(&self.config), Wants::Shutdown);
        self.connection.handle_shutdown(&self.config, self.now);
    }

    fn time_out_at(&mut self, now: Monotonic) {
        self.now = now;
        self.connection.handle_timeout(now);
    }

    fn reason(&self) -> Option<CloseReason> {
        self.connection.close_reason()
    }
}

/// Cuts `bytes` after byte i wherever bit i of `cuts` is set.
fn segments(bytes: &[u8], cuts: u32) -> Vec<&[u8]> {
    let mut ends: Vec<usize> = (1..bytes.len()).filter(|i| cuts >> (i - 1) & 1 == 1).collect();
    ends.push(bytes.len());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| &bytes[start..*end]).collect()
}

/// The event after (a part of) the digest.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Nothing,
    EndOfStream,
    Reset,
    TimeOut,
    Tail,
}

impl Ending {
    const ALL: [Self; 5] =
        [Self::Nothing, Self::EndOfStream, Self::Reset, Self::TimeOut, Self::Tail];

    fn apply(self, peer: &mut Peer) {
        match self {
            Self::Nothing | Self::Tail => {}
            Self::EndOfStream => peer.connection.handle_eof(),
            Self::Reset => peer.connection.handle_error(ErrorKind::ConnectionReset),
            Self::TimeOut => peer.time_out_at(at(5_000)),
        }
    }
}

#[test]
fn every_segmentation_of_a_right_digest_with_every_ending() {
    let mut config = config();
    config.idle_timeout = Some(Duration::from_secs(5));
    for cuts in 0..1 << 15 {
        for ending in Ending::ALL {
            let mut peer = Peer::with(config.clone(), Upper);
            let mut stream = digest();
            if let Ending::Tail = ending {
                stream.extend_from_slice(b"tail\xe4");
            }
            for segment in segments(&stream, cuts) {
                peer.receive(segment);
            }
            ending.apply(&mut peer);
            let (state, answer): (_, &[u8]) = match ending {
                Ending::Nothing => (State::Echoing, b""),
                Ending::EndOfStream => (State::Closed(CloseReason::PeerFinished), b""),
                Ending::Reset => (State::Closed(CloseReason::Reset), b""),
                Ending::TimeOut => (State::Finishing, b""),
                Ending::Tail => (State::Echoing, b"TAIL\xe4"),
            };
            assert_eq!(peer.connection.state(), state, "cuts {cuts:#b}, {ending:?}");
            assert_eq!(peer.sent, answer, "cuts {cuts:#b}, {ending:?}");
            assert!(peer.connection.has_authenticated());
            assert_eq!(peer.keys, [0], "cuts {cuts:#b}, {ending:?}");
        }
    }
}

#[test]
fn every_segmentation_of_a_wrong_digest_ends_without_a_byte() {
    let mut wrong = digest();
    wrong[15] ^= 1;
    for cuts in 0..1 << 15 {
        for with_tail in [false, true] {
            let mut peer = Peer::new();
            let mut pieces = segments(&wrong, cuts);
            let last = [pieces.pop().unwrap(), if with_tail { b"tail" } else { &b""[..] }].concat();
            for piece in pieces {
                peer.receive(piece);
                assert_eq!(peer.connection.state(), State::AwaitDigest, "judged too early");
            }
            peer.receive(&last);
            assert_eq!(peer.reason(), Some(CloseReason::Rejected));
            assert_eq!(peer.sent, b"");
            assert!(!peer.connection.has_authenticated());
            assert!(peer.keys.is_empty());
        }
    }
}

#[test]
fn one_reply_names_the_key_of_the_digest() {
    let keys = [[1; 16], [2; 16], [3; 16]].map(Key::new);
    for (position, key) in keys.iter().enumerate() {
        let ring = Keyring::new(MacAlgorithm::Md5, &keys).unwrap();
        let mut peer = Peer::with(Config::new(ring), Upper);
        let digest = MacAlgorithm::Md5.digest(key, &Challenge::new(CHALLENGE));
        let stream = [digest.as_bytes(), b"first"].concat();
        peer.receive(&stream[..15]);
        assert!(peer.keys.is_empty(), "too early");
        peer.receive(&stream[15..]);
        peer.receive(b"second");
        assert_eq!((&peer.keys[..], &peer.sent[..]), (&[position][..], &b"FIRSTSECOND"[..]));
    }
}

#[test]
fn every_incomplete_digest_with_every_ending() {
    let digest = digest();
    for cuts in 0..1 << 15 {
        let pieces = segments(&digest, cuts);
        for ending in [Ending::EndOfStream, Ending::Reset, Ending::TimeOut] {
            let mut peer = Peer::new();
            for piece in &pieces[..pieces.len() - 1] {
                peer.receive(piece);
            }
            ending.apply(&mut peer);
            let reason = match ending {
                Ending::EndOfStream => CloseReason::AuthAbandoned,
                Ending::Reset => CloseReason::Reset,
                _ => CloseReason::AuthTimeout,
            };
            assert_eq!(peer.reason(), Some(reason), "cuts {cuts:#b}");
            assert_eq!(peer.sent, b"");
        }
    }
}

#[test]
fn the_challenge_may_be_sent_in_pieces() {
    let config = config();
    let challenge = Challenge::new(CHALLENGE);
    let mut connection = Connection::new(&config, challenge, Upper, Monotonic::ZERO);
    for sent in 0..32 {
        assert_eq!(connection.chunk(), &CHALLENGE[sent..]);
        assert_eq!(connection.wants(&config), Wants::Send);
        connection.handle_sent(&config, 1, Monotonic::ZERO);
    }
    assert!(matches!(connection.wants(&config), Wants::Recv { .. }));
}

/// A ring whose digest is shorter than what has arrived: no right digest starts like that.
#[test]
fn a_keyring_with_a_shorter_digest_may_be_installed_at_any_byte() {
    let [md5, sha256] = [MacAlgorithm::Md5, MacAlgorithm::Sha256];
    let challenge = Challenge::new(CHALLENGE);
    for received in 1..32 {
        let mut peer = Peer::with(Config::new(Keyring::single(sha256, &Key::demo())), Upper);
        // A client that uses MD5 and, if that many bytes arrived, has sent input after its digest.
        let bytes = [md5.digest(&Key::demo(), &challenge).as_bytes(), &[b'x'; 17]].concat();
        peer.receive(&bytes[..received]);
        peer.config.keyring = Keyring::single(md5, &Key::demo());
        assert_eq!(peer.reason(), None, "{received} bytes: judged before the next byte");
        peer.receive(&bytes[received..]);
        match received {
            ..=16 => assert_eq!(peer.sent, [b'X'; 17], "after {received} bytes"),
            _ => assert_eq!(peer.reason(), Some(CloseReason::Rejected), "after {received} bytes"),
        }
    }
}

#[test]
fn a_keyring_with_a_longer_digest_may_be_installed_at_any_byte() {
    let [md5, sha256] = [MacAlgorithm::Md5, MacAlgorithm::Sha256];
    let digest = sha256.digest(&Key::demo(), &Challenge::new(CHALLENGE));
    for received in 1..16 {
        let mut peer = Peer::with(Config::new(Keyring::single(md5, &Key::demo())), Upper);
        peer.receive(&digest.as_bytes()[..received]);
        peer.config.keyring = Keyring::single(sha256, &Key::demo());
        peer.receive(&digest.as_bytes()[received..]);
        assert_eq!(peer.connection.state(), State::Echoing, "after {received} bytes");
    }
}

#[test]
fn sha256_digests_have_32_bytes() {
    let keyring = Keyring::single(MacAlgorithm::Sha256, &Key::demo());
    let mut peer = Peer::with(Config::new(keyring), Upper);
    let digest = MacAlgorithm::Sha256.digest(&Key::demo(), &Challenge::new(CHALLENGE));
    peer.receive(&digest.as_bytes()[..16]);
    assert_eq!(peer.connection.state(), State::AwaitDigest);
    peer.receive(&[&digest.as_bytes()[16..], b"x"].concat());
    assert_eq!(peer.sent, b"X");
}

proptest! {
    /// However the input is cut and however little the kernel accepts, the output is the
    /// upper-cased input, in order and complete, and there are never two answers at a time.
    #[test]
    fn any_chunking_echoes_everything(
        input in proptest::collection::vec(any::<u8>(), 1..4096),
        cuts in proptest::collection::vec(1..700usize, 1..32),
        rooms in proptest::collection::vec(0..700usize, 1..32),
    ) {
        let mut peer = Peer::authenticated(config(), Upper);
        let (mut cuts, mut rooms) = (cuts.iter().cycle(), rooms.iter().cycle());
        let mut rest = &input[..];
        while !rest.is_empty() || !peer.connection.chunk().is_empty() {
            let room = *rooms.next().unwrap();
            if peer.connection.wants(&peer.config) == Wants::Send {
                // With a kernel that never has room this test would not end.
                peer.take_chunk(room + 1);
            } else {
                let (piece, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                peer.receive_with_room(piece, room);
                rest = later;
            }
        }
        prop_assert_eq!(peer.sent, input.to_ascii_uppercase());
        peer.connection.handle_eof();
        prop_assert_eq!(peer.connection.close_reason(), Some(CloseReason::PeerFinished));
    }
}

#[test]
fn authentication_has_one_deadline_that_no_byte_extends() {
    let mut peer = Peer::new();
    for (i, byte) in digest()[..15].iter().enumerate() {
        peer.now = at(333 * i as u64);
        peer.receive(&[*byte]);
        assert_eq!(peer.connection.poll_timeout(), Some(at(5_000)));
    }
    peer.time_out_at(at(4_999));
    assert_eq!(peer.connection.state(), State::AwaitDigest, "timed out early");
    peer.time_out_at(at(5_000));
    assert_eq!(peer.reason(), Some(CloseReason::AuthTimeout));
    assert_eq!(peer.connection.poll_timeout(), None);
}

#[test]
fn each_recv_has_its_own_deadline() {
    let mut config = config();
    config.idle_timeout = Some(Duration::from_secs(1));
    let mut peer = Peer::authenticated(config, Upper);
    for second in 1..5 {
        peer.now = at(second * 900);
        peer.receive(b"x");
        assert_eq!(peer.connection.poll_timeout(), Some(at(second * 900 + 1_000)));
    }
    peer.time_out_at(at(4_599));
    assert_eq!(peer.connection.state(), State::Echoing);
    peer.time_out_at(at(4_600));
    // All input was answered, so the end is orderly.
    assert_eq!(peer.connection.state(), State::Finishing);
    peer.shut_down();
    peer.connection.handle_eof();
    assert_eq!(peer.reason(), Some(CloseReason::IdleTimeout));
}

#[test]
fn a_whole_sendall_has_one_deadline() {
    let mut config = config();
    config.idle_timeout = Some(Duration::from_secs(1));
    config.send_timeout = Some(Duration::from_secs(10));
    let mut peer = Peer::authenticated(config, Upper);
    peer.now = at(100);
    peer.receive_with_room(b"abcdef", 1);
    for (second, expected) in [(3, "AB"), (6, "ABC"), (9, "ABCD")] {
        peer.now = at(second * 1_000);
        peer.take_chunk(1);
        assert_eq!(peer.sent, expected.as_bytes());
        assert_eq!(peer.connection.poll_timeout(), Some(at(10_100)), "progress extends nothing");
    }
    peer.time_out_at(at(10_099));
    assert_eq!(peer.connection.state(), State::Echoing);
    peer.time_out_at(at(10_100));
    assert_eq!(peer.reason(), Some(CloseReason::SendTimeout));
    assert_eq!(peer.connection.undelivered(), 2, "E and F were not sent, and that is known");
}

#[test]
fn the_recv_after_a_sendall_has_a_fresh_deadline() {
    let mut config = config();
    config.idle_timeout = Some(Duration::from_secs(1));
    let mut peer = Peer::authenticated(config, Upper);
    peer.receive_with_room(b"ab", 1);
    peer.now = at(7_000);
    peer.take_chunk(1);
    assert_eq!(peer.connection.poll_timeout(), Some(at(8_000)));
}

#[test]
fn without_timeouts_there_is_no_deadline() {
    let mut config = config();
    (config.auth_timeout, config.send_timeout) = (None, None);
    let mut peer = Peer::with(config, Upper);
    assert_eq!(peer.connection.poll_timeout(), None);
    peer.receive(&digest());
    peer.receive_with_room(b"ab", 1);
    assert_eq!(peer.connection.poll_timeout(), None);
    peer.time_out_at(Monotonic::from_nanos(u64::MAX));
    assert_eq!(peer.connection.state(), State::Echoing);
}

#[test]
fn a_drained_connection_finishes_its_sendall_first() {
    let mut peer = Peer::authenticated(config(), Upper);
    peer.receive_with_room(b"abc", 1);
    peer.connection.close(CloseReason::Drained);
    assert_eq!(peer.connection.state(), State::Echoing);
    peer.take_chunk(2);
    assert_eq!(peer.sent, b"ABC");
    peer.shut_down();
    // Input in flight is read and discarded, so that no reset destroys the answer.
    peer.receive(b"too late");
    assert_eq!(peer.connection.state(), State::Lingering);
    peer.connection.handle_eof();
    assert_eq!(peer.reason(), Some(CloseReason::Drained));
    assert_eq!(peer.sent, b"ABC");
}

#[test]
fn lingering_ends_by_time_by_bytes_and_by_error() {
    let linger = || {
        let mut config = config();
        config.linger_bytes = 1000;
        let mut peer = Peer::authenticated(config, Upper);
        peer.connection.close(CloseReason::Drained);
        peer.shut_down();
        peer
    };
    let mut peer = linger();
    peer.time_out_at(at(1_999));
    assert_eq!(peer.connection.state(), State::Lingering);
    peer.time_out_at(at(2_000));
    assert_eq!(peer.reason(), Some(CloseReason::Drained));

    let mut peer = linger();
    peer.receive(&[0; 999]);
    assert_eq!(peer.connection.state(), State::Lingering);
    peer.receive(b"x");
    assert_eq!(peer.reason(), Some(CloseReason::Drained));

    let mut peer = linger();
    peer.connection.handle_error(ErrorKind::ConnectionReset);
    assert_eq!(peer.reason(), Some(CloseReason::Drained));
}

#[test]
fn errors_name_the_side_that_ended_the_connection() {
    for (kind, reason) in [
        (ErrorKind::ConnectionReset, CloseReason::Reset),
        (ErrorKind::BrokenPipe, CloseReason::Reset),
        (ErrorKind::ConnectionAborted, CloseReason::Reset),
        (ErrorKind::TimedOut, CloseReason::TransportError),
        (ErrorKind::HostUnreachable, CloseReason::TransportError),
    ] {
        let mut peer = Peer::authenticated(config(), Upper);
        peer.receive_with_room(b"abc", 1);
        peer.connection.handle_error(kind);
        assert_eq!(peer.reason(), Some(reason), "{kind:?}");
        assert_eq!(peer.connection.undelivered(), 2);
    }
}

#[test]
fn the_first_close_reason_is_kept() {
    let mut peer = Peer::authenticated(config(), Upper);
    peer.connection.handle_eof();
    peer.connection.handle_eof();
    peer.connection.handle_error(ErrorKind::ConnectionReset);
    peer.connection.close(CloseReason::Drained);
    peer.connection.abort(CloseReason::Stopped);
    peer.time_out_at(at(99_999));
    assert_eq!(peer.reason(), Some(CloseReason::PeerFinished));
    assert_eq!(peer.connection.wants(&peer.config), Wants::Nothing);
    assert_eq!(peer.connection.chunk(), b"");
}

#[test]
fn stopping_closes_at_once_in_any_stage() {
    let mut unauthenticated = Peer::new();
    unauthenticated.connection.abort(CloseReason::Stopped);
    assert_eq!(unauthenticated.reason(), Some(CloseReason::Stopped));
    let mut finishing = Peer::authenticated(config(), Upper);
    finishing.connection.close(CloseReason::Drained);
    finishing.connection.abort(CloseReason::DrainTimeout);
    assert_eq!(finishing.reason(), Some(CloseReason::Drained), "it had been given everything");
    let mut echoing = Peer::authenticated(config(), Upper);
    echoing.connection.abort(CloseReason::DrainTimeout);
    assert_eq!(echoing.reason(), Some(CloseReason::DrainTimeout));
    let mut unauthenticated = Peer::new();
    unauthenticated.connection.close(CloseReason::Drained);
    assert_eq!(unauthenticated.reason(), Some(CloseReason::Drained), "nothing is pending for it");
}

/// The first byte selects the answer: longer than the input, shorter, empty, or a close.
#[derive(Clone)]
struct Script;

impl Handler for Script {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        match data[0] {
            b'2' => Answer::Bytes(Bytes::from([&*data, data].concat())),
            b'-' => Answer::Bytes(Bytes::copy_from_slice(&data[1..])),
            b'0' => Answer::Nothing,
            b'e' => Answer::Bytes(Bytes::new()),
            b'!' => Answer::Close(Bytes::from_static(b"bye")),
            b'.' => Answer::Close(Bytes::new()),
            b'L' => Answer::Bytes(Bytes::from(vec![0; 1001])),
            _ => Answer::InPlace,
        }
    }
}

#[test]
fn a_handler_may_answer_more_less_or_nothing() {
    for room in [0, 1, 2, usize::MAX] {
        for (input, answer) in
            [("2x", "2x2x"), ("-abc", "abc"), ("0zzz", ""), ("e", ""), ("ok", "ok")]
        {
            let mut peer = Peer::authenticated(config(), Script);
            peer.receive_with_room(input.as_bytes(), room);
            while !peer.connection.chunk().is_empty() {
                peer.take_chunk(1);
            }
            assert_eq!(peer.sent, answer.as_bytes(), "{input}, room {room}");
            assert!(matches!(peer.connection.wants(&peer.config), Wants::Recv { .. }));
        }
    }
}

#[test]
fn a_handler_may_close_after_a_last_answer() {
    for (input, answer) in [("!", "bye"), (".", "")] {
        for room in [0, 1, usize::MAX] {
            let mut peer = Peer::authenticated(config(), Script);
            peer.receive_with_room(input.as_bytes(), room);
            while !peer.connection.chunk().is_empty() {
                peer.take_chunk(1);
            }
            assert_eq!(peer.sent, answer.as_bytes());
            peer.shut_down();
            peer.connection.handle_eof();
            assert_eq!(peer.reason(), Some(CloseReason::HandlerClosed));
        }
    }
}

#[test]
fn an_answer_beyond_the_limit_closes_before_its_first_byte() {
    let mut config = config();
    config.max_answer = 1000;
    let mut peer = Peer::authenticated(config, Script);
    peer.receive(b"L");
    assert_eq!(peer.sent, b"");
    peer.shut_down();
    peer.connection.handle_eof();
    assert_eq!(peer.reason(), Some(CloseReason::AnswerTooLong));
}

#[test]
fn an_answer_as_long_as_the_limit_is_sent() {
    let mut config = config();
    config.max_answer = 3;
    let mut peer = Peer::authenticated(config, Upper);
    peer.receive(b"abc");
    assert_eq!((&peer.sent[..], peer.reason()), (&b"ABC"[..], None));
}

#[test]
fn debug_shows_the_progress_of_a_handshake_and_no_secret() {
    let config = config();
    let mut connection = Connection::new(&config, Challenge::new(CHALLENGE), Upper, at(0));
    connection.handle_sent(&config, 32, at(0));
    drop(connection.handle_recv(&config, &mut digest()[..5], at(0)));
    assert_eq!(
        format!("{connection:?}"),
        "Connection { stage: AwaitDigest(Handshake { sent: 32, received: 5 }), \
         call: Call(deadline 5000000000 ns), handler: Upper }"
    );
}

#[test]
fn a_reply_that_is_dropped_is_not_lost() {
    let mut peer = Peer::authenticated(config(), Upper);
    let mut data = *b"abc";
    drop(peer.connection.handle_recv(&peer.config, &mut data, at(0)));
    peer.take_chunk(usize::MAX);
    assert_eq!(peer.sent, b"ABC");
}

#[test]
fn an_echo_is_sent_from_its_receive_buffer_without_allocating() {
    let mut peer = Peer::authenticated(config(), Upper);
    let mut identity = Peer::authenticated(config(), Identity);
    let mut data = vec![b'x'; 16 << 10];
    let buffer = data.as_ptr();
    let measured = allocation_counter::measure(|| {
        for _ in 0..100 {
            let reply = peer.connection.handle_recv(&peer.config, &mut data, at(0));
            assert_eq!(reply.bytes().as_ptr(), buffer);
            reply.sent(16 << 10);
            let reply = identity.connection.handle_recv(&identity.config, &mut data, at(0));
            assert_eq!(reply.bytes().as_ptr(), buffer);
            reply.sent(16 << 10);
        }
    });
    assert_eq!(measured.count_total, 0);
}

#[test]
fn memory_for_authentication_is_freed_afterwards() {
    let config = config();
    let (mut digest, challenge) = (digest(), Challenge::new(CHALLENGE));
    let mut connection = None;
    let measured = allocation_counter::measure(|| {
        let mut fresh = Connection::new(&config, challenge.clone(), Upper, Monotonic::ZERO);
        fresh.handle_sent(&config, 32, Monotonic::ZERO);
        drop(fresh.handle_recv(&config, &mut digest, Monotonic::ZERO));
        connection = Some(fresh);
    });
    assert_eq!(connection.unwrap().state(), State::Echoing);
    assert_eq!((measured.count_total, measured.bytes_current), (1, 0));
    assert!(measured.bytes_max <= 128, "{} bytes before authentication", measured.bytes_max);
}

#[test]
fn a_backlog_holds_only_the_unsent_rest_and_is_freed_with_it() {
    let mut peer = Peer::authenticated(config(), Upper);
    let mut data = vec![b'x'; 16 << 10];
    let connection = &mut peer.connection;
    let measured = allocation_counter::measure(|| {
        connection.handle_recv(&peer.config, &mut data, at(0)).sent(10 << 10);
    });
    assert!((6 << 10..7 << 10).contains(&measured.bytes_current), "{}", measured.bytes_current);
    let measured = allocation_counter::measure(|| {
        connection.handle_sent(&peer.config, 6 << 10, at(0));
    });
    assert!(measured.bytes_current <= -(6 << 10), "{}", measured.bytes_current);
}
