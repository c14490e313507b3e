use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Series;
use crate::auth::{Key, MacAlgorithm};

/// What load is to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Addresses of this machine to connect from, in turn; none leaves it to the system. Each has
    /// some 28,000 ports towards one server.
    pub sources: Vec<IpAddr>,
    /// The key that challenges are answered with.
    pub key: Key,
    /// The hash under the HMAC.
    pub algorithm: MacAlgorithm,
    /// What the connections do.
    pub mode: Mode,
    /// When messages are due.
    pub pace: Pace,
    /// How many connections there are; in [`Mode::Connect`], at once.
    pub connections: usize,
    /// Of these, how many send messages.
    pub active: usize,
    /// How many messages may be under way on one connection.
    pub in_flight: usize,
    /// The length of a message in bytes.
    pub size: usize,
    /// Whether the answer is in upper case, as by default, or the same bytes.
    pub upper: bool,
    /// Over which time the connections are begun, evenly. Zero: as fast as they come about,
    /// [`Plan::MAX_CONNECTING`] at a time.
    pub ramp: Duration,
    /// How long the load is measured, from when all connections have authenticated.
    pub duration: Duration,
    /// How long a connection, a verdict, and an echo may take each.
    pub timeout: Option<Duration>,
    /// What the bytes of messages follow from.
    pub seed: u64,
    /// How long the loop polls without sleeping after the last event: zero, that is not at all, by
    /// default. A sleep adds the time of a wake-up to what one connection measures; a spin costs a
    /// core for as long as anything is answered.
    pub spin: Duration,
}

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Authenticate once, then send messages.
    Echo,
    /// Connect, authenticate, one message, close; again and again.
    Connect,
    /// Authenticate, one message, then stay.
    Idle,
}

impl Mode {
    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Connect => "connect",
            Self::Idle => "idle",
        }
    }

    /// What is measured above all, if anything.
    pub const fn main_series(self) -> Option<Series> {
        match self {
            Self::Echo => Some(Series::Echo),
            Self::Connect => Some(Series::Cycle),
            Self::Idle => None,
        }
    }
}

/// When messages are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many a second over all connections, whatever the server does: users do not wait for
    /// each other. Latency counts from when a message was due.
    Open(NonZeroU64),
    /// The next as soon as there is room for it. A slow server is asked less often, so its bad
    /// moments are counted too rarely (coordinated omission): good for throughput, not for
    /// latency.
    Closed,
}

impl Plan {
    /// Connections that are being made at once while no ramp is asked for: fewer than queues of
    /// listeners hold, so that none of them overflows.
    pub const MAX_CONNECTING: usize = 256;
    /// How long answers are waited for after the last message was due.
    pub const GRACE: Duration = Duration::from_secs(1);

    /// A plan of the defaults: 50 connections, 1,000 messages of 64 bytes a second, for 30 s.
    pub fn new(target: SocketAddr, key: Key, algorithm: MacAlgorithm) -> Self {
        Self {
            target,
            sources: Vec::new(),
            key,
            algorithm,
            mode: Mode::Echo,
            pace: Pace::Open(NonZeroU64::new(1000).expect("not zero")),
            connections: 50,
            active: 50,
            in_flight: 1,
            size: 64,
            upper: true,
            ramp: Duration::ZERO,
            duration: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(5)),
            seed: 0,
            spin: Duration::ZERO,
        }
    }
}
