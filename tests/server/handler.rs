//! Handlers: their callbacks, their panics, and messages pushed between answers. First for a
//! connection without a socket, then for the loop over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::client::*;
use crate::common::server::{any_port, assert_balanced, wait_for};
use bytes::Bytes;
use saltecho::auth::{Challenge, Keyring};
use saltecho::proto::{Answer, CloseReason, Config, Connection, Handler, Peer, State, Wants};
use saltecho::python::Monotonic;
use saltecho::server::{Handle, Note, PushError, Running, Server, Stats};

/// Reports its calls. It panics on request, without the hook that prints panics.
#[derive(Clone)]
struct Talker {
    calls: Sender<Call>,
    /// The callback in which it panics.
    fragile: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Opened(Peer),
    Received(Vec<u8>),
    Closed(CloseReason),
}

impl Talker {
    fn new() -> (Self, Receiver<Call>) {
        let (calls, received) = channel();
        (Self { calls, fragile: None }, received)
    }

    fn report(&self, call: Call) {
        // The test may have ended.
        let _ = self.calls.send(call);
    }

    fn break_at(&self, place: &str) {
        if self.fragile == Some(place) {
            resume_unwind(Box::new(()));
        }
    }
}

impl Handler for Talker {
    fn opened(&mut self, peer: &Peer) {
        self.report(Call::Opened(*peer));
        self.break_at("opened");
    }

    fn handle(&mut self, data: &mut [u8]) -> Answer {
        self.report(Call::Received(data.to_vec()));
        if data == b"break" {
            resume_unwind(Box::new(()));
        }
        if data == b"bye" { Answer::Close(Bytes::from_static(b"BYE")) } else { Answer::InPlace }
    }

    fn closed(&mut self, reason: CloseReason) {
        self.report(Call::Closed(reason));
        self.break_at("closed");
    }
}

const CHALLENGE: [u8; 32] = [0x5a; 32];

fn at(millis: u64) -> Monotonic {
    Monotonic::from_nanos(millis * 1_000_000)
}

fn config() -> Config {
    let mut config = Config::new(Keyring::demo());
    config.max_answer = 1000;
    config
}

/// A connection that has sent its challenge.
fn asked(config: &Config, handler: Talker) -> Connection<Talker> {
    let challenge = Challenge::new(CHALLENGE);
    let mut connection = Connection::new(config, challenge, handler, at(0));
    connection.set_peer(Peer::at("192.0.2.1:7".parse().unwrap()));
    connection.handle_sent(config, 32, at(0));
    connection
}

fn authenticated_with(config: &Config, handler: Talker) -> Connection<Talker> {
    let mut connection = asked(config, handler);
    receive(config, &mut connection, &digest(&Challenge::new(CHALLENGE)), 0);
    connection
}

/// Receives, with room for this much of the answer; returns the bytes sent.
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

/// Sends all pending bytes, at most `room` per call.
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
fn a_handler_sees_the_start_and_end_of_authenticated_connections_only() {
    let (config, peer) = (config(), Peer::at("192.0.2.1:7".parse().unwrap()));
    let (talker, calls) = Talker::new();
    let mut connection = asked(&config, talker.clone());
    let digest = digest(&Challenge::new(CHALLENGE));
    receive(&config, &mut connection, &digest[..15], 0);
    assert!(calls.try_recv().is_err(), "before the digest is whole");
    receive(&config, &mut connection, &[&digest[15..], b"hi"].concat(), 2);
    connection.handle_eof();
    connection.abort(CloseReason::Stopped);
    let expected = [
        Call::Opened(peer),
        Call::Received(b"hi".to_vec()),
        Call::Closed(CloseReason::PeerFinished),
    ];
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), expected);

    let mut rejected = asked(&config, talker);
    receive(&config, &mut rejected, &[0; 16], 0);
    assert_eq!(rejected.close_reason(), Some(CloseReason::Rejected));
    assert!(calls.try_recv().is_err(), "no call for a client that did not authenticate");
}

#[test]
fn a_panic_in_any_callback_ends_its_connection() {
    let config = config();
    for (fragile, said, unanswered) in
        [(Some("opened"), &b""[..], true), (None, b"break", true), (Some("closed"), b"", false)]
    {
        let (talker, calls) = Talker::new();
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
        let closes = calls.try_iter().filter(|call| matches!(call, Call::Closed(_)));
        assert_eq!(closes.count(), 1, "{fragile:?}");
    }
}

