//! Facts about a connection that follow from its ledger and from what its client did.

use std::net::{IpAddr, SocketAddr};

use saltecho::python::Monotonic;
use saltecho::server::ConnId;
use saltecho::sim::{Ledger, SimKernel};

use super::client::Client;

pub(super) const CHALLENGE: u64 = 32;
pub(super) const DIGEST: u64 = 16;

pub(super) fn client_of<'a>(
    kernel: &SimKernel,
    clients: &'a [Client],
    id: ConnId,
) -> Option<&'a Client> {
    let end = kernel.client_named(id)?;
    clients.iter().find(|client| client.end == end)
}

/// Bytes of answers and messages that the kernel has not accepted; the answer to `n` bytes has `n`.
pub(super) fn undelivered(client: &Client, ledger: &Ledger) -> u64 {
    match client.received(ledger) {
        received @ DIGEST.. if client.honest => {
            received - DIGEST + CHALLENGE + client.pushed.len() as u64 - ledger.sent
        }
        _ => 0,
    }
}

/// Returns true if a balancer may send headers where only some may.
pub(super) fn is_named(peer: Option<SocketAddr>) -> bool {
    match peer.map(|peer| peer.ip().to_canonical()) {
        Some(IpAddr::V4(ip)) => ip.octets()[..3] == [192, 0, 2],
        Some(IpAddr::V6(_)) | None => false,
    }
}

pub(super) fn last_moved(ledger: &Ledger) -> Option<Monotonic> {
    ledger.received_at.max(ledger.sent_at)
}
