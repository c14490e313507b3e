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
mod upgrade;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use saltecho::proto::{Framed, Handler, Identity, Protocol, Transform, Upper};
use saltecho::reactor::{AdminListener, Kernel, MioKernel};
use saltecho::server::handover::Thawing;
use saltecho::server::{
    AdminAddress, BuildError, Crew, Handle, Parking, Pause, Server, ServerBuilder,
    run_until_parked, run_workers,
};
use signal_hook::consts::SIGHUP;

use self::activation::Passed;
use self::control::ServiceControl;
use self::fields::{Failed, Listening};
use self::journal::Reporter;
use self::notify::Manager;
use self::port_file::PortFile;
use self::proxy::Place;
use self::record::Recording;
use self::reload::Running;
use self::settings::{PassedPlaces, Settings};
use self::upgrade::{Following, Handed, Predecessor, Serving, Upgrader};

use crate::cli::failure::{Exit, Failure};
use crate::cli::keyfile::is_loopback;
use crate::cli::log::{Entry, Level, Log, LogFormat, Severity};
use crate::cli::replay::with_handler;
use crate::cli::reply::Reply;
use crate::cli::signals::{OF_A_SERVER, not_ignored};
use crate::cli::values::Limit;
pub(super) use args::ServeArgs;
pub(super) use upgrade::decline;

