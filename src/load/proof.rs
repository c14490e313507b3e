use std::time::Duration;

use super::{Dial, Load, Plan, Stage};
use crate::python::Monotonic;

/// The order in which idle connections are asked for an echo at the end of their load: only an echo
/// shows that the peer is still there.
///
/// All at once would be a burst that loses packets where the kernel queues them for a processor
/// (net.core.netdev_max_backlog: 1,000), so a window moves over the connections. Those in it have
/// been asked later than the last one that has answered: what is older is late, and may be lost,
/// but must not hold up the others. If nothing in a whole window answers within the time-out, the
/// window doubles: where hardly anything is left there is no burst of answers to fear, and to wait
/// for each 256 of a million that are lost would take hours.
#[derive(Debug)]
pub(super) struct Proof {
    /// Connections that were asked, or whose place was found empty.
    asked: usize,
    /// Places before the window: up to the last that has answered.
    passed: usize,
    /// Places in the window that will not answer, as far as that became known since it moved.
    gone: usize,
    window: usize,
    /// Lost one after the other since the last answer.
    lost: usize,
    /// When something last happened.
    moved: Monotonic,
    /// The longest time that nothing may happen.
    patience: Duration,
}

impl Proof {
    /// As many as are connected at once: see [`Plan::MAX_CONNECTING`].
    const WINDOW: usize = Plan::MAX_CONNECTING;
    /// Time limit for an echo where the plan sets none: many times what TCP takes to send a
    /// lost segment again.
    pub(super) const PATIENCE: Duration = Duration::from_secs(60);

    pub(super) const fn new(patience: Duration, now: Monotonic) -> Self {
        let window = Self::WINDOW;
        Self { asked: 0, passed: 0, gone: 0, window, lost: 0, moved: now, patience }
    }

    /// The time at which the proof is given up: nothing has moved for longer than an echo may take.
    pub(super) fn ends(&self) -> Monotonic {
        self.moved.saturating_add(self.patience).saturating_add(Plan::GRACE)
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
    usize::try_from(place).expect("it is the place of a connection")
}

impl<K: Dial> Load<K> {
    /// Ends the measurement of an idle load and begins its proof. Numbers the connections that are
    /// left, in the order in which they will be asked.
    pub(super) fn begin_proof(&mut self, now: Monotonic) {
        self.end_measuring(now);
        self.active.retain(Option::is_some);
        for (place, id) in self.active.iter().enumerate() {
            let id = id.expect("the others were left out");
            let slot = self.reactor.slots.get_mut(id).expect("an active one is here");
            slot.connection.number = place as u64;
        }
        let patience = self.terms.echo_timeout().unwrap_or(Proof::PATIENCE);
        self.progress.enter(Stage::Prove(Proof::new(patience, now)), now);
    }

    /// Asks as many as there is room for in the window; false once nothing is left to wait for.
    pub(super) fn prove(&mut self, now: Monotonic) -> bool {
        let Stage::Prove(proof) = &mut self.progress.stage else { return false };
        let counters = &mut self.counters;
        while proof.asked < self.active.len() && (proof.has_room() || counters.pending() == 0) {
            let place = proof.asked;
            proof.asked += 1;
            let Some(id) = self.active[place] else {
                // It ended after the others had been numbered, and has been counted.
                proof.gone += 1;
                continue;
            };
            let slot = self.reactor.slots.get_mut(id).expect("an active one is here");
            slot.connection.due += 1;
            self.reactor.requeue(id);
            self.recorder.counts().due += 1;
            counters.begin(1);
            proof.moved = now;
        }
        counters.pending() > 0 || proof.asked < self.active.len()
    }
}
