//! The load generator: many authenticated clients on one event loop, built of the server's own
//! parts.
//!
//! - [`Plan`] says what load to make; [`Load`] makes it; [`Record`] is what comes of it.
//! - The clock of a message in the open model starts when it was *due*, whether or not there was
//!   room for it by then. Whoever starts it when it could be sent leaves out the very delays that
//!   users have (coordinated omission).
//! - Every byte that comes back is compared with the one that was due.
//! - The generator times itself too ([`Series::Lateness`]): what it adds to the latencies is known.
//! - Percentiles are computed from histograms that were added up, never averaged.
//!
//! Start reading at `Load::turn`.

mod account;
mod assertion;
mod dial;
mod pattern;
mod plan;
mod proof;
mod pump;
mod record;
pub mod report;
mod schedule;
mod session;
mod unit;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pattern::Pattern;
use proof::Proof;
use pump::{Ended, Pacing};
use schedule::Schedule;
use session::{Session, Terms};

use crate::proto::ConnId;
use crate::python::Monotonic;
use crate::reactor::{Kernel, MioKernel, Reactor, Ready, Wake};

pub use assertion::{Assertion, AssertionError, CheckedAssertion};
pub use dial::Dial;
pub use plan::{Mode, Pace, Plan, PlanError};
pub use record::{
    Counts, ErrorKind, Errors, Interval, Outcome, Part, Record, Series, Standing, empty_histogram,
};
pub use unit::parse_with_unit;

/// A load that is being made. Not a thread: [`run`](Self::run) works on the thread that calls it.
pub struct Load<K: Kernel = MioKernel> {
    reactor: Reactor<K, Session>,
    terms: Terms,
    /// The connections that are to exchange messages, by their number; empty places are those that
    /// have ended.
    roster: Vec<Option<ConnId>>,
    proof: Proof,
    /// Connections or cycles that have been begun.
    dialled: u64,
    /// Connections whose probe is not answered yet.
    opening: usize,
    pacing: Pacing,
    /// Cycles that are due.
    cycles_due: u64,
    /// Since when there was room for a cycle.
    room_since: Monotonic,
    /// Messages that were due and are neither answered nor given up.
    owed: u64,
    part: Part,
    began: Monotonic,
    part_began: Monotonic,
    measured: Duration,
    ramp: Duration,
    proving: Duration,
    standing: Standing,
    stopper: Stopper,
    stopped: bool,
    scratch: Box<[u8]>,
    /// How much later the last poll returned than it was asked to.
    overslept: Duration,
    interval_began: Monotonic,
    /// What was recorded in this interval, and in those before.
    record: Record,
    total: Record,
    /// The first failure of the kind "other", for whoever wonders what that was.
    first_other: Option<io::Error>,
}

/// Ends a load before its time, from another thread. What is owed is waited for as at a regular
/// end.
#[derive(Clone)]
pub struct Stopper {
    flag: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

impl Stopper {
    /// Nothing more is due from here on.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// A poll cannot be told to return within less than a millisecond, nor does a sleeper wake at
/// once: shorter waits are spent awake.
const AWAKE: Duration = Duration::from_millis(2);
/// What a sleep is rounded up to (epoll_wait(2) counts milliseconds).
const TICK: Duration = Duration::from_millis(1);
/// How often an [`Interval`] is reported.
const INTERVAL: Duration = Duration::from_secs(1);
/// What one `recv` may return.
const RECV: usize = 64 << 10;
/// Deadlines handled in one turn.
const DEADLINES: usize = 1024;

impl<K: Dial> Load<K> {
    /// A load over any kernel.
    ///
    /// # Errors
    /// When the plan is none; see [`Plan::check`].
    pub fn new(mut kernel: K, plan: Plan) -> Result<Self, PlanError> {
        plan.check()?;
        let now = kernel.now();
        let stopper = Stopper { flag: Arc::default(), waker: kernel.waker() };
        let part = if plan.mode == Mode::Connect { Part::Measure } else { Part::Ramp };
        let pattern = Pattern::new(plan.seed, plan.upper);
        let mut load = Self {
            reactor: Reactor::new(kernel, plan.spin),
            roster: Vec::new(),
            proof: Proof::new(),
            dialled: 0,
            opening: 0,
            pacing: Pacing::new(plan.mode, plan.active),
            cycles_due: 0,
            room_since: now,
            owed: 0,
            part,
            began: now,
            part_began: now,
            measured: Duration::ZERO,
            ramp: Duration::ZERO,
            proving: Duration::ZERO,
            standing: Standing::default(),
            stopper,
            stopped: false,
            scratch: vec![0; RECV].into_boxed_slice(),
            overslept: Duration::ZERO,
            interval_began: now,
            record: Record::new(),
            total: Record::new(),
            first_other: None,
            terms: Terms { plan, pattern },
        };
        if part == Part::Measure {
            load.begin_measuring(now);
        }
        Ok(load)
    }

