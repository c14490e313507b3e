use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::slots::Token;
use super::snapshot::SnapshotTaker;
use super::{Note, Ready};
use crate::metrics::Process;
use crate::python::Monotonic;

/// Everything that the loop asks of the operating system. Not a socket library: it has the calls
/// that this loop makes and no others, so that a simulated kernel can answer each of them.
///
/// The contract is that of edge-triggered epoll:
/// - an event for a token is a hint, may be late, repeated or spurious, and comes at least once
///   after each change from "would block" to "ready";
/// - sockets never block: a call that cannot proceed fails with [`io::ErrorKind::WouldBlock`];
/// - closing a stream ends its registration.
pub trait Kernel {
    /// A listening socket.
    type Listener;
    /// A connected stream socket.
    type Stream;
    /// A listening socket of an admin endpoint, whose clients come over TCP or a Unix socket.
    type AdminListener;

    /// Reads the monotonic clock. Its zero is the same for all loops between which sockets
    /// [move](super::Adopt): on a real system, CLOCK_MONOTONIC.
    fn now(&mut self) -> Monotonic;

    /// Waits for events, at most for `timeout` (`None`: for ever), and hands each to `on_event`.
    /// Returning without an event, early or interrupted, is allowed.
    ///
    /// # Errors
    /// Only those after which the loop cannot go on.
    fn poll(
        &mut self,
        timeout: Option<Duration>,
        on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()>;

    /// A handle that wakes a [`poll`](Self::poll) from another thread with [`Token::WAKE`].
    fn waker(&self) -> Arc<dyn Wake>;

    /// Catches these signals of the process from now on. Each that comes is an event for
    /// [`Token::SIGNAL`], and [`next_signal`](Self::next_signal) returns it.
    ///
    /// # Errors
    /// Those of sigaction(2), also for signals that cannot or must not be caught, and for a kernel
    /// without signals.
    fn catch_signals(&mut self, _signals: &[i32]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes one of the signals that have come. Two of a kind are two, unless the second came
    /// before the system had delivered the first (signal(7)).
    fn next_signal(&mut self) -> Option<i32> {
        None
    }

    /// Starts events for a listener.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    fn register_listener(&mut self, listener: &mut Self::Listener, token: Token) -> io::Result<()>;

    /// Starts events in both directions for a stream; it is never changed afterwards.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): ENOSPC when the user's epoll watches are used up.
    fn register(&mut self, stream: &mut Self::Stream, token: Token) -> io::Result<()>;

    /// `accept()`. The peer's address is missing if the peer is already gone.
    ///
    /// # Errors
    /// Those of accept(2), unfiltered.
    fn accept(
        &mut self,
        listener: &mut Self::Listener,
    ) -> io::Result<(Self::Stream, Option<SocketAddr>)>;

    /// Starts events for the listener of an admin endpoint.
    ///
    /// # Errors
    /// Whatever the system says.
    fn register_admin_listener(
        &mut self,
        listener: &mut Self::AdminListener,
        token: Token,
    ) -> io::Result<()>;

    /// `accept()` for an admin endpoint. When the process has no descriptor left, one client at a
    /// time is still accepted, with a descriptor that the listener keeps for that.
    ///
    /// # Errors
    /// Those of accept(2), unfiltered.
    fn accept_admin(&mut self, listener: &mut Self::AdminListener) -> io::Result<Self::Stream>;

    /// Accepts one client and closes it at once, so that it learns that it is not served. Works
    /// when the process has no descriptor left, by giving up a spare one for the moment.
    ///
    /// # Errors
    /// Those of accept(2), unfiltered.
    fn shed(&mut self, listener: &mut Self::Listener) -> io::Result<()>;

    /// `recv(len(data))`: at most that many bytes, zero at the end of the stream.
    ///
    /// # Errors
    /// Those of recv(2), unfiltered.
    fn recv(&mut self, stream: &mut Self::Stream, data: &mut [u8]) -> io::Result<usize>;

    /// `send(data)`: how many bytes of it the kernel took.
    ///
    /// # Errors
    /// Those of send(2), unfiltered; never a signal.
    fn send(&mut self, stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize>;

    /// `shutdown(SHUT_WR)`: the peer reads the end of the stream after what was sent.
    ///
    /// # Errors
    /// ENOTCONN when the peer is gone.
    fn shutdown(&mut self, stream: &mut Self::Stream) -> io::Result<()>;

    /// `close()`.
    fn close(&mut self, stream: Self::Stream, how: Close);

    /// Returns what the system knows of a stream's peer.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    fn liveness(&mut self, stream: &mut Self::Stream) -> io::Result<Liveness>;

    /// Asks the peer of a stream for a sign of life: one keepalive probe (RFC 9293, section 3.8.4),
    /// which a peer that is there acknowledges. One that was started again answers with a reset.
    fn probe(&mut self, stream: &mut Self::Stream);

    /// A number below `limit`, which is not zero, to spread work over time. Not for secrets.
    fn random_below(&mut self, limit: u64) -> u64;

    /// Fills `bytes` from the system's cryptographic random source.
    ///
    /// # Errors
    /// When there is none to be had; there is no weaker substitute.
    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()>;

    /// Hears of what a loop does for another cause than an answer of this trait, and of its decisions.
    /// For kernels that keep an account of a run; the others do not make the note.
    fn note(&mut self, _note: impl FnOnce() -> Note) {}

    /// The next thing that reached the recorded loop here by another way than this trait, if this
    /// kernel replays a recording and it is one that is `wanted`. Else it stays the next.
    fn replayed(&mut self, _wanted: fn(&Note) -> bool) -> Option<Note> {
        None
    }

    /// Returns true if the account that this kernel keeps of a run is to begin anew, between two turns,
    /// with a snapshot of the loop.
    fn wants_snapshot(&mut self) -> bool {
        false
    }

    /// Takes a snapshot if it [wants](Self::wants_snapshot) one: `take` gives it the parts.
    fn snapshot(
        &mut self,
        _take: impl FnOnce(&mut dyn SnapshotTaker<Self::Stream>) -> Result<(), String>,
    ) {
    }

    /// The system's figures for the process, read for a scrape of its metrics; `None` if there is no
    /// process, as in a simulation.
    fn process(&self) -> Option<Process> {
        None
    }
}

/// A kernel that is lent to a loop. Forwards every call, those with a default too.
impl<K: Kernel> Kernel for &mut K {
    type Listener = K::Listener;
    type Stream = K::Stream;
    type AdminListener = K::AdminListener;

    fn now(&mut self) -> Monotonic {
        (**self).now()
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        (**self).poll(timeout, on_event)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        (**self).waker()
    }

    fn catch_signals(&mut self, signals: &[i32]) -> io::Result<()> {
        (**self).catch_signals(signals)
    }

    fn next_signal(&mut self) -> Option<i32> {
        (**self).next_signal()
    }

    fn register_listener(&mut self, listener: &mut K::Listener, token: Token) -> io::Result<()> {
        (**self).register_listener(listener, token)
    }

    fn register(&mut self, stream: &mut K::Stream, token: Token) -> io::Result<()> {
        (**self).register(stream, token)
    }

    fn accept(
        &mut self,
        listener: &mut K::Listener,
    ) -> io::Result<(K::Stream, Option<SocketAddr>)> {
        (**self).accept(listener)
    }

    fn register_admin_listener(
        &mut self,
        listener: &mut K::AdminListener,
        token: Token,
    ) -> io::Result<()> {
        (**self).register_admin_listener(listener, token)
    }

    fn accept_admin(&mut self, listener: &mut K::AdminListener) -> io::Result<K::Stream> {
        (**self).accept_admin(listener)
    }

    fn shed(&mut self, listener: &mut K::Listener) -> io::Result<()> {
        (**self).shed(listener)
    }

    fn recv(&mut self, stream: &mut K::Stream, data: &mut [u8]) -> io::Result<usize> {
        (**self).recv(stream, data)
    }

    fn send(&mut self, stream: &mut K::Stream, data: &[u8]) -> io::Result<usize> {
        (**self).send(stream, data)
    }

    fn shutdown(&mut self, stream: &mut K::Stream) -> io::Result<()> {
        (**self).shutdown(stream)
    }

    fn close(&mut self, stream: K::Stream, how: Close) {
        (**self).close(stream, how);
    }

    fn note(&mut self, note: impl FnOnce() -> Note) {
        (**self).note(note);
    }

    fn replayed(&mut self, wanted: fn(&Note) -> bool) -> Option<Note> {
        (**self).replayed(wanted)
    }

    fn wants_snapshot(&mut self) -> bool {
        (**self).wants_snapshot()
    }

    fn snapshot(
        &mut self,
        take: impl FnOnce(&mut dyn SnapshotTaker<K::Stream>) -> Result<(), String>,
    ) {
        (**self).snapshot(take);
    }

    fn liveness(&mut self, stream: &mut K::Stream) -> io::Result<Liveness> {
        (**self).liveness(stream)
    }

    fn probe(&mut self, stream: &mut K::Stream) {
        (**self).probe(stream);
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        (**self).random_below(limit)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        (**self).fill_random(bytes)
    }

    fn process(&self) -> Option<Process> {
        (**self).process()
    }
}

/// The state of a peer, as far as the system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Time since anything came from it, acknowledgements included.
    pub silent_for: Duration,
    /// Probes and repetitions since then that it has not answered.
    pub unanswered: u32,
    /// True if something was sent that it has not acknowledged: the system repeats that by itself.
    pub owes_acknowledgement: bool,
}

/// The way in which a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Bytes that the kernel has taken are delivered, then the stream ends.
    Orderly,
    /// With a reset (`SO_LINGER` of zero): for a stream that is incomplete, so that the peer
    /// cannot take its end for the end of the answer.
    Reset,
}

/// Wakes a loop that sleeps in [`Kernel::poll`].
pub trait Wake: Send + Sync {
    /// Makes the current poll, or the next, return with [`Token::WAKE`].
    fn wake(&self);
}
