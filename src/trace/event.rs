use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::proto::ConnId;
use crate::python::Monotonic;
use crate::reactor::{Close, Fault, Liveness, Note, Presence, Ready, Target, Token};

/// One event, and when it happened by the clock of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For a loop over the real kernel the last reading of the clock; in a simulation virtual time.
    pub at: Monotonic,
    /// What happened.
    pub event: Event,
}

/// Anything that happens in a run of a loop: a call to its kernel with the answer, something that
/// reaches the loop by another way, or an act of a simulated world.
///
/// A turn begins with its [`Event::Poll`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `poll()` begins, with leave to sleep for this long; `None` is for ever.
    Poll(Option<Duration>),
    /// The poll reported that a subject may be ready.
    Ready(Subject, Ready),
    /// The poll failed.
    PollFailed(Fault),
    /// The clock was read after the poll: the time of the whole turn.
    Clock(Monotonic),
    /// The clock was read to time the turn. No decision rests on it.
    Timing(Monotonic),
    /// `next_signal()`: a signal that came, or none.
    Signal(Option<i32>),
    /// Events were asked for a listener.
    Listen(Subject, Result<(), Fault>),
    /// Events were asked for a stream, under the name of its connection.
    Register(Stream, Subject, Result<(), Fault>),
    /// `accept()` at a listener: a stream and its peer's address, if that is known.
    Accept(Subject, Result<(Stream, Option<SocketAddr>), Fault>),
    /// A client was accepted and closed at once, for want of room.
    Shed(Subject, Result<(), Fault>),
    /// `recv(room)`: the number of bytes that came.
    Recv {
        /// The stream.
        stream: Stream,
        /// Length of the buffer.
        room: usize,
        /// Bytes received; zero at the end of the stream.
        result: Result<usize, Fault>,
    },
    /// `send(len bytes)`: the number of bytes that the kernel took.
    Send {
        /// The stream.
        stream: Stream,
        /// Bytes offered.
        len: usize,
        /// Bytes taken.
        result: Result<usize, Fault>,
    },
    /// `shutdown(SHUT_WR)`.
    Shutdown(Stream, Result<(), Fault>),
    /// `close()`.
    Close(Stream, Close),
    /// What the kernel knows of a peer.
    Liveness(Stream, Result<Liveness, Fault>),
    /// A keepalive probe was asked for.
    Probe(Stream),
    /// A number below the limit, to spread work over time.
    RandomBelow {
        /// The limit.
        limit: u64,
        /// The number.
        drawn: u64,
    },
    /// So many cryptographic random bytes.
    FillRandom(usize, Result<(), Fault>),
    /// Something that does not cross the kernel: a command of another thread, or a decision.
    Note(Note),
    /// A snapshot of the loop between two turns begins: the beginning of a recording whose earlier part
    /// is gone, or of its next segment.
    Snapshot {
        /// Turns so far.
        turns: u64,
        /// The clock as of the last turn.
        at: Monotonic,
        /// Connections that are there. One [`Event::Present`] for each follows.
        connections: u64,
    },
    /// A connection in a snapshot.
    Present(Stream, Presence),
    /// An act of a simulated world.
    World(World),
}

impl Event {
    /// The stream of a call or of an act. Notes and events of a poll have the name of a connection.
    pub const fn stream(&self) -> Option<Stream> {
        match self {
            Self::Register(stream, ..)
            | Self::Accept(_, Ok((stream, _)))
            | Self::Recv { stream, .. }
            | Self::Send { stream, .. }
            | Self::Shutdown(stream, _)
            | Self::Close(stream, _)
            | Self::Liveness(stream, _)
            | Self::Probe(stream)
            | Self::Present(stream, _)
            | Self::World(
                World::Connects(stream, _)
                | World::Sends { stream, .. }
                | World::SendsUrgent(stream)
                | World::Reads(stream, _)
                | World::Finishes(stream)
                | World::Resets(stream)
                | World::Vanishes(stream, _)
                | World::Disconnects(stream, _)
                | World::Arrives(stream, _),
            ) => Some(*stream),
            _ => None,
        }
    }
}

/// A stream by its number in the run. A recording counts accepted clients from 1; in a simulation it is
/// the client's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub u64);

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// The subject of an event of the poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Another thread wants attention.
    Wake,
    /// A signal came.
    Signal,
    /// The listener with this index.
    Listener(usize),
    /// The part of the admin endpoint with this number.
    Admin(usize),
    /// A connection, perhaps one that is gone.
    Connection(ConnId),
}

impl From<Token> for Subject {
    fn from(token: Token) -> Self {
        match token.target() {
            Target::Wake => Self::Wake,
            Target::Signal => Self::Signal,
            Target::Listener(index) => Self::Listener(index),
            Target::Admin(number) => Self::Admin(number),
            Target::Connection(id) => Self::Connection(id),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wake => f.write_str("the waker"),
            Self::Signal => f.write_str("a signal"),
            Self::Listener(index) => write!(f, "listener {index}"),
            Self::Admin(0) => f.write_str("the admin listener"),
            Self::Admin(number) => write!(f, "admin client {number}"),
            Self::Connection(id) => write!(f, "{id}"),
        }
    }
}

/// An act of a simulated world: its clients, its network, its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum World {
    /// A client connects.
    Connects(Stream, Option<SocketAddr>),
    /// A client sends, and there is room for a part of it.
    Sends {
        /// The client.
        stream: Stream,
        /// Bytes that found room.
        taken: usize,
        /// Bytes offered.
        offered: usize,
    },
    /// A client sends one urgent byte.
    SendsUrgent(Stream),
    /// A client reads so many bytes.
    Reads(Stream, usize),
    /// A client ends its stream.
    Finishes(Stream),
    /// A client resets the connection.
    Resets(Stream),
    /// A client vanishes, and its machine may start again.
    Vanishes(Stream, bool),
    /// The network disconnects a client, with this error.
    Disconnects(Stream, Fault),
    /// Bytes of a client arrive; so many wait now.
    Arrives(Stream, usize),
    /// A call fails by injection.
    Injects(Fault),
    /// The loop slept for so long of the time that it had leave for.
    Sleeps(Duration, Option<Duration>),
    /// Time passes outside of any poll.
    Passes(Duration),
    /// A signal is sent to the process.
    Signals(i32),
    /// A remark of a test.
    Says(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_and_an_act_of_a_client_have_a_stream() {
        let (stream, listener) = (Stream(4), Subject::Listener(0));
        let id = ConnId { index: 0, generation: 7 };
        for (event, of) in [
            (Event::Poll(None), None),
            (Event::Accept(listener, Ok((stream, None))), Some(stream)),
            (Event::Accept(listener, Err(Fault::WOULD_BLOCK)), None),
            (Event::Register(stream, Subject::Connection(id), Ok(())), Some(stream)),
            (Event::Recv { stream, room: 9, result: Ok(5) }, Some(stream)),
            (Event::Close(stream, Close::Orderly), Some(stream)),
            (Event::Note(Note::Killed(id)), None),
            (Event::World(World::Reads(stream, 5)), Some(stream)),
            (Event::World(World::Signals(15)), None),
        ] {
            assert_eq!(event.stream(), of, "{event}");
        }
    }
}
