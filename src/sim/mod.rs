//! A simulated kernel: the event loop's other side, under a virtual clock and one seed.
//!
//! [`SimKernel`] answers every call that the loop makes, over byte queues instead of sockets, and
//! lets a test play the clients and the network. What it does is drawn from its seed, so a failure
//! repeats from its number alone. It behaves as Linux was observed to behave where that matters
//! (`tests/sim/truth.rs` holds it against real sockets):
//!
//! - events are edges: an unread remainder gives no further one, data and the end of the stream
//!   before a read give one together, and an edge carries the state at the time it is fetched;
//! - a `recv` stops short at an urgent mark, and only there; the urgent byte is not in the stream;
//! - writability is announced only after a `send` found no room, once a third of the buffer is
//!   free;
//! - data that has arrived before a reset is received before it, at either end; the reset is
//!   reported once, by whichever call comes first, and looks like an end afterwards; an end of
//!   the stream that has arrived stays an end, whatever comes later;
//! - a `close()` with unread input resets, and so does input that comes after a `close()`; that
//!   destroys what has not arrived at the peer;
//! - a client that resets while it is queued is accepted all the same;
//! - a listener whose `accept` failed stays silent until another client connects.
//!
//! Beyond that it does what [`Faults`] allow, and the loop must cope with all of it.

mod clients;
mod events;
mod faults;
mod handover;
mod kernel;
mod outlook;
mod picture;
mod pipe;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use clients::{Seen, SimClient};
pub use faults::Faults;
use handover::FirstEpoll;
pub use handover::SimMoved;
pub use kernel::{SimAdminListener, SimStream};
pub use outlook::Outlook;
pub use socket::Ledger;
use socket::{End, Socket};

use crate::proto::ConnId;
use crate::python::Monotonic;
use crate::random::SplitMix;
use crate::reactor::Token;
use crate::trace::{Event, Picture, Step, World};

type Observer = Box<dyn FnMut(&Event) + Send>;

/// The kernel below a simulated loop, and the network and the clients beside it.
pub struct SimKernel {
    clock: Duration,
    /// The loop's last reading of the clock.
    last_reading: Monotonic,
    random: SplitMix,
    /// Randomness that spreads the loop's work over time. A sequence of its own, so that a run's
    /// other choices do not depend on how often the loop spreads something.
    scatter: SplitMix,
    faults: Faults,
    /// The longest next sleep: after it another part of the simulation acts.
    patience: Duration,
    asleep: bool,
    sockets: Vec<Socket>,
    /// Sockets with an edge that has not been fetched, in order.
    edges: VecDeque<usize>,
    /// Sockets with bytes or an end in flight to the server.
    under_way: VecDeque<usize>,
    listener: Option<Token>,
    listener_edge: bool,
    queue: VecDeque<usize>,
    admin: AdminQueue,
    /// Tokens of sockets that are closed, whose events may come late.
    stale: VecDeque<Token>,
    descriptors: usize,
    open: usize,
    open_admin: usize,
    woken: Arc<AtomicBool>,
    /// Signals that have come and were not taken.
    signals: VecDeque<i32>,
    signal_edge: bool,
    events: u64,
    calls: u64,
    /// Polls in a row that were forbidden to sleep, without an event or a call that achieved
    /// anything between them.
    fruitless: u32,
    /// Set during a handover.
    first_epoll: Option<FirstEpoll>,
    trace: Option<Vec<Step>>,
    /// The kernel's side after each step of the trace, if it is kept.
    pictures: Option<Vec<Picture>>,
    /// The clock was not read since the last poll.
    polled: bool,
    observer: Option<Observer>,
}

/// The admin endpoint's listener and the clients that wait for it.
#[derive(Debug, Default)]
struct AdminQueue {
    listener: Option<Token>,
    edge: bool,
    clients: VecDeque<usize>,
}

