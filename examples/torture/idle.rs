//! Silent crowds: no connection may be lost, and at the end each must still answer.
//!
//! Three crowds at the same time, each with its own server and client process: one connects all at
//! once, one evenly over a minute, and one disconnects and connects again all at once. Their
//! keepalive probes share one machine, with loopback's queue of 1,000 packets per processor.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated_from, try_exchange};
use crate::server::Trial;

/// Connections of each crowd, close to the descriptor limit of a process.
pub(crate) const CROWD: u32 = 19_000;
/// Time over which the second crowd connects.
const EVENLY: Duration = Duration::from_secs(60);
const KINDS: [&str; 3] = ["at-once", "evenly", "again"];

/// Starts this program for each crowd, as `idle-crowd`.
pub(crate) fn run(seconds: u64, report: &mut Report) {
    let dropped = dropped_packets();
    let children = KINDS.map(|kind| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["idle-crowd", &seconds.to_string(), kind]).stdout(Stdio::piped());
        command.spawn().unwrap()
    });
    for (kind, child) in KINDS.into_iter().zip(children) {
        let output = child.wait_with_output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        let held = output.status.success();
        report.check(&format!("{kind}: silent for {seconds} s"), held, "true", held);
    }
    report.note("packets dropped on this machine", dropped_packets() - dropped);
}

/// Runs one crowd.
pub(crate) fn inside(seconds: u64, kind: &str, report: &mut Report) {
    let mut server = Trial::start(&[]);
    let (address, begin) = (server.address, Instant::now());
    let connect = |number: u32| {
        if kind == "evenly" {
            let due = EVENLY * number / CROWD;
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        authenticated_from(source(number), address)
    };
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(connect).collect();
    let mut left = 0;
    if kind == "again" {
        crowd.clear();
        while server.counters().get("connections") > 0 {
            thread::yield_now();
        }
        left = u64::from(CROWD);
        crowd.extend((0..CROWD).map(connect));
    }
    while server.counters().get("authenticated") < left + u64::from(CROWD) {
        thread::yield_now();
    }
    let connected = begin.elapsed();
    let busy = server.processor_time();
    thread::sleep(Duration::from_secs(seconds));
    let (busy, counters) = (server.processor_time() - busy, server.counters());
    let lost = counters.get("accepted") - left - counters.get("connections");
    let answered = crowd.iter().filter(|stream| try_exchange(stream, b"still here")).count();
    report.note(&format!("{kind}: connections, time"), format!("{CROWD}, {connected:.1?}"));
    let probes = counters.get("probes");
    let each = probes as f64 / f64::from(CROWD);
    report.note("keepalive probes", format!("{probes}, {each:.1} per connection"));
    let share = 100.0 * busy.as_secs_f64() / seconds as f64;
    report.note("the server's processor time", format!("{share:.2} %"));
    report.check("closed by the server", lost, "none", lost == 0);
    let all = answered == crowd.len();
    report.check("answered at the end", answered, &format!("{CROWD}"), all);
}

/// One of four source addresses. Each has enough ports for the whole crowd, but Linux searches longer
/// for a free port when most are taken.
pub(crate) fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 64, 1)) + number % 4)
}

/// Packets dropped at full processor queues since boot.
pub(crate) fn dropped_packets() -> u64 {
    let statistics = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = |line: &str| {
        u64::from_str_radix(line.split_ascii_whitespace().nth(1).expect("the second column"), 16)
    };
    statistics.lines().map(|line| dropped(line).expect("it is hexadecimal")).sum()
}