/// Runs the service. `warnings` are about its environment.
pub(super) fn run(args: &ServeArgs, warnings: &[String]) -> Result<(), Failure> {
    // Before the second thread is there.
    let passed = Passed::take().map_err(|error| Failure::new(Exit::Usage, error));
    let started = Log::start(args.log_level(), args.log_format);
    let (log, log_thread) = started.context("cannot start a thread for the log")?;
    for warning in warnings {
        log.warn_at(Level::Quiet, warning);
    }
    let predecessor = Predecessor::find();
    let both = passed.and_then(|passed| Ok((passed, predecessor?)));
    let result = both.and_then(|(passed, from)| match (args.protocol.get(), args.reply) {
        (Protocol::Multiprocessing, Reply::Upper) => {
            serve(args, passed, from, &log, args.framed(Upper))
        }
        (Protocol::Multiprocessing, Reply::Same) => {
            serve(args, passed, from, &log, args.framed(Identity))
        }
        (_, Reply::Upper) => serve(args, passed, from, &log, Upper),
        (_, Reply::Same) => serve(args, passed, from, &log, Identity),
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
    predecessor: Option<Predecessor>,
    log: &Log,
    handler: H,
) -> Result<(), Failure> {
    let Some(predecessor) = predecessor else {
        let places = PassedPlaces::new(args, &passed)?;
        let service = Service::prepare(args, Settings::check(args, places)?, log)?;
        return service.open(passed, handler);
    };
    let mut following = predecessor.greet()?;
    let prepared = Settings::check(args, following.serving.passed_places())
        .and_then(|settings| Service::follow(args, settings, &following, log, handler));
    match prepared {
        Ok((service, thawing)) => service.take_over(following, thawing),
        Err(failure) => {
            following.decline(&failure.text());
            Err(failure)
        }
    }
}

/// A server before and while it runs.
struct Service<'a> {
    args: &'a ServeArgs,
    log: &'a Log,
    settings: Settings,
    port_file: Option<PortFile>,
    upgrader: Upgrader,
    control: Option<ServiceControl>,
}

impl<'a> Service<'a> {
    fn prepare(args: &'a ServeArgs, settings: Settings, log: &'a Log) -> Result<Self, Failure> {
        args.record.check()?;
        warn_of_exposure(args, &settings.fixed.addresses(), log);
        args.proxy.warn(settings.fixed.all_places(), log);
        let usage = |error| Failure::new(Exit::Usage, error);
        let port_file = find_port_file(args)?;
        let is_reloaded = args.keys.key_file.is_some() || args.effective.file.is_some();
        if is_reloaded && not_ignored(&[SIGHUP]).is_empty() {
            log.print(
                Level::Normal,
                "SIGHUP was ignored at startup (by nohup?), so it reloads nothing",
            );
        }
        let manager = Manager::from_env(log).map_err(usage)?;
        let freeze_max = args.handover_freeze_max.0.unwrap_or_default();
        let upgrader = Upgrader::new(log, settings.fixed.workers, freeze_max, manager.clone());
        let upgrader = upgrader.context("cannot make a descriptor for upgrades")?;
        let running = Running::new(args, &settings);
        let control = Some(ServiceControl::new(log, running, manager, upgrader.clone()));
        Ok(Self { args, log, settings, port_file, upgrader, control })
    }

    /// The builder with everything but listeners.
    fn complete<H: Handler + Clone>(
        &mut self,
        builder: ServerBuilder,
        handler: H,
    ) -> ServerBuilder<H> {
        // What a list of connections and a line about an end tell of them.
        let has_admin = self.settings.fixed.admin.is_some();
        let is_json = self.args.log_format == LogFormat::Json;
        let records = self.args.verbose || is_json || has_admin;
        let control = self.control.take().expect("a server is built once");
        let builder = builder.control(Box::new(control), &not_ignored(&OF_A_SERVER));
        builder.records(records).handler(handler)
    }

    /// Opens the listeners and serves.
    fn open<H: Handler + Clone + Send>(
        mut self,
        passed: Passed,
        handler: H,
    ) -> Result<(), Failure> {
        let usage = |error| Failure::new(Exit::Usage, error);
        self.port_file = self.port_file.map(PortFile::clear).transpose().map_err(usage)?;
        let mut builder = self.settings.builder();
        let places = self.settings.fixed.passed.places.iter();
        for (place, (listener, _)) in places.zip(passed.listeners) {
            builder = match place.proxied {
                true => builder.proxy_listener(listener),
                false => builder.listener(listener),
            };
        }
        if let Some(listener) = passed.admin {
            builder = builder.admin_listener(listener);
        }
        let builder = self.complete(builder, handler);
        if let Some(recording) = self.args.record.open(self.settings.fixed.workers, self.log)? {
            return self.open_recorded(builder, &recording);
        }
        let servers = builder.build_workers(self.settings.fixed.workers);
        let mut servers = servers.map_err(|error| cannot_build(error, &self.settings))?;
        let addresses = self.introduce(&mut servers)?;
        thread::scope(|scope| {
            let crew = Crew::start(scope, servers.len()).context(NO_THREAD)?;
            self.run(servers, &addresses, &crew)
        })
    }

    /// Serves with a recording, which ends with this process: there are no upgrades.
    fn open_recorded<H: Handler + Clone + Send>(
        mut self,
        builder: ServerBuilder<H>,
        recording: &Recording,
    ) -> Result<(), Failure> {
        self.upgrader.refuse_recorded();
        let limit = self.args.max_message.and_then(|limit| limit.0);
        let workers = self.settings.fixed.workers;
        let servers = builder.build_workers_over(workers, |worker, kernel, header| {
            recording.start(worker, kernel, with_handler(header, self.args.reply, limit))
        });
        let mut servers = servers.map_err(|error| cannot_build(error, &self.settings))?;
        let addresses = self.introduce(&mut servers)?;
        self.announce(&addresses, servers[0].admin_address());
        let stats = run_workers(servers).context("the event loop failed")?;
        journal::print_counters(self.log, Level::Normal, &stats);
        journal::check(&stats)
    }

    /// Prepares to take over the listeners of another process.
    fn follow<H: Handler + Clone>(
        args: &'a ServeArgs,
        mut settings: Settings,
        following: &Following,
        log: &'a Log,
        handler: H,
    ) -> Result<(Self, Vec<Thawing<MioKernel, H>>), Failure> {
        let usage = |text| Failure::with_message(Exit::Usage, text);
        following.serving.refuse_other(&settings).map_err(usage)?;
        following.refuse_without_descriptors()?;
        if args.record.record.is_some() {
            log.warn("a restart is needed for: record, since a recording begins with its process");
        }
        if !following.serving.can_probe && settings.config.keepalive.take().is_some() {
            log.warn(
                "a restart is needed for: keepalive, which was off when the listeners were opened",
            );
        }
        let mut service = Self::prepare(args, settings, log)?;
        let builder = service.settings.builder_of_successor();
        let workers = service.settings.fixed.workers;
        let thawing = service.complete(builder, handler).prepare_workers(workers);
        let mut thawing = thawing.map_err(|error| cannot_build(error, &service.settings))?;
        let addresses = &following.serving.addresses;
        service.observe(thawing.iter_mut().map(Thawing::server), addresses);
        Ok((service, thawing))
    }

    fn take_over<H: Handler + Clone + Send>(
        mut self,
        mut following: Following,
        thawing: Vec<Thawing<MioKernel, H>>,
    ) -> Result<(), Failure> {
        thread::scope(|scope| {
            // Before there is anything to lose.
            let crew = Crew::start(scope, thawing.len()).map_err(|error| {
                following.decline(&format!("{NO_THREAD}: {error}"));
                Failure::new(Exit::Runtime, anyhow::Error::new(error).context(NO_THREAD))
            })?;
            let addresses = following.serving.addresses.clone();
            let servers = following.take_over(thawing, &self.upgrader, self.log);
            if let Some(port_file) = self.port_file.take() {
                port_file.write_again(&addresses, self.log);
            }
            self.run(servers, &addresses, &crew)
        })
    }

    /// Gives new servers their observers and writes the port file. Returns their addresses.
    fn introduce<K, H>(&mut self, servers: &mut [Server<K, H>]) -> Result<Vec<SocketAddr>, Failure>
    where
        K: Kernel<Listener: AsFd, AdminListener = AdminListener>,
        H: Handler + Clone,
    {
        let addresses = servers[0].addresses().context("cannot get the listening address")?;
        self.observe(servers.iter_mut(), &addresses);
        if let Some(port_file) = self.port_file.take() {
            port_file.write(&addresses, self.log)?;
        }
        Ok(addresses)
    }

    fn observe<'b, K, H>(
        &self,
        servers: impl Iterator<Item = &'b mut Server<K, H>>,
        addresses: &[SocketAddr],
    ) where
        K: Kernel + 'b,
        H: Handler + Clone + 'b,
    {
        let workers = self.settings.fixed.workers;
        for (server, worker) in servers.zip(1..) {
            let mut reporter = Reporter::new(self.log.clone(), worker, workers, addresses.to_vec());
            server.set_observer(move |note, record| reporter.hear(note, record));
        }
    }

    fn run<'scope, H: Handler + Clone + Send + 'scope>(
        self,
        mut servers: Vec<Server<MioKernel, H>>,
        addresses: &[SocketAddr],
        crew: &Crew<'scope>,
    ) -> Result<(), Failure> {
        self.announce(addresses, servers[0].admin_address());
        self.upgrader.set_serving(Serving::new(&self.settings, addresses));
        loop {
            let pause = run_until_parked(servers, self.upgrader.parking(), crew);
            match pause.context("the event loop failed")? {
                Pause::Ended(stats) => {
                    journal::print_counters(self.log, Level::Normal, &stats);
                    return journal::check(&stats);
                }
                Pause::Parked(parked) => match self.upgrader.hand_over(parked) {
                    Handed::Back(resumed) => servers = resumed,
                    Handed::Over(rest) => return self.leave(rest, crew),
                },
            }
        }
    }

    /// Finishes the answers to administrators, and ends once the service manager knows of the other
    /// process.
    fn leave<'scope, H: Handler + Clone + Send + 'scope>(
        self,
        rest: Vec<Server<MioKernel, H>>,
        crew: &Crew<'scope>,
    ) -> Result<(), Failure> {
        let all: Handle = rest.iter().map(Server::handle).collect();
        let limit = thread::Builder::new().name("limit".to_owned()).spawn(move || {
            thread::sleep(LEAVE_LIMIT);
            all.stop();
        });
        if limit.is_ok()
            && let Err(error) = run_until_parked(rest, &Parking::new(0), crew)
        {
            self.log.warn(format_args!("after the handover: {error}"));
        }
        self.upgrader.wait_for_manager();
        Ok(())
    }

    fn announce(&self, addresses: &[SocketAddr], admin: Option<&AdminAddress>) {
        let places = addresses.iter().zip(self.settings.fixed.all_places());
        let shown = places.map(|(address, place)| match place.proxied {
            true => format!("{address} (PROXY header)"),
            false => address.to_string(),
        });
        let shown: Vec<String> = shown.collect();
        let admin = admin.map_or(String::new(), |address| format!(", admin endpoint {address}"));
        let settings = &self.settings;
        let text = format_args!("listening on {}{admin}: {settings}", shown.join(", "));
        let entry = Entry::new(Severity::Info, "listening", text);
        self.log.write(Level::Normal, &entry.with(Listening { addresses }));
    }
}

/// The error of a system that refuses a thread.
const NO_THREAD: &str = "cannot start a thread for each worker";

/// Time in which a process that was taken over from finishes its answers to administrators.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

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
