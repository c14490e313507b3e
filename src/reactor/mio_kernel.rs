use std::io;
use std::mem::offset_of;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use rand::rngs::{SmallRng, SysRng};
use rand::{RngExt, SeedableRng};
use rustix::net::{self, RecvFlags, SendFlags};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::FORBIDDEN;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use socket2::SockRef;

use super::AdminListener;
use super::random_pool::RandomPool;
use super::slots::Token;
use super::{Close, Kernel, Liveness, Ready, Wake, process};
use crate::metrics::Process;
use crate::python::Monotonic;
use crate::rawopt;

/// The real kernel, reached through mio: epoll, edge-triggered.
pub struct MioKernel {
    pub(super) poll: Poll,
    events: Events,
    capacity: usize,
    waker: Arc<mio::Waker>,
    /// When the process started, once that was asked for.
    process_started: OnceLock<SystemTime>,
    random: RandomPool,
    /// Spreads work over time.
    scatter: SmallRng,
    /// Keeps a few signals of each kind, so that a second one counts.
    signals: Option<SignalDelivery<UnixStream, WithRawSiginfo>>,
    /// Given up for a moment to turn a client away when there is no other descriptor.
    spare: Option<Poll>,
    /// Another process may have descriptors of the same sockets, since they were handed over.
    pub(super) shares: bool,
}

/// Maximum number of events per poll; the next poll returns the rest. The buffer takes 48 KiB, which a
/// process keeps once it had a crowd.
const MAX_EVENTS: usize = 4 << 10;

impl MioKernel {
    /// A kernel that at first takes this many events from one poll.
    ///
    /// # Errors
    /// If there is no descriptor for an epoll instance, its waker or the spare.
    pub fn new(events_per_poll: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), mio::Token(Token::WAKE.as_raw()))?;
        Ok(Self {
            poll,
            events: Events::with_capacity(events_per_poll),
            capacity: events_per_poll,
            waker: Arc::new(waker),
            process_started: OnceLock::new(),
            random: RandomPool::new(),
            scatter: SmallRng::try_from_rng(&mut SysRng).map_err(io::Error::other)?,
            signals: None,
            spare: Some(spare_descriptor()?),
            shares: false,
        })
    }
}

impl Kernel for MioKernel {
    type Listener = TcpListener;
    type Stream = TcpStream;
    type AdminListener = AdminListener;

    /// CLOCK_MONOTONIC itself. The time between two `Instant`s would cost more than the reading.
    fn now(&mut self) -> Monotonic {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = now.tv_sec.cast_unsigned() * 1_000_000_000;
        Monotonic::from_nanos(seconds + now.tv_nsec.cast_unsigned())
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            // A signal arrived or a tracer came: the loop computes its wait afresh.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
            on_event(Token::from_raw(event.token().0), readiness(event));
        }
        let more = 2 * self.capacity;
        if count == self.capacity && self.capacity < MAX_EVENTS && is_there_room_for(more) {
            self.capacity = more;
            self.events = Events::with_capacity(more);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(MioWaker(Arc::clone(&self.waker)))
    }

    /// The handler writes a byte to a socket pair whose other end the poll watches: two
    /// descriptors. Other handlers of the same signals, such as another server's, are called too.
    fn catch_signals(&mut self, signals: &[i32]) -> io::Result<()> {
        // The crate panics for these.
        let possible = |signal: &&i32| (1..=MAX_SIGNAL).contains(*signal);
        if signals.iter().any(|signal| FORBIDDEN.contains(signal) || !possible(&signal)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (mut read, write) = UnixStream::pair()?;
        let token = mio::Token(Token::SIGNAL.as_raw());
        self.poll.registry().register(&mut read, token, Interest::READABLE)?;
        self.signals = Some(SignalDelivery::with_pipe(read, write, WithRawSiginfo, signals)?);
        Ok(())
    }

    fn next_signal(&mut self) -> Option<i32> {
        Some(self.signals.as_mut()?.pending().next()?.si_signo)
    }

    fn register_listener(&mut self, listener: &mut TcpListener, token: Token) -> io::Result<()> {
        self.poll.registry().register(listener, mio::Token(token.as_raw()), Interest::READABLE)
    }

    fn register(&mut self, stream: &mut TcpStream, token: Token) -> io::Result<()> {
        // All at once and for good: epoll reports writability only after a send was refused, so
        // this costs no event, and nothing ever has to be registered again.
        let interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
        self.poll.registry().register(stream, mio::Token(token.as_raw()), interest)
    }

    fn accept(
        &mut self,
        listener: &mut TcpListener,
    ) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        listener.accept().map(|(stream, peer)| (stream, Some(peer)))
    }

