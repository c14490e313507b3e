//! Signals, reloads and the service manager: what a loop leaves to the program.

use std::time::Duration;

use anyhow::Result;
use saltecho::metrics::Upgrades;
use saltecho::server::{Control, Handle, Outcome, ServiceState, Stats};
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};

use super::journal;
use super::notify::Manager;
use super::reload::Running;
use super::upgrade::Upgrader;
use crate::cli::log::{Level, Log, NoLevel};
use crate::cli::values::Limit;

/// The program's side of the loops. They call it, so nothing in it blocks but the reading of the
/// configuration and the key file.
pub(super) struct ServiceControl {
    log: Log,
    running: Running,
    draining: bool,
    /// Known from the first state on.
    server: Option<Handle>,
    manager: Option<Manager>,
    upgrader: Upgrader,
}

impl ServiceControl {
    /// A control of a server with these settings.
    pub(super) fn new(
        log: &Log,
        running: Running,
        manager: Option<Manager>,
        upgrader: Upgrader,
    ) -> Self {
        Self { log: log.clone(), running, draining: false, server: None, manager, upgrader }
    }

    /// At `verbose` the end of a connection is logged with what its record tells, so from then on
    /// records are kept.
    fn keep_records_for(&self, level: Level) {
        if let Some(server) = self.server.as_ref().filter(|_| level == Level::Verbose) {
            server.keep_records(true);
        }
    }
}

impl Control for ServiceControl {
    fn signal(&mut self, signal: i32, server: &Handle) {
        if self.upgrader.forward(signal) {
            return;
        }
        match signal {
            SIGHUP => server.reload(),
            SIGUSR2 => self.upgrader.ask("SIGUSR2", false, None, server),
            SIGUSR1 => {
                let log = self.log.clone();
                server.with_stats(move |stats| {
                    journal::print_counters(&log, Level::Quiet, &stats);
                });
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
            Ok(report) => {
                if let Some(level) = report.log_level {
                    self.log.configure_level(level);
                    self.keep_records_for(level);
                }
                report.log(&self.log);
            }
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

    fn set_log_level(&mut self, level: &str) -> Result<String, String> {
        let level: Level = level.parse().map_err(|error: NoLevel| error.to_string())?;
        self.log.set_level(level);
        self.keep_records_for(level);
        Ok(format!("the log level is now {}", level.name()))
    }

    fn upgrade(&mut self, check: bool, outcome: Outcome, server: &Handle) {
        self.upgrader.ask("the admin endpoint", check, Some(outcome), server);
    }

    fn upgrades(&self) -> Option<Upgrades> {
        Some(self.upgrader.upgrades())
    }

    fn log_lines_suppressed(&self) -> u64 {
        self.upgrader.lines_suppressed_before() + self.log.suppressed()
    }

    fn state(&mut self, state: ServiceState, server: &Handle) {
        if self.upgrader.has_left() {
            // The service goes on, elsewhere.
            return;
        }
        self.server.get_or_insert_with(|| server.clone());
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
        if !matches!(state, ServiceState::Ready | ServiceState::Reloading) {
            self.draining = true;
            self.upgrader.drain();
        }
        if let Some(manager) = &self.manager {
            manager.notify(|notifier| notifier.state(state));
        }
    }

    fn period(&self) -> Option<Duration> {
        self.manager.as_ref()?.period()
    }

    /// Feeds the watchdog once every loop has answered.
    fn tick(&mut self, server: &Handle) {
        if self.upgrader.has_left() {
            return;
        }
        if let Some(manager) = self.manager.clone() {
            server.with_stats(move |stats: Stats| {
                manager.notify(|notifier| notifier.beat(&stats));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::log::LogFormat;
    use crate::cli::serve::settings::{PassedPlaces, Settings};

    #[test]
    fn the_level_of_the_log_is_set_by_name() {
        let (log, thread) = Log::start(Level::Normal, LogFormat::Auto).unwrap();
        let Command::Serve(args) = Cli::parse_from(["saltecho", "serve"]).command else {
            unreachable!()
        };
        let settings = Settings::check(&args, PassedPlaces::default()).unwrap();
        let upgrader = Upgrader::new(&log, 1, Duration::from_secs(5), None).unwrap();
        let running = Running::new(&args, &settings);
        let mut control = ServiceControl::new(&log, running, None, upgrader);
        for (name, enabled) in [("verbose", Level::Verbose), ("quiet", Level::Quiet)] {
            let answer = control.set_log_level(name).unwrap();
            assert_eq!(answer, format!("the log level is now {name}"));
            assert!(log.is_enabled(enabled));
        }
        assert!(!log.is_enabled(Level::Normal));
        let refused = control.set_log_level("loud").unwrap_err();
        assert_eq!(refused, "no such log level: use quiet, normal or verbose");
        assert_eq!(control.log_lines_suppressed(), 0);
        drop((log, control));
        assert!(thread.finish());
    }
}
