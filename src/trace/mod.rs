//! The events of a loop's run: one stream that is recorded, replayed, explained and drawn.
//!
//! A loop asks the operating system for everything through one trait and is deterministic between
//! two answers. So the calls of [`Kernel`](crate::reactor::Kernel) with their results, and the few
//! things that reach the loop by another way ([`Note`](crate::reactor::Note)), are its whole story: an
//! [`Event`] each. The [simulator](crate::sim) adds what its clients and its network do.

mod event;
mod narrator;
#[cfg(feature = "page")]
pub mod page;
mod picture;

pub use event::{Event, Fault, Step, Stream, Subject, World};
pub use narrator::{Narrator, lines};
pub use picture::{Picture, Place, SocketPicture};

use crate::auth::Key;

/// The key at this position in the ring of a replay. It is public: the digests of a recording are made
/// with it, in the place of those that clients sent.
pub fn replay_key(position: usize) -> Key {
    Key::new(format!("saltecho replay key {position}"))
}

/// Ends a replay that cannot go on. Unwinds to whatever runs the loop, without a panic's message.
pub(crate) fn stop_replay(fault: String) -> ! {
    std::panic::resume_unwind(Box::new(fault))
}
