//! Messages that a connection is given to send, and the limit of what may wait.

use bytes::Bytes;
use saltecho::proto::{Answer, CloseReason, Config, Handler, State, Upper, Wants};

use crate::peer::{Peer, config};

const LIMIT: usize = 1000;
/// What a waiting message counts at least: 64 bytes.
const LEAST: usize = 64;

fn limited() -> Config {
    let mut config = config();
    config.max_answer = LIMIT;
    config
}

fn push<H: Handler>(peer: &mut Peer<H>, len: usize) -> bool {
    peer.connection.push(&peer.config, Bytes::from(vec![b'p'; len]), peer.now)
}

/// A connection with so many unsent bytes.
fn unsent(len: usize) -> Peer {
    let mut peer = Peer::authenticated(limited(), Upper);
    assert!(push(&mut peer, len));
    peer
}

#[test]
fn an_empty_message_is_accepted_and_not_sent() {
    let mut peer = Peer::authenticated(limited(), Upper);
    assert!(push(&mut peer, 0));
    assert!(matches!(peer.connection.wants(&peer.config), Wants::Recv { .. }));
    let mut waiting = unsent(1);
    assert!(push(&mut waiting, 0));
    waiting.take_chunk(1);
    assert!(matches!(waiting.connection.wants(&waiting.config), Wants::Recv { .. }));
}

#[test]
fn a_message_may_be_as_long_as_an_answer_and_no_longer() {
    let mut peer = unsent(LIMIT);
    peer.take_chunk(LIMIT);
    assert_eq!(peer.connection.state(), State::Echoing);
    assert!(!push(&mut peer, LIMIT + 1));
    peer.shut_down();
    peer.connection.handle_eof();
    assert_eq!(peer.reason(), Some(CloseReason::AnswerTooLong));
}

#[test]
fn a_peer_that_falls_behind_the_limit_is_cut_off() {
    let mut peer = unsent(100);
    assert!(push(&mut peer, LIMIT - 100), "the limit itself");
    assert!(!push(&mut peer, 1));
    assert_eq!(peer.reason(), Some(CloseReason::FellBehind));
}

#[test]
fn many_short_messages_count_with_what_they_cost() {
    let mut peer = unsent(100);
    for _ in 0..(LIMIT - 100) / LEAST {
        assert!(push(&mut peer, 1));
    }
    assert!(!push(&mut peer, 1));
    assert_eq!(peer.reason(), Some(CloseReason::FellBehind));
}

#[test]
fn what_was_accepted_is_sent_in_order() {
    let mut peer = unsent(3);
    for len in [5, 7] {
        assert!(push(&mut peer, len));
    }
    for len in [2, 1, 5, 7] {
        peer.take_chunk(len);
    }
    assert_eq!(peer.sent.len(), 3 + 5 + 7);
    assert!(matches!(peer.connection.wants(&peer.config), Wants::Recv { .. }));
}

/// Says a last word.
struct Farewell;

impl Handler for Farewell {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::Close(Bytes::from_static(b"farewell"))
    }
}

#[test]
fn nothing_is_accepted_behind_the_last_answer() {
    let mut peer = Peer::authenticated(limited(), Farewell);
    peer.receive_with_room(b"x", 3);
    assert!(!push(&mut peer, 1));
    peer.take_chunk(usize::MAX);
    assert_eq!(peer.sent, b"farewell");
    peer.shut_down();
    assert!(!push(&mut peer, 1));
    peer.connection.handle_eof();
    assert_eq!(peer.reason(), Some(CloseReason::HandlerClosed));
    assert!(!push(&mut peer, 1));
}
