//! `saltecho serve`: from flags to running event loops.

mod activation;
mod admission;
mod args;
mod control;
mod fields;
mod journal;
mod notify;
mod port_file;
mod proxy;
mod record;
mod reload;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use anyhow::Context;
use saltecho::proto::{Framed, Handler, Identity, Protocol, Transform, Upper};
use saltecho::reactor::Kernel;
use saltecho::server::{AdminListener, BuildError, Server, run_workers};
use signal_hook::consts::SIGHUP;

use self::activation::Passed;
use self::control::{SIGNALS, ServiceControl};
use self::fields::{Failed, Listening};
use self::journal::Reporter;
use self::port_file::PortFile;
use self::proxy::Place;
use self::reload::Running;
use self::settings::{PassedPlaces, Settings};

use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::is_loopback;
use crate::cli::log::{Entry, Level, Log, LogFormat, Severity};
use crate::cli::replay::with_handler;
use crate::cli::reply::Reply;
use crate::cli::signals::not_ignored;
use crate::cli::values::Limit;
pub(super) use args::ServeArgs;

/// Runs the service. `warnings` are about its environment.
pub(super) fn run(args: &ServeArgs, warnings: &[String]) -> Result<(), Failure> {
    // Before the second thread is there.
    let passed = Passed::take().map_err(|error| Failure::new(Exit::Usage, error));
    let started = Log::start(args.log_level(), args.log_format);
    let (log, log_thread) = started.context("cannot start a thread for the log")?;
    for warning in warnings {
        log.warn_at(Level::Quiet, warning);
    }
    let result = passed.and_then(|passed| match (args.protocol.get(), args.reply) {
        (Protocol::Multiprocessing, Reply::Upper) => serve(args, passed, &log, args.framed(Upper)),
        (Protocol::Multiprocessing, Reply::Same) => {
            serve(args, passed, &log, args.framed(Identity))
        }
        (_, Reply::Upper) => serve(args, passed, &log, Upper),
        (_, Reply::Same) => serve(args, passed, &log, Identity),
    });
    if let Err(failure) = &result {
        let entry = Entry::new(Severity::Error, "failed", failure.text());
        log.write(Level::Quiet, &entry.with(Failed { exit_code: failure.exit_code() }));
    }
    drop(log);
    // What a stalled reader does not take is lost.
    log_thread.finish();
    result.map_err(|failure| failure.exit_silently())
}

/// Makes every check of [`run`] that opens no socket and changes nothing; returns the settings in
/// one line.
pub(super) fn check(args: &ServeArgs) -> Result<String, Failure> {
    let settings = Settings::check(args, PassedPlaces::default())?;
    args.record.check()?;
    find_port_file(args)?;
    Ok(settings.to_string())
}

fn serve<H: Handler + Clone + Send>(
    args: &ServeArgs,
    passed: Passed,
    log: &Log,
    handler: H,
) -> Result<(), Failure> {
    let settings = Settings::check(args, PassedPlaces::new(args, &passed)?)?;
    args.record.check()?;
    warn_of_exposure(args, &settings.fixed.addresses(), log);
    args.proxy.warn(settings.fixed.all_places(), log);
    let usage = |error| Failure::new(Exit::Usage, error);
    let port_file = find_port_file(args)?.map(PortFile::clear).transpose().map_err(usage)?;
    let is_reloaded = args.keys.key_file.is_some() || args.effective.file.is_some();
    if is_reloaded && not_ignored(&[SIGHUP]).is_empty() {
        log.print(
            Level::Normal,
            "SIGHUP was ignored at startup (by nohup?), so it reloads nothing",
        );
    }
    let control = ServiceControl::new(log, Running::new(args, &settings)).map_err(usage)?;
    let mut builder = settings.builder().control(Box::new(control), &not_ignored(&SIGNALS));
    for (place, (listener, _)) in settings.fixed.passed.places.iter().zip(passed.listeners) {
        builder = match place.proxied {
            true => builder.proxy_listener(listener),
            false => builder.listener(listener),
        };
    }
    if let Some(listener) = passed.admin {
        builder = builder.admin_listener(listener);
    }
    // What a list of connections and a line about an end tell of them.
    let has_admin = settings.fixed.admin.is_some();
    let records = args.verbose || args.log_format == LogFormat::Json || has_admin;
    let builder = builder.records(records).handler(handler);
    let workers = settings.fixed.workers;
    let recording = args.record.open(workers, log)?;
    let cannot_build = |error| cannot_build(error, &settings);
    match recording {
        None => {
            let servers = builder.build_workers(workers).map_err(cannot_build)?;
            run_servers(servers, &settings, port_file, log)
        }
        Some(recording) => {
            let limit = args.max_message.and_then(|limit| limit.0);
            let servers = builder.build_workers_over(workers, |worker, kernel, header| {
                recording.start(worker, kernel, with_handler(header, args.reply, limit))
            });
            let servers = servers.map_err(cannot_build)?;
            run_servers(servers, &settings, port_file, log)
        }
    }
}

