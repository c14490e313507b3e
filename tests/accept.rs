//! Accepting, over a kernel whose `accept` follows a script: what each error costs whom, when it
//! rests, and for how long.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these have hands.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::{CloseReason, Config, Upper};
use saltecho::python::Monotonic;
use saltecho::server::{Close, Kernel, Limits, Observer, Peer, Ready, Server, Token, Wake};

/// What a listener or `shed` says next: nothing but "would block" once this is used up.
type Script = VecDeque<Result<(), i32>>;

/// A kernel whose clients say nothing and take everything. A poll that may sleep does so to the
/// end of its time.
#[derive(Default)]
struct Doorkeeper {
    clock: Duration,
    /// By listener.
    clients: Vec<Script>,
    shed: Script,
    /// What the next poll brings.
    events: Vec<(Token, Ready)>,
    /// Where clients come from.
    peer: Option<SocketAddr>,
    /// Whether a newcomer can be registered.
    out_of_watches: bool,
    /// Listeners, in the order in which their clients were accepted.
    accepted: Vec<usize>,
    /// How long each poll might have slept.
    sleeps: Vec<Option<Duration>>,
}

fn next(script: &mut Script) -> io::Result<()> {
    let blocked = || Err(ErrorKind::WouldBlock.into());
    script.pop_front().map_or_else(blocked, |said| said.map_err(io::Error::from_raw_os_error))
}

impl Kernel for Doorkeeper {
    type Listener = usize;
    type Stream = ();

    fn now(&mut self) -> Monotonic {
        Monotonic::ZERO.saturating_add(self.clock)
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        self.sleeps.push(timeout);
        self.clock += timeout.unwrap_or_default();
        self.events.drain(..).for_each(|(token, ready)| on_event(token, ready));
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        struct Nobody;
        impl Wake for Nobody {
            fn wake(&self) {}
        }
        Arc::new(Nobody)
    }

    fn register_listener(&mut self, _listener: &mut usize, _token: Token) -> io::Result<()> {
        Ok(())
    }

    fn register(&mut self, _stream: &mut (), _token: Token) -> io::Result<()> {
        if self.out_of_watches { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }

    fn accept(&mut self, listener: &mut usize) -> io::Result<((), Option<SocketAddr>)> {
        next(&mut self.clients[*listener])?;
        self.accepted.push(*listener);
        Ok(((), self.peer))
    }

    fn shed(&mut self, _listener: &mut usize) -> io::Result<()> {
        next(&mut self.shed)
    }

    fn recv(&mut self, _stream: &mut (), _data: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, _stream: &mut (), data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn shutdown(&mut self, _stream: &mut ()) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _stream: (), _how: Close) {}

    fn peer(&mut self, _stream: &mut ()) -> io::Result<Peer> {
        Ok(Peer { silent_for: Duration::ZERO, unanswered: 0, owes_acknowledgement: false })
    }

    fn probe(&mut self, _stream: &mut ()) {}

    fn random_below(&mut self, _limit: u64) -> u64 {
        0
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }
}

/// A server without deadlines at these doors: only accepting may keep it from sleeping for ever.
fn server(clients: Vec<Script>, adjust: impl FnOnce(&mut Limits)) -> Server<Doorkeeper, Upper> {
    let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(100));
    (config.auth_timeout, config.keepalive) = (None, None);
    adjust(&mut limits);
    let doors = (0..clients.len()).collect();
    let kernel = Doorkeeper { clients, ..Doorkeeper::default() };
    Server::with_kernel(kernel, doors, config, limits, Upper).unwrap()
}

fn turns(server: &mut Server<Doorkeeper, Upper>, count: usize) {
    for _ in 0..count {
        assert!(server.turn().unwrap());
        server.assert_invariants();
    }
}

fn errors(errno: i32, count: usize) -> impl Iterator<Item = Result<(), i32>> {
    std::iter::repeat_n(Err(errno), count)
}

#[test]
fn the_misfortune_of_clients_is_counted_and_passed_over() {
    let failed = || errors(libc::ECONNABORTED, 15);
    let script = failed().chain([Ok(())]).chain(failed()).chain([Ok(())]).collect();
    let mut server = server(vec![script], |_| {});
    turns(&mut server, 1);
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.accept_errors, stats.accept_pauses), (2, 30, 0));
    turns(&mut server, 1);
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), None], "then nobody waits");
}

/// Keeps the errno of each pause, if an error was its cause.
struct Pauses(Arc<Mutex<Vec<Option<i32>>>>);

impl Observer for Pauses {
    fn accept_paused(&mut self, cause: Option<&io::Error>) {
        self.0.lock().unwrap().push(cause.and_then(io::Error::raw_os_error));
    }
}

#[test]
fn errors_that_do_not_end_make_it_rest() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut server = server(vec![errors(libc::EPERM, 1000).collect()], |_| {});
    server.set_observer(Box::new(Pauses(Arc::clone(&told))));
    turns(&mut server, 2);
    let stats = server.stats();
    assert_eq!(stats.accept_pauses, 1);
    assert!(stats.accept_errors <= 32, "{} errors in two turns", stats.accept_errors);
    let retry = Some(Duration::from_millis(100));
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), retry]);
    assert_eq!(*told.lock().unwrap(), [Some(libc::EPERM)]);
}

