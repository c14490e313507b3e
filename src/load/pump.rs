use std::io;
use std::ops::Range;
use std::time::Duration;

use super::counters::Counters;
use super::progress::Stage;
use super::proof::Proof;
use super::session::{Begun, Session};
use super::{Dial, ErrorKind, Load, Mode, Pace, Phase, Record, Schedule, Series};
use crate::proto::{ConnId, Protocol};
use crate::python::Monotonic;
use crate::reactor::slots::Slot;
use crate::reactor::transfer::{recv, send};
use crate::reactor::{Close, Ready};

/// Bytes that one connection may move in one turn, so that the answers of the others are looked at
/// in time.
const SHARE: usize = 256 << 10;

/// When messages are due: what a session's numbers mean in the schedule.
pub(super) struct Pacing {
    /// In the open model, once the measurement has begun.
    pub(super) schedule: Option<Schedule>,
    pub(super) mode: Mode,
    active: u64,
}

impl Pacing {
    pub(super) const fn new(mode: Mode, active: usize) -> Self {
        Self { schedule: None, mode, active: active as u64 }
    }

    /// When a session's message was due; never, in the closed model.
    pub(super) fn due_at(&self, session: u64, message: u64) -> Option<Monotonic> {
        let schedule = self.schedule.as_ref()?;
        match self.mode {
            Mode::Connect => Some(schedule.due_at(session)),
            Mode::Echo if message > 0 => {
                Some(schedule.due_at(self.numbers(session, message..message).first))
            }
            Mode::Echo | Mode::Idle => None,
        }
    }

    /// The numbers in the schedule of a session's messages, which are not the probe.
    pub(super) const fn numbers(&self, session: u64, messages: Range<u64>) -> Numbers {
        let first = (messages.start - 1) * self.active + session;
        Numbers { first, step: self.active, count: messages.end - messages.start }
    }
}

/// Numbers in a schedule at even distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) first: u64,
    pub(super) step: u64,
    pub(super) count: u64,
}

/// The only place where sockets are read, written and closed.
impl<K: Dial> Load<K> {
    pub(super) fn pump_queue(&mut self) {
        for _ in 0..self.reactor.queued() {
            if let Some(id) = self.reactor.next_turn().map(|turn| turn.id) {
                match self.pump(id) {
                    Ok(()) => self.settle(id),
                    Err(failure) => self.end(id, failure),
                }
            }
        }
    }

    /// Does what a session wants for as long as its socket is believed ready and its share lasts.
    fn pump(&mut self, id: ConnId) -> Result<(), Ended> {
        let polled = self.reactor.now();
        let slot = self.reactor.slots.get_mut(id).expect("the caller has seen it");
        slot.connection.handle_room(polled);
        if slot.connection.is_connecting() {
            if !slot.ready.has(Ready::WRITABLE) {
                return Ok(());
            }
            if !self.reactor.kernel.is_connected(&mut slot.stream)? {
                slot.ready.write_would_block();
                return Ok(());
            }
            let mut random = [0; Protocol::MAX_RANDOM];
            if self.terms.plan.protocol == Protocol::Multiprocessing {
                self.reactor.kernel.fill_random(&mut random)?;
            }
            let now = self.reactor.kernel.now();
            let since = slot.connection.since;
            slot.connection.handle_connected(&self.terms, random, now);
            self.recorder.counts().connected += 1;
            self.recorder.record.note(Series::Connect, now.since(since));
        }
        let mut share = SHARE;
        loop {
            let moved = self.receive(id)? + self.transmit(id)?;
            share = share.saturating_sub(moved);
            if moved == 0 {
                return Ok(());
            }
            if share == 0 {
                self.reactor.requeue(id);
                return Ok(());
            }
        }
    }

    fn receive(&mut self, id: ConnId) -> Result<usize, Ended> {
        let polled = self.reactor.now();
        let Slot { stream, connection, ready, .. } =
            self.reactor.slots.get_mut(id).expect("it is closed by the caller only");
        if !ready.has(Ready::READABLE) {
            return Ok(0);
        }
        let Some(n) = recv(&mut self.reactor.kernel, stream, ready, &mut self.scratch)? else {
            return Ok(0);
        };
        if n == 0 {
            return Err(connection.handle_eof(&self.terms).map_or(Ended::InOrder, Ended::Failed));
        }
        let now = self.reactor.kernel.now();
        let answers = &mut Answers {
            record: &mut self.recorder.record,
            counters: &mut self.counters,
            proof: match &mut self.progress.stage {
                Stage::Prove(proof) => Some(proof),
                Stage::Ramp | Stage::Measure { .. } | Stage::Drain { .. } => None,
            },
            pacing: &self.pacing,
            waited: now.since(polled) + self.overslept,
            now,
            dialed: connection.dialed,
            late: connection.late,
            since: connection.since,
            number: connection.number,
        };
        answers.record.counts.bytes_received += n as u64;
        connection
            .handle_recv(&self.terms, &self.scratch[..n], now, |message, begun| {
                answers.note(message, begun);
            })
            .map_err(Ended::Failed)?;
        let think = self.terms.plan.think;
        if !think.is_zero() && !connection.is_busy() && connection.has_authenticated() {
            connection.pause(now.saturating_add(think));
        }
        if self.pacing.mode == Mode::Connect
            && connection.has_authenticated()
            && !connection.is_ending()
        {
            // The cycle is done; that the connection ends in order as well is not timed.
            let _ = self.reactor.kernel.shutdown(stream);
            connection.handle_ending(now);
        }
        Ok(n)
    }

