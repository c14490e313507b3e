//! Network partitions, and peers that vanish without a packet.
//!
//! The server has its own network namespace, joined to the clients' by a pair of veth devices. A
//! blackhole route to a client address and a rule from it partition the network; a socket closed in
//! TCP_REPAIR mode sends neither FIN nor RST. The connection then ends by keepalive or by the time
//! limit of a `sendall`. Each kind of connection has its own client address, which identifies it in
//! the server's counters.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use saltecho::socket;

use crate::Report;
use crate::client::{PATIENCE, authenticated_from, exchange, fill};
use crate::server::Trial;

/// Connections of each kind.
const EACH: usize = 50;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const IDLE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const UNANSWERED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);
const DEAF: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 4);
const VANISHING: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const VANISHING_DEAF: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 6);
const BYSTANDING: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);
/// Addresses that the partition cuts off.
const PARTITIONED: [Ipv4Addr; 3] = [IDLE, UNANSWERED, DEAF];
/// Addresses whose connections end.
const ENDING: [Ipv4Addr; 5] = [IDLE, UNANSWERED, DEAF, VANISHING, VANISHING_DEAF];
/// Default keepalive period. A silent peer is probed after 1 to 1.5 periods, and then has 1/6 to 1/4
/// period for each of six answers.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Tolerated delay on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// Starts this program again in its own network, as `partitioned`.
pub(crate) fn run(send_timeout: u64, report: &mut Report) {
    let program = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .arg("-n")
        .arg(program)
        .args(["partitioned", &send_timeout.to_string()])
        .status();
    let held = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    report.check("in its own networks (unshare, nsenter, ip)", held, "true", held);
}

/// Runs the trial inside the clients' network. `send_timeout` is in seconds.
pub(crate) fn inside(send_timeout: u64, report: &mut Report) {
    let mut command = Command::new("unshare");
    command.arg("-n").arg(std::env::current_exe().unwrap());
    command.args(["serve", "listen=0.0.0.0:0", "by_source=1"]);
    command.arg(format!("send_timeout={send_timeout}"));
    let mut server = Trial::start_command(command);
    let pid = server.pid();
    let near = ENDING.into_iter().chain([BYSTANDING]);
    let near: Vec<String> = near.map(|ip| format!("ip address add {ip}/24 dev near")).collect();
    sh(&format!(
        "ip link add near type veth peer name far netns {pid} && {} && ip link set near up",
        near.join(" && ")
    ));
    let there = format!("nsenter --net=/proc/{pid}/ns/net");
    sh(&format!("{there} ip address add {SERVER}/24 dev far && {there} ip link set far up"));
    let address = SocketAddr::from((SERVER, server.address.port()));
    let descriptors = server.descriptors();

    let connect = |from| (0..EACH).map(|_| authenticated_from(from, address)).collect::<Vec<_>>();
    let [idle, unanswered, deaf, vanishing, vanishing_deaf] = ENDING.map(connect);
    let bystanders = connect(BYSTANDING);
    let all = [&idle, &unanswered, &deaf, &vanishing, &vanishing_deaf, &bystanders];
    let begin = Instant::now();
    for stream in all.into_iter().flatten() {
        assert_eq!(exchange(stream, b"here"), b"HERE");
    }
    let filling = begin.elapsed();
    thread::scope(|scope| {
        for stream in deaf.iter().chain(&vanishing_deaf) {
            scope.spawn(|| fill(stream));
        }
    });
    let filled = begin.elapsed();
    // First one direction only: the message arrives, its answer does not.
    let received = server.counters().get("received");
    PARTITIONED.iter().for_each(|ip| sh(&format!("{there} ip route add blackhole {ip}/32")));
    for mut stream in &unanswered {
        stream.write_all(b"is anybody there?").unwrap();
    }
    while server.counters().get("received") < received + 17 * EACH as u64 {
        assert!(begin.elapsed() < 2 * PATIENCE, "the messages do not arrive");
    }
    PARTITIONED.iter().for_each(|ip| sh(&format!("ip rule add from {ip} blackhole")));
    let partitioned = begin.elapsed();
    vanishing.into_iter().chain(vanishing_deaf).for_each(vanish);
    let vanished = begin.elapsed();

    let ends = watch(&mut server, &bystanders, begin, report);
    let (zero, send_timeout) = (Duration::ZERO, Duration::from_secs(send_timeout));
    let patience = KEEPALIVE / 4;
    for (what, source, after, since) in [
        // When its time is up there is a last look. The kernel may take the rest then (why it did not
        // before is not known), and the next answer has its own time.
        ("partitioned, unfinished sendall", DEAF, send_timeout..2 * send_timeout, filling..filled),
        (
            "partitioned, answer in flight",
            UNANSWERED,
            2 * KEEPALIVE..2 * KEEPALIVE + patience,
            filled..partitioned,
        ),
        ("partitioned, idle", IDLE, 2 * KEEPALIVE..3 * KEEPALIVE, zero..filling),
        ("vanished, idle", VANISHING, KEEPALIVE..KEEPALIVE * 3 / 2, zero..filling),
        ("vanished, unfinished answer", VANISHING_DEAF, zero..zero, filling..vanished),
    ] {
        check(
            report,
            what,
            &ends[&source],
            since.start + after.start..since.end + after.end + SLACK,
        );
    }
    let counters = server.counters();
    for (reason, kinds) in [("SendTimeout", 1), ("PeerVanished", 2), ("Reset", 2)] {
        let (count, due) = (counters.get(reason), kinds * EACH as u64);
        report.check(&format!("ended: {reason}"), count, &due.to_string(), count == due);
    }
    drop((idle, unanswered, deaf, bystanders));
    let gone = Instant::now();
    while server.descriptors() > descriptors && gone.elapsed() < PATIENCE {
        thread::yield_now();
    }
    let left = server.descriptors() - descriptors;
    report.check("descriptors not freed", left, "none", left == 0);
}

