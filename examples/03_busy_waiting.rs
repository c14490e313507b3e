//! Non-blocking sockets and a loop that tries all of them, again and again.
//!
//! **To learn:** in non-blocking mode no call waits. One that cannot proceed says so
//! (`BlockingIOError`, EAGAIN), and the thread is free for the next client. That is all that one
//! thread needs in order to serve many.
//!
//! **What goes wrong:** nothing waits any more, so the loop never rests. It tries each socket
//! millions of times for nothing and takes a whole core while all clients are silent; and the cost of
//! a round grows with the number of clients. A `sleep` in the loop saves the core, but makes answers
//! late by the length of the sleep, and each round is as long as before.
//!
//! **Step by step:** docs/loop.html#would-block, in a browser. **To practice:**
//! `lab/exercises/01_first_echo/`.
//!
//! **Read next:** `05_readiness/main.rs`, where the kernel says which socket is worth a try; or
//! first `04_settimeout.rs`, the third mode.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use saltecho::socket::{ErrorKind, ServerOptions, Socket, create_connection, create_server};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Serves until the last client has left; counts the calls that found nothing to do.
fn serve_by_trying(listener: &Socket) -> Result<u64> {
    listener.setblocking(false)?;
    let (mut clients, mut useless) = (Vec::new(), 0);
    loop {
        match listener.accept() {
            Ok((conn, _)) => {
                // An accepted socket does not inherit the listener's mode.
                conn.setblocking(false)?;
                clients.push(conn);
            }
            Err(error) if error.kind() == ErrorKind::BlockingIOError => useless += 1,
            Err(error) => return Err(error.into()),
        }
        for index in (0..clients.len()).rev() {
            match clients[index].recv(1024) {
                Ok(data) if data.is_empty() => drop(clients.swap_remove(index)),
                // Only for short answers: 07_back_pressure.rs shows what a full socket needs.
                Ok(data) => clients[index].sendall(&data.to_ascii_uppercase())?,
                Err(error) if error.kind() == ErrorKind::BlockingIOError => useless += 1,
                Err(error) => return Err(error.into()),
            }
            if clients.is_empty() {
                return Ok(useless);
            }
        }
    }
}

/// The same for one client, in blocking mode: each call waits, and none is useless.
fn serve_by_waiting(listener: &Socket) -> Result<u64> {
    let (conn, _) = listener.accept()?;
    loop {
        let data = conn.recv(1024)?;
        if data.is_empty() {
            return Ok(0);
        }
        conn.sendall(&data.to_ascii_uppercase())?;
    }
}

/// The cost of a server: its useless calls, and how busy its thread was, in percent of the time.
struct Cost {
    useless_calls: u64,
    running: f64,
    /// Running or waiting for a core: not asleep, however loaded the machine is.
    awake: f64,
}

/// Runs a server with a client that sends one word and is then silent for half a second.
fn cost(serve: fn(&Socket) -> Result<u64>) -> Result<Cost> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let client = create_connection(&listener.getsockname()?, None, None)?;
    let server = thread::spawn(move || {
        let (start, before) = (Instant::now(), schedstat()?);
        let useless_calls = serve(&listener)?;
        let (spent, after) = (start.elapsed(), schedstat()?);
        let share = |nanos: u64| nanos as f64 / spent.as_nanos() as f64 * 100.0;
        let (running, waiting) = (share(after[0] - before[0]), share(after[1] - before[1]));
        Ok(Cost { useless_calls, running, awake: running + waiting })
    });
    client.sendall(b"hello")?;
    assert_eq!(client.recv(1024)?, b"HELLO");
    thread::sleep(Duration::from_millis(500));
    client.close();
    server.join().expect("a server does not panic")
}

/// The time this thread has been running, and ready to run, in nanoseconds (proc(5)).
fn schedstat() -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next().ok_or("schedstat is too short");
    Ok([next()??, next()??])
}

fn main() -> Result<()> {
    let busy = cost(serve_by_trying)?;
    println!("busy waiting through half a second of silence:");
    println!("  more than 1000 useless calls: {}", busy.useless_calls > 1000);
    println!("  awake for more than 90 % of the time: {}", busy.awake > 90.0);
    let blocking = cost(serve_by_waiting)?;
    println!("blocking through the same silence:");
    println!("  useless calls: {}", blocking.useless_calls);
    println!("  running for less than 1 % of the time: {}", blocking.running < 1.0);
    Ok(())
}
