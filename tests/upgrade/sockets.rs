//! The sockets themselves: the very same ones go over, however many there are, with what waits in them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::client::{PATIENCE, authenticated, exchange, read_challenge};
use crate::common::needs::{PYTHON, STRACE};
use crate::service::{Service, wait_until};

/// The inode of each socket that listens at a port of 127.0.0.1.
fn listeners(port: u16) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let place = format!("{:08X}:{port:04X}", u32::from_ne_bytes([127, 0, 0, 1]));
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|row| row[1] == place && row[3] == "0A");
    let mut inodes: Vec<String> = listening.map(|row| row[9].to_owned()).collect();
    inodes.sort();
    inodes
}

#[test]
fn the_listeners_are_the_same_sockets_as_before() {
    let mut service = Service::start(&["--workers", "3"]);
    let port = service.address.port();
    let before = listeners(port);
    assert_eq!(before.len(), 3);
    for _ in 0..2 {
        service.upgrade();
        assert_eq!(listeners(port), before);
        for _ in 0..30 {
            assert_eq!(exchange(&authenticated(service.address), b"hello"), b"HELLO");
        }
    }
    service.finish();
}

/// Chunks of sockets are full at 240.
#[test]
fn every_number_of_sockets_around_the_size_of_a_chunk_goes_over() {
    let mut service = Service::start(&[]);
    for more in [0, 1, 238, 1, 1, 239, 1] {
        service.connect(more);
        let serves = service.upgrade();
        assert_eq!(serves["connections"], service.clients.len());
        service.check_clients();
    }
    assert_eq!(service.clients.len(), 481);
    service.finish();
}

#[test]
fn more_listeners_than_a_chunk_holds_go_over() {
    let places = ["-l", "[::1]:0"].repeat(250);
    let mut service = Service::start(&places);
    let line = service.running.said().lines().find(|line| line.contains("\"addresses\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let addresses = line["addresses"].as_array().unwrap();
    let addresses: Vec<String> =
        addresses.iter().map(|address| address.as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 251);
    service.upgrade();
    for address in addresses {
        assert_eq!(exchange(&authenticated(address.parse().unwrap()), b"hello"), b"HELLO");
    }
    service.finish();
}

/// Clients that come, and messages that arrive, while no process serves. No event tells of them later.
fn served_after_the_freeze(mut service: Service, freeze: impl FnOnce(&mut Service), taken: bool) {
    service.connect(100);
    freeze(&mut service);
    service.step("sent");
    let queued: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(service.address).unwrap()).collect();
    for client in &service.clients {
        (&*client).write_all(b"while frozen").unwrap();
    }
    // They say nothing more.
    for mut client in &service.clients {
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"WHILE FROZEN");
    }
    for client in &queued {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        read_challenge(client).unwrap();
    }
    match taken {
        true => drop(service.wait_for_successor()),
        false => drop(service.step("given up")),
    }
    service.check_clients();
    service.finish();
}

#[test]
fn what_came_during_the_freeze_is_served_by_the_new_process() {
    if STRACE.is_missing() {
        return;
    }
    let service = Service::start(&[]);
    // Its acknowledgement is late, so that the freeze lasts.
    let delay = "inject=sendmsg:delay_enter=500000:when=3";
    service.wrap_program(&format!("strace -D -o /dev/null -e trace=sendmsg -e {delay}"));
    let freeze = |service: &mut Service| service.signal(crate::common::program::Signal::USR2);
    served_after_the_freeze(service, freeze, true);
}

#[test]
fn what_came_during_the_freeze_is_served_by_the_old_process_if_it_goes_on() {
    if PYTHON.is_missing() {
        return;
    }
    let service = Service::start(&[]);
    service.pretend("hello prepared end hang");
    let freeze = |service: &mut Service| service.signal(crate::common::program::Signal::USR2);
    served_after_the_freeze(service, freeze, false);
}

/// epoll watches a socket until its last descriptor is closed: a process that registers what it got and
/// then gives up must leave no watch that keeps the old one awake.
#[test]
fn a_new_process_that_has_registered_all_and_gives_up_leaves_old_asleep() {
    if PYTHON.is_missing() {
        return;
    }
    let mut service = Service::start(&[]);
    service.connect(300);
    service.pretend("hello prepared watch end ack commit 1");
    service.ctl(&["upgrade"]).expect(1, &["given up: "]);
    service.check_clients();
    let pid = service.pid;
    wait_until("one process is left", || crate::service::children(pid).is_empty());
    let turns = |service: &Service| service.figure("saltecho_turns_total{worker=\"1\"}");
    let before = turns(&service);
    // A stale watch would wake it all the time: between two looks there are some thousand turns.
    for _ in 0..19 {
        turns(&service);
    }
    let after = turns(&service);
    assert!(after - before < 400, "{} turns for twenty questions", after - before);
    service.finish();
}
