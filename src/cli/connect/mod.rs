//! `saltecho connect`: the prompt on a terminal, the pipe otherwise.

mod escape;
mod peer;
mod pipe;
mod prompt;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use saltecho::client::Client;

use crate::cli::address::ServerAddress;
use crate::cli::failure::{Failure, Kind};
use crate::cli::keyfile::KeyArgs;
use crate::cli::values::Limit;
use peer::Peer;

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
    address: ServerAddress,

    #[command(flatten)]
    keys: KeyArgs,

    /// How long to wait for the connection, the challenge, and each answer (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_TIMEOUT", hide_env_values = true)]
    timeout: Limit,
}

const CONNECT_EXAMPLES: &str = "\
Examples:
  saltecho connect
  echo hello | saltecho connect
  saltecho connect -k saltecho.key --mac sha256 < input > output";

/// How long a connection takes before the user is told that it is being waited for.
const SOON: Duration = Duration::from_millis(500);

pub(super) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    let keys = args.keys.load().map_err(|error| Failure::new(Kind::Usage, error))?;
    let key = keys.first().expect("a key file without a key was refused");
    let peer = Peer { address: &args.address, key, mac: args.keys.mac.into(), limit: args.timeout };
    let target = (args.address.host.as_str(), args.address.port);
    let connect = || Client::connect(target, key, peer.mac, args.timeout.0);
    let client = announced(&peer, connect).map_err(|error| peer.explain(&error))?;
    if io::stdin().is_terminal() { prompt::run(&client, &peer) } else { pipe::run(&client, &peer) }
}

/// Does what may take long, and says so on a terminal if it does.
fn announced<T>(peer: &Peer<'_>, work: impl FnOnce() -> T) -> T {
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