#[test]
fn a_message_goes_out_between_two_recvs() {
    let (config, (talker, _calls)) = (config(), Talker::new());
    let mut connection = authenticated_with(&config, talker);
    assert!(connection.push(&config, Bytes::from_static(b"news"), at(0)));
    assert_eq!(connection.wants(&config), Wants::Send, "nothing is read meanwhile");
    assert_eq!(send(&config, &mut connection, 1), b"news");
    // Answers are not interrupted: messages pushed meanwhile follow in order.
    assert_eq!(receive(&config, &mut connection, b"question", 3), b"que");
    for message in ["one", "two", ""] {
        assert!(connection.push(&config, Bytes::from(message), at(0)), "{message}");
    }
    assert_eq!(send(&config, &mut connection, 2), b"stiononetwo");
    assert!(matches!(connection.wants(&config), Wants::Recv { .. }));
}

#[test]
fn each_pushed_message_has_a_sendall_deadline_of_its_own() {
    let mut config = config();
    config.send_timeout = Some(Duration::from_secs(1));
    config.idle_timeout = Some(Duration::from_secs(5));
    let (talker, _calls) = Talker::new();
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
fn a_peers_backlog_never_exceeds_the_longest_answer() {
    let (config, message) = (config(), |len| Bytes::from(vec![b'x'; len]));
    let authenticated = || authenticated_with(&config, Talker::new().0);
    let mut connection = authenticated();
    assert!(connection.push(&config, message(600), at(0)));
    assert!(connection.push(&config, message(400), at(0)), "as long as the limit");
    assert!(!connection.push(&config, message(1), at(0)));
    assert_eq!(connection.close_reason(), Some(CloseReason::FellBehind));
    assert_eq!(connection.undelivered(), 1000);
    // Small messages count for more than their bytes.
    let mut connection = authenticated();
    let taken = (0..100).take_while(|_| connection.push(&config, message(1), at(0))).count();
    assert_eq!(taken, 1 + 999 / 64);
    // A message that is too long by itself is not the peer's fault.
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
fn nothing_is_pushed_before_authentication_or_after_the_last_answer() {
    let (config, message) = (config(), || Bytes::from_static(b"news"));
    let mut connection = asked(&config, Talker::new().0);
    assert!(!connection.push(&config, message(), at(0)));
    assert!(
        matches!(connection.wants(&config), Wants::Recv { .. }),
        "no byte before authentication"
    );
    let mut connection = authenticated_with(&config, Talker::new().0);
    assert_eq!(receive(&config, &mut connection, b"bye", 1), b"B");
    assert!(!connection.push(&config, message(), at(0)), "it is about to end");
    assert_eq!(send(&config, &mut connection, 1), b"YE");
    assert_eq!(connection.state(), State::Finishing);
    assert!(!connection.push(&config, message(), at(0)));
    // A drain still sends messages accepted before it.
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

/// Connects and authenticates; returns the stream and the peer that its handler sees.
fn peer(address: SocketAddr, calls: &Receiver<Call>) -> (std::net::TcpStream, Peer) {
    let stream = authenticated(address);
    match calls.recv_timeout(PATIENCE).unwrap() {
        Call::Opened(peer) => (stream, peer),
        other => panic!("{other:?} came first"),
    }
}

#[test]
fn a_panicking_handler_ends_no_other_connection_even_in_a_drain() {
    let (talker, calls) = Talker::new();
    let server = serve(talker);
    let (bystander, known) = peer(server.addresses()[0], &calls);
    assert_eq!(known.address(), Some(bystander.local_addr().unwrap()));
    let (mut broken, _) = peer(server.addresses()[0], &calls);
    broken.write_all(b"break").unwrap();
    let end = rest(&broken).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset, "an answer is missing");
    assert_eq!(exchange(&bystander, b"still here"), b"still here");
    drop(bystander);
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed(CloseReason::HandlerPanicked), 1);
    assert_balanced(&stats);

    let (talker, calls) = Talker::new();
    let server = serve(Talker { fragile: Some("closed"), ..talker });
    let crowd: Vec<_> = (0..3).map(|_| peer(server.addresses()[0], &calls).0).collect();
    server.handle().drain();
    crowd.iter().for_each(|stream| assert_eq!(rest(stream).unwrap(), b"", "drained in order"));
    drop(crowd);
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed(CloseReason::HandlerPanicked), 3);
    assert_balanced(&stats);
}

