//! The client as a library: what it exchanges, and each way in which it fails.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and not their helpers.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use common::client::{PATIENCE, pattern};
use common::fake::{fake_server, fake_server_from_the_start};
use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::client::{Client, ClientError, Step};
use saltecho::server::Server;
use saltecho::socket::{ErrorKind, Shutdown};

/// A time-out that expires, after a handshake that must not: long enough for that on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

fn connect_within(place: SocketAddr, timeout: Duration) -> Result<Client, ClientError> {
    Client::connect(place, &Key::demo(), MacAlgorithm::Md5, Some(timeout))
}

fn connect(place: &str, timeout: Duration) -> Result<Client, ClientError> {
    connect_within(place.parse().unwrap(), timeout)
}

#[test]
fn answers_of_any_length_come_back_under_either_mac() {
    for mac in [MacAlgorithm::Md5, MacAlgorithm::Sha256] {
        let keyring = Keyring::single(mac, &Key::demo());
        let server = Server::builder().listen("127.0.0.1:0").keyring(keyring);
        let server = server.spawn().unwrap();
        let place = server.addresses()[0];
        let mut client = Client::connect(place, &Key::demo(), mac, Some(PATIENCE)).unwrap();
        client.look_for_refusal(Duration::ZERO).unwrap();
        for len in [0, 1, 16 << 10, (16 << 10) + 1, 10 << 20] {
            let (data, mut answer) = (pattern(len), Vec::new());
            client.exchange(&data, &mut answer).unwrap();
            assert!(answer == data.to_ascii_uppercase(), "{} of {len} bytes", answer.len());
        }
        let socket = client.into_socket();
        socket.sendall(b"streamed").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        while let Some(part) = Some(socket.recv(3).unwrap()).filter(|part| !part.is_empty()) {
            answer.extend(part);
        }
        assert_eq!(answer, b"STREAMED");
        server.stop().unwrap();
    }
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    match connect_within(free, PATIENCE) {
        Err(ClientError::Connect(cause)) => {
            assert_eq!(cause.kind(), ErrorKind::ConnectionRefusedError);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_challenge_comes() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let outcome = connect_within(silent.local_addr().unwrap(), SHORT);
    assert!(matches!(outcome, Err(ClientError::TimedOut(Step::AwaitingChallenge))));
    let place = fake_server_from_the_start(drop);
    let outcome = connect(&place, PATIENCE);
    assert!(matches!(outcome, Err(ClientError::Closed(Step::AwaitingChallenge))));
}

#[test]
fn another_services_greeting_is_not_a_challenge() {
    let long = b"220 mail.example.org ESMTP, which is longer than 32 bytes\r\n";
    for (greeting, stays, timeout) in [
        (&long[..], true, PATIENCE),
        (b"SSH-2.0-short\r\n", true, SHORT),
        (b"SSH-2.0-short\r\n", false, PATIENCE),
        (&[7; 33], true, PATIENCE),
        (&[7; 31], false, PATIENCE),
    ] {
        let place = fake_server_from_the_start(move |mut stream| {
            stream.write_all(greeting).unwrap();
            if stays {
                // Until the client has seen enough.
                let _ = stream.read(&mut [0]);
            }
        });
        match connect(&place, timeout) {
            Err(ClientError::NotAChallenge(seen)) => assert_eq!(seen, greeting),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_drain_is_no_refusal_even_if_nothing_was_said() {
    let server = Server::builder().listen("127.0.0.1:0").spawn().unwrap();
    let client = connect_within(server.addresses()[0], PATIENCE).unwrap();
    // Within two round trips a refusal would be more likely.
    std::thread::sleep(2 * client.round_trip() + Duration::from_millis(20));
    let draining = std::thread::spawn(|| server.drain());
    let outcome = client.look_for_refusal(PATIENCE);
    assert!(matches!(outcome, Err(ClientError::Closed(Step::Exchanging))), "{outcome:?}");
    drop(client);
    draining.join().unwrap().unwrap();
}

#[test]
fn a_late_refusal_is_one_all_the_same() {
    let place = fake_server(|stream| {
        std::thread::sleep(SHORT);
        drop(stream);
    });
    let client = connect(&place, PATIENCE).unwrap();
    assert!(matches!(client.look_for_refusal(PATIENCE), Err(ClientError::Refused)));
}

#[test]
fn a_refusal_shows_with_whatever_comes_first() {
    let server = Server::builder().listen("127.0.0.1:0").spawn().unwrap();
    let place = server.addresses()[0];
    let wrong = Key::new(&b"not the key that the server has"[..]);
    let client = || Client::connect(place, &wrong, MacAlgorithm::Md5, Some(PATIENCE)).unwrap();
    assert!(matches!(client().look_for_refusal(PATIENCE), Err(ClientError::Refused)));
    let mut answer = Vec::new();
    assert!(matches!(client().exchange(b"hello", &mut answer), Err(ClientError::Refused)));
    assert!(answer.is_empty());
    server.stop().unwrap();
}

#[test]
fn a_part_of_an_answer_is_handed_over() {
    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HEL").unwrap();
        // Until the client is dropped.
        let _ = stream.read(&mut [0]);
    });
    let mut answer = b"so far: ".to_vec();
    let outcome = connect(&place, SHORT).unwrap().exchange(b"hello", &mut answer);
    assert!(matches!(outcome, Err(ClientError::TimedOut(Step::Exchanging))));
    assert_eq!(answer, b"so far: HEL");

    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HEL").unwrap();
    });
    let outcome = connect(&place, PATIENCE).unwrap().exchange(b"hello", &mut Vec::new());
    assert!(matches!(outcome, Err(ClientError::Closed(Step::Exchanging))));
}

#[test]
fn looking_for_a_refusal_takes_nothing_and_changes_no_timeout() {
    let place = fake_server(|mut stream| stream.write_all(b"unasked").unwrap());
    let client = connect(&place, PATIENCE).unwrap();
    client.look_for_refusal(PATIENCE).unwrap();
    assert_eq!(client.socket().timeout(), saltecho::python::Timeout::After(PATIENCE));
    assert_eq!(client.socket().recv(100).unwrap(), b"unasked");
}

/// Answers with more bytes than came, and at other times with what nobody asked for.
#[test]
fn what_is_no_echo_is_not_taken_for_one() {
    let answers = |text: &'static [u8]| {
        let place = fake_server(move |mut stream| {
            stream.read_exact(&mut [0; 5]).unwrap();
            stream.write_all(text).unwrap();
            // Until the client is dropped.
            let _ = stream.read(&mut [0]);
        });
        connect(&place, PATIENCE).unwrap()
    };
    let mut answer = Vec::new();
    let outcome = answers(b"HELLO, and more").exchange(b"hello", &mut answer);
    assert!(matches!(outcome, Err(ClientError::NoEcho)), "{outcome:?}");
    assert!(answer.len() > 5 && b"HELLO, and more".starts_with(&answer), "{answer:?}");

    // What follows later is found before the next message is sent.
    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HELLO").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        stream.write_all(b"and more").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let (mut client, mut answer) = (connect(&place, PATIENCE).unwrap(), Vec::new());
    client.exchange(b"hello", &mut answer).unwrap();
    client.send(b"?").unwrap();
    client.look_for_refusal(PATIENCE).unwrap();
    let outcome = client.exchange(b"again", &mut answer);
    assert!(matches!(outcome, Err(ClientError::NoEcho)), "{outcome:?}");
    assert_eq!(answer, b"HELLO");
}

#[test]
fn other_services_are_talked_to_piece_by_piece() {
    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"an answer of its own length\n").unwrap();
    });
    let mut client = connect(&place, PATIENCE).unwrap();
    client.send(b"hello").unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 7]);
    loop {
        match client.recv(&mut buffer).unwrap() {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    assert_eq!(answer, b"an answer of its own length\n");
    let place = fake_server(|mut stream| stream.read_exact(&mut [0; 5]).unwrap());
    let mut client = connect(&place, PATIENCE).unwrap();
    client.send(b"hello").unwrap();
    assert!(matches!(client.recv(&mut buffer), Err(ClientError::Refused)));
}
