use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use super::handover::Thawing;
use super::limits::descriptor_limit;
use super::observer::Observer;
use super::{
    AdminAddress, AdminListener, BuildError, Control, Handle, IpNet, Limits, Note, Record, Running,
    Server, recording_header,
};
use crate::auth::Keyring;
use crate::proto::{Config, Handler, Protocol, Upper};
use crate::reactor::{Kernel, ListenOptions, MioKernel};
use crate::trace::Header;

/// Describes a server before it exists.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use saltecho::{auth::Keyring, server::Server};
///
/// let server = Server::builder().listen("127.0.0.1:0").keyring(Keyring::demo());
/// let running = server.spawn()?;
/// println!("{}", running.addresses()[0]);
/// # Ok(()) }
/// ```
///
/// Without a key it accepts the demo key, which is public.
pub struct ServerBuilder<H = Upper> {
    addresses: Vec<Place<SocketAddr>>,
    /// The fault of a text that is no address.
    unresolved: Option<io::Error>,
    listeners: Vec<Place<TcpListener>>,
    admin: Option<Endpoint>,
    config: Config,
    limits: Option<Limits>,
    trusted: Vec<IpNet>,
    proxies: Vec<IpNet>,
    records: bool,
    handler: H,
    observer: Option<Observer>,
    control: Option<(Box<dyn Control>, Vec<i32>)>,
}

/// An admin endpoint, to be opened or already open.
enum Endpoint {
    At(AdminAddress),
    Open(AdminListener),
}

/// An address or a listener, and whether its clients come through a balancer that sends a PROXY header.
struct Place<T> {
    at: T,
    proxied: bool,
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            addresses: Vec::new(),
            unresolved: None,
            listeners: Vec::new(),
            admin: None,
            config: Config::new(Keyring::demo()),
            limits: None,
            trusted: Vec::new(),
            proxies: Vec::new(),
            records: false,
            handler: Upper,
            observer: None,
            control: None,
        }
    }
}

impl<H: Handler + Clone> ServerBuilder<H> {
    /// Listens on this address too: `"127.0.0.1:9999"`, `"[::1]:0"`, `(ip, port)`, a
    /// [`SocketAddr`]. Port 0 picks a free one.
    ///
    /// A name is looked up here and now, which may block, and each address that it has is listened
    /// on. What is no address makes [`build`](Self::build) fail.
    #[must_use]
    pub fn listen(self, address: impl ToSocketAddrs) -> Self {
        self.add(address, false)
    }

    /// Listens on this address too, for a balancer that sends a PROXY header, version 1 or 2, in front
    /// of each connection. Nothing is sent before the header is complete, and the client that it names
    /// counts in admission, observers and handlers. See [`trust_proxies`](Self::trust_proxies).
    #[must_use]
    pub fn listen_proxy(self, address: impl ToSocketAddrs) -> Self {
        self.add(address, true)
    }

    fn add(mut self, address: impl ToSocketAddrs, proxied: bool) -> Self {
        match address.to_socket_addrs() {
            Ok(addresses) => self.addresses.extend(addresses.map(|at| Place { at, proxied })),
            Err(error) => self.unresolved = self.unresolved.or(Some(error)),
        }
        self
    }

