use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use saltecho::client::Client;

use super::args::ConnectArgs;
use super::failure::{Failure, Kind};
use super::peer::Peer;
use super::{pipe, prompt};

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
