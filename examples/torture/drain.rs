//! A drain with thousands of live connections and bytes in flight in both directions.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated, pattern};
use crate::server::Trial;

/// What each client sends: more than the kernel passes on at once while nobody reads.
const EACH: usize = 96 << 10;

pub(crate) fn run(connections: u64, report: &mut Report) {
    let mut server = Trial::start(&[]);
    let clients: Vec<TcpStream> = (0..connections).map(|_| authenticated(server.address)).collect();
    while server.counters().of("authenticated") < connections {
        thread::yield_now();
    }
    let data = pattern(EACH);
    let expected = data.to_ascii_uppercase();
    let begin = Instant::now();
    let (last, received) = thread::scope(|scope| {
        for share in clients.chunks(clients.len().div_ceil(4)) {
            let data = &data;
            scope.spawn(move || {
                for mut stream in share {
                    stream.set_nonblocking(true).unwrap();
                    // Some of it is taken; how much is the kernel's affair. Failing is too, once
                    // the server is gone.
                    let _ = stream.write(data);
                }
            });
        }
        // In the middle of that.
        while server.counters().of("received") < connections * 16 + connections * EACH as u64 / 4 {
            assert!(begin.elapsed() < Duration::from_secs(60), "the clients do not get on");
        }
        let readers: Vec<_> = clients
            .chunks(clients.len().div_ceil(4))
            .map(|share| {
                let expected = &expected;
                scope.spawn(move || share.iter().map(|stream| read(stream, expected)).sum::<u64>())
            })
            .collect();
        let drained = scope.spawn(move || (server.drain(), begin.elapsed()));
        let received: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        (drained.join().unwrap(), received)
    });
    let ((counters, code), elapsed) = last;
    let read = counters.of("received") - connections * 16;
    let sent = counters.of("sent") - connections * 32;
    report.tell("connections, bytes read by the server", format!("{connections}, {read}"));
    report.tell("clients that were lost", counters.of("Reset") + counters.of("TransportError"));
    report.tell("came too late to be answered, and counted", counters.of("discarded"));
    let owed = read - sent - counters.of("undelivered") - counters.of("discarded");
    report.check("read and neither sent nor counted", owed, "none", owed == 0);
    let missing = sent - received;
    report.check("sent and not received", missing, "none", missing == 0);
    let undelivered = counters.of("undelivered");
    report.check("counted as undelivered", undelivered, "none", undelivered == 0);
    let in_time = elapsed < Duration::from_secs(25);
    report.check(
        "time and exit code",
        format!("{elapsed:.1?}, {code:?}"),
        "25 s, 0",
        in_time && code == Some(0),
    );
}

/// Reads to the end of the stream; how much that was. Panics at a wrong byte.
fn read(mut stream: &TcpStream, expected: &[u8]) -> u64 {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 64 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(n @ 1..) => answer.extend_from_slice(&piece[..n]),
            Ok(0) => break,
            Err(error) => panic!("a stream without an end: {error}"),
        }
    }
    assert!(expected.starts_with(&answer), "a corrupt byte");
    answer.len() as u64
}