    /// Accepts from this listener too. Several loops share it: each is woken for each client, and
    /// the first to look gets it.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(Place { at: listener, proxied: false });
        self
    }

    /// Accepts from this listener too, for a balancer, as [`listen_proxy`](Self::listen_proxy) does.
    #[must_use]
    pub fn proxy_listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(Place { at: listener, proxied: true });
        self
    }

    /// Accepts connections with a PROXY header from these networks only. Without this call any peer
    /// may name any client; see [`Server::trust_proxies`].
    #[must_use]
    pub fn trust_proxies(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.proxies.extend(networks);
        self
    }

    /// Serves an admin endpoint at this address: HTTP for probes, lists of connections and a few
    /// actions (docs/OPERATIONS.md). Everyone who reaches the address may use it, so it should be a
    /// Unix socket or a loopback address. Of several servers the first has it.
    #[must_use]
    pub fn admin(mut self, address: AdminAddress) -> Self {
        self.admin = Some(Endpoint::At(address));
        self
    }

    /// The same at a socket that listens already.
    #[must_use]
    pub fn admin_listener(mut self, listener: AdminListener) -> Self {
        self.admin = Some(Endpoint::Open(listener));
        self
    }

    /// The keys that are accepted.
    #[must_use]
    pub fn keyring(mut self, keyring: Keyring) -> Self {
        self.config.keyring = keyring;
        self
    }

    /// Sets what connections have in common, the keys included.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How much of the machine the loop takes. Without this call the limits follow from the
    /// descriptors that the process may have, whose soft limit is raised to the hard one.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Never refuses clients from these networks for where they come from; see
    /// [`Server::trust`].
    #[must_use]
    pub fn trust(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.trusted.extend(networks);
        self
    }

    /// Keeps a record of each connection, for the observer; see [`Server::keep_records`].
    #[must_use]
    pub const fn records(mut self, keep: bool) -> Self {
        self.records = keep;
        self
    }

    /// Sets what authenticated connections answer; each gets a clone.
    #[must_use]
    pub fn handler<N: Handler + Clone>(self, handler: N) -> ServerBuilder<N> {
        let Self { addresses, unresolved, listeners, admin, config, limits, .. } = self;
        let Self { trusted, proxies, records, observer, control, .. } = self;
        ServerBuilder {
            addresses,
            unresolved,
            listeners,
            admin,
            config,
            limits,
            trusted,
            proxies,
            records,
            handler,
            observer,
            control,
        }
    }

    /// Calls `observer` with each [`Note`] about a client; see [`Server::set_observer`].
    #[must_use]
    pub fn observer(
        mut self,
        observer: impl FnMut(&Note, Option<&Record>) + Send + 'static,
    ) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Leaves decisions to `control`, and catches these signals for it from the time the server is
    /// built. With several loops the first has it, and it acts on all.
    #[must_use]
    pub fn control(mut self, control: Box<dyn Control>, signals: &[i32]) -> Self {
        self.control = Some((control, signals.to_owned()));
        self
    }

    /// Opens the listeners. Clients may connect from here on; they are served by
    /// [`Server::run`].
    ///
    /// # Errors
    /// [`BuildError`]: an address that cannot be had, a limit that cannot be kept.
    pub fn build(self) -> Result<Server<MioKernel, H>, BuildError> {
        Ok(self.build_workers(1)?.pop().expect("as many as were asked for"))
    }

    /// Opens listeners for so many servers at the same addresses, among which the kernel spreads
    /// clients; each has its [part](Limits::part) of the limits. They are served by
    /// [`run_workers`](super::run_workers).
    ///
    /// # Errors
    /// [`BuildError`], also if there are to be several and an observer was handed over: give each
    /// server its own with [`Server::set_observer`].
    pub fn build_workers(self, workers: usize) -> Result<Vec<Server<MioKernel, H>>, BuildError> {
        self.build_workers_over(workers, |_, kernel, _| Ok(kernel))
    }

    /// The same over kernels of another kind, like a [`Recorder`](crate::trace::Recorder). `over` gets a
    /// worker's index, its kernel, and the first lines of a recording, which have its settings.
    ///
    /// # Errors
    /// Those of [`build_workers`](Self::build_workers) and of `over`.
    pub fn build_workers_over<K>(
        mut self,
        workers: usize,
        mut over: impl FnMut(usize, MioKernel, Header) -> io::Result<K>,
    ) -> Result<Vec<Server<K, H>>, BuildError>
    where
        K: Kernel<AdminListener = AdminListener>,
        K::Listener: From<mio::net::TcpListener>,
    {
        let limits = self.allowed_limits(workers)?;
        let kernels = self.kernels(workers, &limits)?;
        let options = ListenOptions::new(limits.backlog, self.config.keepalive.is_some());
        let mut listeners: Vec<_> = std::iter::repeat_with(Vec::new).take(workers).collect();
        for &Place { at: address, .. } in &self.addresses {
            let shared = match workers {
                1 => MioKernel::listen(address, options).map(|listener| vec![listener]),
                _ => MioKernel::listen_shared(address, workers, options),
            };
            let shared = shared.map_err(|source| BuildError::Listen { address, source })?;
            for (listeners, listener) in listeners.iter_mut().zip(shared) {
                listeners.push(listener);
            }
        }
        let proxied = self.addresses.iter().map(|place| place.proxied);
        let proxied: Vec<bool> =
            proxied.chain(self.listeners.iter().map(|place| place.proxied)).collect();
        for listener in std::mem::take(&mut self.listeners) {
            for listeners in &mut listeners {
                listeners.push(MioKernel::adopt(listener.at.try_clone()?, options)?);
            }
        }
        let loops = kernels.into_iter().zip(listeners).enumerate();
        let servers = loops.map(|(index, (kernel, listeners))| {
            let (config, limits) = (self.config.clone(), limits.part(index, workers));
            let header = recording_header(&config, &limits, &self.trusted, &self.proxies, &proxied)
                .with("admin", if index == 0 && self.admin.is_some() { "yes" } else { "no" })
                .with("control", if index == 0 && self.control.is_some() { "yes" } else { "no" });
            let kernel = over(index, kernel, header)?;
            let listeners = listeners.into_iter().map(K::Listener::from).collect();
            Server::with_kernel(kernel, listeners, config, limits, self.handler.clone())
        });
        let mut servers = servers.collect::<io::Result<Vec<_>>>()?;
        for server in &mut servers {
            let indices = (0..).zip(&proxied).filter(|(_, proxied)| **proxied);
            indices.for_each(|(index, _)| server.require_proxy(index));
        }
        let all: Handle = servers.iter().map(Server::handle).collect();
        if let Some(endpoint) = self.admin.take() {
            servers[0].set_admin(endpoint.open()?, all.clone())?;
        }
        self.equip(servers.iter_mut().collect(), all);
        Ok(servers)
    }

    /// Builds so many servers that will take over what others leave, instead of opening listeners:
    /// of addresses and listeners only the number counts, for the limits. Everything that can be wrong
    /// with the settings is found here.
    ///
    /// # Errors
    /// Those of [`build_workers`](Self::build_workers), but for those of listening.
    pub fn prepare_workers(
        mut self,
        workers: usize,
    ) -> Result<Vec<Thawing<MioKernel, H>>, BuildError> {
        let limits = self.allowed_limits(workers)?;
        let kernels = self.kernels(workers, &limits)?;
        let parts = kernels.into_iter().enumerate();
        let thawing = parts.map(|(index, kernel)| {
            let (config, limits) = (self.config.clone(), limits.part(index, workers));
            Thawing::new(kernel, config, limits, self.handler.clone())
        });
        let mut thawing = thawing.collect::<io::Result<Vec<_>>>()?;
        let all: Handle = thawing.iter_mut().map(|one| one.server().handle()).collect();
        thawing.iter_mut().for_each(|one| one.set_all(all.clone()));
        self.equip(thawing.iter_mut().map(Thawing::server).collect(), all);
        Ok(thawing)
    }

    /// Gives servers what they need beside sockets; the first has what there is one of.
    fn equip<K: Kernel>(&mut self, mut servers: Vec<&mut Server<K, H>>, all: Handle) {
        for server in &mut servers {
            server.trust(&self.trusted);
            server.trust_proxies(&self.proxies);
            server.keep_records(self.records);
        }
        if let Some(observer) = self.observer.take() {
            servers[0].observer = Some(observer);
        }
        if let Some((control, _)) = self.control.take() {
            servers[0].set_control(control, all);
        }
    }

    /// The limits of all loops together.
    fn allowed_limits(&mut self, workers: usize) -> Result<Limits, BuildError> {
        if let Some(error) = self.unresolved.take() {
            return Err(BuildError::Address(error));
        }
        let addresses = self.addresses.len() + self.listeners.len();
        let others = self.admin.as_ref().map_or(0, |_| Limits::DESCRIPTORS_OF_ADMIN);
        let limits = allowed_limits(self.limits, workers, addresses, others)?;
        self.check(workers, &limits.part(0, workers.max(1)))?;
        Ok(limits)
    }

    /// A kernel for each loop, the first of which catches the signals.
    fn kernels(&self, workers: usize, limits: &Limits) -> Result<Vec<MioKernel>, BuildError> {
        let kernels = (0..workers).map(|_| MioKernel::new(limits.events_per_poll));
        let mut kernels = kernels.collect::<io::Result<Vec<_>>>()?;
        if let Some((_, signals)) = &self.control {
            // Before the listeners, so that no client sees a server which a signal would kill.
            kernels[0].catch_signals(signals)?;
        }
        Ok(kernels)
    }

    /// Builds the server and runs it on a thread of its own.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn spawn(self) -> Result<Running, BuildError>
    where
        H: Send + 'static,
    {
        Running::start(vec![self.build()?])
    }

    /// Builds so many servers and runs them side by side, each on a thread of its own.
    ///
    /// # Errors
    /// Those of [`build_workers`](Self::build_workers).
    pub fn spawn_workers(self, workers: usize) -> Result<Running, BuildError>
    where
        H: Send + 'static,
    {
        Running::start(self.build_workers(workers)?)
    }

    /// Makes the checks of [`build_workers`](Self::build_workers) and opens nothing.
    ///
    /// # Errors
    /// Those of [`build_workers`](Self::build_workers), but for what only opening can tell.
    pub fn check_workers(&self, workers: usize) -> Result<(), BuildError> {
        if let Some(error) = &self.unresolved {
            let error = io::Error::new(error.kind(), error.to_string());
            return Err(BuildError::Address(error));
        }
        let addresses = self.addresses.len() + self.listeners.len();
        let others = self.admin.as_ref().map_or(0, |_| Limits::DESCRIPTORS_OF_ADMIN);
        let limits = allowed_limits(self.limits, workers, addresses, others)?;
        self.check(workers, &limits.part(0, workers.max(1)))
    }

    fn check(&self, workers: usize, least: &Limits) -> Result<(), BuildError> {
        if self.addresses.is_empty() && self.listeners.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let mut proxied = self.addresses.iter().map(|place| place.proxied);
        let is_proxied =
            proxied.any(|proxied| proxied) || self.listeners.iter().any(|place| place.proxied);
        if is_proxied && self.config.protocol == Protocol::Plain {
            return Err(BuildError::PlainBehindProxy);
        }
        if workers > 1 && self.observer.is_some() {
            return Err(BuildError::NotShared("an observer"));
        }
        if workers == 0 {
            return Err(BuildError::Zero("workers"));
        }
        refuse_impossible(&self.config, least)
    }
}

