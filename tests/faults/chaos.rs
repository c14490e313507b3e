//! Misbehaving clients of the built program, with well-behaved ones beside them.
//!
//! `SALTECHO_FAULTS=all` raises sizes and times.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::*;
use crate::common::program::*;
use saltecho::server::Server;
use socket2::{Domain, SockRef, Socket, Type};

/// The first number by default, the second with `SALTECHO_FAULTS=all`.
fn sized<T>(usual: T, long: T) -> T {
    if std::env::var("SALTECHO_FAULTS").is_ok_and(|value| value == "all") { long } else { usual }
}

/// A client with a small receive buffer.
fn deaf(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Set before connecting, so that the window starts small.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let challenge = read_challenge(&stream).unwrap();
    (&stream).write_all(&digest(&challenge)).unwrap();
    stream
}

/// Sends at most `len` bytes without waiting; returns the number of bytes sent.
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

/// A client's life up to its reset, named after the server's state at that time.
type Attack = (&'static str, fn(SocketAddr));

#[test]
fn a_reset_in_any_state_ends_only_that_connection() {
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
fn a_half_closed_peer_gets_the_whole_answer_then_the_end() {
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
fn a_thousand_peers_that_never_read_hold_one_recv_each_and_delay_no_other() {
    // With default buffers the kernel would need gigabytes, which says nothing about this server.
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
    // Until each has an answer that its kernel does not accept; no client reads, so that stays
    // true.
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
fn bytes_sent_one_at_a_time_are_echoed() {
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

/// One urgent byte at a time: if a second one follows early, Linux puts the first into the stream.
#[test]
fn an_urgent_byte_belongs_to_neither_digest_nor_stream() {
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
fn no_byte_extends_the_authentication_deadline() {
    let mut serving = Serving::start(&["--auth-timeout", "1s"]);
    let bystander = authenticated(serving.address);
    let slow: Vec<TcpStream> = (0..sized(200, 2000)).map(|_| connect(serving.address).0).collect();
    let mut sent = vec![0; slow.len()];
    // The last byte of a digest would come after 15 rounds, at least three seconds.
    for _ in 0..15 {
        let round = Instant::now();
        for (mut stream, sent) in slow.iter().zip(&mut sent) {
            *sent += usize::from(stream.write_all(b"?").is_ok());
        }
        assert_eq!(exchange(&bystander, b"x"), b"X");
        thread::sleep(Duration::from_millis(200).saturating_sub(round.elapsed()));
    }
    assert!(sent.iter().all(|sent| *sent < 15), "a client outlived the deadline");
    let counters = serving.counters();
    let expected = format!("{} authentication timed out", slow.len());
    assert!(counters.contains(&expected), "{counters}");
    drop((slow, bystander));
    serving.finish();
}

#[test]
fn a_digest_that_arrived_in_time_counts_though_the_server_was_stopped() {
    // All must authenticate before the pause, on a busy machine too.
    let (clients, pause) = (20, sized(Duration::from_secs(4), Duration::from_secs(10)));
    let mut serving = Serving::start(&["--auth-timeout", "3s", "--idle-timeout", "3s"]);
    let address = serving.address;
    let unauthenticated: Vec<_> = (0..clients).map(|_| connect(address)).collect();
    let talking: Vec<TcpStream> = (0..clients).map(|_| authenticated(address)).collect();
    for stream in &talking {
        assert_eq!(exchange(stream, b"before"), b"BEFORE");
    }
    serving.running.signal(Signal::STOP);
    // The kernel receives all of this while the server is stopped, so it arrives in time.
    let stopped = Instant::now();
    for (mut stream, challenge) in
        unauthenticated.iter().map(|(stream, challenge)| (stream, challenge))
    {
        stream.write_all(&[&digest(challenge)[..], b"during"].concat()).unwrap();
    }
    for mut stream in &talking {
        stream.write_all(b"during").unwrap();
    }
    let newcomers: Vec<TcpStream> =
        (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect();
    thread::sleep(pause.saturating_sub(stopped.elapsed()));
    serving.running.signal(Signal::CONT);
    for stream in unauthenticated.iter().map(|(stream, _)| stream).chain(&talking) {
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
    drop((unauthenticated, talking, newcomers));
    serving.finish();
}
