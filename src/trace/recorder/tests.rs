use std::io::Cursor;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use super::*;
use crate::auth::MacAlgorithm;
use crate::proto::ConnId;
use crate::reactor::{AdminAddress, AdminListener, MioKernel};
use crate::trace::encode::{Encoder, encoded};
use crate::trace::{Reader, ReplayKernel, chunk, replay_key};

const C1: Stream = Stream(1);
const L0: Subject = Subject::Listener(0);
const ID: ConnId = ConnId { index: 0, generation: 1 };

type Recording<K> = (Recorder<K>, Arc<Mutex<Vec<u8>>>);

/// Records a kernel that gives the answers of these events.
fn recording(options: RecordOptions, events: &[u8]) -> Recording<ReplayKernel<Cursor<Vec<u8>>>> {
    let script = [Header::new().to_bytes(), chunk(events)].concat();
    let (kernel, _) = ReplayKernel::new(Reader::new(Cursor::new(script)).unwrap());
    Recorder::to_memory(kernel, options)
}

fn speaking(protocol: &str) -> RecordOptions {
    let header = Header::new().with("settings", format!("protocol={protocol}"));
    RecordOptions { header, keeps_payload: true, ..RecordOptions::default() }
}

/// The events of a recording that has ended.
fn events(file: &Mutex<Vec<u8>>) -> Vec<Event> {
    let file = file.lock().unwrap().clone();
    let mut reader = Reader::new(&file[..]).unwrap();
    std::iter::from_fn(|| reader.next_step().unwrap().map(|step| step.event)).collect()
}

#[test]
fn signals_are_passed_on_and_recorded() {
    let script = [Event::Poll(None), Event::Signal(Some(15)), Event::Signal(None)];
    let (mut recorder, file) = recording(RecordOptions::default(), &encoded(&script));
    recorder.poll(None, |_, _| {}).unwrap();
    assert_eq!(recorder.next_signal(), Some(15));
    assert_eq!(recorder.next_signal(), None);
    drop(recorder);
    assert_eq!(events(&file), script);
}

