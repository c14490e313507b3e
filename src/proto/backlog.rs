use std::collections::TryReserveError;

use bytes::{Buf, Bytes};

use super::CloseReason;
use super::boxed::Boxed;

/// The unsent rest of one `sendall`, and what follows it.
///
/// It exists only while the kernel has refused bytes: never empty, and gone with its allocation
/// as soon as the last byte is taken. An idle connection owns none.
#[derive(Debug)]
pub(super) struct Backlog {
    rest: Bytes,
    /// The connection ends for this reason after the last byte; without one it receives on.
    pub(super) then_close: Option<CloseReason>,
}

impl Backlog {
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn new(
        rest: Bytes,
        then_close: Option<CloseReason>,
    ) -> Result<Boxed<Self>, TryReserveError> {
        debug_assert!(!rest.is_empty(), "a backlog without bytes");
        Boxed::new(Self { rest, then_close })
    }

    pub(super) fn chunk(&self) -> &[u8] {
        &self.rest
    }

    /// Forgets the first `n` bytes, which the kernel has taken. True when none is left.
    pub(super) fn advance(&mut self, n: usize) -> bool {
        self.rest.advance(n);
        self.rest.is_empty()
    }
}
