use std::io;

use super::Stats;
use crate::proto::{Config, Connection, Handler, State, Wants};
use crate::python::Monotonic;
use crate::reactor::slots::Slot;
use crate::reactor::{Kernel, Ready, transfer};

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

/// Does what a connection wants for as long as its socket is believed ready and its share lasts.
/// The only place where a socket is read, written or half-closed.
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
                recv_and_answer(&mut io, config, connection, buffer, now, &mut key)
            }
            Wants::Send if ready.has(Ready::WRITABLE) => {
                let mut io = Io { kernel, stream, ready, stats };
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

/// Receives once and offers the answer to the kernel from the very buffer it was received in.
#[inline(always)] // Like `pump`.
fn recv_and_answer<K: Kernel, H: Handler>(
    io: &mut Io<'_, K>,
    config: &Config,
    connection: &mut Connection<H>,
    buffer: &mut [u8],
    now: Monotonic,
    key: &mut Option<usize>,
) -> usize {
    let received = match io.recv(buffer) {
        Ok(None) => return 0,
        Ok(Some(0)) => {
            connection.handle_eof();
            return 0;
        }
        Ok(Some(n)) => n,
        Err(error) => {
            connection.handle_error(error.kind());
            return 0;
        }
    };
    if connection.state() == State::Lingering {
        io.stats.bytes_discarded += received as u64;
    }
    let reply = connection.handle_recv(config, &mut buffer[..received], now);
    if let Some(position) = reply.key() {
        *key = Some(position);
    }
    let mut sent = 0;
    let len = reply.bytes().len();
    if len > 0 {
        match io.send(reply.bytes()) {
            Ok(n) => {
                sent = n;
                reply.sent(n);
                if n < len {
                    io.stats.backlog_bytes += (len - n) as u64;
                }
            }
            Err(error) => {
                io.stats.backlog_bytes += len as u64;
                drop(reply);
                connection.handle_error(error.kind());
            }
        }
    } else {
        drop(reply);
    }
    received + sent
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

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = transfer::send(self.kernel, self.stream, self.ready, bytes)?;
        self.stats.bytes_sent += sent as u64;
        Ok(sent)
    }
}
