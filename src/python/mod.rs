//! Python's rules for a socket call, without a socket: the three modes, the deadline of a call, and
//! `bytes.upper()`.
//!
//! The module performs no I/O and reads no clock; the caller does both. The server's connections
//! and the socket object follow the same rules because they share it.

mod call;
mod monotonic;
mod timeout;
mod upper;

pub use call::{Blocked, Call};
pub use monotonic::{Monotonic, saturating_nanos};
pub use timeout::{Timeout, TimeoutValueError};
pub use upper::upper;