#[test]
fn a_recorder_asks_its_kernel_for_signals_and_for_figures_of_the_process() {
    let mut recorder = Recorder::off(MioKernel::new(16).unwrap());
    let error = recorder.catch_signals(&[libc::SIGKILL]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(recorder.process().is_some());
}

/// What a killed process leaves is all but its last turns.
#[test]
fn a_recording_grows_between_two_turns() {
    let polls = [Event::Poll(None), Event::Poll(None), Event::Signal(None)];
    let (mut recorder, file) = recording(RecordOptions::default(), &encoded(&polls));
    let begin = file.lock().unwrap().len();
    recorder.poll(None, |_, _| {}).unwrap();
    recorder.note(|| Note::Command("x".repeat(64 << 10)));
    assert_eq!(file.lock().unwrap().len(), begin);
    recorder.poll(None, |_, _| {}).unwrap();
    assert!(file.lock().unwrap().len() > begin + (64 << 10));
}

/// Only so can a replay compare what is sent. A frame's header is not payload, and is sent with it.
#[test]
fn what_is_sent_has_a_sum_where_payload_is_kept_and_there_are_no_frames() {
    let send = Event::Send { stream: C1, len: 5, result: Ok(5) };
    let accept = Event::Accept(L0, Ok((C1, None)));
    let script = encoded(&[Event::Poll(None), accept, send]);
    let without = RecordOptions { keeps_payload: false, ..speaking("plain") };
    let sum = crc32fast::hash(b"HELLO");
    for (options, expected) in [
        (speaking("plain"), Some(sum)),
        (speaking("tutorial"), Some(sum)),
        (speaking("multiprocessing"), None),
        (without, None),
    ] {
        let (mut recorder, file) = recording(options, &script);
        recorder.poll(None, |_, _| {}).unwrap();
        let (mut stream, _) = recorder.accept(&mut 0.into()).unwrap();
        assert_eq!(recorder.send(&mut stream, b"HELLO").unwrap(), 5);
        drop(recorder);
        let file = file.lock().unwrap().clone();
        let mut reader = Reader::new(&file[..]).unwrap();
        let sums = std::iter::from_fn(|| {
            reader.peek().unwrap()?;
            reader.take().map(|ahead| ahead.sum)
        });
        assert_eq!(sums.collect::<Vec<_>>(), [None, None, expected]);
    }
}

#[test]
fn the_verdict_that_is_sent_tells_whether_a_response_is_recorded_as_right() {
    let response = [&[0, 0, 0, 16][..], &[1; 16]].concat();
    let mut script = Encoder::default();
    let recv = Event::Recv { stream: C1, room: 64, result: Ok(20) };
    script.event(&Event::Poll(None));
    script.event(&Event::Accept(L0, Ok((C1, None))));
    script.event(&Event::Register(C1, Subject::Connection(ID), Ok(())));
    script.event(&recv);
    script.literal(&response);
    script.event(&Event::Send { stream: C1, len: 13, result: Ok(13) });
    let stand_in = MacAlgorithm::Md5.response_of_len(&replay_key(0), &[0; 20], 16).unwrap();
    let right = [&response[..4], stand_in.as_bytes()].concat();
    let mut wrong = right.clone();
    wrong[19] = !wrong[19];
    for (verdict, expected) in [(b"#WELCOME#", right), (b"#FAILURE#", wrong)] {
        let (mut recorder, file) = recording(speaking("multiprocessing"), &script.out);
        recorder.poll(None, |_, _| {}).unwrap();
        let (mut stream, _) = recorder.accept(&mut 0.into()).unwrap();
        recorder.register(&mut stream, Token::connection(ID)).unwrap();
        recorder.recv(&mut stream, &mut [0; 64]).unwrap();
        let frame = [&[0, 0, 0, 9][..], verdict].concat();
        recorder.send(&mut stream, &frame).unwrap();
        drop(recorder);
        let file = file.lock().unwrap().clone();
        let mut reader = Reader::new(&file[..]).unwrap();
        while reader.peek().unwrap().is_some_and(|ahead| ahead.event != recv) {
            reader.take();
        }
        let mut bytes = [0; 20];
        reader.take().unwrap().data.copy_to(&mut bytes, &mut Vec::new());
        assert_eq!(bytes[..], expected);
    }
}

/// Events that another loop's sockets would have here, if they were still watched.
fn reported(recorder: &mut Recorder<MioKernel>) -> usize {
    let mut count = 0;
    recorder.poll(Some(Duration::ZERO), |_, _| count += 1).unwrap();
    count
}

#[test]
fn sockets_move_through_a_recorder_and_leave_no_trace_in_its_file() {
    let own = MioKernel::new(16).unwrap();
    let (mut recorder, file) = Recorder::to_memory(own, RecordOptions::default());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let moved = OwnedFd::from(other.try_clone().unwrap());
    let mut listener = recorder.adopt_listener(recorder.share(&moved).unwrap()).unwrap();
    recorder.register_listener(&mut listener, Token::listener(0)).unwrap();
    let _peer = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    assert_eq!(reported(&mut recorder), 1);
    recorder.release_listener(listener);
    let _second = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    assert_eq!(reported(&mut recorder), 0);

    let (accepted, _) = other.accept().unwrap();
    let mut stream = recorder.adopt_stream(accepted.try_clone().unwrap().into());
    recorder.register(&mut stream, Token::connection(ID)).unwrap();
    assert_eq!(reported(&mut recorder), 1, "it is writable");
    recorder.release(stream);
    accepted.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(reported(&mut recorder), 0);
    drop(recorder);
    let of_streams = events(&file).into_iter().filter(|event| event.stream().is_some());
    assert_eq!(of_streams.collect::<Vec<_>>(), []);
}

#[test]
fn the_file_of_an_admin_endpoint_moves_through_a_recorder() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let mut recorder = Recorder::off(MioKernel::new(16).unwrap());
    let before = AdminListener::bind(&AdminAddress::Unix(path.clone())).unwrap();
    assert!(recorder.has_file(&before));
    recorder.release_admin_listener(before);
    assert!(path.exists(), "it is left to the loop that has taken over");
    std::fs::remove_file(&path).unwrap();

    let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let mut after = recorder.adopt_admin_listener(socket).unwrap();
    assert!(!recorder.has_file(&after));
    recorder.own_file(&mut after);
    assert!(recorder.has_file(&after));
    drop(after);
    assert!(!path.exists());
}
