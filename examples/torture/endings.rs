//! Crowds whose connections the server ends at the same moment: every client must see the end.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated_from, connect_from};
use crate::idle::{CROWD, dropped_packets, source};
use crate::server::Trial;

/// Time limit for a client to see the end, from the moment at which it is due.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs one crowd each for both timeouts, a drain, a stop and a kill. `seconds` is the length of both
/// timeouts.
pub(crate) fn run(seconds: u64, report: &mut Report) {
    let unauthenticated = format!("unauthenticated={CROWD}");
    let (auth, idle) = (format!("auth_timeout={seconds}"), format!("idle_timeout={seconds}"));
    let due = Duration::from_secs(seconds);

    let server = Trial::start(&[&unauthenticated, &auth]);
    let connect = |number| connect_from(source(0, number), server.address).0;
    check_ends("authentication timeout", (0..CROWD).map(connect).collect(), due, report);

    let server = Trial::start(&[&idle]);
    check_ends("idle timeout", connect_crowd(&server), due, report);

    for (command, what) in [("drain", "drained"), ("stop", "stopped")] {
        let mut server = Trial::start(&[]);
        let crowd = connect_crowd(&server);
        while server.counters().get("authenticated") < CROWD.into() {
            thread::yield_now();
        }
        server.command(command);
        check_ends(what, crowd, Duration::ZERO, report);
    }

    let server = Trial::start(&[]);
    let crowd = connect_crowd(&server);
    drop(server);
    check_ends("killed", crowd, Duration::ZERO, report);
}

fn connect_crowd(server: &Trial) -> Vec<TcpStream> {
    (0..CROWD).map(|number| authenticated_from(source(0, number), server.address)).collect()
}

/// Waits until every client has seen the end of its stream, or a reset.
fn check_ends(what: &str, mut waiting: Vec<TcpStream>, due: Duration, report: &mut Report) {
    let (begin, dropped) = (Instant::now(), dropped_packets());
    waiting.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    while !waiting.is_empty() && begin.elapsed() < due + PATIENCE {
        thread::sleep(Duration::from_millis(10));
        waiting.retain(|stream| match stream.peek(&mut [0]) {
            Err(error) => error.kind() == ErrorKind::WouldBlock,
            Ok(n) => n > 0,
        });
    }
    let (uninformed, time) = (waiting.len(), begin.elapsed());
    let figure = format!("{uninformed} of {CROWD}, the last after {time:.1?}");
    report.check(&format!("{what}: clients that saw no end"), figure, "none", uninformed == 0);
    report.note("packets dropped on this machine", dropped_packets() - dropped);
}
