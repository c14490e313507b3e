use std::io;
use std::net::SocketAddr;

use super::{ConnId, Record};
use crate::auth::KeyName;
use crate::proto::CloseReason;
use crate::proto::proxy::Header;

/// Hears what happens to connections, never of single messages.
///
/// It is called from the loop, so it must not block: all connections wait for it. If it panics,
/// that is counted ([`Stats::observer_panics`](super::Stats)), and it is called again next time.
#[allow(unused_variables)] // What is not overridden does nothing.
pub trait Observer: Send {
    /// A connection was accepted. The address is missing if the peer is already gone; behind a
    /// balancer it is the balancer's.
    fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>) {}

    /// The PROXY header in front of a connection is complete. If it names endpoints, their source is
    /// the client's address, which counts from now on instead of the balancer's.
    fn proxied(&mut self, id: ConnId, header: &Header) {}

    /// A peer that may not send a PROXY header was refused; see
    /// [`Server::trust_proxies`](super::Server::trust_proxies).
    fn proxy_refused(&mut self, peer: Option<SocketAddr>) {}

    /// Its digest was right, under this key.
    fn authenticated(&mut self, id: ConnId, key: Option<KeyName>) {}

    /// It ended. The record is there if the server [keeps](super::Server::keep_records) them.
    fn closed(&mut self, id: ConnId, reason: CloseReason, record: Option<&Record>) {}

    /// An accepted client could not be served: there were no random bytes, or the poller refused its
    /// socket. It is counted as [`CloseReason::SetupFailed`].
    fn setup_failed(&mut self, peer: Option<SocketAddr>, error: &io::Error) {}

    /// Accepting rests for a moment.
    fn accept_paused(&mut self, pause: AcceptPause<'_>) {}
}

/// The reason for a pause of accepting. Clients wait in the kernel's queue meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum AcceptPause<'a> {
    /// There are as many connections as [`Limits::connections`](super::Limits) allows. If the rest
    /// does not help, a few clients are turned away.
    Full,
    /// There are as many that have not authenticated as
    /// [`Limits::unauthenticated`](super::Limits) allows, and the oldest is too young to make room.
    UnauthenticatedFull,
    /// This error of `accept`.
    Error(&'a io::Error),
}
