//! The signals of a server: drain, reload, counters.

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use saltecho::server::Handle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator;

use super::journal;
use crate::cli::keyfile::Keys;
use crate::cli::log::{Level, Log};
use crate::cli::signals::not_ignored;

/// The signals of a serving program, caught from here on and handled by [`watch`](Self::watch).
pub(super) struct Signals(iterator::Signals);

/// The thread that handles them. Once it is dropped they are ignored.
pub(super) struct Watch {
    handle: iterator::Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches those that are not ignored.
    pub(super) fn catch() -> Result<Self> {
        let signals = iterator::Signals::new(not_ignored(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1]));
        Ok(Self(signals.context("cannot catch signals")?))
    }

    /// Handles signals on a thread: `reload` reads the keys again, and says what they are.
    pub(super) fn watch(
        mut self,
        server: Handle,
        log: Log,
        reload: impl Fn() -> Result<Keys> + Send + 'static,
    ) -> Result<Watch> {
        let handle = self.0.handle();
        let work = move || {
            let mut draining = false;
            for signal in self.0.forever() {
                match signal {
                    SIGHUP => replace_keys(&server, &log, &reload),
                    SIGUSR1 => {
                        if let Some(stats) = server.stats() {
                            log.print(Level::Quiet, journal::counters(&stats));
                        }
                    }
                    _ if draining => server.stop(),
                    _ => {
                        draining = true;
                        server.drain();
                        log.print(Level::Normal, "draining: no new connections, finishing pending answers; signal again to stop now");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(work);
        let thread = thread.context("cannot start a thread for signals")?;
        Ok(Watch { handle, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
        // A panic there was printed there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn replace_keys(server: &Handle, log: &Log, reload: &impl Fn() -> Result<Keys>) {
    match reload() {
        Ok(keys) => {
            server.replace_keyring(keys.keyring);
            log.print(Level::Normal, format_args!("keys reloaded: {}", keys.names));
        }
        Err(error) => {
            log.warn_at(Level::Quiet, format_args!("the old keys stay in force: {error:#}"));
        }
    }
}
