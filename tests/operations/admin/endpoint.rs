//! The endpoint of a server in this process: its routes, its places, its reserve.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use saltecho::proto::CloseReason;
use saltecho::server::{AdminAddress, Limits, Running, Server};

use super::asking::{ask, ask_and_stay, tcp, unix};
use crate::common::client::{authenticated, connect, exchange, rest};
use crate::common::program::Files;
use crate::common::server::{any_port, wait_for};
use crate::http_world::Answer;
use serde_json::Value;

/// A server with so many places, and the address of its endpoint.
fn spawn(places: usize) -> (Running, SocketAddr) {
    let mut limits = Limits::for_connections(places);
    limits.unauthenticated = places;
    let admin = AdminAddress::Tcp(any_port());
    let server = Server::builder().listen(any_port()).limits(limits).admin(admin).spawn().unwrap();
    let Some(&AdminAddress::Tcp(address)) = server.admin_address() else { panic!("it has one") };
    (server, address)
}

#[test]
fn probes_are_answered_over_tcp_and_over_a_unix_socket() {
    let files = Files::new();
    let path = files.path().join("admin.sock");
    let at_path = AdminAddress::Unix(path.clone());
    let over_unix = Server::builder().listen(any_port()).admin(at_path).spawn().unwrap();
    let (over_tcp, address) = spawn(10);
    for (line, status, content) in [
        ("GET /livez", 200, "ok\n"),
        ("GET /readyz", 200, "ready\n"),
        ("HEAD /readyz", 200, ""),
        ("GET /connections", 200, ""),
        ("GET /drain", 405, "405 Method Not Allowed\n"),
    ] {
        for answer in [ask(tcp(address), line), ask(unix(&path), line)] {
            assert_eq!((answer.status, answer.text()), (status, content), "{line}");
        }
    }
    let version = ask(unix(&path), "GET /version");
    let version: serde_json::Value = serde_json::from_slice(&version.content).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["features"].as_array().unwrap().contains(&"cli".into()), "{version}");
    let answer = ask(tcp(address), "GET /nowhere");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("GET /livez"), "{}", answer.text());
    drop((over_unix, over_tcp));
    assert!(!path.exists(), "the socket's file goes with the server");
}

#[test]
fn it_answers_while_the_service_is_full() {
    let (server, address) = spawn(1);
    let only = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&only, b"x"), b"X");
    let waiting = TcpStream::connect(server.addresses()[0]).unwrap();
    wait_for(&server, "a pause of accepting", |stats| stats.accept_pauses > 0);
    assert_eq!(ask(tcp(address), "GET /livez").status, 200);
    let answer = ask(tcp(address), "GET /connections");
    assert_eq!(answer.text(), "{\"id\":1,\"state\":\"echoing\",\"unsent\":0}\n");
    drop(waiting);
}

#[test]
fn the_ninth_client_gets_the_place_of_the_one_that_was_idle_for_longest() {
    let (server, address) = spawn(10);
    let mut clients: Vec<TcpStream> = (0..8).map(|_| tcp(address)).collect();
    for client in &clients {
        assert!(ask_and_stay(client, "GET /livez").ends_with("ok\n"));
    }
    // The first becomes the one that asked last.
    ask_and_stay(&clients[0], "GET /livez");
    assert_eq!(ask(tcp(address), "GET /livez").status, 200);
    let mut byte = [0];
    assert_eq!(clients[1].read(&mut byte).unwrap(), 0, "the second was idle for longest");
    ask_and_stay(&clients[0], "GET /livez");
    drop(server);
}

#[test]
fn a_client_that_has_not_asked_keeps_its_place_for_a_second() {
    let (server, address) = spawn(10);
    let silent: Vec<TcpStream> = (0..8).map(|_| tcp(address)).collect();
    // It waits in the queue until the second is over, and is then answered.
    assert_eq!(ask(tcp(address), "GET /livez").status, 200);
    assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
    drop(server);
}

#[test]
fn a_connection_is_killed_by_its_number() {
    let (server, address) = spawn(10);
    let (_other, mut victim) =
        (connect(server.addresses()[0]), authenticated(server.addresses()[0]));
    assert_eq!(exchange(&victim, b"x"), b"X");
    let answer = ask(tcp(address), "POST /connections/2/kill");
    assert_eq!((answer.status, answer.text()), (200, "killed #2\n"));
    assert_eq!(victim.read(&mut [0]).unwrap(), 0);
    let answer = ask(tcp(address), "POST /connections/2/kill");
    assert_eq!(answer.status, 404);
    let _ = victim.write_all(b"x");
    let stats = server.stop().unwrap();
    assert_eq!(stats.closed(CloseReason::Killed), 1);
}

