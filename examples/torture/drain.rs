//! A drain with thousands of connections and bytes in flight in both directions.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated, pattern};
use crate::server::Trial;

/// Bytes sent by each client: more than the kernel passes on at once without a reader.
const EACH: usize = 96 << 10;

pub(crate) fn run(connections: u64, report: &mut Report) {
    let mut server = Trial::start(&[]);
    let clients: Vec<TcpStream> = (0..connections).map(|_| authenticated(server.address)).collect();
    while server.counters().get("authenticated") < connections {
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
                    // The kernel takes a part of it, or fails once the server is gone.
                    let _ = stream.write(data);
                }
            });
        }
        // Drain while the server is still reading.
        while server.counters().get("received") < connections * 16 + connections * EACH as u64 / 4 {
            assert!(begin.elapsed() < Duration::from_secs(60), "the clients make no progress");
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
    let read = counters.get("received") - connections * 16;
    let sent = counters.get("sent") - connections * 32;
    report.note("connections, bytes read by the server", format!("{connections}, {read}"));
    report.note("lost clients", counters.get("Reset") + counters.get("TransportError"));
    report.note("received too late to be answered, counted", counters.get("discarded"));
    let uncounted = read - sent - counters.get("undelivered") - counters.get("discarded");
    report.check("read, neither sent nor counted", uncounted, "none", uncounted == 0);
    let missing = sent - received;
    report.check("sent, not received", missing, "none", missing == 0);
    let undelivered = counters.get("undelivered");
    report.check("counted as undelivered", undelivered, "none", undelivered == 0);
    let in_time = elapsed < Duration::from_secs(25);
    report.check(
        "time and exit code",
        format!("{elapsed:.1?}, {code:?}"),
        "25 s, 0",
        in_time && code == Some(0),
    );
}

/// Reads to the end of the stream and returns the number of bytes. Panics at a wrong byte.
fn read(mut stream: &TcpStream, expected: &[u8]) -> u64 {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 64 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(n @ 1..) => answer.extend_from_slice(&piece[..n]),
            Ok(0) => break,
            Err(error) => panic!("the stream did not end: {error}"),
        }
    }
    assert!(expected.starts_with(&answer), "a corrupt byte");
    answer.len() as u64
}
