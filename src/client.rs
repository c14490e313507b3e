//! The authenticated client: connects, answers the challenge, exchanges bytes.
//!
//! Only the client proves that it holds the key. It cannot detect an impostor that relays
//! challenges, and the connection is neither encrypted nor protected against changes.
//!
//! The protocol has no message for "accepted": a server that accepts the digest sends nothing until
//! it has an answer, and a server that rejects it closes. [`Client::connect`] therefore returns
//! before the result is known, and [`ClientError::Refused`] comes from a later call.
//!
//! Of the other protocols of [`Client::connect_by`], that of Python's multiprocessing authenticates
//! both sides, and its result is known at once; the plain one authenticates none.

mod error;
mod handshake;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::auth::{Key, Keyring, MacAlgorithm};
use crate::proto::{Protocol, frame_header};
use crate::python::Timeout;
use crate::socket::{
    AddressArg, Error, ErrorKind, IPPROTO_TCP, MSG_PEEK, Result as SocketResult, Socket,
    TCP_NODELAY, create_connection,
};
use error::classify;
use handshake::{authenticate_each_other, read_challenge};

pub use error::{ClientError, Stage};

/// A connection whose challenge has been answered.
///
/// ```
/// use std::time::Duration;
///
/// use saltecho::auth::{Key, MacAlgorithm};
/// use saltecho::client::Client;
///
/// # // A server of the same protocol, so that the example needs no other feature.
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
/// # let address = listener.local_addr().unwrap();
/// # std::thread::spawn(move || {
/// #     use std::io::{Read, Write};
/// #     let (mut stream, _) = listener.accept().unwrap();
/// #     stream.write_all(&[7; 32]).unwrap();
/// #     stream.read_exact(&mut [0; 16]).unwrap();
/// #     let mut data = [0; 5];
/// #     stream.read_exact(&mut data).unwrap();
/// #     stream.write_all(&data.to_ascii_uppercase()).unwrap();
/// # });
/// let timeout = Some(Duration::from_secs(5));
/// let mut client = Client::connect(address, &Key::demo(), MacAlgorithm::Md5, timeout)?;
/// let mut answer = Vec::new();
/// client.exchange(b"hello", &mut answer)?;
/// assert_eq!(answer, b"HELLO");
/// # Ok::<(), saltecho::client::ClientError>(())
/// ```
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    protocol: Protocol,
    acceptance: Acceptance,
    /// See [`Client::round_trip`].
    round_trip: Duration,
    /// Time at which the digest was sent.
    digest_sent: Instant,
}

/// Knowledge about the server's decision on the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acceptance {
    /// No answer yet: an end of the stream means a refusal.
    Assumed,
    /// The server has answered, or its protocol has told so: an end of the stream means no more than that.
    Confirmed,
}

