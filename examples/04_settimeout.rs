//! `settimeout`: a limit for the time of each call, and what a timeout leaves behind.
//!
//! **To learn:** a timeout says that the caller stopped waiting, and nothing else. It is Python's own
//! error, without an errno. The socket is as good as before, the next call has its whole time again,
//! and whatever was asked of the kernel or of the peer still goes on.
//!
//! **What goes wrong:** what still goes on. A late answer is taken for the answer to the next
//! question, and all that follow are off by one. After a `sendall` that timed out, an unknown part of
//! the data is on its way. Unless the protocol can tell where it stands, the connection is of no more
//! use: close it. And a `recv` with a timeout is no deadline for a message: a peer that sends one
//! byte each time holds the caller for as long as it likes.
//!
//! **Step by step:** docs/loop.html#old-clock and #moving-deadline, in a browser. **To practice:**
//! `lab/exercises/08_deadlines/`.
//!
//! **Read next:** `06_send_and_sendall.rs` on the deadline of a whole `sendall`; `src/client.rs`
//! for a deadline over many `recv`s.

use saltecho::socket::{
    Address, Family, Result, SO_SNDBUF, SOL_SOCKET, ServerOptions, Socket, SocketType,
    create_server, socketpair,
};

fn main() -> Result<()> {
    late_answer()?;
    unfinished_sendall()?;
    pending_connect()
}

fn late_answer() -> Result<()> {
    let (client, server) = socketpair()?;
    client.settimeout(Some(0.1))?;
    client.sendall(b"question 1")?;
    println!("recv gives up: {}", describe(client.recv(64)));
    let question = server.recv(64)?;
    server.sendall(&question.to_ascii_uppercase())?;
    client.sendall(b"question 2")?;
    println!("question 2 is answered: {}", String::from_utf8_lossy(&client.recv(64)?));
    Ok(())
}

fn unfinished_sendall() -> Result<()> {
    let (sender, receiver) = socketpair()?;
    sender.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_536)?;
    sender.settimeout(Some(0.1))?;
    let data = vec![b'x'; 1 << 20];
    println!("sendall gives up: {}", describe(sender.sendall(&data)));
    sender.close();
    let mut arrived = 0;
    loop {
        let piece = receiver.recv(65_536)?;
        if piece.is_empty() {
            break;
        }
        arrived += piece.len();
    }
    println!("a part of the data arrives: {}", 0 < arrived && arrived < data.len());
    Ok(())
}

fn pending_connect() -> Result<()> {
    // Linux queues one connection more than the backlog, and does not answer further ones.
    let options = ServerOptions { backlog: Some(0), ..ServerOptions::default() };
    let listener = create_server(("127.0.0.1", 0), options)?;
    let address = listener.getsockname()?;
    let mut queued = Vec::new();
    let late = loop {
        let (client, outcome) = try_to_connect(&address)?;
        if outcome.is_err() {
            println!("connect gives up: {}", describe(outcome));
            break client;
        }
        queued.push(client);
    };
    println!("connect again: {}", describe(late.connect(&address)));
    for _ in queued {
        listener.accept()?;
    }
    // In blocking mode the same call waits for the pending attempt.
    late.setblocking(true)?;
    println!("once there is room: {}", describe(late.connect(&address)));
    Ok(())
}

fn try_to_connect(address: &Address) -> Result<(Socket, Result<()>)> {
    let client = Socket::new(Family::Inet, SocketType::Stream)?;
    client.settimeout(Some(0.2))?;
    let outcome = client.connect(address);
    Ok((client, outcome))
}

/// The error as Python shows it: class, text, errno.
fn describe<T>(outcome: Result<T>) -> String {
    match outcome {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("{}, {error}, errno {:?}", error.kind().name(), error.errno()),
    }
}
