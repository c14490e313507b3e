//! The loop over real loopback sockets, in this process.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::common::client::*;
use crate::common::server::*;
use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::proto::{Answer, CloseReason, Config, Handler};
use saltecho::server::{BuildError, Limits, Server};
use socket2::SockRef;

#[test]
fn many_clients_are_served_at_once() {
    let server = spawn();
    let address = server.addresses()[0];
    let crowd: Vec<TcpStream> = (0..2000).map(|_| authenticated(address)).collect();
    for round in 0..3 {
        let message = |i| format!("client {i}, round {round}: grüße");
        for (i, mut stream) in crowd.iter().enumerate() {
            stream.write_all(message(i).as_bytes()).unwrap();
        }
        for (i, mut stream) in crowd.iter().enumerate() {
            let mut answer = vec![0; message(i).len()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, message(i).as_bytes().to_ascii_uppercase());
        }
    }
    drop(crowd);
    wait_for(&server, "the end of all", |stats| stats.connections == 0);
    let stats = server.stop().unwrap();
    assert_eq!((stats.authenticated, stats.peak_connections), (2000, 2000));
    assert_eq!(stats.closed(CloseReason::PeerFinished), 2000);
    assert_balanced(&stats);
}

#[test]
fn a_wrong_digest_is_closed_without_a_byte() {
    let server = spawn();
    let (mut stream, challenge) = connect(server.addresses()[0]);
    let mut wrong = digest(&challenge);
    wrong[0] ^= 1;
    stream.write_all(&wrong).unwrap();
    assert_eq!(rest(&stream).unwrap(), b"");
    let stats = server.stop().unwrap();
    assert_eq!(stats.closed(CloseReason::Rejected), 1);
    assert_eq!((stats.authenticated, stats.bytes_sent), (0, 32));
}

#[test]
fn challenges_are_fresh() {
    let server = spawn();
    let mut challenges: Vec<[u8; 32]> =
        (0..500).map(|_| *connect(server.addresses()[0]).1.as_bytes()).collect();
    challenges.sort_unstable();
    challenges.dedup();
    assert_eq!(challenges.len(), 500);
}

#[test]
fn digest_input_and_end_in_one_segment() {
    let server = spawn();
    for _ in 0..200 {
        let (mut stream, challenge) = connect(server.addresses()[0]);
        stream.write_all(&[&digest(&challenge)[..], b"all at once"].concat()).unwrap();
        finish_sending(&stream);
        assert_eq!(rest(&stream).unwrap(), b"ALL AT ONCE");
    }
}

#[test]
fn a_half_closed_client_gets_its_pending_megabytes() {
    let server = spawn();
    for len in [1, 64 << 10, 16 << 20] {
        let stream = authenticated(server.addresses()[0]);
        let data = pattern(len);
        let answer = answer_to_all_of(&stream, &data);
        assert_eq!(answer.len(), len);
        assert!(answer == data.to_ascii_uppercase(), "{len} bytes came back changed");
    }
    let stats = wait_for(&server, "the end of all", |stats| stats.connections == 0);
    assert_eq!(stats.closed(CloseReason::PeerFinished), 3);
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let server = spawn();
    let stream = authenticated(server.addresses()[0]);
    SockRef::from(&stream).set_recv_buffer_size(16 << 10).unwrap();
    let data = pattern(8 << 20);
    let answer = thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&data).unwrap();
            finish_sending(&stream);
        });
        let mut answer = Vec::new();
        let mut piece = [0; 1777];
        loop {
            match (&stream).read(&mut piece).unwrap() {
                0 => break answer,
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
    });
    assert!(answer == data.to_ascii_uppercase());
}

#[test]
fn a_peer_that_never_reads_holds_one_recv_and_delays_no_other() {
    let server = spawn_with(|config, _| config.recv_size = 10_000);
    let (deaf, lively) =
        (authenticated(server.addresses()[0]), authenticated(server.addresses()[0]));
    let sent = fill(&deaf);
    assert!(sent > 10_000);
    for _ in 0..100 {
        assert_eq!(exchange(&lively, b"still here"), b"STILL HERE");
    }
    // Apart from two digests received and two challenges sent, all input was answered but for the
    // rest of one recv.
    let stats = server.handle().stats().unwrap();
    let kept = (stats.bytes_received - 2 * 16) - (stats.bytes_sent - 2 * 32);
    assert!((1..=10_000).contains(&kept), "{kept} bytes are kept");
    drop(deaf);
    let stats = wait_for(&server, "one connection", |stats| stats.connections == 1);
    assert_eq!(stats.closed(CloseReason::Reset), 1);
    assert_eq!(stats.bytes_undelivered, kept);
}

