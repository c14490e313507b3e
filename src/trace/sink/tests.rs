use std::sync::mpsc;
use std::time::Instant;

use super::*;
use crate::trace::chunk;

const HEADER: &[u8] = b"saltecho";

/// The files that were written, and how often one was flushed.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<Vec<u8>>, usize)>>);

impl Disk {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((vec![Vec::new()], 0))))
    }

    fn files(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().0.clone()
    }

    fn flushes(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().0.last_mut().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().1 += 1;
        Ok(())
    }
}

impl Segments for Disk {
    fn begin_next(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().0.push(Vec::new());
        Ok(())
    }
}

/// A sink whose thread is the test's own.
fn file() -> FileSink {
    FileSink { shared: Arc::default(), thread: None, kept: Vec::new() }
}

impl Sink {
    /// A sink to a file without the thread that writes it, for tests of the code that fills the sink.
    pub(in crate::trace) fn without_thread() -> Self {
        Self::File(file())
    }

    /// Does something while the thread holds the lock.
    pub(in crate::trace) fn when_busy(&self) -> impl Fn(&mut dyn FnMut()) + use<> {
        let Self::File(file) = self else { panic!("memory has no thread") };
        let shared = Arc::clone(&file.shared);
        move |act| {
            let _busy = shared.lock();
            act();
        }
    }
}

/// What its thread runs, behind the first lines of a file.
fn writer<W: Segments>(sink: &FileSink, mut output: W, limit: Limit) -> Writer<W> {
    output.write_all(HEADER).unwrap();
    let written = HEADER.len() as u64;
    Writer { output, written, before: 0, limit, shared: Arc::clone(&sink.shared) }
}

#[test]
fn a_recording_is_whole_once_its_end_was_waited_for() {
    let disk = Disk::new();
    let on_end = Box::new(|why: &str| panic!("it ends before its loop: {why}"));
    let file = FileSink::start(disk.clone(), HEADER, None, on_end).unwrap();
    Sink::File(file).finish(b"turn", "", true);
    let end = [&b"turn"[..], &[kind::END, 0]].concat();
    assert_eq!(disk.files(), [[HEADER, &chunk(&end)].concat()]);
    assert_eq!(disk.flushes(), 1);
}

#[test]
fn turns_that_wait_together_become_one_chunk() {
    let (mut sink, disk) = (file(), Disk::new());
    let mut turn = b"one".to_vec();
    sink.push(&mut turn).unwrap();
    assert_eq!(turn, b"", "it was taken");
    sink.push(&mut b"two".to_vec()).unwrap();
    sink.finish(b"three", b"end", false);
    writer(&sink, Single(disk.clone()), Limit::None).run().unwrap();
    assert_eq!(disk.files(), [[HEADER, &chunk(b"onetwothreeend")].concat()]);
}

#[test]
fn a_recording_ends_when_more_than_16_mib_wait_for_the_disk() {
    let mut sink = file();
    sink.push(&mut vec![0; 16 << 20]).unwrap();
    let mut more = vec![0];
    assert_eq!(sink.push(&mut more), Err("the disk is too slow".to_owned()));
    assert_eq!(more, [0], "it was not taken");
}

#[test]
fn a_file_has_room_for_its_end_mark_at_its_limit() {
    // The first lines, two chunks with their heads, and the room.
    let limit: u64 = 8 + 108 + 58 + 64;
    let why = "its limit is reached";
    for (limit, second) in [(limit, Ok(())), (limit - 1, Err(why.to_owned()))] {
        let disk = Disk::new();
        let mut writer = writer(&file(), Single(disk.clone()), Limit::End(limit));
        writer.write(&[1; 100]).unwrap();
        assert_eq!(writer.write(&[2; 50]), second, "{limit}");
        let last = if second.is_ok() { vec![2; 50] } else { end_record(why) };
        assert_eq!(disk.files(), [[HEADER, &chunk(&[1; 100]), &chunk(&last)].concat()]);
    }
}

