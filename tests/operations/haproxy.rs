//! HAProxy in front of three servers, with the configuration that `saltecho generate haproxy`
//! prints: health, one server killed, one drained.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::client::{PATIENCE, authenticated, exchange};
use crate::common::needs::HAPROXY;
use crate::common::program::*;

const EACH: usize = 8;

/// A balancer with its public address and its admin socket.
struct Balancer {
    _running: Running,
    _files: Files,
    address: SocketAddr,
    socket: PathBuf,
}

impl Balancer {
    fn start(servers: &[SocketAddr]) -> Option<Self> {
        let mut haproxy = HAPROXY.find()?;
        let files = Files::new();
        let socket = files.path().join("stats");
        let address = free_address();
        let config = String::from_utf8(run(&["generate", "haproxy"], b"").stdout).unwrap();
        let (before, _) = config.split_once("    server s1").expect("it has a server");
        let mut config = before.replace("127.0.0.1:9998", &address.to_string());
        for (server, number) in servers.iter().zip(1..) {
            config.push_str(&format!("    server s{number} {server}\n"));
        }
        let stats = format!("global\n    stats socket {} level admin\n", socket.display());
        let path = files.write("haproxy.cfg", format!("{stats}{config}").as_bytes(), 0o600);
        let running = Running::start(haproxy.args(["-db", "-f", &path]), Vec::new());
        Some(Self { _running: running, _files: files, address, socket })
    }

    /// Sends a command to the admin socket, which may not be there yet, and returns the answer.
    fn ask(&self, command: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "haproxy: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The status of each server and its current connections.
    fn servers(&self) -> Vec<(String, usize)> {
        let table = self.ask("show stat");
        let rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let servers =
            rows.filter(|row| row.len() > 17 && row[1].starts_with('s') && row[1].len() == 2);
        servers.map(|row| (row[17].to_owned(), row[4].parse().unwrap())).collect()
    }

    #[track_caller]
    fn wait_for(&self, expected: [&str; 3]) -> Vec<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let servers = self.servers();
            if servers.iter().zip(expected).all(|((status, _), wanted)| status.starts_with(wanted))
            {
                return servers.into_iter().map(|(_, connections)| connections).collect();
            }
            assert!(Instant::now() < deadline, "{servers:?} instead of {expected:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn still_echoes(mut stream: &TcpStream) -> bool {
    let mut answer = [0; 1];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"X"
}

#[test]
fn a_killed_server_loses_its_connections_and_a_drained_one_does_not() {
    let mut servers: Vec<Serving> = (0..3).map(|_| Serving::start(&[])).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let Some(balancer) = Balancer::start(&addresses) else { return };
    balancer.wait_for(["UP", "UP", "UP"]);
    let crowd: Vec<TcpStream> = (0..3 * EACH).map(|_| authenticated(balancer.address)).collect();
    crowd.iter().for_each(|stream| assert_eq!(exchange(stream, b"hello"), b"HELLO"));
    assert_eq!(balancer.wait_for(["UP", "UP", "UP"]), [EACH; 3], "the fewest first");

    servers[0].running.signal(Signal::KILL);
    balancer.wait_for(["DOWN", "UP", "UP"]);
    let (alive, broken): (Vec<_>, Vec<_>) = crowd.into_iter().partition(still_echoes);
    assert_eq!((alive.len(), broken.len()), (2 * EACH, EACH));

    balancer.ask("set server saltecho/s2 state drain");
    balancer.wait_for(["DOWN", "DRAIN", "UP"]);
    let later: Vec<TcpStream> = (0..EACH).map(|_| authenticated(balancer.address)).collect();
    assert!(alive.iter().chain(&later).all(still_echoes), "a drain breaks nothing");
    assert_eq!(balancer.wait_for(["DOWN", "DRAIN", "UP"])[1..], [EACH, 2 * EACH]);

    // HAProxy ends a health check with a reset, which counts as no failure.
    let counters = servers[1].counters();
    assert!(counters.contains(" reset by peer"), "{counters}");
    for fault in ["network error", "turned away", "refused"] {
        assert!(!counters.contains(fault), "{counters}");
    }
}
