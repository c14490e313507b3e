//! Events as bytes. The format is described in docs/RECORDING.md.

use std::net::SocketAddr;

use super::{Event, Fault, Subject};
use crate::proto::wire::put_number;
use crate::proto::{ConnId, State};
use crate::python::{Monotonic, saturating_nanos};
use crate::reactor::{AcceptPause, Close, Note, Parts, Presence, Ready, Refusal};

/// The kinds of records: the first byte of each.
pub(super) mod kind {
    pub(in crate::trace) const END: u8 = 0;
    pub(in crate::trace) const POLL_FOR_EVER: u8 = 1;
    pub(in crate::trace) const POLL_NOW: u8 = 2;
    pub(in crate::trace) const POLL: u8 = 3;
    pub(in crate::trace) const READY: u8 = 4;
    pub(in crate::trace) const READY_OTHER: u8 = 5;
    pub(in crate::trace) const POLL_FAILED: u8 = 6;
    pub(in crate::trace) const CLOCK: u8 = 7;
    pub(in crate::trace) const TIMING: u8 = 8;
    pub(in crate::trace) const SIGNAL: u8 = 9;
    pub(in crate::trace) const LISTEN: u8 = 10;
    pub(in crate::trace) const REGISTER: u8 = 11;
    pub(in crate::trace) const ACCEPT: u8 = 12;
    pub(in crate::trace) const ACCEPT_FAILED: u8 = 13;
    pub(in crate::trace) const SHED: u8 = 14;
    pub(in crate::trace) const RECV_NEUTRAL: u8 = 15;
    pub(in crate::trace) const RECV: u8 = 16;
    pub(in crate::trace) const RECV_FAILED: u8 = 17;
    pub(in crate::trace) const SENT_ALL: u8 = 18;
    pub(in crate::trace) const SENT: u8 = 19;
    pub(in crate::trace) const SEND_FAILED: u8 = 20;
    pub(in crate::trace) const SUM: u8 = 21;
    pub(in crate::trace) const SHUTDOWN: u8 = 22;
    pub(in crate::trace) const CLOSE: u8 = 23;
    pub(in crate::trace) const LIVENESS: u8 = 24;
    pub(in crate::trace) const LIVENESS_FAILED: u8 = 25;
    pub(in crate::trace) const PROBE: u8 = 26;
    pub(in crate::trace) const RANDOM_BELOW: u8 = 27;
    pub(in crate::trace) const FILL_RANDOM: u8 = 28;
    pub(in crate::trace) const FILL_FAILED: u8 = 29;
    pub(in crate::trace) const COMMAND: u8 = 30;
    pub(in crate::trace) const KILLED: u8 = 31;
    pub(in crate::trace) const TICK: u8 = 32;
    pub(in crate::trace) const DUE: u8 = 33;
    pub(in crate::trace) const AUTHENTICATED: u8 = 34;
    pub(in crate::trace) const CLOSED: u8 = 35;
    pub(in crate::trace) const PAUSE: u8 = 36;
    pub(in crate::trace) const LATE: u8 = 37;
    pub(in crate::trace) const SNAPSHOT: u8 = 38;
    pub(in crate::trace) const PRESENT: u8 = 39;
    pub(in crate::trace) const GOES_ON: u8 = 40;
    pub(in crate::trace) const REFUSED: u8 = 41;
    pub(in crate::trace) const OPENED: u8 = 42;
    pub(in crate::trace) const PROXIED: u8 = 43;
    pub(in crate::trace) const SETUP_FAILED: u8 = 44;
}

/// The number of a subject that is no connection. Listeners begin at 2, parts of the admin endpoint
/// beyond all of them.
pub(super) const FIRST_LISTENER: u64 = 2;
pub(super) const FIRST_ADMIN: u64 = 1 << 32;

/// The byte that stands for payload that is not kept.
pub(super) const NEUTRAL: u8 = b'x';

/// Appends events to a buffer. Some depend on those before them, as does the decoder.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    pub(super) out: Vec<u8>,
    clock: u64,
    room: usize,
}

