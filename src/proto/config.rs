use std::time::Duration;

use crate::auth::Keyring;
use crate::python::Timeout;

/// What all connections of a server have in common: who may talk, how long a call may take, how
/// much it may hold. Every limit has a name here; `None` means that there is none.
#[derive(Clone, Debug)]
pub struct Config {
    /// The keys that are accepted. May be exchanged between two inputs; a digest is judged by
    /// the ring in force when its last byte arrives. A client that has sent more bytes than the
    /// new ring's digest has is refused.
    pub keyring: Keyring,
    /// One deadline from the first byte of the challenge to the last byte of the digest; no byte
    /// extends it. 5 s: survives four lost segments in a row at TCP's 200 ms floor.
    pub auth_timeout: Option<Duration>,
    /// How long one `recv` waits for an authenticated peer to say something. Off by default, as
    /// in the tutorial: an idle connection is not a fault.
    pub recv_timeout: Option<Duration>,
    /// How long one whole `sendall` may take (CPython's rule since 3.5). 60 s, nginx's default.
    pub send_timeout: Option<Duration>,
    /// How long a peer may be silent before it is asked for a sign of life, between 1 s and 3 h. 60 s
    /// by default: a peer that vanished is gone within three times as long. One that is there answers
    /// without noticing; a silent connection costs two packets and three system calls each time.
    /// `None` asks no peer, and then a connection whose peer vanished stays for ever.
    pub keepalive: Option<Duration>,
    /// How long a half-closed connection waits for the peer's end of stream. 2 s.
    pub linger_timeout: Option<Duration>,
    /// How many bytes a half-closed connection reads away before it closes regardless. 64 MiB:
    /// more than a receive buffer grows to. A peer that had filled it is owed as much in the
    /// kernel's send buffer, and a close before the last unread byte would destroy that.
    pub linger_bytes: u32,
    /// What one `recv` may return, in bytes; at least 1. 32 KiB: beyond that a message costs no
    /// less. The tutorial's pacing is 1024.
    pub recv_size: usize,
    /// The longest answer, in bytes, that a handler may give to one `recv`, and the most that may
    /// wait for one peer if messages are pushed as well. 16 MiB: as long as it is unsent it
    /// occupies memory, once for each connection.
    pub max_answer: usize,
}

impl Config {
    /// The defaults, with these keys.
    pub fn new(keyring: Keyring) -> Self {
        Self {
            keyring,
            auth_timeout: Some(Duration::from_secs(5)),
            recv_timeout: None,
            send_timeout: Some(Duration::from_secs(60)),
            keepalive: Some(Duration::from_secs(60)),
            linger_timeout: Some(Duration::from_secs(2)),
            linger_bytes: 64 << 20,
            recv_size: 32 << 10,
            max_answer: 16 << 20,
        }
    }
}

/// The mode of a call that may wait: without a limit, or this long. Zero is a limit too, and has
/// always passed; it does not mean non-blocking.
pub(super) fn waits(limit: Option<Duration>) -> Timeout {
    limit.map_or(Timeout::Blocking, Timeout::After)
}
