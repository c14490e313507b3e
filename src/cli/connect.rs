use std::io::{self, IsTerminal};

use saltecho::client::Client;

use super::args::ConnectArgs;
use super::failure::{Failure, Kind};
use super::peer::Peer;
use super::{pipe, prompt};

pub(super) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    let keys = args.keys.load().map_err(|error| Failure::new(Kind::Usage, error))?;
    let key = keys.first().expect("a key file without a key was refused");
    let peer = Peer { address: &args.address, key, mac: args.keys.mac.into(), limit: args.timeout };
    let target = (args.address.host.as_str(), args.address.port);
    let client = Client::connect(target, key, peer.mac, args.timeout.0)
        .map_err(|error| peer.explain(&error))?;
    if io::stdin().is_terminal() {
        prompt::run(client, &peer)
    } else {
        pipe::run(client.into_socket(), &peer)
    }
}
