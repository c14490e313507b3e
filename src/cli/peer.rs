use std::time::Duration;

use anyhow::anyhow;
use saltecho::auth::{Key, MacAlgorithm};
use saltecho::client::{ClientError, Step};
use saltecho::socket::ErrorKind;

use super::failure::{Failure, Kind};
use super::keyfile::public_name;
use super::values::{Limit, ServerAddress};

/// How long to wait for a refusal where nothing else would show one: an honest server needs a
/// round trip for it, and a user does not notice.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// The other side, and what we told it: everything that a message about it may have to name.
pub(super) struct Peer<'a> {
    pub(super) address: &'a ServerAddress,
    pub(super) key: &'a Key,
    pub(super) mac: MacAlgorithm,
    pub(super) limit: Limit,
}

impl Peer<'_> {
    /// What went wrong and what can be done about it.
    pub(super) fn explain(&self, error: &ClientError) -> Failure {
        let (address, limit) = (self.address, self.limit);
        let (kind, text) = match error {
            ClientError::Refused => return self.refused(),
            ClientError::Connect(cause) => {
                let remedy = match cause.kind() {
                    ErrorKind::ConnectionRefusedError => {
                        "is a server running there? `saltecho serve` starts one"
                    }
                    ErrorKind::GaiError => "is the name right? An IP address works too",
                    _ => "is the address right?",
                };
                let text = format!("cannot connect to {address}: {}; {remedy}", cause.message());
                (Kind::Unreachable, text)
            }
            ClientError::TimedOut(Step::Connecting) => (
                Kind::Unreachable,
                format!(
                    "{address} did not answer within {limit}: is the address right, and does a \
                     firewall let us through? --timeout allows more time"
                ),
            ),
            ClientError::TimedOut(Step::AwaitingChallenge) => (
                Kind::Unreachable,
                format!(
                    "{address} accepted the connection but sent no challenge within {limit}: is it \
                     a saltecho server, or too busy? --timeout allows more time"
                ),
            ),
            ClientError::TimedOut(Step::Exchanging) => (
                Kind::Unreachable,
                format!("{address} did not answer within {limit}; --timeout allows more time"),
            ),
            ClientError::Closed(Step::AwaitingChallenge) => (
                Kind::Unreachable,
                format!(
                    "{address} closed the connection without a challenge: it has no room, is \
                     ending, or is no saltecho server"
                ),
            ),
            ClientError::Closed(Step::Connecting | Step::Exchanging) => {
                (Kind::Runtime, format!("{address} closed the connection"))
            }
            ClientError::NoEcho | ClientError::Socket(_) => {
                (Kind::Runtime, format!("{address}: {error}"))
            }
        };
        Failure::new(kind, anyhow!(text))
    }

    pub(super) fn refused(&self) -> Failure {
        let Self { address, key, mac, .. } = self;
        let key = public_name(key);
        Failure::because(
            Kind::Refused,
            format!(
                "{address} refused us: we have the key {key} and use {mac}, and the server must \
                 have the same key (-k FILE) and use the same --mac"
            ),
        )
    }
}
