use std::time::Duration;

use super::Protocol;
use crate::auth::Keyring;

/// Settings shared by all connections of a server: keys, time limits and size limits.
///
/// A time limit of `None` means no limit. [`Config::new`] sets the defaults; change the fields
/// from there:
///
/// ```
/// use std::time::Duration;
///
/// use saltecho::auth::Keyring;
/// use saltecho::proto::Config;
///
/// let mut config = Config::new(Keyring::demo());
/// config.idle_timeout = Some(Duration::from_secs(300));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Accepted keys. May be replaced at any time: a digest is checked against the ring in force
    /// when its last byte arrives. A client that has sent more bytes than the new ring's digest
    /// has is rejected.
    pub keyring: Keyring,
    /// The handshake of new connections. The tutorial's by default.
    pub protocol: Protocol,
    /// Time limit for the PROXY header in front of a connection from a balancer, from accepting to
    /// the header's last byte; [`auth_timeout`](Self::auth_timeout) begins after it. 5 s, like that
    /// one: a balancer sends the header with its first segment.
    pub header_timeout: Option<Duration>,
    /// Time limit for authentication, from the first byte of the challenge to the last byte of the
    /// digest; no byte extends it. 5 s: survives four lost segments in a row at TCP's 200 ms floor.
    pub auth_timeout: Option<Duration>,
    /// Time limit for one `recv` from an authenticated peer. Off by default, as in the tutorial:
    /// an idle connection is not a fault.
    pub idle_timeout: Option<Duration>,
    /// Time limit for one whole `sendall` (CPython's rule since 3.5). 60 s, nginx's default.
    pub send_timeout: Option<Duration>,
    /// Silence of a peer before it is probed, 1 s to 3 h. 60 s by default: a vanished peer is
    /// closed within three times as long. A live peer's kernel answers the probe, and a silent
    /// connection costs two packets and three system calls each time. With `None` no peer is
    /// probed, and the connection of a vanished peer stays open for ever.
    pub keepalive: Option<Duration>,
    /// Time limit for the peer's end of stream on a half-closed connection. 2 s.
    pub linger_timeout: Option<Duration>,
    /// Bytes that a half-closed connection discards before it closes anyway. 64 MiB: more than a
    /// receive buffer grows to. A peer that had filled it may have as many bytes of answers
    /// pending in the kernel's send buffer, and a close with unread input would destroy those.
    pub linger_bytes: u32,
    /// Size limit of one `recv` in bytes, at least 1. 32 KiB: larger reads do not lower the cost
    /// of a message. The tutorial uses 1024.
    pub recv_size: usize,
    /// Size limit in bytes of one answer of a handler, and of all bytes waiting for one peer if
    /// messages are pushed. 16 MiB: unsent bytes occupy memory, once for each connection.
    pub max_answer: usize,
}

impl Config {
    /// Creates the default configuration with these keys.
    pub fn new(keyring: Keyring) -> Self {
        Self {
            keyring,
            protocol: Protocol::Tutorial,
            header_timeout: Some(Duration::from_secs(5)),
            auth_timeout: Some(Duration::from_secs(5)),
            idle_timeout: None,
            send_timeout: Some(Duration::from_secs(60)),
            keepalive: Some(Duration::from_secs(60)),
            linger_timeout: Some(Duration::from_secs(2)),
            linger_bytes: 64 << 20,
            recv_size: 32 << 10,
            max_answer: 16 << 20,
        }
    }
}