impl Encoder {
    /// The last reading of the clock.
    pub(super) const fn last_reading(&self) -> Monotonic {
        Monotonic::from_nanos(self.clock)
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    #[inline]
    pub(super) fn number(&mut self, number: u64) {
        put_number(&mut self.out, number);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    fn id(&mut self, kind: u8, id: ConnId) {
        self.byte(kind);
        self.number(id.index.into());
        self.number(id.generation.into());
    }

    fn fault(&mut self, fault: Fault) {
        self.number(u64::from(fault.0.unsigned_abs()));
    }

    /// Zero for success.
    fn result(&mut self, result: Result<(), Fault>) {
        self.fault(result.err().unwrap_or(Fault(0)));
    }

    fn reading(&mut self, kind: u8, nanos: u64) {
        self.byte(kind);
        self.number(nanos.wrapping_sub(self.clock));
        self.clock = nanos;
    }

    fn subject(&mut self, subject: Subject) {
        self.number(match subject {
            Subject::Wake => 0,
            Subject::Signal => 1,
            Subject::Listener(index) => FIRST_LISTENER + index as u64,
            Subject::Admin(number) => FIRST_ADMIN + number as u64,
            // Not a subject that can be registered or reported under this kind.
            Subject::Connection(id) => FIRST_ADMIN + u64::from(id.index),
        });
    }

    fn address(&mut self, address: Option<SocketAddr>) {
        match address {
            None => self.byte(0),
            Some(SocketAddr::V4(address)) => {
                self.byte(4);
                self.out.extend_from_slice(&address.ip().octets());
                self.number(address.port().into());
            }
            Some(SocketAddr::V6(address)) => {
                self.byte(6);
                self.out.extend_from_slice(&address.ip().octets());
                self.number(address.port().into());
            }
        }
    }

    /// Appends an event without the bytes that came with it: those of a `recv` that are not
    /// [neutral](Self::recv_neutral), random ones, and the [parts](Self::parts) of a snapshot follow.
    #[inline]
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Poll(None) => self.byte(kind::POLL_FOR_EVER),
            Event::Poll(Some(timeout)) => match saturating_nanos(*timeout) {
                0 => self.byte(kind::POLL_NOW),
                nanos => {
                    self.byte(kind::POLL);
                    self.number(nanos);
                }
            },
            Event::Ready(Subject::Connection(id), ready) => {
                self.id(kind::READY, *id);
                self.byte(ready.bits());
            }
            Event::Clock(now) => self.reading(kind::CLOCK, now.as_nanos()),
            Event::Timing(now) => self.reading(kind::TIMING, now.as_nanos()),
            Event::Recv { stream, room, result: Ok(n) } => {
                self.byte(kind::RECV);
                self.number(stream.0);
                self.number(*room as u64);
                self.number(*n as u64);
            }
            Event::Send { stream, len, result: Ok(n) } => {
                self.byte(if n == len { kind::SENT_ALL } else { kind::SENT });
                self.number(stream.0);
                self.number(*len as u64);
                if n != len {
                    self.number(*n as u64);
                }
            }
            _ => self.rare_event(event),
        }
    }

    /// A `recv` of bytes that are not kept.
    #[inline]
    pub(super) fn recv_neutral(&mut self, stream: u64, room: usize, n: usize) {
        self.byte(kind::RECV_NEUTRAL);
        self.number(stream);
        self.number(n as u64);
        // Most have the room of the one before.
        self.number(if room == self.room { 0 } else { room as u64 });
        self.room = room;
    }

