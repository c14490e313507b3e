use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::words::{bytes, seconds};
use super::{Fact, View};
use crate::proto::ConnId;
use crate::python::Monotonic;
use crate::reactor::{Note, Ready};
use crate::trace::readiness::letters;
use crate::trace::{Event, Fault, Picture, Place, SocketPicture, Step, Stream, Subject, World};

/// Both sides of a run after one of its steps.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) turn: u64,
    pub(super) at: Monotonic,
    pub(super) activity: Activity,
    /// The accept queue, in simulated runs.
    pub(super) queue: Vec<Stream>,
    pub(super) listener_edge: bool,
    pub(super) conns: BTreeMap<Stream, Conn>,
}

/// The loop's present occupation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    #[default]
    Working,
    /// In a poll that may sleep.
    Polling,
    Asleep,
}

/// One connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Conn {
    pub(super) id: Option<ConnId>,
    pub(super) stage: &'static str,
    /// The bits that events set and no answer has cleared.
    pub(super) told: Ready,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Bytes that the loop holds for the peer.
    pub(super) held: usize,
    /// `recv` has said that the peer's stream is over.
    pub(super) at_end: bool,
    pub(super) deadline: Option<Monotonic>,
    pub(super) place: Option<usize>,
    /// Bytes that the client has sent and read.
    pub(super) put: u64,
    pub(super) got: u64,
    pub(super) kernel: Option<SocketPicture>,
}

impl Conn {
    /// Room for bytes from the loop, in simulated runs.
    pub(super) fn room(&self) -> Option<usize> {
        self.kernel.map(|kernel| kernel.capacity.saturating_sub(kernel.unsent))
    }

    /// What the kernel knows, the loop does not act on, and no event will tell.
    fn gap(&self, asleep: bool) -> Option<String> {
        let kernel = self.kernel.filter(|kernel| kernel.end == Place::Open && !kernel.edge)?;
        let unread = bytes(kernel.unread);
        let has_room = self.room().is_some_and(|room| room > 0);
        let waits = self.held > 0 && !has_room;
        if kernel.unread > 0 && !self.told.has(Ready::READABLE) {
            Some(format!("the loop believes: nothing to read; the kernel holds {unread}"))
        } else if !asleep || waits {
            None
        } else if kernel.unread > 0 {
            Some(format!("the loop sleeps with {unread} unread, and no event is to come"))
        } else if self.held > 0 && !kernel.room_owed {
            Some("the answer is in hand, there is room, and no event is to come".to_owned())
        } else if kernel.ended && !self.at_end {
            Some("the end of the stream waits, and no event is to come".to_owned())
        } else if kernel.ended {
            Some("the client has ended; its place stays taken".to_owned())
        } else {
            None
        }
    }
}

pub(super) const CLOSED: &str = "closed";

/// Follows a run step by step. The loop's side comes from the calls and their answers alone, the
/// kernel's from pictures of it.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) state: State,
    owners: HashMap<ConnId, Stream>,
    /// The owners before the present ones.
    former: HashMap<ConnId, Stream>,
    /// The last stream that was accepted.
    accepted: Option<Stream>,
}

impl Model {
    /// Goes on by one step.
    pub(super) fn step(&mut self, step: &Step, picture: Option<&Picture>, views: &[View]) {
        self.state.at = step.at;
        if !matches!(step.event, Event::World(_)) {
            self.state.activity = Activity::Working;
        }
        self.apply(&step.event);
        if let Some(picture) = picture {
            self.see(picture);
        }
        for view in views {
            let conn = self.conn(view.stream);
            match view.fact {
                Fact::Stage(stage) => conn.stage = stage,
                Fact::Held(bytes) => conn.held = bytes,
                Fact::Deadline(deadline) => conn.deadline = deadline,
                Fact::Place(place) => conn.place = place,
            }
        }
    }

    /// The stream that has this name now.
    pub(super) fn owner(&self, id: ConnId) -> Option<Stream> {
        self.owners.get(&id).copied()
    }

    /// The stream that had this name before its present owner, or last.
    pub(super) fn former_owner(&self, id: ConnId) -> Option<Stream> {
        self.former.get(&id).copied()
    }

