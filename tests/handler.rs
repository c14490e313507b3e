//! What a handler is told, what its panics cost, and what is pushed between its answers: the
//! connection without a socket, then the loop over real ones.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these have hands.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use common::client::*;
use common::server::{any_port, assert_balanced, wait_for};
use saltecho::auth::{Challenge, Keyring};
use saltecho::proto::{Answer, CloseReason, Config, Connection, Handler, Peer, State, Wants};
use saltecho::python::Monotonic;
use saltecho::server::{ConnId, Handle, Observer, PushError, Running, Server, Stats};

/// Tells what it is told. It panics where it is told to, without the hook that prints panics.
#[derive(Clone)]
struct Talker {
    told: Sender<Told>,
    /// Panics when it is told that a connection began, or ended.
    fragile: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Opened(Peer),
    Heard(Vec<u8>),
    Closed(CloseReason),
}

impl Talker {
    fn new() -> (Self, Receiver<Told>) {
        let (told, heard) = channel();
        (Self { told, fragile: None }, heard)
    }

    fn tell(&self, told: Told) {
        // A test that has heard enough is gone.
        let _ = self.told.send(told);
    }

    fn break_at(&self, place: &str) {
        if self.fragile == Some(place) {
            resume_unwind(Box::new(()));
        }
    }
}

impl Handler for Talker {
    fn opened(&mut self, peer: &Peer) {
        self.tell(Told::Opened(*peer));
        self.break_at("opened");
    }

    fn handle(&mut self, data: &mut [u8]) -> Answer {
        self.tell(Told::Heard(data.to_vec()));
        if data == b"break" {
            resume_unwind(Box::new(()));
        }
        if data == b"bye" { Answer::Close(Bytes::from_static(b"BYE")) } else { Answer::InPlace }
    }

    fn closed(&mut self, reason: CloseReason) {
        self.tell(Told::Closed(reason));
        self.break_at("closed");
    }
}

const CHALLENGE: [u8; 32] = [0x5a; 32];

fn at(millis: u64) -> Monotonic {
    Monotonic::from_nanos(millis * 1_000_000)
}

fn config() -> Config {
    Config { max_answer: 1000, ..Config::new(Keyring::demo()) }
}

/// A connection that has sent its challenge.
fn asked(config: &Config, handler: Talker) -> Connection<Talker> {
    let challenge = Challenge::new(CHALLENGE);
    let mut connection = Connection::new(config, challenge, handler, at(0));
    connection.introduce(Peer::at("192.0.2.1:7".parse().unwrap()));
    connection.handle_sent(config, 32, at(0));
    connection
}

fn authenticated_with(config: &Config, handler: Talker) -> Connection<Talker> {
    let mut connection = asked(config, handler);
    receive(config, &mut connection, &digest(&Challenge::new(CHALLENGE)), 0);
    connection
}

/// A recv, and room for so much of the answer; what of it went out.
fn receive(
    config: &Config,
    connection: &mut Connection<Talker>,
    data: &[u8],
    room: usize,
) -> Vec<u8> {
    let mut data = data.to_vec();
    let reply = connection.handle_recv(config, &mut data, at(0));
    let sent = reply.bytes()[..room.min(reply.bytes().len())].to_vec();
    reply.sent(sent.len());
    sent
}

/// Sends what is due, at most `room` bytes of each call, as long as anything is.
fn send(config: &Config, connection: &mut Connection<Talker>, room: usize) -> Vec<u8> {
    let mut sent = Vec::new();
    while connection.wants(config) == Wants::Send {
        let chunk = connection.chunk();
        let n = room.min(chunk.len());
        sent.extend_from_slice(&chunk[..n]);
        connection.handle_sent(config, n, at(0));
    }
    sent
}

