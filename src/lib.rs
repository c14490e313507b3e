//! An authenticated echo service on one non-blocking event loop, as a library.
//!
//! The server sends 32 random bytes, the client answers with their HMAC under the shared key, and
//! from then on the server answers every message: by default with the same bytes in upper case. A
//! [`proto::Handler`] makes another service of it.
//!
//! ```
//! # #[cfg(all(feature = "server", feature = "socket"))]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use saltecho::auth::{Key, Keyring, MacAlgorithm};
//! use saltecho::client::Client;
//! use saltecho::server::Server;
//!
//! let (key, algorithm) = (Key::new("correct horse battery staple"), MacAlgorithm::Sha256);
//! let keyring = Keyring::single(algorithm, &key);
//! let server = Server::builder().listen("127.0.0.1:0").keyring(keyring).spawn()?;
//!
//! let timeout = Some(Duration::from_secs(5));
//! let mut client = Client::connect(server.addresses()[0], &key, algorithm, timeout)?;
//! let mut answer = Vec::new();
//! client.exchange(b"hello", &mut answer)?;
//! assert_eq!(answer, b"HELLO");
//!
//! drop(client);
//! let stats = server.drain()?;
//! assert_eq!(stats.authenticated, 1);
//! # Ok(()) }
//! # #[cfg(not(all(feature = "server", feature = "socket")))]
//! # fn main() {}
//! ```
//!
//! The default feature `cli` is the program, which a library does not need:
//!
//! ```toml
//! saltecho = { version = "0.1", default-features = false, features = ["server", "socket"] }
//! ```
//!
//! Each module uses only those above it in this table. The first four are pure: no socket, no
//! clock, no source of entropy, and they build without any feature.
//!
//! | module | what it is | feature |
//! | --- | --- | --- |
//! | [`python`] | Python's rules for timeouts and `bytes.upper()` | |
//! | [`auth`] | keys, the challenge, its digest and the verification | |
//! | [`proto`] | one connection's whole life as a state machine without I/O | (`http`, `proxy`) |
//! | [`random`] | a random sequence determined by its seed | |
//! | [`metrics`] | a server's metrics, and their OpenMetrics format (`metrics`) | `server` |
//! | [`socket`] | Python's socket object on descriptors that never block | `socket` |
//! | [`client`] | the authenticated client | `socket` |
//! | [`reactor`] | the parts of any event loop, over any [`reactor::Kernel`] | `server` |
//! | [`trace`] | the events of a loop's run, to record, replay, explain and draw | `server` |
//! | [`server`] | the server's event loop | `server` |
//! | [`sim`] | a simulated kernel: virtual clock, faults, one seed | `sim` |
//! | [`lab`] | a judge of event loops, and exercises for them | `sim` |
//! | [`load`] | the load generator, on the same patterns | `load` |
//!
//! Only the program prints or exits. The repository's `docs/` has the reasons for the design, and all
//! measured figures.

pub mod auth;
#[cfg(feature = "socket")]
pub mod client;
#[cfg(feature = "sim")]
pub mod lab;
#[cfg(feature = "load")]
pub mod load;
#[cfg(any(feature = "metrics", feature = "server"))]
pub mod metrics;
pub mod proto;
pub mod python;
pub mod random;
#[cfg(any(feature = "server", feature = "socket"))]
mod rawopt;
#[cfg(feature = "server")]
pub mod reactor;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "socket")]
pub mod socket;
#[cfg(feature = "server")]
pub mod trace;

/// Compiles the program that README shows.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
