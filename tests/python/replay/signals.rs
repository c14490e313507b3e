//! Signals sent to one thread at a steady pace, as the scenarios' `interrupts` asks for.
#![allow(unsafe_code, reason = "no safe crate sends a signal to a thread")]

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A helper that sends SIGUSR1 to the thread that made it, until it is dropped.
pub(crate) struct Pester {
    stop: Option<Sender<()>>,
    helper: Option<JoinHandle<()>>,
}

impl Pester {
    /// Begins now, with a signal every `every` for `duration`, whose handler does nothing and is
    /// installed without SA_RESTART.
    pub(crate) fn this_thread(every: Duration, duration: Duration) -> Self {
        install_handler();
        // SAFETY: pthread_self has no preconditions.
        let target = unsafe { libc::pthread_self() };
        let (stop, stopped) = mpsc::channel();
        let helper = std::thread::spawn(move || {
            let until = Instant::now() + duration;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout)
                && Instant::now() < until
            {
                // SAFETY: the target lives: it drops this helper, which joins it, before it ends.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
            }
        });
        Self { stop: Some(stop), helper: Some(helper) }
    }
}

impl Drop for Pester {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(helper) = self.helper.take() {
            helper.join().expect("the helper does not panic");
        }
    }
}

fn install_handler() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: an all-zero sigaction is a valid one (no flags, hence no SA_RESTART; empty mask), and
    // a handler that does nothing is safe at any time.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut())
    };
    assert_eq!(result, 0, "SIGUSR1 can be handled");
}