#[test]
fn a_handler_hears_the_beginning_and_the_end_of_a_conversation_and_of_no_other() {
    let (config, peer) = (config(), Peer::at("192.0.2.1:7".parse().unwrap()));
    let (talker, heard) = Talker::new();
    let mut connection = asked(&config, talker.clone());
    let digest = digest(&Challenge::new(CHALLENGE));
    receive(&config, &mut connection, &digest[..15], 0);
    assert!(heard.try_recv().is_err(), "before the digest is whole");
    receive(&config, &mut connection, &[&digest[15..], b"hi"].concat(), 2);
    connection.handle_eof();
    connection.abort(CloseReason::Stopped);
    let expected =
        [Told::Opened(peer), Told::Heard(b"hi".to_vec()), Told::Closed(CloseReason::PeerFinished)];
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), expected);

    let mut stranger = asked(&config, talker);
    receive(&config, &mut stranger, &[0; 16], 0);
    assert_eq!(stranger.close_reason(), Some(CloseReason::Rejected));
    assert!(heard.try_recv().is_err(), "nothing is told of a client that did not authenticate");
}

#[test]
fn a_panic_ends_its_connection_wherever_it_comes_from() {
    let config = config();
    for (fragile, said, unanswered) in
        [(Some("opened"), &b""[..], true), (None, b"break", true), (Some("closed"), b"", false)]
    {
        let (talker, heard) = Talker::new();
        let talker = Talker { fragile, ..talker };
        let mut connection = authenticated_with(&config, talker);
        match said {
            b"" => connection.handle_eof(),
            said => drop(receive(&config, &mut connection, said, 0)),
        }
        let reason = Some(CloseReason::HandlerPanicked);
        assert_eq!(connection.close_reason(), reason, "{fragile:?}");
        assert_eq!(connection.wants(&config), Wants::Nothing);
        assert_eq!(connection.is_unanswered(), unanswered, "{fragile:?}");
        let closes = heard.try_iter().filter(|told| matches!(told, Told::Closed(_)));
        assert_eq!(closes.count(), 1, "{fragile:?}");
    }
}

#[test]
fn a_message_goes_out_between_two_recvs() {
    let (config, (talker, _heard)) = (config(), Talker::new());
    let mut connection = authenticated_with(&config, talker);
    assert!(connection.push(&config, Bytes::from_static(b"news"), at(0)));
    assert_eq!(connection.wants(&config), Wants::Send, "nothing is read meanwhile");
    assert_eq!(send(&config, &mut connection, 1), b"news");
    // An answer is never torn: what is pushed while it is unfinished comes behind it, in order.
    assert_eq!(receive(&config, &mut connection, b"question", 3), b"que");
    for message in ["one", "two", ""] {
        assert!(connection.push(&config, Bytes::from(message), at(0)), "{message}");
    }
    assert_eq!(send(&config, &mut connection, 2), b"stiononetwo");
    assert!(matches!(connection.wants(&config), Wants::Recv { .. }));
}

#[test]
fn each_message_has_the_time_of_one_sendall() {
    let mut config = config();
    config.send_timeout = Some(Duration::from_secs(1));
    config.recv_timeout = Some(Duration::from_secs(5));
    let (talker, _heard) = Talker::new();
    let mut connection = authenticated_with(&config, talker);
    assert_eq!(connection.poll_timeout(), Some(at(5000)));
    connection.push(&config, Bytes::from_static(b"one"), at(100));
    connection.push(&config, Bytes::from_static(b"two"), at(200));
    assert_eq!(connection.poll_timeout(), Some(at(1100)), "the first one's");
    connection.handle_sent(&config, 3, at(300));
    assert_eq!(connection.poll_timeout(), Some(at(1300)), "the second one's own");
    connection.handle_sent(&config, 3, at(400));
    assert_eq!(connection.poll_timeout(), Some(at(5400)), "a recv of its own");
}

