//! Signals, reloads and the service manager: what a loop leaves to the program.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use saltecho::proto::Protocol;
use saltecho::server::{Control, Handle, ServiceState, Stats};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::journal;
use super::notify::Notifier;
use crate::cli::keyfile::{KeyArgs, Keys};
use crate::cli::log::{Level, Log};
use crate::cli::values::Limit;

/// The signals that have a meaning.
pub(super) const SIGNALS: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1];

/// The program's side of the loops. They call it, so nothing in it blocks but the reading of the
/// key file.
pub(super) struct ServiceControl {
    log: Log,
    keys: KeyArgs,
    protocol: Protocol,
    /// The addresses that keys are judged for.
    addresses: Vec<SocketAddr>,
    drain_delay: Duration,
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
    /// A control that reads the keys of `keys` again for a server at `addresses`.
    ///
    /// # Errors
    /// Those of [`Notifier::from_env`].
    pub(super) fn new(
        log: &Log,
        keys: &KeyArgs,
        protocol: Protocol,
        addresses: &[SocketAddr],
        drain_delay: Duration,
    ) -> Result<Self> {
        let manager = Notifier::from_env()?.map(|notifier| Manager {
            log: log.clone(),
            notifier: Arc::new(Mutex::new(Some(notifier))),
        });
        Ok(Self {
            log: log.clone(),
            keys: keys.clone(),
            protocol,
            addresses: addresses.to_owned(),
            drain_delay,
            draining: false,
            manager,
        })
    }

    fn load_keys(&self) -> Result<Keys> {
        match self.keys.key_file {
            Some(_) => Keys::for_server(&self.keys, self.protocol, &self.addresses),
            None => Err(anyhow!("there is no key file (-k)")),
        }
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
        let result = self.load_keys().map(|keys| {
            server.replace_keyring(keys.keyring);
            format!("keys reloaded: {}", keys.names.join(", "))
        });
        let result = result
            .map_err(|error| format!("keys not reloaded, the old ones stay valid: {error:#}"));
        match &result {
            Ok(text) => self.log.print(Level::Normal, text),
            Err(text) => self.log.warn_at(Level::Quiet, text),
        }
        if let Some(manager) = &self.manager {
            let failure = result.as_ref().err().cloned();
            manager.notify(|notifier| {
                notifier.reloaded(failure);
                Ok(())
            });
        }
        result
    }

    fn state(&mut self, state: ServiceState, _: &Handle) {
        match state {
            ServiceState::Unready => {
                let delay = Limit(Some(self.drain_delay));
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
