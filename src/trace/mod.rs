//! The events of a loop's run: one stream that is recorded, replayed, explained and drawn.
//!
//! A loop asks the operating system for everything through one trait and is deterministic between
//! two answers. So the calls of [`Kernel`](crate::reactor::Kernel) with their results, and its notes
//! ([`Note`](crate::reactor::Note): what reaches it by another way, and what it decides), are its whole
//! story: an [`Event`] each. The [simulator](crate::sim) adds what its clients and its network do.
//!
//! - [`Recorder`] is a kernel that writes the events of another into a file;
//! - [`Reader`] reads such a file;
//! - [`ReplayKernel`] gives its answers to a loop and compares the calls;
//! - [`Narrator`] tells the events in plain words, and [`Perfetto`] draws them.

mod damage;
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
mod reader;
pub(crate) mod readiness;
mod recorder;
mod replay;
mod sink;
mod snapshot;
mod stop;
mod tape;

use crate::auth::Key;

pub use crate::reactor::Fault;
pub use event::{Event, Step, Stream, Subject, World};
#[cfg(any(test, feature = "testing"))]
pub use file::chunk;
pub use file::{Ending, Header, ReadError};
pub use narrator::{Narrator, lines};
pub use perfetto::Perfetto;
pub use picture::{Picture, Place, SocketPicture};
pub use reader::Reader;
pub use recorder::{RecordOptions, RecordedListener, Recorder};
pub(crate) use replay::LateBytes;
pub use replay::{ReplayKernel, Replays};
pub use sink::{OnEnd, Segments};
pub(crate) use snapshot::{Snapshot, SnapshotConnection};
pub use stop::{Difference, Stop, StopSign};
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
