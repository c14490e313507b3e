//! The flags that decide which clients are admitted when connections become scarce.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use saltecho::server::{IpNet, Limits};

use crate::cli::failure::{Exit, Failure};
use crate::cli::values::Limit;

/// The admission flags of `saltecho serve`.
#[derive(Args, Debug)]
pub(super) struct AdmissionArgs {
    /// Maximum number of unauthenticated connections [default: a quarter of all, at least 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_MAX_UNAUTHENTICATED", hide_env_values = true)]
    max_unauthenticated: Option<u32>,

    /// Maximum number of unauthenticated connections per source (an IPv4 address or an IPv6 /64),
    /// enforced once half of --max-unauthenticated is in use (100, off) [default: an eighth of it]
    #[arg(long, value_name = "N", env = "SALTECHO_MAX_UNAUTHENTICATED_PER_SOURCE")]
    #[arg(hide_env_values = true)]
    max_unauthenticated_per_source: Option<Count>,

    /// Refuse a source for this long after a failed authentication, while half of
    /// --max-unauthenticated is in use (60s, off)
    #[arg(long, value_name = "TIME", default_value = "60s")]
    #[arg(env = "SALTECHO_SUSPICION", hide_env_values = true)]
    suspicion: Limit,

    /// Age from which the oldest unauthenticated connection is closed to make room for a new one,
    /// when all of --max-unauthenticated are in use (1s; off: never)
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(env = "SALTECHO_EVICTION_AGE", hide_env_values = true)]
    eviction_age: Limit,

    /// Never refuse clients from this network because of their source (10.0.0.0/8, 192.0.2.1):
    /// behind a load balancer or a NAT all clients share one. May be given several times
    #[arg(long, value_name = "CIDR", env = "SALTECHO_TRUST", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = network)]
    trust: Vec<IpNet>,

    /// Apply the limits per source to clients on this machine too, unless --trust names their
    /// addresses
    #[arg(long, alias = "judge-loopback")]
    #[arg(env = "SALTECHO_DISTRUST_LOOPBACK", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    distrust_loopback: bool,
}

impl AdmissionArgs {
    /// The networks to trust.
    pub(super) fn trusted(&self) -> &[IpNet] {
        &self.trust
    }

    /// The trusted networks for the server's first log line.
    pub(super) fn settings(&self) -> String {
        let networks: Vec<String> = self.trust.iter().map(ToString::to_string).collect();
        if networks.is_empty() { String::new() } else { format!("; trust {}", networks.join(", ")) }
    }

    /// Applies the flags to `limits`.
    pub(super) fn apply(&self, mut limits: Limits) -> Result<Limits, Failure> {
        let asked = self.max_unauthenticated.map(|number| number as usize);
        if let Some(number) = asked.filter(|number| *number > limits.connections) {
            let text = format!(
                "--max-unauthenticated {number} exceeds the maximum of {} connections, which \
                 --max-connections and `ulimit -n` set",
                limits.connections
            );
            return Err(Failure::with_message(Exit::Usage, text));
        }
        let unauthenticated = asked.unwrap_or(limits.unauthenticated);
        let share = self.max_unauthenticated_per_source.map(|count| count.0);
        limits.unauthenticated = unauthenticated;
        limits.unauthenticated_per_source =
            share.unwrap_or(Some(Limits::share_of(unauthenticated)));
        limits.suspicion = self.suspicion.0.unwrap_or(Duration::ZERO);
        limits.eviction_age = self.eviction_age.0.unwrap_or(Duration::MAX);
        limits.trust_loopback = !self.distrust_loopback;
        Ok(limits)
    }
}

/// A number from 1 up, or `off` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count(Option<usize>);

impl FromStr for Count {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        // `parse` would accept a sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u32>() {
            Ok(number @ 1..) if digits => Ok(Self(Some(number as usize))),
            _ => Err("expected a number from 1 up, or `off`"),
        }
    }
}

/// Parses a network, or an address as the network of that address alone.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let expected =
        "expected an IP address or a network, like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32";
    let network: IpNet = text.parse().map_err(|_| expected.to_owned())?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(inner_address(&network.addr(), &whole)),
    }
}

fn inner_address(address: &impl Display, whole: &IpNet) -> String {
    format!("{address} is an address within {whole}; write {whole}, or the address alone")
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
