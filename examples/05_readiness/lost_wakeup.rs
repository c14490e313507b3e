//! An event that comes too early.
//!
//! The server is in the middle of an answer, so it does not want to read, and ignores the event
//! that says it could. When it wants to, no event comes: the socket has been readable all along.
//!
//! Fixed in `src/reactor/ready.rs`: events set bits, whatever the connection wants at that time, and
//! only "would block" clears them.

use std::io::{self, Read, Write};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::{Version, comes_any, connection, wait, would_block};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The kernel has not taken the last byte of an answer.
    Sending,
    Receiving,
}

struct Server {
    version: Version,
    stream: TcpStream,
    state: State,
    /// The fix: a read may find something.
    readable: bool,
    received: usize,
}

impl Server {
    fn handle(&mut self, event: &Event) -> io::Result<()> {
        match self.version {
            Version::Broken => match self.state {
                State::Sending if event.is_writable() => self.send(),
                State::Receiving if event.is_readable() => self.receive(),
                State::Sending | State::Receiving => Ok(()),
            },
            Version::Fixed => {
                self.readable |= event.is_readable();
                if self.state == State::Sending && event.is_writable() {
                    self.send()?;
                }
                if self.state == State::Receiving && self.readable {
                    self.receive()?;
                }
                Ok(())
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let outcome = self.stream.write(b"!");
        if !would_block(&outcome) {
            outcome?;
            self.state = State::Receiving;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            let outcome = self.stream.read(&mut [0; 1024]);
            if would_block(&outcome) {
                self.readable = false;
                return Ok(());
            }
            self.received += outcome?;
        }
    }
}

pub(crate) fn show(version: Version) -> io::Result<String> {
    let (mut client, mut stream) = connection()?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    poll.registry().register(&mut stream, Token(0), Interest::READABLE | Interest::WRITABLE)?;
    let taken = fill(&mut stream)?;
    let mut server =
        Server { version, stream, state: State::Sending, readable: false, received: 0 };

    // The client sends its next question before it reads the answer.
    client.write_all(b"next question")?;
    let mut announced = false;
    while !announced {
        wait(&mut poll, &mut events)?;
        announced = events.iter().any(Event::is_readable);
        events.iter().try_for_each(|event| server.handle(event))?;
    }
    client.read_exact(&mut vec![0; taken])?;
    while server.state == State::Sending {
        wait(&mut poll, &mut events)?;
        events.iter().try_for_each(|event| server.handle(event))?;
    }
    while comes_any(&mut poll, &mut events)? {
        events.iter().try_for_each(|event| server.handle(event))?;
    }
    let received = server.received;
    Ok(format!("the answer is sent; {received} of the next question's 13 bytes are read"))
}

/// Sends until the kernel takes no more; returns the number of bytes.
fn fill(stream: &mut TcpStream) -> io::Result<usize> {
    let mut taken = 0;
    loop {
        let outcome = stream.write(&[b'.'; 4096]);
        if would_block(&outcome) {
            return Ok(taken);
        }
        taken += outcome?;
    }
}
