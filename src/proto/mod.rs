//! One connection's whole life as a state machine without I/O.
//!
//! A connection is a Python handler frozen inside exactly one socket call:
//!
//! ```text
//! sendall(challenge); gather the digest with recv; compare
//! while data := recv(n): sendall(answer(data))
//! ```
//!
//! So it is always either receiving or sending, never both, and everything else follows: nothing
//! is read while an answer is unfinished, so TCP slows the peer down; what is kept for a peer is
//! at most as long as one answer may be; and there is one deadline, that of the call in progress.
//! A message that is [pushed](Connection::push) is one more `sendall`, between two `recv`.
//!
//! The modules `http` and `proxy` (features of the same names) are written the same way: HTTP for
//! the admin endpoint, and the header that a balancer sends in front of a connection.
//!
//! Bytes, the time and the shared [`Config`] are arguments. No socket, clock, random source or
//! event loop is named here, so every path can be walked by an ordinary test.

mod backlog;
mod boxed;
mod close_reason;
mod config;
mod connection;
mod guard;
mod handler;
#[cfg(feature = "http")]
pub mod http;
mod peer;
#[cfg(feature = "proxy")]
pub mod proxy;
mod responder;

pub use close_reason::CloseReason;
pub use config::Config;
pub use connection::{Connection, Reply, State, Wants};
#[cfg(feature = "server")]
pub(crate) use guard::{guarded, in_user_code};
pub use handler::{Answer, Handler, Identity, Upper};
pub use peer::{ConnId, Peer};
pub use responder::Responder;
