use std::time::Duration;

use super::model::{Conn, Model, State};
use super::words::{bytes, grouped, seconds, span};
use crate::proto::ConnId;
use crate::reactor::{AcceptPause, Close, Note, Ready, Refusal};
use crate::trace::readiness::listed;
use crate::trace::{Event, Fault, Place, Step, Stream, Subject, World};

/// A step in a sentence or two: what was done, what the kernel answered, what it means. In a simulated
/// run it also says what the loop cannot know.
pub(super) fn caption(step: &Step, before: &State, after: &Model) -> String {
    let around = Around { before, after };
    match &step.event {
        Event::Poll(timeout) => around.poll(*timeout),
        Event::Ready(subject, ready) => around.ready(*subject, *ready),
        Event::PollFailed(fault) => format!("poll fails: {fault}. The loop cannot go on."),
        Event::Clock(now) => format!("The loop reads the clock: it is {} s.", seconds(*now)),
        Event::Timing(now) => {
            format!("The loop reads the clock to time its turn: {} s.", seconds(*now))
        }
        Event::Signal(Some(signal)) => format!("The loop takes signal {signal}."),
        Event::Signal(None) => "No further signal has come.".to_owned(),
        Event::Listen(subject, Ok(())) => format!("The loop asks for the events of {subject}."),
        Event::Listen(subject, Err(fault)) => format!("{subject} cannot be registered: {fault}."),
        Event::Register(stream, _, Ok(())) => {
            format!(
                "{stream} is registered, once and for everything. From now on epoll reports changes."
            )
        }
        Event::Register(stream, _, Err(fault)) => {
            format!("{stream} cannot be registered: {fault}.")
        }
        Event::Accept(_, result) => around.accept(*result),
        Event::Shed(_, Ok(())) => {
            "A client is accepted with the spare descriptor and closed: better than silence."
                .to_owned()
        }
        Event::Shed(_, Err(fault)) => format!("No client can be turned away: {fault}."),
        Event::Recv { stream, result, .. } => around.recv(*stream, *result),
        Event::Send { stream, len, result } => around.send(*stream, *len, *result),
        Event::Shutdown(stream, Ok(())) => format!(
            "The loop ends its own stream to {stream} behind the answer. It can still read."
        ),
        Event::Shutdown(stream, Err(fault)) => {
            format!("{stream} cannot be shut down: {fault}. The client is gone.")
        }
        Event::Close(stream, how) => around.close(*stream, *how),
        Event::Liveness(stream, Ok(peer)) => {
            format!("The kernel last heard of {stream} {:?} ago.", peer.silent_for)
        }
        Event::Liveness(stream, Err(fault)) => format!("Nothing is known of {stream}: {fault}."),
        Event::Probe(stream) => format!("The kernel asks {stream} for a sign of life."),
        Event::RandomBelow { limit, drawn } => {
            format!("The loop draws {drawn} of {limit}, to spread work over time.")
        }
        Event::FillRandom(len, Ok(())) => format!("The loop gets {len} random bytes."),
        Event::FillRandom(_, Err(fault)) => format!("There are no random bytes: {fault}."),
        Event::Note(note) => around.note(note),
        Event::Snapshot { turns, connections, .. } => format!(
            "A snapshot of the loop after turn {turns}, with {connections} connections: what was before is \
             not needed."
        ),
        Event::Present(stream, presence) => {
            format!("{stream} is there, {}.", presence.state.name().replace('_', " "))
        }
        Event::World(act) => around.world(act),
    }
}

/// A step with the states around it.
struct Around<'a> {
    before: &'a State,
    after: &'a Model,
}

