//! The authenticated echo, on the library: a server, and clients with and without the key.
//!
//! **To learn:** the server is a value that is described, spawned and stopped, and then reports why
//! each connection ended. The protocol has no word for "accepted": a right digest is answered
//! with silence, a wrong one with the end of the stream. So a client learns that it was refused
//! when it waits for its first answer.
//!
//! **What goes wrong:** the server does not prove itself, nothing is encrypted, and an attacker who
//! relays challenges can stand in the middle. This protects a service on a network that is trusted
//! otherwise; for more there is TLS.
//!
//! **Step by step:** docs/loop.html#pieces and #drain, in a browser. **To practice:**
//! `lab/exercises/06_pieces/`, `lab/exercises/11_goodbye/`.
//!
//! **Read next:** `11_custom_handler.rs`; `src/server/mod.rs`: one turn of the loop, on a page.

use std::error::Error;
use std::time::Duration;

use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::client::Client;
use saltecho::server::Server;

fn main() -> Result<(), Box<dyn Error>> {
    let key = Key::new(&b"correct horse battery staple"[..]);
    let algorithm = MacAlgorithm::Sha256;
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .keyring(Keyring::single(algorithm, &key))
        .spawn()?;
    let address = server.addresses()[0];
    let timeout = Some(Duration::from_secs(5));

    let mut friend = Client::connect(address, &key, algorithm, timeout)?;
    println!("with the key: {}", ask(&mut friend, "hello")?);

    let mut other = Client::connect(address, &Key::demo(), algorithm, timeout)?;
    match ask(&mut other, "let me in") {
        Ok(answer) => println!("with another key: {answer}"),
        Err(error) => println!("with another key: {error}"),
    }
    drop(other);

    println!("the friend is still served: {}", ask(&mut friend, "grüße")?);
    // Pending answers are finished, then each client sees the end of the stream. The server waits a
    // little for the clients to leave; a reset could destroy answers that they have not read.
    server.handle().drain();
    let rest = friend.socket().recv(64)?;
    println!("the server is drained, and the friend sees the end: {}", rest.is_empty());
    drop(friend);
    let stats = server.drain()?;
    println!("{} connections, {} authenticated", stats.accepted, stats.authenticated);
    for (reason, count) in stats.closes() {
        println!("  {count} ended: {reason}");
    }
    Ok(())
}

/// Sends a line and returns its answer, which is as long.
fn ask(client: &mut Client, text: &str) -> Result<String, Box<dyn Error>> {
    let mut answer = Vec::new();
    client.exchange(text.as_bytes(), &mut answer)?;
    Ok(String::from_utf8(answer)?)
}
