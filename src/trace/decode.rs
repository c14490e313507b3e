//! Events from bytes of unknown origin.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::encode::{ALL_BITS, FIRST_ADMIN, FIRST_LISTENER, NEUTRAL, kind};
use super::{Event, Fault, Stream, Subject};
use crate::proto::wire::Reader;
use crate::proto::{CloseReason, ConnId, State};
use crate::python::Monotonic;
use crate::reactor::{
    AcceptPause, Close, Liveness, Note, Parts, Presence, Ready, Refusal, RingKey,
};

/// Maximum length of a buffer of `recv` in a recording, in bytes: 1 GiB.
const MAX_ROOM: u64 = 1 << 30;

/// What one record is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Event(Event),
    /// The sum of what the next `send` was given.
    Sum(u32),
    /// The awaited bytes of earlier `recv` of a stream.
    Late(Stream, Vec<u8>),
    /// The end, with its reason; empty if the loop ended.
    End(String),
    /// The end of a segment, behind which another one begins.
    GoesOn,
}

/// Takes events out of whole chunks.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoder {
    clock: u64,
    room: usize,
    /// The client that was accepted last, which the notes after it are about.
    peer: Option<SocketAddr>,
}

/// The bytes that came with an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Data {
    #[default]
    None,
    Neutral(usize),
    /// Neutral bytes and others, in their order.
    Runs(Vec<Run>),
    /// What only the loop can read of a part of a snapshot.
    Parts(Parts),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Neutral(usize),
    Literal(Vec<u8>),
    /// The next ones of those that come late.
    Awaited(usize),
}

impl Data {
    /// Returns true if bytes are among them that come late.
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            Self::Runs(runs) => runs.iter().any(|run| matches!(run, Run::Awaited(_))),
            Self::None | Self::Neutral(_) | Self::Parts(_) => false,
        }
    }

    /// Copies the bytes to the beginning of a buffer that is long enough, those that were awaited from
    /// `late`, which loses them.
    pub(super) fn copy_to(&self, buffer: &mut [u8], late: &mut Vec<u8>) {
        match self {
            Self::None | Self::Parts(_) => {}
            Self::Neutral(n) => buffer[..*n].fill(NEUTRAL),
            Self::Runs(runs) => {
                let mut at = 0;
                for run in runs {
                    match run {
                        Run::Neutral(n) => {
                            buffer[at..at + n].fill(NEUTRAL);
                            at += n;
                        }
                        Run::Literal(bytes) => {
                            buffer[at..at + bytes.len()].copy_from_slice(bytes);
                            at += bytes.len();
                        }
                        Run::Awaited(n) => {
                            let known = late.drain(..late.len().min(*n));
                            for (to, byte) in buffer[at..at + n].iter_mut().zip(known) {
                                *to = byte;
                            }
                            at += n;
                        }
                    }
                }
            }
        }
    }
}

/// A part of a chunk that has not been read.
struct Rest<'a>(Reader<'a>);

