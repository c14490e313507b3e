//! A running server whose descriptor limit is lowered, and five times as many clients.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Report;
use crate::client::{authenticated, exchange, reset};
use crate::server::Trial;

/// New descriptor limit of the server.
const DESCRIPTORS: usize = 200;

pub(crate) fn run(rounds: u64, report: &mut Report) {
    let mut server = Trial::start(&["connections=10000", "no_auth_timeout=1"]);
    let mut served: Vec<TcpStream> = (0..100).map(|_| authenticated(server.address)).collect();
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let pid = server.pid().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    let mut waiting: Vec<TcpStream> =
        (0..5 * DESCRIPTORS).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    while server.counters().get("pauses") == 0 {
        thread::yield_now();
    }
    report.note("descriptors, clients", format!("{DESCRIPTORS}, {}", served.len() + waiting.len()));

    let (before, begin) = (server.processor_time(), Instant::now());
    thread::sleep(Duration::from_secs(3));
    let busy = (server.processor_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
    report.check("processor", format!("{:.1} %", busy * 100.0), "< 5 %", busy < 0.05);

    let seconds = 3;
    let failed = failed_accepts(&pid, Duration::from_secs(seconds)) / seconds as f64;
    report.check("failed accepts a second", format!("{failed:.0}"), "<= 100", failed <= 100.0);

    let mut silent: Vec<Vec<TcpStream>> = Vec::new();
    let mut longest = Duration::ZERO;
    for _ in 0..rounds {
        // Accepted clients keep their places; rejected ones no longer wait.
        let (accepted, others) =
            waiting.into_iter().partition(|stream| received(stream) == Received::Challenge);
        silent.push(accepted);
        waiting = others;
        waiting.retain(|stream: &TcpStream| received(stream) == Received::Nothing);
        // Read the clock first: the close itself may switch to the server.
        let begin = Instant::now();
        drop(served.pop());
        let next = loop {
            let next = waiting.iter().position(|stream| received(stream) == Received::Challenge);
            if let Some(next) = next {
                break next;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "no client was accepted");
        };
        longest = longest.max(begin.elapsed());
        silent.push(vec![waiting.swap_remove(next)]);
    }
    let bound = Duration::from_millis(150);
    let figure = format!("{longest:.1?} of {rounds}");
    report.check("longest wait for a free place", figure, "150 ms", longest <= bound);
    let echo = exchange(&served[0], b"still here") == b"STILL HERE";
    report.check("an accepted client is served", echo, "true", echo);
    waiting.drain(..).for_each(reset);
    report.note("shed", server.counters().get("shed"));
}

#[derive(PartialEq, Eq)]
enum Received {
    Nothing,
    Challenge,
    End,
}

/// State of a client's stream, without consuming anything.
fn received(stream: &TcpStream) -> Received {
    stream.set_nonblocking(true).unwrap();
    match stream.peek(&mut [0; 32]) {
        Ok(1..) => Received::Challenge,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Received::Nothing,
        _ => Received::End,
    }
}

/// Counts the calls of `accept4` that fail with EMFILE, with strace.
fn failed_accepts(pid: &str, time: Duration) -> f64 {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-e", "trace=accept4", "-o"])
        .arg(log.path())
        .args(["-p", pid])
        .spawn()
        .expect("strace is installed");
    thread::sleep(time);
    kill_process(Pid::from_child(&strace), Signal::TERM).unwrap();
    strace.wait().unwrap();
    let log = fs::read_to_string(log.path()).unwrap();
    log.lines().filter(|line| line.contains("EMFILE")).count() as f64
}
