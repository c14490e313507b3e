//! The errors of a client.

#[cfg(doc)]
use crate::proto::Protocol;
use crate::socket::{Error, ErrorKind};

/// Stage of the connection at which a client failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting for the connection.
    Connecting,
    /// Waiting for the 32 bytes of the challenge.
    AwaitingChallenge,
    /// Sending input, or waiting for its answer.
    Exchanging,
}

/// Error of a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection: nothing listens there, the name is unknown, there is no route.
    #[error("cannot connect: {}", .0.message())]
    Connect(#[source] Error),
    /// The timeout passed, or a time limit of the kernel (ETIMEDOUT).
    #[error("timed out while {0}")]
    TimedOut(Stage),
    /// The stream ended after the digest and before the first answer: the server closes without a
    /// message if its key or MAC differs. A server that shuts down at that moment looks the same.
    #[error("the server refused the digest")]
    Refused,
    /// The server's own digest was wrong, in a protocol in which it has to authenticate itself.
    #[error("the server does not have the key")]
    Impostor,
    /// The stream ended before the challenge, or after an answer had shown that the digest was
    /// right.
    #[error("the server closed the connection while {0}")]
    Closed(Stage),
    /// The first bytes, kept here, are not a challenge: more than 32, or fewer before the timeout or
    /// the end of the stream; in [`Protocol::Multiprocessing`] anything but its messages. The usual cause is a service that greets in text, like SSH or SMTP.
    #[error("the server's first bytes are not a challenge: {}", .0.escape_ascii())]
    NotAChallenge(Vec<u8>),
    /// More bytes came than were sent: the server does not echo.
    #[error("not an echo server: it sent more bytes than it received, or sent without a request")]
    NotAnEcho,
    /// Another error of the connection.
    #[error("the connection failed: {}", .0.message())]
    Socket(#[source] Error),
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::AwaitingChallenge => "waiting for the challenge",
            Self::Exchanging => "exchanging data",
        })
    }
}

pub(super) fn classify(error: Error, stage: Stage) -> ClientError {
    match error.kind() {
        ErrorKind::TimeoutError => ClientError::TimedOut(stage),
        ErrorKind::ConnectionResetError
        | ErrorKind::ConnectionAbortedError
        | ErrorKind::BrokenPipeError => ClientError::Closed(stage),
        _ => ClientError::Socket(error),
    }
}
