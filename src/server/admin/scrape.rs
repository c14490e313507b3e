//! A scrape of the metrics: the figures of all loops, which are asked at the same time.

use std::sync::{Arc, TryLockError};

use super::Fleet;
use super::errand::{Errand, PATIENCE, Task};
use crate::metrics::{Format, Snapshot};
use crate::proto::Handler;
use crate::proto::http::{Progress, Response, Status};
use crate::python::Monotonic;
use crate::reactor::Kernel;
use crate::server::Server;

/// A scrape in progress.
pub(super) struct Scrape {
    format: Format,
    /// The loops that were asked and have not answered, and until when they may.
    asked: Vec<(usize, Arc<Errand>)>,
    until: Option<Monotonic>,
    sum: Snapshot,
}

impl Scrape {
    pub(super) fn new(format: Format) -> Self {
        Self { format, asked: Vec::new(), until: None, sum: Snapshot::default() }
    }

    /// Until when it waits for other loops.
    pub(super) fn waits_until(&self) -> Option<Monotonic> {
        self.until
    }

    /// Asks the loops, or takes the answers that have come. A loop that does not answer in time is shown as it
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
        self.sum.upgrades = server.control(|control, _| control.upgrades()).flatten();
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

/// Takes the figures of another loop, if it has answered.
fn take<K: Kernel, H>(server: &mut Server<K, H>, worker: usize, errand: &Errand) -> bool {
    let task = match errand.state().try_lock() {
        Ok(mut state) => state.take_done(),
        // It is at work this very moment, or has panicked.
        Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => None,
    };
    let Some(Task::Figures(Some(figures))) = task else { return false };
    put(server, worker, *figures);
    true
}

fn put<K: Kernel, H>(server: &mut Server<K, H>, worker: usize, mut figures: Snapshot) {
    figures.workers.iter_mut().for_each(|one| one.number = worker + 1);
    server.scraped[worker] = Some(figures);
}
