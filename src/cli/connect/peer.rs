//! The server as a client sees it, and the messages for everything that can go wrong with it.

use std::io;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::client::{Client, ClientError, Stage};
use saltecho::proto::Protocol;
use saltecho::socket::ErrorKind;

use super::escape::Escaper;
use crate::cli::address::ServerAddress;
use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::public_name;
use crate::cli::values::Limit;

/// Time to wait, in addition to the round trips, for what a server does at once: reject us, or end
/// its stream after ours has ended. A user does not notice it.
const GRACE: Duration = Duration::from_millis(100);

/// Bytes of a greeting that a message shows.
const SHOWN: usize = 80;

/// The server's address and the settings of the connection, for messages.
pub(super) struct Peer<'a> {
    pub(super) address: &'a ServerAddress,
    pub(super) protocol: Protocol,
    pub(super) key: &'a Key,
    pub(super) mac: MacAlgorithm,
    pub(super) limit: Limit,
}

impl Peer<'_> {
    /// Time to wait for what this server does at once.
    pub(super) fn grace(&self, client: &Client) -> Duration {
        let grace = GRACE + 2 * client.round_trip();
        self.limit.0.map_or(grace, |limit| grace.min(limit.max(GRACE)))
    }

    /// Explains why connecting failed, and what to do about it.
    pub(super) fn explain(&self, error: &ClientError) -> Failure {
        let (address, limit) = (self.address, self.limit);
        let text = match error {
            ClientError::Refused => return self.rejected(),
            ClientError::Connect(cause) => {
                let remedy = match cause.kind() {
                    ErrorKind::ConnectionRefusedError => {
                        "is a server running there? `saltecho serve` starts one"
                    }
                    ErrorKind::GaiError => "check the name, or use an IP address",
                    _ => "check the address",
                };
                format!("cannot connect to {address}: {}; {remedy}", cause.message())
            }
            ClientError::TimedOut(Stage::Connecting) => format!(
                "{address} did not answer within {limit}: check the address and firewalls, or \
                 allow more time with --timeout"
            ),
            ClientError::TimedOut(Stage::AwaitingChallenge) => format!(
                "{address} accepted the connection but sent no challenge within {limit}: it is too \
                 busy or not a saltecho server; --timeout allows more time"
            ),
            ClientError::Closed(Stage::AwaitingChallenge) => format!(
                "{address} closed the connection without a challenge: it is full, shutting down, \
                 or not a saltecho server"
            ),
            ClientError::NotAChallenge(greeting) => self.other_service(greeting),
            ClientError::Impostor => {
                let key = public_name(self.key);
                let text = format!(
                    "{address} accepted key {key} and does not have it: it is not the server that \
                     it should be"
                );
                return Failure::with_message(Exit::NotAuthenticated, text);
            }
            ClientError::TimedOut(Stage::Exchanging) => return self.timed_out(true),
            _ => {
                return Failure::with_message(Exit::Runtime, format!("{address}: {error}"));
            }
        };
        Failure::with_message(Exit::Unreachable, text)
    }

    fn other_service(&self, greeting: &[u8]) -> String {
        let (address, limit) = (self.address, self.limit);
        let shown = show(greeting);
        let is_frame = greeting.starts_with(b"\0\0\0");
        if is_frame && greeting.get(4..).unwrap_or_default().starts_with(b"#CHALLENGE#") {
            format!(
                "{address} speaks the protocol of Python's multiprocessing: try --protocol \
                 multiprocessing"
            )
        } else if self.protocol == Protocol::Multiprocessing {
            let hint =
                if greeting.len() == Challenge::LEN { "; try --protocol tutorial" } else { "" };
            format!(
                "{address} is not a listener of Python's multiprocessing: it sent {shown}{hint}"
            )
        } else if greeting.len() > Challenge::LEN {
            format!("{address} is not a saltecho server: it sent {shown}")
        } else {
            let received = bytes(greeting.len() as u64);
            format!(
                "{address} sent no challenge within {limit}, only {received}: {shown}; is it a \
                 saltecho server?"
            )
        }
    }

    /// An answer did not come in time. `has_answered` tells whether an earlier one did.
    pub(super) fn timed_out(&self, has_answered: bool) -> Failure {
        let (address, limit) = (self.address, self.limit);
        let mut text =
            format!("{address} did not answer within {limit}; --timeout allows more time");
        // A server that expects the longer digest waits for the rest of the shorter one.
        if !has_answered && self.protocol == Protocol::Tutorial && self.mac == MacAlgorithm::Md5 {
            text.push_str(
                "; if it never answers, it may use --mac sha256 and still be waiting for the rest \
                 of a longer digest",
            );
        }
        Failure::with_message(Exit::Unreachable, text)
    }

    pub(super) fn rejected(&self) -> Failure {
        let Self { address, key, mac, .. } = self;
        let key = public_name(key);
        Failure::with_message(
            Exit::NotAuthenticated,
            format!("{address}: authentication failed with key {key} ({mac}); check -k and --mac"),
        )
    }

    /// The server closed the connection when it had received nothing but the digest.
    pub(super) fn closed_first(&self, client: &Client) -> Failure {
        if client.was_refused() {
            return self.rejected();
        }
        let address = self.address;
        let text = format!(
            "{address} closed the connection before anything was sent: it is shutting down, or its \
             idle timeout has passed"
        );
        Failure::with_message(Exit::Runtime, text)
    }

    /// The connection failed with a system error. The kernel's own timeouts take minutes.
    pub(super) fn failed(&self, error: &io::Error) -> Failure {
        let kind = match error.kind() {
            io::ErrorKind::TimedOut => Exit::Unreachable,
            _ => Exit::Runtime,
        };
        let address = self.address;
        Failure::with_message(kind, format!("{address}: connection failed: {error}"))
    }
}

/// `1 byte`, `2 bytes`.
pub(super) fn bytes(number: u64) -> String {
    format!("{number} {}", if number == 1 { "byte" } else { "bytes" })
}

/// The beginning of a greeting, escaped.
fn show(greeting: &[u8]) -> String {
    let cut = &greeting[..greeting.len().min(SHOWN)];
    let mut escaper = Escaper::for_line();
    let shown = escaper.push(cut) + &escaper.finish();
    let more = if cut.len() < greeting.len() { "..." } else { "" };
    format!("`{shown}`{more}")
}
