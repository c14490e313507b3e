//! `saltecho connect`: the prompt on a terminal, the pipe otherwise.

mod escape;
mod framing;
mod peer;
mod pipe;
mod prompt;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use saltecho::client::Client;

use crate::cli::address::ServerAddress;
use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::KeyArgs;
use crate::cli::protocol::ProtocolArgs;
use crate::cli::values::Limit;
use peer::Peer;

/// Talk to a server: line by line on a terminal, otherwise as a pipe.
///
/// On a terminal each line is sent as one message and its answer is printed. `quit` or Ctrl-D
/// exits, Ctrl-C discards the line, and a paste of several lines is one message.
/// Otherwise stdin is sent and the answers are written to stdout, byte for byte and at full speed
/// in both directions, until stdin has ended and all of it has come back.
#[derive(Args, Debug)]
#[command(after_long_help = CONNECT_EXAMPLES)]
pub(super) struct ConnectArgs {
    /// Server to connect to: an IP address or a host name, and a port (default port: 9999)
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    #[arg(env = "SALTECHO_ADDRESS", hide_env_values = true)]
    address: ServerAddress,

    #[command(flatten)]
    protocol: ProtocolArgs,

    #[command(flatten)]
    keys: KeyArgs,

    /// Time limit for connecting, for the challenge, and for each answer (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_TIMEOUT", hide_env_values = true)]
    timeout: Limit,
}

const CONNECT_EXAMPLES: &str = "\
Examples:
  saltecho connect
  echo hello | saltecho connect
  saltecho connect -k saltecho.key --mac sha256 < input > output
  echo hello | saltecho connect --protocol multiprocessing";

/// Time after which the wait for a connection is announced.
const SOON: Duration = Duration::from_millis(500);

pub(super) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    let protocol = args.protocol.get();
    let keys = args.keys.check(protocol).and_then(|()| args.keys.load());
    let keys = keys.map_err(|error| Failure::new(Exit::Usage, error))?;
    let key = keys.first().expect("a key file has at least one key");
    let mac = args.keys.mac(protocol);
    let peer = Peer { address: &args.address, protocol, key, mac, limit: args.timeout };
    let target = (args.address.host.as_str(), args.address.port);
    let connect = || Client::connect_by(protocol, target, key, mac, args.timeout.0);
    let client = announcing(&peer, connect).map_err(|error| peer.explain(&error))?;
    if io::stdin().is_terminal() { prompt::run(&client, &peer) } else { pipe::run(&client, &peer) }
}

/// Runs `work`, and announces the wait on a terminal if it takes long.
fn announcing<T>(peer: &Peer<'_>, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (done, ended) = channel::<()>();
    let announce = move || {
        if ended.recv_timeout(SOON) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(anstream::stderr(), "saltecho: waiting for {}", peer.address);
        }
    };
    std::thread::scope(|scope| {
        // Without a thread there is no announcement.
        let _ = std::thread::Builder::new().spawn_scoped(scope, announce);
        let result = work();
        drop(done);
        result
    })
}
