//! `saltecho health`: a probe for places without a shell and without curl.

use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use saltecho::client::Client;

use super::address::{AdminTarget, ServerAddress};
use super::failure::{Exit, Failure};
use super::keyfile::KeyArgs;
use super::protocol::ProtocolArgs;
use super::values::Limit;
use super::{http, output};

/// Check whether a server is ready: exit code 0 if it is, 1 if not.
///
/// By default it asks the admin endpoint whether new clients are welcome. With --deep it is a client
/// itself: it connects, authenticates, and expects an answer, so it needs the key and no endpoint.
#[derive(Args, Debug)]
#[command(after_long_help = HEALTH_EXAMPLES)]
pub(super) struct HealthArgs {
    /// The admin endpoint, in place of --admin; with --deep the server itself [default with --deep:
    /// 127.0.0.1:9999]
    #[arg(value_name = "ADDR|unix:PATH")]
    address: Option<String>,

    /// The admin endpoint: unix:PATH, or a host and a port [default: unix:/run/saltecho/admin.sock if
    /// it is there, or else 127.0.0.1:9998]
    #[arg(long, value_name = "ADDR|unix:PATH")]
    #[arg(env = "SALTECHO_ADMIN", hide_env_values = true)]
    admin: Option<AdminTarget>,

    /// Check only that the loop turns, not that it is ready: a draining server passes
    #[arg(long)]
    live: bool,

    /// Authenticate and exchange a message with the server
    #[arg(long, env = "SALTECHO_HEALTH_DEEP", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    deep: bool,

    #[command(flatten)]
    protocol: ProtocolArgs,

    #[command(flatten)]
    keys: KeyArgs,

    /// Time limit for each step (2s, 500ms)
    #[arg(short, long, value_name = "TIME", default_value = "2s")]
    #[arg(env = "SALTECHO_HEALTH_TIMEOUT", hide_env_values = true)]
    timeout: Limit,
}

const HEALTH_EXAMPLES: &str = "\
Examples:
  saltecho health
  saltecho health unix:/run/saltecho/admin.sock
  saltecho health --live
  saltecho health --deep -k saltecho.key 127.0.0.1:9999";

/// A message whose answer shows that it came back.
const MESSAGE: &[u8] = b"health";

pub(super) fn run(args: &HealthArgs) -> Result<(), Failure> {
    let checked = match args.deep {
        true if args.live => {
            let text = "--live and --deep (SALTECHO_HEALTH_DEEP) are two checks: remove one";
            return Err(Failure::with_message(Exit::Usage, text.to_owned()));
        }
        true => args.check_service()?,
        false => args.check_endpoint()?,
    };
    // Container engines know 0 and 1; 2 is reserved.
    checked.map_err(|error| Failure::new(Exit::Runtime, error))?;
    Ok(output::print(if args.live { "alive\n" } else { "ready\n" })?)
}

impl HealthArgs {
    /// Asks the admin endpoint. An address that is none is wrong usage.
    fn check_endpoint(&self) -> Result<Result<()>, Failure> {
        let target = self.address.as_deref().map(AdminTarget::from_str).transpose();
        let target = target.map_err(wrong_address)?.or_else(|| self.admin.clone());
        let target = target.unwrap_or_else(AdminTarget::find);
        let path = if self.live { "/livez" } else { "/readyz" };
        let ask = || {
            let answer =
                http::ask(&target, "GET", path, self.timeout.0).map_err(Failure::into_error)?;
            let status = answer.status;
            let text = answer.content.text().unwrap_or_default();
            let what = if self.live { "alive" } else { "ready" };
            ensure!(status == 200, "not {what}: {}", text.trim_end());
            Ok(())
        };
        Ok(ask())
    }

    /// Is a client of the service. Without a key there is nothing to check.
    fn check_service(&self) -> Result<Result<()>, Failure> {
        let address = self.address.as_deref().unwrap_or("127.0.0.1:9999");
        let address: ServerAddress = address.parse().map_err(wrong_address)?;
        let protocol = self.protocol.get();
        self.keys.check(protocol).map_err(|error| Failure::new(Exit::Usage, error))?;
        let keys = self.keys.load().map_err(|error| Failure::new(Exit::Usage, error))?;
        let key = keys.first().expect("a key file has at least one key");
        let exchange = || {
            let target = (address.host.as_str(), address.port);
            let (mac, timeout) = (self.keys.mac(protocol), self.timeout.0);
            let client = Client::connect_by(protocol, target, key, mac, timeout);
            let mut answer = Vec::new();
            client
                .and_then(|mut client| client.exchange(MESSAGE, &mut answer))
                .map_err(|error| anyhow!("{error}"))?;
            // Either way of --reply is an answer.
            let is_right = answer == MESSAGE || answer == MESSAGE.to_ascii_uppercase();
            ensure!(is_right, "the answer is wrong: {}", answer.escape_ascii());
            Ok(())
        };
        Ok(exchange().with_context(|| format!("not ready: {address}")))
    }
}

fn wrong_address(text: String) -> Failure {
    Failure::with_message(Exit::Usage, text)
}
