//! Other settings for a running loop: what they change, when, and what they leave alone.

use std::time::Duration;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{Answer, CloseReason, Config, Handler, Protocol, Upper};
use saltecho::python::Monotonic;
use saltecho::reactor::Kernel;
use saltecho::server::{BuildError, Handle, IpNet, Limits, Server};
use saltecho::sim::{Faults, Seen, SimAdminListener, SimClient, SimKernel};

const SECOND: Duration = Duration::from_secs(1);

/// A loop, and the settings that it was given last.
struct World {
    server: Server<SimKernel, Upper>,
    config: Config,
    limits: Limits,
    trusted: Vec<IpNet>,
}

impl World {
    fn new(adjust: impl FnOnce(&mut Config, &mut Limits)) -> Self {
        let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(100));
        adjust(&mut config, &mut limits);
        let kernel = SimKernel::new(1, Faults::none());
        let server = Server::with_kernel(kernel, vec![()], config.clone(), limits, Upper).unwrap();
        Self { server, config, limits, trusted: Vec::new() }
    }

    /// Changes the settings through a handle, as another thread would.
    fn change(&mut self, adjust: impl FnOnce(&mut Config, &mut Limits)) {
        adjust(&mut self.config, &mut self.limits);
        let handle = self.server.handle();
        handle.reconfigure(&self.config, &self.limits, &self.trusted, &[]).unwrap();
        self.settle();
    }

    fn now(&mut self) -> Monotonic {
        self.server.kernel_mut().now()
    }

    fn turn(&mut self) {
        assert!(self.server.turn().unwrap());
        self.server.assert_invariants();
    }

    /// Turns for this long, and until the clients have what is under way.
    fn pass(&mut self, time: Duration) {
        let end = self.now().saturating_add(time);
        while self.now() < end {
            let left = end.since(self.now());
            self.server.kernel_mut().set_patience(left);
            self.turn();
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.server.kernel_mut().set_patience(Duration::ZERO);
        (0..8).for_each(|_| self.turn());
    }

    fn connect(&mut self) -> SimClient {
        let client = self.server.kernel_mut().connect(1000, 1000, 1000);
        self.settle();
        client
    }

    /// Connects and authenticates.
    fn join(&mut self) -> SimClient {
        let client = self.connect();
        self.answer(client);
        assert_eq!(self.exchange(client, b"hello"), b"HELLO");
        client
    }

    /// Answers the challenge.
    fn answer(&mut self, client: SimClient) {
        let kernel = self.server.kernel_mut();
        let challenge = kernel.client_recv(client, Challenge::LEN).expect("a challenge");
        let challenge = Challenge::new(challenge.try_into().expect("32 bytes"));
        let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge);
        kernel.client_send(client, digest.as_bytes());
        self.settle();
    }

    fn exchange(&mut self, client: SimClient, message: &[u8]) -> Vec<u8> {
        self.server.kernel_mut().client_send(client, message);
        self.settle();
        self.server.kernel_mut().client_recv(client, 1000).expect("an answer")
    }

    fn is_served(&mut self, client: SimClient) -> bool {
        self.server.kernel_mut().is_served(client)
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.server.stats().closed(reason)
    }
}

/// Answers each `recv` with its length.
#[derive(Clone)]
struct Lengths;

impl Handler for Lengths {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        Answer::Bytes(format!("{} ", data.len()).into())
    }
}

#[test]
fn a_new_size_of_recv_is_that_of_the_next() {
    let (mut config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(100));
    (config.protocol, config.recv_size) = (Protocol::Plain, 10);
    let kernel = SimKernel::new(1, Faults::none());
    let mut server =
        Server::with_kernel(kernel, vec![()], config.clone(), limits, Lengths).unwrap();
    let client = server.kernel_mut().connect(100, 100, 100);
    for (size, lengths) in [(10, "10 10 5 "), (25, "25 "), (7, "7 7 7 4 ")] {
        config.recv_size = size;
        server.handle().reconfigure(&config, &limits, &[], &[]).unwrap();
        server.turn().unwrap();
        server.kernel_mut().client_send(client, &[b'x'; 25]);
        for _ in 0..8 {
            server.turn().unwrap();
        }
        let answer = server.kernel_mut().client_recv(client, 100).unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), lengths);
    }
}

