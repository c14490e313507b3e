//! The client library: exchanges, and each kind of failure.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::common::client::{PATIENCE, pattern};
use crate::common::fake::{fake_server, fake_server_from_the_start};
use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::client::{Client, ClientError, Stage};
use saltecho::server::Server;
use saltecho::socket::{ErrorKind, MSG_PEEK, Shutdown};

/// A timeout that is meant to expire, but not in the handshake before it, even on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

fn connect_within(place: SocketAddr, timeout: Duration) -> Result<Client, ClientError> {
    Client::connect(place, &Key::demo(), MacAlgorithm::Md5, Some(timeout))
}

fn connect(place: &str, timeout: Duration) -> Result<Client, ClientError> {
    connect_within(place.parse().unwrap(), timeout)
}

#[test]
fn answers_of_any_length_come_back_with_either_mac() {
    for mac in [MacAlgorithm::Md5, MacAlgorithm::Sha256] {
        let keyring = Keyring::single(mac, &Key::demo());
        let server = Server::builder().listen("127.0.0.1:0").keyring(keyring);
        let server = server.spawn().unwrap();
        let place = server.addresses()[0];
        let mut client = Client::connect(place, &Key::demo(), mac, Some(PATIENCE)).unwrap();
        client.wait_for_refusal(Duration::ZERO).unwrap();
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
fn connecting_to_a_closed_port_is_refused() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    match connect_within(free, PATIENCE) {
        Err(ClientError::Connect(cause)) => {
            assert_eq!(cause.kind(), ErrorKind::ConnectionRefusedError);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_challenge_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let outcome = connect_within(silent.local_addr().unwrap(), SHORT);
    assert!(matches!(outcome, Err(ClientError::TimedOut(Stage::AwaitingChallenge))));
    let place = fake_server_from_the_start(drop);
    let outcome = connect(&place, PATIENCE);
    assert!(matches!(outcome, Err(ClientError::Closed(Stage::AwaitingChallenge))));
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
                // Until the client closes.
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
fn a_drain_before_any_message_is_not_a_refusal() {
    let server = Server::builder().listen("127.0.0.1:0").spawn().unwrap();
    let client = connect_within(server.addresses()[0], PATIENCE).unwrap();
    // Within two round trips the cause would more likely be a refusal.
    std::thread::sleep(2 * client.round_trip() + Duration::from_millis(20));
    let draining = std::thread::spawn(|| server.drain());
    let outcome = client.wait_for_refusal(PATIENCE);
    assert!(matches!(outcome, Err(ClientError::Closed(Stage::Exchanging))), "{outcome:?}");
    drop(client);
    draining.join().unwrap().unwrap();
}

#[test]
fn a_late_refusal_is_still_a_refusal() {
    let place = fake_server(|stream| {
        std::thread::sleep(SHORT);
        drop(stream);
    });
    let client = connect(&place, PATIENCE).unwrap();
    assert!(matches!(client.wait_for_refusal(PATIENCE), Err(ClientError::Refused)));
}

#[test]
fn a_refusal_is_reported_by_the_first_call() {
    let server = Server::builder().listen("127.0.0.1:0").spawn().unwrap();
    let place = server.addresses()[0];
    let wrong = Key::new(&b"not the key that the server has"[..]);
    let client = || Client::connect(place, &wrong, MacAlgorithm::Md5, Some(PATIENCE)).unwrap();
    assert!(matches!(client().wait_for_refusal(PATIENCE), Err(ClientError::Refused)));
    let mut answer = Vec::new();
    assert!(matches!(client().exchange(b"hello", &mut answer), Err(ClientError::Refused)));
    assert!(answer.is_empty());
    server.stop().unwrap();
}

#[test]
fn a_partial_answer_is_returned() {
    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HEL").unwrap();
        // Until the client is dropped.
        let _ = stream.read(&mut [0]);
    });
    let mut answer = b"so far: ".to_vec();
    let outcome = connect(&place, SHORT).unwrap().exchange(b"hello", &mut answer);
    assert!(matches!(outcome, Err(ClientError::TimedOut(Stage::Exchanging))));
    assert_eq!(answer, b"so far: HEL");

    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HEL").unwrap();
    });
    let outcome = connect(&place, PATIENCE).unwrap().exchange(b"hello", &mut Vec::new());
    assert!(matches!(outcome, Err(ClientError::Closed(Stage::Exchanging))));
}

#[test]
fn checking_for_a_refusal_reads_no_byte_and_changes_no_timeout() {
    let place = fake_server(|mut stream| stream.write_all(b"unasked").unwrap());
    let client = connect(&place, PATIENCE).unwrap();
    client.wait_for_refusal(PATIENCE).unwrap();
    assert_eq!(client.socket().timeout(), saltecho::python::Timeout::After(PATIENCE));
    assert_eq!(client.socket().recv(100).unwrap(), b"unasked");
}

/// A server that answers with more bytes than it received, or sends unrequested bytes.
#[test]
fn a_wrong_echo_is_an_error() {
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
    assert!(matches!(outcome, Err(ClientError::NotAnEcho)), "{outcome:?}");
    assert!(answer.len() > 5 && b"HELLO, and more".starts_with(&answer), "{answer:?}");

    // Later bytes are found before the next message is sent.
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
    assert_eq!(client.socket().recv_with_flags(1, MSG_PEEK).unwrap(), b"a");
    let outcome = client.exchange(b"again", &mut answer);
    assert!(matches!(outcome, Err(ClientError::NotAnEcho)), "{outcome:?}");
    assert_eq!(answer, b"HELLO");
}

#[test]
fn other_services_can_be_used_piece_by_piece() {
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
