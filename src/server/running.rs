use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use super::{AdminAddress, BuildError, Handle, Server, Stats, run_workers};
use crate::proto::Handler;
use crate::reactor::MioKernel;

/// A server on a thread of its own, or several. Dropping it stops them at once.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    handle: Handle,
    thread: Option<JoinHandle<io::Result<Stats>>>,
}

impl Running {
    pub(super) fn start<H: Handler + Clone + Send + 'static>(
        servers: Vec<Server<MioKernel, H>>,
    ) -> Result<Self, BuildError> {
        let first = servers.first().expect("there is one at least");
        let (addresses, admin) = (first.addresses()?, first.admin_address().cloned());
        let handle = servers.iter().map(Server::handle).collect();
        let thread = std::thread::Builder::new()
            .name("saltecho".to_owned())
            .spawn(move || run_workers(servers))?;
        Ok(Self { addresses, admin, handle, thread: Some(thread) })
    }

    /// The addresses that it listens on, in the order in which they were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of its admin endpoint, if it has one.
    pub const fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin.as_ref()
    }

    /// Reaches into its loop.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Drains it (see [`Handle::drain`]) and waits for its end.
    ///
    /// # Errors
    /// The error that [`Server::run`] ended with.
    pub fn drain(mut self) -> io::Result<Stats> {
        self.handle.drain();
        self.join()
    }

    /// Stops it at once and waits for its end.
    ///
    /// # Errors
    /// The error that [`Server::run`] ended with.
    pub fn stop(mut self) -> io::Result<Stats> {
        self.handle.stop();
        self.join()
    }

    fn join(&mut self) -> io::Result<Stats> {
        let thread = self.thread.take().expect("a running server is joined once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.handle.stop();
            // A caller that needs the result calls `stop` instead.
            let _ = self.join();
        }
    }
}
