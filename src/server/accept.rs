//! Accepting: admission before allocation, a limited number per turn, and a pause instead of a spin
//! or a stall when there is no room.

use std::collections::TryReserveError;
use std::io;
use std::net::SocketAddr;

use super::admission::{Networks, Source, Unauthenticated};
use super::records::Row;
use super::{Limits, Server};
use crate::proto::wire::{Reader, put_number};
use crate::proto::{CloseReason, Connection, Handler, Peer, Protocol, guarded};
use crate::python::Monotonic;
use crate::reactor::{AcceptPause, Close, Fault, Kernel, Note, Ready, Refusal};

/// The listeners, and what decides whether a client gets in now: the pause that accepting may have
/// to make, and the connections that have not authenticated.
pub(super) struct Acceptor<L> {
    pub(super) listeners: Vec<Listening<L>>,
    /// Some of them may have clients waiting.
    has_waiting: bool,
    pause: Pause,
    pub(super) unauthenticated: Unauthenticated,
    /// The networks that may send a PROXY header; all may if there is none.
    pub(super) proxies: Networks,
}

/// One listener.
pub(super) struct Listening<L> {
    pub(super) listener: L,
    purpose: Purpose,
    /// Set by an event, cleared when `accept` says "would block". It stays set while there is no
    /// room: the event will not come again for those who already wait.
    waiting: bool,
}

/// The purpose of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The authenticated service, behind a balancer that sends a PROXY header or without.
    Service { proxied: bool },
}

impl<L> Listening<L> {
    /// A listener that was just registered. Clients may have queued before, so it is looked at once
    /// without an event.
    pub(super) const fn new(listener: L, purpose: Purpose) -> Self {
        Self { listener, purpose, waiting: true }
    }

    /// The same of another loop, which requires a PROXY header or not.
    pub(super) const fn arrived(listener: L, proxied: bool) -> Self {
        Self::new(listener, Purpose::Service { proxied })
    }

    pub(super) const fn is_proxied(&self) -> bool {
        let Purpose::Service { proxied } = self.purpose;
        proxied
    }

    /// Makes it one that requires a PROXY header.
    pub(super) const fn require_proxy(&mut self) {
        self.purpose = Purpose::Service { proxied: true };
    }
}

impl<L> Acceptor<L> {
    pub(super) fn new(listeners: Vec<Listening<L>>) -> Self {
        Self {
            has_waiting: !listeners.is_empty(),
            listeners,
            pause: Pause::default(),
            unauthenticated: Unauthenticated::default(),
            proxies: Networks::default(),
        }
    }

    /// An event came for the listener with this index.
    pub(super) fn handle_event(&mut self, index: usize) {
        if let Some(listening) = self.listeners.get_mut(index) {
            (listening.waiting, self.has_waiting) = (true, true);
        }
    }

    /// Adds a listener.
    pub(super) fn add(&mut self, listening: Listening<L>) {
        self.has_waiting |= listening.waiting;
        self.listeners.push(listening);
    }

    /// When the next `accept` should be tried: at once if clients wait, unless there is a pause.
    pub(super) fn next_attempt(&self) -> Option<Monotonic> {
        self.has_waiting.then_some(self.pause.until)
    }

    /// Returns true if `accept` should be tried.
    fn may_accept(&self, now: Monotonic) -> bool {
        self.has_waiting && !self.pause.holds(now)
    }

    /// Looks whether clients may still be waiting.
    fn update(&mut self) {
        self.has_waiting = self.listeners.iter().any(|listening| listening.waiting);
    }

    /// Writes what no event would tell again, for a snapshot.
    pub(super) fn park(&self, out: &mut Vec<u8>) {
        put_number(out, self.listeners.len() as u64);
        out.extend(self.listeners.iter().map(|listening| u8::from(listening.waiting)));
        out.push(self.has_waiting.into());
        put_number(out, self.pause.until.as_nanos());
        out.push(self.pause.for_room.into());
    }

    /// Reads what [`park`](Self::park) wrote. Listeners that are closed by then are gone. `None` if that is
    /// impossible.
    pub(super) fn unpark(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let listeners = reader.small().filter(|count| *count <= self.listeners.len())?;
        self.listeners.truncate(listeners);
        for listening in &mut self.listeners {
            listening.waiting = reader.bit()?;
        }
        self.has_waiting = reader.bit()?;
        let until = Monotonic::from_nanos(reader.number()?);
        self.pause = Pause { until, for_room: reader.bit()? };
        Some(())
    }

