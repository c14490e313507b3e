use serde_json::Value;

use super::*;
use crate::proto::{CloseReason, ConnId};
use crate::python::Monotonic;
use crate::reactor::{Close, Presence, Ready};
use crate::trace::{Fault, Subject, World};

const LISTENER: Subject = Subject::Listener(0);

fn at(nanos: u64, event: Event) -> Step {
    Step { at: Monotonic::from_nanos(nanos), event }
}

/// The connection with the number of its stream.
fn named(number: u32) -> ConnId {
    ConnId { index: 0, generation: number }
}

fn accept(number: u32) -> Event {
    Event::Accept(LISTENER, Ok((Stream(number.into()), None)))
}

fn register(number: u32) -> Event {
    Event::Register(Stream(number.into()), Subject::Connection(named(number)), Ok(()))
}

fn ready(number: u32) -> Event {
    Event::Ready(Subject::Connection(named(number)), Ready::READABLE)
}

fn recv(number: u64, result: Result<usize, Fault>) -> Event {
    Event::Recv { stream: Stream(number), room: 9, result }
}

fn send(number: u64, len: usize, result: Result<usize, Fault>) -> Event {
    Event::Send { stream: Stream(number), len, result }
}

fn clock(nanos: u64) -> Event {
    Event::Clock(Monotonic::from_nanos(nanos))
}

fn finished(mut trace: Perfetto, steps: impl IntoIterator<Item = Step>) -> (String, u64) {
    steps.into_iter().for_each(|step| trace.step(&step, true));
    trace.finish()
}

