//! The admin endpoint of several loops, one of which does not turn: an answer says what is missing, and
//! the endpoint's own loop never waits.

use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::http::Method;
use saltecho::proto::{Config, Upper};
use saltecho::server::handover::{Decoder, Lent, Thawing};
use saltecho::server::{BuildError, Handle, Limits, Server};
use saltecho::sim::{Faults, SimAdminListener, SimKernel, SimMoved};

use crate::world::admin::AdminClient;
use crate::world::http_world::Answer;

type Loop = Server<SimKernel, Upper>;

/// How long a loop may take for its part of an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Turns of the endpoint's loop until an answer is there: it sleeps while it waits for others.
const TURNS: usize = 20;
const ALL: [usize; 3] = [0, 1, 2];
const WITHOUT_THE_SECOND: [usize; 2] = [0, 2];

fn settings() -> (Config, Limits) {
    let mut config = Config::new(Keyring::demo());
    config.auth_timeout = None;
    (config, Limits::for_connections(10))
}

/// Three loops with one, two and three connections; the first has the endpoint.
fn fleet() -> Vec<Loop> {
    let (config, limits) = settings();
    let mut loops: Vec<Loop> = Vec::new();
    for connections in 1..=ALL.len() {
        let mut kernel = SimKernel::new(1, Faults::none());
        for _ in 0..connections {
            kernel.connect(100, 100, 100);
        }
        kernel.set_patience(Duration::from_secs(3600));
        let one = Server::with_kernel(kernel, vec![()], config.clone(), limits, Upper);
        loops.push(one.unwrap());
    }
    let all: Handle = loops.iter().map(Server::handle).collect();
    loops[0].set_admin(SimAdminListener, all).unwrap();
    for _ in 0..3 {
        turn(&mut loops, &ALL);
    }
    loops
}

fn turn(loops: &mut [Loop], awake: &[usize]) {
    for index in awake {
        assert!(loops[*index].turn().unwrap());
        loops[*index].assert_invariants();
    }
}

/// The answer to a request while only some loops turn, and how long it took.
fn ask(loops: &mut [Loop], awake: &[usize], (method, path): (Method, &str)) -> (Answer, Duration) {
    let kernel = loops[0].kernel_mut();
    let end = kernel.connect_admin(1 << 16, 1 << 16, 1 << 16);
    let mut client = AdminClient::asking(end, method, path);
    client.send(kernel, usize::MAX);
    let begin = kernel.last_reading();
    for _ in 0..TURNS {
        turn(loops, awake);
        let kernel = loops[0].kernel_mut();
        client.read(kernel, usize::MAX);
        if let Some(answer) = client.answer() {
            let took = kernel.last_reading().since(begin);
            kernel.client_finish(end);
            turn(loops, awake);
            return (answer, took);
        }
    }
    panic!("{path} was not answered in {TURNS} turns");
}

#[track_caller]
fn assert_waited(took: Duration) {
    assert!(took >= PATIENCE && took < PATIENCE + Duration::from_millis(100), "{took:?}");
}

#[cfg(feature = "metrics")]
#[test]
fn a_scrape_shows_a_silent_loop_as_it_was_and_says_so() {
    let figures = |answer: &Answer| {
        ["saltecho_workers_missing", "saltecho_accepted_total"].map(|name| {
            let lines = answer.text().lines();
            let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            values.next().unwrap_or_else(|| panic!("no {name}")).parse::<u32>().unwrap()
        })
    };
    let scrape = (Method::Get, "/metrics");
    let mut loops = fleet();
    let (answer, took) = ask(&mut loops, &ALL, scrape);
    assert_eq!(figures(&answer), [0, 6]);
    assert!(took < PATIENCE, "{took:?}");
    for _ in 0..2 {
        let (answer, took) = ask(&mut loops, &WITHOUT_THE_SECOND, scrape);
        assert_eq!(figures(&answer), [1, 6]);
        assert_waited(took);
    }
    // It finds two questions that are no longer asked.
    let (answer, _) = ask(&mut loops, &ALL, scrape);
    assert_eq!(figures(&answer), [0, 6]);
}

#[test]
fn a_list_names_the_loop_that_does_not_answer() {
    for path in ["/connections", "/connections?sort=age"] {
        let mut loops = fleet();
        let rows = |answer: &Answer| {
            let rows: Vec<String> = answer.text().lines().map(str::to_owned).collect();
            let missing = rows.iter().filter(|row| *row == "{\"worker\":2,\"missing\":true}");
            (rows.len() - missing.clone().count(), missing.count())
        };
        let (answer, took) = ask(&mut loops, &ALL, (Method::Get, path));
        assert_eq!(rows(&answer), (6, 0));
        assert!(took < PATIENCE, "{took:?}");
        let (answer, took) = ask(&mut loops, &WITHOUT_THE_SECOND, (Method::Get, path));
        assert_eq!(rows(&answer), (4, 1), "{}", answer.text());
        assert_waited(took);
        let (answer, _) = ask(&mut loops, &ALL, (Method::Get, path));
        assert_eq!(rows(&answer), (6, 0));
    }
}

