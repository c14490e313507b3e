use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use super::{Event, Narrator, Step, Stream};
use crate::proto::State;
use crate::reactor::Note;

/// Turns events into a Chrome trace, which ui.perfetto.dev shows: a track for the loop with its polls and
/// turns, and in these the share of each connection and its calls; a track for each connection with its
/// states and calls; arrows from an event to the first call that it caused.
///
/// Of a real run the time is that of the clock, and what happened within one reading is moved apart by
/// nanoseconds. In a simulation time hardly moves, so a step takes ten microseconds.
#[derive(Debug)]
pub struct Perfetto {
    narrator: Narrator,
    /// The trace's events with their times, in any order.
    events: Vec<(u64, String)>,
    left_out: u64,
    by_step: bool,
    /// The time of the last event, and of the first.
    now: u64,
    begin: Option<u64>,
    poll: Option<u64>,
    turn: Option<Turn>,
    reported: Vec<(Stream, String)>,
    lives: BTreeMap<Stream, Life>,
    /// Connections whose track is over; in a simulation their clients may still act.
    ended: HashSet<Stream>,
    /// Beginnings of arrows, by their streams.
    arrows: HashMap<Stream, u64>,
    next_arrow: u64,
    counted: usize,
}

/// A turn that has not ended.
#[derive(Debug)]
struct Turn {
    number: u64,
    begin: u64,
    share: Option<Share>,
}

/// The calls in a row for one connection.
#[derive(Debug)]
struct Share {
    stream: Stream,
    begin: u64,
}

/// A connection whose track is open.
#[derive(Debug)]
struct Life {
    state: &'static str,
    since: u64,
    has_counter: bool,
}

/// Events of a trace, at most: with more, viewers become slow and then fail.
const MAX_EVENTS: usize = 100_000;
/// Connections whose unsent bytes are drawn.
const MAX_COUNTERS: usize = 30;
const LOOP: &str = "\"pid\":1,\"tid\":1";
/// Nanoseconds of a call's slice: an arrow begins or ends within it.
const CALL: u64 = 3;
/// The latest time of an event in nanoseconds. Only a damaged recording has later ones.
const LATEST: u64 = u64::MAX / 2;
/// Nanoseconds of a step in a simulation.
const STEP: u64 = 10_000;

impl Perfetto {
    /// A trace of a real run.
    pub fn new() -> Self {
        Self::with(false)
    }

    /// A trace of a simulated run.
    pub fn by_step() -> Self {
        Self::with(true)
    }

    fn with(by_step: bool) -> Self {
        Self {
            narrator: Narrator::new(),
            events: Vec::new(),
            left_out: 0,
            by_step,
            now: 0,
            begin: None,
            poll: None,
            turn: None,
            reported: Vec::new(),
            lives: BTreeMap::new(),
            ended: HashSet::new(),
            arrows: HashMap::new(),
            next_arrow: 1,
            counted: 0,
        }
    }

    /// Adds the next step of the run. All have to be given; one that is not `shown` leaves no mark.
    pub fn step(&mut self, step: &Step, shown: bool) {
        let before = self.narrator.stream_of(&step.event);
        let story = self.narrator.tell(&step.event);
        if !shown {
            return;
        }
        // No two events have one time, and children lie within their parents.
        self.now = match self.by_step {
            true => self.now + STEP,
            false => (self.now + 2 * CALL).max(step.at.as_nanos().min(LATEST)),
        };
        match &step.event {
            Event::Poll(_) => {
                self.end_turn();
                self.poll = Some(self.now);
            }
            Event::Ready(..) => {
                if let Some(stream) = before {
                    self.reported.push((stream, story));
                }
            }
            Event::Clock(_) => self.begin_turn(),
            event => self.call(event, before, &story),
        }
    }

