//! `write_all` on a non-blocking socket.
//!
//! It writes until the kernel is full and then fails with "would block", without saying how much
//! has gone. Whoever calls it again when there is room sends the beginning twice; whoever does not,
//! loses the end.
//!
//! Cured in `src/proto/backlog.rs`: `write`, and keep what was not taken.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;

use mio::{Events, Interest, Poll, Token};

use crate::{Version, connection, wait, would_block};

/// More than the kernel holds for the two ends.
const LENGTH: usize = 1 << 20;

pub(crate) fn show(version: Version) -> io::Result<String> {
    let message: Vec<u8> = (0u32..).flat_map(u32::to_be_bytes).take(LENGTH).collect();
    let (mut client, mut server) = connection()?;
    // The client begins to read when it is told that the server's socket is full.
    let (full, is_full) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut arrived = vec![0; LENGTH];
        // Nothing is sent if the message was taken in one go, which ends the program in an error.
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
                Version::Mistaken => server.write_all(rest).map(|()| rest.len()),
                Version::Cured => server.write(rest),
            };
            match outcome {
                Ok(written) => rest = &rest[written..],
                outcome if would_block(&outcome) => {
                    refused += 1;
                    // Nobody is there to be told if the client has read its fill.
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
        true => "refused a part, the server sends just that, and the message arrives".to_owned(),
        false => {
            let second = arrived.windows(16).skip(1).any(|window| window == &message[..16]);
            format!(
                "refused a part, the server sends all again; its beginning arrives twice: {second}"
            )
        }
    })
}
