//! A small loop's tools: connections by token, one buffer, and a kernel that takes down which line of
//! the loop made each call.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use saltecho::python::Monotonic;
use saltecho::reactor::{Close, Kernel, Liveness, Ready, Token, Wake};
use saltecho::sim::{SimAdminListener, SimClient, SimKernel, SimStream};
use saltecho::trace::page::{Fact, View};
use saltecho::trace::{Event, Stream};

/// The connections of a small loop, and everything that it needs to serve them.
pub struct Loop {
    pub kernel: Witness,
    /// The listener's token.
    pub door: Token,
    pub conns: BTreeMap<Token, Conn>,
    /// Every recv lands here.
    pub buffer: Vec<u8>,
    /// Connections with work left.
    pub queue: VecDeque<Token>,
    /// The time by the loop's own reckoning.
    pub now: Monotonic,
    /// Clients may be in the accept queue.
    pub waiting: bool,
    /// The next attempt to accept after one that failed.
    pub retry: Option<Monotonic>,
    /// The program was asked to end.
    pub draining: bool,
    /// The loop's connections came from another program just now.
    pub moved: bool,
    /// Number of connections there were, for tokens that no other ever had.
    generation: usize,
}

pub struct Conn {
    pub stream: SimStream,
    /// The part of the answer that found no room.
    pub kept: Vec<u8>,
    /// Bytes received so far of something that comes in pieces.
    pub pieces: usize,
    pub at_end: bool,
    pub deadline: Option<Monotonic>,
    pub name: Stream,
}

impl Loop {
    pub fn new(sim: SimKernel, buffer: usize) -> Self {
        let mut kernel = Witness::new(sim);
        let door = Token::listener(0);
        kernel
            .sim
            .register_listener(&mut (), door)
            .expect("the simulator registers every listener");
        Self {
            kernel,
            door,
            conns: BTreeMap::new(),
            buffer: vec![0; buffer],
            queue: VecDeque::new(),
            now: Monotonic::ZERO,
            waiting: false,
            retry: None,
            draining: false,
            moved: false,
            generation: 0,
        }
    }

    /// Waits for events and returns them.
    #[track_caller]
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<Vec<(Token, Ready)>> {
        let mut events = Vec::new();
        let begun = self.kernel.sim.trace().len();
        self.kernel.poll(timeout, |token, ready| events.push((token, ready)))?;
        // What is in no connection's hands any more is gone.
        let held = self.conns.values().map(|conn| (conn.name, Fact::Held(conn.kept.len())));
        let views = held.map(|(stream, fact)| View { step: begun, stream, fact });
        self.kernel.views.extend(views);
        Ok(events)
    }

    /// Reads the clock.
    #[track_caller]
    pub fn clock(&mut self) -> Monotonic {
        self.kernel.now()
    }

    /// Registers the listener once more, in another epoll.
    #[track_caller]
    pub fn listen(&mut self) -> io::Result<()> {
        self.kernel.register_listener(&mut (), self.door)
    }

    /// Registers a connection once more, under the token that it has.
    #[track_caller]
    pub fn register(&mut self, token: Token) -> io::Result<()> {
        let conn = self.conns.get_mut(&token).ok_or(ErrorKind::NotConnected)?;
        self.kernel.register(&mut conn.stream, token)
    }

    /// Moves every connection to another program.
    pub fn hand_over(&mut self) {
        self.kernel
            .sim
            .remark(|| "Another program takes over: descriptors and state move to it.".to_owned());
        self.kernel.sim.begin_handover();
        self.kernel.sim.end_handover(true);
        for conn in self.conns.values() {
            self.kernel.view(conn.name, Fact::Stage("moved"));
        }
        self.moved = true;
    }

    /// Accepts one client and registers it under a token that no other had.
    #[track_caller]
    pub fn accept(&mut self) -> io::Result<Token> {
        self.generation += 1;
        self.accept_as(Token::from_raw(self.generation << 32 | self.free_slot()))
    }

    /// Accepts one client and registers it under this token.
    #[track_caller]
    pub fn accept_as(&mut self, token: Token) -> io::Result<Token> {
        let (mut stream, _) = self.kernel.accept(&mut ())?;
        let name = self.kernel.last_stream();
        self.kernel.register(&mut stream, token)?;
        let conn =
            Conn { stream, kept: Vec::new(), pieces: 0, at_end: false, deadline: None, name };
        self.conns.insert(token, conn);
        Ok(token)
    }

