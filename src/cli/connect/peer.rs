use std::io;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::client::{Client, ClientError, Stage};
use saltecho::socket::ErrorKind;

use super::escape::Escaper;
use crate::cli::address::ServerAddress;
use crate::cli::failure::{Failure, Kind};
use crate::cli::keyfile::public_name;
use crate::cli::values::Limit;

/// How long to wait, beside the line's own time, for what a server does at once: refuse, or end its
/// stream after ours has ended. A user does not notice.
const GRACE: Duration = Duration::from_millis(100);

/// The longest part of a greeting that a message shows.
const SHOWN: usize = 80;

/// The other side, and what we told it: everything that a message about it may have to name.
pub(super) struct Peer<'a> {
    pub(super) address: &'a ServerAddress,
    pub(super) key: &'a Key,
    pub(super) mac: MacAlgorithm,
    pub(super) limit: Limit,
}

impl Peer<'_> {
    /// How long to wait for what this server does at once.
    pub(super) fn grace(&self, client: &Client) -> Duration {
        let grace = GRACE + 2 * client.round_trip();
        self.limit.0.map_or(grace, |limit| grace.min(limit.max(GRACE)))
    }

    /// Why there is no connection with an answered challenge, and what can be done about it.
    pub(super) fn explain(&self, error: &ClientError) -> Failure {
        let (address, limit) = (self.address, self.limit);
        let text = match error {
            ClientError::Refused => return self.refused(),
            ClientError::Connect(cause) => {
                let remedy = match cause.kind() {
                    ErrorKind::ConnectionRefusedError => {
                        "is a server running there? `saltecho serve` starts one"
                    }
                    ErrorKind::GaiError => "is the name right? An IP address works too",
                    _ => "is the address right?",
                };
                format!("cannot connect to {address}: {}; {remedy}", cause.message())
            }
            ClientError::TimedOut(Stage::Connecting) => format!(
                "{address} did not answer within {limit}: is the address right, and does a \
                 firewall let us through? --timeout allows more time"
            ),
            ClientError::TimedOut(Stage::AwaitingChallenge) => format!(
                "{address} accepted the connection but sent no challenge within {limit}: is it \
                 a saltecho server, or too busy? --timeout allows more time"
            ),
            ClientError::Closed(Stage::AwaitingChallenge) => format!(
                "{address} closed the connection without a challenge: it has no room, is \
                 shutting down, or is not a saltecho server"
            ),
            ClientError::NotAChallenge(greeting) => self.other_service(greeting),
            ClientError::TimedOut(Stage::Exchanging) => return self.silent(true),
            _ => {
                return Failure::because(Kind::Runtime, format!("{address}: {error}"));
            }
        };
        Failure::because(Kind::Unreachable, text)
    }

    fn other_service(&self, greeting: &[u8]) -> String {
        let (address, limit) = (self.address, self.limit);
        let shown = show(greeting);
        if greeting.len() > Challenge::LEN {
            format!("{address} is not a saltecho server: it began with {shown}")
        } else {
            let came = bytes(greeting.len() as u64);
            format!(
                "{address} sent no challenge within {limit}, but {came}: {shown}; is it a saltecho \
                 server?"
            )
        }
    }

    /// The server let the time-out pass with an answer due, after it `has_answered` or before.
    pub(super) fn silent(&self, has_answered: bool) -> Failure {
        let (address, limit) = (self.address, self.limit);
        let mut text =
            format!("{address} did not answer within {limit}; --timeout allows more time");
        // The shorter digest leaves a server that expects the longer one waiting for the rest.
        if !has_answered && self.mac == MacAlgorithm::Md5 {
            text.push_str(
                "; if it never answers, it may use --mac sha256 and still wait for the rest of a \
                 longer digest",
            );
        }
        Failure::because(Kind::Unreachable, text)
    }

    pub(super) fn refused(&self) -> Failure {
        let Self { address, key, mac, .. } = self;
        let key = public_name(key);
        Failure::because(
            Kind::Refused,
            format!(
                "{address} refused us: authentication with key {key} and {mac} failed; the \
                 server must have the same key (-k FILE) and use the same --mac"
            ),
        )
    }

    /// The server ended the stream before anything was sent to it but the digest.
    pub(super) fn closed_first(&self, client: &Client) -> Failure {
        if client.was_refused() {
            return self.refused();
        }
        let address = self.address;
        let text = format!(
            "{address} closed the connection before anything was sent: it is shutting down, or its \
             idle time-out has passed"
        );
        Failure::because(Kind::Runtime, text)
    }

    /// The connection failed. The kernel's own time-outs come with minutes of patience.
    pub(super) fn failed(&self, error: &io::Error) -> Failure {
        let kind = match error.kind() {
            io::ErrorKind::TimedOut => Kind::Unreachable,
            _ => Kind::Runtime,
        };
        let address = self.address;
        Failure::because(kind, format!("{address}: the connection failed: {error}"))
    }
}

/// A number of bytes, in words.
pub(super) fn bytes(number: u64) -> String {
    format!("{number} {}", if number == 1 { "byte" } else { "bytes" })
}

/// The beginning of a greeting, safe to print.
fn show(greeting: &[u8]) -> String {
    let cut = &greeting[..greeting.len().min(SHOWN)];
    let mut escaper = Escaper::for_line();
    let shown = escaper.push(cut) + &escaper.finish();
    let more = if cut.len() < greeting.len() { "..." } else { "" };
    format!("`{shown}`{more}")
}
