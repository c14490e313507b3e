//! The admin endpoint over the simulated kernel: what it answers when nothing else can, and what it
//! costs the service.

use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::http::{Method, SLICE};
use saltecho::proto::{Answer, CloseReason, Config, Handler, Protocol};
use saltecho::random::SplitMix;
use saltecho::server::{Limits, Server};
use saltecho::sim::{Faults, Seen, SimAdminListener, SimClient, SimKernel};

use crate::world::World;
use crate::world::admin::AdminClient;
use crate::world::client::{Client, Fate};

/// Slots that a list looks at in a turn.
const SLOTS_PER_TURN: usize = 1024;

fn world(faults: Faults, adjust: impl FnOnce(&mut Config, &mut Limits)) -> World {
    let mut config = Config::new(Keyring::demo());
    let mut limits = Limits::for_connections(12);
    limits.unauthenticated = 12;
    adjust(&mut config, &mut limits);
    let mut world = World::new(SimKernel::new(1, faults), config, limits, SplitMix::new(1));
    world.open_admin();
    world
}

/// An authenticated client.
fn client(world: &mut World) -> usize {
    let end = world.server.kernel_mut().connect(1000, 1000, 1000);
    world.clients.push(Client::new(end, true, 0));
    let index = world.clients.len() - 1;
    for _ in 0..3 {
        world.turn();
        let (client, kernel) = (&mut world.clients[index], world.server.kernel_mut());
        client.read(kernel, usize::MAX);
        client.send(kernel, &mut world.random, usize::MAX);
    }
    world.turn();
    index
}

/// The status of the answer, which has to come in the turn that fetches the request's event, or, for
/// a client that has to be accepted first, in the same.
#[track_caller]
fn status_at_once(world: &mut World, method: Method, path: &str) -> u16 {
    let index = world.ask_admin(method, path);
    world.turn();
    let kernel = world.server.kernel_mut();
    world.admins[index].read(kernel, usize::MAX);
    let status = world.admins[index].answer().expect("it was answered in the first turn").status;
    kernel.client_finish(world.admins[index].end);
    world.admins[index].fate = Fate::Finished;
    world.turn();
    status
}

#[test]
fn it_answers_in_one_turn_when_the_service_has_no_place_and_no_descriptor() {
    let faults = Faults { descriptors: 2, ..Faults::none() };
    for (faults, places) in [(Faults::none(), 2), (faults, 12)] {
        let mut world = world(faults, |_, limits| limits.connections = places);
        for _ in 0..2 {
            client(&mut world);
        }
        world.server.kernel_mut().connect(100, 100, 100);
        world.turn();
        assert!(world.server.stats().accept_pauses > 0, "the service rests");
        for _ in 0..3 {
            assert_eq!(status_at_once(&mut world, Method::Get, "/livez"), 200);
            assert_eq!(status_at_once(&mut world, Method::Get, "/connections?sort=age"), 200);
        }
        assert_eq!(world.server.kernel_mut().open_admin_streams(), 0);
    }
}

#[test]
fn readiness_ends_in_the_turn_in_which_a_drain_begins() {
    for by_request in [false, true] {
        let mut world = world(Faults::none(), |_, limits| limits.drain_delay = Duration::ZERO);
        client(&mut world);
        assert_eq!(status_at_once(&mut world, Method::Get, "/readyz"), 200);
        world.judge.draining = Some(world.server.kernel_mut().last_reading());
        match by_request {
            false => world.server.handle().drain(),
            true => {
                let status = status_at_once(&mut world, Method::Post, "/drain");
                assert_eq!(status, 202);
            }
        }
        // Its own turn is the one that handles the command.
        assert_eq!(status_at_once(&mut world, Method::Get, "/readyz"), 503);
        assert_eq!(status_at_once(&mut world, Method::Get, "/livez"), 200);
        assert_eq!(world.server.stats().connections, 1, "its connection goes on");
    }
}

#[test]
fn a_drain_without_connections_is_answered_before_the_loop_ends() {
    let mut world = world(Faults::none(), |_, _| {});
    world.judge.draining = Some(world.server.kernel_mut().last_reading());
    let index = world.ask_admin(Method::Post, "/drain");
    while world.turn() {}
    let (admin, kernel) = (&mut world.admins[index], world.server.kernel_mut());
    assert!(admin.read(kernel, usize::MAX));
    assert_eq!(admin.answer().expect("it was answered").status, 202);
    assert_eq!(kernel.open_admin_streams(), 0);
    assert_eq!(kernel.client_recv(admin.end, 1), Err(Seen::End));
}

#[test]
fn a_connection_is_killed_between_two_turns_of_its_own() {
    let mut world = world(Faults::none(), |_, _| {});
    let (victim, other) = (client(&mut world), client(&mut world));
    world.judge.kills.insert(1);
    assert_eq!(status_at_once(&mut world, Method::Post, "/connections/1/kill"), 200);
    assert_eq!(status_at_once(&mut world, Method::Post, "/connections/1/kill"), 404);
    let reasons = &world.judge.reasons;
    assert_eq!(reasons.get(&world.clients[victim].end), Some(&CloseReason::Killed));
    assert_eq!(reasons.get(&world.clients[other].end), None);
}

