use std::time::Duration;

use super::{Dial, Load, Plan};
use crate::python::Monotonic;

/// At the end of an idle load each connection is asked for an echo: whether the peer is still
/// there cannot be known without one. This says who is asked next, and when.
///
/// All at once would be a burst that loses packets where the kernel queues them for a processor
/// (net.core.netdev_max_backlog: 1,000), so a window moves over the connections. Those in it have
/// been asked later than the last one that has answered: what is older is late, and may be lost,
/// but must not hold up the others. If nothing in a whole window answers within the time-out, the
/// window doubles: where hardly anything is left there is no burst of answers to fear, and to wait
/// for each 256 of a million that are lost would take hours.
pub(super) struct Proof {
    /// How many places of the roster have been asked, or were found empty.
    asked: usize,
    /// How many places come before the window: up to the last that has answered.
    passed: usize,
    /// Places in the window that will not answer, as far as that became known since it moved.
    gone: usize,
    window: usize,
    /// Lost one after the other since the last answer.
    lost: usize,
    /// When something last happened.
    moved: Monotonic,
}

impl Proof {
    /// As many as are connected at once: see [`Plan::MAX_CONNECTING`].
    const WINDOW: usize = Plan::MAX_CONNECTING;
    /// How long an echo may take where the plan sets no limit: many times what TCP takes to send a
    /// lost segment again.
    pub(super) const PATIENCE: Duration = Duration::from_secs(60);

    pub(super) const fn new() -> Self {
        Self { asked: 0, passed: 0, gone: 0, window: Self::WINDOW, lost: 0, moved: Monotonic::ZERO }
    }

    pub(super) fn handle_answer(&mut self, place: u64, now: Monotonic) {
        (self.window, self.lost, self.moved) = (Self::WINDOW, 0, now);
        if place >= self.passed as u64 {
            (self.passed, self.gone) = (index(place) + 1, 0);
        }
    }

    pub(super) fn handle_loss(&mut self, place: u64, now: Monotonic) {
        self.lost += 1;
        if self.lost == self.window {
            (self.window, self.lost) = (2 * self.window, 0);
        }
        self.moved = now;
        self.gone += usize::from((self.passed..self.asked).contains(&index(place)));
    }

    const fn has_room(&self) -> bool {
        self.asked - self.passed - self.gone < self.window
    }
}

fn index(place: u64) -> usize {
    usize::try_from(place).expect("it is a place in the roster")
}

impl<K: Dial> Load<K> {
    /// Numbers the connections that are left, in the order in which they will be asked.
    pub(super) fn begin_proof(&mut self, now: Monotonic) {
        self.roster.retain(Option::is_some);
        for (place, id) in self.roster.iter().enumerate() {
            let id = id.expect("the others were left out");
            let slot = self.reactor.slots.get_mut(id).expect("the roster names those who are here");
            slot.connection.number = place as u64;
        }
        self.proof = Proof { moved: now, ..Proof::new() };
    }

    /// Asks as many as there is room for in the window; whether anything is left to wait for.
    pub(super) fn prove(&mut self, now: Monotonic) -> bool {
        while self.proof.asked < self.roster.len() && (self.proof.has_room() || self.owed == 0) {
            let place = self.proof.asked;
            self.proof.asked += 1;
            let Some(id) = self.roster[place] else {
                // It ended after the others had been numbered, and has been counted.
                self.proof.gone += 1;
                continue;
            };
            let slot = self.reactor.slots.get_mut(id).expect("the roster names those who are here");
            slot.connection.due += 1;
            self.reactor.requeue(id);
            self.record.counts.due += 1;
            self.owed += 1;
            self.proof.moved = now;
        }
        self.owed > 0 || self.proof.asked < self.roster.len()
    }

    /// When the proof is given up: nothing has moved for longer than an echo may take.
    pub(super) fn proof_ends(&self) -> Monotonic {
        let patience = self.terms.echo_timeout().unwrap_or(Proof::PATIENCE);
        self.proof.moved.saturating_add(patience).saturating_add(Plan::GRACE)
    }
}
