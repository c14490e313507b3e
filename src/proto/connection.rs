use std::collections::TryReserveError;
use std::io;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::backlog::Backlog;
use super::boxed::Boxed;
use super::config::waits;
use super::guard::guarded;
use super::{Answer, CloseReason, Config, Handler, Peer, Upper};
use crate::auth::{Challenge, Digest};
use crate::python::{Call, Monotonic};

/// One connection from its challenge to its end. Not a socket: whoever owns the socket asks what
/// the connection [`wants`](Self::wants), tries that, and reports what the kernel said.
///
/// ```text
///                    wrong digest, end of stream, time-out, error
///       AwaitDigest ────────────────────────────────────────────────┐
///            │ right digest                                         │
///            ▼           end of stream, error, sendall timed out    ▼
///   ┌──▶ Echoing ───────────────────────────────────────────────▶ Closed
///   └─ recv, sendall │ handler closes, idle time-out, drain         ▲
///                    ▼                                              │
///                Finishing ──shutdown(SHUT_WR)──▶ Lingering ────────┘
///                                       end of stream, enough read, time-out, error
/// ```
///
/// `Finishing` and `Lingering` are there because a `close()` with unread input makes the kernel
/// send a reset, which destroys answers that the peer has not read yet. The connection therefore
/// ends its own stream first and reads the peer's away.
///
/// Every input takes the time as an argument. Inputs that come for a connection that is already
/// closed change nothing: its [`CloseReason`] is final.
#[derive(Debug)]
pub struct Connection<H = Upper> {
    stage: Stage,
    /// The call in progress, which has the only deadline.
    call: Call,
    handler: H,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The challenge is being sent, or its digest is awaited.
    AwaitDigest,
    /// Authenticated: in `recv`, or in the `sendall` of an answer.
    Echoing,
    /// Nothing more will be sent, and the peer has yet to be told so.
    Finishing,
    /// Our stream has ended; the peer's is being read away.
    Lingering,
    /// Over.
    Closed(CloseReason),
}

/// The one thing that a connection wants from its socket; derived from its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// `recv(limit)`.
    Recv {
        /// The most bytes to receive, at least 1.
        limit: usize,
    },
    /// `send` of [`Connection::chunk`].
    Send,
    /// `shutdown(SHUT_WR)`.
    Shutdown,
    /// Nothing, ever again: the socket can be closed.
    Nothing,
}

/// Each stage owns what it needs and nothing else; the handshake's memory goes with the stage.
#[derive(Debug)]
enum Stage {
    AwaitDigest(Box<Handshake>),
    Echoing(Option<Boxed<Backlog>>),
    Finishing(CloseReason),
    Lingering { reason: CloseReason, bytes_left: u32 },
    Closed { reason: CloseReason, authenticated: bool, unanswered: bool, owed: u32 },
}

/// At most 120 bytes: glibc keeps blocks of that size at hand, and longer ones cost twice as much.
struct Handshake {
    challenge: Challenge,
    digest: Zeroizing<[u8; Digest::MAX_LEN]>,
    peer: Peer,
    sent: u32,
    received: u32,
}

impl<H: Handler> Connection<H> {
    /// A connection that was accepted at `now` and will be asked this challenge.
    pub fn new(config: &Config, challenge: Challenge, handler: H, now: Monotonic) -> Self {
        let handshake = Handshake {
            challenge,
            digest: Zeroizing::new([0; Digest::MAX_LEN]),
            peer: Peer::default(),
            sent: 0,
            received: 0,
        };
        Self {
            stage: Stage::AwaitDigest(Box::new(handshake)),
            call: Call::begin(waits(config.auth_timeout), now),
            handler,
        }
    }

    /// Says who the client is, which its handler is told once the digest was right.
    pub const fn introduce(&mut self, peer: Peer) {
        if let Stage::AwaitDigest(handshake) = &mut self.stage {
            handshake.peer = peer;
        }
    }

    /// Where the connection is in its life.
    pub const fn state(&self) -> State {
        match &self.stage {
            Stage::AwaitDigest(_) => State::AwaitDigest,
            Stage::Echoing(_) => State::Echoing,
            Stage::Finishing(_) => State::Finishing,
            Stage::Lingering { .. } => State::Lingering,
            Stage::Closed { reason, .. } => State::Closed(*reason),
        }
    }

