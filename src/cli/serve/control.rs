//! Signals, reloads and the service manager: what a loop leaves to the program.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use saltecho::server::{Control, Handle, ServiceState, Stats};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::journal;
use super::notify::Notifier;
use super::reload::Running;
use crate::cli::log::{Level, Log};
use crate::cli::values::Limit;

/// The signals that have a meaning.
pub(super) const SIGNALS: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1];

/// The program's side of the loops. They call it, so nothing in it blocks but the reading of the
/// configuration and the key file.
pub(super) struct ServiceControl {
    log: Log,
    running: Running,
    draining: bool,
    manager: Option<Manager>,
}

/// The service manager. Shared with the loop that is the last to answer.
#[derive(Clone)]
struct Manager {
    log: Log,
    notifier: Arc<Mutex<Option<Notifier>>>,
}

impl ServiceControl {
    /// A control of a server with these settings.
    ///
    /// # Errors
    /// Those of [`Notifier::from_env`].
    pub(super) fn new(log: &Log, running: Running) -> Result<Self> {
        let manager = Notifier::from_env()?.map(|notifier| Manager {
            log: log.clone(),
            notifier: Arc::new(Mutex::new(Some(notifier))),
        });
        Ok(Self { log: log.clone(), running, draining: false, manager })
    }
}

impl Control for ServiceControl {
    fn signal(&mut self, signal: i32, server: &Handle) {
        match signal {
            SIGHUP => server.reload(),
            SIGUSR1 => {
                let log = self.log.clone();
                server.with_stats(move |stats| log.print(Level::Quiet, journal::counters(&stats)));
            }
            _ if self.draining => server.stop(),
            _ => {
                self.draining = true;
                server.drain();
            }
        }
    }

    fn reload(&mut self, server: &Handle) -> Result<String, String> {
        let result = self
            .running
            .reload(server)
            .map_err(|failure| format!("{}: {}", self.running.not_reloaded(), failure.text()));
        match &result {
            Ok(report) => report.log(&self.log),
            Err(text) => self.log.warn_at(Level::Quiet, text),
        }
        if let Some(manager) = &self.manager {
            let failure = result.as_ref().err().cloned();
            manager.notify(|notifier| {
                notifier.reloaded(failure);
                Ok(())
            });
        }
        result.map(|report| report.to_string())
    }

    fn state(&mut self, state: ServiceState, _: &Handle) {
        match state {
            ServiceState::Unready => {
                let delay = Limit(Some(self.running.drain_delay()));
                let text = format_args!(
                    "draining in {delay}: not ready, but still accepting; signal again to stop now"
                );
                self.log.print(Level::Normal, text);
            }
            ServiceState::Draining => self.log.print(
                Level::Normal,
                "draining: no new connections, finishing pending answers; signal again to stop now",
            ),
            _ => {}
        }
        self.draining |= matches!(state, ServiceState::Unready | ServiceState::Draining);
        if let Some(manager) = &self.manager {
            manager.notify(|notifier| notifier.state(state));
        }
    }

    fn period(&self) -> Option<Duration> {
        let notifier = self.manager.as_ref()?.notifier.lock();
        notifier.unwrap_or_else(PoisonError::into_inner).as_ref().map(Notifier::period)
    }

    /// Feeds the watchdog once every loop has answered.
    fn tick(&mut self, server: &Handle) {
        if let Some(manager) = self.manager.clone() {
            server.with_stats(move |stats: Stats| {
                manager.notify(|notifier| notifier.beat(&stats));
            });
        }
    }
}

impl Manager {
    /// Reports to the manager, unless that has failed before.
    fn notify(&self, report: impl FnOnce(&mut Notifier) -> std::io::Result<()>) {
        let mut notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = notifier.as_mut().map(report) {
            self.log.warn(format_args!(
                "cannot report to the service manager, and will not again: NOTIFY_SOCKET: {error}"
            ));
            *notifier = None;
        }
    }
}
