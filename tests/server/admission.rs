//! Admission over real sockets: which clients are admitted, wait, or are evicted.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::common::client::*;
use crate::common::program::{Serving, run};
use crate::common::server::*;
use saltecho::proto::CloseReason;
use saltecho::server::{Limits, Server};
use socket2::{Domain, Socket, Type};

#[test]
fn clients_beyond_the_limit_wait() {
    let server = spawn_with(|_, limits| {
        limits.connections = 2;
        limits.shed_per_retry = 0;
    });
    let address = server.addresses()[0];
    let (first, second) = (authenticated(address), authenticated(address));
    let waiting = TcpStream::connect(address).unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    wait_for(&server, "a pause", |stats| stats.accept_pauses > 0);
    assert_eq!(exchange(&first, b"in"), b"IN");
    drop(second);
    let challenge = read_challenge(&waiting).expect("a place came free");
    (&waiting).write_all(&digest(&challenge)).unwrap();
    assert_eq!(exchange(&waiting, b"me too"), b"ME TOO");
    assert_eq!(server.stop().unwrap().peak_connections, 2);
}

#[test]
fn a_client_beyond_the_limit_is_closed_after_a_while() {
    let server = spawn_with(|_, limits| {
        limits.connections = 1;
        limits.accept_retry = Duration::from_millis(10);
    });
    let address = server.addresses()[0];
    let served = authenticated(address);
    let turned_away = TcpStream::connect(address).unwrap();
    turned_away.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(rest(&turned_away).unwrap(), b"", "closed instead of kept waiting");
    assert_eq!(exchange(&served, b"still here"), b"STILL HERE");
    assert_eq!(server.stop().unwrap().shed, 1);
}

#[test]
fn the_oldest_unauthenticated_connection_is_evicted() {
    let server = spawn_with(|_, limits| {
        limits.unauthenticated = 2;
        limits.eviction_age = Duration::ZERO;
    });
    let address = server.addresses()[0];
    let known = authenticated(address);
    assert_eq!(exchange(&known, b"x"), b"X");
    let (oldest, _) = connect(address);
    let (younger, challenge) = connect(address);
    let (youngest, _) = connect(address);
    assert_eq!(rest(&oldest).unwrap(), b"", "evicted");
    (&younger).write_all(&digest(&challenge)).unwrap();
    assert_eq!(exchange(&younger, b"y"), b"Y");
    assert_eq!(exchange(&known, b"z"), b"Z", "an authenticated client is never evicted");
    drop(youngest);
    let stats = server.stop().unwrap();
    assert_eq!(stats.closed(CloseReason::Evicted), 1);
}

/// Connects from another local address.
fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn only_a_source_beyond_its_share_is_refused() {
    let server = spawn_with(|_, limits| {
        limits.unauthenticated = 8;
        limits.unauthenticated_per_source = Some(5);
        limits.trust_loopback = false;
    });
    let address = server.addresses()[0];
    let silent: Vec<TcpStream> = (0..5).map(|_| connect_from([127, 0, 0, 2], address)).collect();
    for stream in &silent {
        read_challenge(stream).unwrap();
    }
    assert_eq!(rest(&connect_from([127, 0, 0, 2], address)).unwrap(), b"", "refused");
    let mut other = connect_from([127, 0, 0, 3], address);
    let challenge = read_challenge(&other).expect("another source");
    other.write_all(&digest(&challenge)).unwrap();
    assert_eq!(exchange(&other, b"x"), b"X");
    // A freed place can be taken again.
    drop(silent);
    wait_for(&server, "the end of the silent", |stats| stats.unauthenticated == 0);
    read_challenge(&connect_from([127, 0, 0, 2], address)).expect("the share is free again");
    let stats = server.stop().unwrap();
    assert_eq!((stats.refused_over_share, stats.refused_suspects), (1, 0));
    assert_balanced(&stats);
}

#[test]
fn a_source_that_failed_is_refused_only_when_half_the_places_are_taken() {
    let server = spawn_with(|_, limits| {
        limits.unauthenticated = 4;
        limits.trust_loopback = false;
    });
    let address = server.addresses()[0];
    let failing = || connect_from([127, 0, 0, 2], address);
    let wrong = failing();
    read_challenge(&wrong).unwrap();
    (&wrong).write_all(&[0; 16]).unwrap();
    assert_eq!(rest(&wrong).unwrap(), b"");
    let again = failing();
    read_challenge(&again).expect("most places are free");
    let silent = connect_from([127, 0, 0, 3], address);
    read_challenge(&silent).unwrap();
    assert_eq!(rest(&failing()).unwrap(), b"", "half of the places are taken");
    read_challenge(&connect_from([127, 0, 0, 4], address)).expect("a source without a fault");
    let stats = server.stop().unwrap();
    assert_eq!((stats.refused_over_share, stats.refused_suspects), (0, 1));
}

