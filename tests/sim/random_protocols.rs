//! The real loop in the other protocols, over the simulated kernel: random clients, random faults,
//! one seed. `SALTECHO_SIM_SEED=7 cargo test --test sim random_protocols` runs one seed alone.
#![allow(clippy::iter_over_hash_type)] // A judge decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::auth::{Key, KeyName, Keyring, MacAlgorithm};
use saltecho::proto::{
    CloseReason, Config, ConnId, Framed, Handler, Identity, MutualHandshake, Protocol, Role, Upper,
    frame_header,
};
use saltecho::random::SplitMix;
use saltecho::server::handover::Thawing;
use saltecho::server::{Limits, Note, Server, recording_header};
use saltecho::sim::{Faults, Seen, SimClient, SimKernel};
use saltecho::trace::{RecordOptions, Recorder};

use crate::multiprocessing_world::answer;
use crate::world::TestKernel;
use crate::world::client::Fate;
use crate::world::moving::{self, Outcome, draw_time};
use crate::world::segments;
use crate::world::steps::{receive, until_asleep};

const SEEDS: u64 = 600;
const MAX_MESSAGE: u64 = 300;
const FAILURE: &[u8] = b"\0\0\0\x09#FAILURE#";

#[test]
fn nothing_is_lost_in_frames() {
    let serve = |seed| run(Protocol::Multiprocessing, Framed::new(Upper, Some(MAX_MESSAGE)), seed);
    each_seed(serve);
}

#[test]
fn nothing_is_lost_in_a_plain_stream() {
    each_seed(|seed| run(Protocol::Plain, Identity, seed));
}

fn each_seed(run: impl Fn(u64)) {
    match std::env::var("SALTECHO_SIM_SEED") {
        Ok(seed) => run(seed.parse().expect("SALTECHO_SIM_SEED is a number")),
        Err(_) => (0..SEEDS).for_each(run),
    }
}

/// What a client does in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Its key is not the server's.
    WrongKey,
    /// It sends something else in place of its challenge, or rejects the server's response.
    BreaksOff,
}

struct Client {
    end: SimClient,
    manner: Manner,
    keys: Keyring,
    /// None once it has succeeded, and in a plain protocol.
    handshake: Option<MutualHandshake>,
    /// Bytes that are to be sent, and those of them that the server's kernel took.
    unsent: Vec<u8>,
    sent: Vec<u8>,
    got: Vec<u8>,
    /// What the server said at the end of a failed handshake.
    last: Vec<u8>,
    left: usize,
    /// If it breaks off, whether it does so by rejecting the server's response.
    rejects: bool,
    too_long: bool,
    seen: Option<Seen>,
    fate: Fate,
}

impl Client {
    fn new(protocol: Protocol, end: SimClient, random: &mut SplitMix) -> Self {
        let is_framed = protocol == Protocol::Multiprocessing;
        let manner = match random.below(8) {
            0 if is_framed => Manner::WrongKey,
            1 if is_framed => Manner::BreaksOff,
            _ => Manner::Honest,
        };
        let key = match manner {
            Manner::WrongKey => Key::new(*b"not the key of the server"),
            Manner::Honest | Manner::BreaksOff => Key::demo(),
        };
        // Python of either age.
        let algorithm = [MacAlgorithm::Md5, MacAlgorithm::Sha256][random.below(2)];
        let keys = Keyring::single(algorithm, &key);
        let bytes = std::array::from_fn(|_| random.next_u64().to_le_bytes()[0]);
        let handshake = is_framed.then(|| MutualHandshake::new(Role::Client, &keys, bytes));
        Self {
            end,
            manner,
            keys,
            handshake,
            unsent: Vec::new(),
            sent: Vec::new(),
            got: Vec::new(),
            last: Vec::new(),
            left: random.below(6),
            rejects: random.chance(500),
            too_long: false,
            seen: None,
            fate: Fate::Present,
        }
    }

    fn is_present(&self) -> bool {
        self.fate == Fate::Present && self.seen.is_none()
    }