/// Refuses a number of zero under which nothing could ever happen, and a drain that ends before it
/// begins. `least` are the limits of the loop that has the least.
pub(super) fn refuse_impossible(config: &Config, least: &Limits) -> Result<(), BuildError> {
    if let Some(timeout) = least.drain_timeout.filter(|timeout| *timeout <= least.drain_delay)
        && !least.drain_delay.is_zero()
    {
        return Err(BuildError::DrainDelay { delay: least.drain_delay, timeout });
    }
    let counts = [
        ("recv_size", config.recv_size),
        ("connections", least.connections),
        ("unauthenticated", least.unauthenticated),
        ("accepts_per_turn", least.accepts_per_turn),
        ("bytes_per_turn", least.bytes_per_turn),
        ("probes_per_second", least.probes_per_second),
        ("deadlines_per_turn", least.deadlines_per_turn),
        ("events_per_poll", least.events_per_poll),
    ];
    match counts.into_iter().find(|(_, count)| *count == 0) {
        Some((name, _)) => Err(BuildError::Zero(name)),
        None => Ok(()),
    }
}

impl Endpoint {
    fn open(self) -> Result<AdminListener, BuildError> {
        match self {
            Self::Open(listener) => Ok(listener),
            Self::At(address) => AdminListener::bind(&address)
                .map_err(|source| BuildError::ListenAdmin { address, source }),
        }
    }
}

/// The limits asked for, if the process may have that many descriptors; else its own defaults.
pub(super) fn allowed_limits(
    asked: Option<Limits>,
    workers: usize,
    addresses: usize,
    others: usize,
) -> Result<Limits, BuildError> {
    let limit = descriptor_limit();
    // Down to the minimum that the loops themselves need; the default reserve is comfort.
    let own = Limits::least_reserved(workers, addresses).saturating_add(others);
    let needed = own.saturating_add(workers);
    if needed > limit {
        return Err(BuildError::NoDescriptors { needed, limit });
    }
    let Some(asked) = asked else { return Ok(Limits::for_workers(workers, addresses, others)) };
    let needed = asked.connections.saturating_add(own);
    if needed > limit {
        return Err(BuildError::Descriptors { wanted: asked.connections, needed, limit });
    }
    Ok(asked)
}