    #[inline(never)]
    fn rare_event(&mut self, event: &Event) {
        match event {
            Event::Ready(subject, ready) => {
                self.byte(kind::READY_OTHER);
                self.subject(*subject);
                self.byte(ready.bits());
            }
            Event::PollFailed(fault) => {
                self.byte(kind::POLL_FAILED);
                self.fault(*fault);
            }
            Event::Signal(signal) => {
                self.byte(kind::SIGNAL);
                self.number(signal.map_or(0, |signal| signal.unsigned_abs().into()));
            }
            Event::Listen(subject, result) => {
                self.byte(kind::LISTEN);
                self.subject(*subject);
                self.result(*result);
            }
            Event::Register(stream, subject, result) => {
                let Subject::Connection(id) = subject else { return };
                self.id(kind::REGISTER, *id);
                self.number(stream.0);
                self.result(*result);
            }
            Event::Accept(subject, Ok((stream, peer))) => {
                self.byte(kind::ACCEPT);
                self.subject(*subject);
                self.number(stream.0);
                self.address(*peer);
            }
            Event::Accept(subject, Err(fault)) => {
                self.byte(kind::ACCEPT_FAILED);
                self.subject(*subject);
                self.fault(*fault);
            }
            Event::Shed(subject, result) => {
                self.byte(kind::SHED);
                self.subject(*subject);
                self.result(*result);
            }
            Event::Recv { stream, room, result: Err(fault) } => {
                self.byte(kind::RECV_FAILED);
                self.number(stream.0);
                self.number(*room as u64);
                self.fault(*fault);
            }
            Event::Send { stream, len, result: Err(fault) } => {
                self.byte(kind::SEND_FAILED);
                self.number(stream.0);
                self.number(*len as u64);
                self.fault(*fault);
            }
            Event::Shutdown(stream, result) => {
                self.byte(kind::SHUTDOWN);
                self.number(stream.0);
                self.result(*result);
            }
            Event::Close(stream, how) => {
                self.byte(kind::CLOSE);
                self.number(stream.0);
                self.byte(u8::from(*how == Close::Reset));
            }
            Event::Liveness(stream, Ok(liveness)) => {
                self.byte(kind::LIVENESS);
                self.number(stream.0);
                self.number(saturating_nanos(liveness.silent_for));
                self.number(liveness.unanswered.into());
                self.byte(u8::from(liveness.owes_acknowledgement));
            }
            Event::Liveness(stream, Err(fault)) => {
                self.byte(kind::LIVENESS_FAILED);
                self.number(stream.0);
                self.fault(*fault);
            }
            Event::Probe(stream) => {
                self.byte(kind::PROBE);
                self.number(stream.0);
            }
            Event::RandomBelow { limit, drawn } => {
                self.byte(kind::RANDOM_BELOW);
                self.number(*limit);
                self.number(*drawn);
            }
            Event::FillRandom(len, Ok(())) => {
                self.byte(kind::FILL_RANDOM);
                self.number(*len as u64);
            }
            Event::FillRandom(len, Err(fault)) => {
                self.byte(kind::FILL_FAILED);
                self.number(*len as u64);
                self.fault(*fault);
            }
            Event::Note(note) => self.note(note),
            Event::Snapshot { turns, at, connections } => {
                self.byte(kind::SNAPSHOT);
                self.number(*turns);
                self.number(at.as_nanos());
                self.number(*connections);
            }
            Event::Present(stream, Presence { id, ready, state, unsent }) => {
                self.id(kind::PRESENT, *id);
                self.number(stream.0);
                self.byte(ready.bits());
                let known = State::NAMES.iter().position(|name| *name == state.name());
                self.number(known.unwrap_or(State::NAMES.len()) as u64);
                self.number(*unsent as u64);
            }
            // Written above, or not part of a recording.
            Event::Poll(_) | Event::Clock(_) | Event::Timing(_) | Event::World(_) => {}
            Event::Recv { .. } | Event::Send { .. } => {}
        }
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::Command(text) => {
                self.byte(kind::COMMAND);
                self.bytes(text.as_bytes());
            }
            Note::Killed(id) => self.id(kind::KILLED, *id),
            Note::Tick(period) => {
                self.byte(kind::TICK);
                self.number(period.map_or(0, |period| saturating_nanos(period).saturating_add(1)));
            }
            Note::Due(id) => self.id(kind::DUE, *id),
            Note::Authenticated(id, key) => {
                self.id(kind::AUTHENTICATED, *id);
                self.number(key.map_or(0, |key| u64::from(key.position) + 1));
            }
            Note::Closed(id, reason) => {
                self.id(kind::CLOSED, *id);
                self.byte(*reason as u8);
            }
            Note::AcceptPaused(pause) => {
                self.byte(kind::PAUSE);
                match pause {
                    AcceptPause::Full => self.byte(0),
                    AcceptPause::UnauthenticatedFull => self.byte(1),
                    AcceptPause::Error(fault) => {
                        self.byte(2);
                        self.fault(*fault);
                    }
                }
            }
            // These four are about the client that was accepted last, or have its header among the bytes.
            Note::Refused(_, why) => {
                self.byte(kind::REFUSED);
                self.byte(match why {
                    Refusal::Suspect => 0,
                    Refusal::OverShare => 1,
                    Refusal::UntrustedProxy => 2,
                });
            }
            Note::Opened(id, _) => self.id(kind::OPENED, *id),
            Note::Proxied(id, _) => self.id(kind::PROXIED, *id),
            Note::SetupFailed(_, fault) => {
                self.byte(kind::SETUP_FAILED);
                self.fault(*fault);
            }
        }
    }

    /// What only the loop can read of a part of a snapshot.
    pub(super) fn parts(&mut self, parts: &Parts) {
        self.bytes(&parts.state);
        self.bytes(&parts.figures);
    }

    /// Bytes of a `recv`: so many neutral ones.
    pub(super) fn neutral(&mut self, count: usize) {
        if count > 0 {
            self.number((count as u64) << 2);
        }
    }

    /// Bytes of a `recv` as they are. Returns their place in the buffer.
    pub(super) fn literal(&mut self, bytes: &[u8]) -> usize {
        if !bytes.is_empty() {
            self.number((bytes.len() as u64) << 2 | 1);
            self.out.extend_from_slice(bytes);
        }
        self.out.len() - bytes.len()
    }

    /// Bytes of a `recv` that are known only [later](Self::late).
    pub(super) fn awaited(&mut self, count: usize) {
        self.number((count as u64) << 2 | 2);
    }

    /// All awaited bytes of a stream.
    pub(super) fn late(&mut self, stream: u64, bytes: &[u8]) {
        self.byte(kind::LATE);
        self.number(stream);
        self.bytes(bytes);
    }

    /// The sum of the bytes that the next `send` is given.
    pub(super) fn sum(&mut self, bytes: &[u8]) {
        self.byte(kind::SUM);
        self.out.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    }
}

/// Bits of readiness that a recording may have.
pub(super) const ALL_BITS: u8 =
    Ready::READABLE.union(Ready::WRITABLE).union(Ready::CLOSED).union(Ready::PRIORITY).bits();

/// The bytes of events, for tests that make their own recordings. What comes with an event is neutral.
#[cfg(test)]
pub(super) fn encoded(events: &[Event]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for event in events {
        encoder.event(event);
        match event {
            Event::Recv { result: Ok(n), .. } => encoder.neutral(*n),
            Event::FillRandom(len, Ok(())) => encoder.out.extend(vec![NEUTRAL; *len]),
            Event::Snapshot { .. } | Event::Present(..) => encoder.parts(&Parts::default()),
            _ => {}
        }
    }
    encoder.out
}
