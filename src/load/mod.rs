//! The load generator: many authenticated clients on one event loop, on the server's own
//! [`reactor`](crate::reactor).
//!
//! - [`Plan`] describes a load, [`Load`] makes it, and a [`Record`] is the result.
//! - In the open model a message's clock starts when it is *due*, whether or not there is room for
//!   it by then. A clock that starts when the message can be sent leaves out the very delays that
//!   users have (coordinated omission).
//! - Every byte that comes back is compared with the expected one.
//! - The generator times itself too ([`Series::Lateness`]), so its own share of the latencies is
//!   known.
//! - Percentiles are computed from histograms that were added up, never averaged.
//!
//! Start reading at `Load::turn`.

mod account;
mod assertion;
mod counters;
mod dial;
mod errors;
mod format;
mod pattern;
mod plan;
mod progress;
mod proof;
mod pump;
mod record;
pub mod report;
mod schedule;
mod session;
mod sizes;
pub mod sweep;
mod unit;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use account::Recorder;
use counters::Counters;
use progress::{Progress, Stage};
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
    Counts, ErrorKind, Errors, Interval, Outcome, Phase, Record, Series, StateCounts,
    empty_histogram,
};
pub use sizes::{SizeShare, Sizes};
pub use unit::parse_with_unit;

/// A load that is being made. Not a thread: [`run`](Self::run) works on the thread that calls it.
pub struct Load<K: Kernel = MioKernel> {
    reactor: Reactor<K, Session>,
    terms: Terms,
    /// The connections that are to exchange messages, by their number; empty places are those that
    /// have ended.
    active: Vec<Option<ConnId>>,
    pacing: Pacing,
    progress: Progress,
    counters: Counters,
    recorder: Recorder,
    /// Since when there was room for a cycle.
    room_since: Monotonic,
    /// Delay of the last poll's return.
    overslept: Duration,
    stopper: Stopper,
    stopped: bool,
    scratch: Box<[u8]>,
    /// Frames that are being sent are put together here.
    frames: Vec<u8>,
}

/// Ends a load early, from another thread. Pending answers are awaited as at a regular end.
#[derive(Clone)]
pub struct Stopper {
    flag: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

impl Stopper {
    /// Stops the load: nothing more is due from here on.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// A poll cannot be told to return within less than a millisecond, nor does a sleeper wake at
/// once: shorter waits are spent awake.
const AWAKE: Duration = Duration::from_millis(2);
/// Resolution of a sleep (epoll_wait(2) counts milliseconds).
const TICK: Duration = Duration::from_millis(1);
/// Time between two reports of an [`Interval`].
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of bytes of one `recv`.
const RECV: usize = 64 << 10;
/// Deadlines handled in one turn.
const DEADLINES: usize = 1024;

impl<K: Dial> Load<K> {
    /// A load over any kernel.
    ///
    /// # Errors
    /// When no load can be made of the plan; see [`Plan::check`].
    pub fn new(mut kernel: K, plan: Plan) -> Result<Self, PlanError> {
        plan.check()?;
        let now = kernel.now();
        let mut load = Self {
            stopper: Stopper { flag: Arc::default(), waker: kernel.waker() },
            reactor: Reactor::new(kernel, plan.spin),
            active: Vec::new(),
            pacing: Pacing::new(plan.mode, plan.active),
            progress: Progress::new(&plan, now),
            counters: Counters::default(),
            recorder: Recorder::new(now),
            room_since: now,
            overslept: Duration::ZERO,
            stopped: false,
            scratch: vec![0; RECV].into_boxed_slice(),
            frames: Vec::new(),
            terms: Terms::new(plan),
        };
        if load.progress.phase() == Phase::Measure {
            load.start_schedule(now);
        }
        Ok(load)
    }

    /// A handle that ends the load early.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Makes the load, and reports each second what happened in it. `on_interval` runs on the loop's
    /// own thread: messages wait while it runs.
    ///
    /// # Errors
    /// When polling fails. Failures of connections are counted and never end the run.
    pub fn run(mut self, mut on_interval: impl FnMut(Interval)) -> io::Result<Outcome> {
        // Before anything is due there is nothing to wait for.
        self.advance();
        while self.turn(&mut on_interval)? {}
        Ok(Outcome {
            record: self.recorder.total,
            ramp: self.progress.ramp,
            measured: self.progress.measured,
            drain: self.progress.drained(self.reactor.now()),
            stopped: self.stopped,
            states: self.recorder.states,
            first_other: self.recorder.first_other,
        })
    }

    /// One turn of the loop; false once the run is over.
    fn turn(&mut self, on_interval: &mut impl FnMut(Interval)) -> io::Result<bool> {
        self.poll()?;
        self.pump_queue();
        self.handle_deadlines();
        let phase = self.progress.phase();
        // The proof is over when all have answered, which is long before it is given up.
        let ends = self.progress.ends().filter(|_| phase != Phase::Prove);
        let goes_on = self.advance();
        // An interval belongs to one phase.
        let is_over = !goes_on || self.progress.phase() != phase;
        if is_over || self.reactor.now().since(self.recorder.interval_began) >= INTERVAL {
            if goes_on {
                self.check_counters();
            }
            self.report(phase, ends, on_interval);
        }
        Ok(goes_on)
    }

