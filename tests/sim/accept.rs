//! Accepting, over a kernel whose `accept` follows a script: the effect of each error, and when and
//! for how long accepting pauses.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::{CloseReason, Config, Upper};
use saltecho::python::Monotonic;
use saltecho::reactor::{Close, Kernel, Liveness, Ready, Token, Wake};
use saltecho::server::{AcceptPause, Limits, Note, Server, run_workers};

/// The next results of a listener or of `shed`; then only "would block".
type Script = VecDeque<Result<(), i32>>;

/// A kernel whose clients are silent and accept all data. A poll that may sleep uses its whole
/// timeout.
#[derive(Default)]
struct ScriptedKernel {
    clock: Duration,
    /// The results of `accept`, by listener.
    clients: Vec<Script>,
    shed: Script,
    /// The events of the next poll.
    events: Vec<(Token, Ready)>,
    /// The address of every client.
    peer: Option<SocketAddr>,
    /// True if no connection can be registered.
    out_of_watches: bool,
    /// The listener of each accepted client, in order.
    accepted: Vec<usize>,
    /// The timeout of each poll.
    sleeps: Vec<Option<Duration>>,
    woken: Arc<AtomicBool>,
    panics: bool,
}

fn next(script: &mut Script) -> io::Result<()> {
    let blocked = || Err(ErrorKind::WouldBlock.into());
    script.pop_front().map_or_else(blocked, |result| result.map_err(io::Error::from_raw_os_error))
}

impl Kernel for ScriptedKernel {
    type Listener = usize;
    type Stream = ();
    type AdminListener = ();

    fn now(&mut self) -> Monotonic {
        Monotonic::ZERO.saturating_add(self.clock)
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        assert!(!self.panics, "the kernel panics on request");
        self.sleeps.push(timeout);
        if self.woken.swap(false, Ordering::Relaxed) {
            on_event(Token::WAKE, Ready::READABLE);
        }
        self.clock += timeout.unwrap_or_default();
        self.events.drain(..).for_each(|(token, ready)| on_event(token, ready));
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        struct Bell(Arc<AtomicBool>);
        impl Wake for Bell {
            fn wake(&self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        Arc::new(Bell(Arc::clone(&self.woken)))
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

    fn register_admin_listener(&mut self, _listener: &mut (), _token: Token) -> io::Result<()> {
        Ok(())
    }

    fn accept_admin(&mut self, _listener: &mut ()) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
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

    fn liveness(&mut self, _stream: &mut ()) -> io::Result<Liveness> {
        Ok(Liveness { silent_for: Duration::ZERO, unanswered: 0, owes_acknowledgement: false })
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

/// A server with these listeners and no deadlines: only accepting can keep it from sleeping
/// forever.
fn server(clients: Vec<Script>, adjust: impl FnOnce(&mut Limits)) -> Server<ScriptedKernel, Upper> {
    let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(100));
    (config.auth_timeout, config.keepalive) = (None, None);
    adjust(&mut limits);
    let listeners = (0..clients.len()).collect();
    let kernel = ScriptedKernel { clients, ..ScriptedKernel::default() };
    Server::with_kernel(kernel, listeners, config, limits, Upper).unwrap()
}

fn turns(server: &mut Server<ScriptedKernel, Upper>, count: usize) {
    for _ in 0..count {
        assert!(server.turn().unwrap());
        server.assert_invariants();
    }
}

fn errors(errno: i32, count: usize) -> impl Iterator<Item = Result<(), i32>> {
    std::iter::repeat_n(Err(errno), count)
}

#[test]
fn errors_of_one_client_are_counted_and_skipped() {
    let failed = || errors(libc::ECONNABORTED, 15);
    let script = failed().chain([Ok(())]).chain(failed()).chain([Ok(())]).collect();
    let mut server = server(vec![script], |_| {});
    turns(&mut server, 1);
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.accept_errors, stats.accept_pauses), (2, 30, 0));
    turns(&mut server, 1);
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), None], "then no client waits");
}

/// Records the reason of each pause.
fn observed(server: &mut Server<ScriptedKernel, Upper>) -> Arc<Mutex<Vec<String>>> {
    let pauses = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&pauses);
    server.set_observer(move |note, _| {
        let why = match note {
            Note::AcceptPaused(AcceptPause::Error(fault)) => format!("errno {}", fault.0),
            Note::AcceptPaused(other) => format!("{other:?}"),
            _ => return,
        };
        heard.lock().unwrap().push(why);
    });
    pauses
}

#[test]
fn persistent_errors_pause_accepting() {
    let mut server = server(vec![errors(libc::EPERM, 1000).collect()], |_| {});
    let pauses = observed(&mut server);
    turns(&mut server, 2);
    let stats = server.stats();
    assert_eq!(stats.accept_pauses, 2);
    assert!(stats.accept_errors <= 32, "{} errors in two turns", stats.accept_errors);
    let retry = Some(Duration::from_millis(100));
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), retry]);
    let why = format!("errno {}", libc::EPERM);
    assert_eq!(*pauses.lock().unwrap(), [why.clone(), why]);
}

/// There is room, and the clients behind those that failed are not at fault.
#[test]
fn a_burst_of_errors_sheds_no_client() {
    let script = errors(libc::ECONNABORTED, 100).chain([Ok(()); 10]).collect();
    let mut server = server(vec![script], |_| {});
    server.kernel_mut().shed = Script::from([Ok(()); 100]);
    turns(&mut server, 8);
    let stats = server.stats();
    assert_eq!((stats.accept_errors, stats.accepted, stats.shed), (100, 10, 0));
    assert_eq!(server.kernel_mut().sleeps.last(), Some(&None), "no client waits any more");
}

