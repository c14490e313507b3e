//! Orderly closes with a pending answer, over a network that loses segments.
//!
//! The network is loopback in its own namespace, where nftables drops one packet in twenty.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::client::{authenticated, digest, exchange, pattern, read_challenge};
use crate::server::Trial;

/// Shell commands that set up the network: loopback up, then the loss.
const NETWORK: &str = "ip link set lo up && nft add table ip lossy && \
    nft 'add chain ip lossy in { type filter hook input priority 0; }' && \
    nft add rule ip lossy in numgen random mod 100 '<' 5 counter drop";

/// Concurrent clients; each makes one connection after another.
const CLIENTS: u64 = 500;

/// Starts this program again in its own network, as `lossy-closing`.
pub(crate) fn run(closes: u64, report: &mut Report) {
    let program = std::env::current_exe().unwrap();
    let script = format!("{NETWORK} && exec '{}' lossy-closing {closes}", program.display());
    let status = Command::new("unshare").args(["-n", "sh", "-c", &script]).status();
    let held = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    report.check("in its own network (unshare, ip, nft)", held, "true", held);
}

/// Runs the trial inside that network.
pub(crate) fn inside(closes: u64, report: &mut Report) {
    let mut server = Trial::start(&["no_auth_timeout=1"]);
    let address = server.address;
    let (done, missing, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (done, missing, failed) = (&done, &missing, &failed);
            scope.spawn(move || {
                for number in (client..closes).step_by(usize::try_from(CLIENTS).unwrap()) {
                    match close(address, number) {
                        Ok(bytes) => {
                            done.fetch_add(1, Ordering::Relaxed);
                            missing.fetch_add(bytes, Ordering::Relaxed);
                        }
                        Err(error) => {
                            eprintln!("  a connection: {error}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let counters = server.counters();
    report.note("orderly closes, time", format!("{}, {:.1?}", done.into_inner(), begin.elapsed()));
    let rules = Command::new("nft").args(["list", "table", "ip", "lossy"]).output().unwrap();
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    let dropped = rules.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    report.note("packets lost", dropped.unwrap_or("unknown"));
    report.note("answered, bytes", counters.get("sent"));
    let (missing, failed) = (missing.into_inner(), failed.into_inner());
    report.check("bytes missing", missing, "none", missing == 0);
    report.check("connections that failed", failed, "none", failed == 0);
    kill(&mut server, report);
}

/// Destroys the sockets of both ends of some connections (`ss -K`).
fn kill(server: &mut Trial, report: &mut Report) {
    let victims: Vec<TcpStream> = (0..50).map(|_| authenticated(server.address)).collect();
    for stream in &victims {
        assert_eq!(exchange(stream, b"alive"), b"ALIVE");
    }
    let port = format!("sport = :{}", server.address.port());
    let killed = Command::new("ss").args(["-K", "-t", "state", "established", &port]).output();
    assert!(killed.unwrap().status.success(), "ss -K");
    let begin = Instant::now();
    while server.counters().get("connections") > 0 && begin.elapsed() < Duration::from_secs(10) {
        thread::yield_now();
    }
    let left = server.counters().get("connections");
    report.check("left of 50 whose sockets were destroyed", left, "none", left == 0);
    drop(victims);
}

/// Sends all data, ends the stream, and only then reads. Returns the number of missing bytes of the
/// answer.
fn close(address: SocketAddr, number: u64) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let challenge = read_challenge(&stream)?;
    let data = pattern(1 + usize::try_from(number % 16).unwrap() * 4096);
    stream.write_all(&digest(&challenge))?;
    stream.write_all(&data)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert!(data.to_ascii_uppercase().starts_with(&answer), "a corrupt byte");
    Ok((data.len() - answer.len()) as u64)
}
