//! Sockets to listen on, with the options that accepted ones inherit.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

#[cfg(doc)]
use super::Kernel;
use super::MioKernel;

/// The sharing of a bound address with other sockets of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Alone,
    Shared,
}

/// Options of a listener, beside its address.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ListenOptions {
    /// `listen(backlog)`, cut to `net.core.somaxconn` by the kernel.
    pub backlog: u32,
    /// True if [`Kernel::probe`] works on its connections.
    pub keepalive: bool,
}

impl ListenOptions {
    /// A queue of this length, and keepalive or not.
    pub const fn new(backlog: u32, keepalive: bool) -> Self {
        Self { backlog, keepalive }
    }
}

/// The most that TCP_KEEPIDLE and TCP_KEEPINTVL take, in whole seconds.
const NINE_HOURS: Duration = Duration::from_secs(32_767);

impl MioKernel {
    /// A listener at `address`, with the options that its connections inherit from it.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and listen(2).
    pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        Self::adopt(Self::bind(address, Port::Alone)?.into(), options)
    }

    /// So many listeners at one address, among which the kernel spreads clients (SO_REUSEPORT);
    /// port 0 becomes the same one for all.
    ///
    /// From then on any process of the same user may join in, which is what that option means; but
    /// an address at which another process already listens is refused, even if that one shares it.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and listen(2).
    pub fn listen_shared(
        address: SocketAddr,
        count: usize,
        options: ListenOptions,
    ) -> io::Result<Vec<TcpListener>> {
        // Bound alone and shared afterwards, so that no other process can already be listening there.
        let first = Self::bind(address, Port::Alone)?;
        first.set_reuse_port(true)?;
        let first = Self::adopt(first.into(), options)?;
        let address = first.local_addr()?;
        let others =
            (1..count).map(|_| Self::adopt(Self::bind(address, Port::Shared)?.into(), options));
        std::iter::once(Ok(first)).chain(others).collect()
    }

    fn bind(address: SocketAddr, port: Port) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // [::] means IPv6 alone, so that 0.0.0.0 can be listened on beside it.
            socket.set_only_v6(true)?;
        }
        if port == Port::Shared {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    }

    /// Takes over a bound socket, listening or not.
    ///
    /// `listen` is called here, a second time if need be: std and mio hard-code a queue of 128.
    ///
    /// # Errors
    /// Those of fcntl(2) and listen(2).
    pub fn adopt(
        listener: std::net::TcpListener,
        options: ListenOptions,
    ) -> io::Result<TcpListener> {
        let socket = SockRef::from(&listener);
        socket.set_nonblocking(true)?;
        // On Linux an accepted socket inherits these, which saves calls for each. None of them is
        // worth refusing service for.
        let _ = socket.set_tcp_nodelay(true);
        if options.keepalive {
            // On, but so that the kernel never asks, nor gives up, before the loop does.
            let keepalive = TcpKeepalive::new()
                .with_time(NINE_HOURS)
                .with_interval(NINE_HOURS)
                .with_retries(127);
            let _ = socket.set_tcp_keepalive(&keepalive);
        }
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(TcpListener::from_std(listener))
    }
}
