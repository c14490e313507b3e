//! What a loop leaves to its program: signals, reloads, and reporting the state of the service.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::sync::Mutex;
use super::{Handle, Lifecycle, Server};
use crate::metrics::Upgrades;
use crate::proto::{Handler, guarded};
use crate::python::Monotonic;
use crate::reactor::{Kernel, Note, Wake};

/// Decides what signals and operators' commands mean, and reports the service's state to its
/// manager.
///
/// The loop calls it between two connections' turns, so it must not block: all connections wait
/// meanwhile. Reading a small file is fine; looking up a name is not. If it panics, that is counted
/// ([`Stats::observer_panics`](super::Stats)), and it is called again next time. `server` reaches
/// all loops; those calls of it that wait for a loop return nothing here, so ask with
/// [`Handle::with_stats`].
///
/// With several loops, the first has the control.
#[allow(unused_variables)] // What is not overridden does nothing.
pub trait Control: Send {
    /// A signal came: one of those that [`Kernel::catch_signals`] caught.
    fn signal(&mut self, signal: i32, server: &Handle) {}

    /// Reads keys and settings again and applies them with `server`; called for
    /// [`Handle::reload`]. [`ServiceState::Reloading`] is reported before.
    ///
    /// # Errors
    /// The fault of the new ones, in one line. Then those in force must not change.
    fn reload(&mut self, server: &Handle) -> Result<String, String> {
        Err("there is nothing to reload".to_owned())
    }

    /// Changes what is logged from now on.
    ///
    /// # Errors
    /// The reason for the refusal, with the levels that there are.
    fn set_log_level(&mut self, level: &str) -> Result<String, String> {
        Err("the log has one level only".to_owned())
    }

    /// The service is in another state than when this was last called.
    fn state(&mut self, state: ServiceState, server: &Handle) {}

    /// Time between two calls of [`tick`](Self::tick); `None` for no calls.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// Called once per [`period`](Self::period), at the end of a turn, so a loop that is stuck does
    /// not call it. The other loops have turned too once they have answered
    /// [`Handle::with_stats`].
    fn tick(&mut self, server: &Handle) {}

    /// Begins to hand everything over to a new process, or only checks with one whether that would
    /// work. It returns at once, and `outcome` is set when it is over.
    fn upgrade(&mut self, check: bool, outcome: Outcome, server: &Handle) {
        outcome.set(Err("this program has no successor to hand over to".to_owned()));
    }

    /// The upgrades so far, for a scrape; `None` if there can be none.
    fn upgrades(&self) -> Option<Upgrades> {
        None
    }

    /// Lines left out of the log so far.
    fn log_lines_suppressed(&self) -> u64 {
        0
    }
}

/// The place for the outcome of something that takes longer than a turn. One that is dropped unset
/// counts as a failure.
#[must_use]
pub struct Outcome(Option<Arc<Expected>>);

/// The other side of an [`Outcome`], which waits for it.
pub(super) struct Expected {
    result: Mutex<Option<Result<String, String>>>,
    home: Arc<dyn Wake>,
}

impl Outcome {
    pub(super) fn new(home: Arc<dyn Wake>) -> (Self, Arc<Expected>) {
        let expected = Arc::new(Expected { result: Mutex::new(None), home });
        (Self(Some(Arc::clone(&expected))), expected)
    }

    /// Sets it: one line about what was done, or the reason why it was not. It may be called on any
    /// thread.
    pub fn set(mut self, result: Result<String, String>) {
        self.put(result);
    }

