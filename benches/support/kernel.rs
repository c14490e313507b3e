//! A kernel that costs next to nothing, so that measurements over it show the loop alone.
//!
//! Unlike `sim::SimKernel` it has no faults and records no calls. Each poll reports the same tokens,
//! each `recv` returns the same input, a `send` takes everything, and the clock moves only in a poll.
//!
//! All that it does is in functions named `scripted_…` that are not inlined, as a system call is not
//! either. So callgrind can tell its instructions from the loop's.

use std::hint::black_box;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use saltecho::proto::Upper;
use saltecho::python::Monotonic;
use saltecho::reactor::{Adopt, Close, Kernel, Liveness, Ready, Token, Wake};
use saltecho::server::{Limits, Server};
use saltecho::trace::Recorder;

use super::{CHALLENGE, config, digest};

/// Input of every `recv`.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// The right digest.
    Digest,
    /// A message of this many lower-case letters.
    Message(usize),
    /// The end of the stream.
    End,
}

/// The kernel.
#[derive(Debug)]
pub struct LeanKernel {
    /// The time.
    pub clock: Monotonic,
    /// Time that passes in a poll; none at first.
    pub poll_time: Duration,
    /// Number of clients waiting to be accepted.
    pub clients: usize,
    /// Tokens that every poll reports as readable.
    pub ready: Vec<Token>,
    /// Registered tokens, in order.
    pub registered: Vec<Token>,
    /// Input of every `recv`.
    pub input: Input,
    digest: [u8; 16],
    /// Number of calls of `close`.
    pub closed: u64,
    /// Bytes taken by `send`.
    pub sent: u64,
}

/// As large as mio's stream in a release build, so that slots have their real size.
#[derive(Debug)]
pub struct LeanStream {
    _descriptor: i32,
}

impl LeanKernel {
    /// Creates a kernel without clients.
    pub fn new() -> Self {
        Self {
            clock: Monotonic::ZERO,
            poll_time: Duration::ZERO,
            clients: 0,
            ready: Vec::new(),
            registered: Vec::new(),
            input: Input::Digest,
            digest: digest(),
            closed: 0,
            sent: 0,
        }
    }
}

impl LeanKernel {
    #[inline(never)]
    fn scripted_now(&self) -> Monotonic {
        self.clock
    }

    /// Begins a poll, and returns its first event.
    #[inline(never)]
    fn scripted_poll(&mut self, timeout: Option<Duration>) -> Option<Token> {
        // Or the loop would not compute it.
        black_box(timeout);
        self.clock = self.clock.saturating_add(self.poll_time);
        self.event(0)
    }

    /// The event with this number of the poll.
    #[inline(never)]
    fn scripted_event(&self, number: usize) -> Option<Token> {
        self.event(number)
    }

    #[inline(always)]
    fn event(&self, number: usize) -> Option<Token> {
        match (self.clients > 0, number) {
            (true, 0) => Some(Token::listener(0)),
            (true, _) => self.ready.get(number - 1).copied(),
            (false, _) => self.ready.get(number).copied(),
        }
    }

    #[inline(never)]
    fn scripted_register(&mut self, token: Token) {
        self.registered.push(token);
    }

    #[inline(never)]
    fn scripted_accept(&mut self) -> io::Result<LeanStream> {
        self.clients = self.clients.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
        Ok(LeanStream { _descriptor: 0 })
    }

    #[inline(never)]
    fn scripted_recv(&self, data: &mut [u8]) -> usize {
        match self.input {
            Input::Digest => {
                data[..self.digest.len()].copy_from_slice(&self.digest);
                self.digest.len()
            }
            Input::Message(len) => {
                data[..len].fill(b'x');
                len
            }
            Input::End => 0,
        }
    }

    #[inline(never)]
    fn scripted_send(&mut self, data: &[u8]) -> usize {
        self.sent += data.len() as u64;
        data.len()
    }

    #[inline(never)]
    fn scripted_close(&mut self) {
        self.closed += 1;
    }

    #[inline(never)]
    fn scripted_random(bytes: &mut [u8]) {
        bytes.copy_from_slice(&CHALLENGE);
    }
}

impl Kernel for LeanKernel {
    type Listener = ();
    type Stream = LeanStream;
    type AdminListener = ();

    fn now(&mut self) -> Monotonic {
        self.scripted_now()
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        let (mut number, mut event) = (0, self.scripted_poll(timeout));
        while let Some(token) = event {
            on_event(token, Ready::READABLE);
            number += 1;
            event = self.scripted_event(number);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWaker)
    }

    fn register_listener(&mut self, _listener: &mut (), _token: Token) -> io::Result<()> {
        Ok(())
    }

    fn register(&mut self, _stream: &mut LeanStream, token: Token) -> io::Result<()> {
        self.scripted_register(token);
        Ok(())
    }

    fn accept(&mut self, _listener: &mut ()) -> io::Result<(LeanStream, Option<SocketAddr>)> {
        Ok((self.scripted_accept()?, None))
    }

