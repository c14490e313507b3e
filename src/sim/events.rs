//! The events of a poll: the edges that are to be fetched, and those that only a disturbed kernel gives.

use super::SimKernel;
use crate::reactor::{Ready, Token};
use crate::trace::Event;

impl SimKernel {
    pub(super) fn deliver(
        &mut self,
        token: Token,
        ready: Ready,
        on_event: &mut impl FnMut(Token, Ready),
    ) {
        self.events += 1;
        self.record(|| Event::Ready(token.into(), ready));
        on_event(token, ready);
    }

    /// The listener's edge, which only a new client raises: clients that wait since an `accept` that
    /// failed are not announced again.
    pub(super) fn announce_clients(&mut self, on_event: &mut impl FnMut(Token, Ready)) {
        let Some(token) = self.listener.filter(|_| self.listener_edge) else { return };
        if self.random.chance(self.faults.delayed_event) {
            return;
        }
        self.listener_edge = false;
        if !self.queue.is_empty() {
            self.deliver(token, Ready::READABLE, on_event);
            if self.random.chance(self.faults.repeated_event) {
                self.deliver(token, Ready::READABLE, on_event);
            }
        }
    }

    /// The same of the admin endpoint's listener.
    pub(super) fn announce_admin_clients(&mut self, on_event: &mut impl FnMut(Token, Ready)) {
        let Some(token) = self.admin.listener.filter(|_| self.admin.edge) else { return };
        if self.random.chance(self.faults.delayed_event) {
            return;
        }
        self.admin.edge = false;
        if !self.admin.clients.is_empty() {
            self.deliver(token, Ready::READABLE, on_event);
        }
    }

    pub(super) fn announce_signals(&mut self, on_event: &mut impl FnMut(Token, Ready)) {
        if !self.signal_edge || self.random.chance(self.faults.delayed_event) {
            return;
        }
        self.signal_edge = false;
        self.deliver(Token::SIGNAL, Ready::READABLE, on_event);
        if self.random.chance(self.faults.repeated_event) {
            self.deliver(Token::SIGNAL, Ready::READABLE, on_event);
        }
    }

    /// The edge of one socket, unless it has to wait behind the others.
    pub(super) fn announce_edge(&mut self, on_event: &mut impl FnMut(Token, Ready)) {
        if self.random.chance(self.faults.overtaking_event) {
            let other = self.random.below(self.edges.len());
            self.edges.swap(0, other);
        }
        let index = self.edges.pop_front().expect("the caller counts them");
        let Some(token) = self.sockets[index].token else { return };
        if self.random.chance(self.faults.delayed_event) {
            self.edges.push_back(index);
            return;
        }
        let ready = self.sockets[index].readiness();
        if ready != Ready::NONE && self.random.chance(self.faults.split_event) {
            // One half now, which may be no news, and the whole later.
            let part = if self.random.below(2) == 0 { Ready::READABLE } else { Ready::WRITABLE };
            if ready.has(part) {
                self.deliver(token, part, on_event);
            }
            self.edges.push_back(index);
            return;
        }
        self.sockets[index].edge = false;
        if ready != Ready::NONE {
            self.deliver(token, ready, on_event);
            if self.random.chance(self.faults.repeated_event) {
                self.deliver(token, ready, on_event);
            }
        }
    }

    /// The events that only a disturbed kernel gives.
    pub(super) fn disturb(&mut self, on_event: &mut impl FnMut(Token, Ready)) {
        if self.random.chance(self.faults.spurious_event) && !self.sockets.is_empty() {
            let index = self.random.below(self.sockets.len());
            if let Some(token) = self.sockets[index].token {
                let ready = [Ready::READABLE, Ready::WRITABLE, Ready::PRIORITY, Ready::CLOSED];
                let ready = ready[self.random.below(ready.len())];
                self.deliver(token, ready, on_event);
            }
        }
        if self.random.chance(self.faults.stale_event) && !self.stale.is_empty() {
            let token = self.stale[self.random.below(self.stale.len())];
            let ready = Ready::READABLE.union(Ready::WRITABLE).union(Ready::CLOSED);
            self.deliver(token, ready, on_event);
        }
        if self.random.chance(self.faults.spurious_event)
            && let Some(token) = self.listener
        {
            self.deliver(token, Ready::READABLE, on_event);
        }
        if let Some(token) = self.admin.listener
            && self.random.chance(self.faults.spurious_event)
        {
            self.deliver(token, Ready::READABLE, on_event);
        }
    }
}