    /// Accepts until the queue is empty.
    #[track_caller]
    pub fn accept_all(&mut self) -> io::Result<()> {
        loop {
            match self.accept() {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The lowest number that no connection has.
    pub fn free_slot(&self) -> usize {
        let taken = |slot: usize| self.conns.keys().any(|token| token.as_raw() & 0xffff == slot);
        (0..).find(|slot| !taken(*slot)).expect("there are enough numbers")
    }

    /// Receives into the buffer.
    #[track_caller]
    pub fn recv(&mut self, token: Token) -> io::Result<usize> {
        self.recv_up_to(token, self.buffer.len())
    }

    /// Receives at most so many bytes.
    #[track_caller]
    pub fn recv_up_to(&mut self, token: Token, room: usize) -> io::Result<usize> {
        let conn = self.conns.get_mut(&token).ok_or(ErrorKind::NotConnected)?;
        self.kernel.recv(&mut conn.stream, &mut self.buffer[..room])
    }

    /// Sends the first `n` bytes of the buffer; how many the kernel took.
    #[track_caller]
    pub fn send(&mut self, token: Token, n: usize) -> io::Result<usize> {
        let conn = self.conns.get_mut(&token).ok_or(ErrorKind::NotConnected)?;
        match self.kernel.send(&mut conn.stream, &self.buffer[..n]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// Keeps a part of the buffer for later.
    pub fn keep(&mut self, token: Token, part: Range<usize>) {
        let conn = self.conns.get_mut(&token).expect("it was read from");
        conn.kept.extend_from_slice(&self.buffer[part]);
        let (name, held) = (conn.name, conn.kept.len());
        self.kernel.view(name, Fact::Held(held));
    }

    /// Bytes that are kept for a client.
    pub fn kept(&self, token: Token) -> usize {
        self.conns.get(&token).map_or(0, |conn| conn.kept.len())
    }

    /// Sends what was kept, and keeps the rest.
    #[track_caller]
    pub fn send_kept(&mut self, token: Token) -> io::Result<()> {
        let conn = self.conns.get_mut(&token).ok_or(ErrorKind::NotConnected)?;
        if conn.kept.is_empty() {
            return Ok(());
        }
        match self.kernel.send(&mut conn.stream, &conn.kept) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(n) => drop(conn.kept.drain(..n)),
        }
        Ok(())
    }

    #[track_caller]
    pub fn shutdown(&mut self, token: Token) -> io::Result<()> {
        let conn = self.conns.get_mut(&token).ok_or(ErrorKind::NotConnected)?;
        self.kernel.shutdown(&mut conn.stream)
    }

    #[track_caller]
    pub fn close(&mut self, token: Token) {
        if let Some(conn) = self.conns.remove(&token) {
            self.kernel.close(conn.stream, Close::Orderly);
        }
        self.queue.retain(|queued| *queued != token);
    }

    /// Puts a connection at the end of the run queue.
    pub fn requeue(&mut self, token: Token) {
        self.queue.push_back(token);
        self.show_queue();
    }

    /// Takes the first connection from the run queue.
    pub fn next_queued(&mut self) -> Option<Token> {
        let token = self.queue.pop_front()?;
        let name = self.conns.get(&token)?.name;
        self.kernel.view(name, Fact::Place(None));
        self.show_queue();
        Some(token)
    }

    fn show_queue(&mut self) {
        for (place, token) in self.queue.iter().enumerate() {
            if let Some(conn) = self.conns.get(token) {
                self.kernel.view(conn.name, Fact::Place(Some(place)));
            }
        }
    }

    /// Sets a connection's deadline.
    pub fn set_deadline(&mut self, token: Token, at: Monotonic) {
        let conn = self.conns.get_mut(&token).expect("it was accepted");
        conn.deadline = Some(at);
        let name = conn.name;
        self.kernel.view(name, Fact::Deadline(Some(at)));
    }

    /// Time to the next deadline or attempt.
    pub fn wait(&self) -> Option<Duration> {
        let deadlines = self.conns.values().filter_map(|conn| conn.deadline);
        deadlines.chain(self.retry).min().map(|first| first.since(self.now))
    }

    /// Connections whose deadline is over.
    pub fn due(&self) -> Vec<Token> {
        let is_due = |conn: &Conn| conn.deadline.is_some_and(|deadline| deadline <= self.now);
        self.conns.iter().filter(|(_, conn)| is_due(conn)).map(|(token, _)| *token).collect()
    }

    /// Every connection there is.
    pub fn tokens(&self) -> Vec<Token> {
        self.conns.keys().copied().collect()
    }
}

/// A simulated kernel that takes down the line of each call, and what the loop says of itself.
pub struct Witness {
    pub sim: SimKernel,
    pub lines: Vec<Option<u32>>,
    pub views: Vec<View>,
    pub clients: Vec<SimClient>,
    /// Bytes that a client sends as soon as there is room again.
    pub supply: BTreeMap<usize, usize>,
}

impl Witness {
    fn new(mut sim: SimKernel) -> Self {
        sim.start_trace();
        sim.start_pictures();
        Self {
            sim,
            lines: Vec::new(),
            views: Vec::new(),
            clients: Vec::new(),
            supply: BTreeMap::new(),
        }
    }

    /// Says something of a connection after the last step.
    pub fn view(&mut self, stream: Stream, fact: Fact) {
        let step = self.sim.trace().len().saturating_sub(1);
        self.views.push(View { step, stream, fact });
    }

    /// Everything since the last call is not the loop's; everything from here on is this line's.
    fn begin(&mut self) {
        self.lines.resize(self.sim.trace().len(), None);
    }

    fn end(&mut self, caller: &Location<'_>) {
        self.lines.resize(self.sim.trace().len(), Some(caller.line()));
    }

    fn last_stream(&self) -> Stream {
        match self.sim.trace().last().map(|step| &step.event) {
            Some(Event::Accept(_, Ok((stream, _)))) => *stream,
            other => panic!("no client was accepted just now, but {other:?}"),
        }
    }

    /// A client that has more to send does so once there is room.
    fn refill(&mut self) {
        let Some(Event::Recv { stream, .. }) = self.sim.trace().last().map(|step| &step.event)
        else {
            return;
        };
        let client = usize::try_from(stream.0).expect("there are few clients");
        let Some(left) = self.supply.get_mut(&client) else { return };
        if *left > 0 {
            let bytes = vec![b'.'; (*left).min(1024)];
            *left -= self.sim.client_send(self.clients[client - 1], &bytes);
        }
    }
}

/// Runs one call of the simulator between two looks at its trace.
macro_rules! witnessed {
    ($self:ident, $call:expr) => {{
        $self.begin();
        let result = $call;
        $self.end(Location::caller());
        result
    }};
}

impl Kernel for Witness {
    type Listener = ();
    type Stream = SimStream;
    type AdminListener = SimAdminListener;

    #[track_caller]
    fn now(&mut self) -> Monotonic {
        witnessed!(self, self.sim.now())
    }

    #[track_caller]
    fn poll(
        &mut self,
        timeout: Option<Duration>,
        on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        witnessed!(self, self.sim.poll(timeout, on_event))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.sim.waker()
    }

    #[track_caller]
    fn register_listener(&mut self, listener: &mut (), token: Token) -> io::Result<()> {
        witnessed!(self, self.sim.register_listener(listener, token))
    }

    #[track_caller]
    fn register(&mut self, stream: &mut SimStream, token: Token) -> io::Result<()> {
        witnessed!(self, self.sim.register(stream, token))
    }

    #[track_caller]
    fn accept(&mut self, listener: &mut ()) -> io::Result<(SimStream, Option<SocketAddr>)> {
        witnessed!(self, self.sim.accept(listener))
    }

    fn register_admin_listener(
        &mut self,
        listener: &mut SimAdminListener,
        token: Token,
    ) -> io::Result<()> {
        self.sim.register_admin_listener(listener, token)
    }

    fn accept_admin(&mut self, listener: &mut SimAdminListener) -> io::Result<SimStream> {
        self.sim.accept_admin(listener)
    }

    #[track_caller]
    fn shed(&mut self, listener: &mut ()) -> io::Result<()> {
        witnessed!(self, self.sim.shed(listener))
    }

    #[track_caller]
    fn recv(&mut self, stream: &mut SimStream, data: &mut [u8]) -> io::Result<usize> {
        let result = witnessed!(self, self.sim.recv(stream, data));
        self.refill();
        result
    }

    #[track_caller]
    fn send(&mut self, stream: &mut SimStream, data: &[u8]) -> io::Result<usize> {
        witnessed!(self, self.sim.send(stream, data))
    }

    #[track_caller]
    fn shutdown(&mut self, stream: &mut SimStream) -> io::Result<()> {
        witnessed!(self, self.sim.shutdown(stream))
    }

    #[track_caller]
    fn close(&mut self, stream: SimStream, how: Close) {
        witnessed!(self, self.sim.close(stream, how));
    }

    fn liveness(&mut self, stream: &mut SimStream) -> io::Result<Liveness> {
        self.sim.liveness(stream)
    }

    fn probe(&mut self, stream: &mut SimStream) {
        self.sim.probe(stream);
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        self.sim.random_below(limit)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.sim.fill_random(bytes)
    }
}
