use std::collections::{TryReserveError, VecDeque};

use bytes::{Buf, Bytes};

use super::CloseReason;
use super::boxed::Boxed;

/// The unsent rest of one `sendall`, the messages that were pushed meanwhile, and what follows.
///
/// It exists only while the kernel has refused bytes or a message waits to be offered: never
/// empty, and gone with its allocation as soon as the last byte is taken. An idle connection owns
/// none.
#[derive(Debug)]
pub(super) struct Backlog {
    rest: Bytes,
    /// Rare, so it costs those without it one word.
    pushed: Option<Box<Pushed>>,
    /// The connection ends for this reason after the last byte; without one it receives on.
    pub(super) then_close: Option<CloseReason>,
}

/// Messages that wait, each for a `sendall` of its own.
#[derive(Debug, Default)]
struct Pushed {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

/// What a pushed message counts for at least, in bytes: as much as its place in the queue takes.
const LEAST_MESSAGE: usize = 64;

impl Pushed {
    #[cold]
    fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

impl Backlog {
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn new(
        rest: Bytes,
        then_close: Option<CloseReason>,
    ) -> Result<Boxed<Self>, TryReserveError> {
        debug_assert!(!rest.is_empty(), "a backlog without bytes");
        Boxed::new(Self { rest, pushed: None, then_close })
    }

    /// The unsent rest of the `sendall` in progress.
    pub(super) fn chunk(&self) -> &[u8] {
        &self.rest
    }

    /// Bytes that the kernel has not taken, pushed messages included.
    pub(super) fn len(&self) -> usize {
        self.rest.len() + self.pushed.as_ref().map_or(0, |pushed| pushed.bytes)
    }

    /// Forgets the first `n` bytes, which the kernel has taken. True when this `sendall` is done.
    pub(super) fn advance(&mut self, n: usize) -> bool {
        self.rest.advance(n);
        self.rest.is_empty()
    }

    /// Begins the `sendall` of the next message; false if there is none.
    pub(super) fn next(&mut self) -> bool {
        let message = self.pushed.as_mut().and_then(|pushed| pushed.pop());
        message.map(|message| self.rest = message).is_some()
    }

    /// Queues a message behind all that is unsent, unless more than `limit` bytes would wait then.
    pub(super) fn push(&mut self, message: Bytes, limit: usize) -> bool {
        let pushed = self.pushed.get_or_insert_default();
        let waiting = pushed.bytes.max(pushed.messages.len() * LEAST_MESSAGE);
        if self.rest.len() + waiting + message.len().max(LEAST_MESSAGE) > limit {
            return false;
        }
        pushed.bytes += message.len();
        pushed.messages.push_back(message);
        true
    }
}
