//! Answers that take more than one turn, and visit other loops.

use std::io::Write;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use super::rows::{Rows, Search};
use super::{Fleet, routes};
#[cfg(feature = "metrics")]
use crate::metrics::{Format, Snapshot};
use crate::proto::Handler;
#[cfg(feature = "metrics")]
use crate::proto::http::Status;
use crate::proto::http::{Progress, Response, SLICE};
use crate::python::Monotonic;
use crate::reactor::{Kernel, Wake};
use crate::server::Server;

/// How long a loop may take for a part of an answer before it is reported as missing: 1 s.
const PATIENCE: Duration = Duration::from_secs(1);

/// An answer in progress.
pub(super) struct Job {
    /// Absent while it is away.
    task: Option<Task>,
    /// The loop to visit, or the one that is visited. Several are visited in order, and the
    /// endpoint's own is the first.
    worker: usize,
    /// The loops beyond the last to visit.
    end: usize,
    away: Option<Away>,
}

/// The work itself. It needs a loop, and keeps nothing of it.
pub(super) enum Task {
    Rows(Rows),
    Kill(Search),
    #[cfg(feature = "metrics")]
    Scrape(Box<Scrape>),
    /// The figures of another loop for a scrape, once it has given them.
    #[cfg(feature = "metrics")]
    Figures(Option<Box<Snapshot>>),
}

/// A task that was sent to another loop.
struct Away {
    errand: Arc<Errand>,
    until: Monotonic,
}

/// A task on its way to another loop and back. The loop that sent it never waits for the lock.
pub(in crate::server) struct Errand {
    /// The number of the loop that it is sent to.
    worker: usize,
    state: Mutex<State>,
    home: Arc<dyn Wake>,
}

struct State {
    /// Absent if the sender has lost patience, and taken it back.
    task: Option<Task>,
    out: Vec<u8>,
    /// Set when the loop has done its part.
    progress: Option<Progress>,
}

impl Errand {
    fn new(worker: usize, task: Option<Task>, home: Arc<dyn Wake>) -> Self {
        let state = State { task, out: Vec::new(), progress: None };
        Self { worker, state: Mutex::new(state), home }
    }

    /// Does a part of the task on the loop that it was sent to.
    pub(in crate::server) fn run<K: Kernel, H: Handler + Clone>(&self, server: &mut Server<K, H>) {
        // A panic in a task is one of this crate; the sender reports the loop as missing.
        if let Ok(mut state) = self.state.lock() {
            let State { task, out, progress } = &mut *state;
            let Some(task) = task else { return };
            *progress = Some(task.visit(server, Some(self.worker + 1), out));
        }
        self.home.wake();
    }
}

#[cfg(feature = "metrics")]
impl State {
    /// Takes the task back if the loop has done it.
    const fn take_done(&mut self) -> Option<Task> {
        match self.progress {
            Some(_) => self.task.take(),
            None => None,
        }
    }
}

impl Task {
    fn visit<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &mut Server<K, H>,
        number: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Progress {
        match self {
            Self::Rows(rows) => rows.visit(server, number, out, SLICE),
            Self::Kill(search) => search.visit(server),
            #[cfg(feature = "metrics")]
            Self::Figures(figures) => {
                *figures = Some(Box::new(server.figures()));
                Progress::Done
            }
            #[cfg(feature = "metrics")]
            Self::Scrape(_) => unreachable!("it stays at home"),
        }
    }
}

impl Job {
    /// A list of the connections of so many loops.
    pub(super) const fn rows(rows: Rows, loops: usize) -> Self {
        Self { task: Some(Task::Rows(rows)), worker: 0, end: loops, away: None }
    }

    /// The search for a connection of one loop.
    pub(super) const fn kill(search: Search, worker: usize) -> Self {
        Self { task: Some(Task::Kill(search)), worker, end: worker + 1, away: None }
    }

    /// A scrape of the metrics of all loops.
    #[cfg(feature = "metrics")]
    pub(super) fn scrape(format: Format) -> Self {
        Self {
            task: Some(Task::Scrape(Box::new(Scrape::new(format)))),
            worker: 0,
            end: 0,
            away: None,
        }
    }

    /// Whether it waits for another loop, and until when at most.
    pub(super) fn waits_until(&self) -> Option<Monotonic> {
        #[cfg(feature = "metrics")]
        if let Some(Task::Scrape(scrape)) = &self.task {
            return scrape.waits_until();
        }
        self.away.as_ref().map(|away| away.until)
    }

    /// Does a part of the work; appends about a slice of a list.
    pub(super) fn advance<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &mut Server<K, H>,
        fleet: &Fleet,
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Progress {
        if self.away.is_some() {
            return self.return_home(out, now);
        }
        #[cfg(feature = "metrics")]
        if let Some(Task::Scrape(scrape)) = &mut self.task {
            return scrape.advance(server, fleet, now);
        }
        let task = self.task.as_mut().expect("it is here");
        if fleet.is_home(self.worker) {
            let number = (fleet.len() > 1).then_some(self.worker + 1);
            if task.visit(server, number, out) == Progress::More {
                return Progress::More;
            }
            self.worker += 1;
        }
        if self.worker >= self.end {
            return match task {
                Task::Rows(rows) => rows.finish(out, SLICE),
                _ => Progress::Done,
            };
        }
        let home = server.reactor.kernel.waker();
        let errand = Arc::new(Errand::new(self.worker, self.task.take(), home));
        fleet.send(self.worker, Arc::clone(&errand));
        self.away = Some(Away { errand, until: now.saturating_add(PATIENCE) });
        Progress::More
    }