/// Times of the ends of connections by source address, since the start.
type Ends = BTreeMap<Ipv4Addr, Vec<Duration>>;

/// Waits until only the bystanders are left, which exchange messages all the time.
fn watch(
    server: &mut Trial,
    bystanders: &[TcpStream],
    begin: Instant,
    report: &mut Report,
) -> Ends {
    let (over, exchanges) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut ends: Ends = ENDING.iter().map(|source| (*source, Vec::new())).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for stream in bystanders {
                    assert_eq!(exchange(stream, b"and here"), b"AND HERE");
                    exchanges.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        loop {
            let counters = server.counters();
            for (source, times) in &mut ends {
                let ended = usize::try_from(counters.get(&source.to_string())).unwrap();
                times.resize(ended, begin.elapsed());
            }
            let left = counters.get("connections") - bystanders.len() as u64;
            if left == 0 || begin.elapsed() > Duration::from_secs(240) {
                report.check("connections left, without the bystanders", left, "none", left == 0);
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    let exchanges = exchanges.into_inner();
    report.note("correct exchanges of the bystanders", exchanges);
    ends
}

/// Checks that all connections of one kind ended within this time.
fn check(report: &mut Report, what: &str, times: &[Duration], within: Range<Duration>) {
    let (first, last) = (times.first().copied(), times.last().copied());
    let kept = times.len() == EACH && times.iter().all(|time| within.contains(time));
    report.check(
        what,
        format!(
            "{} of {EACH}, {:.1?} to {:.1?}",
            times.len(),
            first.unwrap_or_default(),
            last.unwrap_or_default()
        ),
        &format!("{:.1?} to {:.1?}", within.start, within.end),
        kept,
    );
}

/// Closes a connection without a packet.
fn vanish(stream: TcpStream) {
    let socket = socket::Socket::from_fd(OwnedFd::from(stream)).unwrap();
    socket.setsockopt(libc::IPPROTO_TCP, libc::TCP_REPAIR, 1).unwrap();
    socket.close();
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}