/// Sends bytes that are no whole request.
fn half_request(world: &mut World, bytes: &[u8]) -> SimClient {
    let end = world.server.kernel_mut().connect_admin(1 << 16, 1 << 16, 1 << 16);
    world.server.kernel_mut().client_send(end, bytes);
    end
}

#[test]
fn requests_that_are_never_completed_give_their_places_up() {
    let mut world = world(Faults::none(), |_, _| {});
    let silent: Vec<SimClient> = (0..4).map(|_| half_request(&mut world, b"")).collect();
    let slow: Vec<SimClient> = (0..4).map(|_| half_request(&mut world, b"GET /livez HT")).collect();
    world.turn();
    let ninth = world.ask_admin(Method::Get, "/livez");
    world.turn();
    assert_eq!(world.server.kernel_mut().queued_admin_clients(), 1, "it waits in the queue");
    // A client that has not asked keeps its place for a second, and no longer.
    world.server.kernel_mut().pass(Duration::from_millis(999));
    world.turn();
    assert_eq!(world.server.kernel_mut().queued_admin_clients(), 1);
    world.server.kernel_mut().pass(Duration::from_millis(2));
    world.turn();
    let kernel = world.server.kernel_mut();
    world.admins[ninth].read(kernel, usize::MAX);
    assert_eq!(world.admins[ninth].answer().expect("there is a place now").status, 200);
    assert_eq!(kernel.client_recv(silent[0], 1), Err(Seen::End), "the one that came first");
    assert!(silent[1..].iter().all(|end| kernel.client_recv(*end, 1) == Err(Seen::Nothing)));
    // A request has five seconds from its first byte to its last.
    kernel.pass(Duration::from_secs(4));
    world.turn();
    for end in slow {
        let answer = world.server.kernel_mut().client_recv(end, 1000).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());
    }
}

#[test]
fn a_client_that_does_not_read_is_reset_after_five_seconds() {
    let mut world = world(Faults::none(), |_, _| {});
    client(&mut world);
    let end = world.server.kernel_mut().connect_admin(1000, 40, 1000);
    let request = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    world.server.kernel_mut().client_send(end, request);
    world.turn();
    world.server.kernel_mut().pass(Duration::from_millis(4999));
    world.turn();
    assert_eq!(world.server.kernel_mut().open_admin_streams(), 1);
    world.server.kernel_mut().pass(Duration::from_millis(2));
    world.turn();
    let kernel = world.server.kernel_mut();
    assert_eq!(kernel.open_admin_streams(), 0);
    assert_eq!(kernel.client_recv(end, 1000).unwrap().len(), 40);
    assert_eq!(kernel.client_recv(end, 1000), Err(Seen::Reset), "a part is not the whole");
}

/// Many connections, without the judge, which looks at each of them in every turn.
fn crowd(number: usize) -> World {
    let mut world = world(Faults::none(), |config, limits| {
        config.auth_timeout = None;
        (limits.connections, limits.unauthenticated) = (number, number);
        limits.unauthenticated_per_source = None;
    });
    for _ in 0..number {
        world.server.kernel_mut().connect(64, 64, 64);
    }
    while world.server.stats().connections < number {
        world.server.turn().unwrap();
    }
    world
}

/// Answers a message so that both have 40 bytes together.
#[derive(Clone)]
struct Forty;

impl Handler for Forty {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        Answer::Bytes(vec![b'x'; 40 - data.len()].into())
    }
}

