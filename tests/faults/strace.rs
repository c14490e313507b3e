//! Injected errors: strace makes the system calls of the running program fail.
//!
//! Each cell is an error that a call is known to give, in one of four schedules. In each the
//! program must keep running, must not spin, must not leak a descriptor, and clients must receive
//! only the answers to their own input. `cargo test` runs a part; `SALTECHO_FAULTS=all cargo test
//! --test faults strace -- --nocapture` runs all and prints the table, for the test build or the
//! one that SALTECHO_PROGRAM names.
//!
//! Three traps: an injected error *skips* the call, so a failed `close` leaks the descriptor
//! because of the injection; a faked "would block" would strand a healthy socket, so EAGAIN is
//! injected only into `getrandom`; and detaching in the middle of an injected call turns its error
//! into ENOSYS, so calls stop failing, or being made, before strace detaches.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::*;
use crate::common::needs::STRACE;
use crate::common::program::*;
use crate::common::strace::*;

/// The calls and the errors they are known to give (from accept(2) and the like, and from failures
/// of real servers).
const MATRIX: [(&str, &[&str]); 9] = [
    (
        "accept4",
        &[
            "EMFILE",
            "ECONNABORTED",
            "EINTR",
            "EPROTO",
            "EPERM",
            "ETIMEDOUT",
            "ENETDOWN",
            "EHOSTDOWN",
            "EHOSTUNREACH",
            "ENETUNREACH",
            "ENONET",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
        ],
    ),
    ("recvfrom", &["ECONNRESET", "EINTR", "ETIMEDOUT", "ENOMEM", "EHOSTUNREACH", "ENOTCONN"]),
    ("sendto", &["EPIPE", "EINTR", "ECONNRESET", "ENOBUFS", "ENOMEM", "ETIMEDOUT"]),
    ("epoll_ctl", &["ENOSPC", "ENOMEM", "EEXIST", "ENOENT"]),
    ("epoll_wait", &["EINTR"]),
    ("setsockopt", &["EINVAL", "ENOPROTOOPT"]),
    ("getrandom", &["EAGAIN", "EINTR", "ENOSYS"]),
    ("shutdown", &["ENOTCONN"]),
    ("close", &["EIO", "EINTR"]),
];

/// Which calls fail, counted from attaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    First,
    Third,
    /// The first call and the seventh after it.
    EverySeventh,
    /// Every call, as long as the cell lasts.
    Always,
}

const SCHEDULES: [Schedule; 4] =
    [Schedule::First, Schedule::Third, Schedule::EverySeventh, Schedule::Always];

#[derive(Clone, Copy, Debug)]
struct Cell {
    call: &'static str,
    errno: &'static str,
    schedule: Schedule,
    /// Time for which each call fails under [`Schedule::Always`].
    always: Duration,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} when={}", self.call, self.errno, self.when())
    }
}

impl Cell {
    /// The schedule in strace's syntax.
    fn when(&self) -> String {
        match self.schedule {
            Schedule::First => "1".to_owned(),
            Schedule::Third => "3".to_owned(),
            Schedule::EverySeventh => "1..8+7".to_owned(),
            Schedule::Always if self.repeats() => format!("1..{}", self.least()),
            Schedule::Always => "1+".to_owned(),
        }
    }

    /// The number of failures to wait for: without one the cell proves nothing.
    fn least(&self) -> usize {
        match self.schedule {
            Schedule::First | Schedule::Third => 1,
            Schedule::EverySeventh => 2,
            Schedule::Always if self.repeats() => {
                2 * usize::try_from(self.always.as_millis()).unwrap()
            }
            Schedule::Always => 1,
        }
    }

    /// True if the error may end a connection: only errors of the connection's own calls other than
    /// EINTR.
    fn may_end_connections(&self) -> bool {
        matches!(self.call, "recvfrom" | "sendto") && self.errno != "EINTR"
    }

    /// True if the call is repeated at once: an interrupted call has to be made again, so a call
    /// that is always interrupted repeats as long as that lasts. Its failures are limited in number
    /// instead of time.
    fn repeats(&self) -> bool {
        self.errno == "EINTR" && !matches!(self.call, "accept4" | "close")
    }

