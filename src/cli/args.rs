use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::address::{ServerAddress, listen_address};
use super::admission::AdmissionArgs;
use super::doctor::DoctorArgs;
use super::generate::GenerateArgs;
use super::load::LoadArgs;
use super::logs::ReportArgs;
use super::values::{Limit, Size, Spin, keepalive};
use saltecho::auth::MacAlgorithm;

/// An authenticated echo service on one event loop, and its client.
///
/// The server sends 32 random bytes, the client answers with their HMAC under the shared key, and
/// from then on everything comes back in upper case. Only the client proves itself, and nothing is
/// encrypted.
#[derive(Debug, Parser)]
#[command(version, long_version = env!("BUILD_VERSION"), after_long_help = EXAMPLES)]
#[command(max_term_width = 100, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples (those of a command: saltecho COMMAND --help):
  saltecho serve
  saltecho connect
  echo hello | saltecho connect
  saltecho load -c 100 -r 2k -d 1s
  (umask 077; saltecho keygen > new.key)

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration,
3 authentication refused, 4 cannot connect or timed out; of `load` also 5 an assertion does not
hold, of `doctor` 5 the connections do not fit, and of `load` and `report` 6 the result is
unreliable or nothing was measured.

Where the help of a flag names an environment variable, as for all of `serve`, `connect` and
`keygen`, the flag overrides it.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(ServeArgs),
    Connect(ConnectArgs),
    Load(LoadArgs),
    Report(ReportArgs),
    Keygen(KeygenArgs),
    Doctor(DoctorArgs),
    Generate(GenerateArgs),
}

/// Accept connections, authenticate them, and answer their messages.
///
/// SIGTERM and SIGINT (Ctrl-C) stop accepting, finish pending answers, and exit; a second one exits
/// at once. SIGHUP reads the key file again. SIGUSR1 prints the counters. A signal that is ignored
/// at the start, as by nohup, stays ignored.
#[derive(Args, Debug)]
#[command(after_long_help = SERVE_EXAMPLES)]
pub(super) struct ServeArgs {
    /// Address to listen on, with port 9999 if there is none; port 0 takes a free one. May be given
    /// several times
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:9999")]
    #[arg(env = "SALTECHO_LISTEN", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = listen_address)]
    pub(super) listen: Vec<SocketAddr>,

    #[command(flatten)]
    pub(super) keys: KeyArgs,

    /// How messages are answered
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Reply::Upper)]
    #[arg(env = "SALTECHO_REPLY", hide_env_values = true)]
    pub(super) reply: Reply,

    /// Bytes that one recv may return (1k, 32k, 1m); 1k is the tutorial's pacing
    #[arg(long, value_name = "SIZE", default_value = "32k")]
    #[arg(env = "SALTECHO_BUFSIZE", hide_env_values = true)]
    pub(super) bufsize: Size,

    /// Length of the kernel's queue of clients not yet accepted, at most net.core.somaxconn
    #[arg(long, value_name = "N", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_535))]
    #[arg(env = "SALTECHO_BACKLOG", hide_env_values = true)]
    pub(super) backlog: u32,

    /// Maximum number of connections [default: as many as descriptors allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_MAX_CONNECTIONS", hide_env_values = true)]
    pub(super) max_connections: Option<u32>,

    #[command(flatten)]
    pub(super) admission: AdmissionArgs,

    /// Time limit for a client's whole digest (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_AUTH_TIMEOUT", hide_env_values = true)]
    pub(super) auth_timeout: Limit,

    /// Close an authenticated client that sends nothing for this long (10m, off)
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_IDLE_TIMEOUT", hide_env_values = true)]
    pub(super) idle_timeout: Limit,

    /// Time limit for a client to accept one whole answer
    #[arg(long, value_name = "TIME", default_value = "60s")]
    #[arg(env = "SALTECHO_SEND_TIMEOUT", hide_env_values = true)]
    pub(super) send_timeout: Limit,

    /// Probe clients that have been silent for this long, 1s to 3h (or off); one that vanished is
    /// closed within three times as long, and not at all with `off`. Costs a silent client two
    /// packets each time; beyond 120,000 clients a loop takes longer, at 2,000 probes a second
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = keepalive)]
    #[arg(env = "SALTECHO_KEEPALIVE", hide_env_values = true)]
    pub(super) keepalive: Limit,

    /// Time limit for connections to finish after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "25s")]
    #[arg(env = "SALTECHO_DRAIN_TIMEOUT", hide_env_values = true)]
    pub(super) drain_timeout: Limit,

    /// Poll without sleeping for this long after the last event (50us, off): answers come sooner,
    /// and a core is busy as long as messages come
    #[arg(long, value_name = "TIME", default_value = "off")]
    #[arg(env = "SALTECHO_SPIN", hide_env_values = true)]
    pub(super) spin: Spin,

    /// Number of event loops, each on a thread of its own with its own listeners and its part of
    /// the connections; more than one per core does not help
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    #[arg(env = "SALTECHO_WORKERS", hide_env_values = true)]
    pub(super) workers: u16,

    /// Write the ports to this file or FIFO once they are open, one per line; `-` is stdout
    #[arg(long, value_name = "FILE", env = "SALTECHO_PORT_FILE", hide_env_values = true)]
    pub(super) port_file: Option<PathBuf>,

    /// Log each connection: accepted, authenticated, closed and why
    #[arg(short, long, env = "SALTECHO_VERBOSE", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) verbose: bool,

    /// Log nothing but errors and what a signal asks for; overrides --verbose
    #[arg(short, long, env = "SALTECHO_QUIET", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  saltecho serve
  saltecho serve -v --bufsize 1k --idle-timeout 10m
  saltecho serve -k saltecho.key --mac sha256
  saltecho serve -l 127.0.0.1:0 -l 127.0.0.2:0 --port-file ports";