#[test]
fn a_stalled_sendall_times_out_with_a_reset() {
    let server = spawn_with(|config, _| config.send_timeout = Some(Duration::from_millis(400)));
    let stream = authenticated(server.addresses()[0]);
    let mut block = &[b'x'; 1 << 20][..];
    // Until the server stops reading; the amount depends on the kernels' buffers.
    let error = loop {
        match (&stream).write(block) {
            Ok(n) => block = if n < block.len() { &block[n..] } else { &[b'x'; 1 << 20] },
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "a truncated answer must not look like a whole one: {error}"
    );
    let stats = server.stop().unwrap();
    assert_eq!(stats.closed(CloseReason::SendTimeout), 1);
    assert!(stats.bytes_undelivered > 0);
}

#[test]
fn a_partial_answer_ends_with_a_reset() {
    /// Answers with more than the kernels hold.
    #[derive(Clone)]
    struct Much;
    impl Handler for Much {
        fn handle(&mut self, _: &mut [u8]) -> Answer {
            Answer::Bytes(vec![b'x'; 15 << 20].into())
        }
    }
    let server = Server::builder().listen(any_port()).handler(Much).spawn().unwrap();
    let mut stream = authenticated(server.addresses()[0]);
    stream.write_all(b"?").unwrap();
    // All input was read: with unread bytes the kernel would reset by itself.
    wait_for(&server, "the question", |stats| stats.bytes_received == 16 + 1);
    let stats = server.stop().unwrap();
    assert!(stats.bytes_undelivered > 0);
    assert_eq!(rest(&stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_greedy_peer_delays_a_quiet_one_by_one_turn() {
    let mut limits = Limits::for_connections(10);
    limits.bytes_per_turn = 64 << 10;
    let mut server = Server::builder().listen(any_port()).limits(limits).build().unwrap();
    let address = server.addresses().unwrap()[0];
    let clients = thread::spawn(move || (authenticated(address), authenticated(address)));
    while server.stats().authenticated < 2 {
        server.turn().unwrap();
    }
    let (greedy, quiet) = clients.join().unwrap();
    let queued = fill(&greedy);
    (&quiet).write_all(b"x").unwrap();
    let before = server.stats();
    server.turn().unwrap();
    let moved = server.stats().bytes_received - before.bytes_received;
    assert!(queued > 256 << 10, "the greedy peer had only {queued} bytes queued");
    // One share, and at most one recv beyond it.
    assert!(moved <= 1 + (64 + 32) * 1024, "{moved} bytes in one turn");
    let mut answer = [0];
    (&quiet).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"X", "the quiet one was served in the same turn");
}

#[test]
fn a_turn_that_only_echoes_allocates_nothing() {
    for records in [false, true] {
        let mut server = Server::builder().listen(any_port()).records(records).build().unwrap();
        let address = server.addresses().unwrap()[0];
        let client = thread::spawn(move || authenticated(address));
        while server.stats().authenticated < 1 {
            server.turn().unwrap();
        }
        let client = client.join().unwrap();
        let (mut answer, mut allocations) = ([0; 64], 0);
        for _ in 0..100 {
            (&client).write_all(&[b'a'; 64]).unwrap();
            let before = server.stats().bytes_sent;
            while server.stats().bytes_sent == before {
                let turn = allocation_counter::measure(|| assert!(server.turn().unwrap()));
                allocations += turn.count_total;
            }
            (&client).read_exact(&mut answer).unwrap();
            assert_eq!(answer, [b'A'; 64]);
        }
        assert_eq!(allocations, 0, "records: {records}");
    }
}

#[test]
fn resets_at_every_stage_end_one_connection_each() {
    let server = spawn();
    let address = server.addresses()[0];
    let bystander = authenticated(address);
    for round in 1..=20 {
        let (unauthenticated, _) = connect(address);
        reset(unauthenticated);
        let (mut halfway, challenge) = connect(address);
        halfway.write_all(&digest(&challenge)[..7]).unwrap();
        reset(halfway);
        reset(authenticated(address));
        let talking = authenticated(address);
        exchange(&talking, b"hello");
        reset(talking);
        let deaf = authenticated(address);
        (&deaf).write_all(&[b'x'; 64 << 10]).unwrap();
        reset(deaf);
        // The kernel may drop a queued connection whose client is gone before `accept`.
        wait_for(&server, "the end of all but one", |stats| stats.connections == 1);
        assert_eq!(exchange(&bystander, b"and i?"), b"AND I?", "round {round}");
    }
    drop(bystander);
    wait_for(&server, "the end of all", |stats| stats.connections == 0);
    let stats = server.stop().unwrap();
    assert_balanced(&stats);
    assert!(stats.closed(CloseReason::Reset) >= 80, "{stats:?}");
}

#[test]
fn urgent_data_does_not_strand_what_follows_it() {
    let server = spawn();
    for round in 0..100 {
        let stream = authenticated(server.addresses()[0]);
        (&stream).write_all(b"abc").unwrap();
        SockRef::from(&stream).send_out_of_band(b"!").unwrap();
        (&stream).write_all(b"def").unwrap();
        let mut answer = [0; 6];
        (&stream).read_exact(&mut answer).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(&answer, b"ABCDEF", "the urgent byte is no part of the stream");
    }
}

#[test]
fn a_silent_peer_is_closed_at_its_deadline() {
    // A server for each, because on a busy machine a client may be slower than the other deadline.
    let server = spawn_with(|config, _| config.auth_timeout = Some(Duration::from_millis(50)));
    let (silent, _) = connect(server.addresses()[0]);
    assert_eq!(rest(&silent).unwrap(), b"");
    let stats = wait_for(&server, "its end", |stats| stats.connections == 0);
    assert_eq!(stats.closed(CloseReason::AuthTimeout), 1);

    let server = spawn_with(|config, _| config.idle_timeout = Some(Duration::from_millis(80)));
    let idle = authenticated(server.addresses()[0]);
    assert_eq!(rest(&idle).unwrap(), b"");
    drop(idle);
    let stats = wait_for(&server, "its end", |stats| stats.connections == 0);
    assert_eq!(stats.closed(CloseReason::IdleTimeout), 1);
}

#[test]
fn idle_connections_cost_no_turn() {
    let server = spawn_with(|config, _| config.idle_timeout = Some(Duration::from_secs(3600)));
    let crowd: Vec<TcpStream> = (0..100).map(|_| authenticated(server.addresses()[0])).collect();
    wait_for(&server, "a hundred", |stats| stats.authenticated == 100);
    // Authentication deadlines of connections that have since authenticated may still come up once.
    let turns = || server.handle().stats().unwrap().turns;
    let before = turns();
    for asked in 1..=50 {
        assert!(turns() - before <= asked + 5, "the loop turns without a cause");
    }
    drop(crowd);
}

#[test]
fn keys_can_be_replaced_at_run_time() {
    let server = spawn();
    let address = server.addresses()[0];
    let old = authenticated(address);
    assert_eq!(exchange(&old, b"old"), b"OLD");
    let key = Key::new(&b"another key of 24 bytes."[..]);
    let keyring = Keyring::single(MacAlgorithm::Sha256, &key);
    server.handle().replace_keyring(keyring);
    let (new, challenge) = connect(address);
    (&new).write_all(MacAlgorithm::Sha256.digest(&key, &challenge).as_bytes()).unwrap();
    assert_eq!(exchange(&new, b"new"), b"NEW");
    assert_eq!(exchange(&old, b"stays"), b"STAYS");
    let (refused, challenge) = connect(address);
    (&refused).write_all(&[&digest(&challenge)[..], &[0; 16]].concat()).unwrap();
    assert_eq!(rest(&refused).unwrap(), b"");
}

#[test]
fn a_drain_under_load_delivers_all_that_was_read() {
    let server = spawn();
    let address = server.addresses()[0];
    let (ready, started) = std::sync::mpsc::channel();
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let ready = ready.clone();
            thread::spawn(move || {
                let stream = authenticated(address);
                assert_eq!(exchange(&stream, b"x"), b"X");
                ready.send(()).unwrap();
                let data = pattern(4 << 20);
                thread::scope(|scope| {
                    // Fails once the server is gone.
                    scope.spawn(|| (&stream).write_all(&data).is_ok());
                    let answer = read_until_any_end(&stream);
                    assert!(data.to_ascii_uppercase().starts_with(&answer));
                    answer.len() as u64
                })
            })
        })
        .collect();
    for _ in 0..50 {
        started.recv().unwrap();
    }
    let stats = server.drain().unwrap();
    let received: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_balanced(&stats);
    assert_eq!(stats.closed(CloseReason::DrainTimeout), 0);
    assert_eq!(stats.bytes_undelivered, 0);
    // The clients did not count challenges and first exchanges.
    assert_eq!(received, stats.bytes_sent - 50 * (32 + 1));
    // Input that was read but not answered, because the stream had ended, is counted.
    let read = stats.bytes_received - 50 * 16;
    assert_eq!(read, stats.bytes_sent - 50 * 32 + stats.bytes_discarded);
}

/// A client that keeps sending after the server's end may see a reset.
fn read_until_any_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut piece = [0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..n]);
    }
    answer
}