#[test]
fn what_waits_for_a_peer_is_no_longer_than_an_answer_may_be() {
    let (config, message) = (config(), |len| Bytes::from(vec![b'x'; len]));
    let authenticated = || authenticated_with(&config, Talker::new().0);
    let mut connection = authenticated();
    assert!(connection.push(&config, message(600), at(0)));
    assert!(connection.push(&config, message(400), at(0)), "as long as the limit");
    assert!(!connection.push(&config, message(1), at(0)));
    assert_eq!(connection.close_reason(), Some(CloseReason::FellBehind));
    assert_eq!(connection.undelivered(), 1000);
    // Many small ones cost more than their bytes.
    let mut connection = authenticated();
    let taken = (0..100).take_while(|_| connection.push(&config, message(1), at(0))).count();
    assert_eq!(taken, 1 + 999 / 64);
    // One that is too long by itself says nothing about the peer.
    let mut connection = authenticated();
    assert!(connection.push(&config, message(1000), at(0)));
    assert!(!connection.push(&config, message(1001), at(0)));
    send(&config, &mut connection, usize::MAX);
    assert_eq!(connection.wants(&config), Wants::Shutdown, "after what was taken");
    connection.handle_shutdown(&config, at(0));
    connection.handle_eof();
    assert_eq!(connection.close_reason(), Some(CloseReason::AnswerTooLong));
}

#[test]
fn nothing_is_pushed_before_the_verdict_nor_behind_the_last_words() {
    let (config, message) = (config(), || Bytes::from_static(b"news"));
    let mut connection = asked(&config, Talker::new().0);
    assert!(!connection.push(&config, message(), at(0)));
    assert!(matches!(connection.wants(&config), Wants::Recv { .. }), "no byte before the verdict");
    let mut connection = authenticated_with(&config, Talker::new().0);
    assert_eq!(receive(&config, &mut connection, b"bye", 1), b"B");
    assert!(!connection.push(&config, message(), at(0)), "it is about to end");
    assert_eq!(send(&config, &mut connection, 1), b"YE");
    assert_eq!(connection.state(), State::Finishing);
    assert!(!connection.push(&config, message(), at(0)));
    // A drain lets go out what was taken before it.
    let mut connection = authenticated_with(&config, Talker::new().0);
    assert!(
        connection.push(&config, message(), at(0)) && connection.push(&config, message(), at(0))
    );
    connection.close(CloseReason::Drained);
    assert!(!connection.push(&config, message(), at(0)));
    assert_eq!(send(&config, &mut connection, 3), b"newsnews");
    assert_eq!(connection.state(), State::Finishing);
}

fn serve(handler: Talker) -> Running {
    Server::builder().listen(any_port()).handler(handler).spawn().unwrap()
}

/// Connects and authenticates; the peer as its handler knows it.
fn peer(address: SocketAddr, heard: &Receiver<Told>) -> (std::net::TcpStream, Peer) {
    let stream = authenticated(address);
    match heard.recv_timeout(PATIENCE).unwrap() {
        Told::Opened(peer) => (stream, peer),
        other => panic!("{other:?} came first"),
    }
}

#[test]
fn a_panicking_handler_takes_no_other_connection_with_it_not_even_in_a_drain() {
    let (talker, heard) = Talker::new();
    let server = serve(talker);
    let (calm, known) = peer(server.addresses()[0], &heard);
    assert_eq!(known.address(), Some(calm.local_addr().unwrap()));
    let (mut broken, _) = peer(server.addresses()[0], &heard);
    broken.write_all(b"break").unwrap();
    let end = rest(&broken).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset, "an answer is missing");
    assert_eq!(exchange(&calm, b"still here"), b"still here");
    drop(calm);
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed(CloseReason::HandlerPanicked), 1);
    assert_balanced(&stats);

    let (talker, heard) = Talker::new();
    let server = serve(Talker { fragile: Some("closed"), ..talker });
    let crowd: Vec<_> = (0..3).map(|_| peer(server.addresses()[0], &heard).0).collect();
    server.handle().drain();
    crowd.iter().for_each(|stream| assert_eq!(rest(stream).unwrap(), b"", "drained in order"));
    drop(crowd);
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed(CloseReason::HandlerPanicked), 3);
    assert_balanced(&stats);
}

