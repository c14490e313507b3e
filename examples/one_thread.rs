//! The server as a library, on the calling thread, in a process with no other thread.
//!
//! ```text
//! cargo run --release --example one_thread 127.0.0.1:9999
//! ```
//!
//! It has every protection, but not the two other threads of the program, which write the log and
//! wait for signals. With a single thread each system call on a descriptor is slightly cheaper
//! (fdget in the kernel takes no reference); `scripts/compare` measures the difference.

use std::error::Error;

use saltecho::auth::Keyring;
use saltecho::server::Server;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("give an address, like 127.0.0.1:9999")?;
    let server = Server::builder().listen(address).keyring(Keyring::demo());
    let mut server = server.build()?;
    println!("listening on {}", server.addresses()?[0]);
    println!("{:?}", server.run()?);
    Ok(())
}
