//! Several workers on one address: they serve, replace keys, count, drain and fail together.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;

use crate::common::client::*;
use crate::common::needs::STRACE;
use crate::common::program::{Files, Serving, Signal, run, saltecho};
use crate::common::server::{any_port, assert_balanced, assert_refused, wait_for};
use crate::common::strace::Tracer;
use saltecho::auth::{Key, Keyring, MacAlgorithm};
use saltecho::proto::{CloseReason, Config, Protocol};
use saltecho::reactor::AdminAddress;
use saltecho::server::{BuildError, Control, Limits, Note, Running, Server};
use socket2::{Domain, Socket, Type};

const WORKERS: usize = 3;
/// Enough for each worker to get some: the chance that one of three gets none is 10^-17.
const CROWD: usize = 100;

fn spawn() -> Running {
    Server::builder().listen(any_port()).spawn_workers(WORKERS).unwrap()
}

fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let crowd: Vec<_> = (0..CROWD).map(|_| authenticated(address)).collect();
    crowd.iter().for_each(|stream| assert_eq!(exchange(stream, b"hello"), b"HELLO"));
    crowd
}

#[test]
fn workers_serve_count_and_drain_together() {
    let running = spawn();
    let address = running.addresses()[0];
    let crowd = crowd(address);
    let stats = running.handle().stats().unwrap();
    assert_eq!((stats.loops, stats.connections, stats.accepted), (WORKERS, CROWD, CROWD as u64));
    let imbalance = stats.imbalance().unwrap();
    assert!((1.0..WORKERS as f64).contains(&imbalance), "one loop has all of them: {stats:?}");
    assert!(stats.accepted_by_busiest < CROWD as u64, "{stats:?}");
    running.handle().drain();
    for stream in &crowd {
        assert_eq!(rest(stream).unwrap(), b"", "an orderly end");
    }
    drop(crowd);
    let stats = running.drain().unwrap();
    assert_eq!((stats.loops, stats.closed(CloseReason::Drained)), (WORKERS, CROWD as u64));
    assert_balanced(&stats);
    assert_refused(address);
}

#[test]
fn new_keys_reach_every_worker() {
    let running = spawn();
    let new = Key::new(b"the key of tomorrow".to_vec());
    let keyring = Keyring::single(MacAlgorithm::Md5, &new);
    running.handle().replace_keyring(keyring);
    for _ in 0..CROWD {
        let (mut stream, challenge) = connect(running.addresses()[0]);
        stream.write_all(MacAlgorithm::Md5.digest(&new, &challenge).as_bytes()).unwrap();
        assert_eq!(exchange(&stream, b"hello"), b"HELLO");
        let refused = authenticated(running.addresses()[0]);
        assert_eq!(rest(&refused).unwrap(), b"", "the old key is still good");
    }
    let stats = running.stop().unwrap();
    assert_eq!(stats.closed(CloseReason::Rejected), CROWD as u64);
}

#[test]
fn limits_are_divided_between_the_workers() {
    let limits = Limits::for_connections(WORKERS * 2);
    let builder = || Server::builder().listen(any_port()).limits(limits);
    let running = builder().spawn_workers(WORKERS).unwrap();
    let crowd: Vec<_> =
        (0..CROWD).map(|_| TcpStream::connect(running.addresses()[0]).unwrap()).collect();
    let full = wait_for(&running, "a full house", |stats| stats.connections == WORKERS * 2);
    assert_eq!(full.peak_connections, WORKERS * 2);
    drop(crowd);
    running.stop().unwrap();
    let error = builder().spawn_workers(WORKERS * 2 + 1).unwrap_err();
    assert!(matches!(error, BuildError::Zero("connections")), "{error}");
    assert!(matches!(builder().spawn_workers(0).unwrap_err(), BuildError::Zero("workers")));
}

