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

/// The signals of a server, caught from here on and handled by [`spawn`](Self::spawn).
pub(super) struct Signals(iterator::Signals);

/// The thread that handles them. Once it is dropped they have no effect.
pub(super) struct SignalThread {
    handle: iterator::Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches the signals that were not ignored at startup.
    pub(super) fn catch() -> Result<Self> {
        let signals = iterator::Signals::new(not_ignored(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1]));
        Ok(Self(signals.context("cannot catch signals")?))
    }

    /// Handles signals on a thread of their own. `reload` reads the keys again.
    pub(super) fn spawn(
        mut self,
        server: Handle,
        log: Log,
        reload: impl Fn() -> Result<Keys> + Send + 'static,
    ) -> Result<SignalThread> {
        let handle = self.0.handle();
        let work = move || {
            let mut draining = false;
            for signal in self.0.forever() {
                match signal {
                    SIGHUP => replace_keys(&server, &log, &reload),
                    SIGUSR1 => {
                        if let Some(stats) = server.stats() {
                            journal::print_counters(&log, Level::Quiet, &stats);
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
        Ok(SignalThread { handle, thread: Some(thread) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        // A panic of the thread has printed itself.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn replace_keys(server: &Handle, log: &Log, reload: &impl Fn() -> Result<Keys>) {
    match reload() {
        Ok(keys) => {
            server.replace_keyring(keys.keyring);
            log.print(Level::Normal, format_args!("keys reloaded: {}", keys.names.join(", ")));
        }
        Err(error) => {
            log.warn_at(
                Level::Quiet,
                format_args!("keys not reloaded, the old ones stay valid: {error:#}"),
            );
        }
    }
}