    /// What ends it before its time.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Makes the load, and says each second what happened in it. `on_interval` runs on the loop's
    /// own thread: what it takes is time that messages wait.
    ///
    /// # Errors
    /// When polling fails. What befalls connections is counted and never ends the run.
    pub fn run(mut self, mut on_interval: impl FnMut(Interval)) -> io::Result<Outcome> {
        // Before anything is due there is nothing to wait for.
        self.advance();
        while self.turn(&mut on_interval)? {}
        Ok(Outcome {
            record: self.total,
            ramp: self.ramp,
            measured: self.measured,
            drain: self.proving + self.reactor.now().since(self.part_began),
            stopped: self.stopped,
            standing: self.standing,
            first_other: self.first_other,
        })
    }

    /// One turn of the loop; false once the run is over.
    fn turn(&mut self, on_interval: &mut impl FnMut(Interval)) -> io::Result<bool> {
        let wait = self.wait();
        let asleep = self.reactor.kernel.now();
        self.reactor.poll(wait, |_| {})?;
        self.overslept = wait.map_or(Duration::ZERO, |wait| {
            let allowed = if wait.is_zero() { wait } else { wait + TICK };
            self.reactor.now().since(asleep).saturating_sub(allowed)
        });
        self.pump_queue();
        self.handle_deadlines();
        let part = self.part;
        // The proof is over when all have answered, which is long before it is given up.
        let ends = self.part_ends().filter(|_| part != Part::Prove);
        let goes_on = self.advance();
        // An interval belongs to one part.
        let is_over = !goes_on || self.part != part;
        if is_over || self.reactor.now().since(self.interval_began) >= INTERVAL {
            self.report(part, ends, on_interval);
        }
        Ok(goes_on)
    }

    /// How long the next poll may sleep: until the next message, connection, deadline, report or
    /// part of the run, but not at all when that is too near to be met by sleeping, the last event
    /// recent enough to spin, or a part has just begun, which may have something to do.
    fn wait(&self) -> Option<Duration> {
        let has_begun = self.reactor.now() <= self.part_began;
        if has_begun || self.reactor.busy() {
            return Some(Duration::ZERO);
        }
        let exact = [self.pacing.schedule.as_ref().and_then(Schedule::next_due), self.next_dial()];
        let rough = [
            Some(self.interval_began.saturating_add(INTERVAL)),
            self.reactor.next_step(),
            self.part_ends(),
        ];
        let exact = exact.into_iter().flatten().min().map(|time| {
            let wait = time.since(self.reactor.now());
            if wait <= AWAKE { Duration::ZERO } else { wait - AWAKE }
        });
        let rough = rough.into_iter().flatten().min().map(|time| time.since(self.reactor.now()));
        exact.into_iter().chain(rough).min()
    }

    /// When the present part of the run ends at the latest, if that is a matter of time.
    fn part_ends(&self) -> Option<Monotonic> {
        match self.part {
            Part::Ramp => None,
            Part::Measure => Some(self.part_began.saturating_add(self.terms.plan.duration)),
            Part::Prove => Some(self.proof_ends()),
            Part::Drain => Some(self.part_began.saturating_add(Plan::GRACE)),
        }
    }

