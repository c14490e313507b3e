//! The new process of an upgrade as a state machine: no sockets, no clock, no process.
//!
//! It has no deadlines: while old is there, old decides, and kills it if need be. It serves only
//! once it has read COMMIT, or once it has everything and old is dead.

use super::message::Kind;

/// The step that the new process is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// HELLO was sent; OFFER is due.
    Greeted,
    /// It checks its settings and takes memory.
    Preparing,
    /// PREPARED was sent; records come.
    Receiving,
    /// END came; it registers everything.
    Restoring,
    /// ACK was sent; nothing that can fail is left.
    Acknowledged,
    /// It serves.
    Serving,
    /// It has given up.
    Over,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// This message came.
    Came(Kind),
    /// The step is done.
    Done,
    /// The step cannot be done.
    Failed,
    /// The channel is closed, nothing in it is left, and old lives or not.
    Closed {
        /// Old lives.
        old_lives: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Wait for the next message.
    Wait,
    /// Check what old offers, and prepare for it.
    Prepare,
    /// Send PREPARED.
    SendPrepared,
    /// Take the message's records or state.
    Store,
    /// Compare the totals, and register everything.
    Restore,
    /// Send ACK.
    SendAck,
    /// Send TAKEN, if there is a process to send it to, and serve.
    Serve,
    /// Say why, and exit. The sockets are not touched.
    Exit,
}

/// The state of the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct New {
    step: Step,
}

impl New {
    /// The state after HELLO was sent.
    pub(super) const fn begin() -> Self {
        Self { step: Step::Greeted }
    }

    #[cfg(test)]
    pub(super) const fn step(&self) -> Step {
        self.step
    }

    /// Decides what follows from an event.
    pub(super) fn handle(&mut self, event: Event) -> Action {
        let (step, action) = match (self.step, event) {
            (Step::Serving, _) => (Step::Serving, Action::Wait),
            (Step::Greeted, Event::Came(Kind::Offer)) => (Step::Preparing, Action::Prepare),
            (Step::Preparing, Event::Done) => (Step::Receiving, Action::SendPrepared),
            (Step::Receiving, Event::Came(Kind::Records(_) | Kind::Program)) => {
                (Step::Receiving, Action::Store)
            }
            (Step::Receiving, Event::Came(Kind::End)) => (Step::Restoring, Action::Restore),
            (Step::Restoring, Event::Done) => (Step::Acknowledged, Action::SendAck),
            (
                Step::Acknowledged,
                Event::Came(Kind::Commit) | Event::Closed { old_lives: false },
            ) => (Step::Serving, Action::Serve),
            _ => (Step::Over, Action::Exit),
        };
        self.step = step;
        action
    }
}
