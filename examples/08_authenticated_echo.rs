//! The authenticated echo, on the library: a server, and clients with and without the key.
//!
//! **To learn:** the server is a value that is described, spawned and stopped, and says afterwards
//! why each connection ended. The protocol has no word for "accepted": a right digest is answered
//! with silence, a wrong one with the end of the stream. So the client learns that it was refused
//! when it next wants something.
//!
//! **What goes wrong:** only the client proves anything. Nothing that is said is encrypted, and
//! whoever passes challenges on can stand in the middle. This keeps strangers out of a service on
//! a network that is trusted otherwise; for more there is TLS.
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
    let patience = Some(Duration::from_secs(5));

    let mut friend = Client::connect(address, &key, algorithm, patience)?;
    println!("with the key: {}", say(&mut friend, "hello")?);

    let mut stranger = Client::connect(address, &Key::demo(), algorithm, patience)?;
    match say(&mut stranger, "let me in") {
        Ok(answer) => println!("with another key: {answer}"),
        Err(error) => println!("with another key: {error}"),
    }
    drop(stranger);

    println!("the friend is still served: {}", say(&mut friend, "grüße")?);
    // Everybody is given what is owed to them, then the end of the stream. The server waits a
    // little for the clients to go; a reset could destroy answers that they have not read.
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

/// Sends a line and returns its answer, which has as many bytes.
fn say(client: &mut Client, text: &str) -> Result<String, Box<dyn Error>> {
    let mut answer = Vec::new();
    client.exchange(text.as_bytes(), &mut answer)?;
    Ok(String::from_utf8(answer)?)
}
