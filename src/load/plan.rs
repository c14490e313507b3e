use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Series;
use crate::auth::{Key, MacAlgorithm};
use crate::proto::Protocol;
use crate::python::saturating_nanos;

/// A load to be made: the server, the connections, what they do and for how long.
///
/// [`Load::new`](super::Load::new) refuses a plan of which no load can be made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Addresses of this machine to connect from, in turn; none leaves it to the system. Each has
    /// some 28,000 ports towards one server, one of which is chosen where the port here is 0. A
    /// link-local IPv6 address needs its scope.
    pub sources: Vec<SocketAddr>,
    /// The server's protocol.
    pub protocol: Protocol,
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
    /// Authenticate, one message, then stay; at the end one more message each, which shows that the
    /// connection is still there.
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
    /// Connections at most: more than any machine has descriptors and ports for.
    pub const MAX_CONNECTIONS: usize = 1 << 24;
    /// Messages under way on one connection at most.
    pub const MAX_IN_FLIGHT: usize = 1 << 16;
    /// The length of a message at most, in bytes: 16 MiB, which is also the longest answer that a
    /// server keeps for one connection.
    pub const MAX_SIZE: usize = 16 << 20;
    /// Messages a second at most: one each nanosecond, which is what a clock tells apart.
    pub const MAX_RATE: u64 = 1_000_000_000;
    /// How long answers are waited for after the last message was due.
    pub const GRACE: Duration = Duration::from_secs(1);

    /// A plan of the defaults: 50 connections, 1,000 messages of 64 bytes a second, for 30 s.
    pub fn new(target: SocketAddr, key: Key, algorithm: MacAlgorithm) -> Self {
        Self {
            target,
            sources: Vec::new(),
            protocol: Protocol::Tutorial,
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

    /// Checks that a load can be made of it. Not whether this machine allows it.
    ///
    /// # Errors
    /// The first of its fields that makes it impossible.
    pub fn check(&self) -> Result<(), PlanError> {
        let at_least_one = [
            ("connections", self.connections as u64),
            ("in_flight", self.in_flight as u64),
            ("size", self.size as u64),
            ("duration", saturating_nanos(self.duration)),
            ("timeout", self.timeout.map_or(1, saturating_nanos)),
        ];
        if let Some((field, _)) = at_least_one.into_iter().find(|(_, number)| *number == 0) {
            return Err(PlanError::Zero(field));
        }
        let rate = match self.pace {
            Pace::Open(rate) => rate.get(),
            Pace::Closed => 1,
        };
        for (field, number, most) in [
            ("connections", self.connections as u64, Self::MAX_CONNECTIONS as u64),
            ("in_flight", self.in_flight as u64, Self::MAX_IN_FLIGHT as u64),
            ("size", self.size as u64, Self::MAX_SIZE as u64),
            ("the rate", rate, Self::MAX_RATE),
        ] {
            if number > most {
                return Err(PlanError::TooMuch { field, number, most });
            }
        }
        if self.mode == Mode::Echo && !(1..=self.connections).contains(&self.active) {
            return Err(PlanError::Active { active: self.active, connections: self.connections });
        }
        match self.sources.iter().find(|source| source.is_ipv4() != self.target.is_ipv4()) {
            Some(&source) => Err(PlanError::Family { from: source.ip(), to: self.target }),
            None => Ok(()),
        }
    }
}

/// The reason for which no load can be made of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// With nothing of this there is no load.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// More of something than there can be.
    #[error("{field} must be at most {most}, not {number}")]
    TooMuch {
        /// What it is.
        field: &'static str,
        /// How much it is.
        number: u64,
        /// How much it may be.
        most: u64,
    },
    /// No connection sends messages, or more of them than there are.
    #[error("active must be from 1 to the {connections} connections, not {active}")]
    Active {
        /// How many connections were to send messages.
        active: usize,
        /// How many there are.
        connections: usize,
    },
    /// An IPv4 address cannot connect to an IPv6 one, nor the other way round.
    #[error("{from} and {to} are of different address families")]
    Family {
        /// Where connections were to come from.
        from: IpAddr,
        /// Where they were to go.
        to: SocketAddr,
    },
}
