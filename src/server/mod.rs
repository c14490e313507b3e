//! The event loop: one thread, one poll, any number of connections.
//!
//! [`Server`] decides which connection has a turn, which client gets in, and when a connection has
//! taken too long. What a connection says is decided in [`proto`](crate::proto); the loop never
//! looks into a payload. The loop's mechanics, and everything that it asks of the operating system,
//! are in [`reactor`](crate::reactor).
//!
//! Start reading at [`Server::turn`].

mod accept;
mod admin;
mod admission;
mod build_error;
mod builder;
#[cfg(any(test, feature = "testing"))]
mod check;
mod commands;
mod control;
mod ending;
mod handle;
pub mod handover;
mod keepalive;
mod lag;
mod limits;
#[cfg(all(loom, test))]
mod model;
mod observer;
mod proxied;
mod pump;
mod reconfigure;
mod recorded;
mod records;
mod replay;
mod running;
mod snapshot;
mod stats;
mod sync;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use accept::{Acceptor, Listening, Purpose};
use admin::Admin;
use control::Controlled;
use ending::Lifecycle;
use handle::Inbox;
use keepalive::Keepalive;
use lag::Lag;
use observer::Observer;
use reconfigure::Unsettled;
use records::Records;

use socket2::SockRef;

use crate::proto::{Config, Connection, Handler, Upper};
use crate::python::Monotonic;
use crate::reactor::{Kernel, MioKernel, Reactor, Ready, Target, Token};

pub use crate::proto::ConnId;
pub use crate::reactor::{AcceptPause, AdminAddress, AdminListener, Fault, Note, Refusal, RingKey};
pub use build_error::BuildError;
pub use builder::ServerBuilder;
pub use control::{Control, Outcome, ServiceState};
pub use handle::{Handle, PushError};
pub use ipnet::IpNet;
pub use limits::Limits;
pub use recorded::recording_header;
pub use records::Record;
pub use replay::{Replay, Replayed};
pub use running::Running;
pub use stats::Stats;
pub use workers::{Crew, Parking, Pause, run_until_parked, run_workers};

/// An authenticated service on one event loop.
///
/// Not a thread: [`run`](Self::run) works on the thread that calls it, and a [`Handle`] reaches
/// in from others.
pub struct Server<K: Kernel = MioKernel, H = Upper> {
    reactor: Reactor<K, Connection<H>>,
    acceptor: Acceptor<K::Listener>,
    /// Boxed, and absent unless it was asked for.
    admin: Option<Box<Admin<K>>>,
    config: Config,
    limits: Limits,
    /// Each new connection's handler is a clone of this one.
    handler: H,
    keepalive: Keepalive,
    /// The part of the last change of the settings that is still to be done.
    unsettled: Unsettled,
    lifecycle: Lifecycle,
    /// It is to run no further turn until it is resumed.
    parked: bool,
    /// Every recv of every connection lands here; nothing stays between two of them.
    scratch: Box<[u8]>,
    stats: Stats,
    lag: Lag,
    /// Each loop's figures at the last scrape.
    #[cfg(feature = "metrics")]
    scraped: Vec<Option<crate::metrics::Snapshot>>,
    /// `None` unless they are asked for.
    records: Option<Records>,
    observer: Option<Observer>,
    /// Boxed, and absent unless it was asked for.
    controlled: Option<Box<Controlled>>,
    inbox: Inbox,
}

impl Server {
    /// Starts describing a server; see [`ServerBuilder`].
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }
}