/// The connections in a list.
fn rows(answer: &Answer) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_list_has_a_row_for_each_connection_of_each_loop() {
    let admin = AdminAddress::Tcp(any_port());
    let builder = Server::builder().listen(any_port()).admin(admin).records(true);
    let server = builder.spawn_workers(3).unwrap();
    let Some(&AdminAddress::Tcp(address)) = server.admin_address() else { panic!("it has one") };
    // Message lengths tell the connections apart.
    let clients: Vec<TcpStream> = (1..=40)
        .map(|len| {
            let client = authenticated(server.addresses()[0]);
            assert_eq!(exchange(&client, &vec![b'x'; len]).len(), len);
            client
        })
        .collect();
    let list = rows(&ask(tcp(address), "GET /connections"));
    let mut lens: Vec<u64> = list.iter().map(|row| row["sent"].as_u64().unwrap() - 32).collect();
    lens.sort_unstable();
    assert_eq!(lens, (1..=40).collect::<Vec<u64>>());
    let mut peers: Vec<&str> = list.iter().map(|row| row["peer"].as_str().unwrap()).collect();
    peers.sort_unstable();
    let mut local: Vec<String> =
        clients.iter().map(|client| client.local_addr().unwrap().to_string()).collect();
    local.sort_unstable();
    assert_eq!(peers, local);
    let first = rows(&ask(tcp(address), "GET /connections?sort=sent&limit=3"));
    let lens: Vec<u64> = first.iter().map(|row| row["sent"].as_u64().unwrap() - 32).collect();
    assert_eq!(lens, [40, 39, 38], "sorted across all loops");
    let last = rows(&ask(tcp(address), "GET /connections?sort=-received&limit=2&state=echoing"));
    let lens: Vec<u64> = last.iter().map(|row| row["received"].as_u64().unwrap() - 16).collect();
    assert_eq!(lens, [1, 2]);
    assert_eq!(rows(&ask(tcp(address), "GET /connections?limit=7")).len(), 7);
    // The one that was sent most is on any of the loops.
    let line = format!("POST /connections/{}:{}/kill", first[0]["worker"], first[0]["id"]);
    assert_eq!(ask(tcp(address), &line).status, 200, "{line}");
    assert_eq!((&clients[39]).read(&mut [0]).unwrap(), 0);
    assert_eq!(ask(tcp(address), "POST /connections/1/kill").status, 400);
    assert_eq!(ask(tcp(address), "POST /connections/3:4000000000/kill").status, 404);
    drop(clients);
    let stats = server.drain().unwrap();
    assert_eq!((stats.accepted, stats.closed(CloseReason::Killed)), (40, 1));
}

#[test]
fn a_drain_is_seen_by_probes_while_connections_go_on() {
    let (server, address) = spawn(10);
    let client = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&client, b"x"), b"X");
    let probe = tcp(address);
    assert!(ask_and_stay(&probe, "GET /readyz").ends_with("ready\n"));
    assert!(ask_and_stay(&probe, "POST /drain").starts_with("HTTP/1.1 202 "));
    assert!(ask_and_stay(&probe, "GET /readyz").starts_with("HTTP/1.1 503 "));
    assert_eq!(ask(tcp(address), "GET /livez").status, 200, "it still listens");
    drop(client);
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed_in_all(), 1);
}

#[test]
fn a_drain_reaches_every_loop() {
    let admin = AdminAddress::Tcp(any_port());
    let server = Server::builder().listen(any_port()).admin(admin).spawn_workers(3).unwrap();
    let Some(&AdminAddress::Tcp(address)) = server.admin_address() else { panic!("it has one") };
    let clients: Vec<TcpStream> = (0..30).map(|_| authenticated(server.addresses()[0])).collect();
    for client in &clients {
        assert_eq!(exchange(client, b"x"), b"X");
    }
    assert_eq!(ask(tcp(address), "POST /drain").status, 202);
    for client in &clients {
        assert_eq!(rest(client).unwrap(), b"", "each is finished, whatever its loop");
    }
    drop(clients);
    let stats = server.drain().unwrap();
    assert_eq!((stats.loops, stats.closed(CloseReason::Drained)), (3, 30));
}
