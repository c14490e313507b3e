//! From flags to the settings of a server, with every check that needs no socket.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use saltecho::auth::Keyring;
use saltecho::proto::{Config, Protocol};
use saltecho::server::{AdminAddress, IpNet, Limits, Server, ServerBuilder};

use super::activation::Passed;
use super::proxy::Place;
use super::{ServeArgs, cannot_build, journal};
use crate::cli::address::ServerAddress;
use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::{Keys, is_loopback};
use crate::cli::values::{Limit, MaxMessage};

/// The settings of a server.
pub(super) struct Settings {
    pub(super) fixed: Fixed,
    pub(super) config: Config,
    pub(super) limits: Limits,
    pub(super) trusted: Vec<IpNet>,
    /// The networks that may send PROXY headers; all if there is none.
    pub(super) proxies: Vec<IpNet>,
    /// The public names of the keys.
    pub(super) keys: Vec<String>,
}

/// Settings that cannot change while the server runs.
#[derive(Clone)]
pub(super) struct Fixed {
    /// The addresses to listen on.
    pub(super) places: Vec<Place>,
    /// Those of the sockets that a service manager passed.
    pub(super) passed: PassedPlaces,
    pub(super) protocol: Protocol,
    max_message: Option<MaxMessage>,
    pub(super) admin: Option<AdminAddress>,
    pub(super) workers: usize,
}

/// The addresses of the sockets that a service manager passed.
#[derive(Clone, Default)]
pub(super) struct PassedPlaces {
    pub(super) places: Vec<Place>,
    pub(super) admin: Option<AdminAddress>,
}

impl PassedPlaces {
    /// # Errors
    /// Those of getsockname(2).
    pub(super) fn new(args: &ServeArgs, passed: &Passed) -> Result<Self, Failure> {
        let admin = passed.admin.as_ref().map(|listener| listener.address().clone());
        Ok(Self { places: args.proxy.passed(passed)?, admin })
    }
}

impl Fixed {
    fn new(args: &ServeArgs, passed: PassedPlaces) -> Result<Self, Failure> {
        let admin = args.admin_address(&passed)?;
        let is_asked = !args.listen.is_empty() || args.proxy.has_listeners();
        let is_default = !is_asked && passed.places.is_empty();
        let default = [SocketAddr::from((Ipv4Addr::LOCALHOST, ServerAddress::DEFAULT_PORT))];
        let places = args.proxy.places(if is_default { &default } else { &args.listen });
        refuse_repeated(&places)?;
        args.check_protocol(&[&places[..], &passed.places].concat())?;
        Ok(Self {
            places,
            passed,
            protocol: args.protocol.get(),
            max_message: args.max_message,
            admin,
            workers: args.workers.into(),
        })
    }

    pub(super) fn all_places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().chain(&self.passed.places)
    }

    /// All addresses, those of the passed sockets last.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.all_places().map(|place| place.address).collect()
    }
}

impl Settings {
    /// Reads the keys and checks that all flags fit together and into this process, for a server that
    /// was also passed these sockets.
    pub(super) fn check(args: &ServeArgs, passed: PassedPlaces) -> Result<Self, Failure> {
        Self::with(args, Fixed::new(args, passed)?)
    }

    /// The settings of a running server, in which `fixed` stays as it is.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub(super) fn with(args: &ServeArgs, fixed: Fixed) -> Result<Self, Failure> {
        let keys = Keys::for_server(&args.keys, fixed.protocol, &fixed.addresses())
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let settings = Self {
            config: args.config(&fixed, keys.keyring),
            limits: args.admission.apply(args.limits(&fixed))?,
            trusted: args.admission.trusted().to_vec(),
            proxies: args.proxy.trusted().to_vec(),
            keys: keys.names,
            fixed,
        };
        // A socket that was passed needs the same as one that is opened.
        let builder = settings.builder_at(settings.fixed.all_places());
        let checked = builder.check_workers(settings.fixed.workers);
        checked.map_err(|error| cannot_build(error, &settings))?;
        Ok(settings)
    }

    /// The server with these settings, which is not yet built and has no passed listeners.
    pub(super) fn builder(&self) -> ServerBuilder {
        self.builder_at(self.fixed.places.iter())
    }

    /// The server with these settings that takes over the listeners of another.
    pub(super) fn builder_of_successor(&self) -> ServerBuilder {
        self.builder_at(self.fixed.all_places())
    }

    fn builder_at<'a>(&self, places: impl Iterator<Item = &'a Place>) -> ServerBuilder {
        let mut builder = Server::builder().config(self.config.clone()).limits(self.limits);
        for place in places {
            builder = match place.proxied {
                true => builder.listen_proxy(place.address),
                false => builder.listen(place.address),
            };
        }
        if let Some(address) = &self.fixed.admin {
            builder = builder.admin(address.clone());
        }
        builder.trust(self.trusted.iter().copied()).trust_proxies(self.proxies.iter().copied())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fixed, config, limits, keys, .. } = self;
        f.write_str(&journal::settings(config, limits, keys, fixed.workers))?;
        if let Some(limit) = fixed.max_message {
            write!(f, "; max message {limit}")?;
        }
        if !self.trusted.is_empty() {
            write!(f, "; trust {}", list(&self.trusted))?;
        }
        if fixed.all_places().any(|place| place.proxied) {
            let from = match self.proxies.is_empty() {
                true => "anywhere".to_owned(),
                false => list(&self.proxies),
            };
            let time = Limit(config.header_timeout);
            write!(f, "; PROXY headers from {from} within {time}")?;
        }
        Ok(())
    }
}

