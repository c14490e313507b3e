//! A connection behind a balancer: nothing before the header, whatever its pieces, and every way in
//! which it can end before.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::proxy::{HeaderError, HeaderReader, MAX_HEADER, Status};
use saltecho::proto::{
    Answer, CloseReason, Connection, Handler, Peer as Name, Protocol, State, Upper, Wants,
};
use saltecho::python::Monotonic;

use crate::peer::{CHALLENGE, Peer, at, config, digest};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 7], 56324);

/// A connection that waits for a header at 0 s.
fn waiting() -> Peer {
    waiting_with(Upper)
}

fn waiting_with<H: Handler>(handler: H) -> Peer<H> {
    let config = config();
    let challenge = Challenge::new(CHALLENGE);
    let connection = Connection::behind_proxy(&config, challenge, handler, Monotonic::ZERO);
    Peer { config, connection, sent: Vec::new(), keys: Vec::new(), now: Monotonic::ZERO }
}

/// Behind this header, with the challenge sent.
fn behind(header: &[u8]) -> Peer {
    let mut peer = waiting();
    peer.receive(header);
    peer.take_chunk(usize::MAX);
    assert_eq!((&peer.sent[..], peer.connection.state()), (&CHALLENGE[..], State::AwaitDigest));
    peer.sent.clear();
    peer
}

#[test]
fn nothing_is_sent_before_the_last_byte_of_the_header() {
    for header in [V1, V2, LOCAL, UNKNOWN] {
        for cut in 1..header.len() {
            let mut peer = waiting();
            peer.receive(&header[..cut]);
            assert_eq!(peer.connection.state(), State::AwaitHeader, "cut at {cut}");
            assert_eq!((peer.connection.chunk(), peer.connection.header()), (&b""[..], None));
            peer.receive(&header[cut..]);
            assert_eq!(peer.connection.state(), State::AwaitDigest, "cut at {cut}");
            assert_eq!(peer.connection.chunk(), CHALLENGE);
            peer.take_chunk(usize::MAX);
            peer.sent.clear();
            peer.receive(&[&digest()[..], b"hello"].concat());
            assert_eq!(peer.sent, b"HELLO");
            assert_eq!(peer.connection.header(), None, "freed");
        }
    }
}

/// A handler that keeps the address that it is given.
struct Keeps(Rc<Cell<Option<SocketAddr>>>);

impl Handler for Keeps {
    fn opened(&mut self, peer: &Name) {
        self.0.set(peer.address());
    }

    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::InPlace
    }
}

#[test]
fn the_handler_gets_the_clients_address_and_keeps_the_real_one_if_there_is_none() {
    let balancer: SocketAddr = ([10, 0, 0, 1], 4000).into();
    for (header, expected) in
        [(V1, CLIENT.into()), (V2, CLIENT.into()), (LOCAL, balancer), (UNKNOWN, balancer)]
    {
        let address = Rc::default();
        let mut peer = waiting_with(Keeps(Rc::clone(&address)));
        peer.connection.set_peer(Name::at(balancer));
        peer.receive(header);
        peer.take_chunk(usize::MAX);
        peer.receive(&digest());
        assert_eq!(address.get(), Some(expected), "{}", header.escape_ascii());
    }
}

/// The tutorial's server takes bytes that come too early for the beginning of the digest.
#[test]
fn bytes_behind_the_header_are_the_beginning_of_a_digest_that_comes_after_the_challenge() {
    let tail = b"tail";
    for early in [0, 1, 15, 16, 17, 32, 33, 490] {
        let mut peer = waiting();
        let whole = [V1, &digest(), &[b'x'; 600]].concat();
        peer.receive(&whole[..V1.len() + early]);
        peer.take_chunk(20);
        assert_eq!(peer.connection.state(), State::AwaitDigest, "{early} bytes: it is heard first");
        peer.take_chunk(usize::MAX);
        assert_eq!(peer.sent, CHALLENGE, "{early} bytes");
        if early < 16 {
            peer.receive(&[&digest()[early..], tail].concat());
            assert_eq!(peer.sent[32..], *b"TAIL", "{early} bytes");
        } else {
            assert_eq!(peer.reason(), Some(CloseReason::Rejected), "{early} bytes are a guess");
        }
    }
}

