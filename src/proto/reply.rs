use std::collections::TryReserveError;

use bytes::Bytes;

use super::backlog::Backlog;
use super::{Answer, CloseReason, Config, Connection, Handler};
use crate::python::Monotonic;

/// The answer to one `recv`, offered to the kernel before any byte is copied.
///
/// Call [`sent`](Self::sent) with the number of bytes that the kernel took; the rest moves to the
/// connection's backlog. Dropping a reply moves all of it there, so no answer can get lost.
#[must_use = "offer the reply to the socket, then call `sent`"]
pub struct Reply<'a, H: Handler> {
    connection: &'a mut Connection<H>,
    config: &'a Config,
    now: Monotonic,
    bytes: ReplyBytes<'a>,
    then_close: Option<CloseReason>,
    key: Option<u8>,
}

enum ReplyBytes<'a> {
    InPlace(&'a [u8]),
    Owned(Bytes),
}

impl<'a> ReplyBytes<'a> {
    #[cold]
    #[inline(never)]
    fn first(data: &'a [u8], len: usize) -> Self {
        Self::InPlace(&data[..len])
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::InPlace(data) => data,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Returns the bytes after the first `n`; copied only if they lie in the caller's buffer.
    ///
    /// # Errors
    /// If there is no memory for the copy.
    fn split_off(self, n: usize) -> Result<Bytes, TryReserveError> {
        match self {
            Self::InPlace(data) => {
                let mut rest = Vec::new();
                rest.try_reserve_exact(data.len() - n)?;
                rest.extend_from_slice(&data[n..]);
                Ok(rest.into())
            }
            Self::Owned(mut bytes) => Ok(bytes.split_off(n)),
        }
    }
}

impl<'a, H: Handler> Reply<'a, H> {
    /// No answer.
    pub(super) fn empty(
        connection: &'a mut Connection<H>,
        config: &'a Config,
        now: Monotonic,
        key: Option<u8>,
    ) -> Self {
        let bytes = ReplyBytes::InPlace(&[]);
        Self { connection, config, now, bytes, then_close: None, key }
    }

    /// The answer of the handler to `data`.
    pub(super) fn new(
        connection: &'a mut Connection<H>,
        config: &'a Config,
        now: Monotonic,
        key: Option<u8>,
        data: &'a [u8],
        answer: Answer,
    ) -> Self {
        let (mut bytes, mut then_close) = match answer {
            Answer::InPlace => (ReplyBytes::InPlace(data), None),
            Answer::Nothing => (ReplyBytes::InPlace(&[]), None),
            Answer::Bytes(bytes) => (ReplyBytes::Owned(bytes), None),
            Answer::Close(bytes) => (ReplyBytes::Owned(bytes), Some(CloseReason::HandlerClosed)),
            Answer::MessageTooLong { answered } => {
                (ReplyBytes::first(data, answered), Some(CloseReason::MessageTooLong))
            }
        };
        if bytes.as_slice().len() > config.max_answer {
            (bytes, then_close) = (ReplyBytes::InPlace(&[]), Some(CloseReason::AnswerTooLong));
        }
        if bytes.as_slice().is_empty() {
            connection.answered(config, then_close, now);
        }
        Self { connection, config, now, bytes, then_close, key }
    }

    /// Names the key under which the peer authenticated.
    pub(super) const fn with_key(mut self, key: Option<u8>) -> Self {
        self.key = key;
        self
    }

    /// Position of a key in [`Config::keyring`]: the one under which the peer authenticated with this
    /// `recv`. `None` for every other `recv`.
    pub fn key(&self) -> Option<usize> {
        self.key.map(usize::from)
    }

    /// Puts bytes that are still unsent before the answer.
    #[cold]
    pub(super) fn behind(mut self, unsent: &[u8]) -> Self {
        let bytes = [unsent, self.bytes()].concat();
        if self.bytes().is_empty() {
            // Without an answer the connection has gone on already.
            if self.connection.close_reason().is_some() {
                return self;
            }
            self.then_close = self.connection.finishing();
        }
        self.bytes = ReplyBytes::Owned(bytes.into());
        self
    }

    /// Bytes to send; empty if there is no answer.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Reports that the kernel took the first `n` bytes: all, some, or none if it would block.
    #[inline(always)] // A reply that is consumed here stays in registers, and is never built.
    pub fn sent(mut self, n: usize) {
        self.advance(n);
    }

    #[inline(always)] // As `sent`, which calls it.
    fn advance(&mut self, n: usize) {
        let len = self.bytes().len();
        debug_assert!(n <= len, "more bytes sent than were offered");
        if len == 0 {
            return;
        }
        if n == len {
            self.bytes = ReplyBytes::InPlace(&[]);
            self.connection.answered(self.config, self.then_close, self.now);
        } else {
            self.keep_rest(n);
        }
    }

    fn keep_rest(&mut self, n: usize) {
        let bytes = std::mem::replace(&mut self.bytes, ReplyBytes::InPlace(&[]));
        self.connection.keep_rest(self.config, bytes, n, self.then_close, self.now);
    }
}

impl<H: Handler> Connection<H> {
    /// Keeps the bytes of an answer behind the first `n`. Not inlined, so that an answer which the kernel
    /// takes whole does not prepare for this; and not a method of the reply, whose address would be
    /// taken, so that it could not stay in registers.
    #[inline(never)]
    fn keep_rest(
        &mut self,
        config: &Config,
        bytes: ReplyBytes<'_>,
        n: usize,
        then_close: Option<CloseReason>,
        now: Monotonic,
    ) {
        let unsent = bytes.as_slice().len() - n;
        let backlog = bytes.split_off(n).and_then(|rest| Backlog::new(rest, then_close));
        self.begin_sendall(config, backlog, unsent, now);
    }
}

impl<H: Handler> Drop for Reply<'_, H> {
    #[inline(always)] // As `sent`.
    fn drop(&mut self) {
        if !self.bytes().is_empty() {
            self.keep_rest(0);
        }
    }
}
