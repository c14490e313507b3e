//! A simulated kernel: the event loop's other side, under a virtual clock and one seed.
//!
//! [`SimKernel`] answers every call that the loop makes, over byte queues instead of sockets, and
//! lets a test play the clients. What it does is drawn from its seed, so a failure repeats from
//! its number alone. It behaves as Linux was observed to behave where that matters:
//!
//! - events are edges: an unread remainder gives no further one, data and the end of the stream
//!   before a read give one together, and an edge carries the state at the time it is fetched;
//! - a `recv` stops short at an urgent mark, and only there; the urgent byte is not in the stream;
//! - writability is announced only after a `send` found no room, once a third of the buffer is
//!   free;
//! - data that came before a reset is received before it, and the reset is reported once;
//! - a `close()` with unread input resets, which destroys what the peer has not read;
//! - a listener whose `accept` failed stays silent until somebody else connects.
//!
//! Beyond that it may do whatever [`Faults`] allow, all of which the loop has to bear.

mod faults;
mod pipe;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use faults::{Faults, SplitMix};
use pipe::Direction;

use crate::python::Monotonic;
use crate::server::{Close, Kernel, Ready, Token, Wake};

/// The kernel below a simulated loop, and the network and the clients beside it.
pub struct SimKernel {
    clock: Duration,
    random: SplitMix,
    faults: Faults,
    /// How long the next sleep may last before somebody else in the simulation wants to act.
    patience: Duration,
    asleep: bool,
    sockets: Vec<Socket>,
    /// Sockets with an edge that has not been fetched, in order.
    edges: VecDeque<usize>,
    listener: Option<Token>,
    listener_edge: bool,
    queue: VecDeque<usize>,
    /// Tokens of sockets that are closed, whose events may come late.
    stale: VecDeque<Token>,
    descriptors: usize,
    open: usize,
    woken: Arc<AtomicBool>,
    events: u64,
    calls: u64,
    trace: Option<Vec<String>>,
}

/// A server's end of a simulated connection.
#[derive(Debug)]
pub struct SimStream(usize);

/// A client's end of a simulated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimClient(usize);

/// What a client finds when it looks at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing at present.
    Nothing,
    /// The end of the stream.
    End,
    /// A reset. What had not been read is gone.
    Reset,
}

/// One connection: two directions, and what epoll knows of the server's end.
#[derive(Debug)]
struct Socket {
    to_server: Direction,
    to_client: Direction,
    server_end: End,
    token: Option<Token>,
    edge: bool,
    /// A `send` found no room since writability was last announced.
    no_space: bool,
    /// The client reset the connection; `recv` and `send` report it once.
    reset_by_client: Option<bool>,
    reset_by_server: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Queued,
    Open,
    Closed,
}