    /// What to try on the socket next.
    ///
    /// `recv` asks for a full buffer even when only a digest is due: the bytes behind it are
    /// answered in the same step, which saves each connection one system call in ten.
    pub fn wants(&self, config: &Config) -> Wants {
        let recv = Wants::Recv { limit: config.recv_size };
        match &self.stage {
            Stage::AwaitDigest(handshake) if !handshake.unsent().is_empty() => Wants::Send,
            Stage::AwaitDigest(_) | Stage::Echoing(None) | Stage::Lingering { .. } => recv,
            Stage::Echoing(Some(_)) => Wants::Send,
            Stage::Finishing(_) => Wants::Shutdown,
            Stage::Closed { .. } => Wants::Nothing,
        }
    }

    /// The bytes that the call in progress has yet to send; empty unless it is a `sendall`.
    pub fn chunk(&self) -> &[u8] {
        match &self.stage {
            Stage::AwaitDigest(handshake) => handshake.unsent(),
            Stage::Echoing(Some(backlog)) => backlog.chunk(),
            Stage::Echoing(None)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => &[],
        }
    }

    /// Why the connection ended, once it has.
    pub const fn close_reason(&self) -> Option<CloseReason> {
        match &self.stage {
            Stage::Closed { reason, .. } => Some(*reason),
            Stage::AwaitDigest(_)
            | Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. } => None,
        }
    }

    /// Whether the connection ended by a panic of its handler, so that an answer is missing. Then,
    /// or if bytes are [undelivered](Self::undelivered), its socket should be reset: an orderly
    /// end would pass off a part as the whole.
    pub const fn is_unanswered(&self) -> bool {
        matches!(self.stage, Stage::Closed { unanswered: true, .. })
    }

    /// Whether the digest was right, also after the end.
    pub const fn has_authenticated(&self) -> bool {
        match &self.stage {
            Stage::AwaitDigest(_) => false,
            Stage::Echoing(_) | Stage::Finishing(_) | Stage::Lingering { .. } => true,
            Stage::Closed { authenticated, .. } => *authenticated,
        }
    }

    /// How many bytes of an answer, or of pushed messages, the kernel had not taken when the
    /// connection ended.
    pub fn undelivered(&self) -> usize {
        match &self.stage {
            Stage::Closed { owed, .. } => *owed as usize,
            Stage::AwaitDigest(_)
            | Stage::Echoing(_)
            | Stage::Finishing(_)
            | Stage::Lingering { .. } => 0,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, if ever.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match &self.stage {
            Stage::AwaitDigest(_) | Stage::Echoing(_) | Stage::Lingering { .. } => {
                self.call.deadline()
            }
            Stage::Finishing(_) | Stage::Closed { .. } => None,
        }
    }

    /// Takes what one `recv` returned (at least one byte) and gives the answer that is due.
    ///
    /// The bytes may arrive in any segmentation: the digest in pieces, or with input behind it.
    ///
    /// # Panics
    /// If the connection did not want to receive: that is a bug of the caller, and the bytes of
    /// two answers would change places.
    pub fn handle_recv<'a>(
        &'a mut self,
        config: &'a Config,
        data: &'a mut [u8],
        now: Monotonic,
    ) -> Reply<'a, H> {
        debug_assert!(!data.is_empty(), "an empty recv is the end of the stream");
        let mut input = data;
        if let Stage::AwaitDigest(handshake) = &mut self.stage {
            assert!(handshake.unsent().is_empty(), "received before the challenge was sent");
            let taken = handshake.take(input, config.keyring.algorithm().digest_len());
            input = &mut input[taken..];
            match handshake.verdict(config) {
                None => {}
                Some(false) => self.end(CloseReason::Rejected),
                Some(true) => {
                    let peer = handshake.peer;
                    self.recv_again(config, now);
                    if guarded(|| self.handler.opened(&peer)).is_none() {
                        self.end_unanswered();
                    }
                }
            }
        }
        match &mut self.stage {
            Stage::Echoing(None) if !input.is_empty() => {
                match guarded(|| self.handler.handle(input)) {
                    Some(answer) => self.reply(config, now, input, answer),
                    None => {
                        self.end_unanswered();
                        self.no_reply(config, now)
                    }
                }
            }
            Stage::Echoing(Some(_)) => panic!("received while a sendall is unfinished"),
            Stage::Lingering { reason, bytes_left } => {
                *bytes_left = bytes_left.saturating_sub(saturating_u32(input.len()));
                if *bytes_left == 0 {
                    let reason = *reason;
                    self.end(reason);
                }
                self.no_reply(config, now)
            }
            Stage::AwaitDigest(_)
            | Stage::Echoing(None)
            | Stage::Finishing(_)
            | Stage::Closed { .. } => self.no_reply(config, now),
        }
    }

    /// The kernel took the first `n` bytes of [`chunk`](Self::chunk).
    pub fn handle_sent(&mut self, config: &Config, n: usize, now: Monotonic) {
        debug_assert!(n <= self.chunk().len(), "more sent than there was");
        match &mut self.stage {
            Stage::AwaitDigest(handshake) => handshake.sent += saturating_u32(n),
            Stage::Echoing(Some(backlog)) => {
                if backlog.advance(n) {
                    let then_close = backlog.then_close;
                    match backlog.next() {
                        true => self.call = Call::begin(waits(config.send_timeout), now),
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

    /// Sends `message` unasked, in a `sendall` between two `recv`: after whatever is unsent, and
    /// nothing is read before it is handed over. The next `recv` then has its whole time.
    ///
    /// False, and the message is dropped, if the connection has not authenticated, is about to end
    /// or over. It also ends for a message longer than [`Config::max_answer`], in an orderly way,
    /// and with [`CloseReason::FellBehind`] if that many bytes would wait: so a peer that stays
    /// has been sent everything that was taken, in order.
    pub fn push(&mut self, config: &Config, message: Bytes, now: Monotonic) -> bool {
        let limit = config.max_answer;
        match &mut self.stage {
            Stage::Echoing(_) if message.is_empty() => true,
            Stage::Echoing(_) if message.len() > limit => {
                self.close(CloseReason::AnswerTooLong);
                false
            }
            Stage::Echoing(None) => {
                let Ok(backlog) = Backlog::new(message, None) else {
                    self.end(CloseReason::OutOfMemory);
                    return false;
                };
                self.call = Call::begin(waits(config.send_timeout), now);
                self.stage = Stage::Echoing(Some(backlog));
                true
            }
            Stage::Echoing(Some(backlog)) if backlog.then_close.is_none() => {
                let taken = backlog.push(message, limit);
                if !taken {
                    self.end(CloseReason::FellBehind);
                }
                taken
            }
            Stage::AwaitDigest(_)
            | Stage::Echoing(Some(_))
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => false,
        }
    }

    /// `shutdown(SHUT_WR)` was done. That it failed does not matter: then the peer is gone, and
    /// the next `recv` says so.
    pub fn handle_shutdown(&mut self, config: &Config, now: Monotonic) {
        if let Stage::Finishing(reason) = self.stage {
            self.call = Call::begin(waits(config.linger_timeout), now);
            self.stage = Stage::Lingering { reason, bytes_left: config.linger_bytes };
        }
    }

    /// `recv` returned nothing: the peer has ended its stream.
    pub fn handle_eof(&mut self) {
        self.end(match &self.stage {
            Stage::AwaitDigest(_) => CloseReason::AuthAbandoned,
            Stage::Echoing(_) => CloseReason::PeerFinished,
            Stage::Finishing(reason)
            | Stage::Lingering { reason, .. }
            | Stage::Closed { reason, .. } => *reason,
        });
    }

    /// A call failed for good: neither would-block nor interrupted.
    pub fn handle_error(&mut self, kind: io::ErrorKind) {
        self.end(match &self.stage {
            Stage::AwaitDigest(_) | Stage::Echoing(_) => match kind {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => CloseReason::Reset,
                _ => CloseReason::TransportError,
            },
            // Nothing was owed any more: how the peer left changes nothing about why we did.
            Stage::Finishing(reason)
            | Stage::Lingering { reason, .. }
            | Stage::Closed { reason, .. } => *reason,
        });
    }

    /// A timer fired. Nothing happens unless the call in progress is late: timers are hints, and
    /// an early one only costs this comparison.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        if !self.call.is_late(now) {
            return;
        }
        match &self.stage {
            Stage::AwaitDigest(_) => self.end(CloseReason::AuthTimeout),
            Stage::Echoing(None) => self.stage = Stage::Finishing(CloseReason::IdleTimeout),
            Stage::Echoing(Some(_)) => self.end(CloseReason::SendTimeout),
            Stage::Lingering { reason, .. } => self.end(*reason),
            Stage::Finishing(_) | Stage::Closed { .. } => {}
        }
    }

    /// Ends the connection in an orderly way: an unfinished `sendall` is finished first, and those
    /// of messages that were pushed before. One that
    /// has not authenticated is owed nothing and ends at once.
    pub fn close(&mut self, reason: CloseReason) {
        match &mut self.stage {
            Stage::AwaitDigest(_) => self.end(reason),
            Stage::Echoing(None) => self.stage = Stage::Finishing(reason),
            Stage::Echoing(Some(backlog)) => {
                backlog.then_close.get_or_insert(reason);
            }
            Stage::Finishing(_) | Stage::Lingering { .. } | Stage::Closed { .. } => {}
        }
    }

    /// Ends the connection at once; see [`undelivered`](Self::undelivered) for what that cost.
    /// One that was about to end, and had been given everything, keeps its own reason.
    pub fn abort(&mut self, reason: CloseReason) {
        self.end(match &self.stage {
            Stage::AwaitDigest(_) | Stage::Echoing(_) => reason,
            Stage::Finishing(reason)
            | Stage::Lingering { reason, .. }
            | Stage::Closed { reason, .. } => *reason,
        });
    }

    /// The only way into `Closed`, and there is none out.
    fn end(&mut self, reason: CloseReason) {
        let (authenticated, owed) = match &self.stage {
            Stage::AwaitDigest(_) => (false, 0),
            Stage::Echoing(Some(backlog)) => (true, saturating_u32(backlog.len())),
            Stage::Echoing(None) | Stage::Finishing(_) | Stage::Lingering { .. } => (true, 0),
            Stage::Closed { .. } => return,
        };
        let told = !authenticated || guarded(|| self.handler.closed(reason)).is_some();
        let reason = if told { reason } else { CloseReason::HandlerPanicked };
        self.stage = Stage::Closed { reason, authenticated, unanswered: false, owed };
    }

    /// The handler panicked, and the answer to what was received will never be known.
    fn end_unanswered(&mut self) {
        self.end(CloseReason::HandlerPanicked);
        if let Stage::Closed { unanswered, .. } = &mut self.stage {
            *unanswered = true;
        }
    }

    /// Bytes of answers and pushed messages that the kernel has not taken.
    #[cfg(feature = "server")]
    pub(crate) fn unsent(&self) -> usize {
        match &self.stage {
            Stage::Echoing(Some(backlog)) => backlog.len(),
            Stage::AwaitDigest(_)
            | Stage::Echoing(None)
            | Stage::Finishing(_)
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => 0,
        }
    }

    fn recv_again(&mut self, config: &Config, now: Monotonic) {
        self.stage = Stage::Echoing(None);
        self.call = Call::begin(waits(config.recv_timeout), now);
    }

    fn sendall_done(&mut self, config: &Config, then_close: Option<CloseReason>, now: Monotonic) {
        match then_close {
            None => self.recv_again(config, now),
            Some(reason) => self.stage = Stage::Finishing(reason),
        }
    }

    fn no_reply<'a>(&'a mut self, config: &'a Config, now: Monotonic) -> Reply<'a, H> {
        Reply { connection: self, config, now, bytes: ReplyBytes::InPlace(&[]), then_close: None }
    }

    fn reply<'a>(
        &'a mut self,
        config: &'a Config,
        now: Monotonic,
        data: &'a [u8],
        answer: Answer,
    ) -> Reply<'a, H> {
        let (mut bytes, mut then_close) = match answer {
            Answer::InPlace => (ReplyBytes::InPlace(data), None),
            Answer::Nothing => (ReplyBytes::InPlace(&[]), None),
            Answer::Bytes(bytes) => (ReplyBytes::Owned(bytes), None),
            Answer::Close(bytes) => (ReplyBytes::Owned(bytes), Some(CloseReason::HandlerClosed)),
        };
        if bytes.as_slice().len() > config.max_answer {
            (bytes, then_close) = (ReplyBytes::InPlace(&[]), Some(CloseReason::AnswerTooLong));
        }
        if bytes.as_slice().is_empty() {
            self.sendall_done(config, then_close, now);
        }
        Reply { connection: self, config, now, bytes, then_close }
    }
}

