//! Silent crowds: no connection may be lost, and at the end each must still answer.
//!
//! Three crowds at the same time, each with its own server and client process: one connects all at
//! once, one evenly over a minute, and one disconnects and connects again all at once. Their
//! keepalive probes share one machine, with loopback's queue of 1,000 packets per processor.
//! `scripts/million` holds one crowd of any size, where a process may have the descriptors.

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
/// Between two looks at the server's counters.
const LOOK: Duration = Duration::from_millis(10);
const KINDS: [&str; 3] = ["at-once", "evenly", "again"];

/// Starts this program for each crowd, as `idle-crowd`.
pub(crate) fn run(seconds: u64, report: &mut Report) {
    let dropped = dropped_packets();
    let children = KINDS.map(|kind| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["idle-crowd", &seconds.to_string(), kind, &CROWD.to_string()])
            .stdout(Stdio::piped());
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

/// One crowd of this many.
pub(crate) fn inside(seconds: u64, kind: &str, size: u32, report: &mut Report) {
    let mut server = Trial::start(&[]);
    let (address, begin) = (server.address, Instant::now());
    let network = (0..).zip(KINDS).find(|(_, one)| *one == kind).map_or(0, |(network, _)| network);
    let connect = |number: u32| {
        if kind == "evenly" {
            let due = EVENLY * number / size;
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        authenticated_from(source(network, number), address)
    };
    let mut crowd: Vec<TcpStream> = (0..size).map(connect).collect();
    let mut left = 0;
    if kind == "again" {
        crowd.clear();
        while server.counters().get("connections") > 0 {
            thread::sleep(LOOK);
        }
        left = u64::from(size);
        // The ports of the first crowd rest in TIME_WAIT.
        crowd.extend((size..2 * size).map(connect));
    }
    while server.counters().get("authenticated") < left + u64::from(size) {
        thread::sleep(LOOK);
    }
    let connected = begin.elapsed();
    let busy = server.processor_time();
    thread::sleep(Duration::from_secs(seconds));
    let (busy, counters) = (server.processor_time() - busy, server.counters());
    let lost = counters.get("accepted") - left - counters.get("connections");
    let answered = crowd.iter().filter(|stream| try_exchange(stream, b"still here")).count();
    report.note(&format!("{kind}: connections, time"), format!("{size}, {connected:.1?}"));
    let probes = counters.get("probes");
    let each = probes as f64 / f64::from(size);
    report.note("keepalive probes", format!("{probes}, {each:.1} per connection"));
    let share = 100.0 * busy.as_secs_f64() / seconds as f64;
    report.note("the server's processor time", format!("{share:.2} %"));
    report.note("its resident memory", format!("{} KiB", server.resident()));
    report.check("closed by the server", lost, "none", lost == 0);
    let all = answered == crowd.len();
    report.check("answered at the end", answered, &format!("{size}"), all);
}

/// As many sources as it takes: of the 28,000 ports of one, Linux finds the second half slowly.
/// Crowds that run side by side need different networks.
pub(crate) fn source(network: u8, number: u32) -> Ipv4Addr {
    let first = Ipv4Addr::new(127, 0, 64 + network, 1);
    Ipv4Addr::from(u32::from(first) + number / 14_000)
}

/// Packets dropped at full processor queues since boot.
pub(crate) fn dropped_packets() -> u64 {
    let statistics = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = |line: &str| {
        u64::from_str_radix(line.split_ascii_whitespace().nth(1).expect("the second column"), 16)
    };
    statistics.lines().map(|line| dropped(line).expect("it is hexadecimal")).sum()
}