    /// The trace, and the number of events that it has no room for.
    pub fn finish(mut self) -> (String, u64) {
        // Behind the last call, which lies within its turn.
        self.now += 2 * CALL;
        self.end_turn();
        for stream in self.lives.keys().copied().collect::<Vec<_>>() {
            self.now += 2 * CALL;
            self.end_life(stream);
        }
        self.events.sort_by_key(|(time, _)| *time);
        let mut out = String::from("{\"traceEvents\":[\n");
        out.push_str(
            "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"1 loop\"}},\n\
             {\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"loop\"}},\n\
             {\"ph\":\"M\",\"name\":\"process_name\",\"pid\":2,\"tid\":2,\
             \"args\":{\"name\":\"2 connections\"}}",
        );
        for (_, event) in &self.events {
            out.push_str(",\n");
            out.push_str(event);
        }
        out.push_str("\n]}\n");
        (out, self.left_out)
    }

    /// Adds an event. `rest` is all of it but its time.
    fn add(&mut self, time: u64, rest: &str) {
        if self.events.len() >= MAX_EVENTS {
            self.left_out += 1;
            return;
        }
        let begin = *self.begin.get_or_insert(time);
        let time = time.saturating_sub(begin);
        self.events.push((time, format!("{{\"ts\":{},{rest}}}", micros(time))));
    }

    fn slice(&mut self, track: &str, name: &str, begin: u64, end: u64, story: &str) {
        let duration = micros(end.saturating_sub(begin).max(1));
        let (name, story) = (quoted(name), quoted(story));
        let args = format!("\"args\":{{\"story\":{story}}}");
        self.add(begin, &format!("\"ph\":\"X\",\"dur\":{duration},{track},\"name\":{name},{args}"));
    }

    fn begin_turn(&mut self) {
        // The first event's time is the trace's zero, and this slice is written at its end.
        if let Some(begin) = self.poll.take() {
            self.slice(LOOP, "poll", begin, self.now, "");
        }
        let number = self.narrator.turn();
        self.turn = Some(Turn { number, begin: self.now, share: None });
        for (stream, story) in std::mem::take(&mut self.reported) {
            self.now += 2 * CALL;
            let begin = self.now;
            self.slice(LOOP, &format!("event {stream}"), begin, begin + CALL, &story);
            self.arrows.insert(stream, begin + 1);
        }
    }

    fn end_turn(&mut self) {
        self.end_share();
        if let Some(Turn { number, begin, .. }) = self.turn.take() {
            let end = self.now - 1;
            self.slice(LOOP, &format!("turn {number}"), begin, end, "");
        }
        self.arrows.clear();
    }

    fn end_share(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        if let Some(Share { stream, begin }) = turn.share.take() {
            let end = self.now - 2;
            self.slice(LOOP, &stream.to_string(), begin, end, "");
        }
    }

    /// A call or a decision: on the loop's track, and on its connection's.
    fn call(&mut self, event: &Event, stream: Option<Stream>, story: &str) {
        let shared = self.turn.as_ref().and_then(|turn| turn.share.as_ref()).map(|it| it.stream);
        if shared != stream {
            self.end_share();
            // The share's own beginning comes before its first call.
            let begin = self.now;
            self.now += CALL;
            if let (Some(turn), Some(stream)) = (&mut self.turn, stream) {
                turn.share = Some(Share { stream, begin });
            }
        }
        let (begin, name) = (self.now, event.to_string());
        if self.turn.is_some() && !matches!(event, Event::World(_)) {
            self.slice(LOOP, &name, begin, begin + CALL, story);
        }
        let Some(stream) = stream else { return };
        if self.turn.is_some()
            && let Some(from) = self.arrows.remove(&stream)
        {
            let id = self.next_arrow;
            self.next_arrow += 1;
            let same = format!("\"cat\":\"event\",\"name\":\"event\",\"id\":{id},{LOOP}");
            self.add(from, &format!("\"ph\":\"s\",{same}"));
            self.add(begin + 1, &format!("\"ph\":\"f\",\"bp\":\"e\",{same}"));
        }
        self.life(event, stream, &name, story);
    }

