use std::fs;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use saltecho::server::Handle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator;

use super::keyfile::Keys;
use super::log::{Level, Log};
use super::report;

/// Makes a write that would exceed the limit on file sizes (`ulimit -f`) fail with EFBIG. Without a
/// handler the kernel ends the program with SIGXFSZ.
pub(super) fn outlive_file_size_limit() {
    // If there can be no handler, a limit that is reached ends the program as it ends others.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
}

/// Those of `signals` that were not ignored when the program started.
///
/// An ignored signal is inherited: `nohup` starts a program without SIGHUP, and a shell without
/// job control starts one with `&` without SIGINT, because both are meant for other programs.
/// Without /proc it cannot be known, and none counts as ignored.
pub(super) fn not_ignored(signals: &[i32]) -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored_mask(&status).unwrap_or(0);
    signals.iter().copied().filter(|signal| ignored >> (signal - 1) & 1 == 0).collect()
}

/// The field `SigIgn` of proc(5): a bit for each signal, the lowest for signal 1.
fn ignored_mask(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

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
                            log.say(Level::Quiet, report::counters(&stats));
                        }
                    }
                    _ if draining => server.stop(),
                    _ => {
                        draining = true;
                        server.drain();
                        log.say(Level::Normal, "draining: no new connections, finishing pending answers; signal again to stop now");
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
            log.say(Level::Normal, format_args!("keys reloaded: {}", keys.names));
        }
        Err(error) => {
            log.warn_at(Level::Quiet, format_args!("the old keys stay in force: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_proc() {
        let status = "Name:\tsaltecho\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_mask(status), Some(1 << (SIGHUP - 1) | 1 << (libc::SIGPIPE - 1)));
        assert_eq!(ignored_mask(""), None);
        assert_eq!(ignored_mask("SigIgn:\tnone"), None);
    }
}
