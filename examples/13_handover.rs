//! A running server moves to another loop, with every connection in whatever state it is.
//!
//! **To learn:** a connection is a descriptor and a few bytes of state. The kernel keeps the rest: what
//! is on its way, what is unread, who waits to be accepted. So a server can be frozen between two
//! turns, sent elsewhere and thawed there, and its clients see at most a pause. Here both sides are
//! in one process and the descriptors are duplicated; between two processes they travel over a Unix
//! socket (SCM_RIGHTS).
//!
//! **What goes wrong:** to let go of the old server before the new one has everything. Until `commit`
//! the old one is whole and can go on at any time, and the new one has touched no socket: no accept, no
//! read, not even a close that a peer would notice.
//!
//! **Step by step:** docs/loop.html#handover, in a browser. **To practice:**
//! `lab/exercises/01_first_echo/`.
//!
//! **Read next:** `src/server/handover/mod.rs`, and `docs/HANDOVER-FORMAT.md`.

use std::error::Error;
use std::os::fd::AsFd;
use std::time::Duration;

use saltecho::auth::{Key, MacAlgorithm};
use saltecho::client::Client;
use saltecho::proto::Upper;
use saltecho::reactor::MioKernel;
use saltecho::server::handover::{Decoder, Frozen, Thawing};
use saltecho::server::{Handle, Server};

const LIMIT: Option<Duration> = Some(Duration::from_secs(5));

type Running = std::thread::JoinHandle<std::io::Result<Server>>;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().listen("127.0.0.1:0").build()?;
    let address = server.addresses()?[0];
    let (handle, thread) = run(server);
    let mut client = Client::connect(address, &Key::demo(), MacAlgorithm::Md5, LIMIT)?;
    say(&mut client, "before")?;

    // Frozen between two turns. What clients do meanwhile waits in the kernel.
    let frozen = park(&handle, thread)?;
    client.send(b"during the freeze")?;
    let newcomer = std::thread::spawn(move || {
        Client::connect(address, &Key::demo(), MacAlgorithm::Md5, LIMIT)
    });
    // Something is wrong with the other side: the old one goes on.
    let (handle, thread) = run(frozen.resume());
    hear(&mut client)?;
    let mut newcomer = newcomer.join().expect("it does not panic")?;

    let frozen = park(&handle, thread)?;
    client.send(b"while it moves")?;
    let new = receive(&frozen)?;
    // The point of no return. The old server forgets what the new one has.
    let old = frozen.leave();
    drop(old);
    let (handle, thread) = run(new.commit());
    hear(&mut client)?;
    say(&mut newcomer, "after")?;

    handle.stop();
    let stats = thread.join().expect("it does not panic")?.stats();
    println!("accepted {}, authenticated {}", stats.accepted, stats.authenticated);
    Ok(())
}

/// Runs a server until it is parked or stopped.
fn run(mut server: Server) -> (Handle, Running) {
    let handle = server.handle();
    (handle, std::thread::spawn(move || server.run().map(|_| server)))
}

fn park(handle: &Handle, thread: Running) -> Result<Frozen<MioKernel, Upper>, Box<dyn Error>> {
    handle.park();
    let server = thread.join().expect("it does not panic")?;
    server.freeze().map_err(|_| "a server that drains is not frozen".into())
}

/// The other side: a server with a kernel of its own, over the same sockets.
fn receive(frozen: &Frozen<MioKernel, Upper>) -> Result<Thawing<MioKernel, Upper>, Box<dyn Error>> {
    let mut prepared = Server::builder().listen("127.0.0.1:0").prepare_workers(1)?;
    let mut new = prepared.remove(0);
    let (mut decoder, mut chunks) = (Decoder::new(), frozen.chunks());
    for chunk in chunks.by_ref() {
        let sockets = chunk.sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned());
        let sockets = sockets.collect::<Result<_, _>>()?;
        let (kind, count) = (chunk.kind.code(), chunk.count);
        decoder.take(kind, count, chunk.record_size, &chunk.payload, sockets)?;
    }
    let arrived = decoder.finish(&chunks.totals())?;
    println!("{} connections arrived", arrived.connections());
    for one in arrived.spread(1, std::os::fd::OwnedFd::try_clone)? {
        new.restore(one)?;
    }
    Ok(new)
}

fn say(client: &mut Client, text: &str) -> Result<(), Box<dyn Error>> {
    client.send(text.as_bytes())?;
    hear(client)
}

fn hear(client: &mut Client) -> Result<(), Box<dyn Error>> {
    let mut buffer = [0; 64];
    let n = client.recv(&mut buffer)?;
    println!("{}", String::from_utf8_lossy(&buffer[..n]));
    Ok(())
}
