//! Exercise 10, stale events: events come for connections that are gone.
//!
//! Each client gets a token that no other had, and no bit is believed before a call has confirmed it.

use std::collections::HashMap;
use std::io::{self, ErrorKind};

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
    Echo { kernel, listener, conns, accepted: 0, buffer }.run()
}

/// A connection.
struct Conn<S> {
    stream: S,
    /// The part of the answer that `send` did not take.
    unsent: Vec<u8>,
    /// The client has ended its stream.
    ended: bool,
}

/// The loop.
struct Echo<'a, K: Kernel> {
    kernel: &'a mut K,
    listener: &'a mut K::Listener,
    conns: HashMap<Token, Conn<K::Stream>>,
    accepted: usize,
    buffer: Vec<u8>,
}

impl<K: Kernel> Echo<'_, K> {
    fn run(&mut self) -> io::Result<()> {
        let (door, mut events) = (Token::listener(0), Vec::new());
        self.kernel.register_listener(self.listener, door)?;
        loop {
            self.kernel.poll(None, |token, _| events.push(token))?;
            for token in events.drain(..) {
                if token == door { self.accept() } else { self.go_on(token) }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.kernel.accept(self.listener) {
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
    }

    fn go_on(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        if !matches!(pump(self.kernel, conn, &mut self.buffer), Ok(false)) {
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
            Ok(n) => conn.unsent.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