#[test]
fn a_listener_that_is_of_no_use_ends_the_loop() {
    let mut server = server(vec![Script::from([Err(libc::EBADF)])], |_| {});
    assert_eq!(server.turn().unwrap_err().raw_os_error(), Some(libc::EBADF));
}

#[test]
fn a_turn_accepts_its_number_and_begins_at_another_door_each_time() {
    let crowd = || Script::from([Ok(()); 10]);
    let mut server = server(vec![crowd(), crowd()], |limits| limits.accepts_per_turn = 4);
    turns(&mut server, 1);
    assert_eq!(server.stats().accepted, 4);
    turns(&mut server, 1);
    let mut accepted = server.kernel_mut().accepted.clone();
    accepted.sort_unstable();
    assert_eq!(accepted, [0, 0, 0, 0, 1, 1, 1, 1], "neither door starves");
    turns(&mut server, 6);
    assert_eq!(server.stats().accepted, 20);
    let sleeps = &server.kernel_mut().sleeps;
    assert_eq!(sleeps[..5], [Some(Duration::ZERO); 5], "no sleep while somebody waits");
    assert_eq!(sleeps.last(), Some(&None));
}

#[test]
fn without_room_it_rests_then_turns_away_who_waits() {
    let retry = Duration::from_millis(100);
    let mut server = server(vec![Script::from([Ok(()); 2])], |limits| {
        limits.connections = 1;
        limits.accept_retry = retry;
    });
    // The first try finds no descriptor for it, the second nobody any more.
    server.kernel_mut().shed = Script::from([Ok(()), Err(libc::EMFILE), Ok(())]);
    turns(&mut server, 1);
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.accept_pauses, stats.shed), (1, 1, 0));
    turns(&mut server, 1);
    assert_eq!(server.stats().shed, 1, "a rest is over at its end");
    turns(&mut server, 1);
    assert_eq!(server.stats().shed, 2, "an error of the last try is no reason to give up");
    turns(&mut server, 1);
    let rest = Some(retry);
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), rest, rest, None]);
    assert_eq!(server.stats().accept_pauses, 1);
}

#[test]
fn a_place_that_comes_free_ends_the_rest() {
    let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
    config.auth_timeout = Some(Duration::from_secs(1));
    limits.accept_retry = Duration::from_secs(3600);
    let kernel = Doorkeeper { clients: vec![Script::from([Ok(()); 2])], ..Doorkeeper::default() };
    let mut server = Server::with_kernel(kernel, vec![0], config, limits, Upper).unwrap();
    turns(&mut server, 1);
    assert_eq!((server.stats().accepted, server.stats().accept_pauses), (1, 1));
    while server.stats().closed(CloseReason::AuthTimeout) == 0 {
        turns(&mut server, 1);
    }
    assert_eq!(server.stats().accepted, 2, "in the same turn");
}

#[test]
fn a_stranger_makes_room_when_it_has_had_its_time_and_not_before() {
    let age = Duration::from_secs(1);
    let mut server = server(vec![Script::from([Ok(()); 3])], |limits| {
        limits.unauthenticated = 2;
        limits.eviction_age = age;
    });
    turns(&mut server, 1);
    assert_eq!((server.stats().accepted, server.stats().accept_pauses), (2, 1));
    turns(&mut server, 1);
    let stats = server.stats();
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), Some(age)]);
    assert_eq!((stats.accepted, stats.accept_pauses), (3, 1), "admitted as soon as it may be");
    assert_eq!(stats.closed(CloseReason::Evicted), 1);
}

#[test]
fn what_is_no_fault_of_a_source_is_not_held_against_it() {
    let mut server = server(vec![Script::from([Ok(())])], |limits| limits.unauthenticated = 1);
    server.kernel_mut().peer = Some(([10, 0, 0, 1], 1).into());
    server.kernel_mut().out_of_watches = true;
    turns(&mut server, 1);
    assert_eq!(server.stats().closed(CloseReason::SetupFailed), 1);
    server.kernel_mut().out_of_watches = false;
    server.kernel_mut().clients[0] = Script::from([Ok(())]);
    server.kernel_mut().events = vec![(Token::listener(0), Ready::READABLE)];
    turns(&mut server, 1);
    assert_eq!((server.stats().refused_suspects, server.stats().connections), (0, 1));
}

#[test]
fn turns_and_events_for_nobody_are_counted() {
    let mut server = server(vec![Script::new()], |_| {});
    let nobody = Token(7 << 32 | 5);
    server.kernel_mut().events = vec![(nobody, Ready::READABLE), (nobody, Ready::CLOSED)];
    turns(&mut server, 1);
    server.kernel_mut().events = vec![(Token::listener(9), Ready::READABLE)];
    turns(&mut server, 2);
    assert_eq!((server.stats().turns, server.stats().stale_events), (3, 2));
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), None, None], "no work in them");
}
