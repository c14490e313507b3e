//! A kernel that costs next to nothing, so that what is measured over it is the loop.
//!
//! It is not `sim::SimKernel`, which is built for faults and keeps an account of every call. Here
//! a poll reports the tokens that it was told to report, a `recv` finds what all of them were told
//! to find, a `send` takes everything, and the clock stands until it is moved.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use saltecho::proto::Upper;
use saltecho::python::Monotonic;
use saltecho::server::{Close, Kernel, Limits, Liveness, Ready, Server, Token, Wake};

use super::{CHALLENGE, config, digest};

/// What every `recv` finds.
#[derive(Clone, Copy, Debug)]
pub enum Finds {
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
    /// Clients that wait to be accepted.
    pub clients: usize,
    /// Whom every poll reports as readable.
    pub ready: Vec<Token>,
    /// Who was registered, in that order.
    pub registered: Vec<Token>,
    /// What every `recv` finds.
    pub finds: Finds,
    digest: [u8; 16],
    /// `close` was called this often.
    pub closed: u64,
    /// The bytes that `send` took.
    pub sent: u64,
}

/// As large as mio's stream in an optimised build, so that a slot is as large as in service.
#[derive(Debug)]
pub struct LeanStream {
    _descriptor: i32,
}

impl LeanKernel {
    /// A kernel with nobody at the door.
    pub fn new() -> Self {
        Self {
            clock: Monotonic::ZERO,
            clients: 0,
            ready: Vec::new(),
            registered: Vec::new(),
            finds: Finds::Digest,
            digest: digest(),
            closed: 0,
            sent: 0,
        }
    }
}

impl Kernel for LeanKernel {
    type Listener = ();
    type Stream = LeanStream;

    fn now(&mut self) -> Monotonic {
        self.clock
    }

    fn poll(
        &mut self,
        _timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        if self.clients > 0 {
            on_event(Token::listener(0), Ready::READABLE);
        }
        for token in &self.ready {
            on_event(*token, Ready::READABLE);
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
        self.registered.push(token);
        Ok(())
    }

    fn accept(&mut self, _listener: &mut ()) -> io::Result<(LeanStream, Option<SocketAddr>)> {
        self.clients = self.clients.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
        Ok((LeanStream { _descriptor: 0 }, None))
    }

    fn shed(&mut self, _listener: &mut ()) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn recv(&mut self, _stream: &mut LeanStream, data: &mut [u8]) -> io::Result<usize> {
        Ok(match self.finds {
            Finds::Digest => {
                data[..self.digest.len()].copy_from_slice(&self.digest);
                self.digest.len()
            }
            Finds::Message(len) => {
                data[..len].fill(b'x');
                len
            }
            Finds::End => 0,
        })
    }

    fn send(&mut self, _stream: &mut LeanStream, data: &[u8]) -> io::Result<usize> {
        self.sent += data.len() as u64;
        Ok(data.len())
    }

    fn shutdown(&mut self, _stream: &mut LeanStream) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _stream: LeanStream, _how: Close) {
        self.closed += 1;
    }

    fn liveness(&mut self, _stream: &mut LeanStream) -> io::Result<Liveness> {
        Ok(Liveness { silent_for: Duration::ZERO, unanswered: 0, owes_acknowledgement: false })
    }

    fn probe(&mut self, _stream: &mut LeanStream) {}

    fn random_below(&mut self, _limit: u64) -> u64 {
        0
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&CHALLENGE);
        Ok(())
    }
}

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

/// The real loop over this kernel.
pub type LeanServer = Server<LeanKernel, Upper>;

/// A server for this many connections, with nobody connected.
pub fn server(connections: usize) -> LeanServer {
    let limits = Limits::for_connections(connections);
    Server::with_kernel(LeanKernel::new(), vec![()], config(), limits, Upper)
        .expect("this kernel refuses nothing")
}

/// Lets `count` clients in and through the handshake, as many a turn as the loop accepts in one,
/// and adds their tokens to `crowd` in the order in which they came.
pub fn admit(server: &mut LeanServer, count: usize, crowd: &mut Vec<Token>) {
    let kernel = server.kernel_mut();
    (kernel.finds, kernel.clients) = (Finds::Digest, count);
    kernel.ready.clear();
    let all = crowd.len() + count;
    while crowd.len() < all {
        turn(server);
        let kernel = server.kernel_mut();
        crowd.extend_from_slice(&kernel.registered);
        // Whoever was registered in this turn answers in the next.
        std::mem::swap(&mut kernel.ready, &mut kernel.registered);
        kernel.registered.clear();
    }
    turn(server);
    server.kernel_mut().ready.clear();
}

/// Lets `count` clients in who then say nothing. Each has its challenge.
pub fn let_in(server: &mut LeanServer, count: usize) {
    server.kernel_mut().clients = count;
    while server.kernel_mut().clients > 0 {
        turn(server);
        server.kernel_mut().registered.clear();
    }
}

/// From now on `busy` say something before every turn, each a message of `len` bytes.
pub fn let_talk(server: &mut LeanServer, busy: &[Token], len: usize) {
    let kernel = server.kernel_mut();
    kernel.finds = Finds::Message(len);
    kernel.ready.clear();
    kernel.ready.extend_from_slice(busy);
}

/// One turn in which all of `crowd` end their streams and are closed.
pub fn leave(server: &mut LeanServer, crowd: &[Token]) {
    let kernel = server.kernel_mut();
    kernel.finds = Finds::End;
    kernel.ready.clear();
    kernel.ready.extend_from_slice(crowd);
    turn(server);
    server.kernel_mut().ready.clear();
}

/// One turn, which nothing here can make fail.
pub fn turn(server: &mut LeanServer) {
    server.turn().expect("this kernel never fails");
}