/// Panics in the second clone and in the destructor of the third: the server keeps the first.
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
fn panics_in_clone_and_drop_are_contained() {
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

#[test]
fn a_panicking_observer_is_counted_and_ends_no_connection() {
    let builder = Server::builder().listen(any_port());
    let server = builder.observer(|_, _| resume_unwind(Box::new(()))).spawn().unwrap();
    let stream = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&stream, b"x"), b"X");
    drop(stream);
    wait_for(&server, "its end", |stats| stats.closed(CloseReason::PeerFinished) == 1);
    assert_eq!(server.stop().unwrap().observer_panics, 3);
}

#[test]
fn a_push_reaches_its_peer_on_any_loop() {
    let (talker, calls) = Talker::new();
    let builder = Server::builder().listen(any_port()).handler(talker);
    let server = builder.spawn_workers(3).unwrap();
    let peers: Vec<_> = (0..30).map(|_| peer(server.addresses()[0], &calls)).collect();
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
fn a_peer_that_does_not_read_delays_no_other() {
    let (talker, calls) = Talker::new();
    let server = serve(talker);
    let (deaf, slow) = peer(server.addresses()[0], &calls);
    let (reader, quick) = peer(server.addresses()[0], &calls);
    let block = Bytes::from(vec![b'x'; 1 << 20]);
    let fell_behind = |stats: &Stats| stats.closed(CloseReason::FellBehind) == 1;
    while !fell_behind(&server.handle().stats().unwrap()) {
        // It was answered, so the loop has accepted the earlier pushes.
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
fn a_loop_that_falls_behind_accepts_no_more_pushes() {
    let (talker, calls) = Talker::new();
    let mut server = Server::builder().listen(any_port()).handler(talker).build().unwrap();
    let (address, handle) = (server.addresses().unwrap()[0], server.handle());
    let client = std::thread::spawn(move || authenticated(address));
    let peer = loop {
        server.turn().unwrap();
        if let Ok(Call::Opened(peer)) = calls.try_recv() {
            break peer;
        }
    };
    let message = Bytes::from(vec![b'x'; 64]);
    let taken = (0..).take_while(|_| handle.push(&peer, message.clone()).is_ok()).count();
    assert_eq!(taken, (1 << 20) / 64, "limits.mailbox_bytes");
    assert_eq!(handle.push(&peer, ""), Err(PushError::Full), "an empty one costs as much");
    server.turn().unwrap();
    assert_eq!(server.stats().pushed, taken as u64);
    // The first message may have any length; otherwise it could never be pushed.
    handle.push(&peer, vec![b'x'; 2 << 20]).unwrap();
    assert_eq!(handle.push(&peer, message), Err(PushError::Full));
    client.join().unwrap();
}

/// Asks for the counters in the loop that would have to answer.
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

#[test]
fn a_loop_that_asks_for_its_own_counters_does_not_deadlock() {
    let (asking, (answers, received)) = (Asking::default(), channel());
    let observer = asking.clone();
    let builder = Server::builder().listen(any_port()).handler(asking.clone());
    let builder = builder.observer(move |note, _| {
        if let Note::Authenticated(..) = note {
            answers.send(observer.ask()).unwrap();
        }
    });
    let server = builder.spawn().unwrap();
    asking.0.set(server.handle().clone()).unwrap();
    assert_eq!(exchange(&authenticated(server.addresses()[0]), b"None"), b"None");
    assert_eq!(received.recv_timeout(PATIENCE), Ok(None));
    assert!(server.handle().stats().is_some(), "a thread of its own is answered");
    server.stop().unwrap();
}

#[test]
fn an_ended_loop_refuses_commands_though_its_server_still_exists() {
    let mut server = Server::builder().listen(any_port()).build().unwrap();
    let handle = server.handle();
    handle.stop();
    server.run().unwrap();
    assert_eq!(handle.stats(), None);
    assert_eq!(server.handle().stats(), None, "a new handle reaches nothing either");
    assert_eq!(server.stats().connections, 0, "its owner can still ask");
}