    /// Does what has become due, and says whether anything is still to come.
    fn advance(&mut self) -> bool {
        let now = self.reactor.kernel.now();
        if self.stopper.flag.load(Ordering::Relaxed) && !self.stopped && self.part != Part::Drain {
            self.stop(now);
        }
        let is_cycling = self.terms.plan.mode == Mode::Connect;
        match self.part {
            Part::Ramp => {
                self.dial_those_due(now);
                if self.dialled == self.terms.plan.connections as u64 && self.opening == 0 {
                    self.ramp = now.since(self.began);
                    self.begin_measuring(now);
                }
            }
            Part::Measure => {
                let deserted = !is_cycling && self.reactor.slots.is_empty();
                let is_over = self.part_ends().is_some_and(|end| end <= now);
                if is_over && self.terms.plan.mode == Mode::Idle {
                    self.begin_proving(now);
                } else if deserted || is_over {
                    self.begin_draining(now);
                } else {
                    self.hand_out(now);
                }
            }
            Part::Prove => {
                let goes_on = self.prove(now);
                if !goes_on || self.part_ends().is_some_and(|end| end <= now) {
                    self.begin_draining(now);
                }
            }
            Part::Drain => {
                let is_over = self.part_ends().is_some_and(|end| end <= now);
                if self.owed == 0 || is_over {
                    self.finish(now);
                    return false;
                }
            }
        }
        if is_cycling {
            self.begin_cycles();
        }
        true
    }

    fn begin_measuring(&mut self, now: Monotonic) {
        (self.part, self.part_began) = (Part::Measure, now);
        let plan = &self.terms.plan;
        match plan.pace {
            Pace::Open(rate) if plan.mode != Mode::Idle => {
                self.pacing.schedule = Some(Schedule::new(rate, now, plan.duration));
            }
            _ => {}
        }
        if plan.pace != Pace::Closed || plan.mode != Mode::Echo {
            return;
        }
        // In the closed model all of them may go on from here.
        for id in self.roster.iter().flatten() {
            self.reactor.requeue(*id);
        }
    }

    /// Ends the load before its time. An idle one is proved to be there all the same.
    fn stop(&mut self, now: Monotonic) {
        self.stopped = true;
        match (self.part, self.terms.plan.mode) {
            (Part::Measure, Mode::Idle) => self.begin_proving(now),
            _ => self.begin_draining(now),
        }
    }

    fn end_measuring(&mut self, now: Monotonic) {
        self.hand_out(now);
        self.measured = now.since(self.part_began);
        self.standing = self.count_standing();
    }

    fn begin_proving(&mut self, now: Monotonic) {
        self.end_measuring(now);
        self.begin_proof(now);
        (self.part, self.part_began) = (Part::Prove, now);
    }

    fn begin_draining(&mut self, now: Monotonic) {
        match self.part {
            Part::Measure => self.end_measuring(now),
            Part::Prove => self.proving = now.since(self.part_began),
            Part::Ramp | Part::Drain => self.standing = self.count_standing(),
        }
        if let Some(schedule) = &mut self.pacing.schedule {
            schedule.stop(now);
        }
        (self.part, self.part_began) = (Part::Drain, now);
    }

    /// Gives connections the messages that have become due, in turn.
    fn hand_out(&mut self, now: Monotonic) {
        let Some(schedule) = &mut self.pacing.schedule else { return };
        let numbers = schedule.take_due(now);
        let count = numbers.end - numbers.start;
        self.record.counts.due += count;
        if self.terms.plan.mode == Mode::Connect {
            self.cycles_due += count;
            self.owed += count;
            return;
        }
        // At a rate that is beyond all means each of them has many at once.
        let places = self.roster.len() as u64;
        for i in 0..count.min(places) {
            let share = count / places + u64::from(i < count % places);
            let place = usize::try_from((numbers.start + i) % places).expect("it is a place");
            match self.roster[place] {
                Some(id) => {
                    let slot = self
                        .reactor
                        .slots
                        .get_mut(id)
                        .expect("the roster names those who are here");
                    slot.connection.due += share;
                    self.owed += share;
                    self.reactor.requeue(id);
                }
                None => self.record.counts.errors.add(ErrorKind::Unanswered, share),
            }
        }
    }

