use std::mem;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::BuildError;
use super::admin::Errand;
use super::builder::{allowed_limits, refuse_impossible};
use super::reconfigure::Reconfiguration;
use super::sync::{AtomicUsize, Mutex, MutexGuard};
use super::{IpNet, Limits, Stats};
use crate::auth::Keyring;
use crate::proto::{Config, ConnId, Peer, guarded, in_user_code};
use crate::reactor::Wake;

/// Reaches into a running loop, or into several at once, from another thread. Clones reach the
/// same; handles [collected](FromIterator) into one reach all the loops of each.
#[derive(Clone)]
pub struct Handle(Vec<LoopHandle>);

/// One loop's handle.
#[derive(Clone)]
struct LoopHandle {
    mailbox: Arc<Mailbox>,
    waker: Arc<dyn Wake>,
}

#[derive(Clone)]
pub(super) enum Command {
    Drain,
    Stop,
    Reload,
    ReplaceKeyring(Box<Keyring>),
    Reconfigure(Box<Reconfiguration>),
    KeepRecords(bool),
    Push(ConnId, Bytes),
    Stats(Arc<Collector>),
    Visit(Arc<Errand>),
    Park,
}

/// Collects the counters of several loops. It is complete when the last reference to it is gone:
/// each loop has answered, or dropped the question because it has ended.
pub(super) struct Collector(Mutex<Collected>);

struct Collected {
    stats: Vec<Stats>,
    then: Option<Box<dyn FnOnce(Stats) + Send>>,
}

impl Collector {
    fn new(then: impl FnOnce(Stats) + Send + 'static) -> Self {
        Self(Mutex::new(Collected { stats: Vec::new(), then: Some(Box::new(then)) }))
    }

    pub(super) fn add(&self, stats: Stats) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stats.push(stats);
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let collected = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let stats = mem::take(&mut collected.stats);
        if let Some(then) = collected.then.take()
            && !stats.is_empty()
        {
            guarded(|| then(stats.into_iter().sum()));
        }
    }
}

/// The reason why a message was not [pushed](Handle::push). It was dropped, and nothing else happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The peer's loop has ended, or the handle does not reach it.
    #[error("the connection's loop has ended, or this handle is another server's")]
    Ended,
    /// The loop has not yet taken what was pushed before, to whichever peers:
    /// [`Limits::mailbox_bytes`](super::Limits::mailbox_bytes) wait for it.
    #[error("too much is waiting for the loop; push again later")]
    Full,
}

/// The loop's end of what handles post to. Once it is closed commands are dropped unread, so that
/// no thread waits for an answer from a loop that has ended.
pub(super) struct Inbox(Arc<Mailbox>);

struct Mailbox {
    /// The number of the server, as its peers have it.
    server: u32,
    /// Bytes of pushed messages that may wait here.
    limit: usize,
    /// The listeners that the server began with, each of which takes a descriptor.
    listeners: AtomicUsize,
    /// Descriptors that it uses beside those of connections and listeners.
    others: AtomicUsize,
    /// `None` once the loop has ended.
    waiting: Mutex<Option<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    commands: Vec<Command>,
    pushed_bytes: usize,
}

/// Minimum that a pushed message counts for, in bytes: about what it costs the loop to take it.
const LEAST_MESSAGE: usize = 64;

impl Inbox {
    pub(super) fn new(server: u32, limit: usize, listeners: usize) -> Self {
        let waiting = Mutex::new(Some(Waiting::default()));
        let (others, listeners) = (AtomicUsize::new(0), AtomicUsize::new(listeners));
        Self(Arc::new(Mailbox { server, limit, listeners, others, waiting }))
    }

    pub(super) fn server(&self) -> u32 {
        self.0.server
    }

    /// Counts so many listeners, after some have come from another loop.
    pub(super) fn set_listeners(&self, number: usize) {
        self.0.listeners.store(number, Ordering::Relaxed);
    }