/// Panics in its second clone, and in the destructor of its third: the server has the first.
struct Odd {
    clones: Arc<AtomicU32>,
    number: u32,
}

impl Clone for Odd {
    fn clone(&self) -> Self {
        let number = 1 + self.clones.fetch_add(1, Ordering::Relaxed);
        if number == 2 {
            resume_unwind(Box::new(()));
        }
        Self { clones: Arc::clone(&self.clones), number }
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        if self.number == 3 {
            resume_unwind(Box::new(()));
        }
    }
}

impl Handler for Odd {
    fn handle(&mut self, _: &mut [u8]) -> Answer {
        Answer::InPlace
    }
}

#[test]
fn panics_of_a_clone_and_of_a_destructor_are_borne() {
    let odd = Odd { clones: Arc::default(), number: 0 };
    let server = Server::builder().listen(any_port()).handler(odd).spawn().unwrap();
    let unlucky = std::net::TcpStream::connect(server.addresses()[0]).unwrap();
    unlucky.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(rest(&unlucky).unwrap(), b"", "there is no handler for it");
    for _ in 0..2 {
        assert_eq!(exchange(&authenticated(server.addresses()[0]), b"x"), b"x");
    }
    wait_for(&server, "their end", |stats| stats.closed_in_all() == 3);
    let stats = server.stop().unwrap();
    assert_eq!(stats.closed(CloseReason::HandlerPanicked), 1);
    assert_balanced(&stats);
}

/// Panics whenever it is called.
struct Panicking;

impl Observer for Panicking {
    fn opened(&mut self, _: ConnId, _: Option<SocketAddr>) {
        resume_unwind(Box::new(()));
    }

    fn authenticated(&mut self, _: ConnId) {
        resume_unwind(Box::new(()));
    }

    fn closed(&mut self, _: ConnId, _: CloseReason) {
        resume_unwind(Box::new(()));
    }
}

#[test]
fn a_panicking_observer_is_counted_and_costs_no_connection() {
    let observer = Box::new(Panicking);
    let server = Server::builder().listen(any_port()).observer(observer).spawn().unwrap();
    let stream = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&stream, b"x"), b"X");
    drop(stream);
    wait_for(&server, "its end", |stats| stats.closed(CloseReason::PeerFinished) == 1);
    assert_eq!(server.stop().unwrap().observer_panics, 3);
}

#[test]
fn messages_reach_their_peer_whichever_loop_has_it() {
    let (talker, heard) = Talker::new();
    let builder = Server::builder().listen(any_port()).handler(talker);
    let server = builder.spawn_workers(3).unwrap();
    let peers: Vec<_> = (0..30).map(|_| peer(server.addresses()[0], &heard)).collect();
    for round in 0..3 {
        for (number, (_, peer)) in peers.iter().enumerate() {
            server.handle().push(peer, format!("{round} for {number:03}\n")).unwrap();
        }
    }
    for (number, (stream, _)) in peers.iter().enumerate() {
        let expected: String = (0..3).map(|round| format!("{round} for {number:03}\n")).collect();
        let mut came = vec![0; expected.len()];
        (&*stream).read_exact(&mut came).unwrap();
        assert_eq!(String::from_utf8(came).unwrap(), expected);
        assert_eq!(exchange(stream, b"and answers go on"), b"and answers go on");
    }
    let (gone, last) = &peers[0];
    gone.shutdown(std::net::Shutdown::Both).unwrap();
    wait_for(&server, "its end", |stats| stats.connections == 29);
    server.handle().push(last, "too late").unwrap();
    let stats = server.handle().stats().unwrap();
    assert_eq!((stats.pushed, stats.pushes_dropped), (90, 1));
    let handle = server.handle().clone();
    server.stop().unwrap();
    assert_eq!(handle.push(last, "much too late"), Err(PushError::Ended));
    let other = Server::builder().listen(any_port()).spawn().unwrap();
    assert_eq!(other.handle().push(last, "not yours"), Err(PushError::Ended));
}

