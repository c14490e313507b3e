use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::case::Case;
use super::code::Code;
use super::judge::{Fault, Judge};
use super::log::Log;
use super::rules::Rules;
use super::script::Script;
use super::world::{Phase, World};
use crate::python::Monotonic;
use crate::random::SplitMix;
use crate::reactor::{Close, Kernel, Liveness, Note, Ready, Token, Wake};
use crate::sim::{SimAdminListener, SimKernel, SimStream};

/// The kernel below a loop that is judged: a [`SimKernel`] with clients that follow a script. They act
/// while the loop is in [`poll`](Kernel::poll), and every call is judged.
///
/// When the run is over, or a fault is found, the call does not return: it unwinds out of the loop.
pub struct LabKernel {
    pub(super) sim: SimKernel,
    pub(super) world: World,
    pub(super) judge: Judge,
    pub(super) log: Log,
    /// The clients of the tokens that are registered, and the tokens of those that are gone.
    tokens: HashMap<Token, usize>,
    gone: HashSet<Token>,
    pub(super) outcome: Option<Result<(), Fault>>,
}

/// The unwinding that ends a run.
pub(super) struct Stop;

impl LabKernel {
    pub(super) fn new(script: &Script, rules: Rules) -> Self {
        let mut random = SplitMix::new(script.kernel_seed);
        random.number_chances(script.strikes.clone());
        Self {
            sim: SimKernel::with_choices(random, script.faults.clone()),
            world: World::new(script),
            judge: Judge::new(rules),
            log: Log::default(),
            tokens: HashMap::new(),
            gone: HashSet::new(),
            outcome: None,
        }
    }

    /// Rules of the run.
    pub const fn rules(&self) -> &Rules {
        &self.judge.rules
    }

    /// The simulated kernel below.
    pub const fn sim(&self) -> &SimKernel {
        &self.sim
    }

    /// Ends the run.
    fn stop(&mut self, outcome: Result<(), Fault>) -> ! {
        self.outcome.get_or_insert(outcome);
        std::panic::resume_unwind(Box::new(Stop))
    }

    fn check(&mut self, verdict: Result<(), Fault>) {
        if let Err(fault) = verdict {
            self.stop(Err(fault));
        }
    }

    fn begin_call(&mut self) {
        let verdict = self.judge.call();
        self.check(verdict);
    }

    /// The clients act, before the loop learns of anything.
    fn play(&mut self) {
        let Self { sim, world, judge, log, .. } = self;
        if world.act(sim, log, &judge.rules) {
            judge.gain();
        }
        let verdict = self.judge.check_clients(&self.sim, &self.world.clients);
        self.check(verdict);
        if self.world.phase() == Phase::Over {
            let verdict = self.judge.check_end();
            self.stop(verdict);
        }
    }

    /// Notes an event, and whether it is about an earlier owner of its token.
    fn meet(&mut self, token: Token, ready: Ready) {
        match self.tokens.get(&token) {
            Some(client) => {
                let true_bits = self.sim.outlook(self.world.clients[*client].end).readiness;
                if self.gone.contains(&token) && !true_bits.has(ready) {
                    self.judge.met.count(Case::ReusedToken);
                }
            }
            None if self.gone.contains(&token) => self.judge.met.count(Case::StaleEvent),
            None => {}
        }
    }

    fn describe_poll(&self, timeout: Option<Duration>, events: &[(Token, Ready)]) -> String {
        let names = events.iter().map(|(token, ready)| {
            let name = match self.tokens.get(token) {
                Some(client) => format!("c{}", client + 1),
                None if *token == Token::WAKE => "waker".to_owned(),
                None if self.gone.contains(token) => "an old token".to_owned(),
                None => "listener".to_owned(),
            };
            format!("{name} {}", bits(*ready))
        });
        let names = names.collect::<Vec<_>>().join(", ");
        let timeout = match timeout {
            None => "no timeout".to_owned(),
            Some(timeout) => format!("{timeout:?}"),
        };
        let names = if names.is_empty() { "nothing" } else { &names };
        format!("poll({timeout}) -> {names}")
    }
}

/// The bits of an event in letters: readable, writable, hang-up, urgent.
fn bits(ready: Ready) -> String {
    const LETTERS: [(Ready, char); 4] = [
        (Ready::READABLE, 'R'),
        (Ready::WRITABLE, 'W'),
        (Ready::CLOSED, 'H'),
        (Ready::PRIORITY, 'U'),
    ];
    LETTERS.iter().filter(|(bit, _)| ready.has(*bit)).map(|(_, letter)| letter).collect()
}

/// A call's answer in words.
pub(super) fn answer(result: &io::Result<usize>) -> String {
    match result {
        Ok(n) => n.to_string(),
        Err(error) => error_name(error),
    }
}

/// The name of an error, as programs over the wire get it.
pub fn error_name(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::WouldBlock, _) => "WouldBlock".to_owned(),
        (ErrorKind::Interrupted, _) => "Interrupted".to_owned(),
        (ErrorKind::BrokenPipe, _) => "BrokenPipe".to_owned(),
        (ErrorKind::NotConnected, _) => "NotConnected".to_owned(),
        (ErrorKind::ConnectionReset, _) => "ConnectionReset".to_owned(),
        (ErrorKind::ConnectionAborted, _) => "ConnectionAborted".to_owned(),
        (ErrorKind::TimedOut, _) => "TimedOut".to_owned(),
        (_, Some(libc::EMFILE)) => "TooManyOpenFiles".to_owned(),
        (_, Some(errno)) => format!("errno {errno}"),
        (kind, None) => format!("{kind:?}"),
    }
}

impl Kernel for LabKernel {
    type Listener = ();
    type Stream = SimStream;
    type AdminListener = SimAdminListener;

