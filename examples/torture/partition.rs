//! A network that falls apart under connections, and peers that vanish without a word.
//!
//! The server has a network namespace of its own, joined to the clients' by a pair of veth
//! devices. A blackhole route towards one of the clients' addresses, and a rule from it, parts
//! them; a socket that is closed in TCP_REPAIR mode sends neither FIN nor RST. What ends a
//! connection is then the kernel's patience (TCP_USER_TIMEOUT, keepalive) or one `sendall`'s time.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use saltecho::socket;
use socket2::{Domain, Socket, Type};

use crate::Report;
use crate::client::{PATIENCE, digest, exchange, fill, read_challenge};
use crate::server::{Counters, Trial};

/// Connections of each kind.
const EACH: usize = 50;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PARTED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const VANISHING: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);
const BYSTANDING: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 4);
/// What the listener's sockets are told: see `MioKernel::adopt`.
const KEEPALIVE: Duration = Duration::from_secs(120);
const PROBES: Duration = Duration::from_secs(20);
const USER_MARGIN: Duration = Duration::from_secs(115);
/// How late a bound may be kept on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// Starts this program again in a network of its own, as `partitioned`.
pub(crate) fn run(send_timeout: u64, report: &mut Report) {
    let program = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .arg("-n")
        .arg(program)
        .args(["partitioned", &send_timeout.to_string()])
        .status();
    let held = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    report.check("in networks of its own (unshare, nsenter, ip)", held, "true", held);
}

/// The trial itself, inside the clients' network. `send_timeout` is in seconds.
pub(crate) fn inside(send_timeout: u64, report: &mut Report) {
    let mut command = Command::new("unshare");
    command.arg("-n").arg(std::env::current_exe().unwrap());
    command.args(["serve", "listen=0.0.0.0:0", &format!("send_timeout={send_timeout}")]);
    let mut server = Trial::start_command(command);
    let pid = server.pid();
    let near = [PARTED, VANISHING, BYSTANDING].map(|ip| format!("ip address add {ip}/24 dev near"));
    sh(&format!(
        "ip link add near type veth peer name far netns {pid} && {} && ip link set near up",
        near.join(" && ")
    ));
    let there = format!("nsenter --net=/proc/{pid}/ns/net");
    sh(&format!("{there} ip address add {SERVER}/24 dev far && {there} ip link set far up"));
    let address = SocketAddr::from((SERVER, server.address.port()));
    let descriptors = server.descriptors();

    let connect = |from| (0..EACH).map(|_| authenticated(from, address)).collect::<Vec<_>>();
    let (idle, unanswered, deaf) = (connect(PARTED), connect(PARTED), connect(PARTED));
    let (vanishing, vanishing_deaf) = (connect(VANISHING), connect(VANISHING));
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
    // First one way: what is said arrives, and its answer does not.
    let received = server.counters().of("received");
    sh(&format!("{there} ip route add blackhole {PARTED}/32"));
    for mut stream in &unanswered {
        stream.write_all(b"is anybody there?").unwrap();
    }
    while server.counters().of("received") < received + 17 * EACH as u64 {
        assert!(begin.elapsed() < 2 * PATIENCE, "what was said does not arrive");
    }
    sh(&format!("ip rule add from {PARTED} blackhole"));
    let parted = begin.elapsed();
    vanishing.into_iter().chain(vanishing_deaf).for_each(vanish);
    let vanished = begin.elapsed();

    let ends = watch(&mut server, &bystanders, begin, report);
    let send_timeout = Duration::from_secs(send_timeout);
    let user_timeout = send_timeout + USER_MARGIN;
    let mut keepalive = KEEPALIVE + PROBES;
    while keepalive < user_timeout {
        keepalive += PROBES;
    }
    let (transport, answered) = (&ends.transport_errors, EACH.min(ends.transport_errors.len()));
    for (what, times, after, since) in [
        ("parted, a sendall unfinished", &ends.send_timeouts[..], send_timeout, filling..filled),
        ("parted, an answer under way", &transport[..answered], user_timeout, filled..parted),
        ("parted, idle", &transport[answered..], keepalive, Duration::ZERO..filling),
        (
            "vanished, idle",
            &ends.resets[EACH.min(ends.resets.len())..],
            KEEPALIVE,
            Duration::ZERO..filling,
        ),
    ] {
        check(report, what, times, after, since);
    }
    let probed = &ends.resets[..EACH.min(ends.resets.len())];
    check(report, "vanished, an answer unfinished", probed, Duration::ZERO, filling..vanished);
    drop((idle, unanswered, deaf, bystanders));
    let gone = Instant::now();
    while server.descriptors() > descriptors && gone.elapsed() < PATIENCE {
        thread::yield_now();
    }
    let left = server.descriptors() - descriptors;
    report.check("descriptors that did not come back", left, "none", left == 0);
}

/// When connections ended for each reason, since the beginning.
#[derive(Default)]
struct Ends {
    send_timeouts: Vec<Duration>,
    transport_errors: Vec<Duration>,
    resets: Vec<Duration>,
}

impl Ends {
    fn note(&mut self, counters: &Counters, now: Duration) {
        for (times, reason) in [
            (&mut self.send_timeouts, "SendTimeout"),
            (&mut self.transport_errors, "TransportError"),
            (&mut self.resets, "Reset"),
        ] {
            times.resize(usize::try_from(counters.of(reason)).unwrap(), now);
        }
    }
}

/// Waits until none but the bystanders is left, who talk all the time.
fn watch(
    server: &mut Trial,
    bystanders: &[TcpStream],
    begin: Instant,
    report: &mut Report,
) -> Ends {
    let (over, exchanges) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut ends = Ends::default();
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
            ends.note(&counters, begin.elapsed());
            let left = counters.of("connections") - bystanders.len() as u64;
            if left == 0 || begin.elapsed() > Duration::from_secs(240) {
                report.check("left of the others", left, "none", left == 0);
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    let exchanges = exchanges.into_inner();
    report.tell("exchanges of the others meanwhile, all right", exchanges);
    ends
}

/// `after` counts from some moment within `since`.
fn check(
    report: &mut Report,
    what: &str,
    times: &[Duration],
    after: Duration,
    since: Range<Duration>,
) {
    let within = since.start + after..since.end + after + SLACK;
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

fn authenticated(from: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let challenge = read_challenge(&stream).unwrap();
    stream.write_all(&digest(&challenge)).unwrap();
    stream
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
