//! Records of connections and counters of keys, over real sockets.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};

use crate::common::client::*;
use crate::common::server::{any_port, wait_for};
use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::proto::CloseReason;
use saltecho::server::{Note, Record, RingKey, Server};

/// Sends the record of each connection that ends.
fn ends(to: Sender<Option<Record>>) -> impl FnMut(&Note, Option<&Record>) + Send {
    move |note, record| {
        if let Note::Closed(..) = note {
            to.send(record.cloned()).unwrap();
        }
    }
}

#[test]
fn a_record_tells_what_a_connection_did() {
    let (to, records) = channel();
    let builder = Server::builder().listen(any_port()).listen("127.0.0.2:0").records(true);
    let server = builder.observer(ends(to)).spawn().unwrap();
    let client = authenticated(server.addresses()[1]);
    assert_eq!(exchange(&client, b"hello"), b"HELLO");
    let peer = client.local_addr().unwrap();
    drop(client);
    let record = records.recv_timeout(PATIENCE).unwrap().expect("records are kept");
    assert_eq!((record.peer, record.listener), (Some(peer), 1));
    assert_eq!(record.key, Some(Keyring::demo().names()[0]));
    assert_eq!((record.bytes_received, record.bytes_sent), (16 + 5, 32 + 5));
    assert!(record.idle <= record.age, "{record:?}");
    server.stop().unwrap();
}

#[test]
fn with_each_note_of_a_connection_comes_its_record_as_it_stands() {
    let (to, heard) = channel();
    let builder = Server::builder().listen(any_port()).records(true);
    let server = builder.observer(move |note, record| {
        let record = record.expect("records are kept");
        to.send((note.clone(), record.key, record.bytes_received)).unwrap();
    });
    let server = server.spawn().unwrap();
    let client = authenticated(server.addresses()[0]);
    let peer = client.local_addr().unwrap();
    drop(client);
    let next = || heard.recv_timeout(PATIENCE).unwrap();
    let (opened, key, received) = next();
    let Note::Opened(id, from) = opened else { panic!("{opened:?}") };
    assert_eq!((from, key, received), (Some(peer), None, 0));
    let demo = Keyring::demo().names()[0];
    let used = RingKey { position: 0, name: Some(demo) };
    assert_eq!(next(), (Note::Authenticated(id, Some(used)), Some(demo), 16));
    assert_eq!(next(), (Note::Closed(id, CloseReason::PeerFinished), Some(demo), 16));
    server.stop().unwrap();
}

#[test]
fn records_may_be_switched_on_for_connections_to_come() {
    let (to, records) = channel();
    let builder = Server::builder().listen(any_port()).observer(ends(to));
    let server = builder.spawn().unwrap();
    let early = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&early, b"a"), b"A");
    server.handle().keep_records(true);
    server.handle().stats().expect("it has taken the command");
    let late = authenticated(server.addresses()[0]);
    assert_eq!(exchange(&late, b"b"), b"B");
    for (client, sent) in [(early, None), (late, Some(33))] {
        drop(client);
        let record = records.recv_timeout(PATIENCE).unwrap();
        assert_eq!(record.map(|record| record.bytes_sent), sent);
    }
    server.stop().unwrap();
}

/// Connects and answers the challenge with this key.
fn with_key(server: SocketAddr, key: &Key) -> TcpStream {
    let (mut stream, challenge) = connect(server);
    stream.write_all(MacAlgorithm::Md5.digest(key, &challenge).as_bytes()).unwrap();
    stream
}

#[test]
fn each_key_has_a_counter_that_survives_its_removal() {
    let [old, new] = [[1; 16], [2; 16]].map(Key::new);
    let ring = |keys: &[Key]| Keyring::new(MacAlgorithm::Md5, keys).unwrap();
    let names = ring(&[old.clone(), new.clone()]).names().to_vec();
    let builder = Server::builder().listen(any_port()).keyring(ring(std::slice::from_ref(&old)));
    let server = builder.spawn_workers(2).unwrap();
    let mut clients = Vec::new();
    for (keys, used) in [
        (vec![old.clone()], vec![&old, &old]),
        (vec![new.clone(), old.clone()], vec![&new, &old]),
        (vec![new.clone()], vec![&new, &new]),
    ] {
        server.handle().replace_keyring(ring(&keys));
        server.handle().stats().expect("it has taken the command");
        for key in used {
            let client = with_key(server.addresses()[0], key);
            assert_eq!(exchange(&client, b"x"), b"X");
            clients.push(client);
        }
    }
    let stats = wait_for(&server, "all", |stats| stats.authenticated == 6);
    let mut counters = stats.authenticated_by_key().to_vec();
    counters.sort_by_key(|(name, _)| names.iter().position(|known| known == name));
    assert_eq!(counters, [(names[0], 3), (names[1], 3)]);
    drop(clients);
    server.stop().unwrap();
}
