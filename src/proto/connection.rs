mod ending;
mod mutual;
mod opening;
#[cfg(feature = "server")]
mod parked;
#[cfg(all(test, feature = "server"))]
mod refusals;

use std::collections::TryReserveError;

use bytes::Bytes;

use super::backlog::Backlog;
use super::boxed::Boxed;
use super::guard::guarded;
use super::handshake::{Handshake, saturating_u32};
use super::proxy::Header;
use super::{CloseReason, Config, Handler, Peer, Reply, State, Upper, Wants};
use crate::python::{Call, Monotonic};
use mutual::Mutual;
#[cfg(feature = "server")]
pub(crate) use parked::{Head, Parked};

/// One connection from its challenge to its end, without a socket. The owner of the socket asks
/// what the connection [`wants`](Self::wants), makes that call, and reports the kernel's result.
///
/// ```text
///                                    no header, end of stream, timeout, error
///       AwaitHeader ────────────────────────────────────────────────┐
///            │ complete header of a balancer                        │
///            ▼       wrong digest, end of stream, timeout, error    │
///       AwaitDigest ───────────────────────────────────────────────▶│
///            │ right digest                                         │
///            ▼           end of stream, error, sendall timed out    ▼
///   ┌──▶ Echoing ───────────────────────────────────────────────▶ Closed
///   └─ recv, sendall │ handler closes, idle timeout, drain          ▲
///                    ▼                                              │
///                Finishing ──shutdown(SHUT_WR)──▶ Lingering ────────┘
///                                       end of stream, enough read, timeout, error
/// ```
///
/// Only a connection [behind a proxy](Self::behind_proxy) begins in `AwaitHeader`.
///
/// `Finishing` and `Lingering` exist because a `close()` with unread input makes the kernel send a
/// reset, which destroys answers that the peer has not read yet. The connection therefore ends its
/// own stream first, then reads and discards the peer's.
///
/// Every input takes the time as an argument. Inputs to a closed connection change nothing: its
/// [`CloseReason`] is final.
///
/// ```
/// use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
/// use saltecho::proto::{CloseReason, Config, Connection, Upper, Wants};
/// use saltecho::python::Monotonic;
///
/// let (config, now) = (Config::new(Keyring::demo()), Monotonic::ZERO);
/// let challenge = Challenge::new([7; 32]); // In service: from the system's random source.
/// let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge);
/// let mut connection = Connection::new(&config, challenge, Upper, now);
///
/// // A send of the challenge; the kernel takes it all.
/// assert_eq!(connection.wants(&config), Wants::Send);
/// connection.handle_sent(&config, connection.chunk().len(), now);
///
/// // A recv that brings the digest and a message; the kernel takes two bytes of the answer.
/// assert!(matches!(connection.wants(&config), Wants::Recv { .. }));
/// let mut received = [digest.as_bytes(), b"hello"].concat();
/// let reply = connection.handle_recv(&config, &mut received, now);
/// assert_eq!(reply.bytes(), b"HELLO");
/// reply.sent(2);
///
/// // A send of the rest, then the end of the peer's stream.
/// assert_eq!((connection.wants(&config), connection.chunk()), (Wants::Send, &b"LLO"[..]));
/// connection.handle_sent(&config, 3, now);
/// connection.handle_eof();
/// assert_eq!(connection.close_reason(), Some(CloseReason::PeerFinished));
/// ```
#[derive(Debug)]
pub struct Connection<H = Upper> {
    stage: Stage,
    /// The call in progress; its deadline is the only one.
    call: Call,
    handler: H,
}

/// Two words beside the handler: every connection of a crowd has one of these.
const _: () = assert!(size_of::<Connection<Upper>>() <= 24);

/// A stage owns only what it needs; the memory of the handshake is freed with its stage.
#[derive(Debug)]
enum Stage {
    AwaitDigest(Box<Handshake>),
    Mutual(Box<Mutual>),
    Echoing(Option<Boxed<Backlog>>),
    Finishing(CloseReason),
    Lingering { reason: CloseReason, bytes_left: u32 },
    Closed { reason: CloseReason, authenticated: bool, unanswered: bool, undelivered: u32 },
}

