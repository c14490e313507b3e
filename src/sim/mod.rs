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

mod events;
mod faults;
mod handover;
mod kernel;
mod outlook;
mod picture;
mod pipe;
mod socket;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use faults::Faults;
use handover::FirstEpoll;
pub use handover::SimMoved;
pub use kernel::{SimAdminListener, SimStream};
pub use outlook::Outlook;
use pipe::Direction;
pub use socket::Ledger;
use socket::{Answer, End, Socket};

use crate::proto::ConnId;
use crate::python::Monotonic;
use crate::random::SplitMix;
use crate::reactor::Token;
use crate::trace::{Event, Fault, Picture, Step, Stream, World};

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

/// A client's end of a simulated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimClient(usize);

impl SimClient {
    /// Its stream in a trace, which counts from 1.
    pub const fn stream(self) -> Stream {
        Stream(self.0 as u64 + 1)
    }

    /// The client of a stream of a trace.
    #[allow(clippy::cast_possible_truncation)] // It counts clients, which are in memory.
    pub const fn of(stream: Stream) -> Self {
        Self(stream.0 as usize - 1)
    }
}

/// The state of the stream at a client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing at present.
    Nothing,
    /// The end of the stream.
    End,
    /// A reset. What had not arrived is gone.
    Reset,
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

    /// A client connects, whose address `accept` does not tell. Each direction holds this many
    /// bytes, of which at most `window` have arrived and are unread.
    pub fn connect(&mut self, to_server: usize, to_client: usize, window: usize) -> SimClient {
        self.connect_from(None, to_server, to_client, window)
    }

    /// The same with what `accept` tells of the client's address.
    pub fn connect_from(
        &mut self,
        peer: Option<SocketAddr>,
        to_server: usize,
        to_client: usize,
        window: usize,
    ) -> SimClient {
        let index = self.sockets.len();
        let (to_server, to_client) =
            (Direction::new(to_server, window), Direction::new(to_client, window));
        self.sockets.push(Socket::new(peer, to_server, to_client));
        self.queue.push_back(index);
        self.listener_edge = true;
        self.act(|| World::Connects(SimClient(index).stream(), peer));
        SimClient(index)
    }

    /// A client connects to the admin endpoint; its numbers are those of
    /// [`connect`](Self::connect).
    pub fn connect_admin(
        &mut self,
        to_server: usize,
        to_client: usize,
        window: usize,
    ) -> SimClient {
        let client = self.connect(to_server, to_client, window);
        self.sockets[client.0].is_admin = true;
        self.queue.pop_back();
        self.admin.clients.push_back(client.0);
        self.admin.edge = true;
        client
    }

    /// The address of a client as `accept` returns it.
    pub fn peer(&self, client: SimClient) -> Option<SocketAddr> {
        self.sockets[client.0].peer
    }

    /// A client sends; how many bytes there was room for.
    pub fn client_send(&mut self, client: SimClient, bytes: &[u8]) -> usize {
        if !bytes.is_empty() && self.sockets[client.0].is_sent_in_vain() {
            return bytes.len();
        }
        let n = self.sockets[client.0].to_server.push(bytes);
        if n > 0 {
            let (stream, offered) = (client.stream(), bytes.len());
            self.send_off(client.0);
            self.act(|| World::Sends { stream, taken: n, offered });
        }
        n
    }

    /// A client sends one urgent byte; false if there is no room for it, or an earlier one has
    /// not been passed.
    pub fn client_send_urgent(&mut self, client: SimClient) -> bool {
        if self.sockets[client.0].is_sent_in_vain() {
            return true;
        }
        let sent = self.sockets[client.0].to_server.push_urgent();
        if sent {
            self.raise(client.0);
            self.act(|| World::SendsUrgent(client.stream()));
        }
        sent
    }

    /// A client reads up to `limit` bytes.
    ///
    /// # Errors
    /// [`Seen`] if there are none.
    pub fn client_recv(&mut self, client: SimClient, limit: usize) -> Result<Vec<u8>, Seen> {
        let socket = &mut self.sockets[client.0];
        let mut bytes = vec![0; limit.min(socket.to_client.unread())];
        let n = socket.to_client.read(&mut bytes);
        if n == 0 {
            return Err(match &mut socket.client_reset {
                _ if socket.to_client.is_at_end() => Seen::End,
                Some(unreported @ true) => {
                    *unreported = false;
                    Seen::Reset
                }
                Some(false) => Seen::End,
                None => Seen::Nothing,
            });
        }
        socket.deliver(self.clock);
        if socket.no_space && socket.to_client.has_room_again() {
            socket.no_space = false;
            self.raise(client.0);
        }
        self.act(|| World::Reads(client.stream(), n));
        Ok(bytes)
    }

    /// A client ends its stream.
    pub fn client_finish(&mut self, client: SimClient) {
        self.sockets[client.0].to_server.end();
        self.send_off(client.0);
        self.act(|| World::Finishes(client.stream()));
    }

    /// A client resets the connection.
    pub fn client_reset(&mut self, client: SimClient) {
        self.sockets[client.0].fail(libc::ECONNRESET);
        self.raise(client.0);
        self.act(|| World::Resets(client.stream()));
    }

    /// A client vanishes: neither an end nor a reset comes, what is sent to it is not acknowledged,
    /// and a probe is answered only if its machine has started again meanwhile, by a reset.
    pub fn client_vanish(&mut self, client: SimClient, starts_again: bool) {
        self.sockets[client.0].vanished =
            Some(if starts_again { Answer::Reset } else { Answer::None });
        self.act(|| World::Vanishes(client.stream(), starts_again));
    }

    /// The network disconnects a client. Both ends learn of it, the server by this error.
    pub fn disconnect(&mut self, client: SimClient, errno: i32) {
        let socket = &mut self.sockets[client.0];
        socket.ledger.disconnected = true;
        socket.reset_client();
        socket.fail(errno);
        self.raise(client.0);
        self.act(|| World::Disconnects(client.stream(), Fault(errno)));
    }

    /// Returns true if a server's end exists that could read what a client has sent.
    pub fn is_served(&self, client: SimClient) -> bool {
        self.sockets[client.0].server_end == End::Open
    }

    /// Delivers what a client sent to the server: at once, or later at random.
    fn send_off(&mut self, index: usize) {
        if self.random.chance(self.faults.late_arrival) {
            let socket = &mut self.sockets[index];
            if !socket.under_way && socket.to_server.is_under_way() {
                socket.under_way = true;
                self.under_way.push_back(index);
            }
        } else if self.sockets[index].to_server.arrive(usize::MAX) {
            self.sockets[index].heard(self.clock);
            self.raise(index);
        }
    }

    /// Delivers what is in flight on one connection, or a part of it.
    fn move_something(&mut self) {
        let Some(index) = self.under_way.pop_front() else { return };
        let socket = &mut self.sockets[index];
        socket.under_way = false;
        let limit = match self.random.chance(self.faults.late_arrival) {
            true => 1 + self.random.below(20),
            false => usize::MAX,
        };
        if socket.to_server.arrive(limit) {
            socket.heard(self.clock);
            let left = socket.to_server.unread();
            self.act(|| World::Arrives(SimClient(index).stream(), left));
            self.raise(index);
        }
        let socket = &mut self.sockets[index];
        if socket.to_server.is_under_way() {
            socket.under_way = true;
            self.under_way.push_back(index);
        }
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
