//! Bogus connections as fast as one core can make them, together with honest clients.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Report;
use crate::client::{authenticated, digest, read_challenge, try_exchange};
use crate::server::Trial;

/// Sources of the flood, 127.0.0.100 and on.
const SOURCES: u64 = 64;
/// Honest clients connected for the whole trial.
const ESTABLISHED: usize = 200;
/// Threads that connect honest clients, one after another.
const HONEST: u8 = 4;
/// Time limit of an honest client for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs all kinds of bogus clients.
pub(crate) fn run(seconds: u64, report: &mut Report) {
    flood(seconds, "distrust=1", "all", report);
}

/// Runs silent clients only, which fail no authentication before their timeout.
pub(crate) fn silent(seconds: u64, report: &mut Report) {
    flood(seconds, "distrust=1", "silent", report);
}

/// Runs silent clients against a server that trusts their source, to show the effect of the checks by
/// source. No bound applies.
pub(crate) fn trusted(seconds: u64, report: &mut Report) {
    let failed = report.failed;
    flood(seconds, "trust=1", "silent", report);
    report.failed = failed;
}

fn flood(seconds: u64, option: &str, kinds: &str, report: &mut Report) {
    let mut server = Trial::start(&[option]);
    let address = server.address;
    let established: Vec<TcpStream> = (0..ESTABLISHED).map(|_| authenticated(address)).collect();
    let resident_before = server.resident();
    let begin = Instant::now();
    let time = Duration::from_secs(seconds);
    // Pinned to one core; the flooder has one thread.
    let mut flooder = Command::new("taskset")
        .args(["-c", "1"])
        .arg(std::env::current_exe().unwrap())
        .args(["flooder", &address.to_string(), &seconds.to_string(), kinds])
        .stdout(Stdio::piped())
        .spawn()
        .expect("taskset (util-linux) is installed");
    let (came, served, lost) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (latencies, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut peak = (0, 0);
    thread::scope(|scope| {
        for number in 0..HONEST {
            let (over, came, served, latencies) = (&over, &came, &served, &latencies);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    came.fetch_add(1, Ordering::Relaxed);
                    match honest([127, 0, 1, number], address) {
                        Ok(()) => {
                            served.fetch_add(1, Ordering::Relaxed);
                            latencies.lock().unwrap().push(begin.elapsed());
                        }
                        Err(error) => eprintln!("  an honest client: {error}"),
                    }
                    // 25 per second and thread: single clients, not another flood.
                    thread::sleep(Duration::from_millis(40));
                }
            });
        }
        scope.spawn(|| {
            let mut gone = [false; ESTABLISHED];
            while !over.load(Ordering::Relaxed) {
                for (i, stream) in
                    established.iter().enumerate().filter(|(i, _)| !gone[*i]).collect::<Vec<_>>()
                {
                    if !try_exchange(stream, b"alive") {
                        gone[i] = true;
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        while begin.elapsed() < time {
            let counters = server.counters();
            peak.0 = peak.0.max(counters.get("unauthenticated"));
            peak.1 = peak.1.max(server.resident());
            thread::sleep(Duration::from_millis(200));
        }
        over.store(true, Ordering::Relaxed);
    });
    let output = flooder.stdout.take().map(|mut stdout| {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    flooder.wait().unwrap();
    let counters = server.counters();
    let mut latencies = latencies.into_inner().unwrap();
    latencies.sort_unstable();
    let (came, served) = (came.into_inner(), served.into_inner());
    report.note("bogus connections", output.unwrap_or_default().trim());
    for (what, name) in [
        ("accepted in all", "accepted"),
        ("refused, source suspect", "suspects"),
        ("refused, source over its share", "over_share"),
        ("shed", "shed"),
        ("evicted", "Evicted"),
        ("wrong digest", "Rejected"),
        ("authentication timed out", "AuthTimeout"),
        ("reset", "Reset"),
    ] {
        report.note(what, counters.get(name));
    }
    report.note("peak of unauthenticated connections", peak.0);
    let at = |per_cent| latencies.get(latencies.len() * per_cent / 100);
    report.note(
        "honest clients: median, 99th percentile, maximum",
        format!("{:.1?} {:.1?} {:.1?}", at(50), at(99), latencies.last()),
    );
    let share = 100.0 * served as f64 / came as f64;
    report.check(
        "honest clients authenticated",
        format!("{served} of {came}, {share:.3} %"),
        ">= 99.9 %",
        share >= 99.9,
    );
    let lost = lost.into_inner();
    report.check("established clients lost", format!("{lost} of {ESTABLISHED}"), "none", lost == 0);
    let resident = format!("{resident_before} -> {} KiB", peak.1);
    report.check(
        "resident memory, before and peak",
        resident,
        "+ 64 MiB",
        peak.1 < resident_before + (64 << 10),
    );
}

/// Connects an honest client, authenticates and exchanges one message.
fn honest(source: [u8; 4], address: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let challenge = read_challenge(&stream)?;
    (&stream).write_all(&digest(&challenge))?;
    let mut answer = [0; 6];
    (&stream).write_all(b"honest")?;
    (&stream).read_exact(&mut answer)?;
    assert_eq!(&answer, b"HONEST");
    Ok(())
}

/// Runs the flooding process: four kinds in turn, without waiting for answers.
pub(crate) fn flooder(args: &[String]) {
    let (address, seconds) = (args[0].parse::<SocketAddr>().unwrap(), args[1].parse().unwrap());
    let (begin, time, all) = (Instant::now(), Duration::from_secs(seconds), args[2] == "all");
    // Numbers kept open of each kind: together close to the descriptor limit of 20,000.
    let (mut silent, mut dripping, mut wrong) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    let (mut made, mut failed, mut dripped) = (0u64, 0u64, Instant::now());
    while begin.elapsed() < time {
        let Ok(socket) = bogus(u8::try_from(made % SOURCES).expect("there are 64"), address) else {
            failed += 1;
            continue;
        };
        made += 1;
        // Every source makes every kind: the kind changes after a round of all sources.
        match if all { made / SOURCES % 4 } else { 0 } {
            0 => keep(&mut silent, socket, 9000),
            1 => keep(&mut dripping, socket, 3000),
            2 => {
                let _ = socket.send(&[7; 16]);
                keep(&mut wrong, socket, 500);
            }
            _ => {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
        if dripped.elapsed() >= Duration::from_secs(1) {
            dripped = Instant::now();
            for socket in &dripping {
                let _ = socket.send(b"x");
            }
        }
    }
    let rate = made as f64 / begin.elapsed().as_secs_f64();
    println!("{made} in {seconds} s, {rate:.0} per second, {failed} failed");
}

fn keep(kept: &mut VecDeque<Socket>, socket: Socket, most: usize) {
    kept.push_back(socket);
    if kept.len() > most {
        kept.pop_front();
    }
}

fn bogus(source: u8, address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 100 + source], 0)).into())?;
    socket.set_nonblocking(true)?;
    // On loopback the TCP handshake completes inside the call, unless the queue is full.
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}
