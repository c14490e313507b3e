//! Memory of the server after crowds have connected and disconnected.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated, authenticated_from, exchange};
use crate::idle::source;
use crate::server::Trial;

/// Connections of a crowd, close to the descriptor limit of a process.
const CROWD: usize = 19_000;

pub(crate) fn run(rounds: u64, report: &mut Report) {
    let mut server = Trial::start(&[]);
    // The first connections touch the pages of code and data that all others use.
    for _ in 0..100 {
        assert_eq!(exchange(&authenticated(server.address), b"x"), b"X");
    }
    let start = server.resident();
    let (mut peaks, mut after, mut ports) = (Vec::new(), Vec::new(), 0..);
    for _ in 0..rounds {
        // Each crowd has ports of its own, since those of the last one rest for a minute.
        let crowd = (0..CROWD).map(|_| ports.next().expect("there are enough"));
        let crowd = crowd.map(|number| authenticated_from(source(0, number), server.address));
        let crowd: Vec<TcpStream> = crowd.collect();
        for stream in &crowd {
            assert_eq!(exchange(stream, b"here"), b"HERE");
        }
        peaks.push(server.resident());
        drop(crowd);
        let gone = Instant::now();
        while server.counters().get("connections") > 0 {
            assert!(gone.elapsed() < Duration::from_secs(10), "the connections do not end");
        }
        while server.resident() * 10 > start * 11 && gone.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(50));
        }
        after.push(server.resident());
    }
    let most = *peaks.iter().max().unwrap();
    let each = (most - start) as f64 * 1024.0 / CROWD as f64;
    report.note(
        "resident at the start, with the crowd",
        format!("{start}, {most} KiB, {each:.0} B per connection"),
    );
    report.note("resident after each round, KiB", format!("{after:?}"));
    let last = *after.last().unwrap() as f64 / start as f64;
    report.check("last, relative to the start", format!("{last:.3}"), "<= 1.10", last <= 1.10);
    // The first crowd makes the allocator and the queues grow.
    let slope = slope(&after[1..]);
    report.check(
        "slope over the rounds after the first",
        format!("{slope:.1} KiB per round"),
        "<= 8",
        slope <= 8.0,
    );
}

/// Slope by least squares over equal steps.
fn slope(values: &[u64]) -> f64 {
    let n = values.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, values.iter().sum::<u64>() as f64 / n);
    let points = || values.iter().enumerate().map(|(x, y)| (x as f64 - mean_x, *y as f64 - mean_y));
    points().map(|(x, y)| x * y).sum::<f64>() / points().map(|(x, _)| x * x).sum::<f64>().max(1.0)
}
