use std::path::PathBuf;

use clap::{Args, ValueEnum};
use saltecho::load::{Assertion, Mode};

use super::values::{Active, Rate, Sources, StartAt};
use crate::cli::address::ServerAddress;
use crate::cli::keyfile::KeyArgs;
use crate::cli::reply::Reply;
use crate::cli::values::{Limit, Size, Spin};

/// Make load, verify every byte of the answers, and measure.
///
/// By default messages are due at a fixed rate, whatever the server does, and their latency counts
/// from when they were due (the open model). With --closed each connection sends its next message
/// when the last is answered: good for throughput, not for latency.
///
/// The generator times itself. If what it adds is more than a tenth of the p99 that it measured,
/// the result is marked UNRELIABLE and the exit code is 6. Ctrl-C ends early and still reports.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(in crate::cli) struct LoadArgs {
    /// The server: an IP address or a name, and a port (9999 if there is none)
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    #[arg(env = "SALTECHO_ADDRESS", hide_env_values = true)]
    pub(super) address: ServerAddress,

    #[command(flatten)]
    pub(super) keys: KeyArgs,

    /// What the connections do
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Kind::Echo)]
    #[arg(env = "SALTECHO_LOAD_MODE", hide_env_values = true)]
    pub(super) mode: Kind,

    /// How many connections; with --mode connect, at once
    #[arg(short, long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_LOAD_CONNECTIONS", hide_env_values = true)]
    pub(super) connections: u32,

    /// Of these, how many send messages: a number or a percentage [default: all]
    #[arg(long, value_name = "N|P%", env = "SALTECHO_LOAD_ACTIVE", hide_env_values = true)]
    pub(super) active: Option<Active>,

    /// Messages (or cycles) a second over all connections: 500, 50k, 1m [default: 1000]
    #[arg(short, long, value_name = "RATE", env = "SALTECHO_LOAD_RATE", hide_env_values = true)]
    pub(super) rate: Option<Rate>,

    /// Send the next message when there is room for it, instead of at a rate
    #[arg(long, env = "SALTECHO_LOAD_CLOSED", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) closed: bool,

    /// Maximum unanswered messages per connection [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    #[arg(env = "SALTECHO_LOAD_IN_FLIGHT", hide_env_values = true)]
    pub(super) in_flight: Option<u32>,

    /// The length of a message in bytes (64, 16k, 1m)
    #[arg(short, long, value_name = "SIZE", default_value = "64")]
    #[arg(env = "SALTECHO_LOAD_SIZE", hide_env_values = true)]
    pub(super) size: Size,

    /// How long to measure, from when all connections have authenticated (30s, 5m)
    #[arg(short, long, value_name = "TIME", default_value = "30s", value_parser = super::values::time)]
    #[arg(env = "SALTECHO_LOAD_DURATION", hide_env_values = true)]
    pub(super) duration: std::time::Duration,

    /// Begin the connections evenly over this time [default: as fast as they come about]
    #[arg(long, value_name = "TIME", value_parser = super::values::time)]
    #[arg(env = "SALTECHO_LOAD_RAMP", hide_env_values = true)]
    pub(super) ramp: Option<std::time::Duration>,

    /// Connect from these addresses of this machine in turn (127.0.0.2-20, 10.0.0.5,10.0.0.6)
    ///
    /// Each has some 28,000 ports towards one server. A range counts up the last number.
    #[arg(long, value_name = "ADDRS", env = "SALTECHO_LOAD_SOURCE", hide_env_values = true)]
    pub(super) source: Option<Sources>,

    /// How long a connection, a verdict and an echo may take each (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_TIMEOUT", hide_env_values = true)]
    pub(super) timeout: Limit,

    /// What the server answers
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Reply::Upper)]
    #[arg(env = "SALTECHO_REPLY", hide_env_values = true)]
    pub(super) reply: Reply,

    /// What the bytes of the messages follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(env = "SALTECHO_LOAD_SEED", hide_env_values = true)]
    pub(super) seed: u64,

    /// Poll without sleeping for this long after the last event (100us, off): latencies are without
    /// the generator's own wake-ups, and a core is busy for as long as anything is answered
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_LOAD_SPIN", hide_env_values = true)]
    pub(super) spin: Spin,

    /// Begin at this time, so that several machines begin together (2026-11-25T12:00:00Z)
    #[arg(long, value_name = "TIME", env = "SALTECHO_LOAD_START_AT", hide_env_values = true)]
    pub(super) start_at: Option<StartAt>,

    /// Claim something of the result (p99<5ms, errors==0); exit code 5 if it does not hold
    ///
    /// May be given several times. Left of the comparison: p50, p99.9, max, mean, the same of a
    /// series (connect.p99, auth.max, service.p50), errors, errors.KIND, rate, answered.
    #[arg(long = "assert", value_name = "EXPR")]
    pub(super) assertions: Vec<Assertion>,

    /// Write the report to stdout as JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Write a line of JSON for each second to this file
    ///
    /// `-` is stdout, here and below; the text of the report then goes to stderr.
    #[arg(long, value_name = "FILE")]
    pub(super) events: Option<PathBuf>,

    /// Write the histograms of each second to this file, as an HdrHistogram interval log
    ///
    /// `saltecho report` reads it, and adds up those of several machines.
    #[arg(long, value_name = "FILE")]
    pub(super) hlog: Option<PathBuf>,

    /// Write the report as a page to this file
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// The server's process on this machine: tells its processor time and memory as well
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<u32>,

    /// Show how it goes on the whole terminal; needs a build with the feature `tui`
    #[arg(long)]
    pub(super) tui: bool,

    /// Say nothing while it runs
    #[arg(short, long, env = "SALTECHO_QUIET", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  saltecho load
  saltecho load -c 1000 -r 50k -d 10s --assert 'p99<5ms' --assert 'errors==0'
  saltecho load -c 50 --closed --in-flight 16
  saltecho load -c 19000 --active 1% --source 127.0.0.2-20
  saltecho load --mode connect -c 64 -r 5k --html report.html