/// The first pause had another reason, so the lack of room has not lasted yet.
#[test]
fn clients_are_shed_only_after_a_pause_did_not_help() {
    let script = errors(libc::EPERM, 16).chain(errors(libc::EMFILE, 1)).chain([Ok(())]).collect();
    let mut server = server(vec![script], |_| {});
    server.kernel_mut().shed = Script::from([Ok(()); 100]);
    let pauses = observed(&mut server);
    turns(&mut server, 3);
    assert_eq!((server.stats().accepted, server.stats().shed), (1, 0));
    let expected = [libc::EPERM, libc::EMFILE].map(|errno| format!("errno {errno}"));
    assert_eq!(*pauses.lock().unwrap(), expected);
}

#[test]
fn a_pause_reports_which_limit_was_reached() {
    let mut server = server(vec![Script::from([Ok(()); 9])], |limits| limits.unauthenticated = 2);
    let pauses = observed(&mut server);
    turns(&mut server, 1);
    assert_eq!(*pauses.lock().unwrap(), ["UnauthenticatedFull"]);
    let mut server = self::server(vec![Script::from([Ok(()); 9])], |limits| limits.connections = 2);
    let pauses = observed(&mut server);
    turns(&mut server, 1);
    assert_eq!(*pauses.lock().unwrap(), ["Full"]);
}

#[test]
fn an_unusable_listener_ends_the_loop() {
    let mut server = server(vec![Script::from([Err(libc::EBADF)])], |_| {});
    let handle = server.handle();
    assert_eq!(server.turn().unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(handle.stats(), None, "no thread waits for a loop that cannot go on");
}

/// Three loops; the middle one has an unusable listener.
fn loops(
    break_it: impl FnOnce(&mut Server<ScriptedKernel, Upper>),
) -> Vec<Server<ScriptedKernel, Upper>> {
    let mut servers: Vec<_> = (0..3).map(|_| server(vec![Script::new()], |_| {})).collect();
    break_it(&mut servers[1]);
    servers
}

#[test]
fn when_a_loop_fails_the_others_drain() {
    let servers = loops(|server| server.kernel_mut().clients[0] = Script::from([Err(libc::EBADF)]));
    assert_eq!(run_workers(servers).unwrap_err().raw_os_error(), Some(libc::EBADF));
}

#[test]
fn when_a_loop_panics_the_others_drain() {
    let servers = loops(|server| server.kernel_mut().panics = true);
    let servers = Mutex::new(servers);
    let panic = catch_unwind(|| run_workers(servers.into_inner().unwrap()));
    assert!(panic.is_err(), "the panic was swallowed");
}

#[test]
fn a_turn_accepts_its_maximum_and_rotates_the_listeners() {
    let crowd = || Script::from([Ok(()); 10]);
    let mut server = server(vec![crowd(), crowd()], |limits| limits.accepts_per_turn = 4);
    turns(&mut server, 1);
    assert_eq!(server.stats().accepted, 4);
    turns(&mut server, 1);
    let mut accepted = server.kernel_mut().accepted.clone();
    accepted.sort_unstable();
    assert_eq!(accepted, [0, 0, 0, 0, 1, 1, 1, 1], "neither listener starves");
    turns(&mut server, 6);
    assert_eq!(server.stats().accepted, 20);
    let sleeps = &server.kernel_mut().sleeps;
    assert_eq!(sleeps[..5], [Some(Duration::ZERO); 5], "no sleep while a client waits");
    assert_eq!(sleeps.last(), Some(&None));
}

#[test]
fn without_descriptors_it_pauses_then_sheds_waiting_clients() {
    let retry = Duration::from_millis(100);
    let mut server = server(vec![Script::from([Ok(()); 2])], |limits| {
        limits.connections = 1;
        limits.accept_retry = retry;
    });
    // The first attempt finds no descriptor for it, the second no client any more.
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
fn a_freed_place_ends_the_pause() {
    let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
    config.auth_timeout = Some(Duration::from_secs(1));
    limits.accept_retry = Duration::from_secs(3600);
    let kernel =
        ScriptedKernel { clients: vec![Script::from([Ok(()); 2])], ..ScriptedKernel::default() };
    let mut server = Server::with_kernel(kernel, vec![0], config, limits, Upper).unwrap();
    turns(&mut server, 1);
    assert_eq!((server.stats().accepted, server.stats().accept_pauses), (1, 1));
    while server.stats().closed(CloseReason::AuthTimeout) == 0 {
        turns(&mut server, 1);
    }
    assert_eq!(server.stats().accepted, 2, "in the same turn");
}

#[test]
fn an_unauthenticated_connection_is_evicted_after_its_minimum_age_only() {
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
fn a_failed_setup_casts_no_suspicion_on_the_source() {
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
fn turns_and_stale_events_are_counted() {
    let mut server = server(vec![Script::new()], |_| {});
    let stale = Token::from_raw(7 << 32 | 5);
    server.kernel_mut().events = vec![(stale, Ready::READABLE), (stale, Ready::CLOSED)];
    turns(&mut server, 1);
    server.kernel_mut().events = vec![(Token::listener(9), Ready::READABLE)];
    turns(&mut server, 2);
    assert_eq!((server.stats().turns, server.stats().stale_events), (3, 2));
    assert_eq!(server.kernel_mut().sleeps, [Some(Duration::ZERO), None, None], "no work in them");
}