    /// Counts so many descriptors as used for other things than connections and listeners.
    pub(super) fn set_other_descriptors(&self, number: usize) {
        self.0.others.store(number, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> Vec<Command> {
        self.0.lock().as_mut().map(std::mem::take).unwrap_or_default().commands
    }

    /// Nothing is taken any more: the loop has ended, though its server may still be there.
    pub(super) fn close(&self) {
        let waiting = self.0.lock().take();
        // Not under the lock: the end of a question may call the one who asked.
        drop(waiting);
    }

    pub(super) fn handle(&self, waker: Arc<dyn Wake>) -> Handle {
        Handle(vec![LoopHandle { mailbox: Arc::clone(&self.0), waker }])
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl Mailbox {
    /// A thread that panicked while it posted has pushed its command or has not.
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoopHandle {
    /// Leaves a command for the loop. `cost` is its share of the bytes that may wait; a single
    /// command may always wait.
    fn post(&self, command: Command, cost: usize) -> Result<(), PushError> {
        let mut lock = self.mailbox.lock();
        let waiting = lock.as_mut().ok_or(PushError::Ended)?;
        if cost > 0 && waiting.pushed_bytes > 0 && waiting.pushed_bytes + cost > self.mailbox.limit
        {
            return Err(PushError::Full);
        }
        waiting.pushed_bytes = waiting.pushed_bytes.saturating_add(cost);
        let first = waiting.commands.is_empty();
        waiting.commands.push(command);
        drop(lock);
        if first {
            // With others before it, their wake-up is on its way and has not been answered.
            self.waker.wake();
        }
        Ok(())
    }
}

impl Handle {
    /// Waits for [`Limits::drain_delay`](super::Limits::drain_delay), stops accepting, finishes every unfinished `sendall`, half-closes, and ends the loop when
    /// the last connection is gone or the drain time-out has passed.
    pub fn drain(&self) {
        self.post(&Command::Drain);
    }

    /// Ends the loop at once. Connections with an unfinished answer are reset.
    pub fn stop(&self) {
        self.post(&Command::Stop);
    }

    /// Makes each loop end its run at the end of a turn, with everything as it is, so that it can be
    /// [frozen](super::Server::freeze). One that drains or has ended does not.
    pub fn park(&self) {
        self.post(&Command::Park);
    }

    /// Reloads keys and settings: calls [`Control::reload`](super::Control::reload) on its loop.
    /// Without a control nothing happens.
    pub fn reload(&self) {
        self.post(&Command::Reload);
    }

    /// Verifies digests with other keys from now on. Authenticated connections stay.
    pub fn replace_keyring(&self, keyring: Keyring) {
        self.post(&Command::ReplaceKeyring(Box::new(keyring)));
    }

    /// Replaces the settings of the running loops: all that [`ServerBuilder`](super::ServerBuilder)
    /// takes in `config`, `limits`, `trust` and `trust_proxies`. `limits` are those of all loops together, each of
    /// which gets its [part](Limits::part).
    ///
    /// It returns at once, and each loop changes in its next turn:
    ///
    /// - Keys, admission and sizes count from then on. With fewer places than connections none is
    ///   closed; there are no new ones until enough have ended.
    /// - A time limit counts from a connection's next call on: the call in progress, even the
    ///   `recv` of an idle connection, keeps the deadline that it began with. The drain timeout
    ///   counts from the next [`drain`](Self::drain) on.
    /// - A period of keepalive counts for connections that are silent already, too. But keepalive
    ///   stays off if it was off when the listeners were opened, since their connections have no
    ///   timers to probe with.
    /// - [`Limits::backlog`], [`Limits::events_per_poll`] and [`Limits::mailbox_bytes`] stay as they
    ///   were, and so does [`Config::recv_size`] if there is no memory for a new buffer.
    ///
    /// # Errors
    /// [`BuildError::Zero`], [`BuildError::DrainDelay`], [`BuildError::NoDescriptors`] or
    /// [`BuildError::Descriptors`], as when building a server. Then nothing changes.
    pub fn reconfigure(
        &self,
        config: &Config,
        limits: &Limits,
        trusted: &[IpNet],
        proxies: &[IpNet],
    ) -> Result<(), BuildError> {
        let loops = self.0.len();
        let Some(first) = self.0.first() else { return Ok(()) };
        let others = self.0.iter().map(|one| one.mailbox.others.load(Ordering::Relaxed)).sum();
        let listeners = first.mailbox.listeners.load(Ordering::Relaxed);
        let limits = allowed_limits(Some(*limits), loops, listeners, others)?;
        refuse_impossible(config, &limits.part(0, loops))?;
        for (index, one) in self.0.iter().enumerate() {
            let (config, limits) = (config.clone(), limits.part(index, loops));
            let (trusted, proxies) = (trusted.to_vec(), proxies.to_vec());
            let change = Reconfiguration { config, limits, trusted, proxies };
            // A loop that has ended needs no settings.
            let _ = one.post(Command::Reconfigure(Box::new(change)), 0);
        }
        Ok(())
    }

    /// Keeps records of the connections accepted from now on, or stops; see
    /// [`Server::keep_records`](super::Server::keep_records).
    pub fn keep_records(&self, keep: bool) {
        self.post(&Command::KeepRecords(keep));
    }

    /// Sends `message` to a peer unasked, once it has been sent all that comes before, and before
    /// anything more is read from it: one more `sendall` between two `recv`.
    ///
    /// It returns at once, also in a [`Handler`](crate::proto::Handler) or an observer. What was
    /// pushed to one peer arrives in the order in which it was pushed, or the connection ends: a
    /// peer that does not read keeps at most [`Config::max_answer`](crate::proto::Config) bytes
    /// waiting, and is then reset ([`CloseReason::FellBehind`](crate::proto::CloseReason)). A
    /// message for a connection that is gone, or about to end, is dropped and counted
    /// ([`Stats::pushes_dropped`]); its handler has been told, or will be.
    ///
    /// # Errors
    /// [`PushError`]: the message was not taken. [`stats`](Self::stats) is answered after the loop
    /// has taken what was pushed before, so a thread that finds it full may wait by asking.
    pub fn push(&self, peer: &Peer, message: impl Into<Bytes>) -> Result<(), PushError> {
        let message = message.into();
        let cost = message.len().max(LEAST_MESSAGE);
        let mut loops = self.0.iter();
        let its_loop = loops.find(|one| one.mailbox.server == peer.server);
        its_loop.ok_or(PushError::Ended)?.post(Command::Push(peer.id(), message), cost)
    }

    /// The counters as they stand, those of several loops as their sum. A loop that has ended is
    /// not in it; `None` if all have.
    ///
    /// It waits for the loops, also for one that has yet to run. From a handler or an observer it
    /// is always `None`: those are called by a loop, which cannot wait for itself, nor for another
    /// that may be waiting in turn.
    pub fn stats(&self) -> Option<Stats> {
        if in_user_code() {
            return None;
        }
        let (reply, stats) = mpsc::channel();
        self.with_stats(move |stats| drop(reply.send(stats)));
        stats.recv().ok()
    }

    /// Calls `then` with the counters of all loops, as [`stats`](Self::stats) returns them, once
    /// the last loop has answered; if all have ended, it is dropped. It waits for nothing, so a
    /// handler, an observer or a control may use it.
    ///
    /// The last loop calls it, on its own thread, so `then` must not block. A panic in it ends it
    /// alone.
    pub fn with_stats(&self, then: impl FnOnce(Stats) + Send + 'static) {
        self.post(&Command::Stats(Arc::new(Collector::new(then))));
    }

    /// Number of loops that it reaches.
    pub(super) fn loops(&self) -> usize {
        self.0.len()
    }

    /// The number of the server whose loop this is.
    pub(super) fn server(&self, index: usize) -> Option<u32> {
        self.0.get(index).map(|one| one.mailbox.server)
    }

    /// Sends a part of an answer to a loop. One that has ended drops it.
    pub(super) fn visit(&self, index: usize, errand: Arc<Errand>) {
        if let Some(one) = self.0.get(index) {
            let _ = one.post(Command::Visit(errand), 0);
        }
    }

    fn post(&self, command: &Command) {
        for one in &self.0 {
            // A loop that has ended needs no command.
            let _ = one.post(command.clone(), 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Kernel;
    use crate::sim::{Faults, SimKernel};

    #[test]
    fn its_debug_text_has_nothing_of_what_waits() {
        assert_eq!(format!("{:?}", Handle::from_iter([])), "Handle(..)");
    }

    #[test]
    fn what_is_pushed_may_fill_a_mailbox_to_its_limit() {
        let (inbox, kernel) = (Inbox::new(1, 100, 0), SimKernel::new(1, Faults::none()));
        let handle = LoopHandle { mailbox: Arc::clone(&inbox.0), waker: kernel.waker() };
        let post = |cost| handle.post(Command::Stop, cost);
        assert_eq!([60, 40, 1, 0].map(post), [Ok(()), Ok(()), Err(PushError::Full), Ok(())]);
        assert_eq!(inbox.take().len(), 3);
        // One message may always wait, however long, and so may a command that carries none.
        assert_eq!([1000, 1, 0].map(post), [Ok(()), Err(PushError::Full), Ok(())]);
    }
}