impl<K, H> Server<K, H>
where
    K: Kernel<AdminListener = AdminListener>,
    K::Listener: AsFd,
{
    /// The addresses that it listens on, in the order in which they were given; port 0 has become a
    /// real one.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let address = |listener: &K::Listener| {
            let address = SockRef::from(listener).local_addr()?.as_socket();
            address.ok_or_else(|| io::ErrorKind::Unsupported.into())
        };
        self.acceptor.listeners.iter().map(|listening| address(&listening.listener)).collect()
    }

    /// The address of its admin endpoint, if it has one.
    pub fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin.as_ref()?.listener().map(AdminListener::address)
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// A server over any kernel, with the listeners that it made.
    ///
    /// # Errors
    /// If a listener cannot be registered.
    pub fn with_kernel(
        mut kernel: K,
        listeners: Vec<K::Listener>,
        config: Config,
        limits: Limits,
        handler: H,
    ) -> io::Result<Self> {
        let mut registered = Vec::with_capacity(listeners.len());
        for (index, mut listener) in listeners.into_iter().enumerate() {
            kernel.register_listener(&mut listener, Token::listener(index))?;
            registered.push(Listening::new(listener, Purpose::Service { proxied: false }));
        }
        // It tells the peers of several servers in one process apart; 0 is no server's.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let inbox = Inbox::new(number, limits.mailbox_bytes, registered.len());
        let reactor = Reactor::new(kernel, limits.spin);
        Ok(Self {
            lag: Lag::new(reactor.now()),
            #[cfg(feature = "metrics")]
            scraped: Vec::new(),
            reactor,
            acceptor: Acceptor::new(registered),
            admin: None,
            scratch: vec![0; config.recv_size].into_boxed_slice(),
            keepalive: Keepalive::new(&config, &limits),
            unsettled: Unsettled::default(),
            stats: Stats::with_keys(config.keyring.names()),
            config,
            limits,
            handler,
            lifecycle: Lifecycle::Running,
            parked: false,
            records: None,
            observer: None,
            controlled: None,
            inbox,
        })
    }

    /// Never refuses clients from these networks for their source; replaces the list so far. For
    /// balancers and NATs, whose many clients would be one source. A trusted client still needs a
    /// free place, and can be the oldest that makes room.
    pub fn trust(&mut self, networks: &[IpNet]) {
        self.acceptor.unauthenticated.trust(networks);
    }

    /// Serves an admin endpoint at this listener too. It has places of its own and answers while the
    /// service has none. It lists the connections of all the loops that `all` reaches, this one
    /// among them, and acts on all.
    ///
    /// # Errors
    /// If the listener cannot be registered.
    pub fn set_admin(&mut self, listener: K::AdminListener, all: Handle) -> io::Result<()> {
        let (kernel, home) = (&mut self.reactor.kernel, self.inbox.server());
        self.admin = Some(Box::new(Admin::new(kernel, listener, all, home)?));
        self.inbox.set_other_descriptors(Limits::DESCRIPTORS_OF_ADMIN);
        Ok(())
    }

    /// A handle through which other threads reach the loop.
    pub fn handle(&self) -> Handle {
        self.inbox.handle(self.reactor.kernel.waker())
    }

    /// The counters as they stand.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.connections = self.reactor.slots.len();
        stats.unauthenticated = self.acceptor.unauthenticated.len();
        stats.awaiting_header = self.acceptor.unauthenticated.awaiting_header();
        (stats.loops, stats.accepted_by_busiest) = (1, stats.accepted);
        stats
    }

    /// The kernel below, for a test that plays the clients.
    #[cfg(any(test, feature = "testing"))]
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.reactor.kernel
    }

    /// Turns until the server is stopped or drained. Returns its counters.
    ///
    /// # Errors
    /// Those of [`turn`](Self::turn).
    pub fn run(&mut self) -> io::Result<Stats> {
        while self.turn()? {}
        Ok(self.stats())
    }

    /// One turn of the loop; false once it has nothing left to do.
    ///
    /// Events only set bits. All work is done from the run queue, which makes every wake-up a
    /// hint: a stale, late or spurious one costs a no-op, and fairness is a matter of one queue.
    ///
    /// # Errors
    /// When polling fails or a listener became unusable: the loop cannot go on. A failure of a
    /// single connection never ends it, nor does a panic of its handler or of the observer.
    pub fn turn(&mut self) -> io::Result<bool> {
        if self.reactor.kernel.wants_snapshot() {
            self.take_snapshot();
        }
        let wait = self.wait();
        let (mut woken, mut signaled) = (false, false);
        let polled = self.reactor.poll(wait, |target, ready| match target {
            Target::Wake => woken = true,
            Target::Signal => signaled = true,
            Target::Listener(index) => self.acceptor.handle_event(index),
            Target::Admin(number) => {
                if let Some(admin) = &mut self.admin {
                    admin.handle_event(number, ready);
                }
            }
            Target::Connection(_) => self.stats.stale_events += 1,
        });
        polled.inspect_err(|_| self.inbox.close())?;
        self.stats.turns += 1;
        if woken || signaled {
            if woken && let Some(admin) = &mut self.admin {
                admin.handle_wake();
            }
            if signaled {
                self.handle_signals();
            }
            // A signal's commands take effect in its own turn.
            self.handle_commands();
        }
        if self.unsettled.is_rearming() {
            self.rearm_some();
        }
        self.pump_queue(wait);
        if self.reactor.is_anything_due() {
            self.handle_deadlines();
        }
        self.accept()?;
        self.serve_admin();
        self.repeat();
        if !self.is_ready() {
            self.finish_draining();
        }
        if self.has_news_for_control() {
            self.keep_control_informed();
        }
        if self.lag.is_timed() {
            self.end_timing(wait);
        }
        Ok(self.lifecycle != Lifecycle::Stopped && !self.parked)
    }

    /// Returns true if it is to run no further turn until [`unpark`](Self::unpark): [`Handle::park`] was
    /// called.
    pub const fn is_parked(&self) -> bool {
        self.parked
    }

    /// Goes on after [`Handle::park`].
    pub const fn unpark(&mut self) {
        self.parked = false;
    }

    /// Not inlined: most turns of a busy loop are not timed.
    #[inline(never)]
    fn end_timing(&mut self, wait: Option<Duration>) {
        let ended = self.reactor.kernel.now();
        self.lag.end(self.stats.turns, self.reactor.now(), sleeps(wait), ended);
    }

    /// Time that the next poll may sleep: none while the reactor is busy, else until the next
    /// deadline or attempt to accept. Measured from the last reading of the clock, so a deadline may
    /// be late by the length of a turn, and is never early.
    fn wait(&self) -> Option<Duration> {
        if self.reactor.busy() || self.unsettled.is_rearming() {
            return Some(Duration::ZERO);
        }
        let mut first = self.reactor.next_step();
        if let Some(time) = self.acceptor.next_attempt() {
            first = first.min(time);
        }
        if let Some(admin) = &self.admin {
            first = first.min(admin.next());
        }
        if let Some(controlled) = &self.controlled {
            first = first.min(controlled.next_tick());
        }
        if !self.is_ready() {
            first = first.min(self.next_in_drain());
        }
        (first < Monotonic::NEVER).then(|| first.since(self.reactor.now()))
    }

    /// Gives each queued connection one turn. One with work left goes to the back of the queue and
    /// has its next turn after another look at events, deadlines and new clients.
    fn pump_queue(&mut self, wait: Option<Duration>) {
        let queued = self.reactor.queued();
        if queued >= Lag::CROWD || self.lag.is_due(self.reactor.now()) {
            self.pump_queue_timed(queued, wait);
        } else if queued > 0 {
            self.pump_next(queued);
        }
    }

    /// The same, and one of the connections is timed.
    #[inline(never)]
    fn pump_queue_timed(&mut self, queued: usize, wait: Option<Duration>) {
        let slept = sleeps(wait);
        let place = self.lag.begin(self.stats.turns, self.reactor.now(), slept, queued);
        self.pump_next(place);
        if queued > 0 {
            self.lag.waited(place, queued, self.reactor.kernel.now());
        }
        self.pump_next(queued - place);
    }

    /// Counts a connection that has authenticated, under the key at this position of the ring.
    #[inline(never)]
    fn authenticated(&mut self, id: ConnId, key: Option<usize>) {
        self.acceptor.unauthenticated.remove(id);
        let name = key.map(|position| self.config.keyring.names()[position]);
        self.stats.count_authenticated(name);
        self.note_key(id, name);
        self.acceptor.end_pause();
        #[allow(clippy::cast_possible_truncation)] // A ring has few keys.
        let key = key.map(|position| RingKey { position: position as u8, name });
        self.tell(|| Note::Authenticated(id, key));
    }

    /// Handles the deadlines that have come, a limited number per turn; the rest makes the next
    /// poll return at once.
    #[inline(never)]
    fn handle_deadlines(&mut self) {
        let mut steps = self.limits.deadlines_per_turn;
        while let Some(id) = self.reactor.due(&mut steps) {
            self.deadline(id);
        }
    }

    fn deadline(&mut self, id: ConnId) {
        self.lag.time_this_turn();
        let now = self.reactor.now();
        let Some(slot) = self.reactor.slots.get_mut(id) else { return };
        self.reactor.kernel.note(|| Note::Due(id));
        if slot.connection.poll_timeout().is_some_and(|deadline| deadline <= now) {
            // The process may have been stopped while bytes arrived in time: look before judging.
            slot.ready.insert(Ready::READABLE.union(Ready::WRITABLE));
            self.pump(id);
            let Some(slot) = self.reactor.slots.get_mut(id) else { return };
            slot.connection.handle_timeout(now);
            // An idle connection has a half-close to do now; a pump also closes what is over.
            self.pump(id);
        } else {
            self.check_peer(id);
        }
    }
}

/// Returns true if a poll with this timeout sleeps.
fn sleeps(wait: Option<Duration>) -> bool {
    wait != Some(Duration::ZERO)
}
