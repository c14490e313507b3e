//! The end of connections, one by one or all in a drain, and of the loop with the last.

use super::{ConnId, Server};
use crate::proto::{CloseReason, Connection, Handler, guarded};
use crate::python::Monotonic;
use crate::reactor::{Close, Kernel, Note};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    Running,
    /// Accepts and serves as before until this time, for those who choose servers to notice.
    Unready {
        close_at: Monotonic,
        until: Option<Monotonic>,
    },
    /// Ends when the last connection has, or at this time if there is one.
    Draining {
        until: Option<Monotonic>,
        /// The first slot whose connection is not yet being finished.
        next: Option<u32>,
    },
    Stopped,
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    pub(super) fn abort(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(slot) = self.reactor.slots.get_mut(id) {
            slot.connection.abort(reason);
            self.close_or_settle(id);
        }
    }

    #[inline(never)]
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason) {
        let Some(slot) = self.reactor.slots.get(id) else { return };
        self.stats.lingering -= usize::from(slot.half_closed);
        let incomplete = slot.connection.undelivered() > 0 || slot.connection.is_unanswered();
        // To a peer that is gone the kernel would repeat an end of the stream for minutes.
        let how = match incomplete || reason == CloseReason::PeerVanished {
            true => Close::Reset,
            false => Close::Orderly,
        };
        let connection = self.reactor.leave(id, how);
        self.closed(id, connection, reason);
    }

    /// Counts a connection whose socket is closed.
    pub(super) fn closed(&mut self, id: ConnId, connection: Connection<H>, reason: CloseReason) {
        if !connection.has_authenticated() {
            let unauthenticated = &mut self.acceptor.unauthenticated;
            if reason.is_local() {
                unauthenticated.remove(id);
            } else {
                unauthenticated.remove_failed(id, &self.limits, self.reactor.now());
            }
        }
        let undelivered = connection.undelivered() as u64;
        self.stats.bytes_undelivered += undelivered;
        self.stats.backlog_bytes -= undelivered;
        // The handler goes with it, and its destructor is user code too.
        guarded(|| drop(connection));
        self.stats.count_close(reason);
        self.acceptor.end_pause();
        self.tell(|| Note::Closed(id, reason));
        self.forget_record(id);
    }

    pub(super) fn drain(&mut self) {
        if self.lifecycle != Lifecycle::Running {
            return;
        }
        let now = self.reactor.now();
        let until = self.limits.drain_timeout.map(|limit| now.saturating_add(limit));
        if self.limits.drain_delay.is_zero() {
            self.close_listeners(until);
        } else {
            let close_at = now.saturating_add(self.limits.drain_delay);
            self.lifecycle = Lifecycle::Unready { close_at, until };
            self.report_state();
        }
    }

    fn close_listeners(&mut self, until: Option<Monotonic>) {
        self.lifecycle = Lifecycle::Draining { until, next: Some(0) };
        self.acceptor.close();
        self.report_state();
    }

    /// Lets more connections finish, a limited number per turn: each costs a half-close, and those
    /// that still wait for an answer wait for all of them. There are no new ones by now.
    fn drain_some(&mut self, mut next: Option<u32>) -> Option<u32> {
        for _ in 0..self.limits.deadlines_per_turn {
            let id = self.reactor.slots.id_from(next?)?;
            let slot = self.reactor.slots.get_mut(id).expect("it was found just now");
            slot.connection.close(CloseReason::Drained);
            self.pump(id);
            next = Some(id.index + 1);
        }
        next
    }

    /// When a drain has to go on, if no event comes before.
    #[inline(never)]
    pub(super) fn next_in_drain(&self) -> Monotonic {
        let next = match self.lifecycle {
            Lifecycle::Unready { close_at, .. } => Some(close_at),
            Lifecycle::Draining { next: Some(_), .. } => Some(self.reactor.now()),
            Lifecycle::Draining { next: None, until } => until,
            Lifecycle::Running | Lifecycle::Stopped => None,
        };
        next.unwrap_or(Monotonic::NEVER)
    }

    #[inline(never)]
    pub(super) fn finish_draining(&mut self) {
        let now = self.reactor.now();
        if let Lifecycle::Unready { close_at, until } = self.lifecycle
            && close_at <= now
        {
            self.close_listeners(until);
        }
        let Lifecycle::Draining { until, next } = self.lifecycle else { return };
        if next.is_some() {
            self.lag.time_this_turn();
            self.lifecycle = Lifecycle::Draining { until, next: self.drain_some(next) };
        }
        let owes_answer = self.admin.as_ref().is_some_and(|admin| admin.owes_last_answer());
        if self.reactor.slots.is_empty() && !owes_answer {
            self.end();
        } else if until.is_some_and(|until| until <= now) {
            self.end_all(CloseReason::DrainTimeout);
        }
    }

    pub(super) fn end_all(&mut self, reason: CloseReason) {
        self.end();
        self.acceptor.close();
        self.for_each(|server, id| server.abort(id, reason));
    }

    /// Visits all connections, of which any may end meanwhile. Needs no memory for a list of them.
    pub(super) fn for_each(&mut self, mut visit: impl FnMut(&mut Self, ConnId)) {
        let mut next = self.reactor.slots.id_from(0);
        while let Some(id) = next {
            visit(self, id);
            next = self.reactor.slots.id_from(id.index + 1);
        }
    }

    fn end(&mut self) {
        self.lifecycle = Lifecycle::Stopped;
        // One that is parked may be run again, and would now sleep for ever.
        self.parked = false;
        self.inbox.close();
        if let Some(admin) = self.admin.take() {
            admin.close(&mut self.reactor.kernel);
        }
    }
}
