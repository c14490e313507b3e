//! The server as a library, on the thread that calls it, in a process without any other.
//!
//! ```text
//! cargo run --release --example one_thread 127.0.0.1:9999
//! ```
//!
//! With every protection on, and without what the program has beside it: a thread that writes the
//! log and one that waits for signals. Each system call on a descriptor is a little cheaper while
//! only one thread can close it (fdget in the kernel takes no reference then); `scripts/compare`
//! shows by how much.

use std::error::Error;

use saltecho::auth::Keyring;
use saltecho::server::Server;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("name an address, like 127.0.0.1:9999")?;
    let server = Server::builder().listen(address).keyring(Keyring::demo());
    let mut server = server.build()?;
    println!("listening on {}", server.addresses()?[0]);
    println!("{:?}", server.run()?);
    Ok(())
}
