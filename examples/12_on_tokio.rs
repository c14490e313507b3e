//! The protocol without this crate's loop: `proto::Connection` on tokio.
//!
//! **To learn:** a protocol that does no I/O fits any event loop. A connection says what it wants
//! from its socket, [`serve`] tries just that, and reports the result; time and random bytes
//! are arguments. Because the connection is either receiving or sending, one task without
//! `select!` is enough, and each of its waits has the one deadline that the connection names.
//!
//! **What goes wrong:** calling the socket because it is ready rather than because the connection
//! wants it: then answers overtake each other, or a peer that does not read fills the memory. And
//! dropping the future of a `write` half way: bytes would be sent and not counted. Here
//! that cannot happen, since `write` either takes bytes or waits.
//!
//! **Step by step:** docs/loop.html#slow-reader, in a browser. **To practice:**
//! `lab/exercises/07_back_pressure/`.
//!
//! **Read next:** `src/proto/connection.rs`; `src/server/pump.rs` is the same loop in this crate.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::client::Client;
use saltecho::proto::{CloseReason, Config, Connection, Peer, Upper, Wants};
use saltecho::python::Monotonic;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// Runs one connection from its challenge to its end.
async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    config: &Config,
) -> io::Result<CloseReason> {
    let start = Instant::now();
    let now = || Monotonic::ZERO.saturating_add(start.elapsed());
    let mut random = [0; Challenge::LEN];
    SysRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    let mut connection = Connection::new(config, Challenge::new(random), Upper, now());
    connection.set_peer(Peer::at(peer));
    let mut buffer = vec![0; config.recv_size];
    loop {
        let limit = connection.poll_timeout().map_or(FOREVER, |at| at.since(Monotonic::ZERO));
        let moved = match connection.wants(config) {
            Wants::Recv { limit: size } => {
                timeout_at(start + limit, stream.read(&mut buffer[..size])).await
            }
            Wants::Send => timeout_at(start + limit, stream.write(connection.chunk())).await,
            Wants::Shutdown => {
                // If it fails, the next read reports that the peer is gone.
                let _ = stream.shutdown().await;
                connection.handle_shutdown(config, now());
                continue;
            }
            Wants::Nothing => break,
        };
        match (moved, connection.wants(config)) {
            (Err(_), _) => connection.handle_timeout(now()),
            (Ok(Err(error)), _) => connection.handle_error(error.kind()),
            (Ok(Ok(n)), Wants::Send) => connection.handle_sent(config, n, now()),
            (Ok(Ok(0)), _) => connection.handle_eof(),
            // A dropped reply was not sent at all; the connection sends it next.
            (Ok(Ok(n)), _) => drop(connection.handle_recv(config, &mut buffer[..n], now())),
        }
    }
    if connection.undelivered() > 0 || connection.is_unanswered() {
        // After an orderly end a part of an answer would look like the whole.
        stream.set_zero_linger()?;
    }
    Ok(connection.close_reason().expect("a connection that wants nothing is closed"))
}

/// Stands for no deadline: a century.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Serves this many clients, each in a task of its own, and prints how each ended.
async fn serve_all(listener: TcpListener, clients: usize) -> Result<(), Box<dyn Error>> {
    let mut config = Config::new(Keyring::demo());
    config.auth_timeout = Some(Duration::from_millis(300));
    let config = Arc::new(config);
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (stream, peer) = listener.accept().await?;
        let config = Arc::clone(&config);
        tasks.push(tokio::spawn(async move { serve(stream, peer, &config).await }));
    }
    for (task, number) in tasks.into_iter().zip(1..) {
        println!("client {number}: {}", task.await??);
    }
    Ok(())
}

/// Talks to the server with the library's client.
fn talk(address: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let timeout = Some(Duration::from_secs(5));
    let connect = |key: &Key| Client::connect(address, key, MacAlgorithm::Md5, timeout);
    let (mut client, mut answer) = (connect(&Key::demo())?, Vec::new());
    client.exchange(b"hello, tokio", &mut answer)?;
    println!("answered: {}", String::from_utf8_lossy(&answer));
    let long = vec![b'x'; 10 << 20];
    answer.clear();
    client.exchange(&long, &mut answer)?;
    println!("10 MiB come back in upper case: {}", answer == long.to_ascii_uppercase());
    let refusal = connect(&Key::new("another key of 24 bytes."))?.exchange(b"hello", &mut answer);
    println!("with another key: {}", refusal.expect_err("it is wrong"));
    let mut silent = std::net::TcpStream::connect(address)?;
    io::copy(&mut silent, &mut io::sink())?;
    println!("a client that does not answer the challenge is closed");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let clients = std::thread::spawn(move || talk(address));
        serve_all(listener, 3).await?;
        clients.join().expect("the clients do not panic").map_err(|error| error.to_string())?;
        Ok(())
    })
}
