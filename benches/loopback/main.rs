//! Echoes over real sockets on loopback, beside peers in the same run.
//!
//! Each server is a process of its own (this program again, told by the environment which), so that
//! both ends have all the descriptors that a process may have. All do the same work: challenge,
//! verification, upper-cased echo. The client here is one thread with blocking sockets, the same
//! for all. What is measured is the time of both ends together, kernel included, on however many
//! cores there are: a ratio between two servers is therefore nearer to 1 than the ratio of their
//! own costs, and with one connection it is the scheduler that decides.
//!
//! - `echo/N`: N authenticated connections; 64 bytes are written to each, then the answers are
//!   read. The time is that of all N.
//! - `echo, 100 of N`: as before, but only a hundred of the N say something.
//! - `handshake/64`: sixty-four clients connect, authenticate, have one echo and leave (with a
//!   reset, so that no port has to wait); the time is that of all.
//!
//! Rates under load, latencies and memory are not measured here.

mod peers;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::server::Limits;
use socket2::SockRef;

/// In the environment of a process that is to be a server: which.
const PEER: &str = "SALTECHO_BENCH_PEER";

/// Clients that come at once.
const BATCH: usize = 64;

const MESSAGE: [u8; 64] = [b'x'; 64];
const ANSWER: [u8; 64] = [b'X'; 64];

/// A server in a process of its own, which ends with this value.
struct Peer {
    process: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(name: &str) -> Self {
        let program = std::env::current_exe().expect("a program knows its own path");
        let mut process = Command::new(program)
            .env(PEER, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started once more");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        Self { process, address: line.trim().parse().expect("it says an address") }
    }

    /// Clients that have authenticated and had an echo.
    fn clients(&self, count: usize) -> Vec<TcpStream> {
        let clients: Vec<TcpStream> = (0..count)
            .map(|_| {
                let client = TcpStream::connect(self.address).expect("the peer listens");
                let socket = SockRef::from(&client);
                socket.set_tcp_nodelay(true).expect("a TCP option");
                socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
                client
            })
            .collect();
        for mut client in &clients {
            let mut challenge = [0; Challenge::LEN];
            client.read_exact(&mut challenge).expect("the server speaks first");
            let digest = MacAlgorithm::Md5.digest(&Key::demo(), &Challenge::new(challenge));
            client.write_all(digest.as_bytes()).expect("sent");
        }
        exchange(clients.iter());
        clients
    }

    /// As many as that, who come in batches: a crowd of strangers at once would not be admitted.
    fn crowd(&self, count: usize) -> Vec<TcpStream> {
        let batches = (0..count).step_by(BATCH).map(|done| self.clients(BATCH.min(count - done)));
        batches.flatten().collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("a child can be ended");
    }
}

/// A message to each, then the answer of each.
fn exchange<'a>(clients: impl Iterator<Item = &'a TcpStream> + Clone) {
    for mut client in clients.clone() {
        client.write_all(&MESSAGE).expect("sent");
    }
    for mut client in clients {
        let mut answer = [0; MESSAGE.len()];
        client.read_exact(&mut answer).expect("returned");
        assert_eq!(answer, ANSWER);
    }
}

/// A crowd of 10,000 in an optimised build, and what descriptors allow.
fn crowd() -> usize {
    let smoke = std::env::args().any(|arg| arg == "--test");
    let descriptors = Limits::for_process().connections;
    if smoke { 200 } else { descriptors.min(10_000) }
}

fn echoes(criterion: &mut Criterion) {
    for (connections, busy) in [(1, 1), (100, 100), (crowd(), 100), (crowd(), crowd())] {
        let name = match busy {
            _ if busy == connections => format!("loopback/echo/{connections}"),
            _ => format!("loopback/echo, {busy} of {connections}"),
        };
        let mut group = criterion.benchmark_group(name);
        settings(&mut group, busy);
        for peer in peers::NAMES {
            let mut served = None;
            group.bench_function(BenchmarkId::from_parameter(peer), |bencher| {
                let (_, clients) = served.get_or_insert_with(|| {
                    let peer = Peer::start(peer);
                    let clients = peer.crowd(connections);
                    (peer, clients)
                });
                // They are spread over the whole crowd.
                let busy = clients.iter().step_by(connections / busy).take(busy);
                bencher.iter(|| exchange(busy.clone()));
            });
        }
        group.finish();
    }
}

fn handshakes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("loopback/handshake/{BATCH}"));
    settings(&mut group, BATCH);
    for name in peers::NAMES {
        let mut peer = None;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let peer = peer.get_or_insert_with(|| Peer::start(name));
            bencher.iter(|| drop(peer.clients(BATCH)));
        });
    }
    group.finish();
}

fn settings(group: &mut BenchmarkGroup<'_, WallTime>, elements: usize) {
    group.throughput(Throughput::Elements(elements as u64));
    if elements >= 1000 {
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
    }
}

fn main() {
    if let Ok(name) = std::env::var(PEER) {
        return peers::serve(&name);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    echoes(&mut criterion);
    handshakes(&mut criterion);
    criterion.final_summary();
}