impl Handshake {
    /// The part of the challenge that has yet to be sent.
    fn unsent(&self) -> &[u8] {
        &self.challenge.as_bytes()[self.sent as usize..]
    }

    /// Copies the part of `input` that belongs to the digest; returns its length.
    ///
    /// A keyring that came in the meantime may ask for fewer bytes than are here already.
    fn take(&mut self, input: &[u8], digest_len: usize) -> usize {
        let received = self.received as usize;
        let taken = input.len().min(digest_len.saturating_sub(received));
        self.digest[received..received + taken].copy_from_slice(&input[..taken]);
        self.received += saturating_u32(taken);
        taken
    }

    /// Whether the digest is right; `None` until its last byte is there, because only then may
    /// the work of a MAC be spent on a stranger.
    fn verdict(&self, config: &Config) -> Option<bool> {
        let received = self.received as usize;
        let complete = received >= config.keyring.algorithm().digest_len();
        complete.then(|| config.keyring.verify(&self.challenge, &self.digest[..received]))
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handshake {{ sent: {}, received: {} }}", self.sent, self.received)
    }
}

/// The answer to one `recv`, offered to the kernel before anything is copied.
///
/// Report with [`sent`](Self::sent) how much of it went out; the rest moves to the connection's
/// backlog. A reply that is dropped unreported was not sent at all, and moves there as a whole:
/// it cannot get lost.
#[must_use = "the reply should be offered to the socket, then reported with `sent`"]
pub struct Reply<'a, H: Handler> {
    connection: &'a mut Connection<H>,
    config: &'a Config,
    now: Monotonic,
    bytes: ReplyBytes<'a>,
    then_close: Option<CloseReason>,
}

