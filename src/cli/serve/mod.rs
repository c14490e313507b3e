//! `saltecho serve`: from flags to running event loops.

mod activation;
mod admission;
mod args;
mod control;
mod journal;
mod notify;
mod port_file;
mod proxy;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use saltecho::auth::Keyring;
use saltecho::proto::{Config, Framed, Handler, Identity, Protocol, Transform, Upper};
use saltecho::reactor::MioKernel;
use saltecho::server::{BuildError, Limits, Server, ServerBuilder, run_workers};
use signal_hook::consts::SIGHUP;

use self::activation::Passed;
use self::control::{SIGNALS, ServiceControl};
use self::journal::Reporter;
use self::port_file::PortFile;
use self::proxy::Place;

use crate::cli::address::ServerAddress;
use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::{Keys, is_loopback};
use crate::cli::log::{Level, Log};
use crate::cli::reply::Reply;
use crate::cli::signals::not_ignored;
pub(super) use args::ServeArgs;

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    // Before the second thread is there.
    let passed = Passed::take().map_err(|error| Failure::new(Exit::Usage, error))?;
    let level = match (args.quiet, args.verbose) {
        (true, _) => Level::Quiet,
        (false, true) => Level::Verbose,
        (false, false) => Level::Normal,
    };
    let (log, log_thread) = Log::start(level).context("cannot start a thread for the log")?;
    let result = match (args.protocol.get(), args.reply) {
        (Protocol::Multiprocessing, Reply::Upper) => serve(args, passed, &log, args.framed(Upper)),
        (Protocol::Multiprocessing, Reply::Same) => {
            serve(args, passed, &log, args.framed(Identity))
        }
        (_, Reply::Upper) => serve(args, passed, &log, Upper),
        (_, Reply::Same) => serve(args, passed, &log, Identity),
    };
    // An error is printed last, and only if stderr is not stalled.
    drop(log);
    match (log_thread.finish(), result) {
        (false, Err(failure)) => failure.exit_silently(),
        (_, result) => result,
    }
}

fn serve<H: Handler + Clone + Send>(
    args: &ServeArgs,
    passed: Passed,
    log: &Log,
    handler: H,
) -> Result<(), Failure> {
    let protocol = args.protocol.get();
    args.refuse_exposed_admin()?;
    let places = args.proxy.places(&args.listen_at(&passed));
    refuse_repeated(&places)?;
    let all = [&places[..], &args.proxy.passed(&passed)?].concat();
    args.check_protocol(&all)?;
    let listen: Vec<SocketAddr> = all.iter().map(|place| place.address).collect();
    let keys = Keys::for_server(&args.keys, protocol, &listen)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    warn_of_exposure(args, &listen, log);
    args.proxy.warn(&all, log);
    let port_file = args.port_file.as_deref();
    let port_file = port_file
        .map(|path| PortFile::prepare(path, args.keys.key_file.as_deref()))
        .transpose()
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    if args.keys.key_file.is_some() && not_ignored(&[SIGHUP]).is_empty() {
        log.print(
            Level::Normal,
            "SIGHUP was ignored at startup (by nohup?), so it does not reload the keys",
        );
    }
    let limits = args.admission.apply(args.limits(all.len()))?;
    let config = args.config(keys.keyring);
    let workers = usize::from(args.workers);
    let settings = journal::settings(&config, &limits, &keys.names, workers);
    let settings = settings + &args.framing_settings();
    let settings = settings + &args.admission.settings() + &args.proxy.settings(&all);
    let trusted = args.admission.trusted().iter().copied();
    let mut builder = Server::builder().config(config).limits(limits).trust(trusted);
    builder = builder.trust_proxies(args.proxy.trusted().iter().copied());
    for place in &places {
        builder = match place.proxied {
            true => builder.listen_proxy(place.address),
            false => builder.listen(place.address),
        };
    }
    for (place, (listener, _)) in all[places.len()..].iter().zip(passed.listeners) {
        builder = match place.proxied {
            true => builder.proxy_listener(listener),
            false => builder.listener(listener),
        };
    }
    if let Some(address) = &args.admin {
        builder = builder.admin(address.clone());
    }
    let control = ServiceControl::new(log, &args.keys, protocol, &listen, limits.drain_delay)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    let builder = builder.control(Box::new(control), &not_ignored(&SIGNALS));
    let mut servers = build(builder.handler(handler), args, &places)?;
    for (server, number) in servers.iter_mut().zip(1..) {
        let worker = (workers > 1).then_some(number);
        server.set_observer(Box::new(Reporter::new(log.clone(), worker)));
    }
    let addresses = servers[0].addresses().context("cannot get the listening address")?;
    if let Some(port_file) = port_file {
        port_file.write(&addresses, log)?;
    }
    let shown = addresses.iter().zip(&all).map(|(address, place)| match place.proxied {
        true => format!("{address} (PROXY header)"),
        false => address.to_string(),
    });
    let shown: Vec<String> = shown.collect();
    let admin = servers[0].admin_address();
    let admin = admin.map_or(String::new(), |address| format!(", admin endpoint {address}"));
    log.print(Level::Normal, format_args!("listening on {}{admin}: {settings}", shown.join(", ")));
    let stats = run_workers(servers).context("the event loop failed")?;
    log.print(Level::Normal, journal::counters(&stats));
    journal::check(&stats)
}

