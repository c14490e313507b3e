//! Readiness with mio, and the four classic mistakes.
//!
//! **To learn:** epoll, edge-triggered as mio uses it, says once that a socket *became* ready. An
//! event is a hint about the past: the socket is worth a try. Only the try shows the present state,
//! and only "would block" means that another event will come.
//!
//! **What goes wrong:** each module here is one way to misread that, first broken and then fixed. All
//! of them pass every test with one client and short messages.
//!
//! `cargo study 05_readiness -- read-once` (or `write-all`, `lost-wakeup`, `stale-token`)
//! shows one of them; without an argument it shows all.
//!
//! **Step by step:** docs/loop.html#one-read, #greedy, #forgotten-share, #end-behind-data,
//! #urgent-byte and #stale-token, in a browser. **To practice:** `lab/exercises/03_drain/`,
//! `lab/exercises/05_ends/`, `lab/exercises/09_fairness/`, `lab/exercises/10_stale_events/`.
//!
//! **Read next:** `07_back_pressure.rs`, which reads and writes as it should.

mod lost_wakeup;
mod read_once;
mod stale_token;
mod write_all;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use mio::{Events, Poll};
use socket2::SockRef;

/// A mistake is shown in both versions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Broken,
    Fixed,
}

type Demonstration = fn(Version) -> io::Result<String>;

const MISTAKES: [(&str, Demonstration); 4] = [
    ("read-once", read_once::show),
    ("write-all", write_all::show),
    ("lost-wakeup", lost_wakeup::show),
    ("stale-token", stale_token::show),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let only = std::env::args().nth(1);
    let chosen =
        MISTAKES.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name));
    if chosen.clone().count() == 0 {
        return Err(
            format!("the mistakes are {}", MISTAKES.map(|(name, _)| name).join(", ")).into()
        );
    }
    for (name, show) in chosen {
        println!("{name}, broken: {}", show(Version::Broken)?);
        println!("{name}, fixed: {}", show(Version::Fixed)?);
    }
    Ok(())
}

/// A client's blocking socket, and the server's end of its connection. The kernel buffers less than
/// half a megabyte for the two.
fn connection() -> io::Result<(TcpStream, mio::net::TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    SockRef::from(&client).set_recv_buffer_size(32 << 10)?;
    SockRef::from(&server).set_send_buffer_size(32 << 10)?;
    server.set_nonblocking(true)?;
    Ok((client, mio::net::TcpStream::from_std(server)))
}

/// Waits for events, for as long as it takes.
fn wait(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    wait_at_most(None, poll, events)
}

/// True if an event comes within a fifth of a second without further input. If not, none will ever
/// come, and a server that waits without a limit hangs.
fn comes_any(poll: &mut Poll, events: &mut Events) -> io::Result<bool> {
    wait_at_most(Some(Duration::from_millis(200)), poll, events)?;
    Ok(!events.is_empty())
}

fn wait_at_most(limit: Option<Duration>, poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    loop {
        match poll.poll(events, limit) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// True if the kernel has nothing more, after which an event will come.
fn would_block<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
