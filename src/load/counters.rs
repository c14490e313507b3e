use super::Mode;
use super::session::Session;

/// Counters of the work in progress: connections that were started and messages that are due.
///
/// Every change goes through a method that is named after what happened, and
/// [`check`](Self::check) compares the sums with the sessions that they are sums of.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections or cycles that were started.
    dialed: u64,
    /// Connections that are not authenticated: their probe is not answered yet.
    opening: usize,
    /// Messages that are due and neither answered nor given up, waiting cycles included.
    pending: u64,
    /// Cycles that are due and not started.
    waiting_cycles: u64,
}

impl Counters {
    pub(super) const fn dialed(&self) -> u64 {
        self.dialed
    }

    pub(super) const fn opening(&self) -> usize {
        self.opening
    }

    pub(super) const fn pending(&self) -> u64 {
        self.pending
    }

    pub(super) const fn waiting_cycles(&self) -> u64 {
        self.waiting_cycles
    }

    /// Starts a connection or cycle. Returns its number.
    pub(super) const fn dial(&mut self) -> u64 {
        self.dialed += 1;
        self.dialed - 1
    }

    /// A connection that was started has a socket.
    pub(super) const fn entered(&mut self) {
        self.opening += 1;
    }

    /// The probe of a connection was answered.
    pub(super) const fn authenticated(&mut self) {
        self.opening -= 1;
    }

    /// A connection ended.
    pub(super) fn left(&mut self, has_authenticated: bool) {
        self.opening -= usize::from(!has_authenticated);
    }

    /// Messages became due.
    pub(super) const fn begin(&mut self, messages: u64) {
        self.pending += messages;
    }

    /// Cycles became due; they wait until there is room for a connection.
    pub(super) const fn begin_cycles(&mut self, cycles: u64) {
        self.begin(cycles);
        self.waiting_cycles += cycles;
    }

    /// Takes one of the waiting cycles, which is then to be dialed; false if there is none.
    pub(super) fn take_cycle(&mut self) -> bool {
        let taken = self.waiting_cycles > 0;
        self.waiting_cycles -= u64::from(taken);
        taken
    }

    /// A message was answered.
    pub(super) const fn answered(&mut self) {
        self.pending -= 1;
    }

    /// Messages were given up: their connection is gone, or the run is over.
    pub(super) const fn lost(&mut self, messages: u64) {
        self.pending -= messages;
    }

    /// The run is over, and with it the cycles that still wait. Returns their number.
    pub(super) const fn lose_waiting_cycles(&mut self) -> u64 {
        let cycles = self.waiting_cycles;
        self.waiting_cycles = 0;
        self.lost(cycles);
        cycles
    }

    /// Compares the counters with the sessions that are there.
    ///
    /// # Panics
    /// If they disagree: that is a fault of this crate.
    pub(super) fn check<'a>(&self, mode: Mode, sessions: impl Iterator<Item = &'a Session>) {
        let (mut present, mut opening, mut unanswered) = (0, 0, 0);
        for session in sessions {
            present += 1;
            opening += usize::from(!session.has_authenticated());
            let pending = session.pending();
            unanswered += match mode {
                // A cycle is one message: its probe.
                Mode::Connect => u64::from(!session.has_authenticated()),
                Mode::Echo | Mode::Idle => pending.end - pending.start,
            };
        }
        assert!(present <= self.dialed, "{present} connections of {} dialed", self.dialed);
        assert_eq!(opening, self.opening, "connections whose probe is not answered");
        assert_eq!(unanswered + self.waiting_cycles, self.pending, "pending messages");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::python::Monotonic;

    /// A session with its probe and one message pending, and its counters.
    fn world() -> (Counters, Session) {
        let mut counters = Counters::default();
        let mut session = Session::new(counters.dial(), 0, Monotonic::ZERO);
        counters.entered();
        session.due += 1;
        counters.begin(1);
        (counters, session)
    }

    /// The check must fail when a counter is wrong.
    #[test]
    fn each_wrong_counter_is_found() {
        type Falsify = fn(&mut Counters);
        let falsify: [(&str, Falsify); 5] = [
            ("connections of 0 dialed", |counters| counters.dialed -= 1),
            ("probe is not answered", Counters::entered),
            ("probe is not answered", Counters::authenticated),
            ("pending messages", |counters| counters.begin(1)),
            ("pending messages", |counters| counters.waiting_cycles += 1),
        ];
        for (expected, falsify) in falsify {
            let (mut counters, session) = world();
            counters.check(Mode::Echo, [&session].into_iter());
            falsify(&mut counters);
            let check = || counters.check(Mode::Echo, [&session].into_iter());
            let panic = catch_unwind(AssertUnwindSafe(check)).unwrap_err();
            let message = panic.downcast_ref::<String>().expect("it has a message");
            assert!(message.contains(expected), "{expected:?} expected, not {message:?}");
        }
    }

    #[test]
    fn a_cycle_is_pending_while_it_waits_and_until_its_probe_is_answered() {
        let mut counters = Counters::default();
        counters.begin_cycles(2);
        counters.check(Mode::Connect, [].into_iter());
        assert!(counters.take_cycle());
        let session = Session::new(counters.dial(), 0, Monotonic::ZERO);
        counters.entered();
        counters.check(Mode::Connect, [&session].into_iter());
        counters.lost(1);
        counters.left(session.has_authenticated());
        assert_eq!((counters.pending(), counters.lose_waiting_cycles()), (1, 1));
        counters.check(Mode::Connect, [].into_iter());
        assert!(!counters.take_cycle());
    }
}
