//! Several loops side by side: each a whole server on a thread of its own, with its own listeners
//! at the same addresses (SO_REUSEPORT). Nothing is shared but the keys, of which each has a copy.
//!
//! The kernel picks a listener for a client by a hash of the two addresses. That spreads a crowd
//! evenly and a handful of clients any way it likes ([`Stats::imbalance`] tells), and no
//! connection ever moves: each worker has its own share of the limits, and a full one lets its
//! clients wait though another has room.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard};
use super::{Handle, Server, Stats};
use crate::proto::Handler;
use crate::reactor::Kernel;

/// Runs servers side by side until all have ended: the first on the thread that calls, each other
/// on one of its own. What they did together.
///
/// They end together. When one of them ends, even by a panic, the others are drained. They could go
/// on: the listeners of a loop close with it (the clients in their queues are reset), and the
/// kernel gives new ones to the rest. But fewer places and fewer cores would then be all that is
/// left of an error that no supervisor sees, and what broke one loop, a bug or a system call that
/// fails, may well break the next. A process that ends is started again, whole.
///
/// # Errors
/// The first error that one of them ended with, once all have ended.
pub fn run_workers<K, H>(servers: Vec<Server<K, H>>) -> io::Result<Stats>
where
    K: Kernel<Listener: Send, Stream: Send, AdminListener: Send> + Send,
    H: Handler + Clone + Send,
{
    let parking = Parking::new(servers.len());
    thread::scope(|scope| {
        let crew = Crew::start(scope, servers.len())?;
        match run_until_parked(servers, &parking, &crew)? {
            Pause::Ended(stats) => Ok(*stats),
            Pause::Parked(_) => unreachable!("no other knows of the parking"),
        }
    })
}

/// Threads for loops, which are there before the loops are: a service that moves must not fail for want
/// of a thread when it is too late to go back. They end when it is dropped.
pub struct Crew<'scope>(Vec<Sender<Job<'scope>>>);

type Job<'scope> = Box<dyn FnOnce() + Send + 'scope>;

impl<'scope> Crew<'scope> {
    /// Starts the threads for so many loops: one less, since the first runs on the thread that calls.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(scope: &'scope Scope<'scope, '_>, loops: usize) -> io::Result<Self> {
        let hands = (2..=loops).map(|number| {
            let (give, jobs) = channel::<Job<'scope>>();
            let thread = thread::Builder::new().name(format!("worker {number}"));
            thread.spawn_scoped(scope, move || jobs.into_iter().for_each(|job| job()))?;
            Ok(give)
        });
        hands.collect::<io::Result<_>>().map(Self)
    }
}

/// The reason why loops do not run any more.
pub enum Pause<K: Kernel, H> {
    /// All have ended, and did this together.
    Ended(Box<Stats>),
    /// All were [parked](Parking::park), between two turns each.
    Parked(Vec<Server<K, H>>),
}

/// The same as [`run_workers`], but all loops can be parked together, and then come back. It starts no
/// thread: `crew` has one for each loop but the first.
///
/// # Errors
/// Those of [`run_workers`].
///
/// # Panics
/// If the crew is of fewer loops.
pub fn run_until_parked<'scope, K, H>(
    servers: Vec<Server<K, H>>,
    parking: &Parking,
    crew: &Crew<'scope>,
) -> io::Result<Pause<K, H>>
where
    K: Kernel<Listener: Send, Stream: Send, AdminListener: Send> + Send + 'scope,
    H: Handler + Clone + Send + 'scope,
{
    assert!(servers.len() <= crew.0.len() + 1, "there is a thread for each loop");
    let all: Handle = servers.iter().map(Server::handle).collect();
    let last_act = || LastAct(Some((all.clone(), parking.clone())));
    let mut servers = servers.into_iter();
    let first = servers.next().map(|server| (server, last_act()));
    let others: Vec<Halting<K, H>> = servers
        .zip(&crew.0)
        .map(|(server, hand)| {
            let (tell, halted) = channel();
            let (parking, last_act) = (parking.clone(), last_act());
            let job = move || {
                let halt = catch_unwind(AssertUnwindSafe(|| run(server, &parking, last_act)));
                // Without the thread that waits for it, nothing is left to do with it.
                let _ = tell.send(halt);
            };
            hand.send(Box::new(job)).expect("a thread of the crew only waits for work");
            halted
        })
        .collect();
    let first = first.map(|(server, last_act)| run(server, parking, last_act));
    let halted = others.into_iter().map(|halted| {
        let halt = halted.recv().expect("it tells how it halted, whatever happens");
        halt.unwrap_or_else(|panic| resume_unwind(panic))
    });
    // All have to end before one error is returned.
    let halted: Vec<io::Result<Halt<K, H>>> = first.into_iter().chain(halted).collect();
    let halts: io::Result<Vec<Halt<K, H>>> = halted.into_iter().collect();
    let (mut stats, mut parked) = (Vec::new(), Vec::new());
    for halt in halts? {
        match halt {
            Halt::Ended(ended) => stats.push(*ended),
            Halt::Parked(server) => parked.push(*server),
        }
    }
    debug_assert!(parked.is_empty() || stats.is_empty(), "all are parked or none is");
    Ok(match parked.is_empty() {
        true => Pause::Ended(Box::new(stats.into_iter().sum())),
        false => Pause::Parked(parked),
    })
}

