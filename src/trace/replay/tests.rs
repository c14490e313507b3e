use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::proto::{CloseReason, ConnId};
use crate::trace::encode::{Encoder, encoded};
use crate::trace::{Header, chunk};

const C1: Stream = Stream(1);
const C2: Stream = Stream(2);
const ONE: ConnId = ConnId { index: 0, generation: 1 };
const TWO: ConnId = ConnId { index: 1, generation: 2 };
const L0: Subject = Subject::Listener(0);
const L1: Subject = Subject::Listener(1);
const EMFILE: Fault = Fault(libc::EMFILE);

type Replaying = ReplayKernel<Cursor<Vec<u8>>>;

fn replaying(header: &Header, events: &[u8]) -> (Replaying, StopSign) {
    let file = [header.to_bytes(), chunk(events)].concat();
    ReplayKernel::new(Reader::new(Cursor::new(file)).unwrap())
}

/// A kernel that is in a turn in which these events were recorded.
fn in_a_turn(events: &[u8]) -> (Replaying, StopSign) {
    let turn = [&encoded(&[Event::Poll(None)]), events].concat();
    let (mut kernel, sign) = replaying(&Header::new(), &turn);
    kernel.poll(None, |_, _| {}).unwrap();
    (kernel, sign)
}

/// Makes the call of an event, and returns it with the answer of the kernel.
fn made(kernel: &mut Replaying, call: &Event) -> Event {
    fn of<T>(result: io::Result<T>) -> Result<T, Fault> {
        result.map_err(|error| Fault::from(&error))
    }
    let mut buffer = [0; 64];
    match *call {
        Event::Poll(timeout) => {
            kernel.poll(timeout, |_, _| {}).unwrap();
            Event::Poll(timeout)
        }
        Event::Signal(_) => Event::Signal(kernel.next_signal()),
        Event::Listen(Subject::Listener(index), _) => {
            let result = kernel.register_listener(&mut 0, Token::listener(index));
            Event::Listen(Subject::Listener(index), of(result))
        }
        Event::Register(mut stream, Subject::Connection(id), _) => {
            let result = of(kernel.register(&mut stream, Token::connection(id)));
            Event::Register(stream, Subject::Connection(id), result)
        }
        Event::Accept(Subject::Listener(mut index), _) => {
            Event::Accept(Subject::Listener(index), of(kernel.accept(&mut index)))
        }
        Event::Shed(Subject::Listener(mut index), _) => {
            Event::Shed(Subject::Listener(index), of(kernel.shed(&mut index)))
        }
        Event::Recv { mut stream, room, .. } => {
            let result = of(kernel.recv(&mut stream, &mut buffer[..room]));
            Event::Recv { stream, room, result }
        }
        Event::Send { mut stream, len, .. } => {
            Event::Send { stream, len, result: of(kernel.send(&mut stream, &buffer[..len])) }
        }
        Event::Shutdown(mut stream, _) => Event::Shutdown(stream, of(kernel.shutdown(&mut stream))),
        Event::Close(stream, how) => {
            kernel.close(stream, how);
            Event::Close(stream, how)
        }
        Event::Liveness(mut stream, _) => Event::Liveness(stream, of(kernel.liveness(&mut stream))),
        Event::Probe(mut stream) => {
            kernel.probe(&mut stream);
            Event::Probe(stream)
        }
        Event::RandomBelow { limit, .. } => {
            Event::RandomBelow { limit, drawn: kernel.random_below(limit) }
        }
        Event::FillRandom(len, _) => {
            Event::FillRandom(len, of(kernel.fill_random(&mut buffer[..len])))
        }
        Event::Note(ref note) => {
            kernel.note(|| note.clone());
            call.clone()
        }
        ref other => panic!("{other} is no call"),
    }
}

/// Why the replay stops in this call.
fn stopped(kernel: &mut Replaying, sign: &StopSign, call: &Event) -> Option<Stop> {
    let done = catch_unwind(AssertUnwindSafe(|| made(kernel, call)));
    assert!(done.is_err(), "{call} is answered");
    sign.take()
}

