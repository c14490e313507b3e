use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::pattern::{Pattern, Start};
use super::proof::Proof;
use super::{ErrorKind, Mode, Plan};
use crate::auth::Keyring;
use crate::proto::{HandshakeError, MutualHandshake, Protocol, Responder, Role};
use crate::python::Monotonic;

/// The data that all sessions of a load share.
pub(super) struct Terms {
    pub(super) plan: Plan,
    pub(super) pattern: Pattern,
    /// The plan's key, for a mutual handshake.
    keyring: Keyring,
}

impl Terms {
    pub(super) fn new(plan: Plan) -> Self {
        let is_framed = plan.protocol == Protocol::Multiprocessing;
        let frames = is_framed.then_some(plan.size.largest() as u64);
        let pattern = Pattern::new(plan.seed, plan.upper, frames);
        Self { keyring: Keyring::single(plan.algorithm, &plan.key), pattern, plan }
    }

    /// Time limit for an echo. Idle connections always have one: it detects those that are lost.
    pub(super) fn echo_timeout(&self) -> Option<Duration> {
        self.plan.timeout.or((self.plan.mode == Mode::Idle).then_some(Proof::PATIENCE))
    }

    /// Bytes of a message of the stream that begins there, with its header if it has one.
    fn size(&self, start: Start, message: u64) -> u64 {
        self.plan.size.of(self.plan.seed, start.as_u64(), message) + self.pattern.header_len()
    }
}

/// One connection from the client's side, without I/O: authenticates with a probe, then sends the
/// messages that are due and verifies every byte of their answers. Not bound to any pace: how many
/// messages may have been sent by now is an argument.
///
/// Message 0 is the probe. The messages are consecutive cuts of one stream (see [`Pattern`]), and
/// so are their answers, so two positions and the ends of two messages tell which of them are in
/// flight.
pub(super) struct Session {
    stage: Stage,
    start: Start,
    /// The number of a connection, which is its place among the active ones, or of a cycle.
    pub(super) number: u64,
    /// When `connect()` was called.
    pub(super) dialed: Monotonic,
    /// Delay since it could have been called.
    pub(super) late: Duration,
    /// When the connection was established, or, at the end, when our stream ended.
    pub(super) since: Monotonic,
    /// Number of messages due, the probe included.
    pub(super) due: u64,
    sent: u64,
    received: u64,
    answered: u64,
    /// Where the last message that was begun ends.
    begun_end: u64,
    /// Where the first message that is not answered ends.
    answer_end: u64,
    /// The end of a pause before the next message.
    pause_ends: Option<Monotonic>,
    /// Messages in flight, oldest first.
    begun: VecDeque<Begun>,
    /// When the kernel last had room again for a message.
    room_since: Monotonic,
    /// True if the kernel had no room at the last attempt.
    blocked: bool,
}

enum Stage {
    Connecting,
    AwaitChallenge(Box<Responder>),
    Mutual(Box<MutualHandshake>),
    /// The last message of the handshake, and behind it as much of the probe as goes into the same `send`.
    Opening {
        bytes: Vec<u8>,
        handshake: usize,
        sent: usize,
    },
    Talking,
    /// Our stream has ended, the peer's end is awaited.
    Ending,
}

impl Stage {
    /// The last message of the handshake, and the probe behind it.
    fn open(terms: &Terms, start: Start, last: &[u8]) -> Self {
        let probe = terms.size(start, 0).min(OPENING);
        let mut buffer = Vec::new();
        let probe = terms.pattern.to_send(start, 0, probe, &mut buffer);
        Self::Opening { bytes: [last, probe].concat(), handshake: last.len(), sent: 0 }
    }
}

/// A message in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// When its first byte was sent.
    pub(super) at: Monotonic,
    /// Delay since it could have been sent.
    pub(super) late: Duration,
}

/// The end of the handshake and a probe of up to this many bytes go out together.
const OPENING: u64 = 16 << 10;

impl Session {
    pub(super) fn new(number: u64, seed: u64, now: Monotonic) -> Self {
        Self {
            stage: Stage::Connecting,
            start: Pattern::start(seed, number),
            number,
            dialed: now,
            late: Duration::ZERO,
            since: now,
            due: 1,
            sent: 0,
            received: 0,
            answered: 0,
            begun_end: 0,
            answer_end: 0,
            pause_ends: None,
            begun: VecDeque::new(),
            room_since: now,
            blocked: false,
        }
    }

