mod beside;

use std::collections::HashMap;
use std::time::Duration;

use super::readiness::{letters, names};
use super::{Event, Fault, Step, Stream, Subject};
use crate::auth::Challenge;
use crate::proto::{ConnId, State};
use crate::reactor::{Close, Liveness, Note, Presence, Ready};

/// Tells the events of a run in plain words, one line each, with the rule that the loop follows and
/// the source file in which it stands.
///
/// It has to hear every event from the first on, since some lines depend on earlier ones: an event for a
/// connection that is gone, a bit that was set before.
#[derive(Debug, Default)]
pub struct Narrator {
    turn: u64,
    /// The stream of each connection that is there.
    streams: HashMap<ConnId, Stream>,
    /// The last stream that was accepted.
    accepted: Option<Stream>,
    /// The last connection that was closed, about which one line is still to come.
    closed: Option<(ConnId, Stream)>,
    /// What is believed of each stream.
    believed: HashMap<Stream, Belief>,
}

/// A connection as the calls so far show it.
#[derive(Clone, Copy, Debug, Default)]
struct Belief {
    id: Option<ConnId>,
    ready: Ready,
    received: u64,
    sent: u64,
    /// Bytes of an answer that found no room.
    unsent: u64,
    half_closed: bool,
}

impl Narrator {
    /// A narrator at the beginning of a run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of turns that have begun.
    pub const fn turn(&self) -> u64 {
        self.turn
    }

    /// The connection of a stream, once it is registered.
    pub fn connection(&self, stream: Stream) -> Option<ConnId> {
        let closed = self.closed.filter(|(_, closed)| *closed == stream).map(|(id, _)| id);
        self.believed.get(&stream).map_or(closed, |belief| belief.id)
    }

    /// The stream that an event is about, if it is about one that is there.
    pub fn stream_of(&self, event: &Event) -> Option<Stream> {
        match event {
            Event::Ready(Subject::Connection(id), _) => self.streams.get(id).copied(),
            Event::Note(Note::Refused(..) | Note::Opened(..) | Note::SetupFailed(..)) => {
                self.accepted
            }
            Event::Note(note) => {
                let id = note.connection()?;
                let closed = self.closed.filter(|(closed, _)| *closed == id);
                self.streams.get(&id).copied().or(closed.map(|(_, stream)| stream))
            }
            _ => event.stream(),
        }
    }

    /// The state of a stream as the events so far show it: its bits, its bytes.
    pub fn state(&self, stream: Stream) -> Option<String> {
        let belief = self.believed.get(&stream)?;
        let Belief { id, ready, received, sent, unsent, half_closed } = belief;
        let id = id.map_or("not registered".to_owned(), |id| format!("connection {id}"));
        let half_closed = if *half_closed { ", its stream to the peer has ended" } else { "" };
        Some(format!(
            "{stream}: {id}, bits {}, received {received} bytes, sent {sent}, unsent \
             {unsent}{half_closed}",
            letters(*ready)
        ))
    }

    /// The next event in one line: its time, its turn, its stream, its story.
    pub fn line(&mut self, step: &Step) -> String {
        let before = self.stream_of(&step.event);
        let story = self.tell(&step.event);
        let stream = before.map_or(String::new(), |stream| stream.to_string());
        let seconds = Duration::from_nanos(step.at.as_nanos()).as_secs_f64();
        format!("{seconds:>13.6} s  turn {:<6} {stream:<5} {story}", self.turn)
    }

