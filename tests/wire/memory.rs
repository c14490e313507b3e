//! Memory of a connection: none for an echo, and none that outlives its use.

use saltecho::auth::Challenge;
use saltecho::proto::{Connection, Identity, State, Upper};
use saltecho::python::Monotonic;

use crate::peer::{CHALLENGE, Peer, at, config, digest};

#[test]
fn an_echo_is_sent_from_its_receive_buffer_without_allocating() {
    let mut peer = Peer::authenticated(config(), Upper);
    let mut identity = Peer::authenticated(config(), Identity);
    let mut data = vec![b'x'; 16 << 10];
    let buffer = data.as_ptr();
    let measured = allocation_counter::measure(|| {
        for _ in 0..100 {
            let reply = peer.connection.handle_recv(&peer.config, &mut data, at(0));
            assert_eq!(reply.bytes().as_ptr(), buffer);
            reply.sent(16 << 10);
            let reply = identity.connection.handle_recv(&identity.config, &mut data, at(0));
            assert_eq!(reply.bytes().as_ptr(), buffer);
            reply.sent(16 << 10);
        }
    });
    assert_eq!(measured.count_total, 0);
}

#[test]
fn memory_for_authentication_is_freed_afterwards() {
    let config = config();
    let (mut digest, challenge) = (digest(), Challenge::new(CHALLENGE));
    let mut connection = None;
    let measured = allocation_counter::measure(|| {
        let mut fresh = Connection::new(&config, challenge.clone(), Upper, Monotonic::ZERO);
        fresh.handle_sent(&config, 32, Monotonic::ZERO);
        drop(fresh.handle_recv(&config, &mut digest, Monotonic::ZERO));
        connection = Some(fresh);
    });
    assert_eq!(connection.unwrap().state(), State::Echoing);
    assert_eq!((measured.count_total, measured.bytes_current), (1, 0));
    assert!(measured.bytes_max <= 128, "{} bytes before authentication", measured.bytes_max);
}

#[test]
fn a_backlog_holds_only_the_unsent_rest_and_is_freed_with_it() {
    let mut peer = Peer::authenticated(config(), Upper);
    let mut data = vec![b'x'; 16 << 10];
    let connection = &mut peer.connection;
    let measured = allocation_counter::measure(|| {
        connection.handle_recv(&peer.config, &mut data, at(0)).sent(10 << 10);
    });
    assert!((6 << 10..7 << 10).contains(&measured.bytes_current), "{}", measured.bytes_current);
    let measured = allocation_counter::measure(|| {
        connection.handle_sent(&peer.config, 6 << 10, at(0));
    });
    assert!(measured.bytes_current <= -(6 << 10), "{}", measured.bytes_current);
}
