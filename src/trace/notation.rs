//! The notation of calls: how a trace, a page and a difference write an event down.

use std::fmt;
use std::time::Duration;

use super::readiness::listed;
use super::{Event, Fault, World};
use crate::reactor::{Close, Liveness, Note};

/// A call with its answer, a note, or an act: `recv(c4, 32768 bytes) = 5`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.call())?;
        match self.answer() {
            Some(answer) => write!(f, " = {answer}"),
            None => Ok(()),
        }
    }
}

impl Event {
    /// The same without the answer: what the loop asked for.
    pub(super) fn call(&self) -> String {
        match self {
            Self::Poll(None) => "poll(no timeout)".to_owned(),
            Self::Poll(Some(timeout)) => format!("poll({timeout:?})"),
            Self::Ready(subject, ready) => format!("event: {subject}, {}", listed(*ready)),
            Self::PollFailed(_) => "poll()".to_owned(),
            Self::Clock(_) | Self::Timing(_) => "now()".to_owned(),
            Self::Signal(_) => "next_signal()".to_owned(),
            Self::Listen(subject, _) => format!("register({subject})"),
            Self::Register(stream, subject, _) => format!("register({stream}, as {subject})"),
            Self::Accept(subject, _) => format!("accept({subject})"),
            Self::Shed(subject, _) => format!("shed({subject})"),
            Self::Recv { stream, room, .. } => format!("recv({stream}, {room} bytes)"),
            Self::Send { stream, len, .. } => format!("send({stream}, {len} bytes)"),
            Self::Shutdown(stream, _) => format!("shutdown({stream})"),
            Self::Close(stream, Close::Orderly) => format!("close({stream})"),
            Self::Close(stream, Close::Reset) => format!("close({stream}, with a reset)"),
            Self::Liveness(stream, _) => format!("liveness({stream})"),
            Self::Probe(stream) => format!("probe({stream})"),
            Self::RandomBelow { limit, .. } => format!("random_below({limit})"),
            Self::FillRandom(len, _) => format!("fill_random({len} bytes)"),
            Self::Note(note) => format!("note: {note}"),
            Self::Snapshot { turns, connections, .. } => {
                format!("snapshot after turn {turns}, with {connections} connections")
            }
            Self::Present(stream, _) => format!("snapshot of {stream}"),
            Self::World(World::Sleeps(..)) => "inside poll".to_owned(),
            Self::World(_) => "no call of the loop".to_owned(),
        }
    }

    fn answer(&self) -> Option<String> {
        fn of<T: ToString>(result: Result<T, Fault>) -> String {
            result.map_or_else(|fault| fault.to_string(), |value| value.to_string())
        }
        Some(match self {
            Self::PollFailed(fault) => fault.to_string(),
            Self::Clock(now) | Self::Timing(now) => {
                format!("{:.3} s", Duration::from_nanos(now.as_nanos()).as_secs_f64())
            }
            Self::Signal(signal) => signal.map_or("none".to_owned(), |signal| signal.to_string()),
            Self::Accept(_, result) => of(result.map(|(stream, _)| stream)),
            Self::Recv { result, .. } | Self::Send { result, .. } => of(*result),
            Self::Listen(_, result)
            | Self::Register(_, _, result)
            | Self::Shed(_, result)
            | Self::Shutdown(_, result)
            | Self::FillRandom(_, result) => of(result.map(|()| "ok")),
            Self::Liveness(_, result) => {
                of(result.map(|Liveness { silent_for, unanswered, .. }| {
                    format!("silent for {silent_for:?}, {unanswered} probes unanswered")
                }))
            }
            Self::RandomBelow { drawn, .. } => drawn.to_string(),
            Self::Poll(_)
            | Self::Ready(..)
            | Self::Close(..)
            | Self::Probe(_)
            | Self::Note(_)
            | Self::Snapshot { .. }
            | Self::Present(..)
            | Self::World(_) => return None,
        })
    }
}

/// A note in a few words.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A message that is pushed is left out.
            Self::Command(text) => {
                write!(f, "command {}", text.split(' ').next().unwrap_or_default())
            }
            Self::Killed(id) => write!(f, "kill {id}"),
            Self::Tick(_) => f.write_str("tick"),
            Self::Due(id) => write!(f, "alarm of {id}"),
            Self::Refused(_, why) => write!(f, "refused: {why:?}"),
            Self::Opened(id, _) => write!(f, "{id} opened"),
            Self::Proxied(id, _) => write!(f, "header of {id} complete"),
            Self::Authenticated(id, _) => write!(f, "{id} authenticated"),
            Self::Closed(id, reason) => write!(f, "{id} ended: {}", reason.as_str()),
            Self::SetupFailed(_, fault) => write!(f, "setup failed: {fault}"),
            Self::AcceptPaused(why) => write!(f, "accepting paused: {why:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CloseReason, ConnId};
    use crate::reactor::Ready;
    use crate::trace::{Stream, Subject};

    #[test]
    fn an_event_is_written_as_its_call_and_its_answer() {
        let (stream, id) = (Stream(4), ConnId { index: 0, generation: 7 });
        let ready = Ready::READABLE.union(Ready::WRITABLE).union(Ready::CLOSED);
        let refused = Err(Fault(libc::EMFILE));
        for (event, written) in [
            (Event::Poll(None), "poll(no timeout)"),
            (Event::Poll(Some(Duration::from_millis(3))), "poll(3ms)"),
            (
                Event::Ready(Subject::Connection(id), ready),
                "event: #7, readable, writable and closed",
            ),
            (Event::Ready(Subject::Wake, Ready::NONE), "event: the waker, nothing"),
            (Event::Signal(Some(15)), "next_signal() = 15"),
            (Event::Register(stream, Subject::Connection(id), Ok(())), "register(c4, as #7) = ok"),
            (Event::Accept(Subject::Listener(0), Ok((stream, None))), "accept(listener 0) = c4"),
            (Event::Accept(Subject::Listener(0), refused), "accept(listener 0) = EMFILE"),
            (Event::Recv { stream, room: 9, result: Ok(5) }, "recv(c4, 9 bytes) = 5"),
            (Event::Close(stream, Close::Reset), "close(c4, with a reset)"),
            (Event::Note(Note::Command("push 1 2 3".to_owned())), "note: command push"),
            (
                Event::Note(Note::Closed(id, CloseReason::PeerFinished)),
                "note: #7 ended: peer finished",
            ),
        ] {
            assert_eq!(event.to_string(), written);
        }
    }
}