    /// The story of the next event.
    pub fn tell(&mut self, event: &Event) -> String {
        match event {
            Event::Poll(timeout) => {
                self.turn += 1;
                poll(*timeout)
            }
            Event::Ready(subject, ready) => self.ready(*subject, *ready),
            Event::PollFailed(fault) => format!("poll failed: {fault}; the loop cannot go on"),
            Event::Clock(now) => format!(
                "the clock says {:?}: read once, after the poll, for the whole turn (reactor/mod.rs)",
                Duration::from_nanos(now.as_nanos())
            ),
            Event::Timing(now) => format!(
                "the clock says {:?}, to time the turn; nothing rests on it (server/lag.rs)",
                Duration::from_nanos(now.as_nanos())
            ),
            Event::Signal(Some(signal)) => {
                format!("signal {signal}: handed to the program (server/control.rs)")
            }
            Event::Signal(None) => "no further signal".to_owned(),
            Event::Listen(subject, result) => match result {
                Ok(()) => format!("{subject} is registered"),
                Err(fault) => format!("{subject} cannot be registered: {fault}"),
            },
            Event::Register(stream, subject, result) => self.register(*stream, *subject, *result),
            Event::Accept(subject, result) => self.accept(*subject, *result),
            Event::Shed(subject, result) => match result {
                Ok(()) => format!(
                    "a client of {subject} is accepted with the spare descriptor and closed at once: \
                     better than to let it wait in silence (server/accept.rs)"
                ),
                Err(fault) => format!("no client of {subject} can be turned away: {fault}"),
            },
            Event::Recv { stream, room, result } => self.recv(*stream, *room, *result),
            Event::Send { stream, len, result } => self.send(*stream, *len, *result),
            Event::Shutdown(stream, result) => {
                self.belief(*stream).half_closed = true;
                match result {
                    Ok(()) => "shutdown(SHUT_WR): the peer reads the end of the stream after the \
                               answers; what it still sends is read away (server/pump.rs)"
                        .to_owned(),
                    Err(fault) => format!(
                        "shutdown(SHUT_WR) failed: {fault}; the peer is gone, which the next recv \
                         reports (server/pump.rs)"
                    ),
                }
            }
            Event::Close(stream, how) => self.close(*stream, *how),
            Event::Liveness(_, result) => liveness(*result),
            Event::Probe(_) => {
                "one keepalive probe: a peer that is there acknowledges it (server/keepalive.rs)"
                    .to_owned()
            }
            Event::RandomBelow { limit, drawn } => {
                format!("{drawn} of {limit} drawn, to spread work over time (server/keepalive.rs)")
            }
            Event::FillRandom(Challenge::LEN, Ok(())) => {
                "32 random bytes, the challenge of the next connection (server/accept.rs)"
                    .to_owned()
            }
            Event::FillRandom(len, Ok(())) => format!("{len} random bytes (server/accept.rs)"),
            Event::FillRandom(_, Err(fault)) => format!(
                "no random bytes: {fault}; the client is closed, for there is no weaker substitute \
                 (server/accept.rs)"
            ),
            Event::Note(note) => self.note(note),
            Event::Snapshot { turns, connections, .. } => {
                self.turn = *turns;
                format!(
                    "the recording goes on from a snapshot here, after turn {turns}, with {connections} \
                     connections"
                )
            }
            Event::Present(stream, presence) => self.present(*stream, *presence),
            Event::World(act) => beside::world(act),
        }
    }

    fn present(&mut self, stream: Stream, presence: Presence) -> String {
        let Presence { id, ready, state, unsent } = presence;
        self.streams.insert(id, stream);
        let belief = self.belief(stream);
        (belief.id, belief.ready, belief.unsent) = (Some(id), ready, unsent as u64);
        belief.half_closed = state == State::Lingering;
        let (state, bits) = (state.name(), letters(ready));
        format!("{stream} is {id}, which is there: {state}, bits {bits}, {unsent} bytes unsent")
    }

    fn belief(&mut self, stream: Stream) -> &mut Belief {
        self.believed.entry(stream).or_default()
    }

    fn ready(&mut self, subject: Subject, ready: Ready) -> String {
        let Subject::Connection(id) = subject else {
            return match subject {
                Subject::Wake => {
                    "epoll reported the waker: another thread has left something (server/handle.rs)"
                        .to_owned()
                }
                Subject::Signal => "epoll reported a signal (server/control.rs)".to_owned(),
                Subject::Admin(_) => format!("epoll reported {subject} (server/admin/mod.rs)"),
                _ => format!(
                    "epoll reported {subject}: clients wait; accept until it would block \
                     (server/accept.rs)"
                ),
            };
        };
        let what = names(ready).join(", ");
        let Some(&stream) = self.streams.get(&id) else {
            return format!(
                "epoll reported {id} {what}, but {id} is gone: old generation, ignored \
                 (reactor/slots.rs)"
            );
        };
        let belief = self.belief(stream);
        let known = belief.ready.has(ready);
        belief.ready.insert(ready);
        let bits = letters(belief.ready);
        match known {
            true => format!("epoll reported {id} {what}, which is no news: bits {bits}"),
            false => format!(
                "epoll reported {id} {what}: a hint, so bits {bits} are set and it is queued; calls \
                 will tell (reactor/mod.rs)"
            ),
        }
    }