    fn put(&mut self, result: Result<String, String>) {
        if let Some(expected) = self.0.take() {
            *expected.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            expected.home.wake();
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.put(Err("it failed within the program".to_owned()));
    }
}

impl Expected {
    /// Takes the outcome, if it is there.
    pub(super) fn take(&self) -> Option<Result<String, String>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The state of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceState {
    /// It listens and serves.
    Ready,
    /// It serves, and [`Control::reload`] is about to be called.
    Reloading,
    /// It still accepts and serves, but is to get no new clients
    /// ([`Limits::drain_delay`](super::Limits::drain_delay)).
    Unready,
    /// Its listeners are closed, and connections are being finished.
    Draining,
    /// It has ended.
    Stopped,
}

impl ServiceState {
    const fn new(lifecycle: Lifecycle) -> Self {
        match lifecycle {
            Lifecycle::Running => Self::Ready,
            Lifecycle::Unready { .. } => Self::Unready,
            Lifecycle::Draining { .. } => Self::Draining,
            Lifecycle::Stopped => Self::Stopped,
        }
    }
}

/// A control with what the loop has to know of it.
pub(super) struct Controlled {
    control: Box<dyn Control>,
    /// Reaches all the loops, this one among them.
    all: Handle,
    reported: Option<ServiceState>,
    next_tick: Monotonic,
}

impl Controlled {
    /// When the control has to be called next.
    pub(super) const fn next_tick(&self) -> Monotonic {
        self.next_tick
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Leaves decisions to `control` from now on, which acts on the loops that `all` reaches.
    pub fn set_control(&mut self, control: Box<dyn Control>, all: Handle) {
        // The first turn reports the state and ticks.
        let next_tick = Monotonic::ZERO;
        let controlled = Controlled { control, all, reported: None, next_tick };
        self.controlled = Some(Box::new(controlled));
    }

    /// Goes on as after a turn in which the state was reported, with the next tick at this time.
    pub(super) fn restore_control(&mut self, next_tick: Monotonic) {
        let reported = ServiceState::new(self.lifecycle);
        if let Some(controlled) = &mut self.controlled {
            (controlled.reported, controlled.next_tick) = (Some(reported), next_tick);
        }
    }

    /// Returns whether new clients are welcome: false from the turn in which a drain begins.
    pub fn is_ready(&self) -> bool {
        self.lifecycle == Lifecycle::Running
    }

    /// Calls the control, whose panic must not end the loop. `None` if it panicked, or there is
    /// none.
    pub(super) fn control<T>(
        &mut self,
        call: impl FnOnce(&mut dyn Control, &Handle) -> T,
    ) -> Option<T> {
        let Controlled { control, all, .. } = &mut **self.controlled.as_mut()?;
        let result = guarded(|| call(&mut **control, all));
        if result.is_none() {
            self.stats.observer_panics += 1;
        }
        result
    }

    pub(super) fn handle_signals(&mut self) {
        while let Some(signal) = self.reactor.kernel.next_signal() {
            self.control(|control, all| control.signal(signal, all));
        }
    }

    /// Reloads keys and settings. A service that is ending says nothing of it to its manager.
    pub(super) fn reload(&mut self) -> Result<String, String> {
        if self.is_ready() {
            self.report(ServiceState::Reloading);
        }
        let reloaded = self.control(|control, all| control.reload(all));
        reloaded.unwrap_or_else(|| Err("the reload failed within the program".to_owned()))
    }

    /// Returns true if the state is another than the one reported last, or a tick is due.
    #[inline]
    pub(super) fn has_news_for_control(&self) -> bool {
        self.controlled.as_ref().is_some_and(|controlled| {
            controlled.reported != Some(ServiceState::new(self.lifecycle))
                || controlled.next_tick <= self.reactor.now()
        })
    }

    /// Reports a state that is new, and ticks if it is time. Not inlined: it is the last step of each turn
    /// only of a loop that is controlled.
    #[inline(never)]
    pub(super) fn keep_control_informed(&mut self) {
        self.report_state();
        let now = self.reactor.now();
        if self.controlled.as_ref().is_some_and(|controlled| controlled.next_tick <= now) {
            let period = match self.reactor.kernel.replayed(|note| matches!(note, Note::Tick(_))) {
                Some(Note::Tick(period)) => period,
                _ => self.tick(),
            };
            self.reactor.kernel.note(|| Note::Tick(period));
            if let Some(controlled) = &mut self.controlled {
                controlled.next_tick =
                    period.map_or(Monotonic::NEVER, |period| now.saturating_add(period));
            }
        }
    }

    /// Calls the control for its tick; returns the time after which to call it again.
    fn tick(&mut self) -> Option<Duration> {
        let period = self.control(|control, all| {
            control.tick(all);
            control.period()
        });
        // After a panic it is called again, though not at once.
        period.unwrap_or(Some(Duration::from_secs(1)))
    }

    /// Reports the state, if it is another than at the last report.
    pub(super) fn report_state(&mut self) {
        self.report(ServiceState::new(self.lifecycle));
    }

    fn report(&mut self, state: ServiceState) {
        let Some(controlled) = &mut self.controlled else { return };
        if controlled.reported.replace(state) != Some(state) {
            self.control(|control, all| control.state(state, all));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Faults, SimKernel};

    /// Overrides nothing.
    struct Idle;

    impl Control for Idle {}

    #[test]
    fn a_control_says_what_it_cannot_do() {
        let nobody = Handle::from_iter([]);
        assert_eq!(Idle.reload(&nobody).unwrap_err(), "there is nothing to reload");
        assert_eq!(Idle.set_log_level("debug").unwrap_err(), "the log has one level only");
        assert!(Idle.upgrades().is_none());
        assert_eq!((Idle.period(), Idle.log_lines_suppressed()), (None, 0));
    }

    #[test]
    fn an_upgrade_that_nobody_makes_is_refused_and_a_lost_one_has_failed() {
        let waker = || SimKernel::new(1, Faults::none()).waker();
        let (outcome, expected) = Outcome::new(waker());
        Idle.upgrade(false, outcome, &Handle::from_iter([]));
        let refusal = "this program has no successor to hand over to".to_owned();
        assert_eq!((expected.take(), expected.take()), (Some(Err(refusal)), None));
        let (outcome, expected) = Outcome::new(waker());
        assert_eq!(expected.take(), None);
        drop(outcome);
        assert_eq!(expected.take(), Some(Err("it failed within the program".to_owned())));
    }
}
