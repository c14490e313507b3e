use std::time::Duration;

use super::proof::Proof;
use super::{Mode, Phase, Plan};
use crate::python::Monotonic;

/// The phase of a run, with the data that only it has, and the lengths of those that are over.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    /// When the run began.
    pub(super) began: Monotonic,
    /// When this phase began.
    pub(super) stage_began: Monotonic,
    /// Duration of the ramp-up.
    pub(super) ramp: Duration,
    /// Duration of the measurement.
    pub(super) measured: Duration,
    proving: Duration,
}

/// A phase of a run.
///
/// ```text
/// Ramp ──▶ Measure ──▶ Prove (idle connections) ──▶ Drain
///   └─────────┴── stopped, or no connection left ─────┘
/// ```
#[derive(Debug)]
pub(super) enum Stage {
    /// Connections are made and authenticated.
    Ramp,
    /// The load is measured, until this time at the latest.
    Measure { ends: Monotonic },
    /// Idle connections show that they are there, by one echo each.
    Prove(Proof),
    /// Nothing new is due. Answers are awaited, until this time at the latest.
    Drain { ends: Monotonic },
}

impl Progress {
    /// A run that begins now. One that measures connecting has no ramp.
    pub(super) fn new(plan: &Plan, now: Monotonic) -> Self {
        let stage = match plan.mode {
            Mode::Connect => Stage::Measure { ends: now.saturating_add(plan.duration) },
            Mode::Echo | Mode::Idle => Stage::Ramp,
        };
        let zero = Duration::ZERO;
        Self { stage, began: now, stage_began: now, ramp: zero, measured: zero, proving: zero }
    }

    pub(super) const fn phase(&self) -> Phase {
        match self.stage {
            Stage::Ramp => Phase::Ramp,
            Stage::Measure { .. } => Phase::Measure,
            Stage::Prove(_) => Phase::Prove,
            Stage::Drain { .. } => Phase::Drain,
        }
    }

    /// The latest end of this phase, if it has one.
    pub(super) fn ends(&self) -> Option<Monotonic> {
        match &self.stage {
            Stage::Ramp => None,
            Stage::Prove(proof) => Some(proof.ends()),
            Stage::Measure { ends } | Stage::Drain { ends } => Some(*ends),
        }
    }

    /// Goes on to another phase, and notes how long the one before took.
    pub(super) fn enter(&mut self, stage: Stage, now: Monotonic) {
        let took = now.since(self.stage_began);
        match self.stage {
            Stage::Ramp => self.ramp = took,
            Stage::Measure { .. } => self.measured = took,
            Stage::Prove(_) => self.proving = took,
            Stage::Drain { .. } => unreachable!("it is the last"),
        }
        (self.stage, self.stage_began) = (stage, now);
    }

    /// Time spent waiting for answers after the measurement, the proof included.
    pub(super) fn drained(&self, now: Monotonic) -> Duration {
        self.proving + now.since(self.stage_began)
    }
}
