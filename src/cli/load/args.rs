use std::path::PathBuf;

use clap::{Args, ValueEnum};
use saltecho::load::sweep::Slo;
use saltecho::load::{Assertion, Mode};

use super::values::{Active, MessageSizes, Rate, Rates, Sources, StartAt};
use crate::cli::address::{AdminTarget, ServerAddress};
use crate::cli::keyfile::KeyArgs;
use crate::cli::protocol::ProtocolArgs;
use crate::cli::reply::Reply;
use crate::cli::values::{Limit, Spin};

/// Generate load, verify every byte of the answers, and measure latency.
///
/// By default messages are due at a fixed rate, no matter how fast the server answers, and latency
/// is measured from when a message was due (the open model). With --closed each connection sends
/// its next message when the last one is answered: good for throughput, not for latency.
///
/// The generator measures its own lateness. If that is more than a tenth of the p99 latency, the
/// result is marked UNRELIABLE and the exit code is 6. Ctrl-C stops early and still reports.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(in crate::cli) struct LoadArgs {
    /// Server to connect to: an IP address or a host name, and a port (default port: 9999)
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    #[arg(env = "SALTECHO_ADDRESS", hide_env_values = true)]
    pub(super) address: ServerAddress,

    #[command(flatten)]
    pub(super) protocol: ProtocolArgs,

    #[command(flatten)]
    pub(super) keys: KeyArgs,

    /// Behavior of each connection
    #[arg(long, value_enum, value_name = "MODE", default_value_t = LoadMode::Echo)]
    #[arg(env = "SALTECHO_LOAD_MODE", hide_env_values = true)]
    pub(super) mode: LoadMode,

    /// Number of connections; with --mode connect, the maximum at the same time
    #[arg(short, long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_LOAD_CONNECTIONS", hide_env_values = true)]
    pub(super) connections: u32,

    /// Number or percentage of connections that send messages [default: all]
    #[arg(long, value_name = "N|P%", env = "SALTECHO_LOAD_ACTIVE", hide_env_values = true)]
    pub(super) active: Option<Active>,

    /// Messages (or cycles) per second over all connections: 500, 50k, 1m [default: 1000]
    #[arg(short, long, value_name = "RATE", env = "SALTECHO_LOAD_RATE", hide_env_values = true)]
    pub(super) rate: Option<Rate>,

    /// Send the next message as soon as one is answered, instead of at a fixed rate
    #[arg(long, env = "SALTECHO_LOAD_CLOSED", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) closed: bool,

    /// Maximum unanswered messages per connection [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    #[arg(env = "SALTECHO_LOAD_IN_FLIGHT", hide_env_values = true)]
    pub(super) in_flight: Option<u32>,

    /// Message size in bytes (64, 16k, 1m), or several with their shares (64:90%,16k:10%)
    #[arg(short, long, value_name = "SIZE", default_value = "64")]
    #[arg(env = "SALTECHO_LOAD_SIZE", hide_env_values = true)]
    pub(super) size: MessageSizes,

    /// With --closed, pause of each connection between an answer and its next message (100ms)
    #[arg(long, value_name = "TIME", value_parser = super::values::time)]
    #[arg(env = "SALTECHO_LOAD_THINK", hide_env_values = true)]
    pub(super) think: Option<std::time::Duration>,

    /// Duration of the measurement, which starts when all connections are authenticated (30s, 5m)
    #[arg(short, long, value_name = "TIME", default_value = "30s", value_parser = super::values::time)]
    #[arg(env = "SALTECHO_LOAD_DURATION", hide_env_values = true)]
    pub(super) duration: std::time::Duration,

    /// Spread connecting over this time [default: as fast as possible]
    #[arg(long, value_name = "TIME", value_parser = super::values::time)]
    #[arg(env = "SALTECHO_LOAD_RAMP", hide_env_values = true)]
    pub(super) ramp: Option<std::time::Duration>,

    /// Local addresses to connect from, in turn (127.0.0.2-20, 10.0.0.5,10.0.0.6)
    ///
    /// Each allows about 28,000 connections to one server. A range counts up the last number.
    #[arg(long, value_name = "ADDRS", env = "SALTECHO_LOAD_SOURCE", hide_env_values = true)]
    pub(super) source: Option<Sources>,

    /// Time limit for each connect, authentication and echo (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_TIMEOUT", hide_env_values = true)]
    pub(super) timeout: Limit,

    /// Expected answers of the server
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Reply::Upper)]
    #[arg(env = "SALTECHO_REPLY", hide_env_values = true)]
    pub(super) reply: Reply,

    /// Seed for the message contents
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(env = "SALTECHO_LOAD_SEED", hide_env_values = true)]
    pub(super) seed: u64,

    /// Poll without sleeping for this long after the last event (100us, off): keeps the
    /// generator's own wake-up time out of the latencies, but a core stays busy
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_LOAD_SPIN", hide_env_values = true)]
    pub(super) spin: Spin,

    /// Measure a curve: each rate from one to the other, and where latency leaves --slo (10k..200k)
    ///
    /// Each rate is twice the one before, unless --steps says how many there are. -d is the time of one
    /// measurement. A rate above capacity is cut short, and one at which the generator was late is
    /// excluded. With --json `saltecho report` reads the result again, and compares two.
    #[arg(long, value_name = "RATE..RATE", env = "SALTECHO_LOAD_SWEEP", hide_env_values = true)]
    pub(super) sweep: Option<Rates>,

    /// With --sweep, number of rates, in even ratios [default: doubling]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    #[arg(requires = "sweep", env = "SALTECHO_LOAD_STEPS", hide_env_values = true)]
    pub(super) steps: Option<u32>,

    /// With --sweep, number of measurements at each rate [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    #[arg(requires = "sweep", env = "SALTECHO_LOAD_REPEAT", hide_env_values = true)]
    pub(super) repeat: Option<u32>,

    /// With --sweep, find the highest rate that holds this (p99<5ms, p99.9<=20ms, max<1s)
    ///
    /// Judged by the share of all due messages that were answered within the limit. Bisected down to a
    /// twentieth and confirmed over windows of three times -d; exit code 5 if no rate holds it.
    #[arg(long, value_name = "EXPR", requires = "sweep")]
    #[arg(env = "SALTECHO_LOAD_SLO", hide_env_values = true)]
    pub(super) slo: Option<Slo>,

    /// Start at this time, so that several machines start together (2026-11-25T12:00:00Z)
    #[arg(long, value_name = "TIME", env = "SALTECHO_LOAD_START_AT", hide_env_values = true)]
    pub(super) start_at: Option<StartAt>,

    /// Assert a condition on the result (p99<5ms, errors==0); exit code 5 if it fails
    ///
    /// May be given several times. Left of the comparison: p50, p99.9, max, mean, the same for a
    /// series (connect.p99, auth.max, service.p50), errors, errors.KIND, rate, answered.
    #[arg(long = "assert", value_name = "EXPR")]
    pub(super) assertions: Vec<Assertion>,

    /// Print the report as JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Write one line of JSON per second to this file
    ///
    /// `-` is stdout, also for --hlog and --html; the text report then goes to stderr.
    #[arg(long, value_name = "FILE")]
    pub(super) events: Option<PathBuf>,

    /// Write the histograms of each second to this file, as an HdrHistogram interval log
    ///
    /// `saltecho report` reads it, and merges the logs of several machines.
    #[arg(long, value_name = "FILE")]
    pub(super) hlog: Option<PathBuf>,

    /// Write the report as an HTML page to this file
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// PID of a local server: also report its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<u32>,

    /// The server's admin endpoint (unix:PATH, 127.0.0.1:9998): also report its upgrades, and when they
    /// were
    #[arg(long, value_name = "ADDR|unix:PATH")]
    pub(super) admin: Option<AdminTarget>,

    /// Show a full-screen dashboard (needs a build with the `tui` feature)
    #[arg(long)]
    pub(super) tui: bool,

    /// Show no progress
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
  saltecho load --protocol plain --reply same 127.0.0.1:7
  saltecho load --sweep 10k..200k -d 5s --slo 'p99<5ms' --html curve.html