Exit codes beyond those of `saltecho --help`: 5 an assertion does not hold, 6 the result is
unreliable or nothing was measured.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Kind {
    /// Authenticate once, then send messages
    Echo,
    /// Connect, authenticate, one message, close; again and again
    Connect,
    /// Authenticate, one message, stay silent, and show at the end that each still answers
    Idle,
}

impl LoadArgs {
    /// Why two of the flags cannot both be meant, wherever they were given.
    pub(super) fn object_to_contradictions(&self) -> Option<String> {
        let rate = ("--rate", "SALTECHO_LOAD_RATE", self.rate.is_some());
        let closed = ("--closed", "SALTECHO_LOAD_CLOSED", self.closed);
        let in_flight = ("--in-flight", "SALTECHO_LOAD_IN_FLIGHT", self.in_flight.is_some());
        let active = ("--active", "SALTECHO_LOAD_ACTIVE", self.active.is_some());
        let ramp = ("--ramp", "SALTECHO_LOAD_RAMP", self.ramp.is_some());
        let (mode, why, useless) = match self.mode {
            Kind::Idle => (
                "--mode idle",
                "its connections are silent while they are measured",
                vec![rate, closed, in_flight, active],
            ),
            Kind::Connect => (
                "--mode connect",
                "each of its connections is begun when a cycle is due, and sends one message",
                vec![in_flight, active, ramp],
            ),
            Kind::Echo => ("", "", vec![]),
        };
        let closed = match self.closed {
            true => Some(("--closed", "the next message is sent when one is answered", rate)),
            false => None,
        };
        let of_mode = useless.into_iter().map(|flag| (mode, why, flag));
        let (one, why, (other, variable, _)) =
            of_mode.chain(closed).find(|(_, _, (_, _, is_given))| *is_given)?;
        Some(format!("{one} and {other} ({variable}) contradict each other: {why}"))
    }
}

impl From<Kind> for Mode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Echo => Self::Echo,
            Kind::Connect => Self::Connect,
            Kind::Idle => Self::Idle,
        }
    }
}