    /// When the next connection of the ramp is due, if that is a matter of time.
    fn next_dial(&self) -> Option<Monotonic> {
        let plan = &self.terms.plan;
        let is_due = self.part == Part::Ramp && self.dialled < plan.connections as u64;
        let share = u128::from(self.dialled) * plan.ramp.as_nanos() / plan.connections as u128;
        let after = Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX));
        (is_due && !plan.ramp.is_zero()).then(|| self.began.saturating_add(after))
    }

    fn dial_those_due(&mut self, now: Monotonic) {
        while self.dialled < self.terms.plan.connections as u64 {
            let is_due = match self.next_dial() {
                Some(due) => due <= now,
                None => self.opening < Plan::MAX_CONNECTING,
            };
            if !is_due {
                break;
            }
            self.dial();
        }
    }

    /// Begins the cycles that are due, as far as there is room.
    fn begin_cycles(&mut self) {
        while self.reactor.slots.len() < self.terms.plan.connections {
            match self.terms.plan.pace {
                Pace::Open(_) if self.cycles_due > 0 => self.cycles_due -= 1,
                Pace::Closed if self.part == Part::Measure => {
                    self.record.counts.due += 1;
                    self.owed += 1;
                }
                _ => break,
            }
            let failed = self.record.counts.errors.total();
            self.dial();
            if self.record.counts.errors.total() > failed {
                // Whatever it was, asking again at once would only repeat it.
                break;
            }
        }
    }

    /// Begins one connection.
    fn dial(&mut self) {
        let plan = &self.terms.plan;
        let number = self.dialled;
        self.dialled += 1;
        if plan.mode == Mode::Connect {
            self.record.counts.sent += 1;
        }
        let source = match plan.sources.len() as u64 {
            0 => None,
            len => Some(plan.sources[usize::try_from(number % len).expect("it is a place")]),
        };
        let partners = match plan.mode {
            Mode::Echo => plan.active,
            Mode::Idle => plan.connections,
            Mode::Connect => 0,
        };
        if self.roster.len() < partners {
            self.roster.push(None);
        }
        let now = self.reactor.kernel.now();
        let mut session = Session::new(number, plan.seed, now);
        if plan.mode == Mode::Connect
            && let Some(due) = self.pacing.due_at(number, 0)
        {
            session.late = now.since(due.max(self.room_since));
        }
        let stream = match self.reactor.kernel.dial(plan.target, source) {
            Ok(stream) => stream,
            Err(error) => {
                self.give_up(&session);
                return self.note_error(error);
            }
        };
        match self.reactor.enter(stream, session, Ready::NONE) {
            Ok(id) => {
                self.opening += 1;
                if let Some(place) = self.place(number) {
                    *place = Some(id);
                }
                self.settle(id);
            }
            Err((error, session)) => {
                self.give_up(&session);
                self.note_error(error);
            }
        }
    }

    /// The place in the roster of the connection of this number, if it has one.
    pub(super) fn place(&mut self, number: u64) -> Option<&mut Option<ConnId>> {
        self.roster.get_mut(usize::try_from(number).ok()?)
    }

    fn handle_deadlines(&mut self) {
        let mut steps = DEADLINES;
        while let Some(id) = self.reactor.due(&mut steps) {
            let slot = self.reactor.slots.get(id).expect("closed ones are disarmed");
            match slot.connection.deadline(&self.terms) {
                Some((deadline, kind)) if deadline <= self.reactor.now() => {
                    self.end(id, Ended::Failed(kind));
                }
                _ => self.settle(id),
            }
        }
    }
}