    /// Polls, and notes how late the poll returned: the load generator's own delay.
    fn poll(&mut self) -> io::Result<()> {
        let wait = self.wait();
        let asleep = self.reactor.kernel.now();
        self.reactor.poll(wait, |_, _| {})?;
        self.overslept = wait.map_or(Duration::ZERO, |wait| {
            let allowed = if wait.is_zero() { wait } else { wait + TICK };
            self.reactor.now().since(asleep).saturating_sub(allowed)
        });
        Ok(())
    }

    /// Time that the next poll may sleep: until the next message, connection, deadline, report or
    /// phase; none if that is too near to be met by sleeping, while the reactor is busy, or when a
    /// phase has just begun, which may have something to do.
    fn wait(&self) -> Option<Duration> {
        let has_begun = self.reactor.now() <= self.progress.stage_began;
        if has_begun || self.reactor.busy() {
            return Some(Duration::ZERO);
        }
        let exact = [self.pacing.schedule.as_ref().and_then(Schedule::next_due), self.next_dial()];
        let rough = [
            Some(self.recorder.interval_began.saturating_add(INTERVAL)),
            Some(self.reactor.next_step()),
            self.progress.ends(),
        ];
        let exact = exact.into_iter().flatten().min().map(|time| {
            let wait = time.since(self.reactor.now());
            if wait <= AWAKE { Duration::ZERO } else { wait - AWAKE }
        });
        let rough = rough.into_iter().flatten().min().map(|time| time.since(self.reactor.now()));
        exact.into_iter().chain(rough).min()
    }

    /// Does what has become due; false once nothing is still to come.
    fn advance(&mut self) -> bool {
        let now = self.reactor.kernel.now();
        if self.stopper.flag.load(Ordering::Relaxed)
            && !self.stopped
            && self.progress.phase() != Phase::Drain
        {
            self.stop(now);
        }
        let is_cycling = self.terms.plan.mode == Mode::Connect;
        let is_over = self.progress.ends().is_some_and(|ends| ends <= now);
        match self.progress.stage {
            Stage::Ramp => {
                self.dial_those_due(now);
                if self.has_dialed_all() && self.counters.opening() == 0 {
                    self.begin_measuring(now);
                }
            }
            Stage::Measure { .. } => {
                let none_left = !is_cycling && self.reactor.slots.is_empty();
                if is_over && self.terms.plan.mode == Mode::Idle {
                    self.begin_proof(now);
                } else if none_left || is_over {
                    self.begin_draining(now);
                } else {
                    self.hand_out(now);
                }
            }
            Stage::Prove(_) => {
                if !self.prove(now) || self.progress.ends().is_some_and(|ends| ends <= now) {
                    self.begin_draining(now);
                }
            }
            Stage::Drain { .. } => {
                if self.counters.pending() == 0 || is_over {
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

    fn has_dialed_all(&self) -> bool {
        self.counters.dialed() >= self.terms.plan.connections as u64
    }

    fn begin_measuring(&mut self, now: Monotonic) {
        let ends = now.saturating_add(self.terms.plan.duration);
        self.progress.enter(Stage::Measure { ends }, now);
        self.start_schedule(now);
        let plan = &self.terms.plan;
        if plan.pace == Pace::Closed && plan.mode == Mode::Echo {
            // In the closed model all of them may go on from here. Pauses begin as if users had come
            // at different times: all at once would be a burst, which the pauses would then repeat.
            let (think, places) = (plan.think, self.active.len().max(1));
            for place in 0..self.active.len() {
                let Some(id) = self.active[place] else { continue };
                if think.is_zero() {
                    self.reactor.requeue(id);
                    continue;
                }
                let share = think.as_nanos() * place as u128 / places as u128;
                let share = Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX));
                let slot = self.reactor.slots.get_mut(id).expect("an active one is here");
                slot.connection.pause(now.saturating_add(share));
                self.settle(id);
            }
        }
    }

    fn start_schedule(&mut self, now: Monotonic) {
        let plan = &self.terms.plan;
        if let Pace::Open(rate) = plan.pace
            && plan.mode != Mode::Idle
        {
            self.pacing.schedule = Some(Schedule::new(rate, now, plan.duration));
        }
    }

    /// Ends the load early. Idle connections still show that they are there.
    fn stop(&mut self, now: Monotonic) {
        self.stopped = true;
        match (self.progress.phase(), self.terms.plan.mode) {
            (Phase::Measure, Mode::Idle) => self.begin_proof(now),
            _ => self.begin_draining(now),
        }
    }

    /// Messages that are due by now belong to the measurement, which ends here.
    pub(super) fn end_measuring(&mut self, now: Monotonic) {
        self.hand_out(now);
        self.recorder.states = self.count_states();
    }

    fn begin_draining(&mut self, now: Monotonic) {
        match self.progress.stage {
            Stage::Measure { .. } => self.end_measuring(now),
            Stage::Prove(_) => {}
            Stage::Ramp | Stage::Drain { .. } => self.recorder.states = self.count_states(),
        }
        if let Some(schedule) = &mut self.pacing.schedule {
            schedule.stop(now);
        }
        let ends = now.saturating_add(Plan::GRACE);
        self.progress.enter(Stage::Drain { ends }, now);
    }

    /// Gives connections the messages that have become due, in turn.
    fn hand_out(&mut self, now: Monotonic) {
        let Some(schedule) = &mut self.pacing.schedule else { return };
        let numbers = schedule.take_due(now);
        let count = numbers.end - numbers.start;
        self.recorder.counts().due += count;
        if self.terms.plan.mode == Mode::Connect {
            return self.counters.begin_cycles(count);
        }
        // At a rate beyond all means each connection has many at once.
        let places = self.active.len() as u64;
        for i in 0..count.min(places) {
            let share = count / places + u64::from(i < count % places);
            let place = usize::try_from((numbers.start + i) % places).expect("it is a place");
            match self.active[place] {
                Some(id) => {
                    let slot = self.reactor.slots.get_mut(id).expect("an active one is here");
                    slot.connection.due += share;
                    self.counters.begin(share);
                    self.reactor.requeue(id);
                }
                None => self.recorder.counts().errors.add(ErrorKind::Unanswered, share),
            }
        }
    }

    /// When the next connection of the ramp is due, if that is a matter of time.
    fn next_dial(&self) -> Option<Monotonic> {
        let plan = &self.terms.plan;
        let is_due = self.progress.phase() == Phase::Ramp && !self.has_dialed_all();
        let dialed = u128::from(self.counters.dialed());
        let share = dialed * plan.ramp.as_nanos() / plan.connections as u128;
        let after = Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX));
        (is_due && !plan.ramp.is_zero()).then(|| self.progress.began.saturating_add(after))
    }