#[test]
fn a_new_time_without_sleep_begins_with_the_next_event() {
    let mut world = World::new(|_, _| {});
    let client = world.join();
    let sleeps_behind_a_message = |world: &mut World| {
        assert_eq!(world.exchange(client, b"x"), b"X");
        world.turn();
        world.server.kernel_mut().slept()
    };
    assert!(sleeps_behind_a_message(&mut world));
    world.change(|_, limits| limits.spin = SECOND);
    assert!(!sleeps_behind_a_message(&mut world));
    world.change(|_, limits| limits.spin = Duration::ZERO);
    assert!(sleeps_behind_a_message(&mut world));
}

#[test]
fn a_limit_below_the_present_number_closes_nothing_and_admits_nothing() {
    let mut world = World::new(|_, limits| {
        // No client is turned away, and none is admitted because a pause has passed.
        (limits.accept_retry, limits.shed_per_retry) = (3600 * SECOND, 0);
    });
    let crowd: Vec<SimClient> = (0..10).map(|_| world.join()).collect();
    world.change(|_, limits| (limits.connections, limits.unauthenticated) = (8, 8));
    for client in &crowd {
        assert_eq!(world.exchange(*client, b"still"), b"STILL");
    }
    let late = world.connect();
    assert!(!world.is_served(late), "an eleventh of eight");
    for client in &crowd[..2] {
        world.server.kernel_mut().client_finish(*client);
        world.settle();
        assert!(!world.is_served(late), "eight or more are there");
    }
    world.server.kernel_mut().client_finish(crowd[2]);
    world.settle();
    assert!(world.is_served(late), "seven are there");
    let later = world.connect();
    assert!(!world.is_served(later));
    world.change(|_, limits| limits.connections = 9);
    assert!(world.is_served(later), "there is room at once, without the end of a pause");
    assert_eq!(world.server.stats().closed_in_all(), 3);
}

#[test]
fn unauthenticated_clients_beyond_a_lower_limit_give_way_one_for_each_new_one() {
    let mut world = World::new(|_, _| {});
    let crowd: Vec<SimClient> = (0..10).map(|_| world.connect()).collect();
    world.change(|_, limits| limits.unauthenticated = 4);
    assert_eq!(world.server.stats().unauthenticated, 10);
    let new = world.connect();
    assert!(!world.is_served(new), "the others have had no time to answer");
    world.pass(2 * SECOND);
    assert!(world.is_served(new) && !world.is_served(crowd[0]), "the oldest gave way");
    assert_eq!((world.closed(CloseReason::Evicted), world.server.stats().unauthenticated), (1, 10));
    world.answer(crowd[1]);
    assert_eq!(world.exchange(crowd[1], b"hello"), b"HELLO");
    world.pass(4 * SECOND);
    assert_eq!(world.closed(CloseReason::AuthTimeout), 8);
    assert_eq!(world.server.stats().unauthenticated, 1, "the new one");
}

