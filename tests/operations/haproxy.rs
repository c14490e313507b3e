//! HAProxy in front of three servers, with the configuration that `saltecho generate haproxy`
//! prints: health, one server killed, one drained; and the addresses that its PROXY headers tell.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::client::{
    PATIENCE, authenticated, authenticated_from, connect_from, digest, exchange, read_challenge,
    rest,
};
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
        Self::start_with(servers, str::to_owned)
    }

    /// Starts it with a configuration that was edited.
    fn start_with(servers: &[SocketAddr], edit: impl Fn(&str) -> String) -> Option<Self> {
        let mut haproxy = HAPROXY.find()?;
        let files = Files::new();
        let socket = files.path().join("stats");
        let address = free_address();
        let config = String::from_utf8(run(&["generate", "haproxy"], b"").stdout).unwrap();
        let (before, _) = config.split_once("    server s1").expect("it has a server");
        let mut config = before.replace("127.0.0.1:9990", &address.to_string());
        for (server, number) in servers.iter().zip(1..) {
            config.push_str(&format!("    server s{number} {server}\n"));
        }
        let config = edit(&config);
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

    /// Waits for these results of the last check of each server: `L7OK/200`.
    #[track_caller]
    fn wait_for_checks<const N: usize>(&self, expected: [&str; N]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let table = self.ask("show stat");
            let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let names = rows.next().expect("the first line names the columns");
            let place = |name| names.iter().position(|known| *known == name).expect(name);
            let (status, code) = (place("check_status"), place("check_code"));
            let servers = rows.filter(|row| row.len() > code && row[1].len() == 2);
            let checks: Vec<String> =
                servers.map(|row| format!("{}/{}", row[status], row[code])).collect();
            if checks == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{checks:?} instead of {expected:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn wait_for<const N: usize>(&self, expected: [&str; N]) -> Vec<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let servers = self.servers();
            if servers.len() == N
                && servers
                    .iter()
                    .zip(expected)
                    .all(|((status, _), wanted)| status.starts_with(wanted))
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
    let mut servers: Vec<Serving> = (0..3).map(|_| behind_haproxy(&[])).collect();
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

    assert_only_checks_ended(&mut servers[1]);
}

/// HAProxy ends a health check with a reset or an end of the stream, and no counter of faults shows
/// it.
#[track_caller]
fn assert_only_checks_ended(server: &mut Serving) {
    let counters = server.counters();
    let (_, closed) = counters.split_once("; closed: ").expect(&counters);
    let reasons: Vec<&str> = closed.split(", ").collect();
    assert!(matches!(reasons[..], [reason] if reason.ends_with(" health check")), "{counters}");
    assert!(!counters.contains("refused"), "{counters}");
}

/// A server that requires headers, from the balancer alone.
fn behind_haproxy(args: &[&str]) -> Serving {
    let proxy = ["--proxy", "require", "--proxy-trust", "127.0.0.1"];
    Serving::start(&[&proxy, args].concat())
}

#[test]
fn the_clients_addresses_arrive_in_both_versions_of_the_header() {
    for (version, id) in [("send-proxy", ""), ("send-proxy-v2 proxy-v2-options unique-id", "name-")]
    {
        let mut server = behind_haproxy(&["-v"]);
        let id_format = "    unique-id-format name-%ci\n    default_backend";
        let balancer = Balancer::start_with(&[server.address], |config| {
            config
                .replace("    default_backend", id_format)
                .replace("default-server send-proxy-v2", &format!("default-server {version}"))
        });
        let Some(balancer) = balancer else { return };
        balancer.wait_for(["UP"]);
        for last in 2..10 {
            let from = Ipv4Addr::new(127, 0, 0, last);
            let stream = authenticated_from(from, balancer.address);
            assert_eq!(exchange(&stream, b"hello"), b"HELLO");
            let port = stream.local_addr().unwrap().port();
            let line = server.running.wait_for(&format!(" comes from {from}:{port} to "));
            assert!(line.contains(&format!(" to {}", balancer.address)), "{line}");
            let named = line.contains(&format!(", unique id {id}{from}"));
            assert_eq!(named, !id.is_empty(), "{version}: {line}");
        }
    }
}

#[test]
fn admission_counts_the_client_and_not_the_balancer() {
    let few = ["--max-unauthenticated", "8", "--max-unauthenticated-per-source", "2"];
    let server = behind_haproxy(&[&few[..], &["--distrust-loopback"]].concat());
    // No check may take a place between two clients.
    let balancer = Balancer::start_with(&[server.address], |config| {
        config.replace("default-server send-proxy-v2 check", "default-server send-proxy-v2")
    });
    let Some(balancer) = balancer else { return };
    balancer.wait_for(["no check"]);
    let silent = |last| connect_from(Ipv4Addr::new(127, 0, 0, last), balancer.address);
    let _crowd: Vec<_> = [2, 2, 3, 3].map(silent).into();
    let third = TcpStream::from(bound_to(Ipv4Addr::new(127, 0, 0, 2), balancer.address));
    assert_eq!(rest(&third).unwrap_or_default(), b"", "beyond the share of its address");
    for last in 4..20 {
        let stream = authenticated_from(Ipv4Addr::new(127, 0, 0, last), balancer.address);
        assert_eq!(exchange(&stream, b"hello"), b"HELLO", "another client of the same balancer");
    }
}

/// A connection from this address, of which nothing is read.
fn bound_to(from: Ipv4Addr, address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&address.into()).expect("HAProxy listens");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Waits until so many connections have ended.
#[track_caller]
fn wait_for_checks(server: &mut Serving, number: u32) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counters = server.counters();
        let closed = counters.split_once("closed: ").and_then(|(_, closed)| {
            closed.split(' ').next().and_then(|count| count.parse::<u32>().ok())
        });
        if closed >= Some(number) {
            return;
        }
        assert!(Instant::now() < deadline, "{counters}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Checks that connect and leave at once, with a header and without, and the one that waits for a
/// challenge.
#[test]
fn no_style_of_health_check_counts_against_the_balancer() {
    let without_script = |config: &str| {
        let lines = config.lines().filter(|line| !line.contains("tcp-check"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    for (style, port) in [("script", false), ("plain", false), ("plain", true)] {
        let mut server = behind_haproxy(&["--distrust-loopback", "--max-unauthenticated", "2"]);
        // With a port of its own a check sends no header.
        let own_port = format!("check port {} inter 20ms", server.address.port());
        let balancer = Balancer::start_with(&[server.address], |config| {
            let config = if style == "plain" { without_script(config) } else { config.to_owned() };
            let inter = if port { &own_port } else { "check inter 20ms" };
            config.replace("check inter 500ms", inter)
        });
        let Some(balancer) = balancer else { return };
        balancer.wait_for(["UP"]);
        if port {
            // HAProxy answers the kernel's SYN-ACK with a reset, so the server sees few of these, if any.
            let counters = server.counters();
            let unseen = counters.contains("accepted 0, ");
            assert!(unseen || counters.contains(" health check"), "{counters}");
        } else {
            wait_for_checks(&mut server, 20);
            assert_only_checks_ended(&mut server);
        }
        let stream = authenticated(balancer.address);
        assert_eq!(exchange(&stream, b"hello"), b"HELLO", "{style}, own port {port}");
        balancer.wait_for(["UP"]);
        let said = server.finish().stderr;
        assert!(!said.contains("PROXY header,"), "{style}, own port {port}: {said}");
    }
}

/// Checks the endpoint by HTTP, at one server for each address.
fn with_http_checks(config: &str, admins: &[SocketAddr]) -> String {
    let lines = config.lines().filter(|line| !line.contains("tcp-check"));
    let mut config = lines.map(|line| format!("{line}\n")).collect::<String>();
    config = config.replace("check inter 500ms", "check inter 100ms").replace(
        "    option redispatch",
        "    option redispatch\n    option httpchk GET /readyz\n    http-check expect status 200",
    );
    for (admin, number) in admins.iter().zip(1..) {
        let server = format!("    server s{number} ");
        let (before, after) = config.split_once(&server).expect("it has the server");
        let (address, rest) = after.split_once('\n').expect("lines end");
        config = format!("{before}{server}{address} port {}\n{rest}", admin.port());
    }
    config
}

/// Two servers that HAProxy asks for /readyz: one drains, which it hears before it could lose a
/// client to a listener that is closed.
#[test]
fn a_drain_with_a_delay_is_seen_by_checks_of_readiness_and_breaks_nothing() {
    let delay = ["--admin", "127.0.0.1:0", "--drain-delay", "1m", "--drain-timeout", "2m"];
    let mut servers: Vec<Serving> = (0..2).map(|_| behind_haproxy(&delay)).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let admins: Vec<SocketAddr> = servers.iter().map(admin).collect();
    let balancer = Balancer::start_with(&addresses, |config| with_http_checks(config, &admins));
    let Some(balancer) = balancer else { return };
    balancer.wait_for(["UP", "UP"]);
    balancer.wait_for_checks(["L7OK/200", "L7OK/200"]);
    let crowd: Vec<TcpStream> = (0..2 * EACH).map(|_| authenticated(balancer.address)).collect();
    assert_eq!(balancer.wait_for(["UP", "UP"]), [EACH; 2]);
    // Each digest has been received when its client has an answer.
    assert!(crowd.iter().all(still_echoes));
    let counters = servers[0].counters();
    let accepted = format!("accepted {EACH}, authenticated {EACH};");
    assert!(counters.contains(&accepted), "a check is no client: {counters}");

    servers[0].running.signal(Signal::TERM);
    balancer.wait_for(["DOWN", "UP"]);
    balancer.wait_for_checks(["L7STS/503", "L7OK/200"]);
    assert!(crowd.iter().all(still_echoes), "connections go on");
    // A client that is sent there nevertheless is served.
    let late = direct(servers[0].address);
    assert_eq!(exchange(&late, b"hello"), b"HELLO");
    let later: Vec<TcpStream> = (0..EACH).map(|_| authenticated(balancer.address)).collect();
    assert_eq!(balancer.wait_for(["DOWN", "UP"]), [EACH, 2 * EACH]);
    drop((crowd, later, late));
}

/// A client that comes to a server without a balancer, with a header of its own.
fn direct(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    let challenge = read_challenge(&stream).unwrap();
    stream.write_all(&digest(&challenge)).unwrap();
    stream
}

/// The address of a server's admin endpoint.
fn admin(server: &Serving) -> SocketAddr {
    let admin = server.start_line.split("admin endpoint ").nth(1).expect("it has one");
    admin.split(": ").next().unwrap().parse().expect("an address")
}