    pub(super) const fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting)
    }

    pub(super) const fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending)
    }

    pub(super) const fn has_authenticated(&self) -> bool {
        self.answered > 0
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Returns true if anything of a message, were it the probe, has been sent.
    pub(super) const fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// The numbers of the messages that are due and not answered. The probe is none of them.
    pub(super) fn pending(&self) -> Range<u64> {
        let first = self.answered.max(1);
        first..self.due.max(first)
    }

    /// When each of the messages was sent that are sent and not answered.
    pub(super) fn under_way(&self) -> impl Iterator<Item = Monotonic> + '_ {
        // Before the first answer the oldest is the probe.
        let probes = usize::from(!self.has_authenticated());
        self.begun.iter().skip(probes).map(|begun| begun.at)
    }

    /// The connection stands. `random` is used as in [`Protocol::random_len`].
    pub(super) fn handle_connected(
        &mut self,
        terms: &Terms,
        random: [u8; Protocol::MAX_RANDOM],
        now: Monotonic,
    ) {
        self.stage = match terms.plan.protocol {
            Protocol::Tutorial => Stage::AwaitChallenge(Box::default()),
            Protocol::Multiprocessing => {
                let handshake = MutualHandshake::new(Role::Client, &terms.keyring, random);
                Stage::Mutual(Box::new(handshake))
            }
            Protocol::Plain => Stage::Talking,
        };
        self.answer_end = terms.size(self.start, 0);
        self.since = now;
    }

    /// The next message must wait until then.
    pub(super) const fn pause(&mut self, ends: Monotonic) {
        self.pause_ends = Some(ends);
    }

    pub(super) const fn is_pausing(&self) -> bool {
        self.pause_ends.is_some()
    }

    /// Ends a pause whose time has come; false if there is none.
    pub(super) fn end_pause(&mut self, now: Monotonic) -> bool {
        self.pause_ends.take_if(|ends| *ends <= now).is_some()
    }

    /// The stream was half-closed by us.
    pub(super) fn handle_ending(&mut self, now: Monotonic) {
        self.stage = Stage::Ending;
        self.since = now;
    }

    /// The bytes to send next, if `limit` messages may have been sent in all. The buffer is for
    /// messages that have to be put together.
    pub(super) fn chunk<'a>(
        &'a self,
        terms: &'a Terms,
        limit: u64,
        buffer: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        match &self.stage {
            Stage::Connecting | Stage::AwaitChallenge(_) | Stage::Ending => &[],
            Stage::Mutual(handshake) => handshake.unsent(),
            Stage::Opening { bytes, sent, .. } => &bytes[*sent..],
            Stage::Talking => {
                let allowed = limit.min(self.answered + terms.plan.in_flight as u64);
                let enough = self.sent + Pattern::MAX_SLICE as u64;
                let (mut number, mut until) = (self.number_begun(), self.begun_end);
                while number < allowed && until < enough {
                    until += terms.size(self.start, number);
                    number += 1;
                }
                terms.pattern.to_send(self.start, self.sent, until - self.sent, buffer)
            }
        }
    }

    fn number_begun(&self) -> u64 {
        self.answered + self.begun.len() as u64
    }

    /// The kernel has room again, if it had none.
    pub(super) const fn handle_room(&mut self, now: Monotonic) {
        if self.blocked {
            self.blocked = false;
            self.room_since = now;
        }
    }

    /// The kernel took `n` of the `offered` bytes of [`chunk`](Self::chunk). Returns the number of
    /// messages that this started. `due_at` is the time when a message was due, by its number.
    pub(super) fn handle_sent(
        &mut self,
        terms: &Terms,
        n: usize,
        offered: usize,
        now: Monotonic,
        due_at: impl Fn(u64) -> Option<Monotonic>,
    ) -> u64 {
        self.blocked = n < offered;
        match &mut self.stage {
            Stage::Opening { bytes, handshake, sent } => {
                *sent += n;
                self.sent = sent.saturating_sub(*handshake) as u64;
                if *sent == bytes.len() {
                    self.stage = Stage::Talking;
                }
            }
            Stage::Talking => self.sent += n as u64,
            Stage::Mutual(handshake) => handshake.handle_sent(n),
            Stage::Connecting | Stage::AwaitChallenge(_) | Stage::Ending => {}
        }
        let before = self.number_begun();
        let mut begun = before;
        while self.begun_end < self.sent {
            let possible = due_at(begun).map(|due| due.max(self.room_since));
            let late = possible.map_or(Duration::ZERO, |possible| now.since(possible));
            self.begun.push_back(Begun { at: now, late });
            self.begun_end += terms.size(self.start, begun);
            begun += 1;
        }
        self.due = self.due.max(begun);
        begun - before
    }

    /// Takes the bytes of one `recv`. Calls `on_answer` for each message that is complete.
    pub(super) fn handle_recv(
        &mut self,
        terms: &Terms,
        data: &[u8],
        now: Monotonic,
        mut on_answer: impl FnMut(u64, Begun),
    ) -> Result<(), ErrorKind> {
        match &mut self.stage {
            Stage::AwaitChallenge(responder) => {
                let taken = responder.handle_recv(data);
                if taken < data.len() {
                    return Err(ErrorKind::Mismatch);
                }
                if let Some(digest) = responder.digest(terms.plan.algorithm, &terms.plan.key) {
                    self.stage = Stage::open(terms, self.start, digest.as_bytes());
                }
                return Ok(());
            }
            Stage::Mutual(handshake) => {
                let taken = handshake.handle_recv(&terms.keyring, data);
                return match (handshake.error(), handshake.outcome()) {
                    (Some(HandshakeError::Refused), _) => Err(ErrorKind::Rejected),
                    (Some(_), _) => Err(ErrorKind::Mismatch),
                    (None, None) => Ok(()),
                    (None, Some(_)) if taken < data.len() => Err(ErrorKind::Mismatch),
                    (None, Some(_)) => {
                        self.stage = Stage::open(terms, self.start, handshake.unsent());
                        Ok(())
                    }
                };
            }
            Stage::Opening { .. } | Stage::Talking => {}
            Stage::Connecting | Stage::Ending => return Err(ErrorKind::Mismatch),
        }
        let received = self.received + data.len() as u64;
        if received > self.sent || !terms.pattern.is_answer(self.start, self.received, data) {
            return Err(ErrorKind::Mismatch);
        }
        self.received = received;
        while received >= self.answer_end {
            if self.begun.len() == terms.plan.in_flight {
                self.room_since = now;
            }
            let begun = self.begun.pop_front().expect("what was answered was sent");
            on_answer(self.answered, begun);
            self.answered += 1;
            self.answer_end += terms.size(self.start, self.answered);
        }
        Ok(())
    }

    /// Handles the end of the peer's stream. Returns its meaning; `None` if it was due.
    pub(super) fn handle_eof(&self, terms: &Terms) -> Option<ErrorKind> {
        // The other protocols have a message for a rejection, or none to reject.
        let rejects = terms.plan.protocol == Protocol::Tutorial;
        match &self.stage {
            Stage::Connecting | Stage::AwaitChallenge(_) | Stage::Mutual(_) => {
                Some(ErrorKind::Closed)
            }
            Stage::Opening { .. } | Stage::Talking if self.answered == 0 && rejects => {
                Some(ErrorKind::Rejected)
            }
            Stage::Opening { .. } | Stage::Talking => Some(ErrorKind::Closed),
            Stage::Ending => None,
        }
    }

    /// When there is something to do unless something happens: a deadline, or the end of a pause.
    pub(super) fn alarm(&self, terms: &Terms) -> Option<Monotonic> {
        let deadline = self.deadline(terms).map(|(deadline, _)| deadline);
        deadline.into_iter().chain(self.pause_ends).min()
    }

    /// When this session takes too long, and what that is then.
    pub(super) fn deadline(&self, terms: &Terms) -> Option<(Monotonic, ErrorKind)> {
        let (since, kind) = match &self.stage {
            Stage::Connecting => (self.since, ErrorKind::ConnectTimeout),
            Stage::AwaitChallenge(_) | Stage::Mutual(_) | Stage::Opening { .. } => {
                (self.since, ErrorKind::AuthTimeout)
            }
            Stage::Talking if self.answered == 0 => match terms.plan.protocol {
                Protocol::Plain => (self.since, ErrorKind::EchoTimeout),
                _ => (self.since, ErrorKind::AuthTimeout),
            },
            Stage::Talking => {
                let since = self.begun.front()?.at;
                return Some((since.saturating_add(terms.echo_timeout()?), ErrorKind::EchoTimeout));
            }
            Stage::Ending => (self.since, ErrorKind::EchoTimeout),
        };
        Some((since.saturating_add(terms.plan.timeout?), kind))
    }
}
