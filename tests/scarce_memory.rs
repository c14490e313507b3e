//! A server whose address space is used up while it runs: that may cost newcomers their places and a
//! peer that does not read its connection, and nobody else anything.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these have hands.

mod common;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Instant;

use common::client::*;
use common::program::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Address space in KiB, as proc(5) has it.
fn address_space(serving: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.running.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// From here on it may have this much more than it has.
fn limit(serving: &Serving, more_kib: u64) {
    let most = Some((address_space(serving) + more_kib) << 10);
    let pid = Pid::from_raw(serving.running.pid().cast_signed());
    prlimit(pid, Resource::As, Rlimit { current: most, maximum: most }).unwrap();
}

/// Authenticates, unless it is turned away.
fn try_authenticated(serving: &Serving) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(serving.address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let challenge = read_challenge(&stream).ok()?;
    stream.write_all(&digest(&challenge)).ok()?;
    try_exchange(&stream, b"hello").then_some(stream)
}

#[test]
fn a_crowd_that_comes_and_goes_leaves_it_alive() {
    for more_kib in [0, 64, 1024, 20_000] {
        let serving = Serving::start(&[]);
        let bystander = authenticated(serving.address);
        assert_eq!(exchange(&bystander, b"hello"), b"HELLO");
        let idle_descriptors = serving.descriptors();
        limit(&serving, more_kib);
        for _ in 0..3 {
            // More than a slab that is kept has, so its memory is given back and asked for again.
            let crowd: Vec<TcpStream> = std::iter::repeat_with(|| try_authenticated(&serving))
                .map_while(|c| c)
                .take(1100)
                .collect();
            assert!(crowd.len() > 50, "{} of 1,100 with {more_kib} KiB more", crowd.len());
            for stream in &crowd {
                assert_eq!(exchange(stream, b"who is in"), b"WHO IS IN");
            }
            drop(crowd);
            serving.wait_for_descriptors(idle_descriptors);
        }
        assert_eq!(exchange(&bystander, b"still here"), b"STILL HERE");
        serving.finish().expect(0, &[]);
    }
}

#[test]
fn an_answer_that_cannot_be_kept_costs_its_own_connection() {
    // A recv of 1 MiB, so that what is left of an answer needs a block that is not there.
    let serving = Serving::start(&["--bufsize", "1m"]);
    let (bystander, deaf) = (authenticated(serving.address), authenticated(serving.address));
    assert_eq!(exchange(&bystander, b"hello"), b"HELLO");
    assert_eq!(exchange(&deaf, b"hello"), b"HELLO");
    limit(&serving, 0);
    // Says a lot and reads nothing of the answer; what it is owed at last cannot be kept.
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let begin = Instant::now();
    let block = vec![b'x'; 1 << 20];
    let error = loop {
        assert!(begin.elapsed() < PATIENCE, "all was taken");
        if let Err(error) = (&deaf).write_all(&block) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert_eq!(exchange(&bystander, b"still here"), b"STILL HERE");
    serving.finish().expect(0, &["1 out of memory"]);
}
