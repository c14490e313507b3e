//! The figures that say how a loop spends its time.

use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::metrics::Worker;
use saltecho::proto::{Config, Upper};
use saltecho::reactor::Kernel;
use saltecho::server::{Limits, Server};
use saltecho::sim::{Faults, SimClient, SimKernel};

type Loop = Server<SimKernel, Upper>;

const TIMEOUT: Duration = Duration::from_secs(1);

fn server(spin: Duration, clients: usize) -> (Loop, Vec<SimClient>) {
    let mut config = Config::new(Keyring::demo());
    config.auth_timeout = Some(TIMEOUT);
    let mut limits = Limits::for_connections(1000);
    (limits.unauthenticated, limits.accepts_per_turn, limits.spin) = (1000, 1000, spin);
    let mut kernel = SimKernel::new(1, Faults::none());
    kernel.set_patience(10 * TIMEOUT);
    let mut server = Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap();
    let clients = (0..clients).map(|_| server.kernel_mut().connect(100, 100, 100)).collect();
    server.turn().unwrap();
    server.turn().unwrap();
    (server, clients)
}

fn figures(server: &mut Loop) -> Worker {
    let [worker] = &server.snapshot().workers[..] else { panic!("one loop") };
    worker.clone()
}

#[test]
fn the_time_of_a_loop_without_work_is_time_asleep() {
    let (mut server, _clients) = server(Duration::ZERO, 1);
    let (began, before) = (server.kernel_mut().now(), figures(&mut server));
    for _ in 0..10 {
        server.turn().unwrap();
    }
    assert_eq!(server.stats().connections, 0, "its time was up");
    let passed = server.kernel_mut().now().since(began);
    let after = figures(&mut server);
    let asleep = after.asleep - before.asleep;
    assert!(asleep.abs_diff(passed) < Duration::from_millis(1), "{asleep:?} of {passed:?}");
    assert_eq!(after.turn.count(), after.turns, "each turn is timed where there are few");
}

#[test]
fn the_time_of_a_loop_that_spins_is_not() {
    let (mut server, clients) = server(10 * TIMEOUT, 1);
    server.kernel_mut().client_send(clients[0], b"x");
    server.turn().unwrap();
    let before = figures(&mut server);
    for _ in 0..10 {
        server.kernel_mut().pass(Duration::from_millis(20));
        server.turn().unwrap();
    }
    assert_eq!(figures(&mut server).asleep, before.asleep);
}

#[test]
fn the_waits_of_a_crowd_are_timed_however_soon() {
    let (mut server, clients) = server(Duration::ZERO, 200);
    let before = figures(&mut server);
    for client in &clients {
        server.kernel_mut().client_send(*client, b"x");
    }
    server.turn().unwrap();
    let after = figures(&mut server);
    assert_eq!(after.turn.count(), after.turns);
    assert_eq!(after.queue_wait.count() - before.queue_wait.count(), 200);
}
