//! Exercise 12, bad night: every fault at once, and few descriptors.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::time::Duration;

use saltecho::lab::Rules;
use saltecho::reactor::{Close, Kernel, Token};

/// Serves every client.
///
/// # Errors
/// Those of `poll` and of registering the listener.
pub fn serve<K: Kernel>(
    kernel: &mut K,
    listener: &mut K::Listener,
    rules: &Rules,
) -> io::Result<()> {
    let (conns, buffer) = (HashMap::new(), vec![0; rules.recv_max]);
    // So many reads per turn, however much they return.
    let reads = rules.share.map_or(usize::MAX, |share| share as usize / rules.recv_max);
    Echo {
        kernel,
        listener,
        conns,
        accepted: 0,
        buffer,
        reads,
        queue: VecDeque::new(),
        rests: false,
    }
    .run()
}

/// How long accepting rests.
const REST: Duration = Duration::from_millis(100);

/// A connection.
struct Conn<S> {
    stream: S,
    /// The part of the answer that `send` did not take.
    unsent: Vec<u8>,
    /// The client has ended its stream.
    ended: bool,
}

/// How a connection goes on.
enum Next {
    /// An event will tell.
    Wait,
    /// Behind the others, in the next turn.
    Again,
    Over,
}

/// The loop.
struct Echo<'a, K: Kernel> {
    kernel: &'a mut K,
    listener: &'a mut K::Listener,
    conns: HashMap<Token, Conn<K::Stream>>,
    accepted: usize,
    buffer: Vec<u8>,
    reads: usize,
    /// Connections that may have work, each once.
    queue: VecDeque<Token>,
    /// Clients wait, and accepting them failed.
    rests: bool,
}

impl<K: Kernel> Echo<'_, K> {
    fn run(&mut self) -> io::Result<()> {
        let (door, mut events) = (Token::listener(0), Vec::new());
        self.kernel.register_listener(self.listener, door)?;
        loop {
            // No event will come for work in hand, nor for clients that an error left in the queue.
            let timeout = match self.queue.is_empty() {
                false => Some(Duration::ZERO),
                true => self.rests.then_some(REST),
            };
            self.kernel.poll(timeout, |token, _| events.push(token))?;
            for token in events.drain(..) {
                if token == door {
                    self.accept();
                } else if !self.queue.contains(&token) {
                    self.queue.push_back(token);
                }
            }
            if self.rests {
                self.accept();
            }
            for _ in 0..self.queue.len() {
                let token = self.queue.pop_front().expect("it was counted");
                self.go_on(token);
            }
        }
    }

    /// Accepts until "would block". Without a descriptor it rests, and tries again later.
    fn accept(&mut self) {
        self.rests = false;
        loop {
            match self.kernel.accept(self.listener) {
                Ok((stream, _)) => self.enter(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_client(&error) => {}
                Err(_) => {
                    self.rests = true;
                    return;
                }
            }
        }
    }

    fn enter(&mut self, mut stream: K::Stream) {
        let token = Token::from_raw(self.accepted);
        self.accepted += 1;
        match self.kernel.register(&mut stream, token) {
            Ok(()) => {
                let conn = Conn { stream, unsent: Vec::new(), ended: false };
                self.conns.insert(token, conn);
            }
            Err(_) => self.kernel.close(stream, Close::Orderly),
        }
    }

    fn go_on(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        match pump(self.kernel, conn, &mut self.buffer, self.reads) {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => self.queue.push_back(token),
            Ok(Next::Over) | Err(_) => {
                let conn = self.conns.remove(&token).expect("it had a turn");
                self.kernel.close(conn.stream, Close::Orderly);
            }
        }
    }
}

/// The error ends one client's attempt, or interrupts the call; the next may succeed.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

/// Sends and receives in turns until neither can go on, at most so many times.
fn pump<K: Kernel>(
    kernel: &mut K,
    conn: &mut Conn<K::Stream>,
    buffer: &mut [u8],
    reads: usize,
) -> io::Result<Next> {
    for _ in 0..reads {
        // While an answer waits, nothing is received: the client notices.
        while !conn.unsent.is_empty() {
            match kernel.send(&mut conn.stream, &conn.unsent) {
                Ok(n) => drop(conn.unsent.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Only this promises an event once there is room.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) => return Err(error),
            }
        }
        if conn.ended {
            return Ok(Next::Over);
        }
        match kernel.recv(&mut conn.stream, buffer) {
            Ok(0) => conn.ended = true,
            Ok(n) => conn.unsent.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
            Err(error) => return Err(error),
        }
    }
    Ok(Next::Again)
}
