//! Answers that take more than one turn, and visit other loops.

use std::io::Write;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use super::rows::{Rows, Search};
#[cfg(feature = "metrics")]
use super::scrape::Scrape;
use super::{Fleet, routes};
#[cfg(feature = "metrics")]
use crate::metrics::Snapshot;
use crate::proto::Handler;
use crate::proto::http::{Progress, Response, SLICE};
use crate::python::Monotonic;
use crate::reactor::{Kernel, Wake};
use crate::server::Server;

/// How long a loop may take for a part of an answer before it is reported as missing: 1 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// An answer in progress.
pub(super) struct Job {
    /// Absent while it is away.
    task: Option<Task>,
    /// The loop to visit, or the one that is visited.
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

pub(super) struct State {
    /// Absent if the sender has lost patience, and taken it back.
    task: Option<Task>,
    out: Vec<u8>,
    /// Set when the loop has done its part.
    progress: Option<Progress>,
}

impl Errand {
    pub(super) fn new(worker: usize, task: Option<Task>, home: Arc<dyn Wake>) -> Self {
        let state = State { task, out: Vec::new(), progress: None };
        Self { worker, state: Mutex::new(state), home }
    }

    #[cfg(feature = "metrics")]
    pub(super) const fn state(&self) -> &Mutex<State> {
        &self.state
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
    pub(super) const fn take_done(&mut self) -> Option<Task> {
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
    pub(super) fn scrape(scrape: Scrape) -> Self {
        Self { task: Some(Task::Scrape(Box::new(scrape))), worker: 0, end: 0, away: None }
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
        if self.worker == self.end {
            return match task {
                Task::Rows(rows) => rows.finish(out, SLICE),
                _ => Progress::Done,
            };
        }
        if fleet.is_home(self.worker) {
            let number = (fleet.len() > 1).then_some(self.worker + 1);
            if task.visit(server, number, out) == Progress::Done {
                self.worker += 1;
            }
            return Progress::More;
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
