//! The flags of `saltecho serve`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches};
use saltecho::server::AdminAddress;

use super::admission::AdmissionArgs;
use super::proxy::ProxyArgs;
use super::record::RecordArgs;
use crate::cli::address::{admin_address, listen_address};
use crate::cli::config::{self, Effective, Refusal};
use crate::cli::failure::Failure;
use crate::cli::keyfile::KeyArgs;
use crate::cli::log::{Level, LogFormat};
use crate::cli::protocol::ProtocolArgs;
use crate::cli::reply::Reply;
use crate::cli::values::{Limit, MaxMessage, Size, Spin, freeze_max, keepalive};

/// Accept connections, authenticate them, and answer their messages.
///
/// SIGTERM and SIGINT (Ctrl-C) stop accepting, finish pending answers, and exit; a second one exits
/// at once. SIGHUP reloads the configuration and the key file. SIGUSR1 logs the counters. SIGUSR2
/// starts the program again, which takes over everything, connections included. A signal that is
/// ignored at startup, as under nohup, stays ignored.
#[derive(Args, Debug)]
#[command(after_long_help = SERVE_EXAMPLES)]
pub(in crate::cli) struct ServeArgs {
    /// Configuration: a TOML file whose keys are these flags, which override it, as do their
    /// variables
    ///
    /// `saltecho config init` prints one, `saltecho config check` checks one, and `saltecho config
    /// show --origin` shows where each setting comes from.
    #[arg(long, value_name = "FILE", env = "SALTECHO_CONFIG", hide_env_values = true)]
    pub(in crate::cli) config: Option<PathBuf>,

    /// All settings, and where each comes from.
    #[arg(skip)]
    pub(in crate::cli) effective: Effective,

    /// Address to listen on (default port: 9999; port 0 picks a free one), beside the sockets that
    /// a service manager passes. May be given several times [default: 127.0.0.1:9999, unless sockets
    /// are passed]
    #[arg(short, long, value_name = "ADDR")]
    #[arg(env = "SALTECHO_LISTEN", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = listen_address)]
    pub(super) listen: Vec<SocketAddr>,

    #[command(flatten)]
    pub(super) protocol: ProtocolArgs,

    /// Serve --protocol plain on addresses that other machines can reach: every machine that can send a
    /// packet there may use the server, and make it send as much as it receives. Other protocols refuse it
    #[arg(long, env = "SALTECHO_ALLOW_UNAUTHENTICATED", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_unauthenticated: bool,

    #[command(flatten)]
    pub(super) proxy: ProxyArgs,

    #[command(flatten)]
    pub(super) keys: KeyArgs,

    /// Length of the longest message (1k, 16m, off) in --protocol multiprocessing; a longer one
    /// closes the connection [default: off]
    #[arg(long, value_name = "SIZE")]
    #[arg(env = "SALTECHO_MAX_MESSAGE", hide_env_values = true)]
    pub(super) max_message: Option<MaxMessage>,
    /// Address of the admin endpoint: HTTP for probes, lists of connections, and `saltecho ctl`
    /// (unix:/run/saltecho/admin.sock, 127.0.0.1:9998) [default: none]
    #[arg(long, value_name = "ADDR|unix:PATH", env = "SALTECHO_ADMIN", hide_env_values = true)]
    #[arg(value_parser = admin_address)]
    pub(super) admin: Option<AdminAddress>,

    /// Allow --admin at an address that other machines reach: all who do may list and kill
    /// connections, and stop the server
    #[arg(long, env = "SALTECHO_ADMIN_EXPOSED", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) admin_exposed: bool,