#[test]
fn a_call_in_progress_keeps_its_time_limit_and_the_next_has_the_new_one() {
    let mut world = World::new(|config, _| config.keepalive = None);
    let (silent, talking) = (world.join(), world.join());
    let unproven = world.connect();
    world.change(|config, _| {
        (config.auth_timeout, config.idle_timeout) = (Some(SECOND), Some(10 * SECOND));
    });
    let newcomer = world.connect();
    assert_eq!(world.exchange(talking, b"hello"), b"HELLO");
    world.pass(2 * SECOND);
    assert!(world.is_served(unproven), "it has the five seconds that it was promised");
    assert!(!world.is_served(newcomer), "it had one");
    world.pass(4 * SECOND);
    assert!(!world.is_served(unproven));
    assert_eq!(world.closed(CloseReason::AuthTimeout), 2);
    world.pass(5 * SECOND);
    assert_eq!(world.server.kernel_mut().client_recv(talking, 1), Err(Seen::End));
    world.pass(3600 * SECOND);
    assert_eq!(world.exchange(silent, b"here"), b"HERE", "its recv began without a limit");
    world.pass(11 * SECOND);
    assert_eq!(world.server.kernel_mut().client_recv(silent, 1), Err(Seen::End));
}

#[test]
fn a_longer_limit_for_answers_counts_from_the_next_answer() {
    let mut world = World::new(|config, _| config.send_timeout = Some(10 * SECOND));
    let client = world.join();
    let fill = |world: &mut World| {
        // More than fits between the loop and a client that does not read.
        for _ in 0..4 {
            world.server.kernel_mut().client_send(client, &[b'x'; 1000]);
            world.settle();
        }
    };
    fill(&mut world);
    world.change(|config, _| config.send_timeout = Some(100 * SECOND));
    world.pass(9 * SECOND);
    while world.server.kernel_mut().client_recv(client, 1000).is_ok() {
        world.settle();
    }
    fill(&mut world);
    world.pass(50 * SECOND);
    assert!(world.is_served(client), "the second answer has a hundred seconds");
    world.pass(51 * SECOND);
    assert_eq!(world.closed(CloseReason::SendTimeout), 1);
}

#[test]
fn a_shorter_keepalive_reaches_those_who_are_silent_already_in_slices() {
    let mut world = World::new(|config, limits| {
        config.keepalive = Some(3 * 3600 * SECOND);
        (limits.deadlines_per_turn, limits.accepts_per_turn) = (7, 64);
    });
    let crowd: Vec<SimClient> = (0..50).map(|_| world.join()).collect();
    world.config.keepalive = Some(SECOND);
    let handle = world.server.handle();
    handle.reconfigure(&world.config, &world.limits, &[], &[]).unwrap();
    world.server.kernel_mut().set_patience(3600 * SECOND);
    let before = world.now();
    for _ in 0..50 / 7 {
        world.turn();
        let slept = world.now().since(before);
        assert!(slept < Duration::from_millis(1), "it slept {slept:?} before all were armed");
    }
    // The rest, and the silence of at most one and a half periods.
    world.pass(4 * SECOND);
    assert!(world.server.stats().probes >= 50, "{:?}", world.server.stats());
    let probes = world.server.stats().probes;
    world.change(|config, _| config.keepalive = None);
    world.pass(100 * SECOND);
    assert_eq!(world.server.stats().probes, probes, "off");
    world.change(|config, _| config.keepalive = Some(2 * SECOND));
    world.pass(6 * SECOND);
    assert!(world.server.stats().probes >= probes + 50, "on again");
    world.change(|config, _| config.keepalive = Some(60 * SECOND));
    world.pass(1000 * SECOND);
    for client in crowd {
        assert_eq!(world.exchange(client, b"here"), b"HERE");
    }
}

#[test]
fn keepalive_that_was_off_at_the_start_stays_off() {
    let mut world = World::new(|config, _| config.keepalive = None);
    world.join();
    world.change(|config, _| config.keepalive = Some(SECOND));
    world.pass(100 * SECOND);
    assert_eq!(world.server.stats().probes, 0);
}

