//! From flags to the settings of a server, with every check that needs no socket.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use saltecho::auth::Keyring;
use saltecho::proto::Config;
use saltecho::server::{AdminAddress, IpNet, Limits, Server, ServerBuilder};

use super::{ServeArgs, cannot_build, journal};
use crate::cli::address::ServerAddress;
use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::Keys;

/// The settings of a server.
pub(super) struct Settings {
    /// The addresses to listen on.
    pub(super) listen: Vec<SocketAddr>,
    /// The addresses of the sockets that a service manager passed.
    pub(super) passed: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    pub(super) workers: usize,
    pub(super) config: Config,
    pub(super) limits: Limits,
    pub(super) trusted: Vec<IpNet>,
    /// The public names of the keys.
    pub(super) keys: Vec<String>,
}

impl Settings {
    /// Reads the keys and checks that all flags fit together and into this process, for a server that
    /// was also passed sockets at these addresses.
    pub(super) fn check(args: &ServeArgs, passed: &[SocketAddr]) -> Result<Self, Failure> {
        let listen = args.addresses(passed);
        refuse_repeated(&listen)?;
        args.refuse_exposed_admin()?;
        let addresses = [&listen[..], passed].concat();
        let keys = Keys::for_server(&args.keys, &addresses)
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let settings = Self {
            listen,
            passed: passed.to_vec(),
            admin: args.admin.clone(),
            workers: usize::from(args.workers),
            config: args.config(keys.keyring),
            limits: args.admission.apply(args.limits(addresses.len()))?,
            trusted: args.admission.trusted().to_vec(),
            keys: keys.names,
        };
        // A socket that was passed needs the same as one that is opened.
        let checked = settings.builder_at(&addresses).check_workers(settings.workers);
        checked.map_err(|error| cannot_build(error, &settings))?;
        Ok(settings)
    }

    /// All addresses, those of the passed sockets last.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        [&self.listen[..], &self.passed].concat()
    }

    /// The server with these settings, which is not yet built and has no passed sockets.
    pub(super) fn builder(&self) -> ServerBuilder {
        self.builder_at(&self.listen)
    }

    fn builder_at(&self, addresses: &[SocketAddr]) -> ServerBuilder {
        let mut builder = Server::builder().config(self.config.clone()).limits(self.limits);
        for address in addresses {
            builder = builder.listen(*address);
        }
        if let Some(address) = &self.admin {
            builder = builder.admin(address.clone());
        }
        builder.trust(self.trusted.iter().copied())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, limits, keys, workers, .. } = self;
        f.write_str(&journal::settings(config, limits, keys, *workers))?;
        let networks: Vec<String> = self.trusted.iter().map(ToString::to_string).collect();
        match networks.is_empty() {
            true => Ok(()),
            false => write!(f, "; trust {}", networks.join(", ")),
        }
    }
}

impl ServeArgs {
    /// Refuses an admin endpoint that other machines reach, unless that is allowed.
    fn refuse_exposed_admin(&self) -> Result<(), Failure> {
        match &self.admin {
            Some(address) if !address.is_local() && !self.admin_exposed => {
                let text = format!(
                    "--admin {address} can be reached from other machines, which could list and \
                     kill connections and stop the server: use a loopback address or unix:PATH, or \
                     allow it with --admin-exposed"
                );
                Err(Failure::with_message(Exit::Usage, text))
            }
            _ => Ok(()),
        }
    }

    fn config(&self, keyring: Keyring) -> Config {
        let mut config = Config::new(keyring);
        config.auth_timeout = self.auth_timeout.0;
        config.idle_timeout = self.idle_timeout.0;
        config.send_timeout = self.send_timeout.0;
        config.keepalive = self.keepalive.0;
        config.recv_size = self.recv_size.0;
        config
    }

    /// The addresses to listen on beside the sockets that were passed, which take the place of the
    /// default.
    fn addresses(&self, passed: &[SocketAddr]) -> Vec<SocketAddr> {
        match self.listen.is_empty() && passed.is_empty() {
            true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, ServerAddress::DEFAULT_PORT))],
            false => self.listen.clone(),
        }
    }

    fn limits(&self, addresses: usize) -> Limits {
        let mut limits = match self.max_connections {
            Some(number) => Limits::for_connections(number as usize),
            None => {
                let admin = self.admin.as_ref().map_or(0, |_| Limits::DESCRIPTORS_OF_ADMIN);
                Limits::for_workers(self.workers.into(), addresses, admin)
            }
        };
        limits.backlog = self.backlog;
        limits.drain_delay = self.drain_delay.0.unwrap_or_default();
        limits.drain_timeout = self.drain_timeout.0;
        limits.spin = self.spin.0;
        limits
    }
}

/// Refuses an address that is given twice. Port 0 may be: it picks another port each time.
fn refuse_repeated(addresses: &[SocketAddr]) -> Result<(), Failure> {
    let repeated = addresses
        .iter()
        .enumerate()
        .find(|(index, address)| address.port() != 0 && addresses[..*index].contains(address));
    match repeated {
        None => Ok(()),
        Some((_, address)) => {
            let text = format!("-l {address} is given twice: remove one");
            Err(Failure::with_message(Exit::Usage, text))
        }
    }
}