/// What was answered as not done must not be done later.
#[test]
fn a_kill_that_a_loop_did_not_answer_in_time_never_happens() {
    let mut loops = fleet();
    let kill = (Method::Post, "/connections/2:1/kill");
    let (answer, took) = ask(&mut loops, &WITHOUT_THE_SECOND, kill);
    assert_ne!(answer.status, 200);
    assert_waited(took);
    turn(&mut loops, &ALL);
    assert_eq!(loops[1].stats().connections, 2);
    let (answer, _) = ask(&mut loops, &ALL, kill);
    assert_eq!((answer.status, loops[1].stats().connections), (200, 1));
}

#[test]
fn other_requests_are_answered_at_once_while_one_waits_for_a_silent_loop() {
    let mut loops = fleet();
    let kernel = loops[0].kernel_mut();
    let end = kernel.connect_admin(1 << 16, 1 << 16, 1 << 16);
    let mut waiting = AdminClient::asking(end, Method::Get, "/connections");
    waiting.send(kernel, usize::MAX);
    for _ in 0..3 {
        loops[0].kernel_mut().set_patience(Duration::from_millis(100));
        turn(&mut loops, &[0]);
    }
    let (answer, took) = ask(&mut loops, &[0], (Method::Get, "/livez"));
    assert_eq!(answer.status, 200);
    assert!(took < Duration::from_millis(10), "{took:?}");
    assert!(waiting.read(loops[0].kernel_mut(), usize::MAX));
    assert!(waiting.answer().is_none(), "it waits for the others");
}

/// Hands the first loop over to another one, which is told of all.
fn move_the_first(loops: &mut Vec<Loop>) {
    let mut frozen = loops.remove(0).freeze().map_err(|_| "it drains").unwrap();
    let mut kernel = frozen.exchange_kernel(SimKernel::new(1, Faults::none()));
    kernel.begin_handover();
    let (mut decoder, mut chunks) = (Decoder::new(), frozen.chunks());
    for chunk in chunks.by_ref() {
        let sockets = chunk.sockets.iter().map(|lent| match lent {
            Lent::Listener(()) => SimMoved::Listener,
            Lent::AdminListener(_) => SimMoved::AdminListener,
            Lent::Stream(stream) => SimMoved::Stream(stream.client()),
        });
        let (kind, sockets) = (chunk.kind.code(), sockets.collect());
        decoder.take(kind, chunk.count, chunk.record_size, &chunk.payload, sockets).unwrap();
    }
    let mut arrived = decoder.finish(&chunks.totals()).unwrap().spread(1, |it| Ok(*it)).unwrap();
    let (config, limits) = settings();
    let mut thawing = Thawing::new(kernel, config, limits, Upper).unwrap();
    let all = [thawing.server().handle()].into_iter().chain(loops.iter().map(Server::handle));
    thawing.set_all(all.collect());
    thawing.restore(arrived.remove(0)).unwrap();
    thawing.server().kernel_mut().end_handover(true);
    loops.insert(0, thawing.commit());
}

#[test]
fn an_endpoint_that_moved_with_its_loop_reaches_all_of_them() {
    let mut loops = fleet();
    move_the_first(&mut loops);
    let (answer, _) = ask(&mut loops, &ALL, (Method::Get, "/connections"));
    let workers: Vec<&str> =
        answer.text().lines().map(|row| row.split_once(',').unwrap().0).collect();
    let [first, second, third] = ["{\"worker\":1", "{\"worker\":2", "{\"worker\":3"];
    assert_eq!(workers, [first, second, second, third, third, third]);
}

#[test]
fn a_loop_that_took_over_knows_how_many_descriptors_are_not_for_connections() {
    let needed = |loops: &[Loop]| {
        let (config, mut limits) = settings();
        limits.connections = usize::MAX / 2;
        let refused = loops[0].handle().reconfigure(&config, &limits, &[], &[]);
        let Err(BuildError::Descriptors { wanted, needed, .. }) = refused else {
            panic!("{refused:?}")
        };
        needed - wanted
    };
    let (config, limits) = settings();
    let kernel = SimKernel::new(1, Faults::none());
    let first = Server::with_kernel(kernel, vec![(), (), ()], config, limits, Upper).unwrap();
    let mut loops = vec![first];
    let before = needed(&loops);
    move_the_first(&mut loops);
    assert_eq!(needed(&loops), before);
}

#[test]
fn a_loop_that_has_left_waits_for_a_request_that_has_begun_and_for_no_other() {
    for (path, has_begun) in [("/livez", false), ("/livez", true), ("/readyz", true)] {
        let mut first = fleet().remove(0);
        let kernel = first.kernel_mut();
        kernel.set_patience(Duration::ZERO);
        let end = kernel.connect_admin(1 << 16, 1 << 16, 1 << 16);
        let mut client = AdminClient::asking(end, Method::Get, path);
        client.send(kernel, usize::from(has_begun));
        (0..3).for_each(|_| assert!(first.turn().unwrap()));
        let mut first = first.freeze().map_err(|_| "it drains").unwrap().leave();
        for _ in 0..3 {
            assert_eq!(first.turn().unwrap(), has_begun);
        }
        if has_begun {
            client.send(first.kernel_mut(), usize::MAX);
            for _ in 0..3 {
                first.turn().unwrap();
            }
            client.read(first.kernel_mut(), usize::MAX);
            assert_eq!(client.answer().map(|answer| answer.status), Some(200));
            first.kernel_mut().client_finish(end);
            assert!((0..3).any(|_| !first.turn().unwrap()), "it goes on");
        }
    }
}