Exit codes in addition to those in `saltecho --help`: 5 an assertion failed, 6 the result is
unreliable or nothing was measured.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LoadMode {
    /// Authenticate once, then send messages
    Echo,
    /// Connect, authenticate, send one message, close; repeatedly
    Connect,
    /// Authenticate, send one message, stay silent, and check at the end that each still answers
    Idle,
}

impl LoadArgs {
    /// Names two flags that contradict each other, given on the command line or by variables.
    pub(super) fn find_contradiction(&self) -> Option<String> {
        if self.sweep.is_some() {
            const LOG: &str = "each measurement is a run of its own; --json has them all";
            let idle = self.mode == LoadMode::Idle;
            let useless = [
                ("--rate (SALTECHO_LOAD_RATE)", self.rate.is_some(), "it sets the rates"),
                ("--closed (SALTECHO_LOAD_CLOSED)", self.closed, "its messages are due at a rate"),
                ("--mode idle", idle, "idle connections are silent while they are measured"),
                ("--assert", !self.assertions.is_empty(), "use --slo"),
                ("--events", self.events.is_some(), LOG),
                ("--hlog", self.hlog.is_some(), LOG),
                ("--pid", self.pid.is_some(), LOG),
                ("--admin", self.admin.is_some(), LOG),
                ("--tui", self.tui, "it shows one run"),
            ];
            if let Some((flag, _, why)) = useless.into_iter().find(|(_, is_given, _)| *is_given) {
                return Some(format!(
                    "--sweep (SALTECHO_LOAD_SWEEP) cannot be used with {flag}: {why}"
                ));
            }
        }
        let rate = ("--rate", "SALTECHO_LOAD_RATE", self.rate.is_some());
        let closed = ("--closed", "SALTECHO_LOAD_CLOSED", self.closed);
        let in_flight = ("--in-flight", "SALTECHO_LOAD_IN_FLIGHT", self.in_flight.is_some());
        let active = ("--active", "SALTECHO_LOAD_ACTIVE", self.active.is_some());
        let ramp = ("--ramp", "SALTECHO_LOAD_RAMP", self.ramp.is_some());
        let think = ("--think", "SALTECHO_LOAD_THINK", self.think.is_some());
        let (mode, why, useless) = match self.mode {
            LoadMode::Idle => (
                "--mode idle",
                "idle connections are silent while they are measured",
                vec![rate, closed, in_flight, active, think],
            ),
            LoadMode::Connect => (
                "--mode connect",
                "each connection starts when its cycle is due and sends one message",
                vec![in_flight, active, ramp, think],
            ),
            LoadMode::Echo => ("", "", vec![]),
        };
        let closed = match (self.closed, self.think) {
            (false, None) => None,
            (false, Some(_)) => Some((
                "a fixed rate (no --closed)",
                "messages are due no matter when others are answered",
                think,
            )),
            (true, Some(_)) if in_flight.2 => {
                Some(("--think", "a connection that pauses has no message in flight", in_flight))
            }
            (true, _) => {
                Some(("--closed", "the next message is sent as soon as one is answered", rate))
            }
        };
        let of_mode = useless.into_iter().map(|flag| (mode, why, flag));
        let (one, why, (other, variable, _)) =
            of_mode.chain(closed).find(|(_, _, (_, _, is_given))| *is_given)?;
        Some(format!("{one} cannot be used with {other} ({variable}): {why}"))
    }
}

impl From<LoadMode> for Mode {
    fn from(mode: LoadMode) -> Self {
        match mode {
            LoadMode::Echo => Self::Echo,
            LoadMode::Connect => Self::Connect,
            LoadMode::Idle => Self::Idle,
        }
    }
}
