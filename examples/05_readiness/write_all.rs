//! `write_all` on a non-blocking socket.
//!
//! It writes until the kernel is full and then fails with "would block", without the number of bytes
//! written. Calling it again when there is room sends the beginning twice; not calling it loses the
//! end.
//!
//! Fixed in `src/proto/backlog.rs`: `write`, and keep what was not taken.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;

use mio::{Events, Interest, Poll, Token};

use crate::{Version, connection, wait, would_block};

/// More than the kernel buffers for the two ends.
const LENGTH: usize = 1 << 20;

pub(crate) fn show(version: Version) -> io::Result<String> {
    let message: Vec<u8> = (0u32..).flat_map(u32::to_be_bytes).take(LENGTH).collect();
    let (mut client, mut server) = connection()?;
    // The client starts to read once the server's socket is full.
    let (full, is_full) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut arrived = vec![0; LENGTH];
        // If the kernel took the whole message at once, the channel closes and the program fails.
        is_full.recv().map_err(io::Error::other)?;
        client.read_exact(&mut arrived).map(|()| arrived)
    });

    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    poll.registry().register(&mut server, Token(0), Interest::WRITABLE)?;
    let mut rest = &message[..];
    let mut refused = 0;
    'message: while !rest.is_empty() {
        wait(&mut poll, &mut events)?;
        while !rest.is_empty() {
            let outcome = match version {
                Version::Broken => server.write_all(rest).map(|()| rest.len()),
                Version::Fixed => server.write(rest),
            };
            match outcome {
                Ok(written) => rest = &rest[written..],
                outcome if would_block(&outcome) => {
                    refused += 1;
                    // The reader may have finished.
                    let _ = full.send(());
                    break;
                }
                // The client has read as many bytes as the message has, and closed.
                Err(_) => break 'message,
            }
        }
    }
    assert!(refused > 0, "the kernel took {LENGTH} bytes at once");
    let arrived = reader.join().expect("the reader does not panic")?;
    Ok(match arrived == message {
        true => {
            "after a partial write the server sends the rest, and the message arrives".to_owned()
        }
        false => {
            let second = arrived.windows(16).skip(1).any(|window| window == &message[..16]);
            format!(
                "after a partial write the server sends all again; its beginning arrives twice: {second}"
            )
        }
    })
}