#[test]
fn a_drain_ends_in_time_even_if_a_peer_does_not_read() {
    let server = spawn_with(|_, limits| limits.drain_timeout = Some(Duration::from_millis(50)));
    let deaf = authenticated(server.addresses()[0]);
    // If the loop was slower than `fill` waits, there is more to fill.
    loop {
        fill(&deaf);
        let stats = server.handle().stats().unwrap();
        if stats.authenticated == 1 && stats.bytes_received - 16 > stats.bytes_sent - 32 {
            break;
        }
    }
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed(CloseReason::DrainTimeout), 1);
    assert!(stats.bytes_undelivered > 0);
    assert_balanced(&stats);
}

#[test]
fn a_draining_server_accepts_no_connection() {
    let server = spawn();
    let address = server.addresses()[0];
    let idle = authenticated(address);
    assert_eq!(exchange(&idle, b"x"), b"X");
    let handle = server.handle().clone();
    handle.drain();
    assert_eq!(rest(&idle).unwrap(), b"", "an orderly end");
    assert_refused(address);
    drop(idle);
    assert_eq!(server.stop().unwrap().closed(CloseReason::Drained), 1);
    assert_eq!(handle.stats(), None, "the loop has ended");
}

#[test]
fn several_addresses_are_served_by_one_loop() {
    let server = Server::builder()
        .listen(any_port())
        .listen("[::1]:0")
        .listener(std::net::TcpListener::bind(any_port()).unwrap())
        .spawn()
        .unwrap();
    assert_eq!(server.addresses().len(), 3);
    for &address in server.addresses() {
        assert_eq!(exchange(&authenticated(address), b"here"), b"HERE", "{address}");
    }
}

