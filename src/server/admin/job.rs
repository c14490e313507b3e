//! Answers that take more than one turn, and visit other loops.

use std::io::Write;
use std::sync::{Arc, TryLockError};

use super::errand::{Errand, PATIENCE, Task};
use super::rows::{Rows, Search};
#[cfg(feature = "metrics")]
use super::scrape::Scrape;
use super::{Fleet, routes};
use crate::proto::Handler;
use crate::proto::http::{Progress, Response, SLICE, Status};
use crate::python::Monotonic;
use crate::reactor::Kernel;
use crate::server::Server;
use crate::server::control::Expected;

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
    /// The work instead, if the request is for metrics.
    #[cfg(feature = "metrics")]
    scrape: Option<Box<Scrape>>,
    /// What is awaited instead, if the request is for something that the program does.
    awaited: Option<Awaited>,
}

/// The outcome of what the program does.
struct Awaited {
    expected: Arc<Expected>,
    result: Option<Result<String, String>>,
    /// When to look at it again, although its arrival wakes the loop.
    look_at: Monotonic,
}

/// A task that was sent to another loop.
struct Away {
    errand: Arc<Errand>,
    until: Monotonic,
}

impl Job {
    /// A list of the connections of so many loops.
    pub(super) const fn rows(rows: Rows, loops: usize) -> Self {
        Self::new(Some(Task::Rows(rows)), 0, loops)
    }

    /// The search for a connection of one loop.
    pub(super) const fn kill(search: Search, worker: usize) -> Self {
        Self::new(Some(Task::Kill(search)), worker, worker + 1)
    }

    /// A scrape of the metrics of all loops.
    #[cfg(feature = "metrics")]
    pub(super) fn scrape(scrape: Scrape) -> Self {
        Self { scrape: Some(Box::new(scrape)), ..Self::new(None, 0, 0) }
    }

    /// The wait for something that the program does.
    pub(super) fn outcome_of(expected: Arc<Expected>) -> Self {
        let awaited = Awaited { expected, result: None, look_at: Monotonic::ZERO };
        Self { awaited: Some(awaited), ..Self::new(None, 0, 0) }
    }

    const fn new(task: Option<Task>, worker: usize, end: usize) -> Self {
        Self {
            task,
            worker,
            end,
            away: None,
            #[cfg(feature = "metrics")]
            scrape: None,
            awaited: None,
        }
    }

    /// The end of its wait for another loop, if it waits for one.
    pub(super) fn waits_until(&self) -> Option<Monotonic> {
        if let Some(awaited) = &self.awaited {
            return Some(awaited.look_at);
        }
        #[cfg(feature = "metrics")]
        if let Some(scrape) = &self.scrape {
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
        if let Some(awaited) = &mut self.awaited {
            awaited.result = awaited.expected.take();
            awaited.look_at = now.saturating_add(PATIENCE);
            return if awaited.result.is_some() { Progress::Done } else { Progress::More };
        }
        #[cfg(feature = "metrics")]
        if let Some(scrape) = &mut self.scrape {
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
        let mut state = match errand.state().try_lock() {
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

    /// The outcome of a search, a scrape or a wait that has ended.
    pub(super) fn outcome(&self) -> Response {
        #[cfg(feature = "metrics")]
        if let Some(scrape) = &self.scrape {
            return scrape.response();
        }
        if let Some(Awaited { result: Some(result), .. }) = &self.awaited {
            return routes::outcome(result.clone(), Status::Conflict);
        }
        match &self.task {
            Some(Task::Kill(search)) if search.found => routes::killed(search.number),
            Some(Task::Kill(search)) => routes::no_connection(search.number),
            _ => unreachable!("a list has no outcome"),
        }
    }
}

/// Models of an errand, as those of `server::model`.
#[cfg(all(loom, test))]
mod model {
    use std::time::Duration;

    use super::*;
    use crate::reactor::Wake;
    use crate::server::model::{Slot, model, server, spawn};

    /// Sends a search to a loop, and waits for it as the loop at home does, which sleeps between its
    /// looks. With `late` no more time is left at the first of them.
    fn search(late: bool) {
        let mut other = server();
        let (fleet, bell) = (other.handle(), Slot::new());
        let errand =
            Errand::new(0, Some(Task::Kill(Search::new(1))), bell.clone() as Arc<dyn Wake>);
        let errand = Arc::new(errand);
        fleet.visit(0, Arc::clone(&errand));
        let visits = spawn(move || other.run().map(drop));
        let now = Monotonic::ZERO;
        let until = if late { now } else { now.saturating_add(Duration::from_secs(1)) };
        let mut job = Job::new(None, 0, 1);
        job.away = Some(Away { errand, until });
        while job.return_home(&mut Vec::new(), now) == Progress::More && job.away.is_some() {
            bell.take();
        }
        assert!(matches!(job.task, Some(Task::Kill(_))), "the task did not come back");
        assert_eq!(job.worker, 1, "the loop was not visited, or not left out");
        fleet.stop();
        visits.join().unwrap().unwrap();
    }

    #[test]
    fn a_task_comes_back_by_its_wake_up_alone() {
        model(|| search(false));
    }

    #[test]
    fn a_task_that_is_late_comes_back_from_a_loop_that_may_be_at_work_on_it() {
        model(|| search(true));
    }
}
