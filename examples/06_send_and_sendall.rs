//! `send` and `sendall` on a socket that is full.
//!
//! **To learn:** `send` hands over what fits and returns how much that was; the caller must send the
//! rest. `sendall` is the loop `while data: data = data[send(data):]`, and differs from it in three
//! points: it makes a call even for no data; its timeout is one deadline for the whole; and when it
//! fails, the number of bytes sent is unknown.
//!
//! **What goes wrong:** ignoring what `send` returns. It works for years, as long as everything
//! fits, and then loses the end of one message. `sendall` on a non-blocking socket loses it too:
//! part of the data goes, then comes `BlockingIOError`, and the count is lost.
//!
//! **Step by step:** docs/loop.html#partial-write, in a browser. **To practice:**
//! `lab/exercises/04_short_sends/`.
//!
//! **Read next:** `07_back_pressure.rs`: code that must not wait keeps the rest and the count.

use std::thread;
use std::time::Duration;

use saltecho::socket::{Result, SO_SNDBUF, SOL_SOCKET, Socket, socketpair};

static DATA: [u8; 1 << 20] = [b'x'; 1 << 20];

fn main() -> Result<()> {
    let (sender, receiver) = small_pair()?;
    sender.setblocking(false)?;
    let taken = sender.send(&DATA)?;
    println!("non-blocking send takes a part: {}", 0 < taken && taken < DATA.len());
    println!("non-blocking send, now full: {}", describe(sender.send(&DATA)));
    println!("  of no data: {}", describe(sender.send(b"")));

    sender.settimeout(Some(0.1))?;
    println!("send with a timeout, still full: {}", describe(sender.send(&DATA)));
    println!("  of no data: {}", describe(sender.send(b"")));
    println!("sendall of no data: {}", describe(sender.sendall(b"").map(|()| "done")));
    println!("the loop of sends, no data: {}", describe(send_loop(&sender, b"").map(|()| "done")));

    let reader = thread::spawn(move || read_slowly(&receiver));
    sender.setblocking(true)?;
    let some = &DATA[..100_000];
    println!("blocking send takes all: {}", sender.send(some)? == some.len());
    sender.close();
    let arrived = reader.join().expect("read_slowly does not panic")?;
    println!("all that was taken has arrived: {}", arrived == taken + some.len());

    for (name, send) in [("sendall", Socket::sendall as fn(&_, &_) -> _), ("the loop", send_loop)] {
        let (sender, receiver) = small_pair()?;
        let reader = thread::spawn(move || read_slowly(&receiver));
        sender.settimeout(Some(0.5))?;
        println!(
            "{name}, with a slow but steady reader: {}",
            describe(send(&sender, &DATA).map(|()| "done"))
        );
        sender.close();
        let arrived = reader.join().expect("read_slowly does not panic")?;
        println!("  everything arrived: {}", arrived == DATA.len());
    }
    Ok(())
}

/// Each send has the whole timeout; `sendall` has it once.
fn send_loop(socket: &Socket, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        data = &data[socket.send(data)?..];
    }
    Ok(())
}

/// Reads all that is there every 25 ms, until the end; returns the number of bytes.
fn read_slowly(socket: &Socket) -> Result<usize> {
    let mut count = 0;
    loop {
        thread::sleep(Duration::from_millis(25));
        match socket.recv(1 << 20)?.len() {
            0 => return Ok(count),
            n => count += n,
        }
    }
}

/// Two connected sockets of which the first is full after some ten KiB. It is a Unix pair, since only
/// reading makes room in it; TCP takes a few more bytes when an acknowledgment comes late.
fn small_pair() -> Result<(Socket, Socket)> {
    let (sender, receiver) = socketpair()?;
    sender.setsockopt(SOL_SOCKET, SO_SNDBUF, 16_384)?;
    Ok((sender, receiver))
}

fn describe<T: std::fmt::Display>(outcome: Result<T>) -> String {
    match outcome {
        Ok(value) => value.to_string(),
        Err(error) => format!("{}, {error}", error.kind().name()),
    }
}
