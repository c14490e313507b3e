//! Handovers between two real kernels in one process. Duplicates of the descriptors stand for those
//! that a message would carry.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::proto::{Answer, CloseReason, Handler, Peer, Upper};
use saltecho::reactor::{AdminListener, MioKernel};
use saltecho::server::handover::{Decoder, Frozen};
use saltecho::server::{AdminAddress, Server, ServerBuilder};

const PATIENCE: Duration = Duration::from_secs(20);

/// What arrives at another loop of the same settings, restored and committed.
fn take_over<H: Handler + Clone>(
    frozen: &Frozen<MioKernel, H>,
    settings: ServerBuilder<H>,
    workers: usize,
) -> Vec<Server<MioKernel, H>> {
    let (mut decoder, mut chunks) = (Decoder::new(), frozen.chunks());
    for chunk in chunks.by_ref() {
        let sockets = chunk.sockets.iter().map(|it| it.as_fd().try_clone_to_owned().unwrap());
        let (kind, count, sockets) = (chunk.kind.code(), chunk.count, sockets.collect());
        decoder.take(kind, count, chunk.record_size, &chunk.payload, sockets).unwrap();
    }
    let arrived = decoder.finish(&chunks.totals()).unwrap();
    let loops = arrived.spread(workers, OwnedFd::try_clone).unwrap();
    let prepared = settings.prepare_workers(workers).unwrap();
    let restore = prepared.into_iter().zip(loops).map(|(mut new, one)| {
        new.restore(one).unwrap();
        new.commit()
    });
    restore.collect()
}

fn settings<H: Handler + Clone>(handler: H) -> ServerBuilder<H> {
    Server::builder().listen("127.0.0.1:0").handler(handler).records(true)
}

fn freeze<H: Handler + Clone>(server: Server<MioKernel, H>) -> Frozen<MioKernel, H> {
    server.freeze().map_err(|_| "it drains").unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn digest_for(stream: &mut TcpStream) -> Vec<u8> {
    let mut challenge = [0; Challenge::LEN];
    stream.read_exact(&mut challenge).unwrap();
    MacAlgorithm::Md5.digest(&Key::demo(), &Challenge::new(challenge)).as_bytes().to_vec()
}

fn hear(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, expected);
}

/// Turns until a condition holds.
fn until<H: Handler + Clone>(
    server: &mut Server<MioKernel, H>,
    what: impl Fn(&Server<MioKernel, H>) -> bool,
) {
    let handle = server.handle();
    while !what(server) {
        // So that a turn does not sleep.
        handle.keep_records(true);
        server.turn().unwrap();
    }
}

#[test]
fn every_stage_goes_on_where_it_was() {
    let mut server = settings(Upper).build().unwrap();
    let address = server.addresses().unwrap()[0];
    let mut silent = connect(address);
    let (mut partial, mut idle, mut full) = (connect(address), connect(address), connect(address));
    until(&mut server, |server| server.stats().accepted == 4);
    let digest = digest_for(&mut partial);
    partial.write_all(&digest[..7]).unwrap();
    for stream in [&mut idle, &mut full] {
        let digest = digest_for(stream);
        stream.write_all(&digest).unwrap();
    }
    until(&mut server, |server| server.stats().authenticated == 2);
    // A peer that does not read, until its answer does not fit.
    full.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while server.stats().backlog_bytes == 0 {
        if let Ok(n) = full.write(&[b'x'; 1 << 16]) {
            sent += n;
        }
        server.handle().keep_records(true);
        server.turn().unwrap();
    }
    full.set_nonblocking(false).unwrap();
    until(&mut server, |server| server.stats().bytes_received > 7 + 32);

    let frozen = freeze(server);
    let before = frozen.stats();
    idle.write_all(b"while it moves").unwrap();
    let mut queued = connect(address);
    let mut new = take_over(&frozen, settings(Upper), 1).remove(0);
    let mut old = frozen.leave();
    assert!(!old.turn().unwrap(), "nothing is left to do for it");
    drop(old);
    let after = new.stats();
    assert_eq!((after.accepted, after.connections), (before.accepted, before.connections));
    assert_eq!((after.bytes_sent, after.backlog_bytes), (before.bytes_sent, before.backlog_bytes));

    let (handle, thread) = (new.handle(), std::thread::spawn(move || new.run()));
    hear(&mut idle, b"WHILE IT MOVES");
    hear(&mut full, &vec![b'X'; sent]);
    partial.write_all(&[&digest[7..], b"late"].concat()).unwrap();
    hear(&mut partial, b"LATE");
    for stream in [&mut silent, &mut queued] {
        let digest = digest_for(stream);
        stream.write_all(&[&digest[..], b"hello"].concat()).unwrap();
        hear(stream, b"HELLO");
    }
    drop((silent, partial, idle, full, queued));
    handle.drain();
    let stats = thread.join().unwrap().unwrap();
    assert_eq!((stats.accepted, stats.authenticated, stats.elsewhere), (5, 5, 0));
    assert_eq!(stats.closed_in_all(), 5);
}

