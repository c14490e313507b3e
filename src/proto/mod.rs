//! A connection from challenge to close, as a state machine without I/O.
//!
//! A connection is a Python handler paused inside one socket call:
//!
//! ```text
//! sendall(challenge); collect the digest with recv; compare
//! while data := recv(n): sendall(answer(data))
//! ```
//!
//! So it is always either receiving or sending, never both. Everything else follows: nothing is
//! read while an answer is unfinished, so TCP slows the peer down; the bytes kept for a peer are
//! limited by the longest answer; and the only deadline is that of the call in progress. A
//! [pushed](Connection::push) message is one more `sendall`, between two `recv`.
//!
//! Behind a balancer a connection begins with a header that names the client ([`proxy`]). The module
//! `http` (a feature of that name) is written the same way: HTTP for the admin endpoint.
//!
//! Bytes, the time and the shared [`Config`] are arguments. The module uses no socket, clock,
//! random source or event loop, so an ordinary test can reach every path.
//!
//! [`Connection`] is the server's side, [`Responder`] the client's half of the handshake. A
//! [`Protocol`] other than the tutorial's begins with another handshake ([`MutualHandshake`], or
//! none), and may go on in frames ([`Framed`]).

mod backlog;
mod boxed;
mod close_reason;
mod config;
mod connection;
#[cfg(feature = "server")]
mod disguise;
mod frame;
mod guard;
mod handler;
mod handshake;
#[cfg(feature = "http")]
pub mod http;
mod multiprocessing;
mod peer;
mod protocol;
pub mod proxy;
mod reply;
mod responder;
mod state;
#[cfg(feature = "server")]
pub(crate) mod wire;

pub use close_reason::CloseReason;
pub use config::Config;
pub use connection::Connection;
#[cfg(feature = "server")]
pub(crate) use connection::{Head, Parked};
#[cfg(feature = "server")]
pub(crate) use disguise::Undisguised;
#[cfg(feature = "server")]
pub use disguise::{Disguise, Sensitive};
pub use frame::{FrameHeader, FrameReader, Framed, Piece, Transform, frame_header};
#[cfg(feature = "server")]
pub(crate) use guard::{guarded, in_user_code};
pub use handler::{Answer, Handler, Identity, Upper};
pub use multiprocessing::{HandshakeError, MutualHandshake, Role};
pub use peer::{ConnId, Peer};
pub use protocol::Protocol;
pub use reply::Reply;
pub use responder::Responder;
pub use state::{State, Wants};
