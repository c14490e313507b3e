//! Calls in the notation of a trace.

use super::{Event, Fault};
use crate::reactor::Note;

/// A call with its arguments and answer, in the notation of a trace.
pub(super) fn call_of(event: &Event) -> String {
    let tell = |result: &Result<usize, Fault>| match result {
        Ok(n) => n.to_string(),
        Err(fault) => fault.to_string(),
    };
    let done = |result: &Result<(), Fault>| match result {
        Ok(()) => "done".to_owned(),
        Err(fault) => fault.to_string(),
    };
    match event {
        Event::Poll(None) => "poll(for ever)".to_owned(),
        Event::Poll(Some(timeout)) => format!("poll({timeout:?})"),
        Event::Ready(subject, ready) => format!("event({subject}, {ready:?})"),
        Event::PollFailed(fault) => format!("poll = {fault}"),
        Event::Clock(_) | Event::Timing(_) => "now()".to_owned(),
        Event::Signal(signal) => format!("next_signal() = {signal:?}"),
        Event::Listen(subject, result) => format!("register({subject}) = {}", done(result)),
        Event::Register(stream, subject, result) => {
            format!("register({stream}, {subject}) = {}", done(result))
        }
        Event::Accept(subject, Ok((stream, _))) => format!("accept({subject}) = {stream}"),
        Event::Accept(subject, Err(fault)) => format!("accept({subject}) = {fault}"),
        Event::Shed(subject, result) => format!("shed({subject}) = {}", done(result)),
        Event::Recv { stream, room, result } => {
            format!("recv({stream}, {room}) = {}", tell(result))
        }
        Event::Send { stream, len, result } => {
            format!("send({stream}, {len} bytes) = {}", tell(result))
        }
        Event::Shutdown(stream, result) => format!("shutdown({stream}) = {}", done(result)),
        Event::Close(stream, how) => format!("close({stream}, {how:?})"),
        Event::Liveness(stream, _) => format!("liveness({stream})"),
        Event::Probe(stream) => format!("probe({stream})"),
        Event::RandomBelow { limit, drawn } => format!("random_below({limit}) = {drawn}"),
        Event::FillRandom(len, result) => format!("fill_random({len}) = {}", done(result)),
        Event::Note(note) => match note {
            Note::Command(text) => {
                format!("command {}", text.split(' ').next().unwrap_or_default())
            }
            Note::Killed(id) => format!("kill {id}"),
            Note::Tick(_) => "tick".to_owned(),
            Note::Due(id) => format!("the alarm of {id}"),
            Note::Authenticated(id, _) => format!("{id} authenticated"),
            Note::Closed(id, reason) => format!("{id} ended: {}", reason.as_str()),
            Note::Pause(why) => format!("pause of accepting: {why:?}"),
        },
        Event::Snapshot { turns, connections, .. } => {
            format!("snapshot after turn {turns}, of {connections} connections")
        }
        Event::Present(stream, presence) => format!("snapshot of {stream}: {presence:?}"),
        Event::World(act) => format!("{act:?}"),
    }
}