#[test]
fn a_peer_that_does_not_read_falls_behind_and_others_do_not_wait_for_it() {
    let (talker, heard) = Talker::new();
    let server = serve(talker);
    let (deaf, slow) = peer(server.addresses()[0], &heard);
    let (reader, quick) = peer(server.addresses()[0], &heard);
    let block = Bytes::from(vec![b'x'; 1 << 20]);
    let fell_behind = |stats: &Stats| stats.closed(CloseReason::FellBehind) == 1;
    while !fell_behind(&server.handle().stats().unwrap()) {
        // It was answered, so the loop has taken what was pushed before.
        server.handle().push(&slow, block.clone()).unwrap();
    }
    server.handle().push(&quick, "news").unwrap();
    assert_eq!(exchange(&reader, b""), b"");
    let mut news = [0; 4];
    (&reader).read_exact(&mut news).unwrap();
    assert_eq!(&news, b"news");
    assert_eq!(rest(&deaf).unwrap_err().kind(), ErrorKind::ConnectionReset, "a part is no whole");
    assert!(server.stop().unwrap().bytes_undelivered > 0);
}

#[test]
fn a_loop_that_does_not_keep_up_takes_no_more() {
    let (talker, heard) = Talker::new();
    let mut server = Server::builder().listen(any_port()).handler(talker).build().unwrap();
    let (address, handle) = (server.addresses().unwrap()[0], server.handle());
    let client = std::thread::spawn(move || authenticated(address));
    let peer = loop {
        server.turn().unwrap();
        if let Ok(Told::Opened(peer)) = heard.try_recv() {
            break peer;
        }
    };
    let message = Bytes::from(vec![b'x'; 64]);
    let taken = (0..).take_while(|_| handle.push(&peer, message.clone()).is_ok()).count();
    assert_eq!(taken, (1 << 20) / 64, "limits.mailbox_bytes");
    assert_eq!(handle.push(&peer, ""), Err(PushError::Full), "an empty one costs as much");
    server.turn().unwrap();
    assert_eq!(server.stats().pushed, taken as u64);
    // The first may have any length, or it could never be pushed.
    handle.push(&peer, vec![b'x'; 2 << 20]).unwrap();
    assert_eq!(handle.push(&peer, message), Err(PushError::Full));
    client.join().unwrap();
}

/// Asks for the counters where there can be no answer: in the loop that would give it.
#[derive(Clone, Default)]
struct Asking(Arc<OnceLock<Handle>>);

impl Asking {
    fn ask(&self) -> Option<Stats> {
        self.0.wait().stats()
    }
}

impl Handler for Asking {
    fn handle(&mut self, _: &mut [u8]) -> Answer {
        Answer::Bytes(format!("{:?}", self.ask()).into())
    }
}

struct AskingObserver(Asking, Sender<Option<Stats>>);

impl Observer for AskingObserver {
    fn authenticated(&mut self, _: ConnId) {
        self.1.send(self.0.ask()).unwrap();
    }
}

#[test]
fn a_loop_that_asks_itself_for_its_counters_gets_none_and_goes_on() {
    let (asking, (told, heard)) = (Asking::default(), channel());
    let observer = Box::new(AskingObserver(asking.clone(), told));
    let builder = Server::builder().listen(any_port()).handler(asking.clone()).observer(observer);
    let server = builder.spawn().unwrap();
    asking.0.set(server.handle().clone()).unwrap();
    assert_eq!(exchange(&authenticated(server.addresses()[0]), b"None"), b"None");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(None));
    assert!(server.handle().stats().is_some(), "a thread of its own is answered");
    server.stop().unwrap();
}

#[test]
fn a_loop_that_has_ended_answers_no_more_though_its_server_is_kept() {
    let mut server = Server::builder().listen(any_port()).build().unwrap();
    let handle = server.handle();
    handle.stop();
    server.run().unwrap();
    assert_eq!(handle.stats(), None);
    assert_eq!(server.handle().stats(), None, "a new handle reaches nothing either");
    assert_eq!(server.stats().connections, 0, "its owner can still ask");
}
