//! Partial writes: a backlog, and back-pressure to keep it small.
//!
//! **To learn:** what the kernel does not take must be kept until it does: the backlog. While there
//! is one, nothing more is read from this client. Its bytes then stay in the kernel, the kernel's
//! buffers fill, TCP closes the window, and the client's own `send` waits: the slowness of the reader
//! reaches the writer, and no buffer grows.
//!
//! **What goes wrong:** reading on. A client that sends and never reads then fills the server's
//! memory with its answers, at the speed of the network.
//!
//! **Step by step:** docs/loop.html#writable-event and #slow-reader, in a browser. **To practice:**
//! `lab/exercises/04_short_sends/`, `lab/exercises/07_back_pressure/`.
//!
//! **Read next:** `src/proto/connection.rs`, where the two states of this loop have names, and
//! `src/server/pump.rs`, which also limits one connection's share of a turn.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::thread;

use bytes::{Buf, BytesMut};
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

const RECV_SIZE: usize = 16 << 10;
/// Several times what the kernel holds for the connection, whose buffers are small.
const LENGTH: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum BackPressure {
    Off,
    On,
}

/// Serves one client to its end; returns the most bytes that the backlog ever held.
fn serve(
    mut stream: mio::net::TcpStream,
    mode: BackPressure,
    news: &Sender<&str>,
) -> io::Result<usize> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(8));
    poll.registry().register(&mut stream, Token(0), Interest::READABLE | Interest::WRITABLE)?;
    let (mut readable, mut writable, mut ended) = (false, false, false);
    let (mut backlog, mut peak) = (BytesMut::new(), 0);
    let mut buffer = [0; RECV_SIZE];
    while !ended || !backlog.is_empty() {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            readable |= event.is_readable();
            writable |= event.is_writable();
        }
        loop {
            let may_read = backlog.is_empty() || mode == BackPressure::Off;
            if !backlog.is_empty() && writable {
                match stream.write(&backlog) {
                    Ok(n) => backlog.advance(n),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => writable = false,
                    Err(error) => return Err(error),
                }
            } else if readable && !ended && may_read {
                match stream.read(&mut buffer) {
                    Ok(0) => ended = true,
                    Ok(n) => backlog.extend_from_slice(&buffer[..n].to_ascii_uppercase()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => readable = false,
                    Err(error) => return Err(error),
                }
                peak = peak.max(backlog.len());
            } else {
                break;
            }
        }
        if !backlog.is_empty() && mode == BackPressure::On {
            // Only the first message has a receiver.
            let _ = news.send("the server stops reading");
        }
    }
    Ok(peak)
}

fn run(mode: BackPressure) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    for socket in [SockRef::from(&client), SockRef::from(&server)] {
        socket.set_recv_buffer_size(32 << 10)?;
        socket.set_send_buffer_size(32 << 10)?;
    }
    server.set_nonblocking(true)?;
    let (news, receiver) = mpsc::channel();
    let server_news = news.clone();
    let server = mio::net::TcpStream::from_std(server);
    let server = thread::spawn(move || serve(server, mode, &server_news));
    let mut sender = client.try_clone()?;
    let sender = thread::spawn(move || {
        sender.write_all(&[b'x'; LENGTH])?;
        let _ = news.send("the client has sent everything");
        sender.shutdown(Shutdown::Write)
    });

    println!("before the client reads anything: {}", receiver.recv().map_err(io::Error::other)?);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    sender.join().expect("the sender does not panic")?;
    let peak = server.join().expect("serve does not panic")?;
    println!("  the whole answer arrives: {}", answer == [b'X'; LENGTH]);
    println!("  the backlog never exceeded one recv: {}", peak <= RECV_SIZE);
    println!("  the backlog exceeded 3 MiB of 4: {}", peak > LENGTH / 4 * 3);
    Ok(())
}

fn main() -> io::Result<()> {
    println!("without back-pressure");
    run(BackPressure::Off)?;
    println!("with back-pressure");
    run(BackPressure::On)
}
