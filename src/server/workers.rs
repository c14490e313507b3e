//! Several loops side by side: each a whole server on a thread of its own, with its own listeners
//! at the same addresses (SO_REUSEPORT). Nothing is shared but the keys, of which each has a copy.
//!
//! The kernel picks a listener for a client by a hash of the two addresses. That spreads a crowd
//! evenly and a handful of clients any way it likes ([`Stats::imbalance`] tells), and no
//! connection ever moves: each worker has its own share of the limits, and a full one lets its
//! clients wait though another has room.

use std::io;
use std::thread::{self, ScopedJoinHandle};

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
    let all: Handle = servers.iter().map(Server::handle).collect();
    thread::scope(|scope| {
        let mut servers = servers.into_iter();
        let first = servers.next().map(|server| (server, LastAct(all.clone())));
        let mut threads: Vec<ScopedJoinHandle<'_, io::Result<Stats>>> = Vec::new();
        for (server, number) in servers.zip(2..) {
            let last_act = LastAct(all.clone());
            let thread = thread::Builder::new().name(format!("worker {number}"));
            threads.push(thread.spawn_scoped(scope, move || run(server, last_act))?);
        }
        let first = first.map(|(server, last_act)| run(server, last_act));
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All have to end before one error may be told.
        let ended: Vec<io::Result<Stats>> = first.into_iter().chain(ended).collect();
        ended.into_iter().sum()
    })
}

fn run<K: Kernel, H: Handler + Clone>(
    mut server: Server<K, H>,
    _last_act: LastAct,
) -> io::Result<Stats> {
    server.run()
}

/// Drains all the others when its owner ends, even by a panic.
struct LastAct(Handle);

impl Drop for LastAct {
    fn drop(&mut self) {
        self.0.drain();
    }
}
