use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Stats, Wake};
use crate::auth::Keyring;

/// Reaches into a running loop from another thread. Clones reach the same loop.
#[derive(Clone)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
    waker: Arc<dyn Wake>,
}

pub(super) enum Command {
    Drain,
    Stop,
    ReplaceKeyring(Box<Keyring>),
    Stats(mpsc::Sender<Stats>),
}

#[derive(Default)]
pub(super) struct Mailbox(Mutex<Vec<Command>>);

impl Mailbox {
    pub(super) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Handle {
    pub(super) fn new(mailbox: Arc<Mailbox>, waker: Arc<dyn Wake>) -> Self {
        Self { mailbox, waker }
    }

    /// Stops accepting, finishes every unfinished `sendall`, half-closes, and ends the loop when
    /// the last connection is gone or the drain time-out has passed.
    pub fn drain(&self) {
        self.post(Command::Drain);
    }

    /// Ends the loop at once. Connections with an unfinished answer are reset.
    pub fn stop(&self) {
        self.post(Command::Stop);
    }

    /// Judges digests by other keys from now on. Authenticated connections stay.
    pub fn replace_keyring(&self, keyring: Keyring) {
        self.post(Command::ReplaceKeyring(Box::new(keyring)));
    }

    /// The counters as they stand; `None` if the loop has ended.
    pub fn stats(&self) -> Option<Stats> {
        let (reply, stats) = mpsc::channel();
        self.post(Command::Stats(reply));
        stats.recv().ok()
    }

    fn post(&self, command: Command) {
        self.mailbox.0.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.waker.wake();
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle(..)")
    }
}
