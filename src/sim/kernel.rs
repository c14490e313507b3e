use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::socket::{Answer, End};
use super::{Faults, SimClient, SimKernel};
use crate::python::Monotonic;
use crate::reactor::{Close, Kernel, Liveness, Note, Ready, Token, Wake};
use crate::trace::{Event, Fault, Stream, Subject, World};

/// The listener of an admin endpoint, for clients of
/// [`SimKernel::connect_admin`](SimKernel::connect_admin).
#[derive(Debug, Default)]
pub struct SimAdminListener;

/// A server's end of a simulated connection.
#[derive(Debug)]
pub struct SimStream(usize);

impl SimStream {
    pub(super) const fn of(client: SimClient) -> Self {
        Self(client.0)
    }

    /// The client at the other end.
    pub const fn client(&self) -> SimClient {
        SimClient(self.0)
    }

    const fn traced(&self) -> Stream {
        SimClient(self.0).stream()
    }
}

/// A result as a trace has it.
fn outcome<T>(result: &io::Result<T>) -> Result<&T, Fault> {
    result.as_ref().map_err(Fault::from)
}

impl Kernel for SimKernel {
    type Listener = ();
    type Stream = SimStream;
    type AdminListener = SimAdminListener;

    fn now(&mut self) -> Monotonic {
        self.last_reading = Monotonic::ZERO.saturating_add(self.clock);
        let (now, polled) = (self.last_reading, std::mem::take(&mut self.polled));
        self.record(|| if polled { Event::Clock(now) } else { Event::Timing(now) });
        now
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        self.assert_no_handover("poll");
        self.calls += 1;
        self.record(|| Event::Poll(timeout));
        let before = self.events;
        for _ in 0..self.under_way.len() {
            if !self.random.chance(self.faults.late_arrival) {
                self.move_something();
            }
        }
        if self.woken.swap(false, Ordering::Relaxed) {
            self.deliver(Token::WAKE, Ready::READABLE, &mut on_event);
        }
        self.announce_signals(&mut on_event);
        self.announce_clients(&mut on_event);
        self.announce_admin_clients(&mut on_event);
        for _ in 0..self.edges.len() {
            self.announce_edge(&mut on_event);
        }
        self.disturb(&mut on_event);
        let edges = !self.edges.is_empty() || self.listener_edge || self.admin.edge;
        let pending = edges || !self.under_way.is_empty() || self.signal_edge;
        let nothing = self.events == before && !pending;
        self.asleep = nothing && timeout != Some(Duration::ZERO);
        let forbidden = nothing && timeout == Some(Duration::ZERO);
        self.fruitless = if forbidden { self.fruitless + 1 } else { 0 };
        self.let_time_pass(timeout);
        self.polled = true;
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWaker(Arc::clone(&self.woken)))
    }

    /// Every signal that a test sends is caught.
    fn catch_signals(&mut self, _signals: &[i32]) -> io::Result<()> {
        Ok(())
    }

    fn next_signal(&mut self) -> Option<i32> {
        let signal = self.signals.pop_front();
        self.record(|| Event::Signal(signal));
        signal
    }

    fn register_listener(&mut self, _listener: &mut (), token: Token) -> io::Result<()> {
        self.listener = Some(token);
        self.listener_edge |= !self.queue.is_empty();
        self.record(|| Event::Listen(token.into(), Ok(())));
        Ok(())
    }

    fn register(&mut self, stream: &mut SimStream, token: Token) -> io::Result<()> {
        let failure = self.fault(self.faults.register_error, libc::ENOSPC);
        let registered = outcome(&failure).copied();
        if registered.is_ok() {
            let socket = &mut self.sockets[stream.0];
            socket.token = Some(token);
            socket.ledger.name = Some(token);
            // Registering announces what is already there, and what comes to be.
            socket.no_space |= !socket.to_client.has_room_again();
            self.raise(stream.0);
        }
        self.record(|| Event::Register(stream.traced(), token.into(), registered));
        failure
    }

    fn accept(&mut self, _listener: &mut ()) -> io::Result<(SimStream, Option<SocketAddr>)> {
        let result = self.take_client();
        let listener = self.listener.map_or(Subject::Listener(0), Subject::from);
        let taken = outcome(&result).map(|(stream, peer)| (stream.traced(), *peer));
        self.record(|| Event::Accept(listener, taken));
        result
    }

    fn register_admin_listener(
        &mut self,
        _listener: &mut SimAdminListener,
        token: Token,
    ) -> io::Result<()> {
        self.admin.listener = Some(token);
        self.admin.edge |= !self.admin.clients.is_empty();
        self.record(|| Event::Listen(token.into(), Ok(())));
        Ok(())
    }

    fn accept_admin(&mut self, _listener: &mut SimAdminListener) -> io::Result<SimStream> {
        let result = self.take_admin_client();
        let taken = outcome(&result).map(|stream| (stream.traced(), None));
        self.record(|| Event::Accept(Subject::Admin(0), taken));
        result
    }

    fn shed(&mut self, _listener: &mut ()) -> io::Result<()> {
        let result = self.turn_away();
        let listener = self.listener.map_or(Subject::Listener(0), Subject::from);
        let shed = outcome(&result).copied();
        self.record(|| Event::Shed(listener, shed));
        result
    }

    fn recv(&mut self, stream: &mut SimStream, data: &mut [u8]) -> io::Result<usize> {
        let result = self.receive(stream, data);
        let (stream, room, received) = (stream.traced(), data.len(), outcome(&result).copied());
        self.record(|| Event::Recv { stream, room, result: received });
        result
    }

    fn send(&mut self, stream: &mut SimStream, data: &[u8]) -> io::Result<usize> {
        let result = self.transmit(stream, data);
        let (stream, len, sent) = (stream.traced(), data.len(), outcome(&result).copied());
        self.record(|| Event::Send { stream, len, result: sent });
        result
    }

    fn shutdown(&mut self, stream: &mut SimStream) -> io::Result<()> {
        self.assert_no_handover("shutdown");
        self.calls += 1;
        self.fruitless = 0;
        let socket = &mut self.sockets[stream.0];
        socket.ledger.shut_down_at = Some(self.last_reading);
        let failed = socket.failure.is_some();
        if !failed {
            socket.to_client.end();
            socket.deliver(self.clock);
        }
        let result = if failed { Err(ErrorKind::NotConnected.into()) } else { Ok(()) };
        let ended = outcome(&result).copied();
        self.record(|| Event::Shutdown(stream.traced(), ended));
        result
    }

    fn close(&mut self, stream: SimStream, how: Close) {
        self.assert_no_handover("close");
        self.calls += 1;
        self.fruitless = 0;
        let socket = &mut self.sockets[stream.0];
        match socket.is_admin {
            true => self.open_admin -= 1,
            false => self.open -= 1,
        }
        assert_ne!(socket.server_end, End::Closed, "closed twice");
        socket.server_end = End::Closed;
        socket.ledger.closed = Some((self.last_reading, how));
        if how == Close::Reset || socket.to_server.has_unread() {
            socket.reset_client();
        } else if socket.failure.is_none() {
            socket.to_client.end();
            socket.deliver(self.clock);
        }
        if let Some(token) = socket.token.take() {
            self.stale.push_front(token);
            self.stale.truncate(32);
        }
        self.record(|| Event::Close(stream.traced(), how));
    }

    fn liveness(&mut self, stream: &mut SimStream) -> io::Result<Liveness> {
        self.calls += 1;
        let peer = self.sockets[stream.0].liveness_at(self.clock);
        self.record(|| Event::Liveness(stream.traced(), Ok(peer)));
        Ok(peer)
    }

    fn probe(&mut self, stream: &mut SimStream) {
        self.assert_no_handover("setsockopt");
        self.calls += 1;
        let lost = self.random.chance(self.faults.lost_probe);
        let (clock, socket) = (self.clock, &mut self.sockets[stream.0]);
        socket.ledger.probes += 1;
        let answer = socket.be_probed(lost, clock);
        self.record(|| Event::Probe(stream.traced()));
        if answer == Answer::Reset {
            self.raise(stream.0);
        }
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        let drawn = self.scatter.next_u64() % limit;
        self.record(|| Event::RandomBelow { limit, drawn });
        drawn
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let found = self.fault(self.faults.random_error, libc::EAGAIN);
        let (len, result) = (bytes.len(), outcome(&found).copied());
        self.record(|| Event::FillRandom(len, result));
        found?;
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.random.next_u64().to_le_bytes()[..word.len()]);
        }
        Ok(())
    }

    fn note(&mut self, note: impl FnOnce() -> Note) {
        self.record(|| Event::Note(note()));
    }
}

