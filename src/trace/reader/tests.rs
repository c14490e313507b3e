use std::io;
use std::time::Duration;

use super::*;
use crate::proto::{ConnId, State};
use crate::reactor::{Presence, Ready};
use crate::trace::chunk;
use crate::trace::encode::{Encoder, encoded, kind};
use crate::trace::file::end_record;

const C1: Stream = Stream(1);
const C2: Stream = Stream(2);

fn file(header: &Header, chunks: &[&[u8]]) -> Vec<u8> {
    let mut file = header.to_bytes();
    for bytes in chunks {
        file.extend(chunk(bytes));
    }
    file
}

fn of_run(run: &str, segment: u64) -> Header {
    Header::new().with("run", run).with("segment", segment.to_string())
}

fn at(nanos: u64) -> Monotonic {
    Monotonic::from_nanos(nanos)
}

fn poll() -> Event {
    Event::Poll(Some(Duration::ZERO))
}

/// A snapshot after so many turns, with one connection.
fn snapshot(turns: u64) -> [Event; 2] {
    let id = ConnId { index: 0, generation: 1 };
    let presence = Presence { id, ready: Ready::READABLE, state: State::Echoing, unsent: 0 };
    [Event::Snapshot { turns, at: at(50), connections: 1 }, Event::Present(C1, presence)]
}

/// All steps, with what the reader knows after each: its turn and its step.
fn all<R: Read>(reader: &mut Reader<R>) -> Vec<(u64, Event, u64, u64)> {
    let mut steps = Vec::new();
    while let Some(step) = reader.next_step().unwrap() {
        steps.push((step.at.as_nanos(), step.event, reader.turn(), reader.step()));
    }
    steps
}

#[test]
fn steps_have_the_time_of_the_last_reading_of_the_clock() {
    let (clock, timing) = (Event::Clock(at(5)), Event::Timing(at(9)));
    let why = "its limit is reached";
    let file = file(
        &Header::new(),
        &[
            &encoded(&[poll(), clock.clone(), timing.clone()]),
            &encoded(&[poll()]),
            &end_record(why),
        ],
    );
    let mut reader = Reader::new(&file[..]).unwrap();
    let steps = [(0, poll(), 1, 1), (5, clock, 1, 2), (9, timing, 1, 3), (9, poll(), 2, 4)];
    assert_eq!(all(&mut reader), steps);
    assert_eq!(reader.ending(), Some(&Ending::Stopped(why.to_owned())));
}

#[test]
fn only_the_snapshot_that_a_recording_begins_with_is_told() {
    let goes_on = [encoded(&[poll()]), vec![kind::GOES_ON]].concat();
    let [first, present] = snapshot(40);
    let begins = encoded(&[first.clone(), present.clone(), poll()]);
    let next = encoded(&[&snapshot(41)[..], &[poll()]].concat());
    let segments = [
        file(&of_run("a", 2), &[&begins]),
        file(&of_run("a", 3), &[&next]),
        file(&of_run("a", 4), &[&goes_on]),
    ];
    let mut reader = Reader::new(&segments[0][..]).unwrap();
    assert!(reader.follow(&segments[1]) && reader.follow(&segments[2]));
    let steps = [
        (50, first, 40, 0),
        (50, present, 40, 0),
        (50, poll(), 41, 1),
        (50, poll(), 42, 2),
        (50, poll(), 43, 3),
    ];
    assert_eq!(all(&mut reader), steps);
    assert_eq!(reader.ending(), Some(&Ending::Cut), "the next segment is not there");
}

#[test]
fn a_segment_is_followed_by_the_next_one_of_its_run() {
    let whole = Header::new().with("run", "a");
    for (next, follows) in [
        (of_run("a", 3), true),
        (of_run("a", 2), false),
        (of_run("a", 4), false),
        (of_run("b", 3), false),
        (whole.clone(), false),
    ] {
        let (first, next) = (file(&of_run("a", 2), &[]), file(&next, &[]));
        assert_eq!(Reader::new(&first[..]).unwrap().follow(&next), follows);
    }
    let (one, other) = (file(&whole, &[]), file(&whole, &[]));
    assert!(!Reader::new(&one[..]).unwrap().follow(&other), "they are no segments");
    assert!(!Reader::new(&one[..]).unwrap().follow(&b"something else"[..]));
}