impl ServeArgs {
    fn framed<T: Transform>(&self, transform: T) -> Framed<T> {
        Framed::new(transform, self.max_message.and_then(|limit| limit.0))
    }

    fn framing_settings(&self) -> String {
        self.max_message.map_or_else(String::new, |limit| format!("; max message {limit}"))
    }

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
                "--protocol plain lets everybody in, and other machines can reach {address}: listen \
                 on a loopback address like 127.0.0.1:{}, or accept the risk with \
                 --allow-unauthenticated",
                address.port()
            )),
            None => Ok(()),
        }
    }

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
        config.protocol = self.protocol.get();
        config.header_timeout = self.proxy.header_timeout.0;
        config.auth_timeout = self.auth_timeout.0;
        config.idle_timeout = self.idle_timeout.0;
        config.send_timeout = self.send_timeout.0;
        config.keepalive = self.keepalive.0;
        config.recv_size = self.recv_size.0;
        config
    }

    /// The addresses to listen on beside those of --listen-proxy and the sockets that were passed,
    /// which take the place of the default.
    fn listen_at(&self, passed: &Passed) -> Vec<SocketAddr> {
        let others = self.proxy.has_listeners() || !passed.listeners.is_empty();
        match self.listen.is_empty() && !others {
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

fn warn_of_exposure(args: &ServeArgs, listen: &[SocketAddr], log: &Log) {
    let is_plain = args.protocol.get() == Protocol::Plain;
    if args.keys.key_file.is_none() && !is_plain {
        log.warn("using the demo key, which is public; use your own with -k FILE");
    }
    if let Some(address) = listen.iter().find(|address| !is_loopback(address)) {
        let open =
            if is_plain { "nothing is authenticated or encrypted" } else { "nothing is encrypted" };
        log.warn(format_args!(
            "{address} can be reached from other machines, and {open}: traffic can be read and \
             changed on the way"
        ));
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

fn build<H: Handler + Clone>(
    builder: ServerBuilder<H>,
    args: &ServeArgs,
    places: &[Place],
) -> Result<Vec<Server<MioKernel, H>>, Failure> {
    builder.build_workers(args.workers.into()).map_err(|error| match error {
        BuildError::Listen { address, source } => match overlapping(places, address) {
            Some((one, other)) if source.kind() == io::ErrorKind::AddrInUse => {
                let text = format!(
                    "{} {} and {} {} overlap: remove one",
                    one.flag, one.address, other.flag, other.address
                );
                Failure::with_message(Exit::Usage, text)
            }
            _ => Failure::with_message(Exit::Runtime, cannot_listen(address, &source)),
        },
        BuildError::DrainDelay { .. } => {
            let text = format!(
                "--drain-delay {} must be shorter than --drain-timeout {}, which begins with it",
                args.drain_delay, args.drain_timeout
            );
            Failure::with_message(Exit::Usage, text)
        }
        BuildError::ListenAdmin { address, source } => {
            let text = format!("--admin {address}: {source}");
            Failure::with_message(Exit::Runtime, text)
        }
        BuildError::Descriptors { .. } => {
            Failure::with_message(Exit::Usage, format!("--max-connections: {error}"))
        }
        BuildError::Zero(what @ ("connections" | "unauthenticated")) => {
            let text = format!("--max-{what} must be at least the number of --workers");
            Failure::with_message(Exit::Usage, text)
        }
        BuildError::NoAddress
        | BuildError::NoDescriptors { .. }
        | BuildError::Address(_)
        | BuildError::Zero(_)
        | BuildError::NotShared(_) => Failure::new(Exit::Usage, error),
        _ => Failure::new(Exit::Runtime, error),
    })
}

/// Finds another of our own addresses that conflicts with this one because one of the two means
/// every address of the machine.
fn overlapping(places: &[Place], address: SocketAddr) -> Option<(&Place, &Place)> {
    let overlaps = |other: &&Place| {
        let other = other.address;
        other != address
            && other.port() == address.port()
            && other.is_ipv4() == address.is_ipv4()
            && (other.ip().is_unspecified() || address.ip().is_unspecified())
    };
    let one = places.iter().find(|place| place.address == address)?;
    Some((one, places.iter().find(overlaps)?))
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse if port == 0 => {
            format!("no port is free on {}: choose another address with -l", address.ip())
        }
        io::ErrorKind::AddrInUse => format!(
            "{address} is in use: stop the program that uses it (`ss -ltnp sport = :{port}` shows \
             which), or choose another address with -l (port 0 picks a free one)"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{address} is not a local address (`ip address` lists them): choose another with -l, \
             like 127.0.0.1:{port} or 0.0.0.0:{port}"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "this user may not listen on {address}: choose a port from 1024 up with -l, or grant \
             CAP_NET_BIND_SERVICE"
        ),
        io::ErrorKind::InvalidInput if lacks_zone(address) => format!(
            "{address} is link-local and needs the name of its interface, like \
             [{}%eth0]:{port}",
            address.ip()
        ),
        _ => format!("cannot listen on {address}: {error}"),
    }
}

/// Returns whether an address is link-local without a zone: every interface may have the same one.
fn lacks_zone(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(address) => address.ip().is_unicast_link_local() && address.scope_id() == 0,
    }
}
