//! The old process of an upgrade as a state machine: no sockets, no clock, no process.
//!
//! It owns the connections until the new process has read COMMIT and said so. Whatever happens before
//! that ends with [`Action::GiveUp`], after which it serves on.

use super::message::Kind;
use super::reason::Reason;

/// The step that the old process is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// New was started; its HELLO is due.
    Started,
    /// OFFER was sent; PREPARED is due.
    Offered,
    /// The loops are to stop.
    Parking,
    /// All that there is goes over.
    Sending,
    /// END was sent; ACK is due.
    Sent,
    /// COMMIT was sent; TAKEN is due.
    Committed,
    /// New serves.
    Left,
    /// The attempt is over, and old serves.
    Resumed,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// This message came.
    Came(Kind),
    /// New has ended, or closed the channel, and nothing that it sent is left.
    Ended,
    /// The time of the step is up.
    Late,
    /// All loops have stopped.
    Parked,
    /// Everything was sent, END included.
    SentAll,
    /// The step cannot be done.
    Failed(Reason),
    /// New is stopped, and has not sent TAKEN.
    Halted,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Wait for the next event.
    Wait,
    /// Send OFFER.
    Offer,
    /// Stop the loops, unless this was only a check.
    Park,
    /// Send everything.
    Send,
    /// Touch no socket any more, and send COMMIT.
    Commit,
    /// Stop the process of new, so that it cannot go on meanwhile; then look once more for TAKEN.
    Halt,
    /// Let go of everything; new serves.
    Leave,
    /// Kill new, wait for its end, and serve on.
    GiveUp(Reason),
}

/// The state of the old process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Old {
    step: Step,
}

impl Old {
    /// The state after new was started.
    pub(super) const fn begin() -> Self {
        Self { step: Step::Started }
    }

    #[cfg(test)]
    pub(super) const fn step(&self) -> Step {
        self.step
    }

    /// Decides what follows from an event. Nothing follows once the attempt is over.
    pub(super) fn handle(&mut self, event: Event) -> Option<Action> {
        let (step, action) = self.decide(event)?;
        self.step = step;
        Some(action)
    }

    fn decide(&self, event: Event) -> Option<(Step, Action)> {
        let next = match (self.step, event) {
            (Step::Left | Step::Resumed, _) => return None,
            (Step::Started, Event::Came(Kind::Hello)) => (Step::Offered, Action::Offer),
            (Step::Offered, Event::Came(Kind::Prepared)) => (Step::Parking, Action::Park),
            (Step::Parking, Event::Parked) => (Step::Sending, Action::Send),
            (Step::Sending, Event::SentAll) => (Step::Sent, Action::Wait),
            (Step::Sent, Event::Came(Kind::Ack)) => (Step::Committed, Action::Commit),
            (Step::Committed, Event::Came(Kind::Taken)) => (Step::Left, Action::Leave),
            (Step::Committed, Event::Late) => (Step::Committed, Action::Halt),
            (_, Event::Came(Kind::Error)) => give_up(Reason::Declined),
            (_, Event::Came(_)) => give_up(Reason::Channel),
            (_, Event::Ended) => give_up(Reason::Died),
            (Step::Parking, Event::Late) => give_up(Reason::NotParked),
            (_, Event::Late | Event::Halted) => give_up(Reason::Late),
            (_, Event::Failed(reason)) => give_up(reason),
            (_, Event::Parked | Event::SentAll) => give_up(Reason::Channel),
        };
        Some(next)
    }
}

const fn give_up(reason: Reason) -> (Step, Action) {
    (Step::Resumed, Action::GiveUp(reason))
}
