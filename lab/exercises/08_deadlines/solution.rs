//! Exercise 8, deadlines: a client that is silent for `rules.idle` is to be closed.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::time::Duration;

use saltecho::lab::Rules;
use saltecho::python::Monotonic;
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
    let (now, idle) = (kernel.now(), rules.idle.unwrap_or(Duration::MAX));
    Echo { kernel, listener, conns, accepted: 0, buffer, now, idle }.run()
}

/// A connection.
struct Conn<S> {
    stream: S,
    /// The part of the answer that `send` did not take.
    unsent: Vec<u8>,
    /// The client has ended its stream.
    ended: bool,
    /// When bytes last came, or when it was accepted.
    active_at: Monotonic,
}

/// The loop.
struct Echo<'a, K: Kernel> {
    kernel: &'a mut K,
    listener: &'a mut K::Listener,
    conns: HashMap<Token, Conn<K::Stream>>,
    accepted: usize,
    buffer: Vec<u8>,
    /// The clock as of the last poll.
    now: Monotonic,
    idle: Duration,
}

impl<K: Kernel> Echo<'_, K> {
    fn run(&mut self) -> io::Result<()> {
        let (door, mut events) = (Token::listener(0), Vec::new());
        self.kernel.register_listener(self.listener, door)?;
        loop {
            self.kernel.poll(self.timeout(), |token, _| events.push(token))?;
            // Read after the poll, which may have been long.
            self.now = self.kernel.now();
            for token in events.drain(..) {
                if token == door { self.accept() } else { self.go_on(token) }
            }
            // Behind the events: what has come in time counts.
            self.close_silent();
        }
    }

    /// The time until the first deadline.
    #[allow(clippy::disallowed_methods)] // The least of them is the same in any order.
    fn timeout(&self) -> Option<Duration> {
        let oldest = self.conns.values().map(|conn| conn.active_at).min()?;
        Some(oldest.saturating_add(self.idle).since(self.now))
    }

    #[allow(clippy::disallowed_methods)] // They are sorted.
    fn close_silent(&mut self) {
        let is_due = |conn: &Conn<_>| self.now.since(conn.active_at) >= self.idle;
        let due = self.conns.iter().filter(|(_, conn)| is_due(conn)).map(|(token, _)| *token);
        let mut due = due.collect::<Vec<_>>();
        // A map has no order; a run should have one.
        due.sort_by_key(|token| token.as_raw());
        for token in due {
            let conn = self.conns.remove(&token).expect("it is silent, and there");
            self.kernel.close(conn.stream, Close::Orderly);
        }
    }

    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.kernel.accept(self.listener) {
            let token = Token::from_raw(self.accepted);
            self.accepted += 1;
            match self.kernel.register(&mut stream, token) {
                Ok(()) => {
                    let conn =
                        Conn { stream, unsent: Vec::new(), ended: false, active_at: self.now };
                    self.conns.insert(token, conn);
                }
                Err(_) => self.kernel.close(stream, Close::Orderly),
            }
        }
    }

    fn go_on(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        if !matches!(pump(self.kernel, conn, &mut self.buffer, self.now), Ok(false)) {
            let conn = self.conns.remove(&token).expect("it had a turn");
            self.kernel.close(conn.stream, Close::Orderly);
        }
    }
}

/// Sends and receives in turns until neither can go on. True: the connection is over.
fn pump<K: Kernel>(
    kernel: &mut K,
    conn: &mut Conn<K::Stream>,
    buffer: &mut [u8],
    now: Monotonic,
) -> io::Result<bool> {
    loop {
        // While an answer waits, nothing is received: the client notices.
        while !conn.unsent.is_empty() {
            match kernel.send(&mut conn.stream, &conn.unsent) {
                Ok(n) => drop(conn.unsent.drain(..n)),
                // Only this promises an event once there is room.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if conn.ended {
            return Ok(true);
        }
        match kernel.recv(&mut conn.stream, buffer) {
            Ok(0) => conn.ended = true,
            Ok(n) => {
                conn.active_at = now;
                conn.unsent.extend_from_slice(&buffer[..n]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
