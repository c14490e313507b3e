//! Models of what a loop shares with other threads: its mailbox, the answers to questions, and the
//! parking of several. loom runs each in every order in which the threads can lock, wait and wake, with
//! up to `LOOM_MAX_PREEMPTIONS` switches that no thread asked for; one that waits for ever is a failure.
//!
//! `scripts/loom` runs them. The loops are whole servers, over a kernel in which nothing happens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use loom::thread::{Builder, JoinHandle};

use super::sync::{Condvar, Mutex};
use super::workers::{Halt, LastAct, run};
use super::{ConnId, Handle, Limits, Outcome, Parking, PushError, Server};
use crate::auth::Keyring;
use crate::proto::{Config, Peer, Upper};
use crate::python::Monotonic;
use crate::reactor::{Close, Kernel, Liveness, Ready, Token, Wake};

/// A value that one thread leaves and another waits for.
pub(super) struct Slot<T> {
    value: Mutex<Option<T>>,
    filled: Condvar,
}

impl<T> Slot<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { value: Mutex::new(None), filled: Condvar::new() })
    }

    fn put(&self, value: T) {
        *self.value.lock().unwrap() = Some(value);
        self.filled.notify_one();
    }

    fn try_take(&self) -> Option<T> {
        self.value.lock().unwrap().take()
    }

    pub(super) fn take(&self) -> T {
        let mut value = self.value.lock().unwrap();
        loop {
            match value.take() {
                Some(value) => return value,
                None => value = self.filled.wait(value).unwrap(),
            }
        }
    }
}

/// A kernel with wake-ups and nothing else. No time passes.
pub(super) struct Quiet(Arc<Slot<()>>);

impl Wake for Slot<()> {
    fn wake(&self) {
        self.put(());
    }
}

impl Kernel for Quiet {
    type Listener = ();
    type Stream = ();
    type AdminListener = ();

    fn now(&mut self) -> Monotonic {
        Monotonic::ZERO
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        let woken = match timeout {
            None => Some(self.0.take()),
            Some(_) => self.0.try_take(),
        };
        woken.into_iter().for_each(|()| on_event(Token::WAKE, Ready::READABLE));
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::<Slot<()>>::clone(&self.0)
    }

