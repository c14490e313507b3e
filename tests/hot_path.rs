//! How many system calls the program makes: what a message costs, what a connection costs, and that a
//! crowd which says nothing costs none, or its keepalive.
//!
//! strace counts. What the program finds waiting when it wakes up is made a matter of this test and
//! not of the machine's speed: it is stopped (SIGSTOP) while its clients act.
//!
//! `SALTECHO_FAULTS=all cargo test --test hot_path` holds 19,000 connections for a minute.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these have hands.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use common::client::*;
use common::needs::STRACE;
use common::program::*;
use common::strace::*;

/// Everything but reading the clock, which is a system call on few machines.
const ALL: &[&str] = &["-e", "trace=!clock_gettime"];

#[test]
fn a_message_costs_a_recv_a_send_and_its_part_of_a_poll() {
    const CONNECTIONS: usize = 50;
    const ROUNDS: usize = 100;
    if STRACE.is_missing() {
        return;
    }
    let serving = Serving::start(&[]);
    let crowd = crowd(&serving, CONNECTIONS);
    let tracer = Tracer::attach(&serving, ALL);
    for _ in 0..ROUNDS {
        while_stopped(&serving, || say(&crowd, &[b'x'; 64]));
        hear(&crowd, &[b'X'; 64]);
    }
    let calls = Calls::of(&tracer.detach());
    let messages = CONNECTIONS * ROUNDS;
    assert_eq!((calls.count("recvfrom"), calls.count("sendto")), (messages, messages), "{calls:?}");
    calls.assert_at_most(2.10, messages);
    serving.finish();
}

#[test]
fn a_whole_connection_costs_eight_calls_and_its_part_of_a_poll() {
    const CONNECTIONS: usize = 64;
    const ROUNDS: usize = 5;
    if STRACE.is_missing() {
        return;
    }
    let serving = Serving::start(&[]);
    let idle_descriptors = serving.descriptors();
    drop(crowd(&serving, 1));
    serving.wait_for_descriptors(idle_descriptors);
    let tracer = Tracer::attach(&serving, ALL);
    for _ in 0..ROUNDS {
        let mut crowd = Vec::new();
        while_stopped(&serving, || {
            crowd.extend((0..CONNECTIONS).map(|_| TcpStream::connect(serving.address).unwrap()));
        });
        crowd.iter().for_each(|stream| stream.set_read_timeout(Some(PATIENCE)).unwrap());
        let challenges: Vec<_> =
            crowd.iter().map(|stream| read_challenge(stream).unwrap()).collect();
        while_stopped(&serving, || {
            for (mut stream, challenge) in crowd.iter().zip(&challenges) {
                stream.write_all(&digest(challenge)).unwrap();
            }
        });
        // Whether a digest was read cannot be seen from here; together with what follows it, it
        // would be read at once.
        wait_until_asleep(&serving);
        while_stopped(&serving, || say(&crowd, b"hello"));
        hear(&crowd, b"HELLO");
        while_stopped(&serving, || drop(crowd));
        serving.wait_for_descriptors(idle_descriptors);
    }
    let calls = Calls::of(&tracer.detach());
    let connections = CONNECTIONS * ROUNDS;
    for (call, times) in [("sendto", 2), ("epoll_ctl", 1), ("recvfrom", 3), ("close", 1)] {
        assert_eq!(calls.count(call), times * connections, "{call}: {calls:?}");
    }
    calls.assert_at_most(8.6, connections);
    serving.finish();
}

#[test]
fn a_crowd_that_says_nothing_costs_nothing() {
    if STRACE.is_missing() {
        return;
    }
    let everything = std::env::var("SALTECHO_FAULTS").is_ok_and(|value| value == "all");
    let (size, seconds) = if everything { (19_000, 60) } else { (1_000, 2) };
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let serving = Serving::start(&["--keepalive", "off"]);
    let crowd = crowd(&serving, size);
    let after = calls_after_the_last_answer(&serving, &crowd, Duration::from_secs(seconds));
    assert!(matches!(&after[..], [sleep] if sleeps_on(sleep)), "{size} connections: {after:?}");
    serving.finish();
}

#[test]
fn a_silent_peer_costs_three_calls_a_period_and_its_part_of_a_poll() {
    const SIZE: usize = 200;
    if STRACE.is_missing() {
        return;
    }
    let serving = Serving::start(&["--keepalive", "2s"]);
    let crowd = crowd(&serving, SIZE);
    let tracer = Tracer::attach(&serving, ALL);
    let probes = |log: &str| log.matches("TCP_KEEPIDLE").count();
    let begin = std::time::Instant::now();
    while probes(&tracer.log()) < 2 * SIZE {
        assert!(begin.elapsed() < PATIENCE, "{} probes", probes(&tracer.log()));
        sleep(Duration::from_millis(20));
    }
    let log = tracer.detach();
    let (calls, probes) = (Calls::of(&log), probes(&log));
    println!("{probes} probes: {calls:?}");
    // One look finds a peer silent, another one sees its answer. At either end of the trace a peer
    // may have one look more or less; the first looks find some peers that spoke a moment ago.
    assert_eq!(calls.count("setsockopt"), probes);
    let looks = calls.count("getsockopt");
    assert!(looks.abs_diff(2 * probes) <= SIZE, "{looks} looks for {probes} probes");
    let known = ["epoll_wait", "getsockopt", "setsockopt"];
    assert!(calls.0.keys().all(|call| known.contains(&call.as_str())), "{calls:?}");
    assert!(calls.count("epoll_wait") <= probes, "each poll finds several: {calls:?}");
    for stream in &crowd {
        assert_eq!(exchange(stream, b"hello"), b"HELLO");
    }
    serving.finish();
}

