//! The flags that say which clients are admitted when places become scarce.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use saltecho::server::{IpNet, Limits};

use crate::cli::failure::{Failure, Kind};
use crate::cli::values::Limit;

/// Part of `serve`'s flags.
#[derive(Args, Debug)]
pub(super) struct AdmissionArgs {
    /// Of the connections, how many may be unauthenticated [default: a quarter, at least 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_MAX_UNAUTHENTICATED", hide_env_values = true)]
    max_unauthenticated: Option<u32>,

    /// Of the unauthenticated, how many may come from one source (an IPv4 address or an IPv6 /64)
    /// once half of their places are taken (100, off) [default: an eighth]
    #[arg(long, value_name = "N", env = "SALTECHO_MAX_UNAUTHENTICATED_PER_SOURCE")]
    #[arg(hide_env_values = true)]
    max_unauthenticated_per_source: Option<Count>,

    /// How long a source that failed to authenticate is refused while half of the places for
    /// unauthenticated clients are taken (60s, off)
    #[arg(long, value_name = "TIME", default_value = "60s")]
    #[arg(env = "SALTECHO_SUSPICION", hide_env_values = true)]
    suspicion: Limit,

    /// From what age the oldest unauthenticated connection makes room for a new one when all
    /// their places are taken (1s; off: never)
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(env = "SALTECHO_EVICTION_AGE", hide_env_values = true)]
    eviction_age: Limit,

    /// Never refuse clients from this network for where they come from (10.0.0.0/8, 192.0.2.1):
    /// behind a load balancer or a NAT all clients are one source. May be given several times
    #[arg(long, value_name = "CIDR", env = "SALTECHO_TRUST", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = network)]
    trust: Vec<IpNet>,

    /// Refuse clients on this machine for where they come from as well, unless --trust names
    /// their addresses
    #[arg(long, env = "SALTECHO_JUDGE_LOOPBACK", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    judge_loopback: bool,
}

impl AdmissionArgs {
    /// The networks to trust.
    pub(super) fn trusted(&self) -> &[IpNet] {
        &self.trust
    }

    /// Says in the server's first line which networks are trusted, if any.
    pub(super) fn terms(&self) -> String {
        let networks: Vec<String> = self.trust.iter().map(ToString::to_string).collect();
        if networks.is_empty() { String::new() } else { format!("; trust {}", networks.join(", ")) }
    }

    /// These limits with what was asked for here.
    pub(super) fn apply(&self, limits: Limits) -> Result<Limits, Failure> {
        let asked = self.max_unauthenticated.map(|number| number as usize);
        if let Some(number) = asked.filter(|number| *number > limits.connections) {
            let text = format!(
                "--max-unauthenticated: {number} are more than the {} connections that there may \
                 be; --max-connections and `ulimit -n` set how many those are",
                limits.connections
            );
            return Err(Failure::because(Kind::Usage, text));
        }
        let unauthenticated = asked.unwrap_or(limits.unauthenticated);
        let share = self.max_unauthenticated_per_source.map(|count| count.0);
        Ok(Limits {
            unauthenticated,
            unauthenticated_per_source: share.unwrap_or(Some(Limits::share_of(unauthenticated))),
            suspicion: self.suspicion.0.unwrap_or(Duration::ZERO),
            eviction_age: self.eviction_age.0.unwrap_or(Duration::MAX),
            trust_loopback: !self.judge_loopback,
            ..limits
        })
    }
}

/// A number from 1 up, or `off` for as many as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count(Option<usize>);

impl FromStr for Count {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        // A sign is none of the digits, though `parse` takes one.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u32>() {
            Ok(number @ 1..) if digits => Ok(Self(Some(number as usize))),
            _ => Err("expected a number from 1 up, or `off`"),
        }
    }
}

/// A network, or an address, which stands for itself alone.
fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let expected =
        "expected an IP address or a network, like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32";
    let network: IpNet = text.parse().map_err(|_| expected.to_owned())?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(not_its_first(&network.addr(), &whole)),
    }
}

fn not_its_first(address: &impl Display, whole: &IpNet) -> String {
    format!("{address} is an address inside of {whole}; write {whole}, or the address alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_they_are() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), shown);
        }
        for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.1:80", "/8"] {
            assert!(network(text).is_err(), "{text:?}");
        }
        let error = network("10.1.2.3/8").unwrap_err();
        assert!(error.contains("write 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn counts_begin_at_one_or_are_off() {
        assert_eq!("off".parse(), Ok(Count(None)));
        assert_eq!("1".parse(), Ok(Count(Some(1))));
        for text in ["", "0", "+1", "-1", "1k", "OFF", "4294967296"] {
            assert!(text.parse::<Count>().is_err(), "{text:?}");
        }
    }
}
