use std::time::Duration;

use crate::load::{ErrorKind, Interval, Mode, Phase, Plan};

/// Notices that a rate is above capacity: the messages that wait to be sent become ever more.
///
/// Latencies of such a window describe how long it was, not the server. It is enough that more than a
/// hundredth of what was due is waiting, and more than could be in flight, after the backlog has grown in
/// each of three seconds: the last in a row, so a stall that has ended does not count.
#[derive(Clone, Debug)]
pub struct Backlog {
    mode: Mode,
    /// Messages that can be in flight at once.
    in_flight: u64,
    due: u64,
    pending: u64,
    growths: u32,
}

impl Backlog {
    /// Seconds in a row in which the backlog has to grow.
    const GROWTHS: u32 = 3;
    /// Share of the due messages that has to wait: one in this many.
    const SHARE: u64 = 100;
    /// A shorter interval, at the end of a window, tells little.
    const SHORTEST: Duration = Duration::from_millis(500);

    /// The backlog of a load of this plan.
    pub fn new(plan: &Plan) -> Self {
        let in_flight = match plan.mode {
            Mode::Connect => plan.connections as u64,
            Mode::Echo | Mode::Idle => plan.active as u64 * plan.in_flight as u64,
        };
        Self { mode: plan.mode, in_flight, due: 0, pending: 0, growths: 0 }
    }

    /// Takes the next interval. Returns true if the load should be ended: its backlog grows without
    /// bound.
    pub fn take(&mut self, interval: &Interval) -> bool {
        if interval.phase != Phase::Measure {
            return false;
        }
        let counts = &interval.record.counts;
        let lost = match self.mode {
            Mode::Connect => counts.errors.total(),
            Mode::Echo | Mode::Idle => counts.errors.of(ErrorKind::Unanswered),
        };
        let before = self.pending;
        self.due += counts.due;
        self.pending = (self.pending + counts.due).saturating_sub(counts.answered + lost);
        if interval.length >= Self::SHORTEST {
            self.growths = if self.pending > before { self.growths + 1 } else { 0 };
        }
        self.growths >= Self::GROWTHS && self.is_large()
    }

    /// Returns true if so much was waiting at the end of the window that its latencies describe the
    /// backlog, even if the window was too short to see it grow.
    pub const fn is_large(&self) -> bool {
        self.pending > self.in_flight && self.pending.saturating_mul(Self::SHARE) > self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, MacAlgorithm};
    use crate::load::Record;

    /// The second in which it is noticed, and whether much is waiting at the end. Ten messages can be in
    /// flight.
    fn noticed(seconds: &[(u64, u64)]) -> (Option<usize>, bool) {
        let mut plan = Plan::new("127.0.0.1:9".parse().unwrap(), Key::demo(), MacAlgorithm::Md5);
        (plan.connections, plan.active) = (10, 10);
        let mut backlog = Backlog::new(&plan);
        let mut when = None;
        for (second, (due, answered)) in seconds.iter().enumerate() {
            let mut interval = Interval::default();
            (interval.phase, interval.length) = (Phase::Measure, Duration::from_secs(1));
            interval.record = Record::new();
            (interval.record.counts.due, interval.record.counts.answered) = (*due, *answered);
            if backlog.take(&interval) {
                when = when.or(Some(second));
            }
        }
        (when, backlog.is_large())
    }

    #[test]
    fn a_backlog_that_grows_is_noticed_in_the_third_second() {
        assert_eq!(noticed(&[(1000, 900); 9]), (Some(2), true));
        assert_eq!(noticed(&[(1000, 0); 2]), (None, true), "too short, but large");
        assert_eq!(noticed(&[(1000, 1000); 9]), (None, false));
        assert_eq!(noticed(&[(1000, 998); 9]), (None, false), "a five-hundredth");
    }

    #[test]
    fn a_stall_that_ends_is_not_overload() {
        let stall = [(1000, 1000), (1000, 0), (1000, 0), (1000, 3000), (1000, 1000)];
        assert_eq!(noticed(&stall), (None, false));
        // What is in flight is no backlog.
        assert_eq!(noticed(&[(3, 0), (3, 0), (3, 0), (0, 0)]), (None, false));
    }

    #[test]
    fn only_the_measurement_counts() {
        let plan = Plan::new("127.0.0.1:9".parse().unwrap(), Key::demo(), MacAlgorithm::Md5);
        let mut backlog = Backlog::new(&plan);
        let mut interval = Interval::default();
        (interval.phase, interval.length) = (Phase::Ramp, Duration::from_secs(1));
        interval.record.counts.due = 1000;
        assert!(!(0..9).any(|_| backlog.take(&interval)));
    }
}