impl Stage {
    /// The next call in a stage beside the echo. Not inlined, so that a message, which asks twice, finds its
    /// answer without a table of jumps.
    #[inline(never)]
    fn wants(&self, recv: Wants) -> Wants {
        match self {
            Self::AwaitDigest(handshake) if !handshake.unsent().is_empty() => Wants::Send,
            Self::Mutual(mutual) if !mutual.handshake.unsent().is_empty() => Wants::Send,
            Self::AwaitDigest(_) | Self::Mutual(_) | Self::Echoing(_) | Self::Lingering { .. } => {
                recv
            }
            Stage::Finishing(_) => Wants::Shutdown,
            Self::Closed { .. } => Wants::Nothing,
        }
    }
}

impl<H: Handler> Connection<H> {
    /// The PROXY header, from its last byte until authentication.
    pub fn header(&self) -> Option<&Header> {
        match &self.stage {
            Stage::AwaitDigest(handshake) => handshake.header(),
            Stage::Mutual(mutual) => mutual.header.as_ref(),
            Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => None,
        }
    }

    /// The current state.
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::AwaitDigest(handshake) if handshake.awaits_header() => State::AwaitHeader,
            Stage::AwaitDigest(_) | Stage::Mutual(_) => State::AwaitDigest,
            Stage::Echoing(_) => State::Echoing,
            Stage::Finishing(_) => State::Finishing,
            Stage::Lingering { .. } => State::Lingering,
            Stage::Closed { reason, .. } => State::Closed(*reason),
        }
    }

    /// The next call to make on the socket.
    ///
    /// `recv` asks for a full buffer even while only a digest is missing: bytes behind it are
    /// answered in the same step, which saves each connection one system call in ten.
    #[must_use]
    pub fn wants(&self, config: &Config) -> Wants {
        let recv = Wants::Recv { limit: config.recv_size };
        match &self.stage {
            Stage::Echoing(None) => recv,
            Stage::Echoing(Some(_)) => Wants::Send,
            other => other.wants(recv),
        }
    }

    /// Returns true in a `recv` of an authenticated peer.
    #[inline]
    pub(crate) const fn is_receiving(&self) -> bool {
        matches!(self.stage, Stage::Echoing(None))
    }

    /// Unsent bytes of the `sendall` in progress; empty during any other call.
    pub fn chunk(&self) -> &[u8] {
        match &self.stage {
            Stage::AwaitDigest(handshake) => handshake.unsent(),
            Stage::Mutual(mutual) => mutual.handshake.unsent(),
            Stage::Echoing(Some(backlog)) => backlog.chunk(),
            Stage::Echoing(None)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => &[],
        }
    }

    /// The reason for the end; `None` while the connection is open.
    pub const fn close_reason(&self) -> Option<CloseReason> {
        match &self.stage {
            Stage::Closed { reason, .. } => Some(*reason),
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. } => None,
        }
    }

    /// Returns true after a panic of the handler: an answer is missing. Then, or if bytes are
    /// [undelivered](Self::undelivered), reset the socket: after an orderly end the peer would take
    /// a part of the answers for all of them.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        matches!(self.stage, Stage::Closed { unanswered: true, .. })
    }

    /// Returns true once the digest was right, also after the end.
    pub const fn has_authenticated(&self) -> bool {
        match &self.stage {
            Stage::AwaitDigest(_) | Stage::Mutual(_) => false,
            Stage::Echoing(_) | Stage::Finishing(_) | Stage::Lingering { .. } => true,
            Stage::Closed { authenticated, .. } => *authenticated,
        }
    }

    /// Bytes of answers and pushed messages that were unsent when the connection ended.
    pub fn undelivered(&self) -> usize {
        match &self.stage {
            Stage::Closed { undelivered, .. } => *undelivered as usize,
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. } => 0,
        }
    }

    /// The time at which to call [`handle_timeout`](Self::handle_timeout); `None` for never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match &self.stage {
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Echoing(_)
            | Stage::Lingering { .. } => self.call.deadline(),
            Stage::Finishing(_) | Stage::Closed { .. } => None,
        }
    }

    /// Handles the bytes of one `recv` (at least one) and returns the answer.
    ///
    /// The segmentation does not matter: the digest may come in pieces, or with input behind it.
    ///
    /// # Panics
    /// If the connection did not want to receive. That is a bug of the caller: the bytes of two
    /// answers would be sent in the wrong order.
    #[inline]
    pub fn handle_recv<'a>(
        &'a mut self,
        config: &'a Config,
        data: &'a mut [u8],
        now: Monotonic,
    ) -> Reply<'a, H> {
        debug_assert!(!data.is_empty(), "an empty recv is the end of the stream");
        if self.is_receiving() {
            self.answer(config, data, now, None)
        } else {
            self.recv_beside_echo(config, data, now)
        }
    }

    /// Passes a message to the handler.
    #[inline]
    fn answer<'a>(
        &'a mut self,
        config: &'a Config,
        input: &'a mut [u8],
        now: Monotonic,
        key: Option<u8>,
    ) -> Reply<'a, H> {
        match guarded(|| self.handler.handle(input)) {
            Some(answer) => Reply::new(self, config, now, key, input, answer),
            None => {
                self.end_unanswered();
                Reply::empty(self, config, now, key)
            }
        }
    }

    /// Not inlined, so that a message does not prepare for this.
    #[inline(never)]
    fn recv_beside_echo<'a>(
        &'a mut self,
        config: &'a Config,
        data: &'a mut [u8],
        now: Monotonic,
    ) -> Reply<'a, H> {
        match &mut self.stage {
            Stage::AwaitDigest(handshake) if handshake.awaits_header() => {
                self.take_header(config, data, now);
                Reply::empty(self, config, now, None)
            }
            Stage::AwaitDigest(_) => self.recv_digest(config, data, now),
            Stage::Mutual(_) => self.recv_mutual(config, data, now),
            Stage::Echoing(Some(_)) => panic!("received while a sendall is unfinished"),
            Stage::Lingering { reason, bytes_left } => {
                *bytes_left = bytes_left.saturating_sub(saturating_u32(data.len()));
                if *bytes_left == 0 {
                    let reason = *reason;
                    self.end(reason);
                }
                Reply::empty(self, config, now, None)
            }
            Stage::Echoing(None) | Stage::Finishing(_) | Stage::Closed { .. } => {
                Reply::empty(self, config, now, None)
            }
        }
    }

    /// Takes bytes of the digest, and answers what is behind it.
    fn recv_digest<'a>(
        &'a mut self,
        config: &'a Config,
        data: &'a mut [u8],
        now: Monotonic,
    ) -> Reply<'a, H> {
        let Stage::AwaitDigest(handshake) = &mut self.stage else {
            return Reply::empty(self, config, now, None);
        };
        assert!(handshake.unsent().is_empty(), "received before the challenge was sent");
        let taken = handshake.take(data, config.keyring.algorithm().digest_len());
        let behind = &mut data[taken..];
        let key = match handshake.verify(config) {
            None => return Reply::empty(self, config, now, None),
            Some(None) => {
                self.end(CloseReason::Rejected);
                return Reply::empty(self, config, now, None);
            }
            Some(key) => key,
        };
        let peer = handshake.peer;
        self.recv_again(config, now);
        self.enter_conversation(&peer);
        if !behind.is_empty() && matches!(self.stage, Stage::Echoing(None)) {
            self.answer(config, behind, now, key)
        } else {
            Reply::empty(self, config, now, key)
        }
    }

    /// Tells the handler of the peer, now that its handshake has succeeded.
    fn enter_conversation(&mut self, peer: &Peer) {
        if guarded(|| self.handler.opened(peer)).is_none() {
            self.end_unanswered();
        }
    }

    /// Reports that the kernel took the first `n` bytes of [`chunk`](Self::chunk).
    pub fn handle_sent(&mut self, config: &Config, n: usize, now: Monotonic) {
        debug_assert!(n <= self.chunk().len(), "more bytes sent than were offered");
        match &mut self.stage {
            Stage::AwaitDigest(handshake) => {
                handshake.advance(n);
                if handshake.unsent().is_empty() && handshake.is_complete(config) {
                    self.end(CloseReason::Rejected);
                }
            }
            Stage::Mutual(mutual) => {
                if let Some(reason) = mutual.sent(n) {
                    self.end(reason);
                }
            }
            Stage::Echoing(Some(backlog)) => {
                if backlog.advance(n) {
                    let then_close = backlog.then_close;
                    match backlog.next() {
                        true => self.call = Call::within(config.send_timeout, now),
                        false => self.sendall_done(config, then_close, now),
                    }
                }
            }
            Stage::Echoing(None)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => {}
        }
    }

    /// Sends `message` in a `sendall` of its own between two `recv`, after all unsent bytes. Nothing
    /// is read before the kernel has taken it; the next `recv` then starts with its full time.
    ///
    /// Returns false, and drops the message, if the connection is unauthenticated, finishing or
    /// closed. A message longer than [`Config::max_answer`] also closes the connection, in an
    /// orderly way; if more than that many bytes would wait, the connection ends with
    /// [`CloseReason::FellBehind`]. So a peer that stays connected gets every accepted message, in
    /// order.
    pub fn push(&mut self, config: &Config, message: Bytes, now: Monotonic) -> bool {
        let limit = config.max_answer;
        match &mut self.stage {
            Stage::Echoing(_) if message.is_empty() => true,
            Stage::Echoing(_) if message.len() > limit => {
                self.close(CloseReason::AnswerTooLong);
                false
            }
            Stage::Echoing(None) => {
                let len = message.len();
                self.begin_sendall(config, Backlog::new(message, None), len, now)
            }
            Stage::Echoing(Some(backlog)) if backlog.then_close.is_none() => {
                let taken = backlog.push(message, limit);
                if !taken {
                    self.end(CloseReason::FellBehind);
                }
                taken
            }
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Echoing(Some(_))
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => false,
        }
    }

    /// Reports that `shutdown(SHUT_WR)` was called. Its result does not matter: it fails if the
    /// peer is gone, and then the next `recv` fails too.
    pub fn handle_shutdown(&mut self, config: &Config, now: Monotonic) {
        if let Stage::Finishing(reason) = self.stage {
            self.call = Call::within(config.linger_timeout, now);
            self.stage = Stage::Lingering { reason, bytes_left: config.linger_bytes };
        }
    }

    /// Unsent bytes of answers and pushed messages.
    #[cfg(feature = "server")]
    pub(crate) fn unsent(&self) -> usize {
        match &self.stage {
            Stage::Echoing(Some(backlog)) => backlog.len(),
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Echoing(None)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => 0,
        }
    }

    /// The reason for which the connection is finishing.
    pub(super) const fn finishing(&self) -> Option<CloseReason> {
        match &self.stage {
            Stage::Finishing(reason) => Some(*reason),
            Stage::AwaitDigest(_)
            | Stage::Mutual(_)
            | Stage::Echoing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => None,
        }
    }

    fn recv_again(&mut self, config: &Config, now: Monotonic) {
        self.stage = Stage::Echoing(None);
        self.call = Call::within(config.idle_timeout, now);
    }

    /// Receives again after an answer that the kernel took at once, or closes in an orderly way. A
    /// stage that stays as it is has no destructor to prepare for.
    #[inline(always)] // As `Reply::sent`, which calls it.
    pub(super) fn answered(
        &mut self,
        config: &Config,
        then_close: Option<CloseReason>,
        now: Monotonic,
    ) {
        debug_assert!(self.is_receiving() || then_close.is_some(), "an answer beside a recv");
        match then_close {
            None => self.call = Call::within(config.idle_timeout, now),
            Some(reason) => self.finish(reason),
        }
    }

    #[cold]
    #[inline(never)]
    fn finish(&mut self, reason: CloseReason) {
        self.stage = Stage::Finishing(reason);
    }

    /// Starts a `sendall` of the backlog. Returns false, and ends the connection, if there was no
    /// memory for its `len` bytes.
    pub(super) fn begin_sendall(
        &mut self,
        config: &Config,
        backlog: Result<Boxed<Backlog>, TryReserveError>,
        len: usize,
        now: Monotonic,
    ) -> bool {
        self.call = Call::within(config.send_timeout, now);
        let has_memory = backlog.is_ok();
        self.stage = match backlog {
            Ok(backlog) => Stage::Echoing(Some(backlog)),
            Err(_) => Stage::Closed {
                reason: CloseReason::OutOfMemory,
                authenticated: true,
                unanswered: true,
                undelivered: saturating_u32(len),
            },
        };
        has_memory
    }

    /// The same after a `sendall` that took longer.
    fn sendall_done(&mut self, config: &Config, then_close: Option<CloseReason>, now: Monotonic) {
        match then_close {
            None => self.recv_again(config, now),
            Some(reason) => self.finish(reason),
        }
    }
}