/// Without a word on how to move.
#[derive(Clone)]
struct Rooted;

impl Handler for Rooted {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::InPlace
    }
}

#[test]
fn a_connection_whose_handler_cannot_move_drains_where_it_is() {
    let mut server = settings(Rooted).build().unwrap();
    let address = server.addresses().unwrap()[0];
    let (mut known, mut unknown) = (connect(address), connect(address));
    until(&mut server, |server| server.stats().accepted == 2);
    let digest = digest_for(&mut known);
    known.write_all(&digest).unwrap();
    until(&mut server, |server| server.stats().authenticated == 1);
    let frozen = freeze(server);
    assert_eq!(frozen.staying(), 1);
    let mut new = take_over(&frozen, settings(Rooted), 1).remove(0);
    let mut old = frozen.leave();
    assert_eq!((old.stats().connections, old.stats().elsewhere), (1, 1));
    assert_eq!((new.stats().connections, new.stats().elsewhere), (1, 1));
    // Not even an event of what has moved reaches it.
    unknown.write_all(b"x").unwrap();
    known.shutdown(Shutdown::Write).unwrap();
    let stats = old.run().unwrap();
    assert_eq!(stats.stale_events, 0);
    assert_eq!(stats.closed(CloseReason::PeerFinished) + stats.closed(CloseReason::Drained), 1);
    known.read_to_end(&mut Vec::new()).unwrap();
    let digest = digest_for(&mut unknown);
    assert_eq!(digest.len(), 16);
    until(&mut new, |server| server.stats().bytes_received == 17);
}

/// With a state of so many bytes.
#[derive(Clone)]
struct Heavy(usize);

impl Handler for Heavy {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::InPlace
    }

    fn save(&self, state: &mut Vec<u8>) -> bool {
        state.resize(self.0, 1);
        true
    }

    fn restore(&mut self, _peer: &Peer, state: &[u8]) -> bool {
        state.len() == self.0
    }
}

#[test]
fn a_state_of_32_kib_moves_and_a_longer_one_stays() {
    for (bytes, staying) in [(32 << 10, 0), ((32 << 10) + 1, 1)] {
        let mut server = settings(Heavy(bytes)).build().unwrap();
        let mut client = connect(server.addresses().unwrap()[0]);
        until(&mut server, |server| server.stats().accepted == 1);
        let digest = digest_for(&mut client);
        client.write_all(&digest).unwrap();
        until(&mut server, |server| server.stats().authenticated == 1);
        let frozen = freeze(server);
        assert_eq!(frozen.staying(), staying);
        let new = take_over(&frozen, settings(Heavy(bytes)), 1).remove(0);
        assert_eq!(new.stats().connections, 1 - staying);
        assert_eq!(frozen.leave().stats().connections, staying);
    }
}