impl SimKernel {
    /// A kernel whose every decision follows from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::with_choices(SplitMix::new(seed), faults)
    }

    /// A kernel whose every decision comes from `random`.
    pub fn with_choices(random: SplitMix, faults: Faults) -> Self {
        Self {
            clock: Duration::ZERO,
            last_reading: Monotonic::ZERO,
            scatter: SplitMix::new(random.clone().next_u64()),
            random,
            descriptors: faults.descriptors,
            faults,
            patience: Duration::ZERO,
            asleep: false,
            sockets: Vec::new(),
            edges: VecDeque::new(),
            under_way: VecDeque::new(),
            listener: None,
            listener_edge: false,
            queue: VecDeque::new(),
            admin: AdminQueue::default(),
            stale: VecDeque::new(),
            open: 0,
            open_admin: 0,
            woken: Arc::default(),
            signals: VecDeque::new(),
            signal_edge: false,
            events: 0,
            calls: 0,
            fruitless: 0,
            first_epoll: None,
            trace: None,
            pictures: None,
            polled: false,
            observer: None,
        }
    }

    /// Keeps a trace of everything from here on.
    pub fn start_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// The trace so far.
    pub fn trace(&self) -> &[Step] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// Adds a remark to the trace.
    pub fn remark(&mut self, text: impl FnOnce() -> String) {
        self.act(|| World::Says(text()));
    }

    /// Calls `observer` with every [`Event`] from here on, when it happens: what a trace would keep.
    pub fn set_observer(&mut self, observer: impl FnMut(&Event) + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    fn act(&mut self, act: impl FnOnce() -> World) {
        self.record(|| Event::World(act()));
    }

    fn record(&mut self, event: impl FnOnce() -> Event) {
        if self.trace.is_none() && self.observer.is_none() {
            return;
        }
        let step = Step { at: Monotonic::ZERO.saturating_add(self.clock), event: event() };
        if let Some(observer) = &mut self.observer {
            observer(&step.event);
        }
        let Some(trace) = &mut self.trace else { return };
        trace.push(step);
        if self.pictures.is_some() {
            let picture = self.picture();
            self.pictures.get_or_insert_default().push(picture);
        }
    }

    /// Injects no more faults from here on, so that everything pending must now happen.
    pub fn stop_faults(&mut self) {
        self.faults = Faults::none();
        self.descriptors = usize::MAX;
    }

    /// The chances of its faults that came true, if its random sequence numbers them.
    pub fn true_chances(&self) -> &[u32] {
        self.random.true_chances()
    }

    /// Refuses no registration from here on.
    pub fn stop_register_faults(&mut self) {
        self.faults.register_error = 0;
    }

    /// Limits the loop's next sleeps: the virtual clock advances by at most this.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Returns true if the last poll found no event and had leave to sleep.
    pub const fn slept(&self) -> bool {
        self.asleep
    }

    /// Polls in a row that were not allowed to sleep although nothing happened between them: a loop
    /// that spins.
    pub const fn fruitless_polls(&self) -> u32 {
        self.fruitless
    }

    /// The loop's last reading of the clock.
    pub const fn last_reading(&self) -> Monotonic {
        self.last_reading
    }

    /// Connections whose server end is open, without those of the admin endpoint.
    pub const fn open_streams(&self) -> usize {
        self.open
    }

    /// Connections of the admin endpoint whose server end is open.
    pub const fn open_admin_streams(&self) -> usize {
        self.open_admin
    }

    /// Clients that wait to be accepted by the admin endpoint.
    pub fn queued_admin_clients(&self) -> usize {
        self.admin.clients.len()
    }

    /// Clients that wait to be accepted.
    pub fn queued_clients(&self) -> usize {
        self.queue.len()
    }

    /// Events delivered so far.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Events delivered and calls answered so far.
    pub const fn steps(&self) -> u64 {
        self.events + self.calls
    }

    /// The server's calls for a client's connection so far.
    pub fn ledger(&self, client: SimClient) -> &Ledger {
        &self.sockets[client.0].ledger
    }

    /// When anything last came from a client, as far as the server's kernel knows.
    pub fn heard_at(&self, client: SimClient) -> Monotonic {
        Monotonic::ZERO.saturating_add(self.sockets[client.0].heard_at)
    }

    /// Bytes that have arrived at the server's end of a connection and are not received.
    pub fn unread(&self, client: SimClient) -> usize {
        self.sockets[client.0].to_server.unread()
    }

    /// The client that a loop knows by this name, if its connection was ever registered.
    pub fn client_named(&self, id: ConnId) -> Option<SimClient> {
        let name = Some(Token::connection(id));
        self.sockets.iter().rposition(|socket| socket.ledger.name == name).map(SimClient)
    }

    /// Lets time pass outside of any poll: a process that was stopped, a machine that slept.
    pub fn pass(&mut self, time: Duration) {
        self.clock += time;
        self.act(|| World::Passes(time));
    }

    /// Sends the process a signal.
    pub fn signal(&mut self, signal: i32) {
        self.act(|| World::Signals(signal));
        self.signals.push_back(signal);
        self.signal_edge = true;
    }

    /// Returns true if a server's end exists that could read what a client has sent.
    pub fn is_served(&self, client: SimClient) -> bool {
        self.sockets[client.0].server_end == End::Open
    }

    /// An edge at a registered socket.
    fn raise(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        if socket.token.is_some() && !socket.edge {
            socket.edge = true;
            self.edges.push_back(index);
        }
    }
}
