use super::CloseReason;

/// State of a connection; see the diagram of [`Connection`](super::Connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Waiting for a balancer's PROXY header; nothing has been sent.
    AwaitHeader,
    /// In the handshake: sending the challenge, or waiting for its digest.
    AwaitDigest,
    /// Authenticated: in `recv`, or in the `sendall` of an answer.
    Echoing,
    /// All answers are sent; the `shutdown` that ends the server's stream is next.
    Finishing,
    /// The server's stream has ended; the peer's is read and discarded.
    Lingering,
    /// Closed for this reason.
    Closed(CloseReason),
}

impl State {
    /// The names of the states of connections that are open.
    pub const NAMES: &'static [&'static str] =
        &["await_header", "await_digest", "echoing", "finishing", "lingering"];

    /// The name in lists and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwaitHeader => "await_header",
            Self::AwaitDigest => "await_digest",
            Self::Echoing => "echoing",
            Self::Finishing => "finishing",
            Self::Lingering => "lingering",
            Self::Closed(_) => "closed",
        }
    }
}

/// The one call that a connection wants made on its socket; derived from its state.
///
/// Exhaustive on purpose: an I/O loop that ignores one of these stalls, so a new one must not
/// compile unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// `recv(limit)`.
    Recv {
        /// Size limit in bytes, at least 1.
        limit: usize,
    },
    /// `send` of [`Connection::chunk`](super::Connection::chunk).
    Send,
    /// `shutdown(SHUT_WR)`.
    Shutdown,
    /// Nothing any more: close the socket.
    Nothing,
}