/// `None` where the bytes are no record.
impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.u8()
    }

    fn number(&mut self) -> Option<u64> {
        self.0.number()
    }

    fn small(&mut self) -> Option<u32> {
        self.0.small()
    }

    fn bit(&mut self) -> Option<bool> {
        self.0.bit()
    }

    fn size(&mut self) -> Option<usize> {
        self.number().filter(|size| *size <= MAX_ROOM)?.try_into().ok()
    }

    fn take(&mut self, len: usize) -> Option<&[u8]> {
        self.0.bytes(len)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    fn id(&mut self) -> Option<ConnId> {
        Some(ConnId { index: self.small()?, generation: self.small()? })
    }

    fn stream(&mut self) -> Option<Stream> {
        self.number().map(Stream)
    }

    fn fault(&mut self) -> Option<Fault> {
        self.number()?.try_into().ok().map(Fault)
    }

    fn result(&mut self) -> Option<Result<(), Fault>> {
        Some(match self.fault()? {
            Fault(0) => Ok(()),
            fault => Err(fault),
        })
    }

    fn subject(&mut self) -> Option<Subject> {
        Some(match self.number()? {
            0 => Subject::Wake,
            1 => Subject::Signal,
            number @ FIRST_ADMIN.. => Subject::Admin(usize::try_from(number - FIRST_ADMIN).ok()?),
            number => Subject::Listener(usize::try_from(number - FIRST_LISTENER).ok()?),
        })
    }

    fn ready(&mut self) -> Option<Ready> {
        self.byte().filter(|bits| bits & !ALL_BITS == 0).map(Ready::from_bits)
    }

    fn address(&mut self) -> Option<Option<SocketAddr>> {
        let ip = match self.byte()? {
            0 => return Some(None),
            4 => Ipv4Addr::from(<[u8; 4]>::try_from(self.take(4)?).ok()?).into(),
            6 => Ipv6Addr::from(<[u8; 16]>::try_from(self.take(16)?).ok()?).into(),
            _ => return None,
        };
        Some(Some(SocketAddr::new(ip, self.number()?.try_into().ok()?)))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = self.size()?;
        Some(self.take(len)?.to_vec())
    }

    fn parts(&mut self) -> Option<Data> {
        Some(Data::Parts(Parts { state: self.bytes()?, figures: self.bytes()? }))
    }

    fn presence(&mut self) -> Option<Event> {
        let (id, stream, ready) = (self.id()?, self.stream()?, self.ready()?);
        let state = match self.number()? {
            0 => State::AwaitHeader,
            1 => State::AwaitDigest,
            2 => State::Echoing,
            3 => State::Finishing,
            4 => State::Lingering,
            _ => return None,
        };
        Some(Event::Present(stream, Presence { id, ready, state, unsent: self.0.small()? }))
    }

    /// The bytes of a `recv`, which are so many.
    fn runs(&mut self, n: usize) -> Option<Data> {
        let (mut runs, mut left) = (Vec::new(), n);
        while left > 0 {
            let word = self.number()?;
            let len = usize::try_from(word >> 2).ok().filter(|len| (1..=left).contains(len))?;
            runs.push(match word & 3 {
                0 => Run::Neutral(len),
                1 => Run::Literal(self.take(len)?.to_vec()),
                2 => Run::Awaited(len),
                _ => return None,
            });
            left -= len;
        }
        Some(Data::Runs(runs))
    }
}