fn list(networks: &[IpNet]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl ServeArgs {
    /// Refuses an open service that was not asked for, and flags without effect.
    fn check_protocol(&self, places: &[Place]) -> Result<(), Failure> {
        let protocol = self.protocol.get();
        let usage = |text| Err(Failure::with_message(Exit::Usage, text));
        if self.max_message.is_some() && protocol != Protocol::Multiprocessing {
            return usage(format!(
                "--max-message (SALTECHO_MAX_MESSAGE) cannot be used with --protocol {protocol}: it \
                 has no messages, only bytes"
            ));
        }
        if self.allow_unauthenticated && protocol != Protocol::Plain {
            return usage(format!(
                "--allow-unauthenticated (SALTECHO_ALLOW_UNAUTHENTICATED, `allow-unauthenticated` in the \
                 configuration) has no effect with --protocol {protocol}, which authenticates every \
                 client: leave it out, or choose --protocol plain"
            ));
        }
        if protocol == Protocol::Plain && places.iter().any(|place| place.proxied) {
            return usage(
                "--proxy and --listen-proxy cannot be used with --protocol plain: it is for measuring, \
                 and admits no client by its address"
                    .to_owned(),
            );
        }
        let exposed = places.iter().map(|place| &place.address).find(|place| !is_loopback(place));
        match exposed.filter(|_| protocol == Protocol::Plain && !self.allow_unauthenticated) {
            Some(address) => usage(format!(
                "--protocol plain authenticates no client, and other machines can reach {address}: listen \
                 on a loopback address like 127.0.0.1:{}, or accept the risk with \
                 --allow-unauthenticated",
                address.port()
            )),
            None => Ok(()),
        }
    }

    /// Where the admin endpoint listens. One that other machines reach is refused, unless that is
    /// allowed.
    fn admin_address(&self, passed: &PassedPlaces) -> Result<Option<AdminAddress>, Failure> {
        match passed.admin.as_ref().or(self.admin.as_ref()) {
            Some(address) if self.admin.as_ref().is_some_and(|admin| admin != address) => {
                let text = format!(
                    "the admin endpoint {address} was passed by the service manager: remove the \
                     other one, --admin (SALTECHO_ADMIN, `admin` in the configuration)"
                );
                Err(Failure::with_message(Exit::Usage, text))
            }
            Some(address) if !address.is_local() && !self.admin_exposed => {
                let text = format!(
                    "--admin {address} can be reached from other machines, which could list and \
                     kill connections and stop the server: use a loopback address or unix:PATH, or \
                     allow it with --admin-exposed"
                );
                Err(Failure::with_message(Exit::Usage, text))
            }
            address => Ok(address.cloned()),
        }
    }

    fn config(&self, fixed: &Fixed, keyring: Keyring) -> Config {
        let mut config = Config::new(keyring);
        config.protocol = fixed.protocol;
        config.header_timeout = self.proxy.header_timeout.0;
        config.auth_timeout = self.auth_timeout.0;
        config.idle_timeout = self.idle_timeout.0;
        config.send_timeout = self.send_timeout.0;
        config.keepalive = self.keepalive.0;
        config.recv_size = self.recv_size.0;
        config
    }

    fn limits(&self, fixed: &Fixed) -> Limits {
        let mut limits = match self.max_connections {
            Some(number) => Limits::for_connections(number as usize),
            None => {
                let admin = fixed.admin.as_ref().map_or(0, |_| Limits::DESCRIPTORS_OF_ADMIN);
                Limits::for_workers(fixed.workers, fixed.all_places().count(), admin)
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
fn refuse_repeated(places: &[Place]) -> Result<(), Failure> {
    let repeated = places.iter().enumerate().find_map(|(index, place)| {
        let same = |other: &&Place| other.address == place.address && place.address.port() != 0;
        places[..index].iter().find(same).map(|other| (place, other))
    });
    match repeated {
        None => Ok(()),
        Some((Place { address, flag, .. }, other)) if *flag == other.flag => {
            let text = format!("{flag} {address} is given twice: remove one");
            Err(Failure::with_message(Exit::Usage, text))
        }
        Some((Place { address, flag, .. }, other)) => {
            let text = format!(
                "{} {address} and {flag} {address} are the same address: a listener either requires \
                 PROXY headers or does not, so give one of them another port",
                other.flag
            );
            Err(Failure::with_message(Exit::Usage, text))
        }
    }
}