    fn register_admin_listener(&mut self, _listener: &mut (), _token: Token) -> io::Result<()> {
        Ok(())
    }

    fn accept_admin(&mut self, _listener: &mut ()) -> io::Result<LeanStream> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn shed(&mut self, _listener: &mut ()) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn recv(&mut self, _stream: &mut LeanStream, data: &mut [u8]) -> io::Result<usize> {
        Ok(self.scripted_recv(data))
    }

    fn send(&mut self, _stream: &mut LeanStream, data: &[u8]) -> io::Result<usize> {
        Ok(self.scripted_send(data))
    }

    fn shutdown(&mut self, _stream: &mut LeanStream) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _stream: LeanStream, _how: Close) {
        self.scripted_close();
    }

    fn liveness(&mut self, _stream: &mut LeanStream) -> io::Result<Liveness> {
        Ok(Liveness { silent_for: Duration::ZERO, unanswered: 0, owes_acknowledgement: false })
    }

    fn probe(&mut self, _stream: &mut LeanStream) {}

    fn random_below(&mut self, _limit: u64) -> u64 {
        0
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        Self::scripted_random(bytes);
        Ok(())
    }
}

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

/// A socket on its way between two of these kernels.
#[derive(Clone, Copy, Debug)]
pub struct LeanMoved;

impl Adopt for LeanKernel {
    type Moved = LeanMoved;

    fn adopt_listener(&mut self, _socket: LeanMoved) -> io::Result<()> {
        Ok(())
    }

    fn adopt_stream(&mut self, _socket: LeanMoved) -> LeanStream {
        LeanStream { _descriptor: 0 }
    }

    fn adopt_admin_listener(&mut self, _socket: LeanMoved) -> io::Result<()> {
        Ok(())
    }

    fn has_file(&self, (): &()) -> bool {
        false
    }

    fn own_file(&mut self, (): &mut ()) {}

    fn share(&self, socket: &LeanMoved) -> io::Result<LeanMoved> {
        Ok(*socket)
    }

    fn release(&mut self, _stream: LeanStream) {}

    fn release_listener(&mut self, (): ()) {}

    fn release_admin_listener(&mut self, (): ()) {}
}

/// A kernel whose script can be changed.
pub trait Scripted {
    /// The kernel with the script.
    fn script(&mut self) -> &mut LeanKernel;
}

impl Scripted for LeanKernel {
    fn script(&mut self) -> &mut LeanKernel {
        self
    }
}

impl Scripted for Recorder<LeanKernel> {
    fn script(&mut self) -> &mut LeanKernel {
        self
    }
}

/// The real event loop over this kernel.
pub type LeanServer = Server<LeanKernel, Upper>;

/// Creates a server for this many connections, without any.
pub fn server(connections: usize) -> LeanServer {
    let limits = Limits::for_connections(connections);
    Server::with_kernel(LeanKernel::new(), vec![()], config(), limits, Upper)
        .expect("this kernel never fails")
}

/// Connects and authenticates `count` clients, as many per turn as the loop accepts, and appends their
/// tokens to `crowd` in order.
pub fn admit<K: Kernel + Scripted>(
    server: &mut Server<K, Upper>,
    count: usize,
    crowd: &mut Vec<Token>,
) {
    let kernel = server.kernel_mut().script();
    (kernel.input, kernel.clients) = (Input::Digest, count);
    kernel.ready.clear();
    let all = crowd.len() + count;
    while crowd.len() < all {
        turn(server);
        let kernel = server.kernel_mut().script();
        crowd.extend_from_slice(&kernel.registered);
        // Connections registered in this turn send their digest in the next.
        std::mem::swap(&mut kernel.ready, &mut kernel.registered);
        kernel.registered.clear();
    }
    turn(server);
    server.kernel_mut().script().ready.clear();
}

/// Accepts `count` clients, which get their challenge and do not answer.
pub fn accept(server: &mut LeanServer, count: usize) {
    server.kernel_mut().clients = count;
    while server.kernel_mut().clients > 0 {
        turn(server);
        server.kernel_mut().registered.clear();
    }
}

/// Makes the clients in `busy` send a message of `len` bytes before every turn from now on.
pub fn send_each_turn<K: Kernel + Scripted>(
    server: &mut Server<K, Upper>,
    busy: &[Token],
    len: usize,
) {
    let kernel = server.kernel_mut().script();
    kernel.input = Input::Message(len);
    kernel.ready.clear();
    kernel.ready.extend_from_slice(busy);
}

/// Runs one turn in which all of `crowd` end their streams and are closed.
pub fn disconnect(server: &mut LeanServer, crowd: &[Token]) {
    let kernel = server.kernel_mut();
    kernel.input = Input::End;
    kernel.ready.clear();
    kernel.ready.extend_from_slice(crowd);
    turn(server);
    server.kernel_mut().ready.clear();
}

/// Runs one turn of the loop. The one place that calls it, so that it is inlined here as it is into
/// `Server::run`.
#[inline(never)]
pub fn turn<K: Kernel>(server: &mut Server<K, Upper>) {
    server.turn().expect("this kernel never fails");
}
