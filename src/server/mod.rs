//! The event loop: one thread, one poll, any number of connections.
//!
//! [`Server`] owns the sockets and decides whose turn it is; what a connection says is decided in
//! [`proto`](crate::proto), and the loop never looks into a payload. What it asks of the
//! operating system goes through [`Kernel`], so the same loop runs over real sockets and over
//! simulated ones.
//!
//! Start reading at [`Server::turn`].

mod accept;
mod admission;
mod builder;
mod check;
mod handle;
mod keepalive;
mod kernel;
mod limits;
mod mio_kernel;
mod observer;
mod pump;
mod ready;
pub(crate) mod slots;
mod stats;
mod timers;
pub(crate) mod transfer;
mod workers;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use accept::{Door, Rest};
use admission::Strangers;
use handle::{Command, Inbox};
use keepalive::Keepalive;
use slots::{Slot, Slots};
use timers::Step;

use crate::proto::{CloseReason, Config, Connection, Handler, Upper, guarded};
use crate::python::Monotonic;

pub use crate::proto::ConnId;
pub use builder::{BuildError, Running, ServerBuilder};
pub use handle::{Handle, PushError};
pub use ipnet::IpNet;
pub use kernel::{Close, Kernel, Liveness, Wake};
pub use limits::Limits;
pub use mio_kernel::{ListenOptions, MioKernel};
pub use observer::{AcceptPause, Observer};
pub use ready::Ready;
pub use slots::{Target, Token};
pub use stats::Stats;
pub use timers::{Link, Links, Step as TimerStep, Wheel};
pub use workers::run_workers;

/// An authenticated service on one event loop.
///
/// Not a thread: [`run`](Self::run) works on the thread that calls it, and a [`Handle`] reaches
/// in from others.
pub struct Server<K: Kernel = MioKernel, H = Upper> {
    kernel: K,
    config: Config,
    limits: Limits,
    /// What each new connection's handler is a clone of.
    handler: H,
    slots: Slots<K::Stream, Connection<H>>,
    strangers: Strangers,
    timers: Wheel,
    keepalive: Keepalive,
    /// Connections that may be able to go on, each at most once, in the order of their turns.
    run_queue: VecDeque<ConnId>,
    doors: Vec<Door<K::Listener>>,
    rest: Rest,
    lifecycle: Lifecycle,
    /// Every recv of every connection lands here; nothing stays between two of them.
    scratch: Box<[u8]>,
    /// The clock as of the last poll.
    now: Monotonic,
    /// Until when the poll does not sleep because of the last event; see [`Limits::spin`].
    awake_until: Monotonic,
    stats: Stats,
    observer: Option<Box<dyn Observer>>,
    inbox: Inbox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    Running,
    /// Ends when the last connection has, or at this time if there is one.
    Draining {
        until: Option<Monotonic>,
    },
    Stopped,
}

impl Server {
    /// Starts describing a server; see [`ServerBuilder`].
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }
}

