//! Clients that do everything but behave, at the built program, with honest ones beside them.
//!
//! `SALTECHO_FAULTS=all` makes the sizes and times larger.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these have hands.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::client::*;
use common::program::*;
use saltecho::server::Server;
use socket2::{Domain, SockRef, Socket, Type};

/// The long mode's number instead of the usual one.
fn sized<T>(usual: T, long: T) -> T {
    if std::env::var("SALTECHO_FAULTS").is_ok_and(|value| value == "all") { long } else { usual }
}

/// A client with a small receive buffer, which it may never read from.
fn deaf(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Set before connecting, so that the window is never larger.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let challenge = read_challenge(&stream).unwrap();
    (&stream).write_all(&digest(&challenge)).unwrap();
    stream
}

/// Sends as much as is taken at once, at most `len` bytes; how much that was.
fn push(mut stream: &TcpStream, len: usize) -> usize {
    stream.set_nonblocking(true).unwrap();
    let block = vec![b'x'; len];
    let mut sent = 0;
    while sent < len {
        match stream.write(&block[sent..]) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("while pushing: {error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// A client's life up to its reset, named for the state in which that meets the server.
type Attack = (&'static str, fn(SocketAddr));

#[test]
fn a_reset_in_any_state_costs_that_connection_alone() {
    let serving = Serving::start(&[]);
    let (address, before) = (serving.address, serving.descriptors());
    let bystander = authenticated(address);
    let states: [Attack; 7] = [
        ("queued", |address| reset(TcpStream::connect(address).unwrap())),
        ("challenged", |address| reset(connect(address).0)),
        ("half of a digest", |address| {
            let (mut stream, challenge) = connect(address);
            stream.write_all(&digest(&challenge)[..8]).unwrap();
            reset(stream);
        }),
        ("wrong digest", |address| {
            let (mut stream, _) = connect(address);
            stream.write_all(&[0; 40]).unwrap();
            reset(stream);
        }),
        ("idle", |address| {
            let stream = authenticated(address);
            assert_eq!(exchange(&stream, b"x"), b"X");
            reset(stream);
        }),
        ("owed an answer", |address| {
            let stream = deaf(address);
            push(&stream, 256 << 10);
            reset(stream);
        }),
        ("owed an answer after its end", |address| {
            let stream = deaf(address);
            push(&stream, 256 << 10);
            finish_sending(&stream);
            reset(stream);
        }),
    ];
    for (state, attack) in states {
        for _ in 0..sized(30, 1000) {
            attack(address);
        }
        assert_eq!(exchange(&bystander, b"and i?"), b"AND I?", "{state}");
    }
    drop(bystander);
    serving.wait_for_descriptors(before);
    serving.finish();
}

#[test]
fn a_half_close_gets_the_whole_answer_then_the_end() {
    let serving = Serving::start(&[]);
    let mut len = 1;
    let most = sized(8 << 20, 64 << 20);
    while len <= most {
        let stream = authenticated(serving.address);
        let data = pattern(len);
        let answer = answer_to_all_of(&stream, &data);
        assert!(answer == data.to_ascii_uppercase(), "{len} bytes came back as {}", answer.len());
        len *= 8;
    }
    serving.finish();
}

#[test]
fn a_thousand_deaf_peers_hold_one_recv_each_and_nobody_up() {
    // With the kernel's own buffers they would take gigabytes of it, and tell nothing of ours.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_send_buffer_size(4096).unwrap();
    let server = Server::builder().listener(listener).spawn().unwrap();
    let address = server.addresses()[0];
    let bystander = authenticated(address);
    let peers = 1000;
    let crowd: Vec<TcpStream> = (0..peers).map(|_| deaf(address)).collect();
    for stream in &crowd {
        assert!(push(stream, 100 << 10) > 32 << 10, "the kernel takes less than one recv");
    }
    // Until each has an answer that its kernel does not take; nobody reads, so it stays so.
    let begin = Instant::now();
    let kept = loop {
        assert_eq!(exchange(&bystander, b"still here"), b"STILL HERE");
        let stats = server.handle().stats().unwrap();
        let answered = stats.bytes_sent - (peers + 1) * 32;
        let kept = stats.bytes_received - stats.authenticated * 16 - answered;
        if stats.authenticated == peers + 1 && kept > peers * 16_000 {
            break kept;
        }
        assert!(begin.elapsed() < PATIENCE, "{kept} bytes kept: {stats:?}");
    };
    assert!(kept <= peers * (32 << 10), "{kept} bytes kept for {peers} peers");
    drop(crowd);
    assert_eq!(exchange(&bystander, b"and i?"), b"AND I?");
    drop(bystander);
    server.stop().unwrap();
}

#[test]
fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let serving = Serving::start(&[]);
    let (mut stream, challenge) = connect(serving.address);
    stream.set_nodelay(true).unwrap();
    let data = pattern(2000);
    for byte in digest(&challenge).iter().chain(&data) {
        stream.write_all(&[*byte]).unwrap();
    }
    finish_sending(&stream);
    let mut answer = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0]);
    }
    assert_eq!(answer, data.to_ascii_uppercase());
    serving.finish();
}

