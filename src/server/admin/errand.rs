//! Work that goes to another loop and comes back.

use std::sync::Arc;
use std::time::Duration;

use super::rows::{Rows, Search};
#[cfg(feature = "metrics")]
use crate::metrics::Snapshot;
use crate::proto::Handler;
use crate::proto::http::{Progress, SLICE};
use crate::reactor::{Kernel, Wake};
use crate::server::Server;
use crate::server::sync::Mutex;

/// Time that a loop may take for a part of an answer before it is reported as missing: 1 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The work itself. It needs a loop, and keeps nothing of it.
pub(super) enum Task {
    Rows(Rows),
    Kill(Search),
    /// The figures of another loop for a scrape, once it has given them.
    #[cfg(feature = "metrics")]
    Figures(Option<Box<Snapshot>>),
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
    pub(super) task: Option<Task>,
    pub(super) out: Vec<u8>,
    /// Set when the loop has done its part.
    pub(super) progress: Option<Progress>,
}

impl Errand {
    pub(super) fn new(worker: usize, task: Option<Task>, home: Arc<dyn Wake>) -> Self {
        let state = State { task, out: Vec::new(), progress: None };
        Self { worker, state: Mutex::new(state), home }
    }

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
    pub(super) fn visit<K: Kernel, H: Handler + Clone>(
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
        }
    }
}