/// Talk to a server: line by line on a terminal, else as a pipe.
///
/// On a terminal each line that is typed is sent, and its answer printed; `quit` or ctrl-D ends,
/// ctrl-C gives up a line, and a paste of several lines is one message.
/// Otherwise stdin is sent and the answers are written to stdout, at full speed in both directions
/// and byte for byte, until stdin has ended and all of it has come back.
#[derive(Args, Debug)]
#[command(after_long_help = CONNECT_EXAMPLES)]
pub(super) struct ConnectArgs {
    /// The server: an IP address or a name, and a port (9999 if there is none)
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    #[arg(env = "SALTECHO_ADDRESS", hide_env_values = true)]
    pub(super) address: ServerAddress,

    #[command(flatten)]
    pub(super) keys: KeyArgs,

    /// How long to wait for the connection, the challenge, and each answer (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_TIMEOUT", hide_env_values = true)]
    pub(super) timeout: Limit,
}

const CONNECT_EXAMPLES: &str = "\
Examples:
  saltecho connect
  echo hello | saltecho connect
  saltecho connect -k saltecho.key --mac sha256 < input > output";

/// What both sides have to agree on.
#[derive(Args, Clone, Debug)]
pub(super) struct KeyArgs {
    /// The file with the shared key [default: the demo key, which everybody knows]
    ///
    /// One key a line, at most four: as plain text, or with `hex:`, `base64:` or `text:` in front;
    /// `#` begins a comment line. A server accepts each of them, a client uses the first. Only its
    /// owner may have access to the file; if root owns it, its group may read it.
    #[arg(short, long, value_name = "FILE", env = "SALTECHO_KEY_FILE", hide_env_values = true)]
    pub(super) key_file: Option<PathBuf>,

    /// Accept a key file that other users can read or replace
    ///
    /// Skips the check of its owner and mode. It is meant for secrets that a container mounts
    /// read-only with mode 0444 or 0644, where only the service itself runs.
    #[arg(long, env = "SALTECHO_ALLOW_EXPOSED_KEY", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_exposed_key: bool,

    /// Accept keys shorter than 16 bytes, which can be guessed
    #[arg(long, env = "SALTECHO_ALLOW_WEAK_KEY", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_weak_key: bool,

    /// The hash under the HMAC; both sides must use the same
    #[arg(long, value_enum, value_name = "HASH", default_value_t = Mac::Md5)]
    #[arg(env = "SALTECHO_MAC", hide_env_values = true)]
    pub(super) mac: Mac,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mac {
    /// HMAC-MD5, as in the tutorial
    Md5,
    /// HMAC-SHA-256
    Sha256,
}

impl From<Mac> for MacAlgorithm {
    fn from(mac: Mac) -> Self {
        match mac {
            Mac::Md5 => Self::Md5,
            Mac::Sha256 => Self::Sha256,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Reply {
    /// What was sent, with a to z in upper case
    Upper,
    /// What was sent
    Same,
}

/// Print a fresh key for a key file: 32 random bytes of the system.
#[derive(Args, Debug)]
#[command(after_long_help = KEYGEN_EXAMPLES)]
pub(super) struct KeygenArgs {
    /// How the key is written
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Encoding::Base64)]
    #[arg(env = "SALTECHO_ENCODING", hide_env_values = true)]
    pub(super) encoding: Encoding,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Encoding {
    Base64,
    Hex,
}

const KEYGEN_EXAMPLES: &str = "\
Examples:
  (umask 077; saltecho keygen > new.key)
  saltecho keygen --encoding hex";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