    /// The largest number of failures that is not a spin, for this many connections in this time.
    fn most(&self, connections: usize, time: Duration) -> usize {
        match self.call {
            // Sixteen in a row and one of shedding, then a pause of 100 ms.
            "accept4" => 17 * (2 + usize::try_from(time.as_millis() / 100).unwrap()),
            // One for each connection, one for what is closed with it, and the spare one.
            _ => 2 * connections + 8,
        }
    }
}

fn cells(everything: bool) -> Vec<Cell> {
    let always = Duration::from_millis(if everything { 5000 } else { 400 });
    let mut cells = Vec::new();
    for (call, errnos) in MATRIX {
        for (i, &errno) in errnos.iter().enumerate() {
            for schedule in SCHEDULES {
                // The part that always runs: up to two errors of each call, on every and on every
                // seventh call.
                let in_part = match schedule {
                    Schedule::Always => i < 2,
                    Schedule::EverySeventh => i == 0,
                    Schedule::First | Schedule::Third => false,
                };
                if everything || in_part {
                    cells.push(Cell { call, errno, schedule, always });
                }
            }
        }
    }
    cells
}

#[test]
fn no_failing_call_ends_the_program_or_harms_other_connections() {
    if STRACE.is_missing() {
        return;
    }
    let everything = std::env::var("SALTECHO_FAULTS").is_ok_and(|value| value == "all");
    let cells: Mutex<VecDeque<Cell>> = Mutex::new(cells(everything).into());
    let rows = Mutex::new(Vec::new());
    // A cell mostly waits, so several run at once.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(cell) = { cells.lock().unwrap().pop_front() } {
                    let row = run_cell(cell);
                    println!("{row}");
                    rows.lock().unwrap().push(row);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    println!(
        "{} cells, {} injected failures",
        rows.len(),
        rows.iter().map(|row| row.injected).sum::<usize>()
    );
}

#[test]
fn sends_raise_no_signal_and_sockets_are_not_inherited() {
    if STRACE.is_missing() {
        return;
    }
    let serving = Serving::start(&[]);
    let tracer = Tracer::attach(&serving, &["-e", "trace=network,write"]);
    for _ in 0..10 {
        let stream = authenticated(serving.address);
        assert_eq!(exchange(&stream, b"hello"), b"HELLO");
    }
    let log = tracer.detach();
    let lines = |call: &str| log.lines().filter(|line| line.contains(call)).collect::<Vec<_>>();
    let (sends, accepts) = (lines("sendto("), lines("accept4("));
    assert!(sends.len() >= 20 && accepts.len() >= 10, "{log}");
    assert!(sends.iter().all(|line| line.contains("MSG_NOSIGNAL")), "{log}");
    assert!(accepts.iter().all(|line| line.contains("SOCK_CLOEXEC|SOCK_NONBLOCK")), "{log}");
    assert!(!log.contains("HELLO\", 5)"), "a socket was written to without MSG_NOSIGNAL: {log}");
    serving.finish();
}

/// Errors of keepalive's two calls, which are made for a silent peer.
#[test]
fn a_peer_that_cannot_be_examined_or_probed_stays() {
    const SIZE: usize = 20;
    if STRACE.is_missing() {
        return;
    }
    for (call, errno) in [("getsockopt", "ENOBUFS"), ("setsockopt", "EINVAL")] {
        let serving = Serving::start(&["--keepalive", "1s"]);
        let crowd: Vec<TcpStream> = (0..SIZE).map(|_| authenticated(serving.address)).collect();
        crowd.iter().for_each(|stream| assert_eq!(exchange(stream, b"hello"), b"HELLO"));
        let inject = format!("inject={call}:error={errno}:when=1+");
        let tracer =
            Tracer::attach(&serving, &["-e", "trace=getsockopt,setsockopt", "-e", &inject]);
        let (failed, begin) = (|| tracer.log().matches(errno).count(), Instant::now());
        // A peer that answers nothing for so long would be given up.
        while failed() < 8 * SIZE {
            assert!(begin.elapsed() < PATIENCE, "{} failures of {call}", failed());
            thread::sleep(Duration::from_millis(20));
        }
        let failures = failed();
        let most = SIZE * usize::try_from(2 + begin.elapsed().as_secs()).unwrap();
        assert!(failures <= most, "{failures} failures of {call} are a spin");
        drop(tracer);
        crowd.iter().for_each(|stream| assert_eq!(exchange(stream, b"still here"), b"STILL HERE"));
        serving.finish().expect(0, &[]);
    }
}