#[test]
fn an_address_in_use_is_refused_even_if_its_owner_shares_it() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&any_port().into()).unwrap();
    socket.listen(1).unwrap();
    let taken = socket.local_addr().unwrap().as_socket().unwrap();
    let running = spawn();
    for address in [taken, running.addresses()[0]] {
        for workers in [1, 2] {
            let refused = Server::builder().listen(address).spawn_workers(workers).unwrap_err();
            assert!(matches!(refused, BuildError::Listen { .. }), "{workers}: {refused}");
        }
    }
    running.stop().unwrap();
    let alone = Server::builder().listen(any_port()).spawn_workers(1).unwrap();
    let joined = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    joined.set_reuse_port(true).unwrap();
    let refused = joined.bind(&alone.addresses()[0].into());
    assert!(refused.is_err(), "a server of one loop shares its port");
}

#[test]
fn what_cannot_be_built_is_known_before_anything_is_opened() {
    let listener = || std::net::TcpListener::bind(any_port()).unwrap();
    let mut plain = Config::new(Keyring::demo());
    plain.protocol = Protocol::Plain;
    for builder in
        [Server::builder().listen_proxy(any_port()), Server::builder().proxy_listener(listener())]
    {
        let refused = builder.config(plain.clone()).check_workers(1).unwrap_err();
        assert!(matches!(refused, BuildError::PlainBehindProxy), "{refused}");
    }
    let refused = Server::builder().check_workers(1).unwrap_err();
    assert!(matches!(refused, BuildError::NoAddress), "{refused}");
    let refused = Server::builder().listen(any_port()).check_workers(1_000_000).unwrap_err();
    assert!(matches!(refused, BuildError::NoDescriptors { .. }), "{refused}");

    // Each listener takes a descriptor from the connections, before it is opened and after.
    let mut limits = Limits::for_connections(usize::MAX / 2);
    limits.unauthenticated = 1;
    let beside_connections = |refused| {
        let BuildError::Descriptors { wanted, needed, .. } = refused else { panic!("{refused}") };
        needed - wanted
    };
    let builder = || Server::builder().listen(any_port()).limits(limits);
    let one = beside_connections(builder().check_workers(1).unwrap_err());
    assert_eq!(beside_connections(builder().build().err().unwrap()), one);
    let builder = || builder().listener(listener()).listener(listener());
    assert_eq!(beside_connections(builder().check_workers(1).unwrap_err()), one + 2);
    assert_eq!(beside_connections(builder().build().err().unwrap()), one + 2);
}

/// Decides nothing.
struct Idle;

impl Control for Idle {}

#[test]
fn the_recording_of_the_first_loop_alone_has_an_endpoint_and_a_control() {
    let endpoint = "127.0.0.1:0".parse().unwrap();
    for (has_admin, has_control) in [(false, false), (true, false), (false, true)] {
        let mut builder = Server::builder().listen(any_port());
        builder = if has_admin { builder.admin(AdminAddress::clone(&endpoint)) } else { builder };
        builder = if has_control { builder.control(Box::new(Idle), &[]) } else { builder };
        let mut headers = Vec::new();
        let servers = builder.build_workers_over(2, |_, kernel, header| {
            let told = |name| header.get(name) == Some("yes");
            headers.push((told("admin"), told("control")));
            Ok(kernel)
        });
        servers.unwrap();
        assert_eq!(headers, [(has_admin, has_control), (false, false)]);
    }
}

#[test]
fn options_of_a_single_loop_are_refused_for_several_workers() {
    let builder = Server::builder().listen(any_port()).observer(|_, _| {});
    let refused = builder.spawn_workers(2).unwrap_err();
    assert!(matches!(refused, BuildError::NotShared(_)), "{refused}");
}

#[test]
fn workers_share_a_listener_that_was_handed_over() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let queued = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let running = Server::builder().listener(listener).spawn_workers(WORKERS).unwrap();
    let address = running.addresses()[0];
    let challenge = read_challenge(&queued).unwrap();
    (&queued).write_all(&digest(&challenge)).unwrap();
    assert_eq!(exchange(&queued, b"hello"), b"HELLO");
    let crowd = crowd(address);
    let stats = running.handle().stats().unwrap();
    assert_eq!((stats.loops, stats.accepted), (WORKERS, 1 + CROWD as u64));
    drop(crowd);
    assert_balanced(&running.drain().unwrap());
    assert_refused(address);
}