    fn now(&mut self) -> Monotonic {
        self.begin_call();
        self.sim.now()
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        self.begin_call();
        self.judge.turn();
        // The timeout was computed before the process was stopped, if the script stops it here.
        let from = self.sim.clock();
        self.play();
        let mut events = Vec::new();
        let result = self.sim.poll(timeout, |token, ready| events.push((token, ready)));
        let text = self.describe_poll(timeout, &events);
        self.log.call(|| text);
        if self.sim.slept() {
            let Self { sim, world, judge, .. } = self;
            let verdict = judge.slept(timeout, from, sim, &world.clients);
            world.rest();
            self.check(verdict);
        }
        for (token, ready) in events {
            self.meet(token, ready);
            on_event(token, ready);
        }
        result
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.sim.waker()
    }

    fn register_listener(&mut self, listener: &mut (), token: Token) -> io::Result<()> {
        self.begin_call();
        self.log.call(|| "register(listener)".to_owned());
        self.sim.register_listener(listener, token)
    }

    fn register(&mut self, stream: &mut SimStream, token: Token) -> io::Result<()> {
        self.begin_call();
        let client = stream.client().number();
        let result = self.sim.register(stream, token);
        match &result {
            Ok(()) => {
                self.judge.conn(client).registered = true;
                self.tokens.insert(token, client);
                self.log.call(|| format!("register(c{})", client + 1));
            }
            Err(error) => {
                self.judge.conn(client).failed = true;
                self.log.call(|| format!("register(c{}) -> {}", client + 1, error_name(error)));
            }
        }
        result
    }

    fn accept(&mut self, listener: &mut ()) -> io::Result<(SimStream, Option<SocketAddr>)> {
        self.begin_call();
        let result = self.sim.accept(listener);
        match &result {
            Ok((stream, _)) => {
                let client = stream.client().number();
                self.judge.accepted(client, self.sim.clock());
                if self.sim.queued_clients() > 0 {
                    self.judge.met.count(Case::Queue);
                }
                self.log.call(|| format!("accept() -> c{}", client + 1));
            }
            Err(error) => {
                self.judge.refused(error);
                self.log.call(|| format!("accept() -> {}", error_name(error)));
            }
        }
        result
    }

    fn register_admin_listener(&mut self, _: &mut SimAdminListener, _: Token) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn accept_admin(&mut self, _: &mut SimAdminListener) -> io::Result<SimStream> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn shed(&mut self, listener: &mut ()) -> io::Result<()> {
        self.begin_call();
        let result = self.sim.shed(listener);
        let text =
            result.as_ref().map_or_else(error_name, |()| "a client is turned away".to_owned());
        self.log.call(|| format!("shed() -> {text}"));
        if result.is_ok() {
            let verdict = self.judge.shed();
            self.check(verdict);
        }
        result
    }

    fn recv(&mut self, stream: &mut SimStream, data: &mut [u8]) -> io::Result<usize> {
        self.begin_call();
        let (end, client, room) = (stream.client(), stream.client().number(), data.len());
        if room > self.judge.rules.recv_max {
            let most = self.judge.rules.recv_max;
            let note = format!("a buffer of {room} bytes, and at most {most} are allowed");
            self.log.call(|| format!("recv(c{}, {room})", client + 1));
            self.stop(Err(Fault::new(Code::LargeBuffer, note)));
        }
        let result = self.sim.recv(stream, data);
        self.log.call(|| format!("recv(c{}, {room}) -> {}", client + 1, answer(&result)));
        let (outlook, clock) = (self.sim.outlook(end), self.sim.clock());
        let verdict = self.judge.received(client, room, &result, outlook, clock);
        self.check(verdict);
        // A sender fills the room that a read has made, also while the loop is at work.
        let Self { sim, world, judge, log, .. } = self;
        world.refill(client, sim, log, &judge.rules);
        result
    }

    fn send(&mut self, stream: &mut SimStream, data: &[u8]) -> io::Result<usize> {
        self.begin_call();
        if data.is_empty() {
            return Ok(0);
        }
        let (client, len) = (stream.client().number(), data.len());
        let result = self.sim.send(stream, data);
        self.log.call(|| format!("send(c{}, {len}) -> {}", client + 1, answer(&result)));
        let verdict = self.judge.sent(client, data, &result);
        self.check(verdict);
        result
    }

    fn shutdown(&mut self, stream: &mut SimStream) -> io::Result<()> {
        self.begin_call();
        let client = stream.client().number();
        self.log.call(|| format!("shutdown(c{})", client + 1));
        let result = self.sim.shutdown(stream);
        let verdict = self.judge.shut_down(client, self.sim.clock());
        self.check(verdict);
        result
    }

    fn close(&mut self, stream: SimStream, how: Close) {
        self.begin_call();
        let (end, client) = (stream.client(), stream.client().number());
        let (outlook, clock) = (self.sim.outlook(end), self.sim.clock());
        let suffix = if how == Close::Reset { ", with a reset" } else { "" };
        self.log.call(|| format!("close(c{}{suffix})", client + 1));
        if let Some(token) = self.sim.ledger(end).name {
            self.tokens.remove(&token);
            self.gone.insert(token);
        }
        self.sim.close(stream, how);
        let verdict = self.judge.closed(client, self.log.last(), clock, outlook);
        self.check(verdict);
    }

    fn note(&mut self, note: impl FnOnce() -> Note) {
        self.sim.note(note);
    }

    fn liveness(&mut self, stream: &mut SimStream) -> io::Result<Liveness> {
        self.sim.liveness(stream)
    }

    fn probe(&mut self, stream: &mut SimStream) {
        self.sim.probe(stream);
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        self.sim.random_below(limit)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.sim.fill_random(bytes)
    }
}
