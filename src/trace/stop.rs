//! The end of a replay, and the first difference.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Event, ReadError, Stream};

/// The reason why a replay stopped.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stop {
    /// There is nothing more to replay.
    End,
    /// The loop made another call than the recorded one, or decided otherwise.
    Different(Difference),
    /// The recording cannot be read on.
    Unreadable(ReadError),
}

/// The first call in which a loop differs from a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The turn in which it made the call.
    pub turn: u64,
    /// Number of events before it.
    pub step: u64,
    /// The recorded event. `None` if the recording has no further one in a turn that it has.
    pub recorded: Event,
    /// The call of the loop, without an answer where there is none.
    pub called: String,
    /// The stream of the call, if it is about one.
    pub stream: Option<Stream>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { turn, step, recorded, called, .. } = self;
        write!(f, "turn {turn}, step {step}: recorded {recorded}, the loop called {called}")
    }
}

/// Knows why a replay stopped.
#[derive(Clone, Debug, Default)]
pub struct StopSign(Arc<Mutex<Option<Stop>>>);

impl StopSign {
    pub(super) fn set(&self, why: Stop) {
        *lock(&self.0) = Some(why);
    }

    /// The reason, once.
    pub fn take(&self) -> Option<Stop> {
        lock(&self.0).take()
    }
}

fn lock(stop: &Mutex<Option<Stop>>) -> MutexGuard<'_, Option<Stop>> {
    stop.lock().unwrap_or_else(PoisonError::into_inner)
}
