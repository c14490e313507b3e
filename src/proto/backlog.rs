use std::collections::{TryReserveError, VecDeque};

use bytes::{Buf, Bytes};

use super::CloseReason;
use super::boxed::Boxed;

/// The unsent rest of one `sendall`, and the messages pushed behind it.
///
/// A backlog exists only while bytes are unsent: it is never empty, and its memory is freed as
/// soon as the kernel has taken the last byte. An idle connection has none.
#[derive(Debug)]
pub(super) struct Backlog {
    rest: Bytes,
    /// Boxed because it is rare: without it a backlog pays one word.
    pushed: Option<Box<Pushed>>,
    /// Close the connection for this reason after the last byte; `None` to receive again.
    pub(super) then_close: Option<CloseReason>,
}

/// Waiting messages; each is a `sendall` of its own.
#[derive(Debug, Default)]
struct Pushed {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

/// Minimum size of a pushed message against the limit, in bytes: roughly the memory of its queue
/// entry, so that many tiny messages are limited too.
const MIN_MESSAGE: usize = 64;

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

    /// The unsent messages of another loop's backlog. `None` without any, or without memory.
    #[cfg(feature = "server")]
    pub(super) fn arrived(
        messages: Vec<Bytes>,
        then_close: Option<CloseReason>,
    ) -> Option<Boxed<Self>> {
        let mut messages = VecDeque::from(messages);
        let mut backlog = Self::new(messages.pop_front()?, then_close).ok()?;
        if !messages.is_empty() {
            let bytes = messages.iter().map(Bytes::len).sum();
            backlog.pushed = Some(Box::new(Pushed { messages, bytes }));
        }
        Some(backlog)
    }

    /// The unsent rest of the `sendall` in progress, then the messages behind it.
    #[cfg(feature = "server")]
    pub(super) fn messages(&self) -> impl Iterator<Item = &Bytes> {
        let pushed = self.pushed.iter().flat_map(|pushed| &pushed.messages);
        std::iter::once(&self.rest).chain(pushed)
    }

    /// The unsent rest of the `sendall` in progress.
    pub(super) fn chunk(&self) -> &[u8] {
        &self.rest
    }

    /// Unsent bytes, pushed messages included.
    pub(super) fn len(&self) -> usize {
        self.rest.len() + self.pushed.as_ref().map_or(0, |pushed| pushed.bytes)
    }

    /// Drops the first `n` bytes, which the kernel took. Returns true when this `sendall` is done.
    #[must_use]
    pub(super) fn advance(&mut self, n: usize) -> bool {
        self.rest.advance(n);
        self.rest.is_empty()
    }

    /// Starts the `sendall` of the next message; returns false if there is none.
    #[must_use]
    pub(super) fn next(&mut self) -> bool {
        let message = self.pushed.as_mut().and_then(|pushed| pushed.pop());
        message.map(|message| self.rest = message).is_some()
    }

    /// Queues a message behind all unsent bytes. Returns false, and queues nothing, if more than
    /// `limit` bytes would then be waiting.
    #[must_use]
    pub(super) fn push(&mut self, message: Bytes, limit: usize) -> bool {
        let pushed = self.pushed.get_or_insert_default();
        let waiting = pushed.bytes.max(pushed.messages.len() * MIN_MESSAGE);
        if self.rest.len() + waiting + message.len().max(MIN_MESSAGE) > limit {
            return false;
        }
        pushed.bytes += message.len();
        pushed.messages.push_back(message);
        true
    }
}