#[test]
fn more_loops_or_fewer_serve_all_of_them() {
    let mut server = settings(Upper).build().unwrap();
    let address = server.addresses().unwrap()[0];
    let mut streams: Vec<TcpStream> = (0..7).map(|_| connect(address)).collect();
    until(&mut server, |server| server.stats().accepted == 7);
    for stream in &mut streams[..5] {
        let digest = digest_for(stream);
        stream.write_all(&digest).unwrap();
    }
    until(&mut server, |server| server.stats().authenticated == 5);
    let frozen = freeze(server);
    let servers = take_over(&frozen, settings(Upper), 3);
    drop(frozen.leave());
    let spread: Vec<usize> = servers.iter().map(|server| server.stats().connections).collect();
    assert_eq!(spread, [3, 2, 2]);
    let accepted: u64 = servers.iter().map(|server| server.stats().accepted).sum();
    assert_eq!(accepted, 7);
    let descriptors: Vec<u64> = servers.iter().map(|one| one.snapshot().descriptors).collect();
    assert_eq!(descriptors, [7, 6, 6], "connections, a listener, and three of each loop");
    let handle: saltecho::server::Handle = servers.iter().map(Server::handle).collect();
    let thread = std::thread::spawn(move || saltecho::server::run_workers(servers));
    for stream in &mut streams[..5] {
        stream.write_all(b"hello").unwrap();
        hear(stream, b"HELLO");
    }
    streams.push(connect(address));
    for stream in &mut streams[5..] {
        let digest = digest_for(stream);
        stream.write_all(&[&digest[..], b"hello"].concat()).unwrap();
        hear(stream, b"HELLO");
    }
    handle.stop();
    let stats = thread.join().unwrap().unwrap();
    assert_eq!((stats.accepted, stats.authenticated), (8, 8));
}

#[test]
fn the_file_of_an_admin_socket_goes_with_the_loop_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let settings = || settings(Upper).admin(AdminAddress::Unix(path.clone()));
    let server = settings().build().unwrap();
    // Given up: the old one keeps it.
    let frozen = freeze(server);
    let mut unused = settings().prepare_workers(1).unwrap();
    drop(unused.remove(0));
    let server = frozen.resume();
    assert!(path.exists());
    let frozen = freeze(server);
    let mut new = take_over(&frozen, settings(), 1).remove(0);
    drop(frozen.leave());
    assert!(path.exists(), "the old one has left it");
    let (handle, thread) = (new.handle(), std::thread::spawn(move || new.run()));
    let answer = ask(&path, "/livez");
    assert!(answer.ends_with("ok\n"), "{answer}");
    handle.stop();
    thread.join().unwrap().unwrap();
    assert!(!path.exists(), "it is removed by the last one");
}

#[test]
fn the_file_of_an_admin_socket_that_another_program_made_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let listener = AdminListener::from_unix(UnixListener::bind(&path).unwrap()).unwrap();
    let server = settings(Upper).admin_listener(listener).build().unwrap();
    let frozen = freeze(server);
    let new = take_over(&frozen, settings(Upper), 1).remove(0);
    drop(frozen.leave());
    drop(new);
    assert!(path.exists());
}

#[test]
fn an_admin_endpoint_that_arrived_reaches_all_loops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let settings = || settings(Upper).admin(AdminAddress::Unix(path.clone()));
    let frozen = freeze(settings().build().unwrap());
    let servers = take_over(&frozen, settings(), 2);
    drop(frozen.leave());
    let handle: saltecho::server::Handle = servers.iter().map(Server::handle).collect();
    let run = |mut server: Server<_, _>| std::thread::spawn(move || server.run());
    let threads: Vec<_> = servers.into_iter().map(run).collect();
    let answer = ask(&path, "/metrics");
    assert!(answer.contains("\nsaltecho_turns_total{worker=\"2\"} "), "{answer}");
    handle.stop();
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap().unwrap()));
}

/// The answer to a question at an admin socket.
fn ask(socket: &Path, what: &str) -> String {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "GET {what} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}
