//! A server in this process, and checks of its counters.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use saltecho::auth::Keyring;
use saltecho::proto::Config;
use saltecho::server::{Limits, Running, Server, Stats};

use super::client::PATIENCE;

pub fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn spawn() -> Running {
    Server::builder().listen(any_port()).spawn().unwrap()
}

pub fn spawn_with(adjust: impl FnOnce(&mut Config, &mut Limits)) -> Running {
    let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(1000));
    adjust(&mut config, &mut limits);
    Server::builder().listen(any_port()).config(config).limits(limits).spawn().unwrap()
}

/// Reads the counters until `reached` holds. The loop answers each request, so this waits for the
/// loop, not for the clock.
pub fn wait_for(server: &Running, what: &str, reached: impl Fn(&Stats) -> bool) -> Stats {
    let begin = Instant::now();
    loop {
        let stats = server.handle().stats().expect("the server runs");
        if reached(&stats) {
            return stats;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} was never reached: {stats:?}");
        thread::yield_now();
    }
}

/// Checks that each accepted connection was closed for exactly one reason.
pub fn assert_balanced(stats: &Stats) {
    assert_eq!(stats.accepted, stats.closed_in_all(), "{stats:?}");
    assert_eq!((stats.connections, stats.unauthenticated), (0, 0));
}

/// Waits until this address refuses connections. While another test starts a program, the new process keeps
/// a copy of every listener until its exec, so a listener that was closed here can stay open for a moment.
#[track_caller]
pub fn assert_refused(address: SocketAddr) {
    let begin = Instant::now();
    while let Ok(_accepted) = TcpStream::connect(address) {
        assert!(begin.elapsed() < PATIENCE, "a listener is still open");
        std::thread::yield_now();
    }
}
