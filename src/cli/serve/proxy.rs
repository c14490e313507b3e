//! The flags that say which listeners are behind a balancer that sends the PROXY protocol's header.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use saltecho::server::IpNet;

use super::activation::{Passed, Purpose};
use super::admission::network;
use crate::cli::address::listen_address;
use crate::cli::keyfile::is_loopback;
use crate::cli::log::Log;
use crate::cli::values::Limit;

/// The flags of `saltecho serve` for balancers.
#[derive(Args, Debug)]
pub(super) struct ProxyArgs {
    /// Requirement of a PROXY header (version 1 or 2) in front of each connection to -l: a balancer
    /// that sends it says who the client is, and nothing is sent before. Without it nothing is guessed
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Off)]
    #[arg(env = "SALTECHO_PROXY", hide_env_values = true)]
    proxy: Mode,

    /// Address to listen on for balancers that send a PROXY header, beside those of -l; without -l,
    /// instead of its default. May be given several times
    #[arg(long, value_name = "ADDR", env = "SALTECHO_LISTEN_PROXY", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = listen_address)]
    listen_proxy: Vec<SocketAddr>,

    /// Accept PROXY headers from this network only (10.0.0.0/8, 192.0.2.1), and refuse others on those
    /// listeners. May be given several times [default: any, so only balancers may reach the ports]
    #[arg(long, value_name = "CIDR", env = "SALTECHO_PROXY_TRUST", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = network)]
    proxy_trust: Vec<IpNet>,

    /// Time limit for a PROXY header (5s, 500ms, off); --auth-timeout begins after it
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(env = "SALTECHO_HEADER_TIMEOUT", hide_env_values = true)]
    pub(super) header_timeout: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// No connection begins with a PROXY header
    Off,
    /// Each connection begins with a PROXY header
    Require,
}

/// An address to listen on, and its flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) proxied: bool,
    pub(super) flag: &'static str,
}

impl ProxyArgs {
    /// All addresses to listen on, of which `listen` are those of -l.
    pub(super) fn places(&self, listen: &[SocketAddr]) -> Vec<Place> {
        let proxied = self.proxy == Mode::Require;
        let direct = listen.iter().map(|&address| Place { address, proxied, flag: "-l" });
        let behind = self.listen_proxy.iter();
        let flag = "--listen-proxy";
        direct.chain(behind.map(|&address| Place { address, proxied: true, flag })).collect()
    }

    /// Returns whether --listen-proxy names an address.
    pub(super) const fn has_listeners(&self) -> bool {
        !self.listen_proxy.is_empty()
    }

    /// The places of the listeners that were passed.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub(super) fn passed(&self, passed: &Passed) -> Result<Vec<Place>> {
        let places = passed.listeners.iter().map(|(listener, purpose)| {
            let address =
                listener.local_addr().context("cannot get the address of a socket passed")?;
            let proxied = *purpose == Purpose::Balancer || self.proxy == Mode::Require;
            Ok(Place { address, proxied, flag: "a socket passed" })
        });
        places.collect()
    }

    /// The networks that may send a header; all if there is none.
    pub(super) fn trusted(&self) -> &[IpNet] {
        &self.proxy_trust
    }

    pub(super) fn warn<'a>(&self, places: impl Iterator<Item = &'a Place>, log: &Log) {
        let mut proxied = places.filter(|place| place.proxied).peekable();
        if proxied.peek().is_none() && !self.proxy_trust.is_empty() {
            log.warn(
                "--proxy-trust has no effect: no listener requires a PROXY header (--proxy require, \
                 --listen-proxy ADDR)",
            );
        }
        let open = proxied.find(|place| !is_loopback(&place.address));
        if let Some(Place { address, .. }) = open.filter(|_| self.proxy_trust.is_empty()) {
            log.warn(format_args!(
                "any machine that reaches {address} can claim any client's address in a PROXY header; \
                 name the balancers with --proxy-trust CIDR"
            ));
        }
    }
}
