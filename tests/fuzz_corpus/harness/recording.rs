//! Recordings of unknown origin.

use saltecho::auth::Keyring;
use saltecho::proto::{Config, Upper};
use saltecho::server::{Limits, Replay, Replayed, recording_header};
use saltecho::sim::{Faults, SimKernel};
use saltecho::trace::{Narrator, Perfetto, Reader, RecordOptions, Recorder, chunk};

/// Reads the input as a whole file if its first byte is zero, else as the events of a chunk: of a segment
/// that begins with a snapshot if the byte is 2. It is told, drawn and replayed: the loop survives whatever
/// answers and whatever state it gets.
pub fn recording(input: &[u8]) {
    let file = match input {
        [] => return,
        [0, file @ ..] => file.to_vec(),
        [kind, events @ ..] => {
            let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(8));
            let header = recording_header(&config, &limits, &[], &[], &[false]);
            let header = match kind {
                2 => header.with("run", "0").with("segment", "2"),
                _ => header,
            };
            let options = RecordOptions { header, ..RecordOptions::default() };
            let (_, begin) = Recorder::to_memory(SimKernel::new(1, Faults::none()), options);
            let begin = begin.lock().unwrap().clone();
            // Without the end that the recorder has written when it was dropped.
            let end = begin.windows(2).position(|two| two == b"\n\n").expect("it has a header") + 2;
            [&begin[..end], &chunk(events)].concat()
        }
    };
    let Ok(mut reader) = Reader::new(&file[..]) else { return };
    let (mut narrator, mut trace) = (Narrator::new(), Perfetto::new());
    while let Ok(Some(step)) = reader.next_step() {
        assert!(!narrator.line(&step).is_empty());
        trace.step(&step, true);
    }
    assert!(trace.finish().0.ends_with("]}\n"));
    let reader = Reader::new(&file[..]).expect("it was read before");
    let Ok(mut replay) = Replay::new(reader, Upper) else { return };
    loop {
        match replay.turn() {
            Replayed::Turn => {}
            Replayed::Panicked(message) => panic!("{message}"),
            _ => return,
        }
    }
}