impl SimKernel {
    /// A kernel whose every decision follows from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            clock: Duration::ZERO,
            random: SplitMix::new(seed),
            descriptors: faults.descriptors,
            faults,
            patience: Duration::ZERO,
            asleep: false,
            sockets: Vec::new(),
            edges: VecDeque::new(),
            listener: None,
            listener_edge: false,
            queue: VecDeque::new(),
            stale: VecDeque::new(),
            open: 0,
            woken: Arc::default(),
            events: 0,
            calls: 0,
            trace: None,
        }
    }

    /// Keeps a readable account of everything from here on.
    pub fn start_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// The account so far, one line a step.
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// Adds a line to the account.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let clock = self.clock;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.3?}  {}", clock, text()));
        }
    }

    /// No more faults from here on: what is owed must now come about.
    pub fn calm(&mut self) {
        self.faults = Faults::none();
        self.descriptors = usize::MAX;
    }

    /// How long the loop's next sleeps may last: the virtual clock goes on by that much at most.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether the last poll found no event and had leave to sleep.
    pub const fn slept(&self) -> bool {
        self.asleep
    }

    /// Connections whose server end is open.
    pub const fn open_streams(&self) -> usize {
        self.open
    }

    /// Clients that wait to be accepted.
    pub fn queued_clients(&self) -> usize {
        self.queue.len()
    }

    /// Events delivered and calls answered so far.
    pub const fn steps(&self) -> u64 {
        self.events + self.calls
    }

    /// Lets time pass outside of any poll: a process that was stopped, a machine that slept.
    pub fn pass(&mut self, time: Duration) {
        self.clock += time;
        self.note(|| format!("{time:?} pass"));
    }

    /// A client connects; each direction holds this many bytes.
    pub fn connect(&mut self, to_server: usize, to_client: usize) -> SimClient {
        let index = self.sockets.len();
        self.sockets.push(Socket {
            to_server: Direction::new(to_server),
            to_client: Direction::new(to_client),
            server_end: End::Queued,
            token: None,
            edge: false,
            no_space: false,
            reset_by_client: None,
            reset_by_server: false,
        });
        self.queue.push_back(index);
        self.listener_edge = true;
        self.note(|| format!("client {index} connects"));
        SimClient(index)
    }

    /// A client sends; how many bytes there was room for.
    pub fn client_send(&mut self, client: SimClient, bytes: &[u8]) -> usize {
        let socket = &mut self.sockets[client.0];
        if socket.server_end == End::Closed {
            // The server's kernel answers with a reset; nobody reads these bytes.
            socket.reset_by_server |= !bytes.is_empty();
            return bytes.len();
        }
        let n = socket.to_server.push(bytes);
        if n > 0 {
            self.raise(client.0);
            self.note(|| format!("client {} sends {n} of {} bytes", client.0, bytes.len()));
        }
        n
    }

    /// A client sends one urgent byte; false if there is no room for it.
    pub fn client_send_urgent(&mut self, client: SimClient) -> bool {
        let sent = self.sockets[client.0].to_server.push_urgent();
        if sent {
            self.raise(client.0);
            self.note(|| format!("client {} sends an urgent byte", client.0));
        }
        sent
    }

    /// A client reads up to `limit` bytes.
    ///
    /// # Errors
    /// [`Seen`] if there are none.
    pub fn client_recv(&mut self, client: SimClient, limit: usize) -> Result<Vec<u8>, Seen> {
        let socket = &mut self.sockets[client.0];
        if socket.reset_by_server {
            return Err(Seen::Reset);
        }
        let bytes = socket.to_client.pop(limit);
        if bytes.is_empty() {
            return Err(if socket.to_client.ended() { Seen::End } else { Seen::Nothing });
        }
        if socket.no_space && socket.to_client.has_room_again() {
            socket.no_space = false;
            self.raise(client.0);
        }
        self.note(|| format!("client {} reads {} bytes", client.0, bytes.len()));
        Ok(bytes)
    }

    /// A client ends its stream.
    pub fn client_finish(&mut self, client: SimClient) {
        self.sockets[client.0].to_server.end();
        self.raise(client.0);
        self.note(|| format!("client {} ends its stream", client.0));
    }

    /// A client resets the connection.
    pub fn client_reset(&mut self, client: SimClient) {
        let socket = &mut self.sockets[client.0];
        if socket.reset_by_client.is_none() {
            socket.reset_by_client = Some(true);
        }
        self.raise(client.0);
        self.note(|| format!("client {} resets", client.0));
    }

    /// Whether a server's end exists that could read what a client has sent.
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

    fn deliver(&mut self, token: Token, ready: Ready, on_event: &mut impl FnMut(Token, Ready)) {
        self.events += 1;
        self.note(|| format!("event {:?} {ready:?}", token.target()));
        on_event(token, ready);
    }

    /// The events that only a disturbed kernel gives.
    fn disturb(&mut self, on_event: &mut impl FnMut(Token, Ready)) {
        if self.random.chance(self.faults.spurious_event) && !self.sockets.is_empty() {
            let index = self.random.below(self.sockets.len());
            if let Some(token) = self.sockets[index].token {
                let ready = [Ready::READABLE, Ready::WRITABLE, Ready::PRIORITY, Ready::CLOSED];
                let ready = ready[self.random.below(ready.len())];
                self.deliver(token, ready, on_event);
            }
        }
        if self.random.chance(self.faults.stale_event) && !self.stale.is_empty() {
            let token = self.stale[self.random.below(self.stale.len())];
            self.deliver(token, Ready::READABLE.union(Ready::WRITABLE), on_event);
        }
        if self.random.chance(self.faults.spurious_event)
            && let Some(token) = self.listener
        {
            self.deliver(token, Ready::READABLE, on_event);
        }
    }

    fn fault(&mut self, chance: u32, errno: i32) -> io::Result<()> {
        self.calls += 1;
        if self.random.chance(chance) {
            self.note(|| format!("a call fails with errno {errno}"));
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }
}

impl Socket {
    /// The state that an edge carries, as epoll computes it when the event is fetched.
    fn readiness(&self) -> Ready {
        let mut ready = Ready::NONE;
        let failed = self.reset_by_client.is_some();
        if failed || self.to_server.is_readable() {
            ready.insert(Ready::READABLE);
        }
        if failed || self.to_client.has_room_again() {
            ready.insert(Ready::WRITABLE);
        }
        if failed || self.to_server.has_end() {
            ready.insert(Ready::CLOSED);
        }
        if self.to_server.has_urgent() {
            ready.insert(Ready::PRIORITY);
        }
        ready
    }
}

impl Kernel for SimKernel {
    type Listener = ();
    type Stream = SimStream;

