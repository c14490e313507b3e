use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;

use super::{AdminListener, Kernel, MioKernel};

/// A kernel whose sockets can move to another loop, in this process or in another. A socket moves
/// as it is, with its buffers, its queue and its options; only its registration stays behind.
pub trait Adopt: Kernel {
    /// A socket that has arrived, of whichever kind: for the real kernel a descriptor.
    type Moved;

    /// Takes over a listener, which stays as it is.
    ///
    /// # Errors
    /// If the socket is none.
    fn adopt_listener(&mut self, socket: Self::Moved) -> io::Result<Self::Listener>;

    /// Takes over a stream, which stays as it is.
    fn adopt_stream(&mut self, socket: Self::Moved) -> Self::Stream;

    /// Takes over the listener of an admin endpoint, which stays as it is.
    ///
    /// # Errors
    /// Those of getsockname(2), and a lack of descriptors for the one in reserve.
    fn adopt_admin_listener(&mut self, socket: Self::Moved) -> io::Result<Self::AdminListener>;

    /// Returns true if a file goes with the listener of an admin endpoint, and is removed with it.
    fn has_file(&self, listener: &Self::AdminListener) -> bool;

    /// Makes the file of an adopted listener this loop's own, to be removed with it.
    fn own_file(&mut self, listener: &mut Self::AdminListener);

    /// The same listener once more, for another loop that accepts from its queue.
    ///
    /// # Errors
    /// If there is no descriptor for it.
    fn share(&self, listener: &Self::Moved) -> io::Result<Self::Moved>;

    /// Forgets a stream that another loop has taken over. Its peer notices nothing.
    fn release(&mut self, stream: Self::Stream);

    /// Forgets a listener that another loop has taken over.
    fn release_listener(&mut self, listener: Self::Listener);

    /// Forgets the listener of an admin endpoint that another loop has taken over, and its file.
    fn release_admin_listener(&mut self, listener: Self::AdminListener);
}

impl Adopt for MioKernel {
    type Moved = OwnedFd;

    fn adopt_listener(&mut self, socket: OwnedFd) -> io::Result<TcpListener> {
        Ok(TcpListener::from_std(socket.into()))
    }

    fn adopt_stream(&mut self, socket: OwnedFd) -> TcpStream {
        self.shares = true;
        TcpStream::from_std(socket.into())
    }

    fn adopt_admin_listener(&mut self, socket: OwnedFd) -> io::Result<AdminListener> {
        AdminListener::adopt(socket)
    }

    fn has_file(&self, listener: &AdminListener) -> bool {
        listener.has_file()
    }

    fn own_file(&mut self, listener: &mut AdminListener) {
        listener.own_file();
    }

    fn share(&self, listener: &OwnedFd) -> io::Result<OwnedFd> {
        listener.try_clone()
    }

    /// The registration ends before the descriptor closes: epoll watches the open file, and as long as
    /// the other loop has it, would report its events here for ever.
    fn release(&mut self, mut stream: TcpStream) {
        // One that is not registered has no events.
        let _ = self.poll.registry().deregister(&mut stream);
    }

    fn release_listener(&mut self, mut listener: TcpListener) {
        let _ = self.poll.registry().deregister(&mut listener);
    }

    fn release_admin_listener(&mut self, mut listener: AdminListener) {
        let fd = listener.as_fd().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        listener.leave_file();
    }
}