    /// Takes the task back if its part is done, or if the loop does not answer in time.
    fn return_home(&mut self, out: &mut Vec<u8>, now: Monotonic) -> Progress {
        let Some(Away { errand, until }) = &self.away else { return Progress::More };
        let mut state = match errand.state.try_lock() {
            Ok(state) => state,
            // It is at work this very moment, and wakes this loop afterwards.
            Err(TryLockError::WouldBlock) => return Progress::More,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
        };
        match state.progress {
            None if *until > now => return Progress::More,
            None => {
                if let Some(Task::Rows(_)) = state.task {
                    writeln!(out, "{{\"worker\":{},\"missing\":true}}", self.worker + 1)
                        .expect("a Vec takes every byte");
                }
                self.worker += 1;
            }
            Some(progress) => {
                out.append(&mut state.out);
                self.worker += usize::from(progress == Progress::Done);
            }
        }
        self.task = state.task.take();
        drop(state);
        self.away = None;
        Progress::More
    }

    /// The outcome of a search or a scrape that has ended.
    pub(super) fn outcome(&self) -> Response {
        match &self.task {
            Some(Task::Kill(search)) if search.found => routes::killed(search.number),
            Some(Task::Kill(search)) => routes::no_connection(search.number),
            #[cfg(feature = "metrics")]
            Some(Task::Scrape(scrape)) => scrape.response(),
            _ => unreachable!("a list has no outcome"),
        }
    }
}

#[cfg(feature = "metrics")]
/// A scrape of the metrics in progress: the figures of all loops, which are asked at the same time.
pub(super) struct Scrape {
    format: Format,
    /// The loops that were asked and have not answered, and until when they may.
    asked: Vec<(usize, Arc<Errand>)>,
    until: Option<Monotonic>,
    sum: Snapshot,
}

#[cfg(feature = "metrics")]
impl Scrape {
    pub(super) fn new(format: Format) -> Self {
        Self { format, asked: Vec::new(), until: None, sum: Snapshot::default() }
    }

    /// Until when it waits for other loops.
    pub(super) fn waits_until(&self) -> Option<Monotonic> {
        self.until
    }

    /// Asks the loops, or sees who has answered. A loop that does not answer in time is shown as it
    /// was at the last scrape: without its part the sums would fall, which Prometheus takes for a
    /// restart.
    pub(super) fn advance<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &mut Server<K, H>,
        fleet: &Fleet,
        now: Monotonic,
    ) -> Progress {
        match self.until {
            None => self.ask(server, fleet, now),
            Some(_) => self.asked.retain(|(worker, errand)| !take(server, *worker, errand)),
        }
        if !self.asked.is_empty() && self.until.is_some_and(|until| until > now) {
            return Progress::More;
        }
        self.sum = server.scraped.iter().flatten().cloned().sum();
        self.sum.workers_missing = self.asked.len() as u64;
        let suppressed = server.control(|control, _| control.log_lines_suppressed());
        self.sum.log_lines_suppressed = suppressed.unwrap_or(0);
        Progress::Done
    }

    fn ask<K: Kernel, H: Handler + Clone>(
        &mut self,
        server: &mut Server<K, H>,
        fleet: &Fleet,
        now: Monotonic,
    ) {
        self.until = Some(now.saturating_add(PATIENCE));
        server.scraped.resize(fleet.len(), None);
        for worker in 0..fleet.len() {
            if fleet.is_home(worker) {
                put(server, worker, server.snapshot());
            } else {
                let home = server.reactor.kernel.waker();
                let errand = Arc::new(Errand::new(worker, Some(Task::Figures(None)), home));
                fleet.send(worker, Arc::clone(&errand));
                self.asked.push((worker, errand));
            }
        }
    }

    /// The answer, once it is done.
    pub(super) fn response(&self) -> Response {
        let text = self.format.render(self.sum.clone());
        Response::whole(Status::Ok, self.format.content_type(), text.into_bytes())
    }
}

#[cfg(feature = "metrics")]
/// Takes the figures of another loop, if it has answered.
fn take<K: Kernel, H>(server: &mut Server<K, H>, worker: usize, errand: &Errand) -> bool {
    let task = match errand.state.try_lock() {
        Ok(mut state) => state.take_done(),
        // It is at work this very moment, or has panicked.
        Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => None,
    };
    let Some(Task::Figures(Some(figures))) = task else { return false };
    put(server, worker, *figures);
    true
}

#[cfg(feature = "metrics")]
fn put<K: Kernel, H>(server: &mut Server<K, H>, worker: usize, mut figures: Snapshot) {
    figures.workers.iter_mut().for_each(|one| one.number = worker + 1);
    server.scraped[worker] = Some(figures);
}
