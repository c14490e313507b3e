use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::slots::Slots;
use super::{Close, ConnId, Kernel, Limits, Ready, Server, Token};
use crate::auth::Challenge;
use crate::proto::{CloseReason, Connection, Handler};
use crate::python::Monotonic;

/// Accepting: admission before allocation, a limited number a turn, and a rest instead of a spin
/// or a stall when it cannot go on.
impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    pub(super) fn has_waiting_clients(&self) -> bool {
        self.doors.iter().any(|door| door.waiting)
    }

    /// Takes clients in until nobody waits, this turn's number is reached, or there is no room.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        // The list of strangers is tidied as it grows, also when its limit is never reached.
        let _ = self.strangers.oldest(&self.slots);
        let mut left = self.limits.accepts_per_turn;
        for offset in 0..self.doors.len() {
            // Each turn begins at another door, so that a busy address cannot starve the others.
            #[allow(clippy::cast_possible_truncation)] // Only the remainder matters.
            let index = (self.stats.turns as usize).wrapping_add(offset) % self.doors.len();
            let mut errors_in_a_row = 0;
            while self.doors[index].waiting && left > 0 && !self.rest.holds(self.now) {
                left -= 1;
                if !self.has_room() {
                    self.cannot_accept(index, None);
                    continue;
                }
                match self.kernel.accept(&mut self.doors[index].listener) {
                    Ok((stream, peer)) => {
                        errors_in_a_row = 0;
                        self.rest.end();
                        self.evict_for_one_more();
                        self.open(stream, peer);
                    }
                    Err(error) => match classify(&error) {
                        AcceptError::Drained => self.doors[index].waiting = false,
                        AcceptError::Client => {
                            self.stats.accept_errors += 1;
                            errors_in_a_row += 1;
                            if errors_in_a_row == ERRORS_IN_A_ROW {
                                self.cannot_accept(index, Some(&error));
                            }
                        }
                        AcceptError::Exhausted => self.cannot_accept(index, Some(&error)),
                        AcceptError::Fatal => return Err(error),
                    },
                }
            }
        }
        Ok(())
    }

    /// Whether there is a place for one more, if need be that of the oldest stranger.
    fn has_room(&mut self) -> bool {
        self.slots.len() < self.limits.connections
            && (self.strangers.count < self.limits.unauthenticated || self.evictable().is_some())
    }

    fn evictable(&mut self) -> Option<ConnId> {
        let (id, since) = self.strangers.oldest(&self.slots)?;
        (self.now.since(since) >= self.limits.eviction_age).then_some(id)
    }

    /// Only once somebody has come: that nobody waits is known no sooner than `accept` says so.
    fn evict_for_one_more(&mut self) {
        if self.strangers.count >= self.limits.unauthenticated
            && let Some(id) = self.evictable()
        {
            self.abort(id, CloseReason::Evicted);
        }
    }

    /// Rests; and if the last rest did not help, turns a few clients away, who would otherwise
    /// wait in silence for a challenge.
    fn cannot_accept(&mut self, index: usize, error: Option<&io::Error>) {
        if self.rest.is_over(self.now) {
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
            self.stats.accept_pauses += 1;
            if let Some(observer) = &mut self.observer {
                observer.accept_paused(error);
            }
        }
        self.rest.begin(&self.limits, self.now);
    }

    fn open(&mut self, stream: K::Stream, peer: Option<SocketAddr>) {
        let mut random = [0; Challenge::LEN];
        if self.kernel.fill_random(&mut random).is_err() {
            self.stats.accepted += 1;
            self.stats.count_close(CloseReason::SetupFailed);
            return self.kernel.close(stream, Close::Orderly);
        }
        let challenge = Challenge::new(random);
        let connection = Connection::new(&self.config, challenge, self.handler.clone(), self.now);
        // A new socket has room for a challenge; whether anything came is for an event to say.
        let id = self.slots.insert(stream, connection, Ready::WRITABLE);
        self.strangers.add(id, self.now);
        self.stats.accepted += 1;
        self.stats.peak_connections = self.stats.peak_connections.max(self.slots.len());
        if let Some(observer) = &mut self.observer {
            observer.opened(id, peer);
        }
        let slot = self.slots.get_mut(id).expect("it was inserted just now");
        match self.kernel.register(&mut slot.stream, Token::connection(id)) {
            Ok(()) => self.pump(id),
            Err(_) => self.abort(id, CloseReason::SetupFailed),
        }
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
}

impl Rest {
    /// Whether accepting rests at `now`.
    pub(super) fn holds(&self, now: Monotonic) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Whether a rest has just run out, so that the reason for it has lasted all that time.
    pub(super) fn is_over(&self, now: Monotonic) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    pub(super) fn begin(&mut self, limits: &Limits, now: Monotonic) {
        self.until = Some(now.saturating_add(limits.accept_retry));
    }

    /// A place or a descriptor came free: no reason to wait any longer.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    pub(super) fn until(&self) -> Option<Monotonic> {
        self.until
    }
}

/// The connections that have not authenticated, oldest first.
///
/// Those that have moved on are forgotten when they come to the front, so nobody pays for leaving;
/// the authentication deadline bounds how many there can be.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    by_age: VecDeque<(ConnId, Monotonic)>,
    pub(super) count: usize,
}

impl Strangers {
    pub(super) fn add(&mut self, id: ConnId, now: Monotonic) {
        self.by_age.push_back((id, now));
        self.count += 1;
    }

    /// The oldest, and when it came.
    pub(super) fn oldest<S, H: Handler>(
        &mut self,
        slots: &Slots<S, H>,
    ) -> Option<(ConnId, Monotonic)> {
        while let Some((id, since)) = self.by_age.front() {
            if slots.get(*id).is_some_and(|slot| !slot.connection.has_authenticated()) {
                return Some((*id, *since));
            }
            self.by_age.pop_front();
        }
        if self.by_age.capacity() > 1024 {
            self.by_age.shrink_to(64);
        }
        None
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
