//! The end of a connection, and the reason that it gets.

use std::io::ErrorKind;

use saltecho::proto::{CloseReason, State, Upper, Wants};

use crate::peer::{Peer, at, config};

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