    /// A connection ended or authenticated, so there is room: no reason to wait any longer.
    pub(super) fn end_pause(&mut self) {
        self.pause = Pause::default();
    }

    /// Looks at every listener, whatever events there were.
    pub(super) fn suspect_all(&mut self) {
        self.listeners.iter_mut().for_each(|listening| listening.waiting = true);
        self.update();
    }

    /// Closes the listeners.
    pub(super) fn close(&mut self) {
        drop(self.take_listeners());
    }

    /// Gives the listeners away.
    pub(super) fn take_listeners(&mut self) -> Vec<Listening<L>> {
        self.has_waiting = false;
        std::mem::take(&mut self.listeners)
    }

    /// Compares what it remembers with what the listeners say.
    ///
    /// # Panics
    /// If they disagree.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn assert_consistent(&self) {
        let waiting = self.listeners.iter().any(|listening| listening.waiting);
        assert_eq!(self.has_waiting, waiting, "clients that may be waiting");
    }

    /// When the oldest unauthenticated connection may be evicted, if there is no room for another
    /// until then.
    ///
    /// No client is turned away meanwhile: the wait is short, and each will be served.
    fn full_until(&mut self, limits: &Limits, now: Monotonic) -> Option<Monotonic> {
        if self.unauthenticated.len() < limits.unauthenticated {
            return None;
        }
        // Only a damaged recording allows none at all.
        let (_, since) = self.unauthenticated.oldest()?;
        Some(since.saturating_add(limits.eviction_age)).filter(|until| *until > now)
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Accepts until no client waits, this turn's number is reached, or there is no room.
    #[inline]
    pub(super) fn accept(&mut self) -> io::Result<()> {
        match self.acceptor.may_accept(self.reactor.now()) {
            true => self.accept_some(),
            false => Ok(()),
        }
    }

    /// Not inlined: in most turns no client waits.
    #[inline(never)]
    fn accept_some(&mut self) -> io::Result<()> {
        let mut left = self.limits.accepts_per_turn;
        let now = self.reactor.now();
        for offset in 0..self.acceptor.listeners.len() {
            // Each turn begins at another listener, so that a busy one cannot starve the others.
            #[allow(clippy::cast_possible_truncation)] // Only the remainder matters.
            let index =
                (self.stats.turns as usize).wrapping_add(offset) % self.acceptor.listeners.len();
            let (mut errors_in_a_row, mut room) = (0, 0);
            while self.acceptor.listeners[index].waiting
                && left > 0
                && !self.acceptor.pause.holds(now)
            {
                left -= 1;
                self.lag.time_this_turn();
                if self.reactor.slots.len() >= self.limits.connections {
                    self.cannot_accept(index, AcceptPause::Full);
                    continue;
                }
                if let Some(until) = self.acceptor.full_until(&self.limits, now) {
                    self.pause(AcceptPause::UnauthenticatedFull);
                    self.acceptor.pause = Pause::until(until);
                    continue;
                }
                if room == 0 {
                    room = self.make_room(left + 1);
                }
                let Some(room_left) = room.checked_sub(1) else {
                    self.cannot_accept(index, AcceptPause::Error(Fault(libc::ENOMEM)));
                    continue;
                };
                room = room_left;
                let Listening { listener, purpose, waiting } = &mut self.acceptor.listeners[index];
                match self.reactor.kernel.accept(listener) {
                    Ok((stream, peer)) => {
                        errors_in_a_row = 0;
                        match *purpose {
                            Purpose::Service { proxied: false } => self.admit(stream, peer, index),
                            Purpose::Service { proxied: true } => {
                                self.admit_proxied(stream, peer, index);
                            }
                        }
                    }
                    Err(error) => match classify(&error) {
                        AcceptError::Drained => *waiting = false,
                        AcceptError::Client => {
                            self.stats.accept_errors += 1;
                            errors_in_a_row += 1;
                            if errors_in_a_row == ERRORS_IN_A_ROW {
                                // There is room, so the clients behind these are not turned away.
                                self.pause(AcceptPause::Error(Fault::from(&error)));
                                self.acceptor.pause = Pause::until(self.retry_at());
                            }
                        }
                        AcceptError::Exhausted => {
                            self.cannot_accept(index, AcceptPause::Error(Fault::from(&error)));
                        }
                        AcceptError::Fatal => {
                            self.inbox.close();
                            return Err(error);
                        }
                    },
                }
            }
        }
        self.acceptor.update();
        Ok(())
    }

    /// Makes room for `wanted` connections wherever they are kept, or for one; returns the number.
    /// So a lack of memory costs new clients their places and not the process its life.
    fn make_room(&mut self, wanted: usize) -> usize {
        let reserve = |server: &mut Self, more| -> Result<usize, TryReserveError> {
            server.reactor.make_room(more)?;
            server.acceptor.unauthenticated.make_room(more)?;
            if let Some(records) = &mut server.records {
                records.make_room(server.reactor.slots.bound() as usize + more)?;
            }
            Ok(more)
        };
        reserve(self, wanted).or_else(|_| reserve(self, 1)).unwrap_or(0)
    }

    /// Sends a client its challenge, unless its source may have no more connections now.
    fn admit(&mut self, stream: K::Stream, peer: Option<SocketAddr>, listener: usize) {
        self.acceptor.end_pause();
        let (limits, now) = (&self.limits, self.reactor.now());
        let unauthenticated = &mut self.acceptor.unauthenticated;
        let source = unauthenticated.source_of(peer, limits);
        if let Err(refusal) = unauthenticated.admit(source, limits, now) {
            return self.refuse(stream, peer, refusal);
        }
        self.evict();
        self.open(stream, peer, source, listener);
    }

    /// Waits for the PROXY header of a connection, unless its peer may not send one. Its client is
    /// admitted once the header is complete.
    fn admit_proxied(&mut self, stream: K::Stream, peer: Option<SocketAddr>, listener: usize) {
        self.acceptor.end_pause();
        let proxies = &self.acceptor.proxies;
        // A peer that was gone before its address was read cannot be one of the list.
        if !proxies.is_empty() && !peer.is_some_and(|peer| proxies.contain(peer.ip())) {
            return self.refuse(stream, peer, Refusal::UntrustedProxy);
        }
        self.evict();
        self.open(stream, peer, None, listener);
    }

    fn refuse(&mut self, stream: K::Stream, peer: Option<SocketAddr>, why: Refusal) {
        self.stats.count_refusal(why);
        self.tell(|| Note::Refused(peer, why));
        self.reactor.kernel.close(stream, Close::Orderly);
    }

    /// Makes room for one more unauthenticated connection.
    fn evict(&mut self) {
        let unauthenticated = &mut self.acceptor.unauthenticated;
        if unauthenticated.len() >= self.limits.unauthenticated
            && let Some((oldest, _)) = unauthenticated.oldest()
        {
            self.abort(oldest, CloseReason::Evicted);
        }
    }

    /// Pauses for want of room. If the last pause for that did not help, turns a few clients away,
    /// which would otherwise wait in silence for a challenge.
    fn cannot_accept(&mut self, index: usize, why: AcceptPause) {
        if self.acceptor.pause.found_no_room(self.reactor.now()) {
            let Listening { listener, waiting, .. } = &mut self.acceptor.listeners[index];
            for _ in 0..self.limits.shed_per_retry {
                match self.reactor.kernel.shed(listener) {
                    Ok(()) => self.stats.shed += 1,
                    Err(error) => {
                        *waiting = classify(&error) != AcceptError::Drained;
                        break;
                    }
                }
            }
        } else {
            self.pause(why);
        }
        self.acceptor.pause = Pause::for_room(self.retry_at());
    }

    fn retry_at(&self) -> Monotonic {
        self.reactor.now().saturating_add(self.limits.accept_retry)
    }

    fn pause(&mut self, why: AcceptPause) {
        self.stats.accept_pauses += 1;
        self.tell(|| Note::AcceptPaused(why));
    }

    fn open(
        &mut self,
        stream: K::Stream,
        peer: Option<SocketAddr>,
        source: Option<Source>,
        listener: usize,
    ) {
        let mut random = [0; Protocol::MAX_RANDOM];
        let needed = &mut random[..self.config.protocol.random_len()];
        if !needed.is_empty()
            && let Err(error) = self.reactor.kernel.fill_random(needed)
        {
            self.tell(|| Note::SetupFailed(peer, Fault::from(&error)));
            return self.cannot_open(stream, CloseReason::SetupFailed);
        }
        let Some(handler) = guarded(|| self.handler.clone()) else {
            return self.cannot_open(stream, CloseReason::HandlerPanicked);
        };
        let (id, now) = (self.reactor.next_id(), self.reactor.now());
        let who = Peer::new(self.inbox.server(), id, peer);
        let config = &self.config;
        let unauthenticated = &mut self.acceptor.unauthenticated;
        // Calls by name, which can be inlined.
        let connection = match self.acceptor.listeners[listener].purpose {
            Purpose::Service { proxied: false } => {
                unauthenticated.add(id, source, now);
                Connection::open(config, &random, handler, who, now)
            }
            Purpose::Service { proxied: true } => {
                unauthenticated.add_awaiting_header(id, now);
                Connection::open_proxied(config, &random, handler, who, now)
            }
        };
        if let Some(records) = &mut self.records {
            records.insert(id, Row::new(peer, listener, now));
        }
        self.stats.accepted += 1;
        let connections = self.reactor.slots.len() + 1;
        self.stats.peak_connections = self.stats.peak_connections.max(connections);
        self.tell(|| Note::Opened(id, peer));
        if connection.has_authenticated() {
            // Its protocol has no handshake.
            self.authenticated(id, None);
        }
        // A new socket has room for a challenge; whether anything came is for an event to say.
        match self.reactor.enter(stream, connection, Ready::WRITABLE) {
            Ok(id) => self.greet(id),
            Err((error, mut connection)) => {
                self.tell(|| Note::SetupFailed(peer, Fault::from(&error)));
                connection.abort(CloseReason::SetupFailed);
                self.closed(id, connection, CloseReason::SetupFailed);
            }
        }
    }

    fn cannot_open(&mut self, stream: K::Stream, reason: CloseReason) {
        self.stats.accepted += 1;
        self.stats.count_close(reason);
        self.reactor.kernel.close(stream, Close::Orderly);
    }
}