#[test]
fn the_ipv4_and_ipv6_wildcards_share_a_port() {
    let every_ipv4 = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = every_ipv4.local_addr().unwrap().port();
    let server = Server::builder()
        .listener(every_ipv4)
        .listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .spawn()
        .unwrap();
    for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        assert_eq!(exchange(&authenticated((host, port).into()), b"x"), b"X", "{host}");
    }
    drop(server);
}

#[test]
fn a_server_that_cannot_be_built_says_why() {
    assert!(matches!(Server::builder().build().err(), Some(BuildError::NoAddress)));
    let taken = spawn();
    let address = taken.addresses()[0];
    let error = Server::builder().listen(address).build().err().unwrap();
    assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    let mut config = Config::new(Keyring::demo());
    config.recv_size = 0;
    let error = Server::builder().listen(any_port()).config(config).build().err().unwrap();
    assert_eq!(error.to_string(), "recv_size must be at least 1");
    let limits = Limits::for_connections(1_000_000_000);
    let error = Server::builder().listen(any_port()).limits(limits).build().err().unwrap();
    let BuildError::Descriptors { wanted: 1_000_000_000, limit, .. } = error else {
        panic!("{error}")
    };
    // Exactly as many as the limit.
    let most = limit - Limits::LEAST_RESERVED_DESCRIPTORS;
    for (connections, possible) in [(most - 1, true), (most, true), (most + 1, false)] {
        let limits = Limits::for_connections(connections);
        let built = Server::builder().listen(any_port()).limits(limits).build();
        assert_eq!(built.is_ok(), possible, "{connections} of {most}");
    }
}

#[test]
fn dropping_the_running_server_stops_the_loop() {
    let server = spawn();
    let handle = server.handle().clone();
    let stream = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&stream, b"x"), b"X");
    drop(server);
    assert_eq!(handle.stats(), None);
    assert_eq!(rest(&stream).unwrap(), b"");
}