#[test]
fn a_drain_that_is_over_before_its_delay_is_refused() {
    let mut limits = Limits::for_connections(10);
    limits.drain_delay = std::time::Duration::from_secs(25);
    for (timeout, accepted) in [(Some(25), false), (Some(26), true), (None, true)] {
        limits.drain_timeout = timeout.map(std::time::Duration::from_secs);
        let built = Server::builder().listen(any_port()).limits(limits).build();
        assert_eq!(built.is_ok(), accepted, "{timeout:?}");
        if let Err(error) = built {
            assert!(matches!(error, BuildError::DrainDelay { .. }), "{error}");
        }
    }
}

#[test]
fn one_worker_may_have_an_observer() {
    let (ears, heard) = channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = Server::builder().listener(listener).observer(move |note, _| {
        if let Note::Closed(_, reason) = note {
            ears.send(*reason).unwrap();
        }
    });
    let running = builder.spawn_workers(1).unwrap();
    drop(authenticated(running.addresses()[0]));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(CloseReason::PeerFinished));
    running.stop().unwrap();
}

#[test]
fn the_program_reports_for_all_workers() {
    let files = Files::new();
    let port_file = files.path().join("ports");
    let mut command = saltecho(&["serve", "-v", "-l", "127.0.0.1:0,[::1]:0", "--workers", "3"]);
    let mut server = Serving::start_command(command.arg("--port-file").arg(&port_file));
    assert!(server.start_line.ends_with("drain 25s; 3 workers"), "{}", server.start_line);
    let ports = fs::read_to_string(&port_file).unwrap();
    let ports: Vec<u16> = ports.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!((ports.len(), ports[0]), (2, server.address.port()));
    let crowd = crowd(server.address);
    let other = authenticated(SocketAddr::new("::1".parse().unwrap(), ports[1]));
    assert_eq!(exchange(&other, b"hello"), b"HELLO");
    let said = server.counters();
    assert!(said.contains(&format!("accepted {0}, authenticated {0}", CROWD + 1)), "{said}");
    assert!(said.contains("; the busiest of 3 workers accepted 1."), "{said}");
    server.running.signal(Signal::TERM);
    crowd.iter().chain([&other]).for_each(|stream| assert_eq!(rest(stream).unwrap(), b""));
    drop((crowd, other));
    let finished = server.running.wait();
    finished.expect(0, &["worker 1: #1 new", "worker 2: #1 authenticated", "closed: 101 drained"]);
}

#[test]
fn the_program_ends_when_a_worker_fails() {
    if STRACE.is_missing() {
        return;
    }
    let server = Serving::start(&["--workers", "2"]);
    let crowd = crowd(server.address);
    let inject = ["-e", "trace=epoll_wait", "-e", "inject=epoll_wait:error=EBADF:when=1+"];
    let tracer = Tracer::attach_thread(thread_named(&server, "worker 2"), &inject);
    // Sends input, so that it polls; attaching may have made it poll already.
    for mut stream in &crowd {
        let _ = stream.write_all(b"x");
    }
    for mut stream in crowd {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    server.running.wait().expect(1, &["the event loop failed", "Bad file descriptor"]);
    drop(tracer);
}

#[test]
fn each_worker_needs_a_connection() {
    run(&["serve", "--workers", "4", "--max-connections", "3"], b"")
        .expect(2, &["--max-connections must be at least the number of --workers"]);
    run(&["serve", "--workers", "0"], b"").expect(2, &["--workers", "1..=256"]);
}

fn thread_named(server: &Serving, name: &str) -> u32 {
    let threads = fs::read_dir(format!("/proc/{}/task", server.running.pid())).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap());
    let thread = threads.find(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    thread.unwrap().file_name().to_str().unwrap().parse().unwrap()
}