    fn register(&mut self, stream: Stream, subject: Subject, result: Result<(), Fault>) -> String {
        if let Err(fault) = result {
            return format!("{subject} cannot be registered: {fault}; closed (server/accept.rs)");
        }
        if let Subject::Connection(id) = subject {
            self.streams.insert(id, stream);
            let belief = self.belief(stream);
            (belief.id, belief.ready) = (Some(id), Ready::WRITABLE);
        }
        format!(
            "{stream} is {subject} from now on: registered once, for everything (reactor/mod.rs)"
        )
    }

    fn accept(
        &mut self,
        subject: Subject,
        result: Result<(Stream, Option<std::net::SocketAddr>), Fault>,
    ) -> String {
        match result {
            Ok((stream, peer)) => {
                self.believed.insert(stream, Belief::default());
                self.accepted = Some(stream);
                let peer = peer.map_or(String::new(), |peer| format!(" from {}", peer.ip()));
                format!("accept({subject}) = {stream}{peer} (server/accept.rs)")
            }
            Err(Fault::WOULD_BLOCK) => format!(
                "accept({subject}) = would block: the queue is empty, and the next client is an event \
                 (server/accept.rs)"
            ),
            Err(fault @ Fault(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => {
                format!(
                    "accept({subject}) = {fault}: nothing left to accept with; pause and try again, since \
                 no event will come for those who wait (server/accept.rs)"
                )
            }
            Err(fault) => format!(
                "accept({subject}) = {fault}: that concerns one client, which is gone; go on \
                 (server/accept.rs)"
            ),
        }
    }

    fn recv(&mut self, stream: Stream, room: usize, result: Result<usize, Fault>) -> String {
        let belief = self.belief(stream);
        match result {
            Ok(0) => format!(
                "recv({room}) = 0: the peer has ended its stream; every answer was handed over before \
                 (proto/connection.rs)"
            ),
            Ok(n) => {
                belief.received += n as u64;
                let stays = belief.ready.has(Ready::CLOSED) || belief.ready.has(Ready::PRIORITY);
                if n == room {
                    return format!(
                        "recv({room}) = {n}: the buffer is full, so more may be there; READABLE stays \
                         (reactor/ready.rs)"
                    );
                }
                belief.ready.short_read();
                match stays {
                    true => format!(
                        "recv({room}) = {n}: short, but an end or urgent data was announced and will \
                         not be again; READABLE stays (reactor/ready.rs)"
                    ),
                    false => format!(
                        "recv({room}) = {n}: short read, so the queue is empty; READABLE cleared \
                         (reactor/ready.rs)"
                    ),
                }
            }
            Err(Fault::WOULD_BLOCK) => {
                belief.ready.read_would_block();
                format!(
                    "recv({room}) = would block: nothing there; READABLE cleared, the next bytes are \
                     an event (reactor/transfer.rs)"
                )
            }
            Err(Fault::INTERRUPTED) => {
                format!("recv({room}) = EINTR: made again, as in PEP 475 (reactor/transfer.rs)")
            }
            Err(fault) => format!(
                "recv({room}) = {fault}: the connection has failed and ends (proto/connection.rs)"
            ),
        }
    }

    fn send(&mut self, stream: Stream, len: usize, result: Result<usize, Fault>) -> String {
        let belief = self.belief(stream);
        match result {
            Ok(n) => {
                belief.sent += n as u64;
                belief.unsent = (len - n.min(len)) as u64;
                match belief.unsent {
                    0 => format!("send({len}) = {n}: all of it (reactor/transfer.rs)"),
                    rest => format!(
                        "send({len}) = {n}: the kernel took a part; {rest} bytes wait as backlog, and \
                         nothing is read until they are gone (proto/backlog.rs)"
                    ),
                }
            }
            Err(Fault::WOULD_BLOCK) => {
                belief.ready.write_would_block();
                belief.unsent = len as u64;
                format!(
                    "send({len}) = would block: no room; WRITABLE cleared, {len} bytes wait, and \
                     nothing is read until they are gone (reactor/transfer.rs)"
                )
            }
            Err(Fault::INTERRUPTED) => {
                format!("send({len}) = EINTR: made again, as in PEP 475 (reactor/transfer.rs)")
            }
            Err(fault) => format!(
                "send({len}) = {fault}: the connection has failed and ends (proto/connection.rs)"
            ),
        }
    }

    fn close(&mut self, stream: Stream, how: Close) -> String {
        if let Some(Belief { id: Some(id), .. }) = self.believed.remove(&stream) {
            self.streams.remove(&id);
            self.closed = Some((id, stream));
        }
        match how {
            Close::Orderly => {
                "close(): what the kernel has taken is delivered, then the stream ends \
                 (server/mod.rs)"
                    .to_owned()
            }
            Close::Reset => {
                "close() with a reset: the answer is incomplete, and must not look whole \
                             (server/mod.rs)"
                    .to_owned()
            }
        }
    }
}

/// The whole story of a run, line by line.
pub fn lines(steps: &[Step]) -> impl Iterator<Item = String> {
    let mut narrator = Narrator::new();
    steps.iter().map(move |step| narrator.line(step))
}

fn poll(timeout: Option<Duration>) -> String {
    match timeout {
        None => "poll(for ever): nothing is queued and no deadline runs (server/mod.rs)".to_owned(),
        Some(Duration::ZERO) => {
            "poll(0): something is queued or due, so it must not sleep (server/mod.rs)".to_owned()
        }
        Some(timeout) => {
            format!("poll({timeout:?}): until the nearest deadline (reactor/timers.rs)")
        }
    }
}

fn liveness(result: Result<Liveness, Fault>) -> String {
    match result {
        Ok(Liveness { silent_for, unanswered, owes_acknowledgement }) => {
            let owes = if owes_acknowledgement { ", and data is not acknowledged" } else { "" };
            format!(
                "the peer was heard of {silent_for:?} ago, {unanswered} probes are unanswered{owes} \
                 (server/keepalive.rs)"
            )
        }
        Err(fault) => format!("the kernel cannot tell of the peer: {fault}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[Event]) -> Vec<String> {
        let mut narrator = Narrator::new();
        events.iter().map(|event| narrator.tell(event)).collect()
    }

    #[test]
    fn every_line_names_a_file_that_is_there() {
        let source = concat!(include_str!("mod.rs"), include_str!("beside.rs"));
        let files: Vec<&str> = source
            .split('(')
            .filter_map(|part| part.split_once(".rs)").map(|(path, _)| path))
            .filter(|path| path.chars().all(|c| c.is_ascii_lowercase() || "/_".contains(c)))
            .collect();
        assert!(files.len() > 30, "{files:?}");
        for file in files {
            let path = format!("{}/src/{file}.rs", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&path).is_file(), "{path}");
        }
    }

    #[test]
    fn a_short_read_says_why_it_ends_reading() {
        let (stream, id) = (Stream(4), ConnId { index: 0, generation: 7 });
        let read = Event::Recv { stream, room: 32_768, result: Ok(5) };
        let register = Event::Register(stream, Subject::Connection(id), Ok(()));
        let event = |ready| Event::Ready(Subject::Connection(id), ready);
        let lines = told(&[register.clone(), event(Ready::READABLE), read.clone()]);
        assert_eq!(
            lines[2],
            "recv(32768) = 5: short read, so the queue is empty; READABLE cleared (reactor/ready.rs)"
        );
        let lines = told(&[
            register,
            event(Ready::READABLE.union(Ready::CLOSED)),
            read,
            event(Ready::CLOSED),
        ]);
        assert!(lines[2].contains("READABLE stays"), "{}", lines[2]);
        assert!(lines[3].contains("no news"), "{}", lines[3]);
    }

    #[test]
    fn an_event_for_a_connection_that_is_gone_is_told_as_such() {
        let (stream, id) = (Stream(4), ConnId { index: 0, generation: 7 });
        let lines = told(&[
            Event::Register(stream, Subject::Connection(id), Ok(())),
            Event::Close(stream, Close::Orderly),
            Event::Ready(Subject::Connection(id), Ready::READABLE),
        ]);
        assert_eq!(
            lines[2],
            "epoll reported #7 readable, but #7 is gone: old generation, ignored (reactor/slots.rs)"
        );
    }
}
