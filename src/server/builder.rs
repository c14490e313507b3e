use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use super::limits::descriptor_limit;
use super::mio_kernel::ListenOptions;
use super::{Handle, Limits, MioKernel, Observer, Server, Stats};
use crate::auth::Keyring;
use crate::proto::{Config, Handler, Upper};

/// Describes a server before it exists.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use saltecho::{auth::Keyring, server::Server};
///
/// let server = Server::builder().listen("127.0.0.1:0".parse()?).keyring(Keyring::demo());
/// let running = server.spawn()?;
/// println!("{}", running.addresses()[0]);
/// # Ok(()) }
/// ```
///
/// Without a key it accepts the demo key, which everybody knows.
pub struct ServerBuilder<H = Upper> {
    addresses: Vec<SocketAddr>,
    listeners: Vec<TcpListener>,
    config: Config,
    limits: Option<Limits>,
    handler: H,
    observer: Option<Box<dyn Observer>>,
}

/// Why a server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Neither an address nor a listener was given.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A limit of zero, under which nothing could ever happen.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// More connections were asked for than the process may have descriptors.
    #[error(
        "{wanted} connections need {needed} descriptors, and this process may have {limit}; \
         raise the hard limit (`ulimit -Hn`, LimitNOFILE=) or ask for fewer connections"
    )]
    Descriptors {
        /// Connections asked for.
        wanted: usize,
        /// Descriptors that takes, the reserve included.
        needed: usize,
        /// Descriptors to be had.
        limit: usize,
    },
    /// The system refused something else that a loop cannot do without.
    #[error("cannot set up the event loop: {0}")]
    Loop(#[from] io::Error),
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            addresses: Vec::new(),
            listeners: Vec::new(),
            config: Config::new(Keyring::demo()),
            limits: None,
            handler: Upper,
            observer: None,
        }
    }
}

impl<H: Handler + Clone> ServerBuilder<H> {
    /// Listens on this address too. Port 0 picks a free one.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Accepts from this listener too.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// The keys that are accepted.
    #[must_use]
    pub fn keyring(mut self, keyring: Keyring) -> Self {
        self.config.keyring = keyring;
        self
    }

    /// What connections have in common, the keys included.
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

    /// What authenticated connections answer; each gets a clone.
    #[must_use]
    pub fn handler<N: Handler + Clone>(self, handler: N) -> ServerBuilder<N> {
        let Self { addresses, listeners, config, limits, observer, .. } = self;
        ServerBuilder { addresses, listeners, config, limits, handler, observer }
    }

    /// Who is told of connections.
    #[must_use]
    pub fn observer(mut self, observer: Box<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Opens the listeners. Clients may connect from here on; they are served by
    /// [`Server::run`].
    ///
    /// # Errors
    /// [`BuildError`]: an address that cannot be had, a limit that cannot be kept.
    pub fn build(self) -> Result<Server<MioKernel, H>, BuildError> {
        self.check()?;
        let limits = allowed_limits(self.limits)?;
        let options =
            ListenOptions { backlog: limits.backlog, send_timeout: self.config.send_timeout };
        let mut listeners = Vec::new();
        for &address in &self.addresses {
            let listener = MioKernel::listen(address, options);
            listeners.push(listener.map_err(|source| BuildError::Listen { address, source })?);
        }
        for listener in self.listeners {
            listeners.push(MioKernel::adopt(listener, options)?);
        }
        let kernel = MioKernel::new(limits.events_per_poll)?;
        let mut server = Server::with_kernel(kernel, listeners, self.config, limits, self.handler)?;
        if let Some(observer) = self.observer {
            server.set_observer(observer);
        }
        Ok(server)
    }

    /// Builds the server and runs it on a thread of its own.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn spawn(self) -> Result<Running, BuildError>
    where
        H: Send + 'static,
    {
        let mut server = self.build()?;
        let (addresses, handle) = (server.addresses()?, server.handle());
        let thread = std::thread::Builder::new()
            .name("saltecho".to_owned())
            .spawn(move || server.run())
            .map_err(BuildError::Loop)?;
        Ok(Running { addresses, handle, thread: Some(thread) })
    }

    fn check(&self) -> Result<(), BuildError> {
        if self.addresses.is_empty() && self.listeners.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let mut counts = vec![("recv_size", self.config.recv_size)];
        if let Some(limits) = &self.limits {
            counts.extend([
                ("connections", limits.connections),
                ("unauthenticated", limits.unauthenticated),
                ("accepts_per_turn", limits.accepts_per_turn),
                ("bytes_per_turn", limits.bytes_per_turn),
                ("deadlines_per_turn", limits.deadlines_per_turn),
                ("events_per_poll", limits.events_per_poll),
            ]);
        }
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(BuildError::Zero(name)),
            None => Ok(()),
        }
    }
}

/// The limits asked for, if the process may have that many descriptors; else its own defaults.
fn allowed_limits(asked: Option<Limits>) -> Result<Limits, BuildError> {
    let limit = descriptor_limit();
    let Some(asked) = asked else { return Ok(Limits::for_descriptors(limit)) };
    // Down to the least that the loop itself needs; what is in reserve by default is comfort.
    let needed = asked.connections.saturating_add(Limits::LEAST_RESERVED_DESCRIPTORS);
    if needed > limit {
        return Err(BuildError::Descriptors { wanted: asked.connections, needed, limit });
    }
    Ok(asked)
}

/// A server on a thread of its own. Dropping it stops the server at once.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    handle: Handle,
    thread: Option<JoinHandle<io::Result<Stats>>>,
}

impl Running {
    /// Where it listens, in the order in which it was told to.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reaches into its loop.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Drains it (see [`Handle::drain`]) and waits for its end.
    ///
    /// # Errors
    /// What [`Server::run`] ended with.
    pub fn drain(mut self) -> io::Result<Stats> {
        self.handle.drain();
        self.join()
    }

    /// Stops it at once and waits for its end.
    ///
    /// # Errors
    /// What [`Server::run`] ended with.
    pub fn stop(mut self) -> io::Result<Stats> {
        self.handle.stop();
        self.join()
    }

    fn join(&mut self) -> io::Result<Stats> {
        let thread = self.thread.take().expect("a running server is joined once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.handle.stop();
            // Whoever wants to know how it ended calls `stop` instead.
            let _ = self.join();
        }
    }
}