#[test]
fn what_is_no_header_ends_the_connection_without_a_byte() {
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n"[..], CloseReason::HeaderMissing),
        (&digest(), CloseReason::HeaderMissing),
        (b"PROXY TCP4 localhost ::1 1 2\r\n", CloseReason::HeaderMalformed),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 +5 443\r\n", CloseReason::HeaderMalformed),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 5 0443\r\n", CloseReason::HeaderMalformed),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", CloseReason::HeaderMalformed),
    ] {
        for singly in [false, true] {
            let mut peer = waiting();
            let pieces = bytes.chunks(if singly { 1 } else { bytes.len() });
            for piece in pieces {
                if peer.reason().is_none() {
                    peer.receive(piece);
                }
            }
            assert_eq!(peer.reason(), Some(reason), "{}", bytes.escape_ascii());
            assert!(peer.sent.is_empty() && !peer.connection.has_authenticated());
        }
    }
}

/// A header of version 2 with this command and family, and this behind its length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&LOCAL[..12], &[command, family], &len, rest].concat()
}

#[test]
fn a_header_may_name_no_address_that_tcp_has() {
    let unix = [b'/'; 216];
    for header in [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        // What LOCAL names beside is ignored.
        v2(0x20, 0x11, b""),
        v2(0x20, 0xff, b"anything"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x31, &unix),
        v2(0x21, 0x32, &unix),
    ] {
        let mut peer = waiting();
        peer.receive(&header);
        assert_eq!(peer.reason(), None, "{}", header.escape_ascii());
        peer.take_chunk(usize::MAX);
        assert_eq!(peer.sent, CHALLENGE);
    }
    for header in [
        v2(0x22, 0x00, b""),
        v2(0x21, 0x11, &unix[..11]),
        v2(0x21, 0x21, &unix[..35]),
        v2(0x21, 0x31, &unix[..215]),
        v2(0x21, 0xff, &unix),
    ] {
        let mut peer = waiting();
        peer.receive(&header);
        assert_eq!(peer.reason(), Some(CloseReason::HeaderMalformed), "{}", header.escape_ascii());
    }
}

#[test]
fn a_unique_id_has_up_to_128_bytes() {
    let header = |len: u8| v2(0x21, 0x00, &[&[5, 0, len][..], &vec![b'i'; len.into()]].concat());
    for len in [0, 1, 128] {
        let status = HeaderReader::new().handle_recv(&header(len)).unwrap();
        let Status::Complete { header, .. } = status else {
            panic!("{len} bytes are a whole header")
        };
        assert_eq!(header.unique_id.as_deref(), Some(&vec![b'i'; len.into()][..]));
    }
    assert_eq!(HeaderReader::new().handle_recv(&header(129)), Err(HeaderError::Malformed));
}

#[test]
fn no_more_than_536_bytes_are_a_header() {
    let header = |len: usize| {
        let rest = u16::try_from(len - 16).unwrap();
        let field = (rest - 3).to_be_bytes();
        let mut header = [&LOCAL[..12], b"\x20\0", &rest.to_be_bytes(), b"\xe0", &field].concat();
        header.resize(len, 0);
        header
    };
    behind(&header(MAX_HEADER));
    let mut peer = waiting();
    peer.receive(&header(MAX_HEADER + 1));
    assert_eq!(peer.reason(), Some(CloseReason::HeaderMalformed));
}

#[test]
fn the_header_has_its_own_time_and_the_digest_begins_anew() {
    let mut peer = waiting();
    assert_eq!(peer.connection.poll_timeout(), Some(at(5_000)));
    peer.now = at(3_000);
    peer.receive(&V2[..20]);
    assert_eq!(peer.connection.poll_timeout(), Some(at(5_000)), "no byte extends it");
    peer.time_out_at(at(4_999));
    peer.receive(&V2[20..]);
    assert_eq!(peer.connection.poll_timeout(), Some(at(9_999)));
    peer.time_out_at(at(9_999));
    assert_eq!(peer.reason(), Some(CloseReason::AuthTimeout));

    let mut peer = waiting();
    peer.receive(&V2[..20]);
    peer.time_out_at(at(5_000));
    assert_eq!(peer.reason(), Some(CloseReason::HeaderTimeout));

    let (mut config, challenge) = (config(), Challenge::new(CHALLENGE));
    config.header_timeout = None;
    let connection = Connection::behind_proxy(&config, challenge, Upper, at(0));
    assert_eq!(connection.poll_timeout(), None);
    config.header_timeout = Some(Duration::from_millis(7));
    let challenge = Challenge::new(CHALLENGE);
    let connection = Connection::behind_proxy(&config, challenge, Upper, at(0));
    assert_eq!(connection.poll_timeout(), Some(at(7)));
}

