//! Answers: whole, in order, and as the handler wants them.

use bytes::Bytes;
use proptest::prelude::*;
use saltecho::proto::{Answer, CloseReason, Handler, Upper, Wants};

use crate::peer::{Peer, at, config};

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
fn a_reply_that_is_dropped_is_not_lost() {
    let mut peer = Peer::authenticated(config(), Upper);
    let mut data = *b"abc";
    drop(peer.connection.handle_recv(&peer.config, &mut data, at(0)));
    peer.take_chunk(usize::MAX);
    assert_eq!(peer.sent, b"ABC");
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
