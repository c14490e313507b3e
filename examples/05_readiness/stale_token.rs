//! An event for a connection that is gone.
//!
//! Events come in batches. Handling one of them can close another connection, and an accept in the
//! same batch can put a new connection into its place in the table. The next event in the batch was
//! for the old one, but its token now leads to the new one.
//!
//! Fixed in `src/reactor/slots.rs`: a token holds a generation beside the index, and the name of a
//! connection is never used again.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream as Client};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::{Version, wait};

const LISTENER: Token = Token(usize::MAX);

/// The connections, each with its generation.
struct Table {
    version: Version,
    slots: Slab<(TcpStream, usize)>,
    generations: usize,
}

impl Table {
    fn insert(&mut self, poll: &Poll, stream: Client) -> io::Result<Token> {
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.generations += 1;
        let slot = self.slots.vacant_entry();
        let token = match self.version {
            Version::Broken => Token(slot.key()),
            Version::Fixed => Token(slot.key() | self.generations << 32),
        };
        poll.registry().register(&mut stream, token, Interest::READABLE)?;
        slot.insert((stream, self.generations));
        Ok(token)
    }

    /// Closes the connection of this token, if it is still there.
    fn close(&mut self, token: Token) {
        let (index, generation) = (token.0 & 0xffff_ffff, token.0 >> 32);
        let Some(&(_, current)) = self.slots.get(index) else { return };
        if self.version == Version::Broken || generation == current {
            self.slots.remove(index);
        }
    }
}

pub(crate) fn show(version: Version) -> io::Result<String> {
    let mut poll = Poll::new()?;
    let mut table = Table { version, slots: Slab::new(), generations: 0 };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut admin = Client::connect(listener.local_addr()?)?;
    let admins = table.insert(&poll, listener.accept()?.0)?;
    let guest = Client::connect(listener.local_addr()?)?;
    let guests = table.insert(&poll, listener.accept()?.0)?;
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;

    // All at once: the admin closes the guest, the guest leaves, a newcomer arrives.
    admin.write_all(b"close the guest")?;
    drop(guest);
    let _newcomer = Client::connect(listener.local_addr()?)?;
    for event in gather(&mut poll, [admins, LISTENER, guests])? {
        match event.token() {
            token if token == admins => table.close(guests),
            LISTENER => drop(table.insert(&poll, listener.accept()?.0.into())?),
            token if event.is_read_closed() => table.close(token),
            _ => {}
        }
    }
    Ok(match table.slots.len() {
        1 => "the event of the guest closes the newcomer".to_owned(),
        _ => "the event of the guest is ignored, and the newcomer stays".to_owned(),
    })
}

/// One event of each token, in this order: any order may come, and this is the harmful one.
fn gather(poll: &mut Poll, tokens: [Token; 3]) -> io::Result<Vec<Event>> {
    let mut events = Events::with_capacity(8);
    let mut found: Vec<Option<Event>> = vec![None; tokens.len()];
    while found.iter().any(Option::is_none) {
        wait(poll, &mut events)?;
        for event in &events {
            if let Some(index) = tokens.iter().position(|&token| token == event.token()) {
                found[index] = Some(event.clone());
            }
        }
    }
    Ok(found.into_iter().flatten().collect())
}
