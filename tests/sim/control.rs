//! A loop under a control: signals, reloads, ticks, and a drain step by step.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::{CloseReason, Config, Upper};
use saltecho::server::{Control, Handle, Limits, Server, ServiceState, Stats};
use saltecho::sim::{Faults, Seen, SimClient, SimKernel};

type Loop = Server<SimKernel, Upper>;

/// What the control was called for, in order.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Signal(i32),
    Reload,
    State(ServiceState),
    Tick,
}

use Call::{Reload, Signal, State, Tick};
use ServiceState::{Draining, Ready, Reloading, Stopped, Unready};

#[derive(Clone, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    period: Option<Duration>,
    fragile: bool,
    reload_fails: bool,
}

impl Recorder {
    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Control for Recorder {
    fn signal(&mut self, signal: i32, server: &Handle) {
        self.note(Signal(signal));
        assert!(!self.fragile, "a panic of the control");
        match signal {
            libc::SIGHUP => server.reload(),
            libc::SIGTERM => server.drain(),
            libc::SIGINT => server.stop(),
            _ => {}
        }
    }

    fn reload(&mut self, _: &Handle) -> Result<String, String> {
        self.note(Reload);
        assert!(!self.fragile, "a panic of the control");
        if self.reload_fails { Err("no".to_owned()) } else { Ok("yes".to_owned()) }
    }

    fn state(&mut self, state: ServiceState, _: &Handle) {
        self.note(State(state));
        assert!(!self.fragile, "a panic of the control");
    }

    fn period(&self) -> Option<Duration> {
        self.period
    }

    fn tick(&mut self, _: &Handle) {
        self.note(Tick);
        assert!(!self.fragile, "a panic of the control");
    }
}

const LIMIT: Duration = Duration::from_secs(25);

fn limits() -> Limits {
    let mut limits = Limits::for_connections(1000);
    limits.unauthenticated = 1000;
    limits.accepts_per_turn = 1000;
    limits.drain_timeout = Some(LIMIT);
    limits
}

fn server_with(faults: Faults, limits: Limits) -> Loop {
    let mut config = Config::new(Keyring::demo());
    config.auth_timeout = None;
    let mut kernel = SimKernel::new(1, faults);
    kernel.set_patience(Duration::from_secs(3600));
    Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap()
}

fn controlled(limits: Limits, control: &Recorder) -> Loop {
    let mut server = server_with(Faults::none(), limits);
    let all = server.handle();
    server.set_control(Box::new(control.clone()), all);
    server.turn().unwrap();
    server
}

fn signal(server: &mut Loop, signal: i32) -> bool {
    server.kernel_mut().signal(signal);
    server.turn().unwrap()
}

fn crowd(server: &mut Loop, number: usize) -> Vec<SimClient> {
    let crowd = (0..number).map(|_| server.kernel_mut().connect(100, 100, 100)).collect();
    server.turn().unwrap();
    assert_eq!(server.stats().connections, number);
    crowd
}

#[test]
fn a_parked_loop_runs_on_when_it_is_told_to() {
    let mut server = server_with(Faults::none(), limits());
    assert!(server.turn().unwrap() && !server.is_parked());
    server.handle().park();
    assert!(!server.turn().unwrap() && server.is_parked(), "its run is over");
    server.unpark();
    assert!(!server.is_parked() && server.turn().unwrap());
}

#[test]
fn a_signal_takes_effect_in_the_turn_that_reads_it() {
    let control = Recorder::default();
    let mut server = controlled(limits(), &control);
    crowd(&mut server, 1);
    assert!(server.is_ready());
    assert!(!signal(&mut server, libc::SIGTERM), "it has nothing left to do");
    assert!(!server.is_ready());
    assert_eq!(server.stats().closed(CloseReason::Drained), 1);
    let calls = control.calls();
    assert_eq!(calls[..3], [State(Ready), Tick, Signal(libc::SIGTERM)]);
    assert_eq!(calls[3..], [State(Draining), State(Stopped)]);
}

#[test]
fn a_reload_is_announced_before_and_over_after() {
    for reload_fails in [false, true] {
        let control = Recorder { reload_fails, ..Recorder::default() };
        let mut server = controlled(limits(), &control);
        signal(&mut server, libc::SIGHUP);
        // Another thread's reload is the same.
        server.handle().reload();
        server.turn().unwrap();
        let reload = [State(Reloading), Reload, State(Ready)];
        let expected = [&[State(Ready), Tick, Signal(libc::SIGHUP)], &reload[..], &reload].concat();
        assert_eq!(control.calls(), expected);
    }
}

#[test]
fn a_reload_in_a_drain_does_not_make_the_service_ready_again() {
    let control = Recorder::default();
    let mut limits = limits();
    limits.drain_delay = Duration::from_secs(1);
    let mut server = controlled(limits, &control);
    signal(&mut server, libc::SIGTERM);
    signal(&mut server, libc::SIGHUP);
    assert_eq!(control.calls()[3..], [State(Unready), Signal(libc::SIGHUP), Reload]);
}

#[test]
fn every_signal_is_handled_however_its_event_comes() {
    let faults = Faults { delayed_event: 700, repeated_event: 500, ..Faults::none() };
    let mut server = server_with(faults, limits());
    let (control, all) = (Recorder::default(), server.handle());
    server.set_control(Box::new(control.clone()), all);
    let mut sent = Vec::new();
    for round in 0..100 {
        let signals = [libc::SIGHUP, libc::SIGUSR1, libc::SIGHUP];
        for number in &signals[..1 + round % 3] {
            server.kernel_mut().signal(*number);
            sent.push(Signal(*number));
        }
        server.turn().unwrap();
    }
    while control.calls().iter().filter(|call| matches!(call, Signal(_))).count() < sent.len() {
        server.turn().unwrap();
        assert!(!server.kernel_mut().slept(), "it sleeps over a signal");
    }
    let mut handled = control.calls();
    handled.retain(|call| matches!(call, Signal(_)));
    assert_eq!(handled, sent);
}

#[test]
fn ticks_come_at_their_period_and_only_then() {
    let period = Some(Duration::from_secs(5));
    for (period, ticks) in [(period, 10), (None, 0)] {
        let control = Recorder { period, ..Recorder::default() };
        let mut server = controlled(limits(), &control);
        let begin = server.kernel_mut().last_reading();
        server.kernel_mut().set_patience(Duration::from_secs(50));
        let mut turns = 0;
        while server.kernel_mut().last_reading().since(begin) < Duration::from_secs(50) {
            server.turn().unwrap();
            turns += 1;
        }
        let called = control.calls().iter().filter(|call| **call == Tick).count();
        assert_eq!((called, turns), (1 + ticks, ticks.max(1)), "the first turn ticks, too");
    }
}

#[test]
fn a_control_that_panics_is_called_again_and_ends_nothing() {
    let period = Some(Duration::from_secs(5));
    let control = Recorder { fragile: true, period, ..Recorder::default() };
    let mut server = controlled(limits(), &control);
    let clients = crowd(&mut server, 1);
    signal(&mut server, libc::SIGTERM);
    signal(&mut server, libc::SIGHUP);
    server.handle().reload();
    server.turn().unwrap();
    assert_eq!(server.kernel_mut().client_recv(clients[0], 100).map(|bytes| bytes.len()), Ok(32));
    assert!(server.is_ready());
    let calls = control.calls();
    for call in [Signal(libc::SIGTERM), Signal(libc::SIGHUP), Reload, State(Reloading)] {
        assert!(calls.contains(&call), "no {call:?} in {calls:?}");
    }
    assert_eq!(server.stats().observer_panics, calls.len() as u64);
    let ticks = |calls: Vec<Call>| calls.iter().filter(|call| **call == Tick).count();
    let before = ticks(calls);
    (0..10).for_each(|_| assert!(server.turn().unwrap()));
    assert!(ticks(control.calls()) > before, "it is called again");
}

/// A parked loop is run again if the others do not park, and one that has ended would then never return.
#[test]
fn a_loop_that_ends_in_the_turn_in_which_it_was_to_park_is_not_parked() {
    for end in [Handle::drain, Handle::stop] {
        let mut server = server_with(Faults::none(), limits());
        server.handle().park();
        end(&server.handle());
        assert!(!server.turn().unwrap(), "it has nothing left to do");
        assert!(!server.is_parked());
    }
}

#[test]
fn during_the_drain_delay_clients_are_still_served() {
    let control = Recorder::default();
    let mut limits = limits();
    limits.drain_delay = Duration::from_secs(10);
    let mut server = controlled(limits, &control);
    let clients = crowd(&mut server, 1);
    signal(&mut server, libc::SIGTERM);
    assert!(!server.is_ready());
    let late = server.kernel_mut().connect(100, 100, 100);
    server.turn().unwrap();
    assert_eq!(server.stats().connections, 2);
    assert_eq!(server.kernel_mut().client_recv(late, 100).map(|bytes| bytes.len()), Ok(32));
    // The delay is over, however long the sleep might be.
    let begin = server.kernel_mut().last_reading();
    while server.turn().unwrap() {}
    let waited = server.kernel_mut().last_reading().since(begin);
    assert!(waited <= limits.drain_delay && waited > Duration::from_secs(9), "{waited:?}");
    for client in [clients[0], late] {
        while server.kernel_mut().client_recv(client, 100).is_ok() {}
        assert_eq!(server.kernel_mut().client_recv(client, 100), Err(Seen::End));
    }
    let states = control.calls();
    let states: Vec<_> = states.iter().filter(|call| matches!(call, State(_))).collect();
    assert_eq!(states, [&State(Ready), &State(Unready), &State(Draining), &State(Stopped)]);
}

/// A crowd in a drain is not one long turn, and the last of it is served until it is its turn.
#[test]
fn a_drain_begins_to_finish_a_limited_number_per_turn() {
    const CROWD: usize = 1000;
    const PER_TURN: usize = 64;
    let control = Recorder::default();
    let mut limits = limits();
    limits.deadlines_per_turn = PER_TURN;
    let mut server = controlled(limits, &control);
    let crowd = crowd(&mut server, CROWD);
    // The events of their registration.
    server.turn().unwrap();
    server.kernel_mut().signal(libc::SIGTERM);
    let mut turns = 0;
    loop {
        let (before, open) = (server.kernel_mut().steps(), server.kernel_mut().open_streams());
        if turns == 2 {
            // A wrong digest, whose connection is closed at once.
            server.kernel_mut().client_send(crowd[CROWD - 1], &[0; 16]);
        }
        let goes_on = server.turn().unwrap();
        turns += 1;
        let closed = open - server.kernel_mut().open_streams();
        let steps = server.kernel_mut().steps() - before;
        assert!(closed <= PER_TURN + 1, "{closed} closed in one turn");
        assert!(steps <= 2 * PER_TURN as u64, "{steps} calls in one turn");
        if turns == 3 {
            assert_eq!(server.stats().closed(CloseReason::Rejected), 1);
        }
        if !goes_on {
            break;
        }
        server.assert_invariants();
    }
    assert_eq!(turns, CROWD.div_ceil(PER_TURN));
    assert_eq!(server.stats().closed(CloseReason::Drained), CROWD as u64 - 1);
    let states = control.calls();
    assert!(states.ends_with(&[State(Draining), State(Stopped)]), "{states:?}");
}

#[test]
fn the_last_of_several_loops_hands_over_the_counters_of_all() {
    let mut servers: Vec<Loop> = (0..3).map(|_| server_with(Faults::none(), limits())).collect();
    for (server, number) in servers.iter_mut().zip(1..) {
        crowd(server, number);
    }
    let all: Handle = servers.iter().map(Server::handle).collect();
    let answers: Arc<Mutex<Vec<Stats>>> = Arc::default();
    let ask = || {
        let answers = Arc::clone(&answers);
        all.with_stats(move |stats| answers.lock().unwrap().push(stats));
    };
    let answered = || {
        let answers = std::mem::take(&mut *answers.lock().unwrap());
        answers.iter().map(|stats| (stats.loops, stats.connections)).collect::<Vec<_>>()
    };
    ask();
    servers[2].turn().unwrap();
    servers[0].turn().unwrap();
    assert_eq!(answered(), [], "one loop has not turned");
    servers[1].turn().unwrap();
    assert_eq!(answered(), [(3, 6)]);
    // A loop that has ended is not waited for.
    servers[2].handle().stop();
    ask();
    servers[0].turn().unwrap();
    servers[1].turn().unwrap();
    servers[2].turn().unwrap();
    assert_eq!(answered(), [(3, 3)], "it answered after it had closed its connections");
    ask();
    drop(servers.remove(0));
    servers[0].turn().unwrap();
    assert_eq!(answered(), [(1, 2)]);
    drop(servers);
    ask();
    assert_eq!(answered(), [], "no loop is left");
    assert_eq!(all.stats(), None);
}

/// What is called at the end of a question may ask the next, even while a loop ends.
#[test]
fn an_answer_may_lead_to_a_command() {
    let mut server = server_with(Faults::none(), limits());
    let (handle, again) = (server.handle(), server.handle());
    let answered = Arc::new(Mutex::new(0));
    let count = Arc::clone(&answered);
    handle.with_stats(move |_| {
        *count.lock().unwrap() += 1;
        again.stop();
        assert_eq!(again.stats(), None, "a loop cannot wait for itself");
    });
    assert!(server.turn().unwrap());
    assert!(!server.turn().unwrap(), "it was stopped");
    assert_eq!(*answered.lock().unwrap(), 1);
}
