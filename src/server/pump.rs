use std::io;

use super::keepalive::Keepalive;
use super::{ConnId, Server, Stats};
use crate::proto::{Config, Connection, Handler, Reply, State, Wants};
use crate::python::Monotonic;
use crate::reactor::slots::Slot;
use crate::reactor::{Kernel, Ready, Turn, Wheel, transfer};

/// Minimum cost of a call to the budget, in bytes: a peer that moves single bytes must not
/// hold the loop for longer than one that moves large pieces.
const CALL_COST: usize = 4096;

/// The result of a turn of a connection.
pub(super) struct Pumped {
    /// Its share was used up while it could have gone on: it is due again.
    pub(super) unfinished: bool,
    /// The position in the ring of the key under which it authenticated in this turn.
    pub(super) key: Option<usize>,
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Not inlined: the turns of connections have the registers to themselves.
    #[inline(never)]
    pub(super) fn pump_next(&mut self, count: usize) {
        for _ in 0..count {
            self.pump_queued();
        }
    }

    /// A turn of the next queued connection. The way of a message, which is a part of the loop above; what
    /// comes once in a connection's life is behind calls that are not inlined.
    #[inline(always)]
    fn pump_queued(&mut self) {
        let now = self.reactor.now();
        let Some(Turn { id, kernel, slot, wheel }) = self.reactor.next_turn() else { return };
        if !slot.connection.has_authenticated() {
            return self.pump(id);
        }
        let (share, scratch) = (self.limits.bytes_per_turn, &mut self.scratch);
        let pumped = pump(kernel, &self.config, slot, scratch, share, now, &mut self.stats);
        let has_more = pumped.unfinished || self.records.is_some();
        if has_more || !is_settled(slot, wheel, &self.keepalive) {
            if has_more {
                self.note_turn(id, pumped.unfinished);
            }
            self.close_or_settle(id);
        }
    }

    /// The first turn of a connection: sends the challenge, which a new socket takes whole, and sets the
    /// alarm for the answer. A short form of [`pump`](Self::pump), to which it leaves all that is rarer.
    pub(super) fn greet(&mut self, id: ConnId) {
        let now = self.reactor.now();
        let Some(Turn { kernel, slot, .. }) = self.reactor.turn_of(id) else { return };
        let Slot { stream, connection, ready, .. } = slot;
        let unsent = connection.chunk().len();
        if unsent > 0 {
            let mut io = Io { kernel, stream, ready, stats: &mut self.stats };
            if send_unsent(&mut io, &self.config, connection, now) < unsent {
                return self.pump(id);
            }
        }
        self.note_moved(id);
        self.close_or_arm(id);
    }

    /// A turn of any connection, whatever it is about to do.
    #[inline(never)]
    pub(super) fn pump(&mut self, id: ConnId) {
        let now = self.reactor.now();
        let Some(Turn { kernel, slot, wheel, .. }) = self.reactor.turn_of(id) else { return };
        let known = slot.connection.has_authenticated();
        if !known && slot.connection.state() == State::AwaitHeader {
            return self.pump_header(id);
        }
        let (share, scratch) = (self.limits.bytes_per_turn, &mut self.scratch);
        let Pumped { unfinished, key } =
            pump(kernel, &self.config, slot, scratch, share, now, &mut self.stats);
        let authenticated = !known && slot.connection.has_authenticated();
        let is_settled = is_settled(slot, wheel, &self.keepalive);
        if unfinished || self.records.is_some() {
            self.note_turn(id, unfinished);
        }
        if authenticated {
            self.authenticated(id, key);
        }
        if !is_settled {
            self.close_or_arm(id);
        }
    }

    /// Queues a connection again if it has work left, and adds what its turn moved to its record.
    #[inline(never)]
    fn note_turn(&mut self, id: ConnId, unfinished: bool) {
        if unfinished {
            self.reactor.requeue(id);
            self.lag.carry(self.stats.turns, || self.reactor.kernel.now());
        }
        self.note_moved(id);
    }

    /// Closes a connection if it is over, else updates its alarm.
    #[inline(never)]
    pub(super) fn close_or_settle(&mut self, id: ConnId) {
        let Some(Turn { slot, wheel, .. }) = self.reactor.turn_of(id) else { return };
        if !is_settled(slot, wheel, &self.keepalive) {
            self.close_or_arm(id);
        }
    }

    /// The same of one that is not settled.
    #[inline(never)]
    fn close_or_arm(&mut self, id: ConnId) {
        let Some(slot) = self.reactor.slots.get(id) else { return };
        if let Some(reason) = slot.connection.close_reason() {
            return self.close(id, reason);
        }
        match (slot.connection.poll_timeout(), slot.is_armed()) {
            (deadline, true) => self.reactor.settle(id, deadline),
            (deadline, false) => {
                if let Some(alarm) = self.alarm(deadline) {
                    self.reactor.arm(id, alarm);
                }
            }
        }
    }
}

/// Returns true if a connection is open and its alarm comes in time.
#[inline]
fn is_settled<S, H: Handler>(
    slot: &Slot<S, Connection<H>>,
    wheel: &Wheel,
    keepalive: &Keepalive,
) -> bool {
    if slot.connection.close_reason().is_some() {
        return false;
    }
    match slot.connection.poll_timeout() {
        Some(deadline) => slot.is_armed_by(wheel, deadline),
        // An alarm of a deadline that has been met serves as the first of keepalive's.
        None => slot.is_armed() && keepalive.is_on(),
    }
}

