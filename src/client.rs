//! The authenticated client: connects, answers the challenge, exchanges bytes.
//!
//! Only the client proves that it holds the key. It cannot tell a server from an impostor that
//! passes challenges on, and nothing that is said is encrypted or protected against changes.
//!
//! The protocol has no word for "accepted": a server that accepts a digest says nothing until it
//! has something to answer, and one that refuses closes. [`Client::connect`] therefore returns
//! before the verdict is known, and [`ClientError::Refused`] comes with whatever is tried next.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::auth::{Challenge, Key, MacAlgorithm};
use crate::proto::Responder;
use crate::python::Timeout;
use crate::socket::{
    AddressArg, Error, ErrorKind, IPPROTO_TCP, MSG_PEEK, Result as SocketResult, Socket,
    TCP_NODELAY, create_connection,
};

/// A connection on which the challenge has been answered.
///
/// ```no_run
/// use std::time::Duration;
/// use saltecho::auth::{Key, MacAlgorithm};
/// use saltecho::client::Client;
///
/// let patience = Some(Duration::from_secs(5));
/// let mut client =
///     Client::connect(("127.0.0.1", 9999u16), &Key::demo(), MacAlgorithm::Md5, patience)?;
/// let mut answer = Vec::new();
/// client.exchange(b"hello", &mut answer)?;
/// assert_eq!(answer, b"HELLO");
/// # Ok::<(), saltecho::client::ClientError>(())
/// ```
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    standing: Standing,
    /// See [`Client::round_trip`].
    round_trip: Duration,
    /// When the challenge had been answered.
    proved: Instant,
}

/// What is known of the server's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing yet: an end of the stream means a refusal.
    Presumed,
    /// It has answered something: an end of the stream is just that.
    Accepted,
}

/// What a client was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waiting for the connection.
    Connecting,
    /// Waiting for the 32 bytes of the challenge.
    AwaitingChallenge,
    /// Sending input, or waiting for its answer.
    Exchanging,
}

/// Why a client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection: nobody listens, the name is unknown, the network has no way there.
    #[error("cannot connect: {}", .0.message())]
    Connect(#[source] Error),
    /// The time-out passed, or the kernel's own patience ended.
    #[error("timed out while {0}")]
    TimedOut(Step),
    /// The stream ended after the digest and before the first answer: the server closes without a
    /// word if the key or the MAC is another. A server that ends just then looks the same.
    #[error("the server refused the digest")]
    Refused,
    /// The stream ended before a challenge came, or after an answer had shown that the digest was
    /// right.
    #[error("the server closed the connection while {0}")]
    Closed(Step),
    /// The first bytes that came are not a challenge: more than 32, or fewer before the time-out
    /// passed or the stream ended. Services that greet in text, such as SSH or SMTP, end here.
    #[error("the server's first bytes are not a challenge: {}", .0.escape_ascii())]
    NotAChallenge(Vec<u8>),
    /// More came than bytes were sent: the server is no echo. What came is the start of its answer.
    #[error("the server is no echo: it answered more bytes than were sent, or spoke unasked")]
    NoEcho,
    /// Another error of the connection.
    #[error("the connection failed: {}", .0.message())]
    Socket(#[source] Error),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::AwaitingChallenge => "waiting for the challenge",
            Self::Exchanging => "exchanging data",
        })
    }
}

