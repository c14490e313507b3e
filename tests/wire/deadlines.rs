//! The one deadline of each call.

use std::time::Duration;

use saltecho::proto::{CloseReason, State, Upper};
use saltecho::python::Monotonic;

use crate::peer::{Peer, at, config, digest};

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