#[test]
fn the_size_of_a_recv_and_the_keys_change_between_two_calls() {
    let mut world = World::new(|config, _| config.recv_size = 1000);
    let (veteran, unproven) = (world.join(), world.connect());
    let other = Key::new(b"a key that is long enough".to_vec());
    world.change(|config, _| {
        config.recv_size = 3;
        config.keyring = Keyring::single(MacAlgorithm::Md5, &other);
    });
    let received = world.server.stats().bytes_received;
    assert_eq!(world.exchange(veteran, b"several calls"), b"SEVERAL CALLS");
    assert_eq!(world.server.stats().bytes_received, received + 13);
    world.answer(unproven);
    assert_eq!(world.closed(CloseReason::Rejected), 1, "the demo key is no key any more");
    world.change(|config, _| config.recv_size = 100_000);
    assert_eq!(world.exchange(veteran, b"one call"), b"ONE CALL");
}

#[test]
fn trust_is_replaced() {
    let mut world = World::new(|_, limits| {
        (limits.unauthenticated, limits.unauthenticated_per_source) = (10, Some(1));
    });
    let from = |world: &mut World| {
        let peer = Some(([10, 0, 0, 1], 1).into());
        let client = world.server.kernel_mut().connect_from(peer, 100, 100, 100);
        world.settle();
        world.is_served(client)
    };
    assert_eq!((0..7).filter(|_| from(&mut world)).count(), 5, "half of the places");
    world.trusted = vec!["10.0.0.0/8".parse().unwrap()];
    world.change(|_, _| {});
    assert!(from(&mut world), "a trusted source has no share");
    world.trusted.clear();
    world.change(|_, _| {});
    assert!(!from(&mut world), "it is trusted no more");
    assert_eq!(world.server.stats().refused_over_share, 3);
}

#[test]
fn settings_that_cannot_be_kept_are_refused_and_change_nothing() {
    let mut world = World::new(|_, _| {});
    let handle = world.server.handle();
    let refused = |config: &Config, limits: &Limits| handle.reconfigure(config, limits, &[], &[]);
    for (connections, unauthenticated, recv_size) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let (mut config, mut limits) = (world.config.clone(), world.limits);
        config.recv_size = recv_size;
        (limits.connections, limits.unauthenticated) = (connections, unauthenticated);
        let error = refused(&config, &limits).unwrap_err();
        assert!(matches!(error, BuildError::Zero(_)), "{error}");
    }
    let mut limits = world.limits;
    limits.connections = usize::MAX / 2;
    let error = refused(&world.config, &limits).unwrap_err();
    assert!(matches!(error, BuildError::Descriptors { .. }), "{error}");
    world.join();
    // A loop that has ended is no error: there is nothing left to change.
    handle.stop();
    assert!(!world.server.turn().unwrap());
    refused(&world.config, &world.limits).unwrap();
}

/// The descriptors that a service needs beside those of its connections.
fn beside_connections(world: &World) -> usize {
    let mut limits = world.limits;
    limits.connections = usize::MAX / 2;
    let error = world.server.handle().reconfigure(&world.config, &limits, &[], &[]).unwrap_err();
    let BuildError::Descriptors { wanted, needed, .. } = error else { panic!("{error}") };
    needed - wanted
}

#[test]
fn the_most_connections_leave_descriptors_for_the_admin_endpoint() {
    let mut world = World::new(|_, _| {});
    let without = beside_connections(&world);
    let all = world.server.handle();
    world.server.set_admin(SimAdminListener, all).unwrap();
    // Its listener, eight clients, one more to turn away, and a spare one.
    assert_eq!(beside_connections(&world), without + 11);
}

#[test]
fn several_loops_get_their_parts() {
    let mut worlds: Vec<World> = (0..3).map(|_| World::new(|_, _| {})).collect();
    let all: Handle = worlds.iter().map(|world| world.server.handle()).collect();
    let (config, mut limits) = (worlds[0].config.clone(), worlds[0].limits);
    (limits.connections, limits.unauthenticated) = (10, 10);
    all.reconfigure(&config, &limits, &[], &[]).unwrap();
    let served = worlds.iter_mut().map(|world| {
        world.settle();
        for _ in 0..10 {
            world.connect();
        }
        world.server.stats().connections
    });
    assert_eq!(served.collect::<Vec<_>>(), [3, 3, 4]);
}