/// The one error that ends the loop: without a poll it could only spin.
#[test]
fn a_poll_that_keeps_failing_ends_the_program_with_an_error() {
    if STRACE.is_missing() {
        return;
    }
    let serving = Serving::start(&[]);
    let options = ["-e", "trace=epoll_wait", "-e", "inject=epoll_wait:error=EBADF"];
    let tracer = Tracer::attach(&serving, &options);
    // It wakes for this client and cannot sleep again, unless strace's arrival has woken it already.
    let _ = TcpStream::connect(serving.address);
    serving.running.wait().expect(1, &["os error 9"]);
    assert_eq!(count_injected(&tracer.wait()), 1);
}

/// Number of challenges for which the server draws random bytes at once.
const CHALLENGES_PER_DRAW: usize = 128;

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The result of a cell.
struct Row {
    cell: Cell,
    injected: usize,
    /// Clients that connected while calls failed, and how many of them got their whole answer.
    came: usize,
    served: usize,
    cut_short: usize,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cell, injected, came, served, cut_short } = self;
        write!(
            f,
            "{cell:<34} {injected:>6} injected; {came:>4} came, {served:>4} served; {cut_short} of 2 \
             bystanders cut short"
        )
    }
}

fn run_cell(cell: Cell) -> Row {
    let serving = Serving::start(&[]);
    let idle_descriptors = serving.descriptors();
    let bystanders = [authenticated(serving.address), authenticated(serving.address)];
    for stream in &bystanders {
        assert_eq!(exchange(stream, b"before"), b"BEFORE");
    }
    if cell.call == "getrandom" {
        // The rest of what was drawn for the first.
        for _ in bystanders.len()..CHALLENGES_PER_DRAW {
            drop(connect(serving.address));
        }
    }
    if cell.call == "shutdown" {
        return drain_cell(cell, serving, &bystanders);
    }
    let inject = format!("inject={}:error={}:when={}", cell.call, cell.errno, cell.when());
    let tracer = Tracer::attach(&serving, &["-e", &format!("trace={}", cell.call), "-e", &inject]);
    let begin = Instant::now();
    let stop = AtomicBool::new(false);
    let (mut came, mut served) = (0, 0);
    let (whole, injected) = thread::scope(|scope| {
        let talks: Vec<_> = bystanders
            .iter()
            .enumerate()
            .map(|(i, stream)| {
                scope.spawn({
                    let stop = &stop;
                    move || talk(stream, i, stop)
                })
            })
            .collect();
        // When an assertion fails, too: or the scope would wait for those who talk for ever.
        let stop_at_the_end = StopOnDrop(&stop);
        loop {
            came += 1;
            served += usize::from(newcomer(serving.address, came));
            if cell.call == "getrandom" && cell.schedule == Schedule::EverySeventh {
                // With one client at a time the eighth draw would come after a thousand of them.
                for _ in 2..CHALLENGES_PER_DRAW {
                    drop(TcpStream::connect(serving.address));
                }
                // None is left in the queue before the next client.
                let last = TcpStream::connect(serving.address);
                let _ = last.and_then(|mut last| last.read(&mut [0]));
            }
            let injected = count_injected(&tracer.log());
            let long_enough = cell.schedule != Schedule::Always || begin.elapsed() >= cell.always;
            if injected >= cell.least() && long_enough {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{cell}: injected only {injected} times");
        }
        drop(stop_at_the_end);
        let whole: Vec<bool> = talks.into_iter().map(|talk| talk.join().unwrap()).collect();
        let injected = count_injected(&tracer.detach());
        let most = cell.most(came + bystanders.len(), begin.elapsed());
        assert!(cell.repeats() || injected <= most, "{cell}: {injected} failures");
        (whole, injected)
    });
    let cut_short = whole.iter().filter(|whole| !**whole).count();
    assert!(cell.may_end_connections() || cut_short == 0, "{cell}: a bystander was cut off");
    // After the failures everything works as before.
    for (stream, _) in bystanders.iter().zip(&whole).filter(|(_, whole)| **whole) {
        assert_eq!(exchange(stream, b"still here"), b"STILL HERE", "{cell}");
    }
    let after = authenticated(serving.address);
    assert_eq!(exchange(&after, b"after"), b"AFTER", "{cell}");
    drop((after, bystanders));
    let own_fault = if cell.call == "close" { injected } else { 0 };
    serving.wait_for_descriptors(idle_descriptors + own_fault);
    let said = serving.finish().stderr;
    let no_setup = ["epoll_ctl", "getrandom"].contains(&cell.call) && said.contains("setup failed");
    let warned = said.contains("warning: cannot serve client 127.0.0.1:");
    assert_eq!(warned, no_setup, "{cell}: {said}");
    Row { cell, injected, came, served, cut_short }
}

/// The loop half-closes only when it ends a connection itself, as in a drain: that must finish in
/// time even if `shutdown` fails.
fn drain_cell(cell: Cell, serving: Serving, bystanders: &[TcpStream]) -> Row {
    let more: Vec<TcpStream> = (0..8).map(|_| authenticated(serving.address)).collect();
    for stream in &more {
        assert_eq!(exchange(stream, b"x"), b"X");
    }
    let inject = format!("inject=shutdown:error={}:when={}", cell.errno, cell.when());
    let tracer = Tracer::attach(&serving, &["-e", "trace=shutdown", "-e", &inject]);
    serving.running.signal(Signal::TERM);
    for stream in bystanders.iter().chain(&more) {
        assert_eq!(rest(stream).unwrap(), b"", "{cell}: an orderly end");
    }
    serving.running.wait().expect(0, &["drained"]);
    let injected = count_injected(&tracer.wait());
    assert!((cell.least()..=10).contains(&injected), "{cell}: {injected} failures");
    Row { cell, injected, came: more.len(), served: more.len(), cut_short: 0 }
}

/// Exchanges messages until stopped; false if the connection ended. Panics on a wrong byte.
fn talk(mut stream: &TcpStream, who: usize, stop: &AtomicBool) -> bool {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let message = format!("bystander {who}, round {round}, {}", "grüße".repeat(round % 50));
        let expected = message.as_bytes().to_ascii_uppercase();
        if stream.write_all(message.as_bytes()).is_err() {
            return false;
        }
        let mut answer = vec![0; expected.len()];
        let mut len = 0;
        while len < answer.len() {
            match stream.read(&mut answer[len..]) {
                Ok(0) => return false,
                Ok(n) => len += n,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("no answer: {error}"),
            }
            assert_eq!(answer[..len], expected[..len], "a corrupt byte");
        }
    }
    true
}