impl<H> Server<MioKernel, H> {
    /// Where it listens, in the order in which it was told to; port 0 has become a real one.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.doors.iter().map(|door| door.listener.local_addr()).collect()
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
        let mut doors = Vec::with_capacity(listeners.len());
        for (index, mut listener) in listeners.into_iter().enumerate() {
            kernel.register_listener(&mut listener, Token::listener(index))?;
            // Clients may have queued before the registration: look once without an event.
            doors.push(Door { listener, waiting: true });
        }
        // Peers of several servers in one process are told apart by it; 0 is no server's.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let inbox = Inbox::new(NUMBER.fetch_add(1, Ordering::Relaxed), limits.mailbox_bytes);
        Ok(Self {
            now: kernel.now(),
            kernel,
            scratch: vec![0; config.recv_size].into_boxed_slice(),
            keepalive: Keepalive::new(&config, &limits),
            config,
            limits,
            handler,
            slots: Slots::new(),
            strangers: Strangers::default(),
            timers: Wheel::new(),
            run_queue: VecDeque::new(),
            doors,
            rest: Rest::default(),
            lifecycle: Lifecycle::Running,
            awake_until: Monotonic::ZERO,
            stats: Stats::default(),
            observer: None,
            inbox,
        })
    }

    /// Tells `observer` of connections from now on.
    pub fn set_observer(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Never refuses clients from these networks for where they come from, and so replaces the
    /// list so far. For balancers and NATs, whose many clients would be one source; a trusted
    /// client still needs a free place, and can be the oldest that makes room.
    pub fn trust(&mut self, networks: &[IpNet]) {
        self.strangers.trust(networks);
    }

    /// What other threads reach the loop through.
    pub fn handle(&self) -> Handle {
        self.inbox.handle(self.kernel.waker())
    }

    /// The counters as they stand.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.connections = self.slots.len();
        stats.unauthenticated = self.strangers.len();
        (stats.loops, stats.accepted_by_busiest) = (1, stats.accepted);
        stats
    }

    /// The kernel below, for those who simulate it.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Turns until the server is stopped or drained, and says what it did.
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
    /// When polling fails or a listener became unusable: the loop cannot go on. What befalls a
    /// single connection never ends it, nor does a panic of its handler or of the observer.
    pub fn turn(&mut self) -> io::Result<bool> {
        let (mut woken, mut spoken_to) = (false, false);
        let wait = self.wait();
        let polled = self.kernel.poll(wait, |token, ready| {
            spoken_to = true;
            match token.target() {
                Target::Wake => woken = true,
                Target::Listener(index) => {
                    if let Some(door) = self.doors.get_mut(index) {
                        door.waiting = true;
                    }
                }
                Target::Connection(id) => match self.slots.get_mut(id) {
                    Some(slot) => {
                        slot.ready.insert(ready);
                        enqueue(&mut self.run_queue, slot, id);
                    }
                    None => self.stats.stale_events += 1,
                },
            }
        });
        polled.inspect_err(|_| self.inbox.close())?;
        self.now = self.kernel.now();
        if spoken_to {
            self.awake_until = self.now.saturating_add(self.limits.spin);
        }
        self.stats.turns += 1;
        if woken {
            self.obey();
        }
        self.pump_queue();
        self.handle_deadlines();
        self.accept()?;
        self.finish_draining();
        Ok(self.lifecycle != Lifecycle::Stopped)
    }

    /// How long the next poll may sleep: not at all while there is work or the last event is
    /// recent enough to spin, else until the next deadline. Measured from the last reading of the
    /// clock, so a deadline may be late by the length of a turn, and is never early.
    fn wait(&self) -> Option<Duration> {
        if !self.run_queue.is_empty() || (self.has_waiting_clients() && self.rest.until().is_none())
        {
            return Some(Duration::ZERO);
        }
        if self.now < self.awake_until {
            return Some(Duration::ZERO);
        }
        let retry = self.rest.until().filter(|_| self.has_waiting_clients());
        let drained = match self.lifecycle {
            Lifecycle::Draining { until } => until,
            Lifecycle::Running | Lifecycle::Stopped => None,
        };
        let nearest = [self.timers.next_step(), retry, drained].into_iter().flatten().min();
        nearest.map(|time| time.since(self.now))
    }

    fn obey(&mut self) {
        for command in self.inbox.take() {
            match command {
                Command::Drain => self.drain(),
                Command::Stop => self.end_all(CloseReason::Stopped),
                Command::ReplaceKeyring(keyring) => self.config.keyring = *keyring,
                Command::Push(id, message) => self.push(id, message),
                // The thread that asked may have gone away.
                Command::Stats(reply) => drop(reply.send(self.stats())),
            }
        }
    }

    fn push(&mut self, id: ConnId, message: Bytes) {
        let taken = self.slots.get_mut(id).is_some_and(|slot| {
            enqueue(&mut self.run_queue, slot, id);
            slot.connection.push(&self.config, message, self.now)
        });
        match taken {
            true => self.stats.pushed += 1,
            false => self.stats.pushes_dropped += 1,
        }
    }

    /// Gives each connection in the queue one turn. Who could go on queues up again behind the
    /// others, and is served after the next look at events, deadlines and new clients.
    fn pump_queue(&mut self) {
        if self.run_queue.is_empty() && self.run_queue.capacity() > 4096 {
            self.shrink_run_queue();
        }
        for _ in 0..self.run_queue.len() {
            let id = self.run_queue.pop_front().expect("the queue only grows meanwhile");
            if let Some(slot) = self.slots.get_mut(id) {
                slot.queued = false;
                self.pump(id);
            }
        }
    }

    /// How many can be in the run queue at once, with so many newcomers: each connection, and of a
    /// turn's newcomers those that have already made room for another one.
    fn queue_needs(&self, newcomers: usize) -> usize {
        self.slots.len() + 2 * newcomers
    }

    /// Gives memory back if the crowd that it is for is gone.
    #[cold]
    fn shrink_run_queue(&mut self) {
        let need = self.queue_needs(1024);
        if self.run_queue.capacity() / 4 > need {
            self.run_queue.shrink_to(need);
        }
    }

    fn pump(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let known = slot.connection.has_authenticated();
        let unfinished = pump::pump(
            &mut self.kernel,
            &self.config,
            slot,
            &mut self.scratch,
            self.limits.bytes_per_turn,
            self.now,
            &mut self.stats,
        );
        if unfinished {
            enqueue(&mut self.run_queue, slot, id);
        }
        if slot.connection.has_authenticated() != known {
            self.authenticated(id);
        }
        self.settle(id);
    }

    /// Draws the consequences of whatever just happened to a connection: closes it if it is over,
    /// else sees to its deadline.
    #[inline]
    fn settle(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get(id) else { return };
        if let Some(reason) = slot.connection.close_reason() {
            return self.close(id, reason);
        }
        match (slot.connection.poll_timeout(), slot.is_armed()) {
            // An alarm of a deadline that has been met serves as the first of keepalive's.
            (None, true) if self.keepalive.is_on() => {}
            (None, true) => self.timers.disarm(&mut self.slots, id.index),
            (Some(deadline), true) => self.timers.arm_by(&mut self.slots, id.index, deadline),
            (deadline, false) => self.arm(id, deadline),
        }
    }

    fn authenticated(&mut self, id: ConnId) {
        self.strangers.remove(id);
        self.stats.authenticated += 1;
        self.rest.end();
        self.tell(|observer| observer.authenticated(id));
    }

    /// Calls the observer, which must not be able to take the loop down.
    fn tell(&mut self, tell: impl FnOnce(&mut dyn Observer)) {
        if let Some(observer) = &mut self.observer
            && guarded(|| tell(&mut **observer)).is_none()
        {
            self.stats.observer_panics += 1;
        }
    }

    fn abort(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.connection.abort(reason);
            self.settle(id);
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        self.timers.disarm(&mut self.slots, id.index);
        let slot = self.slots.remove(id);
        if !slot.connection.has_authenticated() {
            if reason.is_local() {
                self.strangers.remove(id);
            } else {
                self.strangers.remove_failed(id, &self.limits, self.now);
            }
        }
        let undelivered = slot.connection.undelivered();
        let incomplete = undelivered > 0 || slot.connection.is_unanswered();
        // To a peer that is gone the kernel would repeat an end of the stream for minutes.
        let how = match incomplete || reason == CloseReason::PeerVanished {
            true => Close::Reset,
            false => Close::Orderly,
        };
        self.kernel.close(slot.stream, how);
        self.stats.bytes_undelivered += undelivered as u64;
        // The handler goes with it, and its destructor is not the loop's code either.
        guarded(|| drop(slot.connection));
        self.stats.count_close(reason);
        self.rest.end();
        self.slots.shrink_if_empty();
        self.tell(|observer| observer.closed(id, reason));
    }

    /// Handles the deadlines that have come, a limited number a turn; the rest makes the next
    /// poll return at once.
    fn handle_deadlines(&mut self) {
        for _ in 0..self.limits.deadlines_per_turn {
            match self.timers.step(&mut self.slots, self.now) {
                Step::Done => break,
                Step::Moved => {}
                Step::Due(index) => self.deadline(self.slots.id_at(index)),
            }
        }
    }

    fn deadline(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.connection.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
            // The process may have been stopped while bytes arrived in time: look before judging.
            slot.ready.insert(Ready::READABLE.union(Ready::WRITABLE));
            self.pump(id);
            let Some(slot) = self.slots.get_mut(id) else { return };
            slot.connection.handle_timeout(self.now);
            // An idle connection has a half-close to do now; a pump also closes what is over.
            self.pump(id);
        } else {
            self.check_peer(id);
        }
    }

    fn drain(&mut self) {
        if self.lifecycle != Lifecycle::Running {
            return;
        }
        let until = self.limits.drain_timeout.map(|limit| self.now.saturating_add(limit));
        self.lifecycle = Lifecycle::Draining { until };
        self.doors.clear();
        self.for_each(|server, id| {
            let slot = server.slots.get_mut(id).expect("it was found just now");
            slot.connection.close(CloseReason::Drained);
            enqueue(&mut server.run_queue, slot, id);
        });
    }

    fn finish_draining(&mut self) {
        let Lifecycle::Draining { until } = self.lifecycle else { return };
        if self.slots.is_empty() {
            self.end();
        } else if until.is_some_and(|until| until <= self.now) {
            self.end_all(CloseReason::DrainTimeout);
        }
    }

    fn end_all(&mut self, reason: CloseReason) {
        self.end();
        self.doors.clear();
        self.for_each(|server, id| server.abort(id, reason));
    }

    /// Visits all connections, of which any may end meanwhile. Needs no memory for a list of them.
    fn for_each(&mut self, mut visit: impl FnMut(&mut Self, ConnId)) {
        let mut next = self.slots.id_from(0);
        while let Some(id) = next {
            visit(self, id);
            next = self.slots.id_from(id.index + 1);
        }
    }

    fn end(&mut self) {
        self.lifecycle = Lifecycle::Stopped;
        self.inbox.close();
    }
}

/// Puts a connection into the run queue, unless it is there.
pub(crate) fn enqueue<S, C>(run_queue: &mut VecDeque<ConnId>, slot: &mut Slot<S, C>, id: ConnId) {
    if !slot.queued {
        slot.queued = true;
        run_queue.push_back(id);
    }
}