/// Recorded calls with their answers, each with the same call with other arguments.
fn calls() -> Vec<(Event, Vec<Event>)> {
    let would_block = Err(Fault::WOULD_BLOCK);
    let peer = "192.0.2.1:0".parse().ok();
    let alive =
        Liveness { silent_for: Duration::from_secs(61), unanswered: 2, owes_acknowledgement: true };
    let named = Subject::Connection;
    let poll = |ms| Event::Poll(Some(Duration::from_millis(ms)));
    let recv = |stream, room, result| Event::Recv { stream, room, result };
    let send = |stream, len, result| Event::Send { stream, len, result };
    let below = |limit, drawn| Event::RandomBelow { limit, drawn };
    let note = Event::Note;
    vec![
        (poll(5), vec![poll(4), poll(6), Event::Poll(None)]),
        (Event::Poll(None), vec![poll(0), poll(5)]),
        (Event::Signal(Some(15)), vec![Event::Probe(C1)]),
        (Event::Listen(L1, Err(EMFILE)), vec![Event::Listen(L0, Ok(()))]),
        (
            Event::Register(C1, named(ONE), Err(EMFILE)),
            vec![Event::Register(C1, named(TWO), Ok(())), Event::Register(C2, named(ONE), Ok(()))],
        ),
        (
            Event::Accept(L1, Ok((C1, peer))),
            vec![Event::Accept(L0, would_block.map(|()| (C1, None)))],
        ),
        (Event::Accept(L0, Err(EMFILE)), vec![Event::Accept(L1, Err(EMFILE))]),
        (Event::Shed(L1, Err(EMFILE)), vec![Event::Shed(L0, Ok(()))]),
        (recv(C1, 8, Ok(5)), vec![recv(C2, 8, Ok(5)), recv(C1, 9, Ok(5))]),
        (recv(C1, 8, Err(EMFILE)), vec![send(C1, 8, Ok(8))]),
        (send(C1, 8, Ok(5)), vec![send(C2, 8, Ok(5)), send(C1, 7, Ok(5))]),
        (Event::Shutdown(C1, Err(EMFILE)), vec![Event::Shutdown(C2, Ok(()))]),
        (
            Event::Close(C1, Close::Orderly),
            vec![Event::Close(C1, Close::Reset), Event::Close(C2, Close::Orderly)],
        ),
        (Event::Liveness(C1, Ok(alive)), vec![Event::Liveness(C2, Ok(alive))]),
        (Event::Probe(C1), vec![Event::Probe(C2)]),
        (below(10, 3), vec![below(9, 3), below(11, 3)]),
        (Event::FillRandom(32, Ok(())), vec![Event::FillRandom(31, Ok(()))]),
        (Event::FillRandom(32, Err(EMFILE)), vec![Event::FillRandom(33, Ok(()))]),
        (note(Note::Due(ONE)), vec![note(Note::Due(TWO)), note(Note::Opened(ONE, None))]),
        (
            note(Note::Closed(ONE, CloseReason::Reset)),
            vec![note(Note::Closed(ONE, CloseReason::Killed))],
        ),
        (note(Note::Authenticated(ONE, None)), vec![note(Note::Authenticated(TWO, None))]),
        (note(Note::Proxied(ONE, None)), vec![note(Note::Proxied(TWO, None))]),
    ]
}

#[test]
fn every_call_has_the_answer_that_was_recorded() {
    for (recorded, _) in calls() {
        // A poll looks whether anything was reported.
        let (mut kernel, _) = in_a_turn(&encoded(&[recorded.clone(), Event::Signal(None)]));
        assert_eq!(made(&mut kernel, &recorded), recorded);
        assert_eq!(kernel.reader().step(), 2);
    }
}

#[test]
fn a_call_with_another_argument_is_a_difference() {
    for (recorded, others) in calls() {
        for other in others {
            let (mut kernel, sign) = in_a_turn(&encoded(std::slice::from_ref(&recorded)));
            let Some(Stop::Different(difference)) = stopped(&mut kernel, &sign, &other) else {
                panic!("{other} instead of {recorded}");
            };
            let (called, stream) = (other.call(), other.stream());
            let recorded = recorded.clone();
            assert_eq!(difference, Difference { turn: 1, step: 1, recorded, called, stream });
        }
    }
}