enum ReplyBytes<'a> {
    InPlace(&'a [u8]),
    Owned(Bytes),
}

impl ReplyBytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::InPlace(data) => data,
            Self::Owned(bytes) => bytes,
        }
    }

    /// What is left after the first `n` bytes; copied only if it lies in the caller's buffer.
    fn split_off(&mut self, n: usize) -> Result<Bytes, TryReserveError> {
        match std::mem::replace(self, Self::InPlace(&[])) {
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

impl<H: Handler> Reply<'_, H> {
    /// The bytes to send; empty if no answer is due.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The kernel took the first `n` bytes: all, some, or (it would block) none.
    pub fn sent(mut self, n: usize) {
        self.settle(n);
    }

    fn settle(&mut self, n: usize) {
        let len = self.bytes().len();
        debug_assert!(n <= len, "more sent than there was");
        if len == 0 {
            return;
        }
        if n == len {
            self.bytes = ReplyBytes::InPlace(&[]);
            self.connection.sendall_done(self.config, self.then_close, self.now);
        } else {
            let rest = self.bytes.split_off(n);
            let backlog = rest.and_then(|rest| Backlog::new(rest, self.then_close));
            self.connection.call = Call::begin(waits(self.config.send_timeout), self.now);
            self.connection.stage = match backlog {
                Ok(backlog) => Stage::Echoing(Some(backlog)),
                Err(_) => Stage::Closed {
                    reason: CloseReason::OutOfMemory,
                    authenticated: true,
                    unanswered: true,
                    owed: saturating_u32(len - n),
                },
            };
        }
    }
}

impl<H: Handler> Drop for Reply<'_, H> {
    fn drop(&mut self) {
        self.settle(0);
    }
}

fn saturating_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Every connection of a crowd carries one of these: two words beside its handler's state.
const _: () = assert!(size_of::<Connection<Upper>>() <= 24);
const _: () = assert!(size_of::<Handshake>() <= 120);