#[test]
fn a_client_waits_until_the_oldest_may_be_evicted() {
    // An age counts from the beginning of the turn that accepts, which may be earlier than the client.
    let begin = Instant::now();
    let server = spawn_with(|_, limits| {
        limits.unauthenticated = 2;
        limits.eviction_age = Duration::from_millis(300);
    });
    let address = server.addresses()[0];
    let (oldest, younger) = (connect(address).0, connect(address).0);
    let (newcomer, _) = connect(address);
    assert!(begin.elapsed() >= Duration::from_millis(300), "the oldest had less than its time");
    assert_eq!(rest(&oldest).unwrap(), b"");
    drop((younger, newcomer));
    let stats = server.stop().unwrap();
    assert_eq!((stats.shed, stats.closed(CloseReason::Evicted)), (0, 1), "no client is shed");
}

#[test]
fn a_trusted_network_is_exempt_from_refusal_but_not_from_the_limit() {
    let (mut limits, trusted) = (Limits::for_connections(1000), "127.0.0.0/30".parse().unwrap());
    limits.unauthenticated = 8;
    limits.unauthenticated_per_source = Some(1);
    limits.trust_loopback = false;
    limits.eviction_age = Duration::ZERO;
    let builder = Server::builder().listen(any_port()).limits(limits).trust([trusted]);
    let server = builder.spawn().unwrap();
    let address = server.addresses()[0];
    let crowd: Vec<TcpStream> = (0..9).map(|_| connect_from([127, 0, 0, 2], address)).collect();
    for stream in &crowd {
        read_challenge(stream).expect("all of them, though their share is one");
    }
    assert_eq!(rest(&crowd[0]).unwrap(), b"", "the oldest made room for the ninth");
    let other = [127, 0, 0, 5];
    read_challenge(&connect_from(other, address)).expect("its share is one place");
    let stats = server.stop().unwrap();
    assert_eq!((stats.refused_over_share, stats.refused_suspects), (0, 0));
    assert_eq!(stats.closed(CloseReason::Evicted), 2);
}

/// The number of challenges for eight silent clients of one address.
fn let_in(flags: &[&str]) -> usize {
    let usual = ["--max-connections", "100", "--max-unauthenticated", "8", "--distrust-loopback"];
    let mut server = Serving::start(&[&usual, flags].concat());
    let crowd: Vec<_> = (0..8).map(|_| connect_from([127, 0, 0, 2], server.address)).collect();
    let let_in = crowd.iter().filter(|stream| read_challenge(stream).is_ok()).count();
    let refused = format!("refused over share {}", 8 - let_in);
    let said = server.counters();
    assert_eq!(said.contains(&refused), let_in < 8, "{said}");
    let_in
}

#[test]
fn the_program_has_a_flag_for_each_rule() {
    assert_eq!(let_in(&[]), 4, "half of the places are for everyone, and an eighth is one");
    assert_eq!(let_in(&["--max-unauthenticated-per-source", "6"]), 6);
    assert_eq!(let_in(&["--max-unauthenticated-per-source", "off"]), 8);
    assert_eq!(let_in(&["--trust", "10.0.0.0/8,127.0.0.2"]), 8);
    let server = Serving::start(&["--trust", "10.0.0.0/8", "--trust", "192.0.2.1"]);
    let trusted = "; trust 10.0.0.0/8, 192.0.2.1/32";
    assert!(server.start_line.ends_with(trusted), "{}", server.start_line);
}

#[test]
fn the_program_names_invalid_rules() {
    for (flags, words) in [
        (
            ["--max-unauthenticated", "11"],
            "--max-unauthenticated 11 exceeds the maximum of 10 connections",
        ),
        (["--max-unauthenticated", "0"], "--max-unauthenticated"),
        (["--max-unauthenticated-per-source", "0"], "a number from 1 up, or `off`"),
        (["--suspicion", "5"], "a number with a unit"),
        (["--trust", "10.1.2.3/8"], "write 10.0.0.0/8, or the address alone"),
        (["--trust", "balancer"], "an IP address or a network"),
    ] {
        let flags = [&["serve", "-l", "127.0.0.1:0", "--max-connections", "10"], &flags[..]];
        run(&flags.concat(), b"").expect(2, &[words]);
    }
    let shared = ["--max-connections", "10", "--max-unauthenticated", "3", "--workers", "4"];
    run(&[&["serve", "-l", "127.0.0.1:0"], &shared[..]].concat(), b"")
        .expect(2, &["--max-unauthenticated must be at least the number of --workers"]);
}