impl SimKernel {
    fn take_client(&mut self) -> io::Result<(SimStream, Option<SocketAddr>)> {
        self.assert_no_handover("accept");
        if self.queue.is_empty() {
            self.calls += 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        // The admin endpoint's descriptor in reserve is not among them.
        if self.open + self.open_admin.saturating_sub(1) >= self.descriptors {
            self.fault(Faults::ALWAYS, libc::EMFILE)?;
        }
        self.fail_to_accept(|kernel| &mut kernel.queue)?;
        let index = self.queue.pop_front().expect("a client waits");
        let socket = &mut self.sockets[index];
        socket.server_end = End::Open;
        socket.heard_at = self.clock;
        socket.ledger.accepted_at = Some(self.last_reading);
        let peer = socket.peer;
        self.open += 1;
        self.fruitless = 0;
        Ok((SimStream(index), peer))
    }

    fn take_admin_client(&mut self) -> io::Result<SimStream> {
        self.assert_no_handover("accept");
        if self.admin.clients.is_empty() {
            self.calls += 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.open_admin > 0 && self.open + self.open_admin > self.descriptors {
            self.fault(Faults::ALWAYS, libc::EMFILE)?;
        }
        self.fail_to_accept(|kernel| &mut kernel.admin.clients)?;
        let index = self.admin.clients.pop_front().expect("a client waits");
        let socket = &mut self.sockets[index];
        socket.server_end = End::Open;
        socket.ledger.accepted_at = Some(self.last_reading);
        self.open_admin += 1;
        self.fruitless = 0;
        Ok(SimStream(index))
    }

    fn turn_away(&mut self) -> io::Result<()> {
        self.assert_no_handover("accept");
        if self.queue.is_empty() {
            self.calls += 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        // Another thread may have taken the descriptor that was given up for this.
        self.fault(self.faults.accept_error, libc::EMFILE)?;
        let index = self.queue.pop_front().expect("a client waits");
        self.open += 1;
        self.close(SimStream(index), Close::Orderly);
        Ok(())
    }

    fn receive(&mut self, stream: &SimStream, data: &mut [u8]) -> io::Result<usize> {
        self.assert_no_handover("recv");
        self.inject(stream.0)?;
        let (now, socket) = (self.last_reading, &mut self.sockets[stream.0]);
        socket.ledger.count_request();
        let n = socket.to_server.read(data);
        let result = if n > 0 {
            socket.ledger.count_received(n, now);
            Ok(n)
        } else if socket.to_server.is_at_end() {
            Ok(0)
        } else if let Some(errno) = socket.take_error() {
            Err(io::Error::from_raw_os_error(errno))
        } else if socket.failure.is_some() {
            Ok(0)
        } else {
            Err(ErrorKind::WouldBlock.into())
        };
        if n > 0 {
            self.fruitless = 0;
            self.send_off(stream.0); // The window may have opened.
        }
        result
    }

    fn transmit(&mut self, stream: &SimStream, data: &[u8]) -> io::Result<usize> {
        self.assert_no_handover("send");
        self.inject(stream.0)?;
        let part = match self.random.chance(self.faults.partial_write) {
            true => 1 + self.random.below(data.len()),
            false => data.len(),
        };
        let (now, socket) = (self.last_reading, &mut self.sockets[stream.0]);
        let result = if let Some(errno) = socket.take_error() {
            Err(io::Error::from_raw_os_error(errno))
        } else if socket.failure.is_some() {
            socket.ledger.failed = true;
            Err(ErrorKind::BrokenPipe.into())
        } else {
            let n = socket.to_client.push(&data[..part]);
            socket.deliver(self.clock);
            socket.no_space |= n < part;
            if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
        };
        if let Ok(n) = result {
            socket.ledger.sent += n as u64;
            socket.ledger.spoke.get_or_insert((now, socket.ledger.received));
            socket.ledger.sent_at = Some(now);
            self.fruitless = 0;
        }
        result
    }

    fn let_time_pass(&mut self, timeout: Option<Duration>) {
        if self.asleep {
            let mut slept = timeout.map_or(self.patience, |timeout| timeout.min(self.patience));
            if self.random.chance(self.faults.interrupted) {
                slept /= 3;
            }
            self.clock += slept;
            self.act(|| World::Sleeps(slept, timeout));
        } else {
            self.clock += Duration::from_micros(self.random.below(50) as u64);
        }
        if self.random.chance(self.faults.clock_jump) {
            let millis = [7, 900, 30_000][self.random.below(3)];
            self.pass(Duration::from_millis(millis));
        }
    }

    fn fault(&mut self, chance: u32, errno: i32) -> io::Result<()> {
        self.calls += 1;
        if self.random.chance(chance) {
            self.act(|| World::Injects(Fault(errno)));
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }

    /// Injects what may happen to a socket between any two calls, and to this call.
    fn inject(&mut self, index: usize) -> io::Result<()> {
        if self.random.chance(self.faults.late_arrival) {
            self.move_something();
        }
        if self.random.chance(self.faults.network_failure) {
            let errnos = [libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH];
            let errno = errnos[self.random.below(errnos.len())];
            self.disconnect(SimClient(index), errno);
        }
        self.fault(self.faults.interrupted, libc::EINTR)?;
        self.sockets[index].ledger.calls += 1;
        // The socket is of no use afterwards, however well it is: the loop is to close it.
        self.fault(self.faults.broken_call, libc::ENOBUFS)
            .inspect_err(|_| self.sockets[index].ledger.failed = true)
    }

    fn fail_to_accept(
        &mut self,
        queue: impl Fn(&mut Self) -> &mut VecDeque<usize>,
    ) -> io::Result<()> {
        const PENDING: [i32; 9] = [
            libc::ECONNABORTED,
            libc::EPROTO,
            libc::EPERM,
            libc::ETIMEDOUT,
            libc::ENETDOWN,
            libc::EHOSTDOWN,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ENONET,
        ];
        const OURS: [i32; 5] =
            [libc::EINTR, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        if !self.random.chance(self.faults.accept_error) {
            return Ok(());
        }
        if self.random.below(2) == 0 {
            let errno = OURS[self.random.below(OURS.len())];
            return self.fault(Faults::ALWAYS, errno);
        }
        // A pending error of the new connection is reported in its place, and it is gone.
        let errno = PENDING[self.random.below(PENDING.len())];
        if self.random.below(2) == 0 {
            let index = queue(self).pop_front().expect("the caller saw one");
            self.sockets[index].server_end = End::Closed;
            self.sockets[index].reset_client();
        }
        self.fault(Faults::ALWAYS, errno)
    }
}

struct SimWaker(Arc<AtomicBool>);

impl Wake for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