    fn dial_those_due(&mut self, now: Monotonic) {
        while !self.has_dialed_all() {
            let is_due = match self.next_dial() {
                Some(due) => due <= now,
                None => self.counters.opening() < Plan::MAX_CONNECTING,
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
                Pace::Open(_) if self.counters.take_cycle() => {}
                Pace::Closed if self.progress.phase() == Phase::Measure => {
                    self.recorder.counts().due += 1;
                    self.counters.begin(1);
                }
                _ => break,
            }
            let failed = self.recorder.counts().errors.total();
            self.dial();
            if self.recorder.counts().errors.total() > failed {
                // Another attempt at once would only fail the same way.
                break;
            }
        }
    }

    /// Begins one connection.
    fn dial(&mut self) {
        let plan = &self.terms.plan;
        let number = self.counters.dial();
        if plan.mode == Mode::Connect {
            self.recorder.counts().sent += 1;
        }
        let source = match plan.sources.len() as u64 {
            0 => None,
            len => Some(plan.sources[usize::try_from(number % len).expect("it is a place")]),
        };
        let active = match plan.mode {
            Mode::Echo => plan.active,
            Mode::Idle => plan.connections,
            Mode::Connect => 0,
        };
        if self.active.len() < active {
            self.active.push(None);
        }
        let now = self.reactor.kernel.now();
        let mut session = Session::new(number, plan.seed, now);
        if plan.mode == Mode::Connect
            && let Some(due) = self.pacing.due_at(number, 0)
        {
            session.late = now.since(due.max(self.room_since));
        }
        let entered = match self.reactor.kernel.dial(plan.target, source) {
            Ok(stream) => self.reactor.enter(stream, session, Ready::NONE),
            Err(error) => Err((error, session)),
        };
        match entered {
            Ok(id) => {
                self.counters.entered();
                if let Some(place) = self.place(number) {
                    *place = Some(id);
                }
                self.settle(id);
            }
            Err((error, session)) => {
                self.give_up(&session);
                self.recorder.note_error(error);
            }
        }
    }

    /// The place among the active connections of the one with this number, if it has one.
    pub(super) fn place(&mut self, number: u64) -> Option<&mut Option<ConnId>> {
        self.active.get_mut(usize::try_from(number).ok()?)
    }

    fn handle_deadlines(&mut self) {
        let mut steps = DEADLINES;
        while let Some(id) = self.reactor.due(&mut steps) {
            let now = self.reactor.now();
            let slot = self.reactor.slots.get_mut(id).expect("closed ones are disarmed");
            if slot.connection.end_pause(now) {
                self.reactor.requeue(id);
                continue;
            }
            match slot.connection.deadline(&self.terms) {
                Some((deadline, kind)) if deadline <= now => {
                    self.end(id, Ended::Failed(kind));
                }
                _ => self.settle(id),
            }
        }
    }
}
