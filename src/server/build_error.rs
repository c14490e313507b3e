use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::AdminAddress;

/// The reason why a server could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Neither an address nor a listener was given.
    #[error("there is no address to listen on")]
    NoAddress,
    /// A text that was given as an address is none, or a name that means none.
    #[error("not an address to listen on: {0}; give an IP address and a port, like 127.0.0.1:9999")]
    Address(#[source] io::Error),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The address of the admin endpoint cannot be had.
    #[error("cannot listen on {address} for the admin endpoint: {source}")]
    ListenAdmin {
        /// The address.
        address: AdminAddress,
        /// The error of the system.
        source: io::Error,
    },
    /// A limit of zero, under which nothing could ever happen.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A listener behind a balancer in a protocol that has no handshake.
    #[error(
        "a listener behind a balancer needs a protocol with a handshake, and the plain one has none"
    )]
    PlainBehindProxy,
    /// Something that was handed over is one loop's, and there are to be several.
    #[error("{0} that was handed over is for one loop, and there are to be several")]
    NotShared(&'static str),
    /// The drain would end before the listeners close.
    #[error(
        "a drain that may take {timeout:?} in all cannot begin with a delay of {delay:?}: make the \
         delay shorter or the time longer"
    )]
    DrainDelay {
        /// [`Limits::drain_delay`](super::Limits::drain_delay).
        delay: Duration,
        /// [`Limits::drain_timeout`](super::Limits::drain_timeout).
        timeout: Duration,
    },
    /// Not even one connection of each loop fits into the descriptors of the process.
    #[error(
        "one connection per worker needs {needed} descriptors in all, and this process may have \
         {limit}; raise the hard limit (`ulimit -Hn`, LimitNOFILE=) or use fewer workers and \
         addresses"
    )]
    NoDescriptors {
        /// Descriptors that the loops, their listeners and one connection of each take.
        needed: usize,
        /// Descriptors to be had.
        limit: usize,
    },
    /// More connections were asked for than the process may have descriptors.
    #[error(
        "room for {wanted} takes {needed} descriptors, and this process may have {limit}; raise \
         the hard limit (`ulimit -Hn`, LimitNOFILE=) or ask for fewer connections"
    )]
    Descriptors {
        /// Connections asked for.
        wanted: usize,
        /// Descriptors that takes, the reserve included.
        needed: usize,
        /// Descriptors to be had.
        limit: usize,
    },
    /// The system refused something else that a loop cannot do without.
    #[error("cannot set up the event loop: {0}")]
    Loop(#[from] io::Error),
}