/// One urgent byte at a time: where a second one overtakes the first, Linux itself puts the first
/// into the stream.
#[test]
fn an_urgent_byte_is_no_part_of_digest_or_stream() {
    let serving = Serving::start(&[]);
    for round in 0..sized(100, 1000) {
        let (mut stream, challenge) = connect(serving.address);
        let digest = digest(&challenge);
        let split = round % (digest.len() + 1);
        stream.write_all(&digest[..split]).unwrap();
        SockRef::from(&stream).send_out_of_band(b"!").unwrap();
        stream.write_all(&digest[split..]).unwrap();
        assert_eq!(exchange(&stream, b"calm"), b"CALM", "urgent after {split} of the digest");
        stream.write_all(b"to the end").unwrap();
        SockRef::from(&stream).send_out_of_band(b"!").unwrap();
        finish_sending(&stream);
        assert_eq!(rest(&stream).unwrap(), b"TO THE END", "round {round}");
    }
    serving.finish();
}

#[test]
fn no_byte_extends_the_time_for_a_digest() {
    let mut serving = Serving::start(&["--auth-timeout", "1s"]);
    let bystander = authenticated(serving.address);
    let slow: Vec<TcpStream> = (0..sized(200, 2000)).map(|_| connect(serving.address).0).collect();
    let mut sent = vec![0; slow.len()];
    // The last byte of a digest would come after 15 rounds, three seconds at the least.
    for _ in 0..15 {
        let round = Instant::now();
        for (mut stream, sent) in slow.iter().zip(&mut sent) {
            *sent += usize::from(stream.write_all(b"?").is_ok());
        }
        assert_eq!(exchange(&bystander, b"x"), b"X");
        thread::sleep(Duration::from_millis(200).saturating_sub(round.elapsed()));
    }
    assert!(sent.iter().all(|sent| *sent < 15), "somebody was given all the time it wanted");
    let counters = serving.counters();
    let expected = format!("{} authentication timed out", slow.len());
    assert!(counters.contains(&expected), "{counters}");
    drop((slow, bystander));
    serving.finish();
}

#[test]
fn who_was_in_time_is_not_timed_out_by_a_stopped_server() {
    // All must be in time before the pause, on a busy machine too.
    let (clients, pause) = (20, sized(Duration::from_secs(4), Duration::from_secs(10)));
    let mut serving = Serving::start(&["--auth-timeout", "3s", "--idle-timeout", "3s"]);
    let address = serving.address;
    let strangers: Vec<_> = (0..clients).map(|_| connect(address)).collect();
    let talking: Vec<TcpStream> = (0..clients).map(|_| authenticated(address)).collect();
    for stream in &talking {
        assert_eq!(exchange(stream, b"before"), b"BEFORE");
    }
    serving.running.signal(Signal::STOP);
    // The kernel takes all of this while the server is stopped, and so it has come in time.
    let stopped = Instant::now();
    for (mut stream, challenge) in strangers.iter().map(|(stream, challenge)| (stream, challenge)) {
        stream.write_all(&[&digest(challenge)[..], b"during"].concat()).unwrap();
    }
    for mut stream in &talking {
        stream.write_all(b"during").unwrap();
    }
    let newcomers: Vec<TcpStream> =
        (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect();
    thread::sleep(pause.saturating_sub(stopped.elapsed()));
    serving.running.signal(Signal::CONT);
    for stream in strangers.iter().map(|(stream, _)| stream).chain(&talking) {
        let mut answer = [0; 6];
        let mut stream = stream;
        stream.read_exact(&mut answer).expect("it was in time");
        assert_eq!(&answer, b"DURING");
    }
    for stream in &newcomers {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(read_challenge(stream).is_ok(), "its time begins when it is accepted");
    }
    let counters = serving.counters();
    assert!(counters.contains(&format!("authenticated {}", 2 * clients)), "{counters}");
    drop((strangers, talking, newcomers));
    serving.finish();
}
