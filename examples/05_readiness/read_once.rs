//! One `read` for one event.
//!
//! The event says that the socket became readable, not how much there is. What one `read` leaves
//! behind is not announced again: the socket *is* readable, it does not become so.
//!
//! Fixed in `src/server/pump.rs`: read until "would block" (or take turns, but remember that there
//! is more to do).

use std::io::{self, Read, Write};

use mio::{Events, Interest, Poll, Token};

use crate::{Version, comes_any, connection, would_block};

const MESSAGE: [u8; 3000] = [b'x'; 3000];

pub(crate) fn show(version: Version) -> io::Result<String> {
    let (mut client, mut server) = connection()?;
    client.write_all(&MESSAGE)?;
    let mut peeked = [0; MESSAGE.len()];
    while would_block(&server.peek(&mut peeked)) || server.peek(&mut peeked)? < MESSAGE.len() {
        std::thread::yield_now();
    }

    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    poll.registry().register(&mut server, Token(0), Interest::READABLE)?;
    let mut received = 0;
    while comes_any(&mut poll, &mut events)? {
        let mut buffer = [0; 1024];
        loop {
            let outcome = server.read(&mut buffer);
            if would_block(&outcome) {
                break;
            }
            received += outcome?;
            if version == Version::Broken {
                break;
            }
        }
    }
    let left = if received < MESSAGE.len() { server.peek(&mut peeked)? } else { 0 };
    Ok(format!("{received} bytes read; no further event comes, and {left} bytes wait"))
}
