//! saltecho: an authenticated echo service on one non-blocking event loop.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod python;
#[cfg(feature = "socket")]
pub mod socket;
