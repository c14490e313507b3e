use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Stats, Wake};
use crate::auth::Keyring;

/// Reaches into a running loop, or into several at once, from another thread. Clones reach the
/// same; handles [collected](FromIterator) into one reach all the loops of each.
#[derive(Clone)]
pub struct Handle(Vec<Entrance>);

/// The way into one loop.
#[derive(Clone)]
struct Entrance {
    mailbox: Arc<Mailbox>,
    waker: Arc<dyn Wake>,
}

#[derive(Clone)]
pub(super) enum Command {
    Drain,
    Stop,
    ReplaceKeyring(Box<Keyring>),
    Stats(mpsc::Sender<Stats>),
}

/// The loop's end of what handles post to. Once it is gone commands are dropped unread, so that
/// nobody waits for an answer from a loop that has ended.
pub(super) struct Inbox(Arc<Mailbox>);

struct Mailbox(Mutex<Option<Vec<Command>>>);

impl Inbox {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mailbox(Mutex::new(Some(Vec::new())))))
    }

    pub(super) fn take(&self) -> Vec<Command> {
        self.0.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn handle(&self, waker: Arc<dyn Wake>) -> Handle {
        Handle(vec![Entrance { mailbox: Arc::clone(&self.0), waker }])
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl Mailbox {
    /// A thread that panicked while it posted has pushed its command or has not.
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Stops accepting, finishes every unfinished `sendall`, half-closes, and ends the loop when
    /// the last connection is gone or the drain time-out has passed.
    pub fn drain(&self) {
        self.post(&Command::Drain);
    }

    /// Ends the loop at once. Connections with an unfinished answer are reset.
    pub fn stop(&self) {
        self.post(&Command::Stop);
    }

    /// Judges digests by other keys from now on. Authenticated connections stay.
    pub fn replace_keyring(&self, keyring: Keyring) {
        self.post(&Command::ReplaceKeyring(Box::new(keyring)));
    }

    /// The counters as they stand, those of several loops as their sum. A loop that has ended is
    /// not in it; `None` if all have.
    pub fn stats(&self) -> Option<Stats> {
        let (reply, stats) = mpsc::channel();
        self.post(&Command::Stats(reply));
        // Whoever will not answer has dropped the question.
        let stats: Vec<Stats> = stats.iter().collect();
        (!stats.is_empty()).then(|| stats.into_iter().sum())
    }

    fn post(&self, command: &Command) {
        for door in &self.0 {
            if let Some(commands) = door.mailbox.lock().as_mut() {
                commands.push(command.clone());
            }
            door.waker.wake();
        }
    }
}

impl FromIterator<Handle> for Handle {
    fn from_iter<I: IntoIterator<Item = Self>>(handles: I) -> Self {
        Self(handles.into_iter().flat_map(|handle| handle.0).collect())
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle(..)")
    }
}