#[test]
fn a_list_is_sorted_by_any_of_its_keys() {
    const SECOND: Duration = Duration::from_secs(1);
    let (mut config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(12));
    (config.protocol, config.keepalive) = (Protocol::Plain, None);
    let kernel = SimKernel::new(1, Faults::none());
    let mut server = Server::with_kernel(kernel, vec![()], config, limits, Forty).unwrap();
    server.keep_records(true);
    let all = server.handle();
    server.set_admin(SimAdminListener, all).unwrap();
    // Each step takes a second at least.
    let pass = |server: &mut Server<SimKernel, Forty>| {
        server.kernel_mut().set_patience(SECOND);
        for _ in 0..4 {
            server.turn().unwrap();
        }
    };
    let clients = [(); 4].map(|()| {
        let client = server.kernel_mut().connect(100, 100, 100);
        pass(&mut server);
        client
    });
    for (index, len) in [(2, 10), (0, 5), (1, 30)] {
        server.kernel_mut().client_send(clients[index], &[b'm'; 30][..len]);
        pass(&mut server);
    }
    for (query, expected) in [
        ("sort=age", &[1, 2, 3, 4][..]),
        ("sort=idle", &[4, 3, 1, 2]),
        ("sort=received", &[2, 3, 1, 4]),
        ("sort=sent", &[1, 3, 2, 4]),
        ("sort=-age", &[4, 3, 2, 1]),
        ("sort=-sent", &[4, 2, 3, 1]),
        ("sort=received&limit=2", &[2, 3]),
        ("sort=-idle&limit=3", &[2, 1, 3]),
        // Of equal ones those that are found first.
        ("sort=unsent&limit=1", &[1]),
    ] {
        let end = server.kernel_mut().connect_admin(1 << 16, 1 << 16, 1 << 16);
        let path = format!("/connections?{query}");
        let mut client = AdminClient::asking(end, Method::Get, &path);
        client.send(server.kernel_mut(), usize::MAX);
        server.kernel_mut().set_patience(Duration::ZERO);
        for _ in 0..4 {
            server.turn().unwrap();
        }
        client.read(server.kernel_mut(), usize::MAX);
        let answer = client.answer().unwrap();
        let id = |row: &str| -> u32 {
            let (_, behind) = row.split_once("\"id\":").unwrap();
            behind.split_once(',').unwrap().0.parse().unwrap()
        };
        assert_eq!(answer.text().lines().map(id).collect::<Vec<_>>(), expected, "{query}");
    }
}

#[test]
fn a_long_list_never_holds_up_the_loop() {
    const CROWD: usize = 50_000;
    let mut world = crowd(CROWD);
    for (path, rows) in [("/connections", CROWD), ("/connections?sort=-age&limit=1000", 1000)] {
        let clients: Vec<usize> = (0..8).map(|_| world.ask_admin(Method::Get, path)).collect();
        let (mut turns, mut unfinished) = (0, clients.clone());
        while !unfinished.is_empty() {
            turns += 1;
            assert!(turns < 10_000, "{path} is never finished");
            world.server.turn().unwrap();
            // No client gets more than its share of a turn.
            for &index in &clients {
                world.admins[index].after_turn(world.server.kernel_mut());
                world.admins[index].read(world.server.kernel_mut(), usize::MAX);
            }
            if turns % 16 == 0 {
                unfinished.retain(|index| world.admins[*index].answer().is_none());
            }
        }
        let least = (CROWD / SLOTS_PER_TURN).max(rows * 30 / SLICE);
        assert!(turns >= least, "{CROWD} slots in {turns} turns");
        for index in clients {
            let answer = world.admins[index].answer().expect("it is finished");
            assert_eq!(answer.text().lines().count(), rows);
            world.server.kernel_mut().client_finish(world.admins[index].end);
        }
        world.server.turn().unwrap();
    }
}

#[test]
fn the_search_for_a_connection_takes_several_turns() {
    const CROWD: usize = 5000;
    let mut world = crowd(CROWD);
    let index = world.ask_admin(Method::Post, "/connections/4999/kill");
    let mut turns = 0;
    while world.admins[index].answer().is_none() {
        turns += 1;
        assert!(turns < 100);
        world.server.turn().unwrap();
        world.admins[index].read(world.server.kernel_mut(), usize::MAX);
    }
    assert_eq!(world.admins[index].answer().unwrap().status, 200);
    assert_eq!(turns, CROWD.div_ceil(SLOTS_PER_TURN));
    assert_eq!(world.server.stats().connections, CROWD - 1);
}

/// Clients that ask for more than is answered keep all places busy, and an echo still takes one turn.
#[test]
fn busy_clients_delay_an_echo_by_their_shares_of_one_turn_at_most() {
    const CALLS: u64 = 8 * (2 * SLICE as u64 / 1024);
    let mut world = world(Faults::none(), |_, _| {});
    let talking = client(&mut world);
    let requests = b"GET /connections HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let mut connect = || world.server.kernel_mut().connect_admin(1 << 16, 1 << 16, 1 << 16);
    let busy: Vec<SimClient> = (0..8).map(|_| connect()).collect();
    for _ in 0..100 {
        for end in &busy {
            let kernel = world.server.kernel_mut();
            kernel.client_send(*end, &requests);
            while kernel.client_recv(*end, usize::MAX).is_ok() {}
        }
        let (client, kernel) = (&mut world.clients[talking], world.server.kernel_mut());
        client.input_left = 16;
        client.send(kernel, &mut world.random, usize::MAX);
        let steps = kernel.steps();
        world.turn();
        let (client, kernel) = (&mut world.clients[talking], world.server.kernel_mut());
        client.read(kernel, usize::MAX);
        assert_eq!(client.got.len(), client.sent.len(), "it was answered in the turn of its event");
        let steps = kernel.steps() - steps;
        assert!(steps <= CALLS + 32, "{steps} events and calls in one turn");
    }
    let served = busy.iter().filter(|end| world.server.kernel_mut().is_served(**end)).count();
    assert_eq!(served, 8, "all of them are busy");
}
