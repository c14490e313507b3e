//! A server without free descriptors. A process of its own, because it lowers the limit of its
//! process.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::client::{digest, read_challenge, rest};
use rlimit::Resource;
use saltecho::server::{Limits, Server};

/// Descriptors left for the server's side of connections.
const LEFT: u64 = 5;

#[test]
fn a_server_without_descriptors_neither_spins_nor_stalls() {
    let mut limits = Limits::for_connections(100);
    limits.accept_retry = Duration::from_millis(20);
    limits.shed_per_retry = 2;
    let mut server = Server::builder().listen("127.0.0.1:0").limits(limits).build().unwrap();
    let address = server.addresses().unwrap()[0];
    let mut clients: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (_, hard) = Resource::NOFILE.get().unwrap();
    let next = u64::try_from(File::open("/dev/null").unwrap().as_raw_fd()).unwrap();
    Resource::NOFILE.set(next + LEFT, hard).unwrap();

    while server.stats().accept_pauses == 0 {
        server.turn().unwrap();
    }
    assert_eq!(server.stats().accepted, LEFT);

    // From here on each turn is a pause of 20 ms; spinning would take thousands.
    let before = server.stats().turns;
    while server.stats().shed < 4 {
        server.turn().unwrap();
    }
    let turns = server.stats().turns - before;
    assert!(turns <= 2 * 4, "{turns} turns to turn four clients away");

    // Accepted connections are served meanwhile.
    let mut served: Vec<TcpStream> = clients.drain(..usize::try_from(LEFT).unwrap()).collect();
    for client in &mut served {
        let challenge = read_challenge(client).unwrap();
        client.write_all(&[&digest(&challenge)[..], b"hi"].concat()).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut answer = [0; 2];
        loop {
            server.turn().unwrap();
            match client.read(&mut answer) {
                Ok(n) => break assert_eq!(&answer[..n], b"HI"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    // A freed descriptor goes to a client that has waited since the start: its only event came when
    // there was none.
    let turned_away = usize::try_from(server.stats().shed).unwrap();
    for client in clients.drain(..turned_away) {
        assert_eq!(rest(&client).unwrap(), b"");
    }
    drop(served.pop());
    while server.stats().accepted == LEFT {
        server.turn().unwrap();
    }
    let turned_away = usize::try_from(server.stats().shed).unwrap() - turned_away;
    assert!(read_challenge(&clients[turned_away]).is_ok());
}