/// Does what a connection wants for as long as its socket is believed ready and its share lasts.
/// The only place where a socket is read, written or half-closed, but for the challenge.
#[inline(always)] // It has one caller, and every message would pay for its arguments.
pub(super) fn pump<K: Kernel, H: Handler>(
    kernel: &mut K,
    config: &Config,
    slot: &mut Slot<K::Stream, Connection<H>>,
    scratch: &mut [u8],
    mut share: usize,
    now: Monotonic,
    stats: &mut Stats,
) -> Pumped {
    let mut key = None;
    let Slot { stream, connection, ready, half_closed, .. } = slot;
    while share > 0 {
        let moved = match connection.wants(config) {
            Wants::Recv { limit } if ready.has(Ready::READABLE) => {
                let buffer = &mut scratch[..limit];
                let mut io = Io { kernel, stream, ready, stats };
                match recv_and_answer(&mut io, config, connection, buffer, now, &mut key) {
                    Some(moved) => moved,
                    None => return Pumped { unfinished: false, key },
                }
            }
            Wants::Send if ready.has(Ready::WRITABLE) => {
                send_unsent(&mut Io { kernel, stream, ready, stats }, config, connection, now)
            }
            Wants::Shutdown => {
                // A failure means that the peer is gone, which the next recv reports.
                let _ = kernel.shutdown(stream);
                connection.handle_shutdown(config, now);
                *half_closed = true;
                stats.lingering += 1;
                0
            }
            Wants::Recv { .. } | Wants::Send | Wants::Nothing => {
                return Pumped { unfinished: false, key };
            }
        };
        share = share.saturating_sub(moved.max(CALL_COST));
    }
    Pumped { unfinished: can_go_on(config, connection, *ready), key }
}

/// Returns whether the connection wants something that its socket is believed ready for.
pub(super) fn can_go_on<H: Handler>(
    config: &Config,
    connection: &Connection<H>,
    ready: Ready,
) -> bool {
    match connection.wants(config) {
        Wants::Recv { .. } => ready.has(Ready::READABLE),
        Wants::Send => ready.has(Ready::WRITABLE),
        Wants::Shutdown => true,
        Wants::Nothing => false,
    }
}

/// Sends once from what is unsent; returns how much of it was taken.
fn send_unsent<K: Kernel, H: Handler>(
    io: &mut Io<'_, K>,
    config: &Config,
    connection: &mut Connection<H>,
    now: Monotonic,
) -> usize {
    match io.send(connection.chunk()) {
        Ok(n) => {
            if connection.has_authenticated() {
                io.stats.backlog_bytes -= n as u64;
            }
            connection.handle_sent(config, n, now);
            n
        }
        Err(error) => {
            connection.handle_error(error.kind());
            0
        }
    }
}

/// Receives once and offers the answer to the kernel from the very buffer it was received in. `None` if
/// that ended the connection.
#[inline(always)] // Like `pump`.
fn recv_and_answer<K: Kernel, H: Handler>(
    io: &mut Io<'_, K>,
    config: &Config,
    connection: &mut Connection<H>,
    buffer: &mut [u8],
    now: Monotonic,
    key: &mut Option<usize>,
) -> Option<usize> {
    let received = match io.recv(buffer) {
        Ok(None) => return Some(0),
        Ok(Some(0)) => {
            connection.handle_eof();
            return None;
        }
        Ok(Some(n)) => n,
        Err(error) => {
            connection.handle_error(error.kind());
            return None;
        }
    };
    let data = &mut buffer[..received];
    let offered = match connection.is_receiving() {
        true => io.offer(connection.handle_recv(config, data, now)),
        false => recv_beside_echo(io, config, connection, data, now, key),
    };
    Some(match offered {
        Ok(sent) => received + sent,
        Err(kind) => {
            connection.handle_error(kind);
            received
        }
    })
}

/// The same for what is not a message. Apart from it and not inlined, so that the reply to a message stays
/// in registers.
#[inline(never)]
fn recv_beside_echo<K: Kernel, H: Handler>(
    io: &mut Io<'_, K>,
    config: &Config,
    connection: &mut Connection<H>,
    data: &mut [u8],
    now: Monotonic,
    key: &mut Option<usize>,
) -> Result<usize, io::ErrorKind> {
    if connection.state() == State::Lingering {
        io.stats.bytes_discarded += data.len() as u64;
    }
    let reply = connection.handle_recv(config, data, now);
    *key = reply.key().or(*key);
    io.offer(reply)
}

/// A socket with what is believed of it and the counters: the system calls and their bookkeeping.
struct Io<'a, K: Kernel> {
    kernel: &'a mut K,
    stream: &'a mut K::Stream,
    ready: &'a mut Ready,
    stats: &'a mut Stats,
}

impl<K: Kernel> Io<'_, K> {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let received = transfer::recv(self.kernel, self.stream, self.ready, buffer)?;
        self.stats.bytes_received += received.unwrap_or(0) as u64;
        Ok(received)
    }

    /// Offers an answer; returns how much of it was taken. The rest is the connection's.
    #[inline(always)] // Like `pump`.
    fn offer<H: Handler>(&mut self, reply: Reply<'_, H>) -> Result<usize, io::ErrorKind> {
        let len = reply.bytes().len();
        if len == 0 {
            return Ok(0);
        }
        match self.send(reply.bytes()) {
            Ok(n) => {
                reply.sent(n);
                if n < len {
                    self.stats.backlog_bytes += (len - n) as u64;
                }
                Ok(n)
            }
            Err(error) => {
                self.stats.backlog_bytes += len as u64;
                Err(error.kind())
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = transfer::send(self.kernel, self.stream, self.ready, bytes)?;
        self.stats.bytes_sent += sent as u64;
        Ok(sent)
    }
}