    /// Takes the next message to send, if its turn has come.
    fn prepare(&mut self, random: &mut SplitMix) {
        if let Some(handshake) = &mut self.handshake {
            if !self.unsent.is_empty() || handshake.unsent().is_empty() {
                return;
            }
            self.unsent = handshake.unsent().to_vec();
            handshake.handle_sent(self.unsent.len());
            let last = if self.rejects { &b"#WELCOME#"[..] } else { b"#CHALLENGE#" };
            if self.manner == Manner::BreaksOff && self.unsent[4..].starts_with(last) {
                self.unsent = FAILURE.to_vec();
            }
            if handshake.outcome() == Some(Ok(())) {
                self.handshake = None;
            }
        } else if self.unsent.is_empty() && self.left > 0 && !self.too_long {
            self.left -= 1;
            let most = if random.chance(100) { 400 } else { 90 };
            let len = random.below(most);
            let payload: Vec<u8> = (0..len).map(|_| random.next_u64().to_le_bytes()[0]).collect();
            let header = match random.below(5) {
                0 => [&[255; 4][..], &(len as u64).to_be_bytes()].concat(),
                _ => frame_header(len as u64).as_ref().to_vec(),
            };
            self.too_long = len as u64 > MAX_MESSAGE;
            self.unsent = [header, payload].concat();
        }
    }

    fn send(&mut self, kernel: &mut TestKernel, random: &mut SplitMix, limit: usize) -> bool {
        if !self.is_present() {
            return false;
        }
        self.prepare(random);
        let n = kernel.client_send(self.end, &self.unsent[..limit.min(self.unsent.len())]);
        let sent: Vec<u8> = self.unsent.drain(..n).collect();
        self.sent.extend(sent);
        n > 0
    }

    fn read(&mut self, kernel: &mut TestKernel, limit: usize) -> bool {
        let Some(bytes) = receive(kernel, self.end, limit, &mut self.seen) else { return false };
        match &mut self.handshake {
            Some(handshake) if handshake.error().is_none() => {
                let taken = handshake.handle_recv(&self.keys, &bytes);
                assert_eq!(taken, bytes.len(), "the server speaks only when it is spoken to");
                if self.manner == Manner::Honest {
                    assert_eq!(handshake.error(), None, "the handshake of an honest client");
                }
                self.last.extend(bytes);
            }
            Some(_) => panic!("the server goes on after a failure"),
            None => self.got.extend(bytes),
        }
        true
    }

    /// What the server owes for all that was sent after the handshake.
    fn owed(&self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::Multiprocessing => {
                let mut at = 0;
                // Behind the response, the challenge and `#WELCOME#`.
                for _ in 0..3 {
                    let Some(header) = self.sent.get(at..at + 4) else { return Vec::new() };
                    let len = u32::from_be_bytes(header.try_into().unwrap());
                    at += 4 + usize::try_from(len).unwrap();
                }
                answer(self.sent.get(at..).unwrap_or_default(), Some(MAX_MESSAGE)).0
            }
            _ => self.sent.clone(),
        }
    }

    fn check(&self, protocol: Protocol) {
        let owed = self.owed(protocol);
        assert!(self.manner == Manner::Honest || self.got.is_empty(), "{:?}", self.manner);
        assert!(owed.starts_with(&self.got), "{:?} got what it is not owed", self.end);
        if self.manner == Manner::WrongKey
            && let Some(len) = self.last.get(3)
        {
            let verdict = self.last.get(4 + usize::from(*len)..).unwrap_or_default();
            assert!(FAILURE.starts_with(verdict), "{}", verdict.escape_ascii());
        }
    }
}

#[derive(Default)]
struct Seer(Arc<Mutex<Reported>>);

#[derive(Default)]
struct Reported {
    authenticated: Vec<(ConnId, Option<KeyName>)>,
    closed: HashMap<ConnId, CloseReason>,
}

impl Seer {
    fn observe<H: Handler + Clone>(&self, server: &mut Server<TestKernel, H>) {
        let reported = Arc::clone(&self.0);
        server.set_observer(move |note, _| match *note {
            Note::Authenticated(id, key) => {
                let key = key.map(|key| key.name.expect("only recordings have none"));
                reported.lock().unwrap().authenticated.push((id, key));
            }
            Note::Closed(id, reason) => {
                let twice = reported.lock().unwrap().closed.insert(id, reason);
                assert_eq!(twice, None, "{id} closed twice");
            }
            _ => {}
        });
    }
}

struct World<H: Handler + Clone> {
    protocol: Protocol,
    server: Server<TestKernel, H>,
    config: Config,
    limits: Limits,
    handler: H,
    /// The chance of a handover before a turn, in thousandths.
    handovers: u32,
    clients: Vec<Client>,
    random: SplitMix,
    seer: Seer,
}