/// The damage that a reader comes upon: its turn, its step, the place in the file, segments before it.
fn damage<R: Read>(reader: &mut Reader<R>) -> (u64, Option<u64>, u64, usize) {
    loop {
        match reader.next_step() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with {:?}", reader.ending()),
            Err(ReadError::Damaged { turn, step, offset, segment }) => {
                return (turn, step, offset, segment);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn one_changed_byte_is_found_with_its_step_and_more_with_their_chunk() {
    let begin = Header::new().to_bytes().len();
    let polls = |count| encoded(&vec![poll(); count]);
    let after_snapshot = encoded(&[&snapshot(40)[..], &[poll(), poll()]].concat());
    let end = after_snapshot.len();
    for (chunks, changes, expected) in [
        // The bit was not there, so that no event has this kind.
        ([polls(3), polls(5)], &[(11 + 8 + 2, 0x80)][..], (6, Some(6), 11 + 8 + 2)),
        // The bit was there.
        ([polls(3), polls(5)], &[(11 + 8 + 2, 0x02)], (6, Some(6), 11 + 8 + 2)),
        ([polls(3), polls(5)], &[(11 + 8, 0x80), (11 + 9, 0x80)], (3, None, 11)),
        // The sum itself.
        ([polls(3), polls(5)], &[(11 + 4, 0x80)], (3, None, 11)),
        ([polls(3), after_snapshot], &[(11 + 8 + end - 1, 0x80)], (42, Some(5), 11 + 8 + end - 1)),
    ] {
        let mut file = file(&Header::new(), &[&chunks[0], &chunks[1]]);
        for (place, bits) in changes {
            file[begin + place] ^= bits;
        }
        let (turn, step, offset) = expected;
        let offset = (begin + offset) as u64;
        assert_eq!(damage(&mut Reader::new(&file[..]).unwrap()), (turn, step, offset, 0));
    }
}

#[test]
fn damage_is_found_in_the_segment_where_it_is() {
    let whole = encoded(&[poll()]);
    let segments: Vec<_> = (1..=3).map(|segment| file(&of_run("a", segment), &[&whole])).collect();
    let mut last = segments[2].clone();
    let place = last.len() - 1;
    last[place] ^= 1;
    let mut reader = Reader::new(&segments[0][..]).unwrap();
    assert!(reader.follow(&segments[1]) && reader.follow(&last));
    assert_eq!(damage(&mut reader), (3, Some(3), place as u64, 2));
}

/// What is in no file does not become memory.
#[test]
fn a_chunk_has_at_most_64_mib() {
    let begin = Header::new().to_bytes();
    let with_len = |len: u32| [&begin[..], &len.to_le_bytes(), &[0; 4]].concat();
    let longest = with_len(64 << 20);
    let mut reader = Reader::new(&longest[..]).unwrap();
    assert_eq!(all(&mut reader), []);
    assert_eq!(reader.ending(), Some(&Ending::Cut), "its bytes are missing");
    let longer = with_len((64 << 20) + 1);
    let damage = damage(&mut Reader::new(&longer[..]).unwrap());
    assert_eq!(damage, (0, None, begin.len() as u64, 0));
}

/// The late bytes of a stream.
fn late(stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.late(stream.0, bytes);
    encoder.out
}

/// Bytes of a file that were not read.
fn unread(reader: &Reader<&[u8]>) -> usize {
    reader.input.len()
}

#[test]
fn late_bytes_are_looked_for_no_farther_than_to_where_they_are() {
    let chunks = [encoded(&[poll()]), late(C1, b"one"), late(C2, b"two"), encoded(&[poll()])];
    let file = file(&Header::new(), &[&chunks[0], &chunks[1], &chunks[2], &chunks[3]]);
    let mut reader = Reader::new(&file[..]).unwrap();
    reader.peek().unwrap();
    let behind_first: usize = chunks[1..].iter().map(|chunk| 8 + chunk.len()).sum();
    assert_eq!(unread(&reader), behind_first);
    // The second search ends where the first has found the stream.
    for _ in 0..2 {
        let found = reader.late([C1].into()).unwrap();
        assert_eq!(found, [(C1, b"one".to_vec())].into());
        assert_eq!(unread(&reader), behind_first - 8 - chunks[1].len());
    }
    let found = reader.late([C1, C2].into()).unwrap();
    assert_eq!(found, [(C1, b"one".to_vec()), (C2, b"two".to_vec())].into());
    assert_eq!(unread(&reader), 8 + chunks[3].len());
    assert_eq!(reader.late([Stream(3)].into()).unwrap(), BTreeMap::new());
    let steps = [(0, poll(), 1, 1), (0, poll(), 2, 2)];
    assert_eq!(all(&mut reader), steps, "what was read ahead is not lost");
}

/// They are not decoded yet, so that their steps are not known.
#[test]
fn damage_ahead_is_that_of_a_chunk() {
    let chunks = [encoded(&[poll()]), late(C1, b"one")];
    let mut file = file(&Header::new(), &[&chunks[0], &chunks[1]]);
    *file.last_mut().unwrap() ^= 1;
    let mut reader = Reader::new(&file[..]).unwrap();
    reader.next_chunk().unwrap();
    let error = reader.late([C1].into()).unwrap_err();
    let place = file.len() - 8 - chunks[1].len();
    assert_eq!(
        error.to_string(),
        format!("the recording is damaged after turn 0, in the chunk at byte {place}")
    );
}

#[test]
fn no_more_than_the_longest_chunk_is_read_ahead() {
    let one = encoded(&[poll()]);
    for (len, more) in [((64 << 20) - 1, true), (64 << 20, false)] {
        let file = file(&Header::new(), &[&one, &one]);
        let mut reader = Reader::new(&file[..]).unwrap();
        reader.peek().unwrap();
        // Of another stream, with a head of six bytes.
        let ahead = late(C2, &vec![0; len - 6]);
        assert_eq!(ahead.len(), len);
        reader.chunks_ahead.push_back(ahead);
        assert_eq!(reader.late([C1].into()).unwrap(), BTreeMap::new());
        assert_eq!(unread(&reader) == 0, more, "{len}");
    }
}

/// A file whose reads have these outcomes, one after the other.
struct Reads(VecDeque<io::Result<Vec<u8>>>);

impl Read for Reads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut bytes) = self.0.pop_front().transpose()? else { return Ok(0) };
        let taken = buffer.len().min(bytes.len());
        buffer[..taken].copy_from_slice(&bytes[..taken]);
        let rest = bytes.split_off(taken);
        if !rest.is_empty() {
            self.0.push_front(Ok(rest));
        }
        Ok(taken)
    }
}

#[test]
fn a_read_that_was_interrupted_goes_on_and_any_other_error_is_told() {
    let file = file(&Header::new(), &[&encoded(&[poll(), poll()])]);
    let begin = Header::new().to_bytes().len();
    for cut in [3, begin, begin + 3, begin + 9] {
        let steps = |fault: io::ErrorKind| {
            let (before, after) = file.split_at(cut);
            let reads = [Ok(before.to_vec()), Err(fault.into()), Ok(after.to_vec())];
            let mut reader = Reader::new(Reads(reads.into()))?;
            let mut steps = 0;
            while reader.next_step()?.is_some() {
                steps += 1;
            }
            Ok::<_, ReadError>(steps)
        };
        assert_eq!(steps(io::ErrorKind::Interrupted).unwrap(), 2, "{cut}");
        let error = steps(io::ErrorKind::PermissionDenied).unwrap_err();
        assert_eq!(error.to_string(), "the recording cannot be read: permission denied");
    }
}
