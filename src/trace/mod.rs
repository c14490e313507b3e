//! The events of a loop's run: one stream that is recorded, replayed, explained and drawn.
//!
//! A loop asks the operating system for everything through one trait and is deterministic between
//! two answers. So the calls of [`Kernel`](crate::reactor::Kernel) with their results, and the few
//! things that reach the loop by another way ([`Note`](crate::reactor::Note)), are its whole story: an
//! [`Event`] each. The [simulator](crate::sim) adds what its clients and its network do.
//!
//! - [`Recorder`] is a kernel that writes the events of another into a file;
//! - [`Reader`] reads such a file;
//! - [`ReplayKernel`] gives its answers to a loop and compares the calls;
//! - [`Narrator`] tells the events in plain words, and [`Perfetto`] draws them.

mod decode;
mod encode;
mod event;
mod file;
mod guise;
mod header;
mod mask;
mod narrator;
mod notation;
#[cfg(feature = "page")]
pub mod page;
mod perfetto;
mod picture;
pub(crate) mod readiness;
mod recorder;
mod replay;
mod sink;
mod tape;

use crate::auth::Key;

pub use crate::reactor::Fault;
pub use event::{Event, Step, Stream, Subject, World};
#[cfg(any(test, feature = "testing"))]
pub use file::chunk;
pub use file::{Ending, Header, ReadError, Reader};
pub use narrator::{Narrator, lines};
pub use perfetto::Perfetto;
pub use picture::{Picture, Place, SocketPicture};
pub use recorder::{RecordOptions, RecordedListener, Recorder};
pub use replay::{Difference, ReplayKernel, Replays, Stop, StopSign};
pub use sink::OnEnd;
pub use tape::Recorded;

/// The key at this position in the ring of a replay. It is public: the digests of a recording are made
/// with it, in the place of those that clients sent.
pub fn replay_key(position: usize) -> Key {
    Key::new(format!("saltecho replay key {position}"))
}

/// Ends a replay that cannot go on. Unwinds to whatever runs the loop, without a panic's message.
pub(crate) fn stop_replay(fault: String) -> ! {
    std::panic::resume_unwind(Box::new(fault))
}
