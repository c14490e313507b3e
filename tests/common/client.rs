//! A client on std's blocking sockets, independent of the library that it checks.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, MacAlgorithm};
use socket2::{Domain, SockRef, Socket, Type};

/// The limit of every wait in a test; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Connects and reads the challenge.
pub fn connect(address: SocketAddr) -> (TcpStream, Challenge) {
    let stream = TcpStream::connect(address).expect("the server listens");
    (&stream).set_patience();
    let challenge = read_challenge(&stream).expect("the server speaks first");
    (stream, challenge)
}

pub fn read_challenge(mut stream: &TcpStream) -> io::Result<Challenge> {
    let mut challenge = [0; Challenge::LEN];
    stream.read_exact(&mut challenge)?;
    Ok(Challenge::new(challenge))
}

/// The right digest with the demo key.
pub fn digest(challenge: &Challenge) -> Vec<u8> {
    MacAlgorithm::Md5.digest(&Key::demo(), challenge).as_bytes().to_vec()
}

/// Connects and authenticates with the demo key.
pub fn authenticated(address: SocketAddr) -> TcpStream {
    let (mut stream, challenge) = connect(address);
    stream.write_all(&digest(&challenge)).unwrap();
    stream
}

/// Connects from this local address and reads the challenge.
pub fn connect_from(from: Ipv4Addr, address: SocketAddr) -> (TcpStream, Challenge) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&address.into()).expect("the server listens");
    let stream = TcpStream::from(socket);
    (&stream).set_patience();
    let challenge = read_challenge(&stream).expect("the server speaks first");
    (stream, challenge)
}

/// Connects from this address and authenticates with the demo key.
pub fn authenticated_from(from: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let (mut stream, challenge) = connect_from(from, address);
    stream.write_all(&digest(&challenge)).unwrap();
    stream
}

/// Sends a message and checks its answer; false if the connection is gone.
pub fn try_exchange(mut stream: &TcpStream, message: &[u8]) -> bool {
    let mut answer = vec![0; message.len()];
    let done = stream.write_all(message).and_then(|()| stream.read_exact(&mut answer));
    done.is_ok() && answer == message.to_ascii_uppercase()
}

/// Sends `message` and reads an answer of the same length.
pub fn exchange(mut stream: &TcpStream, message: &[u8]) -> Vec<u8> {
    stream.write_all(message).unwrap();
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// Reads to the end of the stream.
pub fn rest(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(rest)
}

pub fn finish_sending(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Sends `data` and ends the stream, while reading the answer to its end.
pub fn answer_to_all_of(mut stream: &TcpStream, data: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(move || {
            stream.write_all(data).unwrap();
            finish_sending(stream);
        });
        rest(stream).unwrap()
    })
}

/// Closes with a reset instead of an end of the stream.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Sends until neither kernel accepts another byte; returns the number of bytes sent.
///
/// It stops after 300 ms without progress, which outlasts delayed acknowledgements (40 ms) and the
/// first window probe (200 ms): both free a little room.
pub fn fill(mut stream: &TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let block = [b'x'; 64 << 10];
    let mut sent = 0;
    let blocked = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    };
    loop {
        match stream.write(&block) {
            Ok(n) => sent += n,
            Err(error) if blocked(&error) => break,
            Err(error) => panic!("while filling: {error}"),
        }
    }
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    sent
}

/// Bytes without a period, so that a shifted or repeated block shows.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(len).collect()
}

trait Patience {
    fn set_patience(&self);
}

impl Patience for &TcpStream {
    fn set_patience(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
        self.set_write_timeout(Some(PATIENCE)).unwrap();
    }
}
