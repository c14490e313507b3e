//! The semantics that Python gives to a socket call, without any socket: what the three modes
//! mean, when a call gives up, and what `bytes.upper()` does.
//!
//! Nothing here performs I/O or reads a clock; both are the caller's. The server's connections
//! and the blocking socket object apply the same rules because they share this module.

mod call;
mod monotonic;
mod timeout;
mod upper;

pub use call::{Call, Verdict};
pub use monotonic::{Monotonic, saturating_nanos};
pub use timeout::{Timeout, TimeoutValueError};
pub use upper::upper;