/// Announces the servers and runs them to their end.
fn run_servers<K, H>(
    mut servers: Vec<Server<K, H>>,
    settings: &Settings,
    port_file: Option<PortFile>,
    log: &Log,
) -> Result<(), Failure>
where
    K: Kernel<AdminListener = AdminListener> + Send,
    K::Listener: AsFd + Send,
    K::Stream: Send,
    H: Handler + Clone + Send,
{
    let workers = settings.fixed.workers;
    let addresses = servers[0].addresses().context("cannot get the listening address")?;
    for (server, worker) in servers.iter_mut().zip(1..) {
        let reporter = Reporter::new(log.clone(), worker, workers, addresses.clone());
        server.set_observer(Box::new(reporter));
    }
    if let Some(port_file) = port_file {
        port_file.write(&addresses, log)?;
    }
    let shown =
        addresses.iter().zip(settings.fixed.all_places()).map(|(address, place)| {
            match place.proxied {
                true => format!("{address} (PROXY header)"),
                false => address.to_string(),
            }
        });
    let shown: Vec<String> = shown.collect();
    let admin = servers[0].admin_address();
    let admin = admin.map_or(String::new(), |address| format!(", admin endpoint {address}"));
    let text = format_args!("listening on {}{admin}: {settings}", shown.join(", "));
    let entry = Entry::new(Severity::Info, "listening", text);
    log.write(Level::Normal, &entry.with(Listening { addresses: &addresses }));
    let stats = run_workers(servers).context("the event loop failed")?;
    journal::print_counters(log, Level::Normal, &stats);
    journal::check(&stats)
}

impl ServeArgs {
    fn framed<T: Transform>(&self, transform: T) -> Framed<T> {
        Framed::new(transform, self.max_message.and_then(|limit| limit.0))
    }
}

fn find_port_file(args: &ServeArgs) -> Result<Option<PortFile>, Failure> {
    let key_file = args.keys.path();
    let others = [
        ("the key file", key_file.as_deref()),
        ("the configuration", args.effective.file.as_deref()),
    ];
    let found = args.port_file.as_deref().map(|path| PortFile::find(path, &others));
    found.transpose().map_err(|error| Failure::new(Exit::Usage, error))
}

fn warn_of_exposure(args: &ServeArgs, addresses: &[SocketAddr], log: &Log) {
    let is_plain = args.protocol.get() == Protocol::Plain;
    if args.keys.key_file.is_none() && !is_plain {
        log.warn("using the demo key, which is public; use your own with -k FILE");
    }
    if let Some(address) = addresses.iter().find(|address| !is_loopback(address)) {
        let open =
            if is_plain { "nothing is authenticated or encrypted" } else { "nothing is encrypted" };
        log.warn(format_args!(
            "{address} can be reached from other machines, and {open}: traffic can be read and \
             changed on the way"
        ));
    }
}

/// The error of a server that could not be built, in the words of its flags.
fn cannot_build(error: BuildError, settings: &Settings) -> Failure {
    match error {
        BuildError::Listen { address, source } => {
            match overlapping(&settings.fixed.places, address) {
                Some((one, other)) if source.kind() == io::ErrorKind::AddrInUse => {
                    let text = format!(
                        "{} {} and {} {} overlap: remove one",
                        one.flag, one.address, other.flag, other.address
                    );
                    Failure::with_message(Exit::Usage, text)
                }
                _ => Failure::with_message(Exit::Runtime, cannot_listen(address, &source)),
            }
        }
        BuildError::DrainDelay { delay, timeout } => {
            let [delay, timeout] = [delay, timeout].map(|time| Limit(Some(time)));
            let text = format!(
                "--drain-delay {delay} must be shorter than --drain-timeout {timeout}, which begins \
                 with it"
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
    }
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