fn run<H: Handler + Clone>(protocol: Protocol, handler: H, seed: u64) {
    println!("seed {seed}");
    let mut random = SplitMix::new(seed);
    let faults = Faults::draw(&mut random);
    let algorithm = [MacAlgorithm::Md5, MacAlgorithm::Sha256][random.below(2)];
    let other = Key::new(*b"a key that comes before it");
    let mut config = Config::new(Keyring::new(algorithm, &[other, Key::demo()]).unwrap());
    config.protocol = protocol;
    let most = if random.chance(500) { 20 } else { 200 };
    config.recv_size = 1 + random.below(most);
    config.auth_timeout = [None, Some(Duration::from_millis(500))][random.below(2)];
    config.idle_timeout = [None, Some(Duration::from_millis(700))][random.below(2)];
    let mut limits = Limits::for_connections(1 + random.below(12));
    limits.bytes_per_turn = 1 + random.below(10_000);
    limits.accepts_per_turn = 1 + random.below(4);
    let kernel = SimKernel::new(random.next_u64(), faults);
    let handovers = [0, 0, 50, 300][random.clone().below(4)];
    // A recording does not go on in another loop.
    let (kernel, recorded) = match handovers {
        0 => {
            let header = recording_header(&config, &limits, &[], &[], &[false]);
            let keeps_payload = seed.is_multiple_of(2);
            let options = RecordOptions { header, keeps_payload, limit: Some(14_000) };
            let (recorder, recorded) = segments::record(kernel, options);
            (recorder, Some(recorded))
        }
        _ => (Recorder::off(kernel), None),
    };
    let (own, settings) = (handler.clone(), config.clone());
    let mut server = Server::with_kernel(kernel, vec![().into()], settings, limits, own).unwrap();
    let (seer, clients) = (Seer::default(), Vec::new());
    seer.observe(&mut server);
    let fresh = handler.clone();
    let mut world =
        World { protocol, server, config, limits, handler, handovers, clients, random, seer };
    for _ in 0..world.random.below(300) {
        world.act();
        let patience = [0, 1, 50, 400][world.random.below(4)];
        world.server.kernel_mut().set_patience(Duration::from_millis(patience));
        if world.handovers > 0 && world.random.chance(world.handovers) {
            world.hand_over();
        }
        world.turn();
    }
    world.quiesce();
    world.end();
    drop(world);
    if let Some(recorded) = recorded
        && let Err(fault) = recorded.replay(|| fresh.clone())
    {
        panic!("seed {seed}: {fault}");
    }
}

impl<H: Handler + Clone> World<H> {
    /// Hands the server over, or tries to.
    fn hand_over(&mut self) {
        let thawing = |world: &Self, kernel| {
            let (config, limits) = (world.config.clone(), world.limits);
            let mut thawing = Thawing::new(kernel, config, limits, world.handler.clone()).unwrap();
            world.seer.observe(thawing.server());
            thawing
        };
        let placeholder = thawing(self, Recorder::off(SimKernel::new(0, Faults::none()))).commit();
        let server = std::mem::replace(&mut self.server, placeholder);
        let mut random = self.random.clone();
        let (outcome, time) = (Outcome::draw(&mut random), draw_time(&mut random));
        let handed_over =
            moving::hand_over(server, outcome, time, &mut random, |kernel| thawing(self, kernel));
        self.random = random;
        self.server = handed_over.map_or_else(|server| *server, |handed_over| handed_over.server);
        self.server.assert_invariants();
    }

    fn turn(&mut self) {
        self.server.turn().expect("no error of one connection ends the loop");
        self.server.assert_invariants();
    }

    fn act(&mut self) {
        if self.clients.is_empty() || (self.clients.len() < 12 && self.random.chance(100)) {
            let mut capacity = || 1 + self.random.below(300);
            let (to_server, to_client, window) = (capacity(), capacity(), capacity());
            let end = self.server.kernel_mut().connect(to_server, to_client, window);
            self.clients.push(Client::new(self.protocol, end, &mut self.random));
            return;
        }
        let index = self.random.below(self.clients.len());
        let limit = 1 + self.random.below(120);
        let (client, kernel) = (&mut self.clients[index], self.server.kernel_mut());
        match self.random.below(40) {
            0 if client.is_present() => {
                kernel.client_finish(client.end);
                client.fate = Fate::Finished;
            }
            1 if client.is_present() => {
                kernel.client_reset(client.end);
                client.fate = Fate::Gone;
            }
            0..=18 => drop(client.send(kernel, &mut self.random, limit)),
            _ => drop(client.read(kernel, limit)),
        }
        client.check(self.protocol);
    }

