use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::rawopt;
use crate::reactor::{Kernel, MioKernel};

/// System calls that a load generator needs beyond those of a server.
pub trait Dial: Kernel {
    /// Starts to connect to `target`, from `source` if one is given. After an event,
    /// [`is_connected`](Self::is_connected) tells whether the connection is established.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2): EADDRNOTAVAIL when the source has no more
    /// ports towards the target.
    fn dial(&mut self, target: SocketAddr, source: Option<SocketAddr>) -> io::Result<Self::Stream>;

    /// Returns true once the connection is established.
    ///
    /// # Errors
    /// The reason for which it failed: ECONNREFUSED, ETIMEDOUT.
    fn is_connected(&mut self, stream: &mut Self::Stream) -> io::Result<bool>;
}

impl Dial for MioKernel {
    fn dial(&mut self, target: SocketAddr, source: Option<SocketAddr>) -> io::Result<TcpStream> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
        // Without it messages that are due together wait for acknowledgements. Worth no failure.
        let _ = socket.set_tcp_nodelay(true);
        if let Some(source) = source {
            // bind(2) alone would take a port from all destinations at once; with this the port is
            // chosen by connect(2), and is only taken towards this target (ip(7), since Linux 4.2).
            let _ = rawopt::set(
                socket.as_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                &1i32.to_ne_bytes(),
            );
            socket.bind(&source.into())?;
        }
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    fn is_connected(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if let Some(error) = SockRef::from(&*stream).take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}