    fn register_admin_listener(
        &mut self,
        listener: &mut AdminListener,
        token: Token,
    ) -> io::Result<()> {
        let fd = listener.as_fd().as_raw_fd();
        let token = mio::Token(token.as_raw());
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// To every call that a loop makes a stream is a descriptor, so one of a Unix socket serves as
    /// mio's TcpStream: a type that tells the two apart would cost each connection's slot its size.
    fn accept_admin(&mut self, listener: &mut AdminListener) -> io::Result<TcpStream> {
        let stream = std::net::TcpStream::from(listener.accept()?);
        Ok(TcpStream::from_std(stream))
    }

    fn shed(&mut self, listener: &mut TcpListener) -> io::Result<()> {
        self.spare = None;
        let result = listener.accept().map(drop);
        self.spare = spare_descriptor().ok();
        result
    }

    /// Not by way of libc, nor is [`send`](Self::send): in a process of several threads glibc
    /// makes each such call a cancellation point, which costs two atomic operations.
    fn recv(&mut self, stream: &mut TcpStream, data: &mut [u8]) -> io::Result<usize> {
        Ok(net::recv(stream, data, RecvFlags::empty())?.0)
    }

    fn send(&mut self, stream: &mut TcpStream, data: &[u8]) -> io::Result<usize> {
        Ok(net::send(stream, data, SendFlags::NOSIGNAL)?)
    }

    fn shutdown(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        stream.shutdown(Shutdown::Write)
    }

    fn close(&mut self, stream: TcpStream, how: Close) {
        if self.shares {
            return close_shared(&stream, how);
        }
        if how == Close::Reset {
            // If it fails the peer sees an ordinary end, as it would have without us trying.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        drop(stream);
    }

    /// Reads TCP_INFO up to the last member of interest; the kernel shortens its answer.
    fn liveness(&mut self, stream: &mut TcpStream) -> io::Result<Liveness> {
        let mut info = [0; size_of::<libc::tcp_info>()];
        let len = rawopt::get(stream.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
        let byte = |offset: usize| u32::from(info[offset]);
        let word = |offset: usize| {
            let bytes = info[offset..].first_chunk().expect("a member of the structure");
            u32::from_ne_bytes(*bytes)
        };
        if len < offset_of!(libc::tcp_info, tcpi_pmtu) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let heard = word(offset_of!(libc::tcp_info, tcpi_last_ack_recv))
            .min(word(offset_of!(libc::tcp_info, tcpi_last_data_recv)));
        Ok(Liveness {
            silent_for: Duration::from_millis(heard.into()),
            unanswered: byte(offset_of!(libc::tcp_info, tcpi_probes))
                .max(byte(offset_of!(libc::tcp_info, tcpi_retransmits))),
            owes_acknowledgement: word(offset_of!(libc::tcp_info, tcpi_unacked)) > 0
                || word(offset_of!(libc::tcp_info, tcpi_notsent_bytes)) > 0,
        })
    }

    /// A keepalive time that has already passed makes the kernel's timer fire at the next tick, and
    /// it then sends one probe (`tcp_sock_set_keepidle_locked`); the next would follow after
    /// TCP_KEEPINTVL, nine hours later.
    fn probe(&mut self, stream: &mut TcpStream) {
        // If it fails the connection is over, of which an event tells.
        let _ = net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(1));
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        self.scatter.random_range(0..limit)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.random.fill(bytes)
    }

    fn process(&self) -> Option<Process> {
        let process = process::read(self.process_started.get().copied())?;
        self.process_started.get_or_init(|| process.started);
        Some(process)
    }
}

/// Closes a stream of which another process may have a descriptor too, so that the last close may be
/// far away: says to the peer at once what the last close would have said.
#[inline(never)]
fn close_shared(stream: &TcpStream, how: Close) {
    // If it fails, the peer is gone.
    let _ = match how {
        Close::Orderly => stream.shutdown(Shutdown::Both),
        // Disconnects with a reset (tcp_disconnect).
        Close::Reset => net::connect_unspec(stream).map_err(io::Error::from),
    };
}

/// The highest signal number of Linux.
const MAX_SIGNAL: i32 = 64;

/// Translates an event. An error or a hang-up counts as readiness in both directions: the call
/// that is tried because of it reports what happened.
fn readiness(event: &Event) -> Ready {
    let mut ready = Ready::NONE;
    let failed = event.is_error() || event.is_write_closed();
    if event.is_readable() || event.is_read_closed() || failed {
        ready.insert(Ready::READABLE);
    }
    if event.is_writable() || failed {
        ready.insert(Ready::WRITABLE);
    }
    if event.is_read_closed() || failed {
        ready.insert(Ready::CLOSED);
    }
    if event.is_priority() {
        ready.insert(Ready::PRIORITY);
    }
    ready
}

/// Returns true if there is memory for so many events; without it the present number must do.
fn is_there_room_for(events: usize) -> bool {
    Vec::<libc::epoll_event>::new().try_reserve_exact(events).is_ok()
}

/// An epoll instance, since it needs no file: a bare root directory has no /dev/null.
fn spare_descriptor() -> io::Result<Poll> {
    Poll::new()
}

struct MioWaker(Arc<mio::Waker>);

impl Wake for MioWaker {
    fn wake(&self) {
        // It fails only when the counter behind it is full, and then a wake-up is pending.
        let _ = self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::fd::RawFd;

    use super::*;
    use crate::reactor::Adopt;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

    /// Registers a descriptor for both directions.
    fn watch(kernel: &MioKernel, fd: RawFd, token: usize) {
        let both = Interest::READABLE.add(Interest::WRITABLE);
        kernel.poll.registry().register(&mut SourceFd(&fd), mio::Token(token), both).unwrap();
    }

    fn poll(kernel: &mut MioKernel, timeout: Option<Duration>) -> Vec<Ready> {
        let mut seen = Vec::new();
        kernel.poll(timeout, |_, ready| seen.push(ready)).unwrap();
        seen
    }

    #[test]
    fn a_failure_is_readiness_in_both_directions() {
        let all = Ready::READABLE.union(Ready::WRITABLE).union(Ready::CLOSED);
        // epoll reports EPOLLHUP alone at the one end, EPOLLERR at the other.
        let (reader, _) = std::io::pipe().unwrap();
        let (_, writer) = std::io::pipe().unwrap();
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            let mut kernel = MioKernel::new(16).unwrap();
            watch(&kernel, fd, 1);
            assert_eq!(poll(&mut kernel, PATIENCE), [all]);
        }
    }

    #[test]
    fn a_poll_whose_room_was_filled_is_followed_by_one_with_twice_the_room() {
        let mut kernel = MioKernel::new(1).unwrap();
        let pipes: Vec<_> = (0..10).map(|_| std::io::pipe().unwrap()).collect();
        for (token, (_, writer)) in pipes.iter().enumerate() {
            watch(&kernel, writer.as_raw_fd(), token);
        }
        let taken: Vec<usize> = (0..4).map(|_| poll(&mut kernel, PATIENCE).len()).collect();
        assert_eq!(taken, [1, 2, 4, 3]);
        assert_eq!(kernel.capacity, 8, "the last had room left");
    }

    #[test]
    fn more_events_than_memory_holds_have_no_room() {
        assert!(is_there_room_for(MAX_EVENTS) && !is_there_room_for(usize::MAX / 64));
    }

    #[test]
    fn a_lent_kernel_tells_of_its_process() {
        fn tells<K: Kernel>(kernel: &K) -> bool {
            kernel.process().is_some()
        }
        let mut kernel = MioKernel::new(1).unwrap();
        assert!(tells(&&mut kernel) && tells(&kernel));
    }

    #[test]
    fn random_numbers_are_below_their_limit_and_differ() {
        let mut kernel = MioKernel::new(1).unwrap();
        let drawn = [(); 4].map(|()| kernel.random_below(1 << 40));
        assert!(drawn.iter().all(|number| *number < 1 << 40), "{drawn:?}");
        assert!(drawn.windows(2).any(|two| two[0] != two[1]), "{drawn:?}");
    }

    #[test]
    fn a_peer_owes_an_acknowledgement_for_what_it_has_no_room_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let (mut kernel, mut stream) = (MioKernel::new(1).unwrap(), TcpStream::from_std(accepted));
        assert!(!kernel.liveness(&mut stream).unwrap().owes_acknowledgement);
        while kernel.send(&mut stream, &[0; 1 << 16]).is_ok() {}
        assert!(kernel.liveness(&mut stream).unwrap().owes_acknowledgement);
    }

    /// Its descriptor in the other process would keep the connection open.
    #[test]
    fn a_connection_that_another_process_has_too_ends_when_it_is_closed_here() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (how, end) in [(Close::Orderly, Ok(0)), (Close::Reset, Err(ErrorKind::ConnectionReset))]
        {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(PATIENCE).unwrap();
            let accepted = listener.accept().unwrap().0;
            let _other = accepted.try_clone().unwrap();
            close_shared(&TcpStream::from_std(accepted), how);
            let read = (&client).read(&mut [0; 1]);
            assert_eq!(read.map_err(|error| error.kind()), end, "{how:?}");
        }
    }

