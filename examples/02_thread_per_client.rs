//! A thread for each client: the blocking server again, once per client.
//!
//! **To learn:** a thread is the easiest way to do several things at a time. The code for one client is
//! that of `01_blocking_echo.rs`, unchanged; a silent client blocks no other, and an error ends one
//! connection instead of the program.
//!
//! **What goes wrong:** a client costs a thread, that is a stack (2 MiB of addresses, some KiB of
//! memory), a kernel task and a place in the scheduler, even while it is silent. Unauthenticated
//! clients decide the number of threads. Without a timeout no thread ends before its client does.
//!
//! **Step by step:** docs/loop.html#one-accept, #no-descriptor and #flood, in a browser. **To
//! practice:** `lab/exercises/02_door/`, `lab/exercises/12_bad_night/`.
//!
//! **Read next:** `03_busy_waiting.rs` does it with one thread, the wrong way.

use std::fs;
use std::thread::{self, JoinHandle};

use saltecho::socket::{
    Result, SO_LINGER, SOL_SOCKET, ServerOptions, Socket, create_connection, create_server,
};

const CROWD: usize = 100;

fn serve(conn: &Socket) -> Result<()> {
    loop {
        let data = conn.recv(1024)?;
        if data.is_empty() {
            return Ok(());
        }
        conn.sendall(&data.to_ascii_uppercase())?;
    }
}

/// Accepts this many clients, starts a thread for each, and returns the threads.
fn accept(listener: &Socket, clients: usize) -> Result<Vec<JoinHandle<Result<()>>>> {
    (0..clients)
        .map(|_| {
            let (conn, _) = listener.accept()?;
            Ok(thread::spawn(move || serve(&conn)))
        })
        .collect()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let address = listener.getsockname()?;
    let threads_before = threads()?;

    let crowd: Vec<Socket> =
        (0..CROWD).map(|_| create_connection(&address, None, None)).collect::<Result<_>>()?;
    let workers = accept(&listener, CROWD)?;
    println!(
        "{CROWD} clients are connected and silent: {} more threads",
        threads()? - threads_before
    );

    crowd[CROWD - 1].sendall(b"last")?;
    let answer = crowd[CROWD - 1].recv(1024)?;
    println!("the last of them is still answered: {}", String::from_utf8_lossy(&answer));

    // struct linger { 1, 0 }: close() then sends a reset instead of an end of the stream.
    crowd[0].setsockopt(SOL_SOCKET, SO_LINGER, &[1i32, 0].map(i32::to_ne_bytes).concat()[..])?;
    crowd[0].close();
    crowd[1].sendall(b"still here")?;
    let answer = crowd[1].recv(1024)?;
    println!("the first resets its connection; the second: {}", String::from_utf8_lossy(&answer));

    drop(crowd);
    let ends: Vec<Result<()>> =
        workers.into_iter().map(|worker| worker.join().expect("serve does not panic")).collect();
    let failures: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
    println!(
        "all have left: {} threads ended normally, one with: {}",
        CROWD - failures.len(),
        failures[0]
    );
    // The kernel counts a joined thread until it has cleaned up.
    while threads()? > threads_before {
        thread::yield_now();
    }
    println!("remaining threads: 0");
    Ok(())
}

/// The number of threads of this process (proc(5)).
fn threads() -> std::result::Result<usize, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    Ok(count.ok_or("proc(5) documents the number of threads")?.trim().parse()?)
}