impl Decoder {
    /// Takes the first record of `bytes`; returns it with its bytes and its length. `None` if it is
    /// none.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<(Record, Data, usize)> {
        let mut rest = Rest(Reader::new(bytes));
        let (record, data) = self.record(&mut rest)?;
        Some((record, data, bytes.len() - rest.0.rest().len()))
    }

    fn record(&mut self, rest: &mut Rest<'_>) -> Option<(Record, Data)> {
        let mut data = Data::None;
        let event = match rest.byte()? {
            kind::END => return Some((Record::End(rest.text()?), data)),
            kind::SUM => {
                let sum = <[u8; 4]>::try_from(rest.take(4)?).ok()?;
                return Some((Record::Sum(u32::from_le_bytes(sum)), data));
            }
            kind::LATE => return Some((Record::Late(rest.stream()?, rest.bytes()?), data)),
            kind::GOES_ON => return Some((Record::GoesOn, data)),
            kind::SNAPSHOT => {
                // What depends on the record before begins anew.
                *self = Self::default();
                let (turns, at) = (rest.number()?, Monotonic::from_nanos(rest.number()?));
                let connections = rest.number()?;
                data = rest.parts()?;
                Event::Snapshot { turns, at, connections }
            }
            kind::PRESENT => {
                let event = rest.presence()?;
                data = rest.parts()?;
                event
            }
            kind::POLL_FOR_EVER => Event::Poll(None),
            kind::POLL_NOW => Event::Poll(Some(Duration::ZERO)),
            kind::POLL => Event::Poll(Some(Duration::from_nanos(rest.number()?))),
            kind::READY => Event::Ready(Subject::Connection(rest.id()?), rest.ready()?),
            kind::READY_OTHER => Event::Ready(rest.subject()?, rest.ready()?),
            kind::POLL_FAILED => Event::PollFailed(rest.fault()?),
            kind::CLOCK => Event::Clock(self.reading(rest)?),
            kind::TIMING => Event::Timing(self.reading(rest)?),
            kind::SIGNAL => {
                let signal: i32 = rest.number()?.try_into().ok()?;
                Event::Signal((signal != 0).then_some(signal))
            }
            kind::LISTEN => Event::Listen(rest.subject()?, rest.result()?),
            kind::REGISTER => {
                let id = rest.id()?;
                Event::Register(rest.stream()?, Subject::Connection(id), rest.result()?)
            }
            kind::ACCEPT => {
                let (subject, stream) = (rest.subject()?, rest.stream()?);
                self.peer = rest.address()?;
                Event::Accept(subject, Ok((stream, self.peer)))
            }
            kind::ACCEPT_FAILED => Event::Accept(rest.subject()?, Err(rest.fault()?)),
            kind::SHED => Event::Shed(rest.subject()?, rest.result()?),
            kind::RECV_NEUTRAL => {
                let (stream, n) = (rest.stream()?, rest.size()?);
                self.room = match rest.size()? {
                    0 => self.room,
                    room => room,
                };
                let room = Some(self.room).filter(|room| *room >= n)?;
                data = Data::Neutral(n);
                Event::Recv { stream, room, result: Ok(n) }
            }
            kind::RECV => {
                let (stream, room, n) = (rest.stream()?, rest.size()?, rest.size()?);
                let n = Some(n).filter(|n| *n <= room)?;
                data = rest.runs(n)?;
                Event::Recv { stream, room, result: Ok(n) }
            }
            kind::RECV_FAILED => {
                let (stream, room) = (rest.stream()?, rest.size()?);
                Event::Recv { stream, room, result: Err(rest.fault()?) }
            }
            kind::SENT_ALL => {
                let (stream, len) = (rest.stream()?, rest.size()?);
                Event::Send { stream, len, result: Ok(len) }
            }
            kind::SENT => {
                let (stream, len) = (rest.stream()?, rest.size()?);
                Event::Send { stream, len, result: Ok(rest.size().filter(|n| *n < len)?) }
            }
            kind::SEND_FAILED => {
                let (stream, len) = (rest.stream()?, rest.size()?);
                Event::Send { stream, len, result: Err(rest.fault()?) }
            }
            kind::SHUTDOWN => Event::Shutdown(rest.stream()?, rest.result()?),
            kind::CLOSE => {
                let stream = rest.stream()?;
                Event::Close(stream, if rest.bit()? { Close::Reset } else { Close::Orderly })
            }
            kind::LIVENESS => {
                let stream = rest.stream()?;
                let silent_for = Duration::from_nanos(rest.number()?);
                let (unanswered, owes_acknowledgement) = (rest.small()?, rest.bit()?);
                let liveness = Liveness { silent_for, unanswered, owes_acknowledgement };
                Event::Liveness(stream, Ok(liveness))
            }
            kind::LIVENESS_FAILED => Event::Liveness(rest.stream()?, Err(rest.fault()?)),
            kind::PROBE => Event::Probe(rest.stream()?),
            kind::RANDOM_BELOW => {
                let (limit, drawn) = (rest.number()?, rest.number()?);
                Event::RandomBelow { limit, drawn: Some(drawn).filter(|drawn| *drawn < limit)? }
            }
            kind::FILL_RANDOM => {
                let len = rest.size()?;
                data = Data::Runs(vec![Run::Literal(rest.take(len)?.to_vec())]);
                Event::FillRandom(len, Ok(()))
            }
            kind::FILL_FAILED => Event::FillRandom(rest.size()?, Err(rest.fault()?)),
            note => Event::Note(self.note(note, rest)?),
        };
        Some((Record::Event(event), data))
    }

    fn reading(&mut self, rest: &mut Rest<'_>) -> Option<Monotonic> {
        self.clock = self.clock.wrapping_add(rest.number()?);
        Some(Monotonic::from_nanos(self.clock))
    }

    fn note(&self, kind: u8, rest: &mut Rest<'_>) -> Option<Note> {
        Some(match kind {
            kind::COMMAND => Note::Command(rest.text()?),
            kind::KILLED => Note::Killed(rest.id()?),
            kind::TICK => Note::Tick(rest.number()?.checked_sub(1).map(Duration::from_nanos)),
            kind::DUE => Note::Due(rest.id()?),
            kind::REFUSED => Note::Refused(
                self.peer,
                match rest.byte()? {
                    0 => Refusal::Suspect,
                    1 => Refusal::OverShare,
                    2 => Refusal::UntrustedProxy,
                    _ => return None,
                },
            ),
            kind::OPENED => Note::Opened(rest.id()?, self.peer),
            kind::PROXIED => Note::Proxied(rest.id()?, None),
            kind::AUTHENTICATED => {
                let id = rest.id()?;
                let position = rest.byte().filter(|key| *key < 0x80)?.checked_sub(1);
                let key = position.map(|position| RingKey { position, name: None });
                Note::Authenticated(id, key)
            }
            kind::CLOSED => {
                let id = rest.id()?;
                let code = rest.byte()?;
                let reason = CloseReason::ALL.iter().find(|reason| **reason as u8 == code)?;
                Note::Closed(id, *reason)
            }
            kind::SETUP_FAILED => Note::SetupFailed(self.peer, rest.fault()?),
            kind::PAUSE => Note::AcceptPaused(match rest.byte()? {
                0 => AcceptPause::Full,
                1 => AcceptPause::UnauthenticatedFull,
                2 => AcceptPause::Error(rest.fault()?),
                _ => return None,
            }),
            _ => return None,
        })
    }
}