#[test]
fn a_health_check_is_told_from_a_client_that_leaves() {
    use CloseReason::{AuthAbandoned, HeaderMalformed, HealthCheck, Reset, TransportError};
    type Start = fn() -> Peer;
    let starts: [(&str, Start, [CloseReason; 2]); 6] = [
        ("nothing", waiting, [HealthCheck, HealthCheck]),
        ("LOCAL", || behind(LOCAL), [HealthCheck, HealthCheck]),
        ("UNKNOWN", || behind(UNKNOWN), [HealthCheck, HealthCheck]),
        ("a client's header", || behind(V2), [AuthAbandoned, Reset]),
        (
            "a part of a header",
            || {
                let mut peer = waiting();
                peer.receive(&V1[..9]);
                peer
            },
            [HeaderMalformed, Reset],
        ),
        ("no balancer", Peer::new, [AuthAbandoned, Reset]),
    ];
    for (start, begin, [finished, reset]) in starts {
        let mut peer = begin();
        peer.connection.handle_eof();
        assert_eq!(peer.reason(), Some(finished), "after {start}");
        for kind in [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe] {
            let mut peer = begin();
            peer.connection.handle_error(kind);
            assert_eq!(peer.reason(), Some(reset), "after {start}");
        }
        let mut peer = begin();
        peer.connection.handle_error(ErrorKind::TimedOut);
        assert_eq!(peer.reason(), Some(TransportError), "after {start}");
    }
    // A balancer's own connection that authenticates, or tries to, is a client like any other.
    let mut peer = behind(LOCAL);
    peer.receive(&[b'x'; 16]);
    assert_eq!(peer.reason(), Some(CloseReason::Rejected));
    let mut peer = behind(LOCAL);
    peer.receive(&digest());
    peer.connection.handle_eof();
    assert_eq!(peer.reason(), Some(CloseReason::PeerFinished));
}

#[test]
fn a_multiprocessing_challenge_follows_the_header_and_a_health_check_is_told_there_too() {
    use CloseReason::{AuthAbandoned, HealthCheck, Reset, TransportError};
    let mut config = config();
    config.protocol = Protocol::Multiprocessing;
    config.keyring = Keyring::single(MacAlgorithm::Sha256, &Key::demo());
    let random: [u8; Protocol::MAX_RANDOM] =
        std::array::from_fn(|i| 100 + u8::try_from(i).unwrap());
    let begin = |header: &[u8]| {
        let mut connection =
            Connection::open_proxied(&config, &random, Upper, Name::default(), at(0));
        assert!(connection.handle_recv(&config, &mut header.to_vec(), at(0)).bytes().is_empty());
        assert_eq!(connection.chunk(), [&b"\0\0\0\x3b#CHALLENGE#{sha256}"[..], &random].concat());
        connection
    };
    for (header, [finished, reset]) in [
        (LOCAL, [HealthCheck, HealthCheck]),
        (UNKNOWN, [HealthCheck, HealthCheck]),
        (V2, [AuthAbandoned, Reset]),
    ] {
        let mut connection = begin(header);
        connection.handle_eof();
        assert_eq!(connection.close_reason(), Some(finished), "{}", header.escape_ascii());
        for (kind, reason) in
            [(ErrorKind::ConnectionReset, reset), (ErrorKind::TimedOut, TransportError)]
        {
            let mut connection = begin(header);
            connection.handle_error(kind);
            assert_eq!(connection.close_reason(), Some(reason), "{}", header.escape_ascii());
        }
    }
}

#[test]
fn a_connection_without_a_header_can_be_closed_at_once() {
    let mut peer = waiting();
    assert!(!peer.connection.push(&peer.config, b"push"[..].into(), at(0)));
    peer.connection.close(CloseReason::Drained);
    assert_eq!(peer.reason(), Some(CloseReason::Drained));
    assert_eq!(peer.connection.wants(&peer.config), Wants::Nothing);
    let mut peer = waiting();
    peer.connection.abort(CloseReason::Evicted);
    assert_eq!((peer.reason(), peer.connection.undelivered()), (Some(CloseReason::Evicted), 0));
}

#[test]
fn memory_for_the_header_is_freed_with_authentication() {
    let config = config();
    let (challenge, mut input) = (Challenge::new(CHALLENGE), digest());
    let (mut first, mut second) = (V2[..9].to_vec(), V2[9..].to_vec());
    let mut connection = None;
    let measured = allocation_counter::measure(|| {
        let mut fresh = Connection::behind_proxy(&config, challenge, Upper, at(0));
        drop(fresh.handle_recv(&config, &mut first, at(0)));
        drop(fresh.handle_recv(&config, &mut second, at(0)));
        fresh.handle_sent(&config, 32, at(0));
        drop(fresh.handle_recv(&config, &mut input, at(0)));
        connection = Some(fresh);
    });
    assert_eq!(connection.unwrap().state(), State::Echoing);
    assert_eq!(measured.bytes_current, 0);
    assert!(measured.bytes_max <= 512, "{} bytes before authentication", measured.bytes_max);
}