impl Client {
    /// Connects, waits for the challenge and answers it.
    ///
    /// `timeout` limits the attempt at each address of a host name, then the whole challenge, and
    /// afterwards each call on the socket. `None` waits for ever.
    ///
    /// # Errors
    /// [`ClientError`], but never [`ClientError::Refused`]: the server's decision comes later.
    pub fn connect<'a>(
        address: impl Into<AddressArg<'a>>,
        key: &Key,
        algorithm: MacAlgorithm,
        timeout: Option<Duration>,
    ) -> Result<Self, ClientError> {
        Self::connect_by(Protocol::Tutorial, address, key, algorithm, timeout)
    }

    /// Connects, and goes through the handshake of this protocol; [`Protocol::Plain`] has none.
    ///
    /// After that of [`Protocol::Multiprocessing`] both sides are authenticated, and
    /// [`exchange`](Self::exchange) sends frames; [`send`](Self::send) and [`recv`](Self::recv) leave
    /// them to the caller.
    ///
    /// # Errors
    /// [`ClientError`]. Also [`ClientError::Refused`] and [`ClientError::Impostor`], in
    /// [`Protocol::Multiprocessing`].
    pub fn connect_by<'a>(
        protocol: Protocol,
        address: impl Into<AddressArg<'a>>,
        key: &Key,
        algorithm: MacAlgorithm,
        timeout: Option<Duration>,
    ) -> Result<Self, ClientError> {
        let mode = timeout.map_or(Timeout::Blocking, Timeout::after);
        let socket =
            create_connection(address, Some(mode), None).map_err(|error| match error.kind() {
                ErrorKind::TimeoutError => ClientError::TimedOut(Stage::Connecting),
                _ => ClientError::Connect(error),
            })?;
        // Without TCP_NODELAY the first message would wait for the acknowledgment of the digest,
        // which the server's kernel delays by 40 ms. A failure to set it is harmless.
        let _ = socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
        let connected = Instant::now();
        let acceptance = match protocol {
            Protocol::Tutorial => {
                let challenge = read_challenge(&socket, timeout)?;
                let digest = algorithm.digest(key, &challenge);
                socket
                    .sendall(digest.as_bytes())
                    .map_err(|error| classify(error, Stage::AwaitingChallenge))?;
                Acceptance::Assumed
            }
            Protocol::Multiprocessing => {
                authenticate_each_other(&socket, &Keyring::single(algorithm, key), timeout)?;
                Acceptance::Confirmed
            }
            Protocol::Plain => Acceptance::Confirmed,
        };
        let digest_sent = Instant::now();
        let round_trip = digest_sent.duration_since(connected);
        Ok(Self { socket, protocol, acceptance, round_trip, digest_sent })
    }

    /// Returns true if the server is known to have accepted this client: at once if the protocol has
    /// a message for it or no authentication, otherwise after the first answer.
    pub fn is_accepted(&self) -> bool {
        self.acceptance == Acceptance::Confirmed
    }

    /// Time from the connection to the sent digest: a round trip and the server's own time. A
    /// refusal takes about as long to arrive.
    pub const fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Waits up to `limit` for a refusal. A success does not prove that the digest was accepted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] after a refusal, [`ClientError::Closed`] if the server ended the
    /// stream for another reason (see [`was_refused`](Self::was_refused)).
    pub fn wait_for_refusal(&self, limit: Duration) -> Result<(), ClientError> {
        if self.is_accepted() {
            return Ok(());
        }
        let usual = self.socket.gettimeout();
        set_timeout(&self.socket, Some(limit)).map_err(ClientError::Socket)?;
        let peeked = self.socket.recv_with_flags(1, MSG_PEEK);
        self.socket.settimeout(usual).map_err(ClientError::Socket)?;
        match peeked {
            Ok(bytes) if bytes.is_empty() => Err(self.ended_early()),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::TimeoutError | ErrorKind::BlockingIOError => Ok(()),
                _ => Err(self.classify(error)),
            },
        }
    }

    /// Distinguishes a refusal from a shutdown of the server, after the stream has ended before this
    /// client sent anything but the digest.
    ///
    /// A refusal comes within a round trip. On a busy machine it may take longer, but a refusing
    /// server closes its socket, and its kernel then answers one more byte with a reset; a server
    /// that shuts down in an orderly way ends its stream and keeps reading. So if the time does not
    /// decide, this sends one byte, which cannot get an answer, and waits for the reset.
    pub fn was_refused(&self) -> bool {
        if self.is_accepted() {
            return false;
        }
        let (waited, network) = (self.digest_sent.elapsed(), 2 * self.round_trip);
        if waited <= REFUSAL + network {
            return true;
        }
        let possible = waited <= SLOW_REFUSAL + network;
        possible
            && self
                .socket
                .send(b"\n")
                .is_ok_and(|_| self.socket.fails_within(RESET + network).unwrap_or(false))
    }

    /// Sends `data` to an echo server and appends its answer, which has as many bytes, to `answer`.
    ///
    /// Long data is sent in pieces, each after the answer to the previous one: if both sides sent
    /// and neither read, both would wait for ever. In [`Protocol::Multiprocessing`] each piece is a
    /// frame. For other services use [`send`](Self::send) and
    /// [`recv`](Self::recv), since only the caller knows where their answers end.
    ///
    /// # Errors
    /// [`ClientError`]; `answer` then holds the received part. After a timeout connect again: the
    /// rest may still come, and would look like the answer to the next message.
    /// [`ClientError::NotAnEcho`] for excess bytes; nothing is sent if they were there before.
    pub fn exchange(&mut self, data: &[u8], answer: &mut Vec<u8>) -> Result<(), ClientError> {
        let mut buffer = [0; MAX_HEADER + PIECE + 1];
        for piece in data.chunks(PIECE) {
            if self.has_unread().map_err(ClientError::Socket)? {
                return Err(ClientError::NotAnEcho);
            }
            if self.protocol == Protocol::Multiprocessing {
                let header = frame_header(piece.len() as u64);
                let frame = [header.as_ref(), piece].concat();
                self.send(&frame)?;
                let mut came = Vec::with_capacity(frame.len());
                let received = self.receive(frame.len(), &mut buffer, &mut came);
                answer.extend_from_slice(came.get(header.as_ref().len()..).unwrap_or_default());
                received?;
                if !came.starts_with(header.as_ref()) {
                    return Err(ClientError::NotAnEcho);
                }
            } else {
                self.send(piece)?;
                self.receive(piece.len(), &mut buffer, answer)?;
            }
        }
        Ok(())
    }

    /// Appends so many bytes of an answer to `answer`.
    fn receive(
        &mut self,
        mut missing: usize,
        buffer: &mut [u8],
        answer: &mut Vec<u8>,
    ) -> Result<(), ClientError> {
        while missing > 0 {
            // Room for one excess byte, which an echo server never sends.
            let n = match self.recv(&mut buffer[..=missing])? {
                0 => return Err(self.ended()),
                n => n,
            };
            answer.extend_from_slice(&buffer[..n]);
            missing = missing.checked_sub(n).ok_or(ClientError::NotAnEcho)?;
        }
        Ok(())
    }

    /// Sends all of `data` within one timeout.
    ///
    /// # Errors
    /// [`ClientError`]. An unknown part has then been sent.
    pub fn send(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.socket.sendall(data).map_err(|error| self.classify(error))
    }

    /// Receives into `buffer`, waiting until there is at least one byte. Returns the number of bytes,
    /// zero at the end of the stream.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] if the stream ends before the server's first byte.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        match self.socket.recv_into(buffer) {
            Ok(0) if self.acceptance == Acceptance::Assumed && !buffer.is_empty() => {
                Err(self.ended())
            }
            Ok(n) => {
                self.acceptance = Acceptance::Confirmed;
                Ok(n)
            }
            Err(error) => Err(self.classify(error)),
        }
    }

    /// Returns true if unread bytes are waiting. An end or an error is left to the next call.
    fn has_unread(&self) -> SocketResult<bool> {
        let usual = self.socket.gettimeout();
        self.socket.settimeout(Some(0.0))?;
        let peeked = self.socket.recv_with_flags(1, MSG_PEEK);
        self.socket.settimeout(usual)?;
        Ok(peeked.is_ok_and(|bytes| !bytes.is_empty()))
    }

    /// The socket, for everything else.
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns the socket, for streaming in both directions at once.
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Duplicates the descriptor of the connection, for an event loop of the caller. It is
    /// non-blocking.
    ///
    /// # Errors
    /// EMFILE, or EBADF if the socket was closed.
    pub fn stream(&self) -> SocketResult<TcpStream> {
        self.socket.duplicate().map(TcpStream::from)
    }

    fn classify(&self, error: Error) -> ClientError {
        match classify(error, Stage::Exchanging) {
            ClientError::Closed(_) => self.ended(),
            other => other,
        }
    }

    /// Error for an end of stream that came before this client sent a message.
    fn ended_early(&self) -> ClientError {
        match self.acceptance {
            Acceptance::Assumed if self.was_refused() => ClientError::Refused,
            Acceptance::Assumed | Acceptance::Confirmed => ClientError::Closed(Stage::Exchanging),
        }
    }

    /// Error for an end of stream during an exchange.
    const fn ended(&self) -> ClientError {
        match self.acceptance {
            Acceptance::Assumed => ClientError::Refused,
            Acceptance::Confirmed => ClientError::Closed(Stage::Exchanging),
        }
    }
}

/// Unanswered bytes of [`Client::exchange`]: less than the default buffers of any kernel.
const PIECE: usize = 16 << 10;

/// Length of the longest header of a frame in bytes.
const MAX_HEADER: usize = 12;

/// Time for a refusal, besides the network's: checking a digest takes microseconds.
const REFUSAL: Duration = Duration::from_millis(10);

/// Time for a refusal by a server on a busy machine, or by one that waits for the rest of a longer
/// digest: a little more than the default authentication timeout.
const SLOW_REFUSAL: Duration = Duration::from_secs(6);

/// Time for a reset, besides the network's. The kernel sends it without the server process.
const RESET: Duration = Duration::from_millis(100);

fn set_timeout(socket: &Socket, timeout: Option<Duration>) -> SocketResult<()> {
    // Python's limit is 292 years; a longer timeout becomes 285 years.
    socket.settimeout(timeout.map(|timeout| timeout.as_secs_f64().min(9e9)))
}