    /// Answer to each message
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Reply::Upper)]
    #[arg(env = "SALTECHO_REPLY", hide_env_values = true)]
    pub(super) reply: Reply,

    /// Maximum number of bytes that one recv returns (1k, 32k, 1m); the tutorial uses 1k
    #[arg(long, visible_alias = "bufsize", value_name = "SIZE", default_value = "32k")]
    #[arg(env = "SALTECHO_RECV_SIZE", hide_env_values = true)]
    pub(super) recv_size: Size,

    /// Length of the kernel's queue of connections not yet accepted; net.core.somaxconn caps it
    #[arg(long, value_name = "N", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_535))]
    #[arg(env = "SALTECHO_BACKLOG", hide_env_values = true)]
    pub(super) backlog: u32,

    /// Maximum number of connections [default: as many as the descriptor limit allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_MAX_CONNECTIONS", hide_env_values = true)]
    pub(super) max_connections: Option<u32>,

    #[command(flatten)]
    pub(super) admission: AdmissionArgs,

    /// Time limit for a client to authenticate (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_AUTH_TIMEOUT", hide_env_values = true)]
    pub(super) auth_timeout: Limit,

    /// Close an authenticated connection that sends nothing for this long (10m, off)
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_IDLE_TIMEOUT", hide_env_values = true)]
    pub(super) idle_timeout: Limit,

    /// Time limit for sending one whole answer
    #[arg(long, value_name = "TIME", default_value = "60s")]
    #[arg(env = "SALTECHO_SEND_TIMEOUT", hide_env_values = true)]
    pub(super) send_timeout: Limit,

    /// Probe clients that have been silent for this long (1s to 3h, off). A client that vanished is
    /// closed within three times this long, and with `off` never. A probe costs two packets; each
    /// loop sends at most 2,000 per second, so beyond 60,000 silent clients it takes longer
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = keepalive)]
    #[arg(env = "SALTECHO_KEEPALIVE", hide_env_values = true)]
    pub(super) keepalive: Limit,

    /// Time after SIGTERM in which the server still accepts connections but is no longer ready, so
    /// that balancers can notice (5s, off)
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_DRAIN_DELAY", hide_env_values = true)]
    pub(super) drain_delay: Limit,

    /// Time limit for finishing connections after SIGTERM, --drain-delay included
    #[arg(long, value_name = "TIME", default_value = "25s")]
    #[arg(env = "SALTECHO_DRAIN_TIMEOUT", hide_env_values = true)]
    pub(super) drain_timeout: Limit,

    /// Most that an upgrade may estimate for the time in which neither process serves; one that may
    /// take longer is refused
    ///
    /// The estimate is 1s and 20us for each connection. The time itself is far shorter, and an upgrade
    /// that takes longer is given up. Where system calls are slow, allow more than 5s: then it has all
    /// of that.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = freeze_max)]
    #[arg(env = "SALTECHO_HANDOVER_FREEZE_MAX", hide_env_values = true)]
    pub(super) handover_freeze_max: Limit,

    /// Poll without sleeping for this long after the last event (50us, off): lower latency, but a
    /// core stays busy while messages arrive
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_SPIN", hide_env_values = true)]
    pub(super) spin: Spin,

    /// Number of event loops, each on its own thread with its own listeners and its share of the
    /// connections; more than one per core does not help
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    #[arg(env = "SALTECHO_WORKERS", hide_env_values = true)]
    pub(super) workers: u16,

    /// Write the ports to this file or FIFO once they are open, one per line; `-` is stdout
    #[arg(long, value_name = "FILE", env = "SALTECHO_PORT_FILE", hide_env_values = true)]
    pub(super) port_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) record: RecordArgs,

    /// Format of the log
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Auto)]
    #[arg(env = "SALTECHO_LOG_FORMAT", hide_env_values = true)]
    pub(super) log_format: LogFormat,

    /// Log each connection: accepted, authenticated, closed and why
    #[arg(short, long, env = "SALTECHO_VERBOSE", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) verbose: bool,

    /// Log only errors and what signals ask for; overrides --verbose
    #[arg(short, long, env = "SALTECHO_QUIET", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

impl ServeArgs {
    /// Parses the command line of this process, which is a server's, again: with the configuration
    /// as it is now.
    pub(super) fn parse_again() -> Result<Self, Failure> {
        let words: Vec<OsString> = std::env::args_os().collect();
        let cli = Command::new("saltecho").subcommand(Self::augment_args(Command::new("serve")));
        let parsed = config::parse(&cli, &words).and_then(|(matches, effective)| {
            let serve = matches.subcommand_matches("serve").expect("it is a server");
            let mut args = Self::from_arg_matches(serve).map_err(Refusal::CommandLine)?;
            args.effective = effective.expect("a server has settings");
            Ok(args)
        });
        parsed.map_err(Refusal::into_failure)
    }

    /// The level of the log.
    pub(super) const fn log_level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Quiet,
            (false, true) => Level::Verbose,
            (false, false) => Level::Normal,
        }
    }
}

const SERVE_EXAMPLES: &str = "\
Examples:
  saltecho serve
  saltecho serve -v --recv-size 1k --idle-timeout 10m
  saltecho serve -k saltecho.key --mac sha256
  saltecho serve --config saltecho.toml
  saltecho serve -l 127.0.0.1:0 -l 127.0.0.2:0 --port-file ports
  saltecho serve --protocol multiprocessing --max-message 16m
  saltecho serve --record run.rec --record-limit 64m
  saltecho serve --protocol plain --reply same
  saltecho serve -l 127.0.0.1:0 --listen-proxy 127.0.0.1:0 --proxy-trust 127.0.0.1";