impl Around<'_> {
    fn conn(&self, stream: Stream) -> Option<&Conn> {
        self.after.state.conns.get(&stream)
    }

    fn poll(&self, timeout: Option<Duration>) -> String {
        match timeout {
            Some(Duration::ZERO) => {
                "The loop looks for events and must not sleep: it knows of work that is left."
                    .to_owned()
            }
            None => {
                "The loop asks for events, and may sleep for as long as there is none.".to_owned()
            }
            Some(time) => {
                format!("The loop asks for events, and may sleep for {}, not longer.", span(time))
            }
        }
    }

    fn ready(&self, subject: Subject, ready: Ready) -> String {
        let Subject::Connection(id) = subject else {
            return match subject {
                Subject::Wake => "epoll reports the waker: another thread wants something.".to_owned(),
                Subject::Signal => "epoll reports a signal.".to_owned(),
                Subject::Listener(_) => {
                    "epoll reports the listener: at least one client waits. It does not say how many."
                        .to_owned()
                }
                _ => format!("epoll reports {subject}."),
            };
        };
        self.ready_connection(id, &listed(ready))
    }

    fn ready_connection(&self, id: ConnId, what: &str) -> String {
        let former = self.after.former_owner(id);
        match (self.after.owner(id), former) {
            (None, Some(former)) => {
                format!("A late event says {what}. It is {former}'s, and {former} is gone.")
            }
            (None, None) => format!("An event for {id} says {what}, but there is no {id}."),
            (Some(stream), Some(former)) if !self.before_edge(stream) => {
                format!(
                    "A late event says {what}. It was {former}'s, but {stream} has that number now."
                )
            }
            (Some(stream), _) => {
                format!("epoll reports {stream} {what}. That is a hint: only calls will tell.")
            }
        }
    }

    fn before_edge(&self, stream: Stream) -> bool {
        let before = self.before.conns.get(&stream).and_then(|conn| conn.kernel);
        before.is_none_or(|kernel| kernel.edge)
    }

    fn accept(&self, result: Result<(Stream, Option<std::net::SocketAddr>), Fault>) -> String {
        let waiting = self.after.state.queue.len();
        match result {
            Ok((stream, _)) => match waiting {
                0 => format!("The loop accepts {stream}."),
                1 => format!("The loop accepts {stream}. One more client is in the queue."),
                more => format!("The loop accepts {stream}. {more} more clients are in the queue."),
            },
            Err(Fault::WOULD_BLOCK) => {
                "accept would block: the queue is empty, so the next client will be an event."
                    .to_owned()
            }
            Err(fault) if waiting > 0 => format!(
                "accept fails: {fault}. {} stays in the queue, and its event is spent.",
                self.after.state.queue[0]
            ),
            Err(fault) => format!("accept fails: {fault}."),
        }
    }

    fn recv(&self, stream: Stream, result: Result<usize, Fault>) -> String {
        let conn = self.conn(stream);
        let kernel = conn.and_then(|conn| conn.kernel);
        let unread = kernel.map_or(0, |kernel| kernel.unread);
        match result {
            Ok(0) => match conn.map_or(0, |conn| conn.held) {
                0 => format!(
                    "recv returns 0: {stream} has ended its stream. Nothing more will ever come."
                ),
                held => format!(
                    "recv returns 0: {stream} has ended its stream. {} of its answer are not sent yet.",
                    bytes(held)
                ),
            },
            Ok(n) if unread > 0 => format!(
                "The loop receives {} from {stream}. The kernel has {} more.",
                bytes(n),
                grouped(unread as u64)
            ),
            Ok(n) if kernel.is_some_and(|kernel| kernel.ended) => format!(
                "The loop receives {} from {stream}. Behind them is the end, which is unread.",
                bytes(n)
            ),
            Ok(n) if kernel.is_some() => {
                format!("The loop receives {} from {stream}. The kernel has no more.", bytes(n))
            }
            Ok(n) => format!("The loop receives {} from {stream}.", bytes(n)),
            Err(Fault::WOULD_BLOCK) => {
                format!(
                    "recv would block: {stream} has sent no more so far. Its next bytes will be an event."
                )
            }
            Err(Fault::INTERRUPTED) => "A signal interrupts recv. It is made again.".to_owned(),
            Err(fault) => format!("recv fails: {fault}. The connection of {stream} is over."),
        }
    }

    fn send(&self, stream: Stream, len: usize, result: Result<usize, Fault>) -> String {
        match result {
            Ok(n) if n == len => format!("The kernel takes all {} for {stream}.", bytes(n)),
            Ok(n) => format!(
                "The kernel takes {} of {} for {stream}. The other {} find no room.",
                grouped(n as u64),
                bytes(len),
                grouped((len - n) as u64)
            ),
            Err(Fault::WOULD_BLOCK) => {
                format!("send would block: there is no room for {stream}. Room will be an event.")
            }
            Err(Fault::INTERRUPTED) => "A signal interrupts send. It is made again.".to_owned(),
            Err(fault) => format!("send fails: {fault}. The connection of {stream} is over."),
        }
    }

    fn close(&self, stream: Stream, how: Close) -> String {
        let of = |state: &State| state.conns.get(&stream).cloned().unwrap_or_default();
        let (was, is) = (of(self.before), of(&self.after.state));
        let (before, after) = (was.kernel, is.kernel);
        let unread = before.map_or(0, |kernel| kernel.unread);
        let lost = before.zip(after).map_or(0, |(before, after)| before.unsent - after.unsent);
        let reset = before
            .zip(after)
            .is_some_and(|(before, after)| !before.client_reset && after.client_reset);
        let held = was.held;
        match how {
            _ if reset && lost > 0 => format!(
                "The loop closes {stream} with {} unread: a reset, which destroys {} of the answer.",
                bytes(unread),
                bytes(lost)
            ),
            Close::Reset => {
                format!("The loop closes {stream} with a reset: the answer is incomplete.")
            }
            Close::Orderly if unread > 0 => {
                format!("The loop closes {stream} with {} unread. They are lost.", bytes(unread))
            }
            Close::Orderly if held > 0 => {
                format!("The loop closes {stream}, and throws {} of its answer away.", bytes(held))
            }
            Close::Orderly => {
                format!("The loop closes {stream}. What was sent is still delivered.")
            }
        }
    }

    fn note(&self, note: &Note) -> String {
        let name = |id: &ConnId| match self.after.owner(*id).or(self.after.former_owner(*id)) {
            Some(stream) => stream.to_string(),
            None => id.to_string(),
        };
        match note {
            Note::Command(text) => {
                format!("Another thread asked for: {}.", text.split(' ').next().unwrap_or_default())
            }
            Note::Killed(id) => format!("An administrator ends {}.", name(id)),
            Note::Tick(_) => "The program has its tick.".to_owned(),
            Note::Due(id) => {
                format!("The alarm of {} has come. Is its deadline really over?", name(id))
            }
            Note::Authenticated(id, _) => format!("The digest of {} is right.", name(id)),
            Note::Closed(id, reason) => format!("{} is over: {}.", name(id), reason.as_str()),
            Note::Refused(_, Refusal::Suspect) => {
                "The client is turned away: its source failed lately, and places are scarce.".to_owned()
            }
            Note::Refused(_, Refusal::OverShare) => {
                "The client is turned away: its source has its share of places, and they are scarce."
                    .to_owned()
            }
            Note::Refused(_, Refusal::UntrustedProxy) => {
                "The client is turned away: it may not send a PROXY header.".to_owned()
            }
            Note::Opened(id, _) => {
                format!("The client becomes connection {id}, and the first of its deadlines runs.")
            }
            Note::Proxied(id, _) => {
                format!("The PROXY header of {} is complete. Its client is judged now.", name(id))
            }
            Note::SetupFailed(_, fault) => format!("The client cannot be served: {fault}."),
            Note::AcceptPaused(AcceptPause::Full) => {
                "Accepting pauses: all places are taken.".to_owned()
            }
            Note::AcceptPaused(AcceptPause::UnauthenticatedFull) => {
                "Accepting pauses: too many have not authenticated, and the oldest is young."
                    .to_owned()
            }
            Note::AcceptPaused(AcceptPause::Error(fault)) => {
                format!("Accepting pauses after its error, {fault}. A timer will try again.")
            }
        }
    }

    fn world(&self, act: &World) -> String {
        match act {
            World::Connects(stream, _) => {
                format!("{stream} connects, and waits in the accept queue.")
            }
            World::Sends { stream, taken, offered } if taken == offered => {
                format!("{stream} sends {}.", bytes(*taken))
            }
            World::Sends { stream, taken, offered } => format!(
                "{stream} sends {} of {}. The kernel has no room for more.",
                grouped(*taken as u64),
                bytes(*offered)
            ),
            World::SendsUrgent(stream) => {
                format!("{stream} sends an urgent byte. It leaves a mark in the stream.")
            }
            World::Reads(stream, n) => format!("{stream} reads {}.", bytes(*n)),
            World::Finishes(stream) => format!("{stream} ends its stream: it will send no more."),
            World::Resets(stream) => format!("{stream} resets its connection."),
            World::Vanishes(stream, _) => {
                format!("The machine of {stream} vanishes without a word.")
            }
            World::Disconnects(stream, fault) => format!("The network ends {stream}: {fault}."),
            World::Arrives(stream, unread) => {
                format!("Bytes of {stream} arrive. Unread now: {}.", grouped(*unread as u64))
            }
            World::Injects(Fault(libc::EMFILE)) => {
                "The process has no descriptor left for another connection.".to_owned()
            }
            World::Injects(fault) => format!("The next call will fail: {fault}."),
            World::Sleeps(slept, leave) => self.sleeps(*slept, *leave),
            World::Passes(time) => format!("{} pass.", span(*time)),
            World::Signals(signal) => format!("Signal {signal} is sent to the process."),
            World::Says(text) => text.clone(),
        }
    }

    fn sleeps(&self, slept: Duration, leave: Option<Duration>) -> String {
        let state = &self.after.state;
        let waiting = state.queue.len();
        let slept = span(slept);
        if waiting > 0 && !state.listener_edge && leave.is_none() {
            let who = if waiting == 1 {
                "1 client waits".to_owned()
            } else {
                format!("{waiting} clients wait")
            };
            return format!("The loop sleeps. {who} in the accept queue, and no event is to come.");
        }
        for (stream, conn) in &state.conns {
            let Some(kernel) = conn.kernel.filter(|kernel| kernel.end == Place::Open) else {
                continue;
            };
            let room = conn.room().is_some_and(|room| room > 0);
            let waits_for_room = conn.held > 0 && !room;
            if kernel.edge || waits_for_room || leave.is_some() {
                continue;
            }
            if kernel.unread > 0 {
                return format!(
                    "The loop sleeps with {} of {stream} unread, and no event is to come.",
                    bytes(kernel.unread)
                );
            }
            if conn.held > 0 && !kernel.room_owed {
                return format!(
                    "The loop sleeps with {} for {stream} in hand. There is room, and no event to come.",
                    bytes(conn.held)
                );
            }
            if kernel.ended && !conn.at_end {
                return format!(
                    "The loop sleeps. The end of {stream}'s stream is unread, and no event is to come."
                );
            }
            if kernel.ended {
                return format!(
                    "The loop sleeps. {stream} has ended, yet its place stays taken for ever."
                );
            }
        }
        match leave {
            None => format!("Nothing is left to do, so the loop sleeps. {slept} pass."),
            Some(leave) => format!("The loop sleeps for {slept} of at most {}.", span(leave)),
        }
    }
}
