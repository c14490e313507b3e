//! System calls per message, per connection, and of idle connections: none, or those of keepalive.
//!
//! strace counts. The program is stopped (SIGSTOP) while its clients act, so that the test and not
//! the speed of the machine decides what is ready when it wakes.
//!
//! `SALTECHO_FAULTS=all cargo test --test faults hot_path` holds 19,000 connections for a minute.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use crate::common::client::*;
use crate::common::needs::STRACE;
use crate::common::program::*;
use crate::common::strace::*;

/// All calls but reading the clock, which is a system call on few machines.
const ALL: &[&str] = &["-e", "trace=!clock_gettime"];

#[test]
fn a_message_costs_one_recv_one_send_and_a_share_of_a_poll() {
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
fn a_connection_costs_eight_calls_and_a_share_of_a_poll() {
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
        // The test cannot see when a digest was read; with input behind it, one recv would read
        // both.
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
fn idle_connections_cost_no_system_call() {
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
fn keepalive_costs_three_calls_per_period_and_a_share_of_a_poll() {
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
    // Each probe takes two looks at a peer: one finds it silent, one sees its answer. At either end
    // of the trace a peer may have one look more or less; the first looks find some that were just
    // active.
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
fn a_spinning_loop_sleeps_when_its_spin_time_has_passed_without_an_event() {
    if STRACE.is_missing() {
        return;
    }
    // An alarm for keepalive would be one more wake-up, sooner or later.
    let serving = Serving::start(&["--spin", "5ms", "--keepalive", "off"]);
    let crowd = crowd(&serving, 10);
    let after = calls_after_the_last_answer(&serving, &crowd, Duration::from_secs(1));
    let (sleep, spin) = after.split_last().unwrap();
    assert!(sleeps_on(sleep) && !spin.is_empty(), "{after:?}");
    let polls = |call: &String| call.starts_with("epoll_wait(") && call.contains(", 0) ");
    assert!(spin.iter().all(polls), "{after:?}");
    serving.finish();
}

/// The system calls after the last answer to one of these clients, over this time.
fn calls_after_the_last_answer(
    serving: &Serving,
    crowd: &[TcpStream],
    silence: Duration,
) -> Vec<String> {
    let tracer = Tracer::attach(serving, ALL);
    assert_eq!(exchange(&crowd[0], b"hello"), b"HELLO");
    // Not a wait for an event: nothing may happen in this time.
    sleep(silence);
    let log = tracer.detach();
    let lines: Vec<_> = log.lines().filter(|line| !line.starts_with("---")).collect();
    let answer = lines.iter().rposition(|line| line.starts_with("sendto(")).expect("it answered");
    lines[answer + 1..].iter().map(|&line| line.to_owned()).collect()
}

/// True for a poll without a timeout that was still waiting when strace detached.
fn sleeps_on(call: &str) -> bool {
    call.starts_with("epoll_wait(") && call.ends_with("<detached ...>")
}

/// This many authenticated connections, each with one message answered.
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

/// Waits until all that was sent has been received and the loop polls.
fn wait_until_asleep(serving: &Serving) {
    let unread = || unread_bytes(serving.address.port());
    let begin = std::time::Instant::now();
    while unread() > 0 {
        assert!(begin.elapsed() < PATIENCE, "{} bytes are not received", unread());
        std::thread::yield_now();
    }
}

/// Bytes that the kernel holds for the server at this port, over all its connections.
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

/// The number of calls by name.
#[derive(Debug)]
struct Calls(BTreeMap<String, usize>);

impl Calls {
    fn of(log: &str) -> Self {
        let mut calls = BTreeMap::new();
        // In a debug build std checks that a descriptor is open before it closes it.
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
