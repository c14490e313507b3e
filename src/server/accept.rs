use std::collections::TryReserveError;
use std::io;
use std::net::SocketAddr;

use super::admission::{Refusal, Source};
use super::{AcceptPause, Close, Kernel, Ready, Server, Token};
use crate::auth::Challenge;
use crate::proto::{CloseReason, Connection, Handler, Peer, guarded};
use crate::python::Monotonic;

/// Accepting: admission before allocation, a limited number a turn, and a rest instead of a spin
/// or a stall when it cannot go on.
impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    pub(super) fn has_waiting_clients(&self) -> bool {
        self.doors.iter().any(|door| door.waiting)
    }

    /// Takes clients in until nobody waits, this turn's number is reached, or there is no room.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        let mut left = self.limits.accepts_per_turn;
        for offset in 0..self.doors.len() {
            // Each turn begins at another door, so that a busy address cannot starve the others.
            #[allow(clippy::cast_possible_truncation)] // Only the remainder matters.
            let index = (self.stats.turns as usize).wrapping_add(offset) % self.doors.len();
            let (mut errors_in_a_row, mut room) = (0, 0);
            while self.doors[index].waiting && left > 0 && !self.rest.holds(self.now) {
                left -= 1;
                if self.slots.len() >= self.limits.connections {
                    self.cannot_accept(index, AcceptPause::Full);
                    continue;
                }
                if let Some(until) = self.strangers_need_until() {
                    self.pause(AcceptPause::UnauthenticatedFull);
                    self.rest.begin_until(until);
                    continue;
                }
                if room == 0 {
                    room = self.make_room(left + 1);
                }
                let Some(room_left) = room.checked_sub(1) else {
                    let error = io::ErrorKind::OutOfMemory.into();
                    self.cannot_accept(index, AcceptPause::Error(&error));
                    continue;
                };
                room = room_left;
                match self.kernel.accept(&mut self.doors[index].listener) {
                    Ok((stream, peer)) => {
                        errors_in_a_row = 0;
                        self.rest.end();
                        self.admit(stream, peer);
                    }
                    Err(error) => match classify(&error) {
                        AcceptError::Drained => self.doors[index].waiting = false,
                        AcceptError::Client => {
                            self.stats.accept_errors += 1;
                            errors_in_a_row += 1;
                            if errors_in_a_row == ERRORS_IN_A_ROW {
                                // There is room, so the clients behind these are not turned away.
                                self.pause(AcceptPause::Error(&error));
                                self.rest.begin_until(self.retry_at());
                            }
                        }
                        AcceptError::Exhausted => {
                            self.cannot_accept(index, AcceptPause::Error(&error));
                        }
                        AcceptError::Fatal => {
                            self.inbox.close();
                            return Err(error);
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// Makes room for so many connections wherever they will be kept, or for one; for how many it
    /// did. A lack of memory thus costs newcomers their places and not the process its life.
    fn make_room(&mut self, wanted: usize) -> usize {
        let reserve = |server: &mut Self, more| -> Result<usize, TryReserveError> {
            server.slots.make_room(more)?;
            let queue = server.queue_needs(more).saturating_sub(server.run_queue.len());
            server.run_queue.try_reserve(queue)?;
            server.strangers.make_room(more)?;
            Ok(more)
        };
        reserve(self, wanted).or_else(|_| reserve(self, 1)).unwrap_or(0)
    }

    /// When the oldest stranger has had its time, if there is no room for another until then.
    ///
    /// Nobody is turned away meanwhile, because this cannot last: whoever waits will be served.
    fn strangers_need_until(&mut self) -> Option<Monotonic> {
        if self.strangers.len() < self.limits.unauthenticated {
            return None;
        }
        let (_, since) = self.strangers.oldest().expect("there are as many as there may be");
        Some(since.saturating_add(self.limits.eviction_age)).filter(|until| *until > self.now)
    }

    /// Gives a client a challenge, unless its source is to have no more of them now.
    fn admit(&mut self, stream: K::Stream, peer: Option<SocketAddr>) {
        let source = self.strangers.source_of(peer, &self.limits);
        if let Err(refusal) = self.strangers.judge(source, &self.limits, self.now) {
            match refusal {
                Refusal::Suspect => self.stats.refused_suspects += 1,
                Refusal::Share => self.stats.refused_over_share += 1,
            }
            return self.kernel.close(stream, Close::Orderly);
        }
        if self.strangers.len() >= self.limits.unauthenticated
            && let Some((oldest, _)) = self.strangers.oldest()
        {
            self.abort(oldest, CloseReason::Evicted);
        }
        self.open(stream, peer, source);
    }

    /// Rests for want of room; and if the last rest for that did not help, turns a few clients
    /// away, which would otherwise wait in silence for a challenge.
    fn cannot_accept(&mut self, index: usize, pause: AcceptPause<'_>) {
        if self.rest.found_no_room(self.now) {
            for _ in 0..self.limits.shed_per_retry {
                match self.kernel.shed(&mut self.doors[index].listener) {
                    Ok(()) => self.stats.shed += 1,
                    Err(error) => {
                        self.doors[index].waiting = classify(&error) != AcceptError::Drained;
                        break;
                    }
                }
            }
        } else {
            self.pause(pause);
        }
        self.rest.begin_for_room(self.retry_at());
    }

    fn retry_at(&self) -> Monotonic {
        self.now.saturating_add(self.limits.accept_retry)
    }

    fn pause(&mut self, pause: AcceptPause<'_>) {
        self.stats.accept_pauses += 1;
        self.tell(|observer| observer.accept_paused(pause));
    }

    fn open(&mut self, stream: K::Stream, peer: Option<SocketAddr>, source: Option<Source>) {
        let mut random = [0; Challenge::LEN];
        if self.kernel.fill_random(&mut random).is_err() {
            return self.cannot_open(stream, CloseReason::SetupFailed);
        }
        let Some(handler) = guarded(|| self.handler.clone()) else {
            return self.cannot_open(stream, CloseReason::HandlerPanicked);
        };
        let challenge = Challenge::new(random);
        let connection = Connection::new(&self.config, challenge, handler, self.now);
        // A new socket has room for a challenge; whether anything came is for an event to say.
        let id = self.slots.insert(stream, connection, Ready::WRITABLE);
        self.strangers.add(id, source, self.now);
        self.stats.accepted += 1;
        self.stats.peak_connections = self.stats.peak_connections.max(self.slots.len());
        self.tell(|observer| observer.opened(id, peer));
        let slot = self.slots.get_mut(id).expect("it was inserted just now");
        slot.connection.set_peer(Peer::new(self.inbox.server(), id, peer));
        match self.kernel.register(&mut slot.stream, Token::connection(id)) {
            Ok(()) => self.pump(id),
            Err(_) => self.abort(id, CloseReason::SetupFailed),
        }
    }

    fn cannot_open(&mut self, stream: K::Stream, reason: CloseReason) {
        self.stats.accepted += 1;
        self.stats.count_close(reason);
        self.kernel.close(stream, Close::Orderly);
    }
}

/// Errors of `accept` in a row after which it rests: one client's misfortune does not repeat
/// itself that often.
const ERRORS_IN_A_ROW: usize = 16;

/// A listener and whether clients may be waiting at it.
pub(super) struct Door<L> {
    pub(super) listener: L,
    /// Set by an event, cleared when `accept` says "would block". It stays set while there is no
    /// room: the event will not come again for those who already wait.
    pub(super) waiting: bool,
}

/// What an error of `accept` means. Sources: accept(2), which passes on pending network errors
/// of the new socket, and the servers that died of treating them as their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptError {
    /// Nobody waits any more.
    Drained,
    /// It concerned one client, who is gone.
    Client,
    /// Descriptors or memory are used up: rest, then try again.
    Exhausted,
    /// The listener itself is unusable.
    Fatal,
}

fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        _ if error.kind() == io::ErrorKind::WouldBlock => AcceptError::Drained,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) => AcceptError::Fatal,
        _ => AcceptError::Client,
    }
}

/// When accepting may go on after it had to rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: Option<Monotonic>,
    /// It rests because there is no place or no descriptor.
    for_room: bool,
}

impl Rest {
    /// Whether accepting rests at `now`.
    pub(super) fn holds(&self, now: Monotonic) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Whether a rest for want of room has just run out, so that the want has lasted all that
    /// time.
    fn found_no_room(&self, now: Monotonic) -> bool {
        self.for_room && self.until.is_some_and(|until| now >= until)
    }

    fn begin_until(&mut self, until: Monotonic) {
        *self = Self { until: Some(until), for_room: false };
    }

    fn begin_for_room(&mut self, until: Monotonic) {
        *self = Self { until: Some(until), for_room: true };
    }

    /// A place or a descriptor came free: no reason to wait any longer.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    pub(super) fn until(&self) -> Option<Monotonic> {
        self.until
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
}