    fn now(&mut self) -> Monotonic {
        Monotonic::ZERO.saturating_add(self.clock)
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        self.calls += 1;
        let before = self.events;
        if self.woken.swap(false, Ordering::Relaxed) {
            self.deliver(Token::WAKE, Ready::READABLE, &mut on_event);
        }
        if let Some(token) = self.listener
            && self.listener_edge
            && !self.random.chance(self.faults.delayed_event)
        {
            self.listener_edge = false;
            if !self.queue.is_empty() {
                self.deliver(token, Ready::READABLE, &mut on_event);
            }
        }
        for _ in 0..self.edges.len() {
            let index = self.edges.pop_front().expect("it only grows meanwhile");
            let socket = &mut self.sockets[index];
            let Some(token) = socket.token else { continue };
            if self.random.chance(self.faults.delayed_event) {
                // Later, and behind the others: events are delayed, split and reordered.
                self.edges.push_back(index);
                continue;
            }
            socket.edge = false;
            let ready = socket.readiness();
            if ready != Ready::NONE {
                self.deliver(token, ready, &mut on_event);
                if self.random.chance(self.faults.repeated_event) {
                    self.deliver(token, ready, &mut on_event);
                }
            }
        }
        self.disturb(&mut on_event);
        let nothing = self.events == before && self.edges.is_empty() && !self.listener_edge;
        self.asleep = nothing && timeout != Some(Duration::ZERO);
        if self.asleep {
            let slept = timeout.map_or(self.patience, |timeout| timeout.min(self.patience));
            self.clock += slept;
            self.note(|| format!("sleeps for {slept:?} of {timeout:?}"));
        } else {
            self.clock += Duration::from_micros(self.random.below(50) as u64);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWaker(Arc::clone(&self.woken)))
    }

    fn register_listener(&mut self, _listener: &mut (), token: Token) -> io::Result<()> {
        self.listener = Some(token);
        Ok(())
    }

    fn register(&mut self, stream: &mut SimStream, token: Token) -> io::Result<()> {
        self.fault(self.faults.register_error, libc::ENOSPC)?;
        self.sockets[stream.0].token = Some(token);
        // Registering announces what is already there.
        self.raise(stream.0);
        Ok(())
    }

    fn accept(&mut self, _listener: &mut ()) -> io::Result<(SimStream, Option<SocketAddr>)> {
        if self.queue.is_empty() {
            self.calls += 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.open >= self.descriptors {
            self.fault(Faults::ALWAYS, libc::EMFILE)?;
        }
        let errnos = [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EMFILE, libc::ENOMEM];
        let errno = errnos[self.random.below(errnos.len())];
        self.fault(self.faults.accept_error, errno)?;
        let index = self.queue.pop_front().expect("somebody waits");
        self.sockets[index].server_end = End::Open;
        self.open += 1;
        self.note(|| format!("server accepts client {index}"));
        Ok((SimStream(index), None))
    }

    fn shed(&mut self, _listener: &mut ()) -> io::Result<()> {
        let Some(index) = self.queue.pop_front() else { return Err(ErrorKind::WouldBlock.into()) };
        self.open += 1;
        self.note(|| format!("server turns client {index} away"));
        self.close(SimStream(index), Close::Orderly);
        Ok(())
    }

    fn recv(&mut self, stream: &mut SimStream, data: &mut [u8]) -> io::Result<usize> {
        self.fault(self.faults.interrupted, libc::EINTR)?;
        let socket = &mut self.sockets[stream.0];
        let n = socket.to_server.read(data);
        let result = match (n, &mut socket.reset_by_client) {
            (1.., _) => Ok(n),
            (0, Some(unreported @ true)) => {
                *unreported = false;
                Err(ErrorKind::ConnectionReset.into())
            }
            (0, None) if !socket.to_server.ended() => Err(ErrorKind::WouldBlock.into()),
            (0, _) => Ok(0),
        };
        self.note(|| format!("server receives from {}: {result:?}", stream.0));
        result
    }

    fn send(&mut self, stream: &mut SimStream, data: &[u8]) -> io::Result<usize> {
        self.fault(self.faults.interrupted, libc::EINTR)?;
        let socket = &mut self.sockets[stream.0];
        let result = match &mut socket.reset_by_client {
            Some(unreported @ true) => {
                *unreported = false;
                Err(ErrorKind::ConnectionReset.into())
            }
            Some(false) => Err(ErrorKind::BrokenPipe.into()),
            None => {
                let part = match self.random.chance(self.faults.partial_write) {
                    true => 1 + self.random.below(data.len()),
                    false => data.len(),
                };
                let n = socket.to_client.push(&data[..part]);
                socket.no_space |= n < part;
                if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
            }
        };
        self.note(|| format!("server sends {} bytes to {}: {result:?}", data.len(), stream.0));
        result
    }

    fn shutdown(&mut self, stream: &mut SimStream) -> io::Result<()> {
        self.calls += 1;
        self.sockets[stream.0].to_client.end();
        self.note(|| format!("server ends its stream to {}", stream.0));
        Ok(())
    }

    fn close(&mut self, stream: SimStream, how: Close) {
        self.calls += 1;
        self.open -= 1;
        let socket = &mut self.sockets[stream.0];
        assert_ne!(socket.server_end, End::Closed, "closed twice");
        socket.server_end = End::Closed;
        if how == Close::Reset || socket.to_server.has_unread() {
            socket.reset_by_server = true;
        }
        socket.to_client.end();
        if let Some(token) = socket.token.take() {
            self.stale.push_back(token);
            self.stale.truncate(32);
        }
        self.note(|| format!("server closes {}: {how:?}", stream.0));
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.fault(self.faults.random_error, libc::EAGAIN)?;
        bytes.fill_with(|| self.random.next_u64().to_le_bytes()[0]);
        Ok(())
    }
}

struct SimWaker(Arc<AtomicBool>);

impl Wake for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