impl Client {
    /// Connects, waits for the challenge and answers it.
    ///
    /// `timeout` is the limit for each address that a host name has, then once for the whole
    /// challenge, and afterwards the socket's; `None` waits for ever.
    ///
    /// # Errors
    /// [`ClientError`], though never [`ClientError::Refused`]: that cannot be known yet.
    pub fn connect<'a>(
        address: impl Into<AddressArg<'a>>,
        key: &Key,
        algorithm: MacAlgorithm,
        timeout: Option<Duration>,
    ) -> Result<Self, ClientError> {
        let mode = timeout.map_or(Timeout::Blocking, Timeout::after);
        let socket =
            create_connection(address, Some(mode), None).map_err(|error| match error.kind() {
                ErrorKind::TimeoutError => ClientError::TimedOut(Step::Connecting),
                _ => ClientError::Connect(error),
            })?;
        // Without it the first line would wait for the acknowledgement of the digest, to which a
        // server has nothing to add: 40 ms. It is worth no failure.
        let _ = socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
        let connected = Instant::now();
        let responder = read_challenge(&socket, timeout)?;
        let step = Step::AwaitingChallenge;
        let digest = responder.digest(algorithm, key).expect("the whole challenge is there");
        socket.sendall(digest.as_bytes()).map_err(|error| classify(error, step))?;
        let proved = Instant::now();
        let round_trip = proved.duration_since(connected);
        Ok(Self { socket, standing: Standing::Presumed, round_trip, proved })
    }

    /// Time from the connection to the whole challenge. A refusal takes as long to arrive: a round
    /// trip, and what the server needs for it.
    pub const fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Waits at most this long for the server to refuse: silence is no proof of the contrary.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if it has, [`ClientError::Closed`] if it ended for another reason
    /// (see [`refuses`](Self::refuses)).
    pub fn look_for_refusal(&self, patience: Duration) -> Result<(), ClientError> {
        let usual = self.socket.gettimeout();
        set_timeout(&self.socket, Some(patience)).map_err(ClientError::Socket)?;
        let peeked = self.socket.recv_with_flags(1, MSG_PEEK);
        self.socket.settimeout(usual).map_err(ClientError::Socket)?;
        match peeked {
            Ok(bytes) if bytes.is_empty() => Err(self.ended_unasked()),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::TimeoutError | ErrorKind::BlockingIOError => Ok(()),
                _ => Err(self.judge(error)),
            },
        }
    }

    /// Tells a refusal from a server that shuts down, once the stream has ended before this client
    /// sent anything but the digest.
    ///
    /// A refusal comes within a round trip. On a busy machine it may take longer, but it closes the
    /// server's socket, whose kernel then answers one byte more with a reset; a server that shuts
    /// down in an orderly way ends its stream and reads on. So where the time leaves it open, this
    /// sends a byte, to which no answer can come, and waits for the reset.
    pub fn refuses(&self) -> bool {
        let (waited, line) = (self.proved.elapsed(), 2 * self.round_trip);
        if waited <= AT_ONCE + line {
            return true;
        }
        let could_be = waited <= BUSY + line;
        could_be
            && self
                .socket
                .send(b"\n")
                .is_ok_and(|_| self.socket.fails_within(RESET + line).unwrap_or(false))
    }

    /// Sends `data` to an echo and appends its answer, which has as many bytes, to `answer`.
    ///
    /// Long data goes out in pieces, each answered before the next is sent: if both sides sent and
    /// neither read, both would wait for ever. A service that answers anything else is talked to
    /// with [`send`](Self::send) and [`recv`](Self::recv), since only the caller can tell where
    /// its answer ends.
    ///
    /// # Errors
    /// [`ClientError`]; `answer` then holds the part that came. After a time-out the rest may
    /// still come, and would pass for the answer to something else: better connect again.
    /// [`ClientError::NoEcho`] for bytes too many, before anything is sent if they were there.
    pub fn exchange(&mut self, data: &[u8], answer: &mut Vec<u8>) -> Result<(), ClientError> {
        let mut buffer = [0; PIECE + 1];
        for piece in data.chunks(PIECE) {
            if self.has_unread().map_err(ClientError::Socket)? {
                return Err(ClientError::NoEcho);
            }
            self.send(piece)?;
            let mut due = piece.len();
            while due > 0 {
                // With room for one byte too many, which an echo never has.
                let n = match self.recv(&mut buffer[..=due])? {
                    0 => return Err(self.ended()),
                    n => n,
                };
                answer.extend_from_slice(&buffer[..n]);
                due = due.checked_sub(n).ok_or(ClientError::NoEcho)?;
            }
        }
        Ok(())
    }

    /// Sends all of `data`, however long it is; the time-out is for the whole.
    ///
    /// # Errors
    /// [`ClientError`]. How much was sent is then unknown.
    pub fn send(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.socket.sendall(data).map_err(|error| self.judge(error))
    }

    /// Receives what there is, waiting for something if need be, into `buffer`; zero at the end of
    /// the stream.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] if the stream ends before the server ever said
    /// something.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        match self.socket.recv_into(buffer) {
            Ok(0) if self.standing == Standing::Presumed && !buffer.is_empty() => Err(self.ended()),
            Ok(n) => {
                self.standing = Standing::Accepted;
                Ok(n)
            }
            Err(error) => Err(self.judge(error)),
        }
    }

    /// Whether something has come that was not received. An end or an error is for the next call
    /// to tell.
    fn has_unread(&self) -> SocketResult<bool> {
        let usual = self.socket.gettimeout();
        self.socket.settimeout(Some(0.0))?;
        let peeked = self.socket.recv_with_flags(1, MSG_PEEK);
        self.socket.settimeout(usual)?;
        Ok(peeked.is_ok_and(|bytes| !bytes.is_empty()))
    }

    /// The socket, for everything else that it can do.
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, for streaming in both directions at once.
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// A second descriptor of the connection, for an event loop of the caller's own. It is
    /// non-blocking.
    ///
    /// # Errors
    /// EMFILE, or EBADF if the socket was closed.
    pub fn stream(&self) -> SocketResult<TcpStream> {
        self.socket.duplicate().map(TcpStream::from)
    }

    fn judge(&self, error: Error) -> ClientError {
        match classify(error, Step::Exchanging) {
            ClientError::Closed(_) => self.ended(),
            other => other,
        }
    }

    fn ended_unasked(&self) -> ClientError {
        match self.standing {
            Standing::Presumed if self.refuses() => ClientError::Refused,
            Standing::Presumed | Standing::Accepted => ClientError::Closed(Step::Exchanging),
        }
    }

    const fn ended(&self) -> ClientError {
        match self.standing {
            Standing::Presumed => ClientError::Refused,
            Standing::Accepted => ClientError::Closed(Step::Exchanging),
        }
    }
}