    fn transmit(&mut self, id: ConnId) -> Result<usize, Ended> {
        let Slot { stream, connection, ready, .. } =
            self.reactor.slots.get_mut(id).expect("it is closed by the caller only");
        let is_unpaced = self.progress.phase() == Phase::Measure
            && self.pacing.mode == Mode::Echo
            && self.terms.plan.pace == Pace::Closed
            && connection.number < self.pacing.active
            && !connection.is_pausing();
        let limit = if is_unpaced { u64::MAX } else { connection.due };
        let chunk = connection.chunk(&self.terms, limit, &mut self.frames);
        if chunk.is_empty() || !ready.has(Ready::WRITABLE) {
            return Ok(0);
        }
        let (now, offered) = (self.reactor.kernel.now(), chunk.len());
        let n = send(&mut self.reactor.kernel, stream, ready, chunk)?;
        self.recorder.counts().bytes_sent += n as u64;
        let number = connection.number;
        let had_begun = connection.has_begun();
        let due_at = |message| match self.pacing.mode {
            Mode::Echo => self.pacing.due_at(number, message),
            Mode::Connect | Mode::Idle => None,
        };
        let begun = connection.handle_sent(&self.terms, n, offered, now, due_at);
        // The first of all is the probe, which is not measured.
        let messages = begun - u64::from(begun > 0 && !had_begun);
        if self.pacing.mode != Mode::Connect {
            self.recorder.counts().sent += messages;
        }
        if is_unpaced {
            self.recorder.counts().due += messages;
            self.counters.begin(messages);
        }
        Ok(n)
    }

    /// Updates a session's deadline after an event.
    pub(super) fn settle(&mut self, id: ConnId) {
        let Some(slot) = self.reactor.slots.get(id) else { return };
        let alarm = slot.connection.alarm(&self.terms);
        self.reactor.settle(id, alarm);
    }

    /// Closes a session that is over. Counts why, and what it leaves unanswered.
    pub(super) fn end(&mut self, id: ConnId, ended: Ended) {
        match ended {
            Ended::InOrder => {}
            Ended::Failed(kind) => self.recorder.counts().errors.add(kind, 1),
            Ended::Error(error) => self.recorder.note_error(error),
        }
        let session = self.close(id);
        self.give_up(&session);
    }

    /// Counts what a session that is over, or could not begin, leaves unanswered.
    pub(super) fn give_up(&mut self, session: &Session) {
        match self.pacing.mode {
            // The cycle's failure has been counted.
            Mode::Connect => self.counters.lost(u64::from(!session.has_authenticated())),
            Mode::Echo => {
                let pending = session.pending();
                let pending = pending.end - pending.start;
                self.counters.lost(pending);
                self.recorder.counts().errors.add(ErrorKind::Unanswered, pending);
            }
            // So has the connection's, of which at most the proof is pending.
            Mode::Idle => {
                let pending = session.pending();
                self.counters.lost(pending.end - pending.start);
                if let Stage::Prove(proof) = &mut self.progress.stage {
                    proof.handle_loss(session.number, self.reactor.now());
                }
            }
        }
        if let Some(place) = self.place(session.number) {
            *place = None;
        }
    }

    pub(super) fn close(&mut self, id: ConnId) -> Session {
        if self.reactor.slots.len() == self.terms.plan.connections {
            self.room_since = self.reactor.now();
        }
        let connection = self.reactor.leave(id, Close::Orderly);
        self.counters.left(connection.has_authenticated());
        connection
    }
}

/// The end of a session.
pub(super) enum Ended {
    InOrder,
    Failed(ErrorKind),
    Error(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// Where the answers of one `recv` are recorded.
struct Answers<'a> {
    record: &'a mut Record,
    counters: &'a mut Counters,
    proof: Option<&'a mut Proof>,
    pacing: &'a Pacing,
    /// Time that the answers waited in the kernel before they were read, as far as is known.
    waited: Duration,
    now: Monotonic,
    dialed: Monotonic,
    late: Duration,
    since: Monotonic,
    number: u64,
}

impl Answers<'_> {
    fn note(&mut self, message: u64, begun: Begun) {
        let (main, sent, late) = match (message, self.pacing.mode) {
            (0, mode) => {
                self.counters.authenticated();
                self.record.counts.authenticated += 1;
                self.record.note(Series::Auth, self.now.since(self.since));
                if mode != Mode::Connect {
                    return;
                }
                (Series::Cycle, self.dialed, self.late)
            }
            (_, Mode::Idle) => {
                if let Some(proof) = &mut self.proof {
                    proof.handle_answer(self.number, self.now);
                }
                self.record.note(Series::Echo, self.now.since(begun.at));
                self.record.counts.answered += 1;
                self.counters.answered();
                return;
            }
            _ => (Series::Echo, begun.at, begun.late),
        };
        let due = self.pacing.due_at(self.number, message).unwrap_or(sent);
        self.record.note(main, self.now.since(due));
        self.record.note(Series::Service, self.now.since(sent));
        self.record.note(Series::Lateness, late + self.waited);
        self.record.counts.answered += 1;
        self.counters.answered();
    }
}