    /// Ends all faults and lets the clients finish, without the help of the clock.
    fn quiesce(&mut self) {
        self.server.kernel_mut().stop_faults();
        self.server.kernel_mut().set_patience(Duration::ZERO);
        loop {
            self.run_until_asleep();
            let mut progress = false;
            for client in &mut self.clients {
                let kernel = self.server.kernel_mut();
                progress |= client.read(kernel, usize::MAX);
                progress |= client.send(kernel, &mut self.random, usize::MAX);
            }
            if !progress {
                break;
            }
        }
        for client in &self.clients {
            client.check(self.protocol);
            let served = self.server.kernel_mut().is_served(client.end);
            if client.fate == Fate::Gone || client.seen.is_some() || !served {
                continue;
            }
            assert_ne!(
                client.fate,
                Fate::Finished,
                "{:?} has finished and is connected",
                client.end
            );
            assert_eq!(client.manner, Manner::Honest, "{:?} was let in", client.end);
            assert!(client.handshake.is_none(), "{:?} waits for the handshake", client.end);
            assert_eq!(client.got, client.owed(self.protocol), "{:?} lacks bytes", client.end);
        }
        self.check_reports();
    }

    fn run_until_asleep(&mut self) {
        until_asleep(|| {
            self.turn();
            self.server.kernel_mut().slept()
        });
    }

    /// Checks what the observer was told against what the clients are.
    fn check_reports(&mut self) {
        let reported = self.seer.0.lock().unwrap();
        let kernel = self.server.kernel_mut();
        let of = |kernel: &TestKernel, id| {
            let end = kernel.client_named(id)?;
            self.clients.iter().find(|client| client.end == end)
        };
        for (id, key) in &reported.authenticated {
            let Some(client) = of(kernel, *id) else { continue };
            assert_eq!(client.manner, Manner::Honest, "{id} was authenticated");
            let expected = match self.protocol {
                Protocol::Plain => None,
                _ => Some(Keyring::demo().names()[0]),
            };
            assert_eq!(*key, expected);
        }
        for (id, reason) in &reported.closed {
            let Some(client) = of(kernel, *id) else { continue };
            match reason {
                CloseReason::Rejected => {
                    assert_eq!(client.manner, Manner::WrongKey);
                    let ledger = kernel.ledger(client.end);
                    let unbroken = !ledger.failed && client.fate != Fate::Gone;
                    // Its time may be over while it is told.
                    let took =
                        ledger.closed.zip(ledger.accepted_at).map(|(end, at)| end.0.since(at));
                    let in_time =
                        took < self.config.auth_timeout || self.config.auth_timeout.is_none();
                    if unbroken && in_time && client.seen == Some(Seen::End) {
                        assert!(client.last.ends_with(FAILURE), "it was not told");
                    }
                }
                CloseReason::HandshakeFailed => assert_eq!(client.manner, Manner::BreaksOff),
                CloseReason::MessageTooLong => {
                    assert!(client.too_long);
                    let unbroken = !kernel.ledger(client.end).failed && client.fate != Fate::Gone;
                    if unbroken && client.seen == Some(Seen::End) {
                        assert_eq!(client.got, client.owed(self.protocol));
                    }
                }
                CloseReason::PeerFinished => assert_eq!(client.manner, Manner::Honest),
                _ => {}
            }
        }
    }

    /// Ends all clients; no connection may remain.
    fn end(&mut self) {
        for client in &mut self.clients {
            if client.is_present() {
                self.server.kernel_mut().client_finish(client.end);
                client.fate = Fate::Finished;
            }
        }
        self.server.kernel_mut().set_patience(Duration::from_secs(1));
        for _ in 0..20_000 {
            self.turn();
            for client in &mut self.clients {
                while client.read(self.server.kernel_mut(), usize::MAX) {}
            }
            let idle = self.server.kernel_mut().queued_clients() == 0;
            if idle && self.server.stats().connections == 0 {
                let stats = self.server.stats();
                assert_eq!(stats.accepted, stats.closed_in_all());
                assert_eq!(stats.unauthenticated, 0);
                let reported = self.seer.0.lock().unwrap().authenticated.len();
                assert_eq!(stats.authenticated, reported as u64);
                return self.check_reports();
            }
        }
        panic!("clients are gone but connections are not: {:?}", self.server.stats());
    }
}
