//! Recordings in segments, all of which stay in memory, and their replay.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use saltecho::proto::Handler;
use saltecho::server::{Replay, Replayed};
use saltecho::sim::SimKernel;
use saltecho::trace::{Ending, Reader, RecordOptions, Recorder, Segments};

/// The segments so far; all of them once the recorder is dropped.
#[derive(Clone)]
pub struct Recorded(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().last_mut().expect("there is one").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Segments for Recorded {
    fn begin_next(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().push(Vec::new());
        Ok(())
    }
}

/// Records a kernel. The options have the limit of two segments.
pub fn record(kernel: SimKernel, options: RecordOptions) -> (Recorder<SimKernel>, Recorded) {
    let recorded = Recorded(Arc::new(Mutex::new(vec![Vec::new()])));
    let recorder = Recorder::to_segments(kernel, recorded.clone(), options, Box::new(|_| {}));
    (recorder.expect("memory takes all"), recorded)
}

impl Recorded {
    pub fn segments(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    /// Replays each segment from its start up to the end of the next, and all of them. Returns their
    /// number and that of all replayed turns.
    ///
    /// # Errors
    /// The first difference.
    pub fn replay<H: Handler + Clone>(
        &self,
        handler: impl Fn() -> H,
    ) -> Result<(usize, u64), String> {
        let segments = self.segments();
        let count = segments.len();
        let mut reader = reader(&segments)?;
        while reader.next_step().map_err(|error| error.to_string())?.is_some() {}
        match reader.ending() {
            Some(Ending::Complete) => {}
            // A snapshot, or a turn, may have found no room; perhaps the first.
            Some(Ending::Stopped(why)) if why.contains("its limit") => {
                if reader.turn() == 0 {
                    return Ok((0, 0));
                }
            }
            other => return Err(format!("it ends with {other:?}")),
        }
        let mut turns = replay(&segments, handler())?;
        for at in 0..count {
            let two = replay(&segments[at..count.min(at + 2)], handler());
            turns += two.map_err(|fault| format!("from {at} of {count}: {fault}"))?;
        }
        Ok((count, turns))
    }
}

/// Reads segments, each behind the one before.
fn reader(segments: &[Vec<u8>]) -> Result<Reader<&[u8]>, String> {
    let mut reader = Reader::new(&segments[0][..]).map_err(|error| error.to_string())?;
    for next in &segments[1..] {
        assert!(reader.follow(next), "it is the next segment");
    }
    Ok(reader)
}

/// Replays segments up to something else than a turn; returns the number of turns.
pub fn replay<H: Handler + Clone>(segments: &[Vec<u8>], handler: H) -> Result<u64, String> {
    let mut replay = Replay::new(reader(segments)?, handler)?;
    let mut turns = 0;
    loop {
        match replay.turn() {
            Replayed::Turn => turns += 1,
            Replayed::End => return Ok(turns),
            Replayed::Different(difference) => return Err(difference.to_string()),
            outcome => return Err(format!("{outcome:?}")),
        }
    }
}