    fn conn(&mut self, stream: Stream) -> &mut Conn {
        self.state.conns.entry(stream).or_insert_with(|| Conn { stage: "new", ..Conn::default() })
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Poll(timeout) => {
                self.state.turn += 1;
                if timeout.is_none_or(|timeout| !timeout.is_zero()) {
                    self.state.activity = Activity::Polling;
                }
            }
            Event::Ready(Subject::Connection(id), ready) => {
                if let Some(stream) = self.owner(*id) {
                    self.conn(stream).told.insert(*ready);
                }
            }
            Event::Accept(_, Ok((stream, _))) => {
                self.conn(*stream).stage = "accepted";
                self.accepted = Some(*stream);
            }
            Event::Note(Note::Opened(id, _)) => {
                if let Some(stream) = self.accepted {
                    self.open(stream, *id);
                }
            }
            Event::Register(stream, Subject::Connection(id), Ok(())) => {
                // The server says before that it opens a connection; other loops say nothing.
                if self.owner(*id) != Some(*stream) {
                    self.open(*stream, *id);
                }
                self.conn(*stream).told = Ready::WRITABLE;
            }
            Event::Recv { stream, room, result } => self.recv(*stream, *room, *result),
            Event::Send { stream, len, result } => {
                let conn = self.conn(*stream);
                match result {
                    Ok(n) => {
                        conn.sent += *n as u64;
                        conn.held = len - n;
                    }
                    Err(fault) => {
                        conn.held = *len;
                        if *fault == Fault::WOULD_BLOCK {
                            conn.told.write_would_block();
                        }
                    }
                }
            }
            Event::Shutdown(stream, _) => self.conn(*stream).stage = "half-closed",
            Event::Close(stream, _) => {
                let conn = self.conn(*stream);
                conn.stage = CLOSED;
                (conn.place, conn.deadline, conn.told) = (None, None, Ready::NONE);
                if let Some(id) = conn.id {
                    self.owners.remove(&id);
                    self.former.insert(id, *stream);
                }
            }
            Event::Note(Note::Authenticated(id, _)) => {
                if let Some(stream) = self.owner(*id) {
                    self.conn(stream).stage = "authenticated";
                }
            }
            Event::Snapshot { turns, .. } => self.state.turn = *turns,
            Event::Present(stream, presence) => {
                self.owners.insert(presence.id, *stream);
                let conn = self.conn(*stream);
                (conn.id, conn.told, conn.held) =
                    (Some(presence.id), presence.ready, presence.unsent);
                conn.stage = presence.state.name();
            }
            Event::World(act) => self.world(act),
            _ => {}
        }
    }

    fn open(&mut self, stream: Stream, id: ConnId) {
        self.owners.insert(id, stream);
        let conn = self.conn(stream);
        (conn.id, conn.stage) = (Some(id), "open");
    }

    fn recv(&mut self, stream: Stream, room: usize, result: Result<usize, Fault>) {
        let conn = self.conn(stream);
        match result {
            Ok(0) if room > 0 => conn.at_end = true,
            Ok(n) => {
                conn.received += n as u64;
                if n < room {
                    conn.told.short_read();
                }
            }
            Err(Fault::WOULD_BLOCK) => conn.told.read_would_block(),
            Err(_) => {}
        }
    }

    fn world(&mut self, act: &World) {
        match act {
            World::Connects(stream, _) => self.conn(*stream).stage = "connecting",
            World::Sends { stream, taken, .. } => self.conn(*stream).put += *taken as u64,
            World::Reads(stream, n) => self.conn(*stream).got += *n as u64,
            World::Sleeps(..) => self.state.activity = Activity::Asleep,
            _ => {}
        }
    }

    fn see(&mut self, picture: &Picture) {
        self.state.queue.clone_from(&picture.queue);
        self.state.listener_edge = picture.listener_edge;
        for socket in &picture.sockets {
            self.conn(socket.stream).kernel = Some(*socket);
        }
    }
}

/// Everything that a page shows of a state, under flat keys: `c1.unread`.
pub(super) fn flat(state: &State) -> Map<String, Value> {
    let mut all = Map::new();
    let activity = match state.activity {
        Activity::Working => "working",
        Activity::Polling => "in poll",
        Activity::Asleep => "asleep",
    };
    all.insert("loop".into(), activity.into());
    all.insert("turn".into(), state.turn.into());
    all.insert("time".into(), seconds(state.at).into());
    let asleep = state.activity == Activity::Asleep;
    let queue = state.queue.iter().map(Stream::to_string).collect::<Vec<_>>();
    all.insert("queue".into(), queue.join(" ").into());
    all.insert("edge".into(), state.listener_edge.into());
    for (stream, conn) in &state.conns {
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                all.insert(format!("{stream}.{key}"), value);
            }
        };
        let stage = match conn.kernel {
            Some(kernel) if kernel.end == Place::Queued => "in the accept queue",
            Some(kernel) if kernel.end == Place::Closed => CLOSED,
            _ => conn.stage,
        };
        put("stage", stage.into());
        put("told", letters(conn.told).into());
        put("received", conn.received.into());
        put("sent", conn.sent.into());
        put("held", conn.held.into());
        put("place", conn.place.map_or(Value::Null, |place| (place + 1).into()));
        put("deadline", conn.deadline.map_or(Value::Null, |at| seconds(at).into()));
        put("put", conn.put.into());
        put("got", conn.got.into());
        if let Some(kernel) = conn.kernel {
            put("unread", kernel.unread.into());
            put("window", kernel.window.into());
            put("way", kernel.under_way.into());
            put("end", if kernel.ended { json!("ended") } else { Value::Null });
            put("urgent", if kernel.urgent { json!("urgent mark") } else { Value::Null });
            put("edge", kernel.edge.into());
            put("owed", kernel.room_owed.into());
            put("room", conn.room().into());
            put("capacity", kernel.capacity.into());
            put("reset", if kernel.client_reset { json!("reset") } else { Value::Null });
        }
        put("gap", conn.gap(asleep).map_or(Value::Null, Value::from));
    }
    all
}

/// The keys whose values change from one state to the next; those that go are null.
pub(super) fn changes(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Map<String, Value> {
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let mut changes: Map<_, _> = new.map(|(key, value)| (key.clone(), value.clone())).collect();
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    changes.extend(gone.map(|key| (key.clone(), Value::Null)));
    changes
}
