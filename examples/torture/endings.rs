//! Crowds whose connections the server ends all at once: each client must learn of it.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated_from, connect_from};
use crate::idle::{CROWD, dropped_packets, source};
use crate::server::Trial;

/// How long clients wait to be told, from the moment at which it is due.
const PATIENCE: Duration = Duration::from_secs(10);

/// A crowd each for the time-outs, a drain, a stop and a kill. `seconds` is the time-out of both kinds.
pub(crate) fn run(seconds: u64, report: &mut Report) {
    let unauthenticated = format!("unauthenticated={CROWD}");
    let (auth, idle) = (format!("auth_timeout={seconds}"), format!("idle_timeout={seconds}"));
    let due = Duration::from_secs(seconds);

    let server = Trial::start(&[&unauthenticated, &auth]);
    let newcomer = |number| connect_from(source(number), server.address).0;
    told("the time for a digest is over", (0..CROWD).map(newcomer).collect(), due, report);

    let server = Trial::start(&[&idle]);
    told("silent for too long", come(&server), due, report);

    for (command, what) in [("drain", "drained"), ("stop", "stopped")] {
        let mut server = Trial::start(&[]);
        let crowd = come(&server);
        while server.counters().of("authenticated") < CROWD.into() {
            thread::yield_now();
        }
        server.order(command);
        told(what, crowd, Duration::ZERO, report);
    }

    let server = Trial::start(&[]);
    let crowd = come(&server);
    drop(server);
    told("killed", crowd, Duration::ZERO, report);
}

fn come(server: &Trial) -> Vec<TcpStream> {
    (0..CROWD).map(|number| authenticated_from(source(number), server.address)).collect()
}

/// Waits until each of a crowd has seen the end of its stream, or a reset.
fn told(what: &str, mut waiting: Vec<TcpStream>, due: Duration, report: &mut Report) {
    let (begin, dropped) = (Instant::now(), dropped_packets());
    waiting.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    while !waiting.is_empty() && begin.elapsed() < due + PATIENCE {
        thread::sleep(Duration::from_millis(10));
        waiting.retain(|stream| match stream.peek(&mut [0]) {
            Err(error) => error.kind() == ErrorKind::WouldBlock,
            Ok(n) => n > 0,
        });
    }
    let (untold, time) = (waiting.len(), begin.elapsed());
    let figure = format!("{untold} of {CROWD}, the last after {time:.1?}");
    report.check(&format!("{what}: clients that were not told"), figure, "none", untold == 0);
    report.tell("packets dropped on this machine meanwhile", dropped_packets() - dropped);
}
