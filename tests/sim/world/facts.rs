//! Facts about a connection that follow from its ledger and from what its client did.

use std::net::{IpAddr, SocketAddr};

use saltecho::proto::Config;
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

/// The beginning of the time to authenticate: the challenge is sent in the turn in which a client is
/// accepted, or in which its header is complete.
pub(super) fn asked_at(client: &Client, ledger: &Ledger) -> Option<Monotonic> {
    match client.header {
        None => ledger.accepted_at,
        Some(_) => ledger.spoke.map(|(time, _)| time),
    }
}

pub(super) fn last_moved(ledger: &Ledger) -> Option<Monotonic> {
    ledger.received_at.max(ledger.sent_at)
}

/// The deadline of an open connection's current call by Python's rules.
pub(super) fn due(
    config: &Config,
    client: &Client,
    ledger: &Ledger,
    draining: bool,
) -> Option<Monotonic> {
    let (since, limit) = if ledger.shut_down_at.is_some() {
        (ledger.shut_down_at, config.linger_timeout)
    } else if client.awaits_header(ledger) {
        (ledger.accepted_at, config.header_timeout)
    } else if client.received(ledger) < DIGEST {
        (asked_at(client, ledger), config.auth_timeout)
    } else if undelivered(client, ledger) > 0 {
        // Each of several messages has its own timeout, which starts when the one before is sent.
        let began = ledger.received_at.max(client.pushed_at);
        let again = ledger.sent_at.filter(|_| client.pushed_at.is_some());
        (began.max(again), config.send_timeout)
    } else if draining {
        (None, None) // It will be half-closed at once.
    } else {
        (last_moved(ledger), config.idle_timeout)
    };
    Some(since?.saturating_add(limit?))
}