#[test]
fn the_last_two_segments_of_a_ring_are_no_longer_than_its_limit_with_their_marks() {
    // The first file, with a chunk and the mark that it goes on; what is in the second; the room.
    let limit: u64 = 8 + 108 + 9 + 40 + 58 + 64;
    let why = "its limit is too small for what happens in a turn";
    for (limit, fits) in [(limit, true), (limit - 1, false)] {
        let disk = Disk::new();
        let mut writer = writer(&file(), disk.clone(), Limit::Ring(limit));
        writer.write(&[1; 100]).unwrap();
        writer.begin_next(&[3; 40]).unwrap();
        let mut second = vec![3; 40];
        if fits {
            writer.write(&[2; 50]).unwrap();
            second.extend(chunk(&[2; 50]));
        }
        assert_eq!(writer.write(&[4; 50]), Err(why.to_owned()));
        second.extend(chunk(&end_record(why)));
        let first = [HEADER, &chunk(&[1; 100]), &chunk(&[kind::GOES_ON])].concat();
        assert!((first.len() + second.len()) as u64 <= limit);
        assert_eq!(disk.files(), [first, second]);
    }
}

#[test]
fn the_next_segment_goes_to_the_thread_with_the_turn_behind_it() {
    let disk = Disk::new();
    let mut sink = Sink::without_thread();
    assert!(!sink.has_kept());
    sink.begin_next(&mut Vec::new(), b"second".to_vec());
    assert!(sink.has_kept());
    sink.push(&mut b"turn".to_vec()).unwrap();
    assert!(!sink.has_kept());
    sink.finish(b"", "", false);
    let Sink::File(file) = &sink else { unreachable!() };
    writer(file, disk.clone(), Limit::None).run().unwrap();
    // There was no turn before it, so there is no chunk for one.
    let first = [HEADER, &chunk(&[kind::GOES_ON])].concat();
    let second = [&b"second"[..], &chunk(&[&b"turn"[..], &[kind::END, 0]].concat())].concat();
    assert_eq!(disk.files(), [first, second]);
    assert_eq!(disk.flushes(), 2, "each file once");
}

#[test]
fn a_recording_that_is_no_ring_has_no_next_segment() {
    let mut writer = writer(&file(), Single(Disk::new()), Limit::None);
    assert_eq!(writer.begin_next(b"second"), Err("unsupported".to_owned()));
}

/// So that the loop never waits for it.
#[test]
fn a_turn_that_finds_the_thread_at_work_is_handed_over_with_the_next() {
    let mut sink = Sink::without_thread();
    let mut turns = b"one".to_vec();
    sink.when_busy()(&mut || assert_eq!(sink.push(&mut turns), Ok(())));
    assert_eq!(turns, b"one");
    turns.extend_from_slice(b"two");
    sink.push(&mut turns).unwrap();
    assert_eq!(turns, b"");
    let Sink::File(file) = &sink else { unreachable!() };
    assert_eq!(file.shared.lock().bytes, 6);
}

/// It waits for a fifth of a second, so that it does not write every turn by itself.
#[test]
fn an_idle_thread_is_woken_by_a_turn_and_waits_for_more_of_them() {
    let mut sink = file();
    let writer = writer(&sink, Disk::new(), Limit::None);
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(writer.wait()));
    while !sink.shared.lock().idle && !thread.is_finished() {
        thread::yield_now();
    }
    let (before, mut turn) = (Instant::now(), b"turn".to_vec());
    while !turn.is_empty() {
        sink.push(&mut turn).unwrap();
    }
    let (parts, done) = receiver.recv_timeout(Duration::from_secs(20)).expect("it is woken");
    assert!(matches!(&parts[..], [Part::Turns(bytes)] if bytes == b"turn"), "{parts:?}");
    assert!(!done && before.elapsed() >= Duration::from_millis(200));
}

#[test]
fn memory_has_chunks_of_64_kib() {
    let memory = Arc::new(Mutex::new(HEADER.to_vec()));
    let mut sink = Sink::Memory { chunk: Vec::new(), file: Arc::clone(&memory) };
    sink.push(&mut vec![1; (64 << 10) - 1]).unwrap();
    assert!(*memory.lock().unwrap() == HEADER);
    sink.push(&mut vec![1]).unwrap();
    let whole = [HEADER, &chunk(&vec![1; 64 << 10])].concat();
    assert!(*memory.lock().unwrap() == whole);
    sink.finish(&[2], "", true);
    let end = chunk(&[2, kind::END, 0]);
    assert!(*memory.lock().unwrap() == [whole, end].concat());
}