/// What [`Client::exchange`] has on its way at most: less than any kernel buffers by default.
const PIECE: usize = 16 << 10;

/// Time in which a server refuses, beside the line's own: a verdict takes microseconds.
const AT_ONCE: Duration = Duration::from_millis(10);

/// Time in which even a server on a busy machine refuses, and one that waits for the rest of a longer
/// digest: a little more than its authentication time-out by default.
const BUSY: Duration = Duration::from_secs(6);

/// Time for a reset to come, beside the line's own. It needs no processor but the kernel's.
const RESET: Duration = Duration::from_millis(100);

/// The longest greeting of another service that is kept to be shown.
const GREETING: usize = 512;

/// Waits for the whole challenge under one deadline that no byte extends.
///
/// A server sends nothing behind the challenge until the digest has come, so a 33rd byte shows that
/// it is another service.
fn read_challenge(socket: &Socket, timeout: Option<Duration>) -> Result<Responder, ClientError> {
    let (step, began) = (Step::AwaitingChallenge, Instant::now());
    let mut greeting = Vec::new();
    let mut bytes = [0; GREETING];
    // Fewer bytes than a challenge tell more than the error that ended them.
    let stopped = |greeting: &[u8], error: ClientError| match error {
        ClientError::TimedOut(_) | ClientError::Closed(_) if !greeting.is_empty() => {
            ClientError::NotAChallenge(greeting.to_vec())
        }
        error => error,
    };
    while greeting.len() < Challenge::LEN {
        if let Some(timeout) = timeout {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(stopped(&greeting, ClientError::TimedOut(step)));
            }
            set_timeout(socket, Some(left)).map_err(ClientError::Socket)?;
        }
        match socket.recv_into(&mut bytes) {
            Ok(0) => return Err(stopped(&greeting, ClientError::Closed(step))),
            Ok(n) => greeting.extend_from_slice(&bytes[..n]),
            Err(error) => return Err(stopped(&greeting, classify(error, step))),
        }
    }
    if greeting.len() > Challenge::LEN {
        return Err(ClientError::NotAChallenge(greeting));
    }
    let mut responder = Responder::new();
    responder.handle_recv(&greeting);
    set_timeout(socket, timeout).map_err(ClientError::Socket)?;
    Ok(responder)
}

fn set_timeout(socket: &Socket, timeout: Option<Duration>) -> SocketResult<()> {
    // Python's limit is 292 years; a longer time-out becomes 285.
    socket.settimeout(timeout.map(|timeout| timeout.as_secs_f64().min(9e9)))
}

fn classify(error: Error, step: Step) -> ClientError {
    match error.kind() {
        ErrorKind::TimeoutError => ClientError::TimedOut(step),
        ErrorKind::ConnectionResetError
        | ErrorKind::ConnectionAbortedError
        | ErrorKind::BrokenPipeError => ClientError::Closed(step),
        _ => ClientError::Socket(error),
    }
}