    fn register_listener(&mut self, (): &mut (), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn register(&mut self, (): &mut (), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn accept(&mut self, (): &mut ()) -> io::Result<((), Option<SocketAddr>)> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn register_admin_listener(&mut self, (): &mut (), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn accept_admin(&mut self, (): &mut ()) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shed(&mut self, (): &mut ()) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn recv(&mut self, (): &mut (), _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, (): &mut (), _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shutdown(&mut self, (): &mut ()) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, (): (), _: Close) {}

    fn liveness(&mut self, (): &mut ()) -> io::Result<Liveness> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn probe(&mut self, (): &mut ()) {}

    fn random_below(&mut self, _: u64) -> u64 {
        0
    }

    fn fill_random(&mut self, _: &mut [u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `work` in every order, on a thread of its own: the stack of the first is loom's to choose.
pub(super) fn model(work: impl Fn() + Clone + Send + Sync + 'static) {
    loom::model(move || spawn(work.clone()).join().unwrap());
}

/// Starts a thread, whose stack has room for a server in an unoptimized build.
pub(super) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().stack_size(1 << 16).spawn(work).unwrap()
}

pub(super) fn server() -> Server<Quiet, Upper> {
    let mut config = Config::new(Keyring::demo());
    config.recv_size = 1;
    let mut limits = Limits::for_connections(1);
    limits.mailbox_bytes = 150;
    Server::with_kernel(Quiet(Slot::new()), Vec::new(), config, limits, Upper).unwrap()
}

/// A connection that the server does not have, so that a push is counted and nothing else.
fn absent_peer(server: &Server<Quiet, Upper>) -> Peer {
    Peer::new(server.inbox.server(), ConnId::default(), None)
}

/// Number of loops in the answer to a question; 0 if it was dropped.
struct Answer(Arc<Slot<usize>>, usize);

impl Answer {
    /// Asks a handle; the slot gets the answer.
    fn from(handle: &Handle) -> Arc<Slot<usize>> {
        let slot = Slot::new();
        let answer = Self(Arc::clone(&slot), 0);
        handle.with_stats(move |stats| answer.come(stats.loops));
        slot
    }

    fn come(mut self, loops: usize) {
        self.1 = loops;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.put(self.1);
    }
}

#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let mut server = server();
        let peer = absent_peer(&server);
        let threads = [(); 2].map(|()| {
            let handle = server.handle();
            spawn(move || handle.push(&peer, "message").expect("there is room"))
        });
        while server.stats().pushes_dropped < 2 {
            server.turn().unwrap();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_full_mailbox_refuses_what_it_does_not_take() {
    model(|| {
        let mut server = server();
        let peer = absent_peer(&server);
        let threads = [(); 2].map(|()| {
            let handle = server.handle();
            spawn(move || handle.push(&peer, [0; 100].as_slice()))
        });
        server.turn().unwrap();
        let taken = threads.map(|thread| match thread.join().unwrap() {
            Ok(()) => 1,
            Err(PushError::Full) => 0,
            Err(PushError::Ended) => panic!("the loop is there"),
        });
        server.handle().push(&peer, "it has room or one command waits").ok();
        server.handle_commands();
        let dropped = server.stats().pushes_dropped;
        assert!(dropped >= taken.iter().sum::<u64>(), "{taken:?} were taken, {dropped} came");
        server.handle().push(&peer, "the mailbox is empty").expect("one always has room");
    });
}

#[test]
fn a_question_is_answered_or_dropped_however_the_loop_ends() {
    model(|| {
        let mut server = server();
        let (asker, stopper) = (server.handle(), server.handle());
        let asks = spawn(move || Answer::from(&asker).take());
        let stops = spawn(move || stopper.stop());
        server.run().unwrap();
        let late = Answer::from(&server.handle()).take();
        assert_eq!(late, 0, "a loop that has ended does not answer");
        assert!(asks.join().unwrap() <= 1);
        stops.join().unwrap();
    });
}

#[test]
fn loops_answer_together_without_those_that_have_ended() {
    model(|| {
        let servers = [server(), server()];
        let [first, second] = servers.each_ref().map(Server::handle);
        let all: Handle = [first.clone(), second.clone()].into_iter().collect();
        let threads = servers.map(|mut server| {
            spawn(move || {
                server.run().unwrap();
            })
        });
        first.stop();
        let loops = Answer::from(&all).take();
        assert!(loops == 1 || loops == 2, "{loops} loops answered");
        second.stop();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn an_outcome_is_seen_by_its_wake_up_alone() {
    for result in [Some(Ok("done".to_owned())), None] {
        model(move || {
            let bell = Slot::new();
            let (outcome, expected) = Outcome::new(bell.clone() as Arc<dyn Wake>);
            let (result, fails) = (result.clone(), result.is_none());
            let works = spawn(move || match result {
                Some(result) => outcome.set(result),
                None => drop(outcome),
            });
            let seen = loop {
                match expected.take() {
                    Some(seen) => break seen,
                    None => bell.take(),
                }
            };
            assert_eq!(seen.is_err(), fails);
            works.join().unwrap();
        });
    }
}

/// Two loops as workers.
struct Workers {
    parking: Parking,
    handles: [Handle; 2],
    threads: [JoinHandle<Halt<Quiet, Upper>>; 2],
}

impl Workers {
    fn start() -> Self {
        let servers = [server(), server()];
        let handles = servers.each_ref().map(Server::handle);
        let parking = Parking::new(servers.len());
        let all: Handle = handles.iter().cloned().collect();
        let threads = servers.map(|server| {
            let last_act = LastAct(Some((all.clone(), parking.clone())));
            let parking = parking.clone();
            spawn(move || run(server, &parking, last_act).unwrap())
        });
        Self { parking, handles, threads }
    }

    fn all(&self) -> Handle {
        self.handles.iter().cloned().collect()
    }

    /// Waits until they halt; true if they have parked, all of them.
    fn halted(self) -> bool {
        let parked = self.threads.map(|thread| match thread.join().unwrap() {
            Halt::Ended(_) => false,
            Halt::Parked(server) => {
                assert!(server.is_ready(), "a loop that has ended is parked");
                true
            }
        });
        assert_eq!(parked[0], parked[1], "one is parked and the other is not");
        parked[0]
    }
}

/// A limit that does not pass: an attempt that comes too late is one that is canceled.
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn loops_park_together() {
    model(|| {
        let workers = Workers::start();
        assert!(workers.parking.park(&workers.all(), HOUR));
        assert!(workers.halted());
    });
}

#[test]
fn an_attempt_that_comes_too_late_leaves_nothing_to_the_next() {
    model(|| {
        let workers = Workers::start();
        let limit = workers.parking.clone();
        let passes = spawn(move || limit.cancel());
        let first = workers.parking.park(&workers.all(), HOUR);
        passes.join().unwrap();
        assert!(first || workers.parking.park(&workers.all(), HOUR));
        assert!(workers.halted());
    });
}

#[test]
fn loops_park_together_or_end_together() {
    model(|| {
        let workers = Workers::start();
        let (parking, all) = (workers.parking.clone(), workers.all());
        let stopped = workers.handles[1].clone();
        let parks = spawn(move || parking.park(&all, HOUR));
        stopped.stop();
        let parked = workers.halted();
        assert_eq!(parks.join().unwrap(), parked);
    });
}
