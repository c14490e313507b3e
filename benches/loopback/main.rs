//! Echoes over real sockets on loopback, compared with other servers in the same run.
//!
//! Each server is its own process (this program again, selected by the environment), so that both
//! ends have the full number of descriptors. All do the same work: challenge, verification,
//! upper-cased echo. The client is the same for all, one thread with blocking sockets. The time is
//! that of both ends together, kernel included, on all cores. The ratio of two servers is therefore
//! closer to 1 than the ratio of their own costs, and with one connection the scheduler dominates.
//!
//! - `echo/N`: N authenticated connections; 64 bytes are written to each, then the answers are
//!   read. The time is for all N.
//! - `echo, 100 of N`: the same, but only a hundred of the N send.
//! - `handshake/64`: 64 clients connect, authenticate, exchange one message and close (with a reset,
//!   so that no port stays in TIME_WAIT); the time is for all.
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

/// Environment variable that makes a process this server.
const PEER: &str = "SALTECHO_BENCH_PEER";

/// Clients that connect at the same time.
const BATCH: usize = 64;

const MESSAGE: [u8; 64] = [b'x'; 64];
const ANSWER: [u8; 64] = [b'X'; 64];

/// A server process, killed when this value is dropped.
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
        BufReader::new(stdout).read_line(&mut line).expect("it prints its address");
        Self { process, address: line.trim().parse().expect("it prints an address") }
    }

    /// Connects clients, authenticates them and exchanges one message.
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
            client.read_exact(&mut challenge).expect("the server sends first");
            let digest = MacAlgorithm::Md5.digest(&Key::demo(), &Challenge::new(challenge));
            client.write_all(digest.as_bytes()).expect("sent");
        }
        exchange(clients.iter());
        clients
    }

    /// Connects a crowd in batches, below the limit of unauthenticated connections.
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

/// Sends a message to each, then reads each answer.
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

/// Size of the crowd: 10,000, less if descriptors do not allow it, 200 in test mode.
fn crowd() -> usize {
    let test = std::env::args().any(|arg| arg == "--test");
    let descriptors = Limits::for_process().connections;
    if test { 200 } else { descriptors.min(10_000) }
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
                // Spread over the whole crowd.
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