/// The events of a trace but the names of its tracks, one a line: time, kind, track, name, and what else
/// it has but its story. Times are in nanoseconds.
fn drawn(json: &str) -> Vec<String> {
    let root: Value = serde_json::from_str(json).unwrap();
    let nanos = |value: &Value| (value.as_f64().unwrap() * 1000.0).round();
    let line = |event: &Value| {
        let (time, name) = (nanos(&event["ts"]), event["name"].as_str().unwrap());
        let (kind, pid) = (event["ph"].as_str().unwrap(), &event["pid"]);
        let track = event.get("tid").map_or(pid.to_string(), |tid| format!("{pid}.{tid}"));
        let more = match kind {
            "X" => format!(", {}", nanos(&event["dur"])),
            "C" => format!(", {}", event["args"]["bytes"]),
            "s" | "f" => format!(" {}", event["id"]),
            _ => String::new(),
        };
        format!("{time} {kind} {track} {name}{more}")
    };
    let events = root["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["ph"] != "M").map(line).collect()
}

#[test]
fn a_connection_is_drawn_from_its_accept_to_its_close() {
    let (stream, would_block) = (Stream(1), Err(Fault::WOULD_BLOCK));
    let steps = [
        at(1000, Event::Poll(None)),
        at(1000, Event::Ready(LISTENER, Ready::READABLE)),
        at(5000, clock(5000)),
        at(5000, accept(1)),
        at(5000, register(1)),
        at(5000, send(1, 33, Ok(32))),
        at(5000, send(1, 1, Ok(1))),
        at(6000, Event::Poll(None)),
        at(6000, ready(1)),
        at(7000, clock(7000)),
        at(7000, recv(1, Ok(5))),
        at(7000, Event::Note(Note::Authenticated(named(1), None))),
        at(7000, send(1, 5, Ok(2))),
        at(7000, send(1, 3, would_block)),
        at(7000, send(1, 3, Ok(3))),
        at(7000, Event::Accept(LISTENER, Err(Fault::WOULD_BLOCK))),
        at(7000, Event::Shutdown(stream, Ok(()))),
        at(7000, Event::Close(stream, Close::Orderly)),
        at(7000, Event::Note(Note::Closed(named(1), CloseReason::PeerFinished))),
    ];
    let (json, left_out) = finished(Perfetto::new(), steps);
    assert_eq!(left_out, 0);
    let expected = [
        "0 X 1.1 poll, 4000",
        "4000 X 1.1 turn 1, 999",
        "4006 X 1.1 c1, 992",
        "4009 X 1.1 accept(listener 0) = c1, 3",
        "4009 b 2.3 c1",
        "4010 X 2.3 handshake, 2014",
        "4011 i 2.3 accept(listener 0) = c1",
        "4017 X 1.1 register(c1, as #1) = ok, 3",
        "4018 i 2.3 register(c1, as #1) = ok",
        "4024 X 1.1 send(c1, 33 bytes) = 32, 3",
        "4025 i 2.3 send(c1, 33 bytes) = 32",
        "4025 C 2 c1 unsent, 1",
        "4031 X 1.1 send(c1, 1 bytes) = 1, 3",
        "4032 i 2.3 send(c1, 1 bytes) = 1",
        "4032 C 2 c1 unsent, 0",
        "5000 X 1.1 poll, 1000",
        "6000 X 1.1 turn 2, 86",
        "6006 X 1.1 event c1, 3",
        "6007 s 1.1 event 1",
        "6012 X 1.1 c1, 39",
        "6015 X 1.1 recv(c1, 9 bytes) = 5, 3",
        "6016 f 1.1 event 1",
        "6016 i 2.3 recv(c1, 9 bytes) = 5",
        "6022 X 1.1 note: #1 authenticated, 3",
        "6023 i 2.3 note: #1 authenticated",
        "6024 X 2.3 authenticated, 8",
        "6030 X 1.1 send(c1, 5 bytes) = 2, 3",
        "6031 i 2.3 send(c1, 5 bytes) = 2",
        "6031 C 2 c1 unsent, 3",
        "6032 X 2.3 sending, 15",
        "6038 X 1.1 send(c1, 3 bytes) = would block, 3",
        "6039 i 2.3 send(c1, 3 bytes) = would block",
        "6039 C 2 c1 unsent, 3",
        "6045 X 1.1 send(c1, 3 bytes) = 3, 3",
        "6046 i 2.3 send(c1, 3 bytes) = 3",
        "6046 C 2 c1 unsent, 0",
        "6047 X 2.3 authenticated, 20",
        "6056 X 1.1 accept(listener 0) = would block, 3",
        "6062 X 1.1 c1, 23",
        "6065 X 1.1 shutdown(c1) = ok, 3",
        "6066 i 2.3 shutdown(c1) = ok",
        "6067 X 2.3 half-closed, 8",
        "6073 X 1.1 close(c1), 3",
        "6074 i 2.3 close(c1)",
        "6075 e 2.3 c1",
        "6081 X 1.1 note: #1 ended: peer finished, 3",
    ];
    assert_eq!(drawn(&json), expected);
}

/// What happens before the first turn, and what a client does, is no part of the loop's track. Nothing
/// follows on a track that is over.
#[test]
fn in_a_simulation_a_step_takes_ten_microseconds() {
    let reads = |stream| Event::World(World::Reads(Stream(stream), 3));
    let sends = World::Sends { stream: Stream(1), taken: 5, offered: 5 };
    let events = [
        accept(1),
        register(1),
        accept(2),
        register(2),
        Event::Poll(None),
        Event::World(sends),
        ready(1),
        ready(2),
        clock(0),
        recv(1, Ok(5)),
        recv(2, Ok(4)),
        recv(2, Err(Fault::WOULD_BLOCK)),
        reads(2),
        Event::Close(Stream(1), Close::Orderly),
        reads(1),
    ];
    let (json, _) = finished(Perfetto::by_step(), events.map(|event| at(0, event)));
    let expected = [
        "0 b 2.3 c1",
        "1 X 2.3 handshake, 130045",
        "2 i 2.3 accept(listener 0) = c1",
        "10006 i 2.3 register(c1, as #1) = ok",
        "20009 b 2.4 c2",
        "20010 X 2.4 handshake, 120049",
        "20011 i 2.4 accept(listener 0) = c2",
        "30015 i 2.4 register(c2, as #2) = ok",
        "40015 X 1.1 poll, 40004",
        "50019 i 2.3 no call of the loop",
        "80019 X 1.1 turn 1, 60032",
        "80025 X 1.1 event c1, 3",
        "80026 s 1.1 event 1",
        "80031 X 1.1 event c2, 3",
        "80032 s 1.1 event 2",
        "90031 X 1.1 c1, 10002",
        "90034 X 1.1 recv(c1, 9 bytes) = 5, 3",
        "90035 f 1.1 event 1",
        "90035 i 2.3 recv(c1, 9 bytes) = 5",
        "100035 X 1.1 c2, 30004",
        "100038 X 1.1 recv(c2, 9 bytes) = 4, 3",
        "100039 f 1.1 event 2",
        "100039 i 2.4 recv(c2, 9 bytes) = 4",
        "110039 X 1.1 recv(c2, 9 bytes) = would block, 3",
        "110040 i 2.4 recv(c2, 9 bytes) = would block",
        "120041 i 2.4 no call of the loop",
        "130041 X 1.1 c1, 10009",
        "130044 X 1.1 close(c1), 3",
        "130045 i 2.3 close(c1)",
        "130046 e 2.3 c1",
        "140059 e 2.4 c2",
    ];
    assert_eq!(drawn(&json), expected);
}

#[test]
fn a_connection_of_a_snapshot_begins_in_its_state() {
    for (state, unsent, expected) in [
        (State::AwaitHeader, 0, vec!["handshake"]),
        (State::AwaitDigest, 0, vec!["handshake"]),
        (State::Echoing, 0, vec!["handshake", "authenticated"]),
        (State::Echoing, 1, vec!["handshake", "sending"]),
        (State::Finishing, 0, vec!["handshake", "authenticated"]),
        (State::Lingering, 0, vec!["handshake", "half-closed"]),
    ] {
        let presence = Presence { id: named(4), ready: Ready::NONE, state, unsent };
        let snapshot = Event::Snapshot { turns: 7, at: Monotonic::ZERO, connections: 1 };
        let steps = [at(0, snapshot), at(0, Event::Present(Stream(4), presence))];
        let lines = drawn(&finished(Perfetto::new(), steps).0);
        let states: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.split_once(" X 2.6 ")?.1.split_once(", "))
            .map(|(state, _)| state)
            .collect();
        assert_eq!(states, expected, "{state:?}, {unsent} bytes unsent");
    }
}