/// How a loop of another thread halts, or with what it panics.
type Halting<K, H> = Receiver<thread::Result<io::Result<Halt<K, H>>>>;

/// One loop does not run any more.
pub(super) enum Halt<K: Kernel, H> {
    Ended(Box<Stats>),
    Parked(Box<Server<K, H>>),
}

pub(super) fn run<K: Kernel, H: Handler + Clone>(
    mut server: Server<K, H>,
    parking: &Parking,
    mut last_act: LastAct,
) -> io::Result<Halt<K, H>> {
    loop {
        let stats = server.run()?;
        if !server.is_parked() {
            return Ok(Halt::Ended(Box::new(stats)));
        }
        if parking.wait() {
            last_act.0 = None;
            return Ok(Halt::Parked(Box::new(server)));
        }
        server.unpark();
    }
}

/// Drains all the others when its owner ends, even by a panic.
pub(super) struct LastAct(pub(super) Option<(Handle, Parking)>);

impl Drop for LastAct {
    fn drop(&mut self) {
        if let Some((all, parking)) = &self.0 {
            parking.end();
            all.drain();
        }
    }
}

/// Stops loops together, or none of them.
#[derive(Clone, Debug)]
pub struct Parking(Arc<(Mutex<Lot>, Condvar)>);

#[derive(Debug)]
struct Lot {
    loops: usize,
    /// Loops that wait for the others.
    parked: usize,
    attempt: Attempt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    None,
    Until(Instant),
    Done,
    /// One has ended, so they will not park any more.
    Never,
}

impl Parking {
    /// Room for so many loops.
    pub fn new(loops: usize) -> Self {
        let lot = Lot { loops, parked: 0, attempt: Attempt::None };
        Self(Arc::new((Mutex::new(lot), Condvar::new())))
    }

    /// Parks the loops that `all` reaches, and waits until they are. False if one has not come to the
    /// end of its turn in time, or has ended; then all others go on.
    ///
    /// It must not be called by one of the loops.
    pub fn park(&self, all: &Handle, limit: Duration) -> bool {
        let mut lot = self.lot();
        if lot.attempt == Attempt::Never {
            return false;
        }
        lot.attempt = Attempt::Until(Instant::now() + limit);
        drop(lot);
        all.park();
        self.wait_for_others(self.lot()).attempt == Attempt::Done
    }

    /// A loop has parked. True if all have.
    fn wait(&self) -> bool {
        let mut lot = self.lot();
        if !matches!(lot.attempt, Attempt::Until(_)) {
            return false;
        }
        lot.parked += 1;
        if lot.parked == lot.loops {
            lot.attempt = Attempt::Done;
            self.0.1.notify_all();
        }
        // Under the same lock: a loop that goes on must not count for the next attempt.
        let mut lot = self.wait_for_others(lot);
        lot.parked -= 1;
        lot.attempt == Attempt::Done
    }

    /// Returns when the attempt is over.
    fn wait_for_others<'a>(&self, mut lot: MutexGuard<'a, Lot>) -> MutexGuard<'a, Lot> {
        loop {
            let Attempt::Until(deadline) = lot.attempt else { return lot };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                lot.attempt = Attempt::None;
                self.0.1.notify_all();
                return lot;
            }
            let waited = self.0.1.wait_timeout(lot, left);
            lot = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the loops go on that wait for others.
    pub fn cancel(&self) {
        let mut lot = self.lot();
        if let Attempt::Until(_) = lot.attempt {
            lot.attempt = Attempt::None;
            self.0.1.notify_all();
        }
    }

    /// The loops that wait for others go on, and none will wait any more.
    fn end(&self) {
        self.lot().attempt = Attempt::Never;
        self.0.1.notify_all();
    }

    fn lot(&self) -> MutexGuard<'_, Lot> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_loop_goes_on_if_the_others_do_not_park() {
        let (pair, nobody) = (Parking::new(2), Handle::from_iter([]));
        assert!(!pair.wait(), "no loop was asked to park");
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| pair.park(&nobody, HOUR));
            while pair.lot().attempt == Attempt::None {
                std::thread::yield_now();
            }
            let one = scope.spawn(|| pair.wait());
            while pair.lot().parked == 0 {
                std::thread::yield_now();
            }
            pair.cancel();
            assert!(!asking.join().unwrap() && !one.join().unwrap());
        });
        assert_eq!(pair.lot().parked, 0);
        pair.end();
        assert!(!pair.park(&nobody, HOUR) && !pair.wait(), "a loop has ended");
    }
}
