//! A handover between two loops over one simulated kernel.
//!
//! Both loops have an epoll instance of their own over the same sockets. A test takes the kernel out of
//! the frozen server, opens the second instance, and gives the kernel to the new server; if the handover
//! fails it goes back.

use std::io;

use super::kernel::{SimAdminListener, SimStream};
use super::socket::End;
use super::{SimClient, SimKernel};
use crate::reactor::{Adopt, Close, Kernel, Token};

/// A socket on its way between two loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimMoved {
    /// The listener.
    Listener,
    /// The listener of the admin endpoint.
    AdminListener,
    /// A connection's stream.
    Stream(SimClient),
}

/// What the first epoll instance knows while there is a second one.
#[derive(Debug)]
pub(super) struct FirstEpoll {
    listener: Option<Token>,
    admin_listener: Option<Token>,
    tokens: Vec<Option<Token>>,
    names: Vec<Option<Token>>,
}

impl SimKernel {
    /// Opens a second epoll instance, in which nothing is registered. Until the handover has
    /// [ended](Self::end_handover) no call for a socket is allowed.
    pub fn begin_handover(&mut self) {
        self.remark(|| "A second epoll instance opens, in which nothing is registered.".to_owned());
        let sockets = &mut self.sockets;
        self.first_epoll = Some(FirstEpoll {
            listener: self.listener.take(),
            admin_listener: self.admin.listener.take(),
            names: sockets.iter().map(|socket| socket.ledger.name).collect(),
            tokens: sockets.iter_mut().map(|socket| socket.token.take()).collect(),
        });
        self.forget_edges();
    }

    /// Closes one of the two epoll instances: the first if the new loop has taken over. Otherwise the
    /// second, and the first one announces what has happened meanwhile.
    pub fn end_handover(&mut self, taken_over: bool) {
        let stays = if taken_over { "new loop has taken over" } else { "old loop goes on" };
        self.remark(|| format!("The handover ends: the {stays}."));
        let first = self.first_epoll.take().expect("a handover has begun");
        if taken_over {
            return self.stale.clear();
        }
        self.forget_edges();
        (self.listener, self.admin.listener) = (first.listener, first.admin_listener);
        (self.listener_edge, self.admin.edge) = (true, first.admin_listener.is_some());
        for (index, (token, name)) in first.tokens.into_iter().zip(first.names).enumerate() {
            self.sockets[index].token = token;
            self.sockets[index].ledger.name = name;
            self.raise(index);
        }
    }

    /// Closes the connections of the admin endpoint, as the end of their process does. Returns their
    /// clients.
    pub fn close_admin_streams(&mut self) -> Vec<SimClient> {
        let open = (0..self.sockets.len()).filter(|index| {
            let socket = &self.sockets[*index];
            socket.is_admin && socket.server_end == End::Open
        });
        let open: Vec<usize> = open.collect();
        for index in &open {
            self.close(SimStream::of(SimClient(*index)), Close::Orderly);
        }
        open.into_iter().map(SimClient).collect()
    }

    fn forget_edges(&mut self) {
        for index in std::mem::take(&mut self.edges) {
            self.sockets[index].edge = false;
        }
        (self.listener_edge, self.admin.edge) = (false, false);
    }

    /// # Panics
    /// During a handover, in which sockets are not to be touched.
    pub(super) fn assert_no_handover(&self, call: &str) {
        assert!(self.first_epoll.is_none(), "{call} during a handover");
    }
}

impl Adopt for SimKernel {
    type Moved = SimMoved;

    fn adopt_listener(&mut self, socket: SimMoved) -> io::Result<()> {
        assert_eq!(socket, SimMoved::Listener, "another kind of socket");
        Ok(())
    }

    fn adopt_stream(&mut self, socket: SimMoved) -> SimStream {
        let SimMoved::Stream(client) = socket else { panic!("{socket:?} is no stream") };
        SimStream::of(client)
    }

    fn adopt_admin_listener(&mut self, socket: SimMoved) -> io::Result<SimAdminListener> {
        assert_eq!(socket, SimMoved::AdminListener, "another kind of socket");
        Ok(SimAdminListener)
    }

    fn has_file(&self, _listener: &SimAdminListener) -> bool {
        false
    }

    fn own_file(&mut self, _listener: &mut SimAdminListener) {}

    fn share(&self, listener: &SimMoved) -> io::Result<SimMoved> {
        Ok(*listener)
    }

    fn release(&mut self, _stream: SimStream) {}

    fn release_listener(&mut self, (): ()) {}

    fn release_admin_listener(&mut self, _listener: SimAdminListener) {}
}