#[test]
fn the_unsent_bytes_of_the_first_thirty_connections_are_drawn() {
    let calls = (1..=31).flat_map(|number| [accept(number), send(number.into(), 1, Ok(0))]);
    let (json, _) = finished(Perfetto::new(), calls.map(|event| at(0, event)));
    let lines = drawn(&json);
    let counters = lines.iter().filter_map(|line| Some(line.split_once(" C 2 ")?.1.to_owned()));
    let expected: Vec<String> = (1..=30).map(|number| format!("c{number} unsent, 1")).collect();
    assert_eq!(counters.collect::<Vec<_>>(), expected);
}

#[test]
fn a_trace_has_a_hundred_thousand_events_at_most() {
    // The poll is one event, the first accept four, each recv two. Of the last recv one event has room.
    let calls = 49_998;
    let begin = [Event::Poll(None), clock(0), accept(1)];
    let received = std::iter::repeat_n(recv(1, Ok(1)), calls);
    let events = begin.into_iter().chain(received).chain([accept(2)]);
    let (json, left_out) = finished(Perfetto::new(), events.map(|event| at(0, event)));
    // One event of the last recv; three of the second accept (its call on two tracks, and the beginning of one);
    // the turn and two shares in it; the state and the end of each of two connections.
    assert_eq!(left_out, 1 + 3 + 3 + 4);
    // The first line, the names of the loop and of both groups, and the last.
    assert_eq!(json.lines().count(), 1 + 3 + 100_000 + 1);
    assert!(!json.ends_with(",\n]}\n"));
}

#[test]
fn text_is_quoted_by_the_rules_of_json() {
    for (text, quoted_text) in [
        ("recv(c1, 9 bytes)", r#""recv(c1, 9 bytes)""#),
        (r#"a "word" \"#, r#""a \"word\" \\""#),
        ("\n\u{1f} \u{7f}", "\"\\u000a\\u001f \u{7f}\""),
        ("\u{2027}\u{2028}\u{2029}", "\"\u{2027}\\u2028\\u2029\""),
    ] {
        assert_eq!(quoted(text), quoted_text);
    }
}
