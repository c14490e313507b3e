//! saltecho: an authenticated echo service on one non-blocking event loop.
//!
//! Each module uses only those above it in this table; the first three are pure: no socket, no
//! clock, no random source, and they build without any feature.
//!
//! | module | what it is | feature |
//! | --- | --- | --- |
//! | [`python`] | what Python says about time-outs and `bytes.upper()` | |
//! | [`auth`] | keys, the challenge, its digest and the verification | |
//! | [`proto`] | one connection's whole life as a state machine without I/O | (`http`, `proxy`) |
//! | [`metrics`] | a server's metrics in the OpenMetrics format | `metrics` |
//! | [`socket`] | Python's socket object on descriptors that never block | `socket` |
//! | [`client`] | the authenticated client | `socket` |
//! | [`server`] | the event loop, over any [`server::Kernel`] | `server` |
//! | [`sim`] | a simulated kernel for it: virtual clock, faults, one seed | `server` |
//! | [`load`] | the load generator, on the same patterns | `load` |
//!
//! The program is the feature `cli`, on by default; nothing else of the crate prints or exits.

pub mod auth;
#[cfg(feature = "socket")]
pub mod client;
#[cfg(feature = "load")]
pub mod load;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod proto;
pub mod python;
#[cfg(any(feature = "server", feature = "socket"))]
mod rawopt;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod sim;
#[cfg(feature = "socket")]
pub mod socket;