    /// The mark of a call on its connection's track, and the change of state that it makes.
    fn life(&mut self, event: &Event, stream: Stream, name: &str, story: &str) {
        if self.ended.contains(&stream) {
            return;
        }
        let track = track_of(stream);
        if !self.lives.contains_key(&stream) {
            self.begin_life(stream);
        }
        self.now += 1;
        let (time, quoted_name, story) = (self.now, quoted(name), quoted(story));
        let args = format!("\"args\":{{\"story\":{story}}}");
        self.add(time, &format!("\"ph\":\"i\",\"s\":\"t\",{track},\"name\":{quoted_name},{args}"));
        let unsent = match event {
            Event::Send { len, result, .. } => Some(len - result.unwrap_or(0).min(*len)),
            _ => None,
        };
        if let Some(unsent) = unsent
            && self.lives.get(&stream).is_some_and(|life| life.has_counter)
        {
            let args = format!("\"args\":{{\"bytes\":{unsent}}}");
            let text = format!("\"ph\":\"C\",\"pid\":2,\"name\":\"{stream} unsent\",{args}");
            self.add(time, &text);
        }
        let state = match (event, unsent) {
            (Event::Note(Note::Authenticated(..)), _) => "authenticated",
            (Event::Shutdown(..), _) => "half-closed",
            (Event::Present(_, presence), _) => match presence.state {
                State::Lingering => "half-closed",
                State::Echoing if presence.unsent > 0 => "sending",
                State::Echoing | State::Finishing => "authenticated",
                _ => return,
            },
            (_, Some(0)) if self.state_of(stream) == "sending" => "authenticated",
            (_, Some(1..)) if self.state_of(stream) == "authenticated" => "sending",
            (Event::Close(..), _) => return self.end_life(stream),
            _ => return,
        };
        self.enter(stream, state);
    }

    fn state_of(&self, stream: Stream) -> &'static str {
        self.lives.get(&stream).map_or("", |life| life.state)
    }

    fn begin_life(&mut self, stream: Stream) {
        let begin = self.now;
        let has_counter = self.counted < MAX_COUNTERS;
        self.counted += 1;
        let track = track_of(stream);
        let name = format!("\"args\":{{\"name\":\"{stream}\"}}");
        // Without a time, so among the first.
        if self.events.len() < MAX_EVENTS {
            let text = format!("{{\"ph\":\"M\",\"name\":\"thread_name\",{track},{name}}}");
            self.events.push((0, text));
        }
        let life =
            format!("\"cat\":\"connection\",\"id\":{},\"name\":\"{stream}\",{track}", stream.0);
        self.add(begin, &format!("\"ph\":\"b\",{life}"));
        self.now += 1;
        let since = self.now;
        let state = "handshake";
        self.lives.insert(stream, Life { state, since, has_counter });
    }

    fn end_life(&mut self, stream: Stream) {
        self.enter(stream, "");
        if self.lives.remove(&stream).is_some() {
            self.ended.insert(stream);
            let track = track_of(stream);
            let life = format!("\"cat\":\"connection\",\"id\":{},\"name\":\"{stream}\"", stream.0);
            self.add(self.now, &format!("\"ph\":\"e\",{life},{track}"));
        }
    }

    fn enter(&mut self, stream: Stream, state: &'static str) {
        self.now += 1;
        let now = self.now;
        let Some(life) = self.lives.get_mut(&stream) else { return };
        let (old, since) = (life.state, life.since);
        if old == state {
            return;
        }
        (life.state, life.since) = (state, now);
        self.slice(&track_of(stream), old, since, now, "");
    }
}

impl Default for Perfetto {
    fn default() -> Self {
        Self::new()
    }
}

/// A track of a connection. The loop's has the number 1.
fn track_of(stream: Stream) -> String {
    format!("\"pid\":2,\"tid\":{}", stream.0.saturating_add(2))
}

fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
