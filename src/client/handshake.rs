//! A client's part of the handshakes, each under one deadline.

use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use super::error::classify;
use super::{ClientError, Stage, set_timeout};
use crate::auth::{Challenge, Keyring};
use crate::proto::{HandshakeError, MutualHandshake, Protocol, Role};
use crate::socket::Socket;

/// Longest greeting of another service kept for the error message, in bytes.
const GREETING: usize = 512;

/// Waits for the whole challenge under one deadline, which no byte extends.
///
/// A server sends nothing behind the challenge until it has the digest, so a 33rd byte belongs to
/// another service.
pub(super) fn read_challenge(
    socket: &Socket,
    timeout: Option<Duration>,
) -> Result<Challenge, ClientError> {
    let start = Instant::now();
    let mut greeting = Vec::new();
    let mut bytes = [0; GREETING];
    // A partial greeting says more about the server than the error after it.
    let failed = |greeting: &[u8], error: ClientError| match error {
        ClientError::TimedOut(_) | ClientError::Closed(_) if !greeting.is_empty() => {
            ClientError::NotAChallenge(greeting.to_vec())
        }
        error => error,
    };
    while greeting.len() < Challenge::LEN {
        match recv_before(socket, timeout, start, &mut bytes) {
            Ok(n) => greeting.extend_from_slice(&bytes[..n]),
            Err(error) => return Err(failed(&greeting, error)),
        }
    }
    let challenge = greeting.try_into().map_err(ClientError::NotAChallenge)?;
    set_timeout(socket, timeout).map_err(ClientError::Socket)?;
    Ok(Challenge::new(challenge))
}

/// Receives a part of a handshake that began at `start`, within what is left of its timeout.
fn recv_before(
    socket: &Socket,
    timeout: Option<Duration>,
    start: Instant,
    bytes: &mut [u8],
) -> Result<usize, ClientError> {
    let stage = Stage::AwaitingChallenge;
    if let Some(timeout) = timeout {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(ClientError::TimedOut(stage));
        }
        set_timeout(socket, Some(left)).map_err(ClientError::Socket)?;
    }
    match socket.recv_into(bytes) {
        Ok(0) => Err(ClientError::Closed(stage)),
        Ok(n) => Ok(n),
        Err(error) => Err(classify(error, stage)),
    }
}

/// Goes through the mutual handshake under one deadline, which no byte extends.
pub(super) fn authenticate_each_other(
    socket: &Socket,
    keys: &Keyring,
    timeout: Option<Duration>,
) -> Result<(), ClientError> {
    let mut random = [0; Protocol::MAX_RANDOM];
    // At most 256 bytes come whole (getrandom(2)).
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|error| ClientError::Socket(error.into()))?;
    let mut handshake = MutualHandshake::new(Role::Client, keys, random);
    let (mut greeting, mut bytes, start) = (Vec::new(), [0; GREETING], Instant::now());
    loop {
        if !handshake.unsent().is_empty() {
            socket
                .sendall(handshake.unsent())
                .map_err(|error| classify(error, Stage::AwaitingChallenge))?;
            handshake.handle_sent(handshake.unsent().len());
        }
        match handshake.outcome() {
            None => {}
            Some(Ok(())) => break,
            Some(Err(HandshakeError::Refused)) => return Err(ClientError::Refused),
            Some(Err(HandshakeError::WrongDigest)) => return Err(ClientError::Impostor),
            Some(Err(_)) => return Err(ClientError::NotAChallenge(greeting)),
        }
        let n = match recv_before(socket, timeout, start, &mut bytes) {
            Ok(n) => n,
            // A server of another protocol waits for what is no frame.
            Err(ClientError::TimedOut(_) | ClientError::Closed(_))
                if handshake.is_first() && !greeting.is_empty() =>
            {
                return Err(ClientError::NotAChallenge(greeting));
            }
            Err(error) => return Err(error),
        };
        greeting.extend_from_slice(&bytes[..n.min(GREETING - greeting.len().min(GREETING))]);
        if handshake.handle_recv(keys, &bytes[..n]) < n {
            // The server speaks only when it is spoken to from here on.
            return Err(ClientError::NotAnEcho);
        }
    }
    set_timeout(socket, timeout).map_err(ClientError::Socket)
}
