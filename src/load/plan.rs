use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Series, Sizes};
use crate::auth::{Key, MacAlgorithm};
use crate::proto::Protocol;
use crate::python::saturating_nanos;

/// The settings of a load: the server, the connections, their behavior and its duration.
///
/// [`Load::new`](super::Load::new) refuses an invalid plan.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Local addresses to connect from, in turn; if empty, the system chooses. Each has some 28,000
    /// ports towards one server, and port 0 lets the system choose one. A link-local IPv6 address
    /// needs its scope.
    pub sources: Vec<SocketAddr>,
    /// The server's protocol.
    pub protocol: Protocol,
    /// The shared key.
    pub key: Key,
    /// The hash under the HMAC.
    pub algorithm: MacAlgorithm,
    /// Behavior of the connections.
    pub mode: Mode,
    /// When messages are due.
    pub pace: Pace,
    /// Number of connections; in [`Mode::Connect`], at a time.
    pub connections: usize,
    /// Number of connections that send messages.
    pub active: usize,
    /// Maximum number of unanswered messages per connection.
    pub in_flight: usize,
    /// Sizes of the messages.
    pub size: Sizes,
    /// True if answers are expected in upper case (the default) or unchanged.
    pub upper: bool,
    /// Time over which connecting is spread evenly. Zero: as fast as possible,
    /// [`Plan::MAX_CONNECTING`] at a time.
    pub ramp: Duration,
    /// Duration of the measurement, which starts when all connections have authenticated.
    pub duration: Duration,
    /// Time limit for each connect, authentication and echo.
    pub timeout: Option<Duration>,
    /// Pause of a connection between an answer and its next message, at least; zero (the default) for
    /// none. In the closed model with one message in flight only.
    pub think: Duration,
    /// Seed for the message contents.
    pub seed: u64,
    /// Time to poll without sleeping after each event; zero (the default) never spins. A sleep adds the
    /// time of a wake-up to the latency of a single connection; spinning takes a whole core.
    pub spin: Duration,
}

/// Behavior of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Authenticate once, then send messages.
    Echo,
    /// Connect, authenticate, send one message, close; repeatedly.
    Connect,
    /// Authenticate, send one message, then stay silent; at the end one more message each, which shows
    /// that the connection still works.
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

    /// The main series, if there is one.
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
    /// This number per second over all connections, no matter how fast the server is: users do not
    /// wait for each other. Latency counts from when a message was due.
    Open(NonZeroU64),
    /// The next one as soon as one is answered. A slow server gets fewer messages, so its slow moments
    /// are underrepresented (coordinated omission): good for throughput, not for latency.
    Closed,
}

impl Plan {
    /// Maximum number of connects in progress without a ramp: fewer than a listener's queue holds, so
    /// that none overflows.
    pub const MAX_CONNECTING: usize = 256;
    /// Maximum number of connections: more than any machine has descriptors and ports for.
    pub const MAX_CONNECTIONS: usize = 1 << 24;
    /// Maximum number of unanswered messages per connection.
    pub const MAX_IN_FLIGHT: usize = 1 << 16;
    /// Maximum size of a message in bytes: 16 MiB, which is also the longest answer that a server keeps
    /// for one connection.
    pub const MAX_SIZE: usize = 16 << 20;
    /// Maximum rate per second: one message per nanosecond, the resolution of the clock.
    pub const MAX_RATE: u64 = 1_000_000_000;
    /// Time to wait for answers after the last message was due.
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
            size: 64.into(),
            upper: true,
            ramp: Duration::ZERO,
            duration: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(5)),
            think: Duration::ZERO,
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
            ("size", self.size.smallest() as u64),
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
            ("size", self.size.largest() as u64, Self::MAX_SIZE as u64),
            ("the rate", rate, Self::MAX_RATE),
        ] {
            if number > most {
                return Err(PlanError::TooMuch { field, number, most });
            }
        }
        if self.mode == Mode::Echo && !(1..=self.connections).contains(&self.active) {
            return Err(PlanError::Active { active: self.active, connections: self.connections });
        }
        if self.size.is_mixed() && self.protocol == Protocol::Multiprocessing {
            return Err(PlanError::MixedFrames);
        }
        let is_paced = self.mode != Mode::Echo || self.pace != Pace::Closed;
        if !self.think.is_zero() && (is_paced || self.in_flight > 1) {
            return Err(PlanError::Think);
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
        /// Name of the field.
        field: &'static str,
        /// Its value.
        number: u64,
        /// Its maximum.
        most: u64,
    },
    /// No connection sends messages, or more of them than there are.
    #[error("active must be from 1 to the {connections} connections, not {active}")]
    Active {
        /// Number of connections that were to send messages.
        active: usize,
        /// Number of connections.
        connections: usize,
    },
    /// Shares of sizes that do not make up the whole.
    #[error("the shares of the sizes must not be zero, and must add up to 100%")]
    Shares,
    /// Frames of different lengths.
    #[error("the protocol multiprocessing can be measured with messages of one size only")]
    MixedFrames,
    /// A pause where nothing waits for an answer, or something else is under way meanwhile.
    #[error("a pause needs the closed model, the mode echo, and one message in flight")]
    Think,
    /// An IPv4 address cannot connect to an IPv6 one, nor the other way round.
    #[error("{from} and {to} are of different address families")]
    Family {
        /// Where connections were to come from.
        from: IpAddr,
        /// Where they were to go.
        to: SocketAddr,
    },
}