#[test]
fn a_spinning_loop_sleeps_once_nobody_has_spoken_for_its_time() {
    if STRACE.is_missing() {
        return;
    }
    let serving = Serving::start(&["--spin", "5ms"]);
    let crowd = crowd(&serving, 10);
    let after = calls_after_the_last_answer(&serving, &crowd, Duration::from_secs(1));
    let (sleep, spin) = after.split_last().unwrap();
    assert!(sleeps_on(sleep) && !spin.is_empty(), "{after:?}");
    let polls = |call: &String| call.starts_with("epoll_wait(") && call.contains(", 0) ");
    assert!(spin.iter().all(polls), "{after:?}");
    serving.finish();
}

/// What the loop calls once it has answered one of a crowd and then heard nothing for this long.
fn calls_after_the_last_answer(
    serving: &Serving,
    crowd: &[TcpStream],
    silence: Duration,
) -> Vec<String> {
    let tracer = Tracer::attach(serving, ALL);
    assert_eq!(exchange(&crowd[0], b"hello"), b"HELLO");
    // Not to wait for anything: it is the time in which nothing must happen.
    sleep(silence);
    let log = tracer.detach();
    let lines: Vec<_> = log.lines().filter(|line| !line.starts_with("---")).collect();
    let answer = lines.iter().rposition(|line| line.starts_with("sendto(")).expect("it answered");
    lines[answer + 1..].iter().map(|&line| line.to_owned()).collect()
}

/// Whether a call is a poll without a time limit that still lasted when the tracer left.
fn sleeps_on(call: &str) -> bool {
    call.starts_with("epoll_wait(") && call.ends_with("<detached ...>")
}

/// So many authenticated connections, each of which has been answered once.
fn crowd(serving: &Serving, size: usize) -> Vec<TcpStream> {
    let crowd: Vec<_> = (0..size).map(|_| authenticated(serving.address)).collect();
    say(&crowd, b"hello");
    hear(&crowd, b"HELLO");
    crowd
}

fn say(crowd: &[TcpStream], message: &[u8]) {
    for mut stream in crowd {
        stream.write_all(message).unwrap();
    }
}

fn hear(crowd: &[TcpStream], expected: &[u8]) {
    let mut answer = vec![0; expected.len()];
    for mut stream in crowd {
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected);
    }
}

fn while_stopped(serving: &Serving, act: impl FnOnce()) {
    serving.running.signal(Signal::STOP);
    act();
    serving.running.signal(Signal::CONT);
}

/// Waits until everything that was sent has been received, and the loop polls.
fn wait_until_asleep(serving: &Serving) {
    let unread = || unread_bytes(serving.address.port());
    let begin = std::time::Instant::now();
    while unread() > 0 {
        assert!(begin.elapsed() < PATIENCE, "{} bytes are not received", unread());
        std::thread::yield_now();
    }
}

/// Bytes that the kernel holds for whoever listens at this port, over all its connections.
fn unread_bytes(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let queues = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (local_address, _, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
        let (_, received) = fields.next()?.split_once(':')?;
        let ours = local_address.ends_with(&local) && state == "01";
        ours.then(|| u64::from_str_radix(received, 16).unwrap())
    });
    queues.sum()
}

/// How often each call was made.
#[derive(Debug)]
struct Calls(BTreeMap<String, usize>);

impl Calls {
    fn of(log: &str) -> Self {
        let mut calls = BTreeMap::new();
        // In a debug build std looks before it closes a descriptor whether it is open.
        let lines = log.lines().filter(|line| !line.contains("F_GETFD"));
        for (call, _) in lines.filter_map(|line| line.split_once('(')) {
            *calls.entry(call.to_owned()).or_default() += 1;
        }
        Self(calls)
    }

    #[track_caller]
    fn assert_at_most(&self, each: f64, times: usize) {
        let all: usize = self.0.values().sum();
        println!("{:.3} calls each: {:?}", all as f64 / times as f64, self.0);
        assert!(all as f64 <= each * times as f64, "{all} calls for {times}: {:?}", self.0);
    }

    fn count(&self, call: &str) -> usize {
        self.0.get(call).copied().unwrap_or(0)
    }
}
