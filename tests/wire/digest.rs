//! Authentication: every segmentation of a digest, with everything that may follow.

use std::io::ErrorKind;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{CloseReason, Config, Connection, State, Upper, Wants};
use saltecho::python::Monotonic;

use crate::peer::{CHALLENGE, Peer, at, config, digest};

/// Miri takes a thousand times as long.
const STEP: usize = if cfg!(miri) { 1009 } else { 1 };

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
    for cuts in (0..1 << 15).step_by(STEP) {
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
    for cuts in (0..1 << 15).step_by(STEP) {
        for with_tail in [false, true] {
            let mut peer = Peer::new();
            let mut pieces = segments(&wrong, cuts);
            let last = [pieces.pop().unwrap(), if with_tail { b"tail" } else { &b""[..] }].concat();
            for piece in pieces {
                peer.receive(piece);
                assert_eq!(peer.connection.state(), State::AwaitDigest, "verified too early");
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
    for cuts in (0..1 << 15).step_by(STEP) {
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
        assert_eq!(peer.reason(), None, "{received} bytes: verified before the next byte");
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
