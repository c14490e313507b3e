//! A server that runs out of address space: new clients may be refused and a peer that does not read
//! may be disconnected; other connections are unaffected.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{fs, iter};

use crate::common::client::*;
use crate::common::program::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// The size of the address space in KiB (VmSize of proc(5)).
fn address_space(serving: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.running.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Limits the address space to its current size and this much more.
fn limit(serving: &Serving, more_kib: u64) {
    let most = Some((address_space(serving) + more_kib) << 10);
    let pid = Pid::from_raw(serving.running.pid().cast_signed());
    prlimit(pid, Resource::As, Rlimit { current: most, maximum: most }).unwrap();
}

/// Authenticates; `None` if the server closes the connection.
fn try_authenticated(serving: &Serving) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(serving.address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let challenge = read_challenge(&stream).ok()?;
    stream.write_all(&digest(&challenge)).ok()?;
    try_exchange(&stream, b"hello").then_some(stream)
}

#[test]
fn thousands_of_short_connections_do_not_end_the_server() {
    for more_kib in [0, 64, 1024, 20_000] {
        let serving = Serving::start(&[]);
        let bystander = authenticated(serving.address);
        assert_eq!(exchange(&bystander, b"hello"), b"HELLO");
        let idle_descriptors = serving.descriptors();
        limit(&serving, more_kib);
        for _ in 0..3 {
            // More than the slab keeps when idle, so memory is freed and allocated again.
            let crowd: Vec<TcpStream> = iter::repeat_with(|| try_authenticated(&serving))
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
fn an_answer_that_cannot_be_stored_ends_only_its_connection() {
    // A recv of 1 MiB, so that the rest of an answer needs a block that cannot be allocated.
    let serving = Serving::start(&["--bufsize", "1m"]);
    let bystander = authenticated(serving.address);
    assert_eq!(exchange(&bystander, b"hello"), b"HELLO");
    // A server that is slower than its peer receives less at once. The rest then fits what was
    // allocated before, and the connection waits for its peer; with so many, memory runs out.
    let deaf: Vec<TcpStream> = (0..64).map(|_| authenticated(serving.address)).collect();
    for stream in &deaf {
        assert_eq!(exchange(stream, b"hello"), b"HELLO");
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    limit(&serving, 0);
    let error = deaf
        .iter()
        .map(write_without_reading)
        .find(|error| !matches!(error.kind(), ErrorKind::WouldBlock));
    let error = error.expect("the rest of an answer of each connection was stored");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert_eq!(exchange(&bystander, b"still here"), b"STILL HERE");
    drop(deaf);
    serving.finish().expect(0, &[" out of memory"]);
}

/// Sends until the server has ended the connection, or takes nothing more.
fn write_without_reading(mut stream: &TcpStream) -> io::Error {
    let block = vec![b'x'; 1 << 20];
    loop {
        if let Err(error) = stream.write_all(&block) {
            return error;
        }
    }
}
