//! saltecho: an authenticated echo service on one non-blocking event loop.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod auth;
#[cfg(feature = "socket")]
pub mod client;
pub mod proto;
pub mod python;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod sim;
#[cfg(feature = "socket")]
pub mod socket;