/// The deadlines of an admin endpoint are its own, and it is not replayed.
#[test]
fn a_poll_beside_an_admin_endpoint_may_have_had_less_leave_to_sleep() {
    let ms = |ms| Some(Duration::from_millis(ms));
    let header = Header::new().with("admin", "yes");
    for (recorded, called, is_same) in [
        (ms(5), ms(5), true),
        (ms(5), ms(6), true),
        (ms(5), None, true),
        (ms(5), ms(4), false),
        (None, None, true),
        (None, ms(5), false),
    ] {
        let (mut kernel, sign) = replaying(&header, &encoded(&[Event::Poll(recorded)]));
        // The end of the recording is behind the poll.
        let stop = stopped(&mut kernel, &sign, &Event::Poll(called)).unwrap();
        assert_eq!(matches!(stop, Stop::End), is_same, "{recorded:?}, {called:?}: {stop:?}");
    }
}

#[test]
fn a_poll_reports_what_was_recorded_and_may_fail() {
    let invalid = Fault(libc::EINVAL);
    let (mut kernel, _) = replaying(
        &Header::new(),
        &encoded(&[
            Event::Poll(None),
            Event::Ready(Subject::Wake, Ready::READABLE),
            Event::Ready(Subject::Signal, Ready::READABLE),
            Event::Ready(L1, Ready::READABLE),
            Event::Ready(Subject::Connection(TWO), Ready::WRITABLE),
            Event::PollFailed(invalid),
        ]),
    );
    let mut reported = Vec::new();
    let result = kernel.poll(None, |token, ready| reported.push((token, ready)));
    assert_eq!(Fault::from(&result.unwrap_err()), invalid);
    let expected = [
        (Token::WAKE, Ready::READABLE),
        (Token::SIGNAL, Ready::READABLE),
        (Token::listener(1), Ready::READABLE),
        (Token::connection(TWO), Ready::WRITABLE),
    ];
    assert_eq!(reported, expected);
}

#[test]
fn a_send_of_other_bytes_is_a_difference_where_payload_was_kept() {
    let recorded = Event::Send { stream: C1, len: 5, result: Ok(5) };
    let mut encoder = Encoder::default();
    encoder.sum(b"HELLO");
    encoder.event(&recorded);
    let (mut kernel, _) = in_a_turn(&encoder.out);
    assert_eq!(kernel.send(&mut { C1 }, b"HELLO").unwrap(), 5);
    let (mut kernel, sign) = in_a_turn(&encoder.out);
    let sent = catch_unwind(AssertUnwindSafe(|| kernel.send(&mut { C1 }, b"hello")));
    assert!(sent.is_err());
    let Some(Stop::Different(difference)) = sign.take() else { panic!("it is the same") };
    assert_eq!(difference.called, "send(c1, 5 bytes), with other bytes");
    assert_eq!((difference.recorded, difference.stream), (recorded, Some(C1)));
}

/// What the loop decides it decides again, so nothing but the causes is given to it.
#[test]
fn only_what_reached_the_loop_from_outside_is_repeated() {
    let inputs = [Note::Command("drain now".to_owned()), Note::Killed(ONE), Note::Tick(None)];
    let decision = Note::Closed(ONE, CloseReason::Killed);
    let notes = [&inputs[..], std::slice::from_ref(&decision)].concat();
    let events: Vec<Event> = notes.into_iter().map(Event::Note).collect();
    let (mut kernel, _) = in_a_turn(&encoded(&events));
    for input in inputs {
        // One that is lent does the same.
        assert_eq!(Kernel::replayed(&mut &mut kernel, |_| true), Some(input));
    }
    assert_eq!(kernel.replayed(|_| true), None);
    kernel.note(|| decision);
    assert_eq!(kernel.reader().step(), 5);
}

#[test]
fn a_snapshot_is_taken_where_one_was_recorded_and_has_to_succeed() {
    let timing = Event::Timing(Monotonic::from_nanos(5));
    let recorded = Event::Snapshot { turns: 1, at: Monotonic::from_nanos(5), connections: 0 };
    let (mut kernel, _) = in_a_turn(&encoded(&[timing.clone(), Event::Poll(None)]));
    assert!(!kernel.wants_snapshot());
    let (mut kernel, sign) = in_a_turn(&encoded(&[timing.clone(), timing, recorded.clone()]));
    assert!(kernel.wants_snapshot());
    let fails = |_: &mut dyn SnapshotTaker<Stream>| Err("a handler cannot be saved".to_owned());
    assert!(catch_unwind(AssertUnwindSafe(|| kernel.snapshot(fails))).is_err());
    let Some(Stop::Different(difference)) = sign.take() else { panic!("it is the same") };
    assert_eq!(difference.called, "snapshot: a handler cannot be saved");
    assert_eq!((difference.recorded, difference.stream), (recorded, None));
}
