//! Non-blocking sockets and a loop that asks all of them, again and again.
//!
//! **To learn:** in non-blocking mode no call waits. One that cannot proceed says so
//! (`BlockingIOError`, EAGAIN), and the thread is free for the next client. That is all that one
//! thread needs in order to serve many.
//!
//! **What goes wrong:** nobody waits any more, so the loop never rests. It asks each socket
//! millions of times for nothing and takes a whole core while nobody says a word; and each round
//! costs as much as there are clients. A `sleep` in the loop trades the core for answers that are
//! late by the length of the sleep, and cures neither.
//!
//! **Read next:** `05_readiness/main.rs`, where the kernel says which socket is worth asking; or
//! first `04_settimeout.rs`, the third mode.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use saltecho::socket::{ErrorKind, ServerOptions, Socket, create_connection, create_server};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Serves until the last client has left; counts the calls that found nothing to do.
fn serve_by_asking(listener: &Socket) -> Result<u64> {
    listener.setblocking(false)?;
    let (mut clients, mut in_vain) = (Vec::new(), 0);
    loop {
        match listener.accept() {
            Ok((conn, _)) => {
                // An accepted socket does not inherit the listener's mode.
                conn.setblocking(false)?;
                clients.push(conn);
            }
            Err(error) if error.kind() == ErrorKind::BlockingIOError => in_vain += 1,
            Err(error) => return Err(error.into()),
        }
        for index in (0..clients.len()).rev() {
            match clients[index].recv(1024) {
                Ok(data) if data.is_empty() => drop(clients.swap_remove(index)),
                // Short answers only: a full socket would need what 07_back_pressure.rs shows.
                Ok(data) => clients[index].sendall(&data.to_ascii_uppercase())?,
                Err(error) if error.kind() == ErrorKind::BlockingIOError => in_vain += 1,
                Err(error) => return Err(error.into()),
            }
            if clients.is_empty() {
                return Ok(in_vain);
            }
        }
    }
}

/// The same for one client, in blocking mode: no call is made in vain, each waits.
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

/// What a server did, and the shares of the time, in per cent, in which its thread did it.
struct Bill {
    calls_in_vain: u64,
    running: f64,
    /// Running, or kept from running by others: not asleep, however loaded the machine is.
    awake: f64,
}

/// Runs a server under a client that says one word and is then silent for half a second.
fn bill(serve: fn(&Socket) -> Result<u64>) -> Result<Bill> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let client = create_connection(&listener.getsockname()?, None, None)?;
    let server = thread::spawn(move || {
        let (start, before) = (Instant::now(), schedstat()?);
        let calls_in_vain = serve(&listener)?;
        let (spent, after) = (start.elapsed(), schedstat()?);
        let share = |nanos: u64| nanos as f64 / spent.as_nanos() as f64 * 100.0;
        let (running, waiting) = (share(after[0] - before[0]), share(after[1] - before[1]));
        Ok(Bill { calls_in_vain, running, awake: running + waiting })
    });
    client.sendall(b"hello")?;
    assert_eq!(client.recv(1024)?, b"HELLO");
    thread::sleep(Duration::from_millis(500));
    client.close();
    server.join().expect("a server does not panic")
}

/// How long this thread has been running, and how long ready to run, in nanoseconds (proc(5)).
fn schedstat() -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next().ok_or("schedstat is too short");
    Ok([next()??, next()??])
}

fn main() -> Result<()> {
    let busy = bill(serve_by_asking)?;
    println!("busy waiting through half a second of silence:");
    println!("  more than 1000 calls in vain: {}", busy.calls_in_vain > 1000);
    println!("  awake for more than 90 % of the time: {}", busy.awake > 90.0);
    let blocking = bill(serve_by_waiting)?;
    println!("blocking through the same silence:");
    println!("  calls in vain: {}", blocking.calls_in_vain);
    println!("  running for less than 1 % of the time: {}", blocking.running < 1.0);
    Ok(())
}