/// A client that connects while calls fail, does one of three things and leaves. True if it got
/// everything it should; panics if it got anything else.
fn newcomer(address: SocketAddr, number: usize) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    // It may go unserved, but must never be served wrongly.
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let Ok(challenge) = read_challenge(&stream) else { return false };
    let mut answer = digest(&challenge);
    if number.is_multiple_of(3) {
        answer[0] ^= 1;
        let _ = stream.write_all(&[&answer[..], b"not for me"].concat());
        let mut byte = [0];
        assert!(
            !matches!(stream.read(&mut byte), Ok(1..)),
            "an unauthenticated client got an answer"
        );
        return true;
    }
    if number % 3 == 1 {
        // A peer with megabytes pending that resets: the server then resets too (setsockopt).
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(&answer);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            let _ = stream.write(&[b'x'; 256 << 10]);
        }
        reset(stream);
        return true;
    }
    if stream.write_all(&[&answer[..], b"newcomer"].concat()).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let mut piece = [0; 8];
    while answer.len() < 8 {
        match stream.read(&mut piece) {
            Ok(n @ 1..) => answer.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    assert!(b"NEWCOMER".starts_with(&answer), "{answer:?}");
    answer.len() == 8
}

fn count_injected(log: &str) -> usize {
    log.lines().filter(|line| line.ends_with("(INJECTED)")).count()
}