/// Errors of `accept` in a row after which it pauses: those of single clients do not repeat that often.
const ERRORS_IN_A_ROW: usize = 16;

/// What an error of `accept` means. Sources: accept(2), which passes on pending network errors
/// of the new socket, and the servers that died of treating them as their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// No client is waiting.
    Drained,
    /// It concerned one client, which is gone.
    Client,
    /// Descriptors or memory are used up: pause, then try again.
    Exhausted,
    /// The listener itself is unusable.
    Fatal,
}

pub(super) fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        _ if error.kind() == io::ErrorKind::WouldBlock => AcceptError::Drained,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) => AcceptError::Fatal,
        _ => AcceptError::Client,
    }
}

/// When accepting may go on after it had to pause.
#[derive(Debug, Default)]
struct Pause {
    /// Zero if there is none.
    until: Monotonic,
    /// There is no place or no descriptor.
    for_room: bool,
}

impl Pause {
    const fn until(until: Monotonic) -> Self {
        Self { until, for_room: false }
    }

    const fn for_room(until: Monotonic) -> Self {
        Self { until, for_room: true }
    }

    fn holds(&self, now: Monotonic) -> bool {
        now < self.until
    }

    /// A pause for want of room has just run out, so the want has lasted all that time.
    fn found_no_room(&self, now: Monotonic) -> bool {
        self.for_room && now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_accept_are_told_apart() {
        use AcceptError::{Client, Drained, Exhausted, Fatal};
        for (errno, expected) in [
            (libc::EAGAIN, Drained),
            (libc::EINTR, Client),
            (libc::ECONNABORTED, Client),
            (libc::EPROTO, Client),
            (libc::EPERM, Client),
            (libc::ETIMEDOUT, Client),
            (libc::ENETDOWN, Client),
            (libc::EHOSTDOWN, Client),
            (libc::EHOSTUNREACH, Client),
            (libc::ENETUNREACH, Client),
            (libc::ENONET, Client),
            (libc::EMFILE, Exhausted),
            (libc::ENFILE, Exhausted),
            (libc::ENOBUFS, Exhausted),
            (libc::ENOMEM, Exhausted),
            (libc::EBADF, Fatal),
            (libc::EINVAL, Fatal),
            (libc::ENOTSOCK, Fatal),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(errno)), expected, "errno {errno}");
        }
    }

    #[test]
    fn each_listener_is_looked_at_again_after_time_away_from_the_loop() {
        let at = Monotonic::from_nanos;
        let listening = || Listening::arrived((), false);
        let mut acceptor = Acceptor::new(vec![listening(), listening()]);
        acceptor.listeners.iter_mut().for_each(|listening| listening.waiting = false);
        acceptor.update();
        assert_eq!((acceptor.next_attempt(), acceptor.may_accept(at(5))), (None, false));
        acceptor.suspect_all();
        assert!(acceptor.listeners.iter().all(|listening| listening.waiting));
        assert_eq!((acceptor.next_attempt(), acceptor.may_accept(at(5))), (Some(at(0)), true));
        acceptor.pause = Pause::until(at(7));
        assert_eq!((acceptor.next_attempt(), acceptor.may_accept(at(5))), (Some(at(7)), false));
    }
}