    /// The file behind it is open in the other process, so epoll would go on.
    #[test]
    fn a_listener_that_was_left_to_another_loop_has_no_events() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let other = listener.try_clone().unwrap();
        let mut kernel = MioKernel::new(16).unwrap();
        let mut listener = TcpListener::from_std(listener);
        kernel.register_listener(&mut listener, Token::listener(0)).unwrap();
        kernel.release_listener(listener);
        let _client = std::net::TcpStream::connect(other.local_addr().unwrap()).unwrap();
        assert_eq!(poll(&mut kernel, Some(Duration::ZERO)), []);
    }

    #[test]
    fn each_signal_is_counted_and_wakes_the_poll() {
        let mut kernel = MioKernel::new(16).unwrap();
        kernel.catch_signals(&[libc::SIGUSR2, libc::SIGWINCH]).unwrap();
        assert_eq!(kernel.next_signal(), None);
        for signal in [libc::SIGUSR2, libc::SIGWINCH, libc::SIGUSR2] {
            signal_hook::low_level::raise(signal).unwrap();
        }
        let mut tokens = Vec::new();
        // A poll that a signal interrupts returns without an event.
        while tokens.is_empty() {
            kernel.poll(PATIENCE, |token, _| tokens.push(token)).unwrap();
        }
        assert_eq!(tokens, [Token::SIGNAL]);
        let mut signals: Vec<i32> = std::iter::from_fn(|| kernel.next_signal()).collect();
        signals.sort_unstable();
        assert_eq!(signals, [libc::SIGUSR2, libc::SIGUSR2, libc::SIGWINCH]);
        assert_eq!(poll(&mut kernel, Some(Duration::ZERO)), [], "all were taken");
    }

    #[test]
    fn signals_that_cannot_be_caught_are_refused() {
        let mut kernel = MioKernel::new(16).unwrap();
        for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, -1, 65, i32::MAX] {
            let refused = kernel.catch_signals(&[libc::SIGUSR2, signal]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "signal {signal}");
        }
    }
}
