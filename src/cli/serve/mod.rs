//! `saltecho serve`: from flags to running event loops.

mod activation;
mod admission;
mod args;
mod control;
mod journal;
mod notify;
mod port_file;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;
use saltecho::auth::Keyring;
use saltecho::proto::{Config, Handler, Identity, Upper};
use saltecho::reactor::MioKernel;
use saltecho::server::{BuildError, Limits, Server, ServerBuilder, run_workers};
use signal_hook::consts::SIGHUP;

use self::activation::Passed;
use self::control::{SIGNALS, ServiceControl};
use self::journal::Reporter;
use self::port_file::PortFile;

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
    let result = match args.reply {
        Reply::Upper => serve(args, passed, &log, Upper),
        Reply::Same => serve(args, passed, &log, Identity),
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
    args.refuse_exposed_admin()?;
    let listen = args.addresses(&passed);
    refuse_repeated(&listen)?;
    let passed_addresses = passed.service.iter().map(TcpListener::local_addr);
    let passed_addresses = passed_addresses.collect::<io::Result<Vec<_>>>();
    let addresses = passed_addresses.context("cannot get the address of a socket passed")?;
    let addresses = [&listen[..], &addresses].concat();
    let keys = Keys::for_server(&args.keys, &addresses)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    warn_of_exposure(args, &addresses, log);
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
    let limits = args.admission.apply(args.limits(addresses.len()))?;
    let config = args.config(keys.keyring);
    let workers = usize::from(args.workers);
    let settings = journal::settings(&config, &limits, &keys.names, workers);
    let settings = settings + &args.admission.settings();
    let trusted = args.admission.trusted().iter().copied();
    let mut builder = Server::builder().config(config).limits(limits).trust(trusted);
    for address in &listen {
        builder = builder.listen(*address);
    }
    if let Some(address) = &args.admin {
        // A list of connections says where they come from and what they did.
        builder = builder.admin(address.clone()).records(true);
    }
    for listener in passed.service {
        builder = builder.listener(listener);
    }
    let control = ServiceControl::new(log, &args.keys, &addresses, limits.drain_delay)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    let builder = builder.control(Box::new(control), &not_ignored(&SIGNALS));
    let mut servers = build(builder.handler(handler), args, &listen)?;
    for (server, number) in servers.iter_mut().zip(1..) {
        let worker = (workers > 1).then_some(number);
        server.set_observer(Box::new(Reporter::new(log.clone(), worker)));
    }
    let addresses = servers[0].addresses().context("cannot get the listening address")?;
    if let Some(port_file) = port_file {
        port_file.write(&addresses, log)?;
    }
    let shown: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let admin = servers[0].admin_address();
    let admin = admin.map_or(String::new(), |address| format!(", admin endpoint {address}"));
    log.print(Level::Normal, format_args!("listening on {}{admin}: {settings}", shown.join(", ")));
    let stats = run_workers(servers).context("the event loop failed")?;
    log.print(Level::Normal, journal::counters(&stats));
    journal::check(&stats)
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
    fn addresses(&self, passed: &Passed) -> Vec<SocketAddr> {
        match self.listen.is_empty() && passed.service.is_empty() {
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

fn warn_of_exposure(args: &ServeArgs, addresses: &[SocketAddr], log: &Log) {
    if args.keys.key_file.is_none() {
        log.warn("using the demo key, which is public; use your own with -k FILE");
    }
    if let Some(address) = addresses.iter().find(|address| !is_loopback(address)) {
        log.warn(format_args!(
            "{address} can be reached from other machines, and nothing is encrypted: traffic can \
             be read and changed on the way"
        ));
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

fn build<H: Handler + Clone>(
    builder: ServerBuilder<H>,
    args: &ServeArgs,
    listen: &[SocketAddr],
) -> Result<Vec<Server<MioKernel, H>>, Failure> {
    builder.build_workers(args.workers.into()).map_err(|error| match error {
        BuildError::Listen { address, source } => match overlapping(listen, address) {
            Some(other) if source.kind() == io::ErrorKind::AddrInUse => {
                let text = format!("-l {address} and -l {other} overlap: remove one");
                Failure::with_message(Exit::Usage, text)
            }
            _ => Failure::with_message(Exit::Runtime, cannot_listen(address, &source)),
        },
        BuildError::ListenAdmin { address, source } => {
            let text = format!("--admin {address}: {source}");
            Failure::with_message(Exit::Runtime, text)
        }
        BuildError::DrainDelay { .. } => {
            let text = format!(
                "--drain-delay {} must be shorter than --drain-timeout {}, which begins with it",
                args.drain_delay, args.drain_timeout
            );
            Failure::with_message(Exit::Usage, text)
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
fn overlapping(addresses: &[SocketAddr], address: SocketAddr) -> Option<SocketAddr> {
    let overlaps = |other: &&SocketAddr| {
        **other != address
            && other.port() == address.port()
            && other.is_ipv4() == address.is_ipv4()
            && (other.ip().is_unspecified() || address.ip().is_unspecified())
    };
    addresses.iter().find(overlaps).copied()
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
