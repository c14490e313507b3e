//! A server over a simulated kernel, with its clients and its judge.
#![allow(clippy::disallowed_methods, clippy::iter_over_hash_type)] // A judge decides nothing.
#![allow(unreachable_pub)] // Public within the test that includes it.

pub mod admin;
mod admission;
mod awake;
pub mod client;
mod draw;
mod facts;
mod figures;
pub mod handler;
pub mod handover;
pub mod header;
#[path = "../../operations/http_world.rs"]
pub mod http_world;
pub mod judge;
mod keepalive;
pub mod moving;
mod records;
pub mod segments;
pub mod steps;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use admin::AdminClient;
use client::{Client, Fate};
use handler::UpperHandler;
use header::Header;
use judge::Judge;
use saltecho::proto::{CloseReason, Config};
use saltecho::random::SplitMix;
use saltecho::server::{Limits, PushError, Server};
use saltecho::sim::{Seen, SimKernel};
use saltecho::trace::Recorder;
use steps::until_asleep;

/// The kernel of a simulated server, which may be recorded.
pub type TestKernel = Recorder<SimKernel>;

/// A server, its kernel, its clients and their judge.
pub struct World {
    pub server: Server<TestKernel, UpperHandler>,
    pub clients: Vec<Client>,
    /// The clients of the admin endpoint, and how many there may be.
    pub admins: Vec<AdminClient>,
    most_admins: usize,
    /// How many of their requests are valid, in thousandths.
    valid_requests: u32,
    pub judge: Judge,
    pub random: SplitMix,
    /// The part of [`PEERS`] that clients come from: its length and its start.
    sources: (usize, usize),
    /// True if the clients come through balancers that send a header.
    pub proxied: bool,
    /// The networks of those that are named, if any are.
    balancers: Vec<&'static str>,
    handler: UpperHandler,
    config: Config,
    limits: Limits,
    /// The chance of a handover before a turn, in thousandths.
    pub handovers: u32,
    /// The handovers so far, and the attempts that failed.
    pub handed_over: u64,
    pub not_handed_over: u64,
    /// The chance of a push before a turn, in thousandths, and the current push.
    pushes: u32,
    pushing: Option<(usize, Vec<u8>)>,
}

/// Clients of the admin endpoint that may cost the loop something in one turn: those in its eight
/// places, and those that take the places of these.
const MOST_ADMINS: usize = 16;

/// The longest pushed message in bytes.
const MESSAGE: usize = 61;

/// The addresses of clients: three of IPv4, one of them also as seen by an IPv6 listener; two of
/// one IPv6 network and one of another; loopback; and an unknown one, of a client that was gone
/// before its address was read.
const PEERS: [Option<IpAddr>; 10] = [
    Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1))),
    Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0x8000, 0, 0, 2))),
    Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1))),
    Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))),
    None,
    Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))),
    Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3))),
    Some(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201))),
];

impl World {
    /// A handler like the world's, with calls of its own.
    pub fn fresh_handler(&self) -> UpperHandler {
        let mut handler = UpperHandler::new();
        handler.fragile = self.handler.fragile;
        handler
    }

    pub fn new(kernel: SimKernel, config: Config, limits: Limits, random: SplitMix) -> Self {
        let over = |kernel, _: &Config, _: &Limits| Recorder::off(kernel);
        Self::with_handler(kernel, config, limits, random, UpperHandler::new(), over)
    }

    fn with_handler(
        mut kernel: SimKernel,
        config: Config,
        limits: Limits,
        random: SplitMix,
        handler: UpperHandler,
        over: impl FnOnce(SimKernel, &Config, &Limits) -> Recorder<SimKernel>,
    ) -> Self {
        let judge = Judge::new(&config, &limits, false);
        kernel.set_observer(judge.witness());
        let kernel = over(kernel, &config, &limits);
        let (listeners, own) = (vec![().into()], handler.clone());
        let settings = config.clone();
        let mut server = Server::with_kernel(kernel, listeners, settings, limits, own).unwrap();
        server.set_observer(judge.observer());
        Self {
            server,
            clients: Vec::new(),
            admins: Vec::new(),
            most_admins: 0,
            valid_requests: 0,
            judge,
            random,
            sources: (1, 0),
            proxied: false,
            balancers: Vec::new(),
            handler,
            config,
            limits,
            handovers: 0,
            handed_over: 0,
            not_handed_over: 0,
            pushes: 0,
            pushing: None,
        }
    }

    /// Requires headers, perhaps only from the balancers of 192.0.2.0/24.
    pub fn put_behind_balancers(&mut self, named: bool) {
        self.proxied = true;
        self.server.require_proxy(0);
        if named {
            self.server.trust_proxies(&["192.0.2.0/24".parse().unwrap()]);
            self.balancers = vec!["192.0.2.0/24"];
        }
        self.judge.expect_headers(named);
    }

    fn traced(mut self, traced: bool) -> Self {
        if traced {
            self.server.kernel_mut().start_trace();
        }
        self
    }

    /// Random turns, then rest, then the end of all connections.
    pub fn run(&mut self) {
        for _ in 0..20 + self.random.below(150) {
            self.random_turn();
        }
        self.quiesce();
        self.end_all();
    }

    /// A few acts of a few clients, and a turn.
    pub fn random_turn(&mut self) {
        for _ in 0..self.random.below(4) {
            self.act();
        }
        let patience = [0, 1, 50, 400, 3000][self.random.below(5)];
        self.server.kernel_mut().set_patience(Duration::from_millis(patience));
        if self.handovers > 0 && self.random.chance(self.handovers) {
            self.random_handover();
        }
        if self.random.chance(self.pushes) {
            self.push();
        }
        self.turn();
    }

    /// Pushes a message to a client that has authenticated, even if it is gone.
    fn push(&mut self) {
        let calls = self.handler.calls.lock().unwrap();
        if calls.opened.is_empty() {
            return;
        }
        let peer = calls.opened[self.random.below(calls.opened.len())];
        drop(calls);
        let client = self.server.kernel_mut().client_named(peer.id()).expect("it was registered");
        let index = self.clients.iter().position(|known| known.end == client).expect("it is ours");
        let message = [&b"b"[..], &vec![b'c'; self.random.below(MESSAGE - 1)], b"d"].concat();
        self.server
            .kernel_mut()
            .remark(|| format!("{} bytes are pushed to {index}", message.len()));
        match self.server.handle().push(&peer, message.clone()) {
            Ok(()) => self.pushing = Some((index, message)),
            Err(PushError::Ended) => {
                let closed = self.server.kernel_mut().ledger(client).closed;
                assert!(closed.is_some(), "{index} was left behind by a handover");
            }
            Err(error) => panic!("there is room in the mailbox: {error}"),
        }
    }

    /// Records whether the loop accepted the push before this turn.
    fn note_push(&mut self, pushed_before: u64, dropped_before: u64) {
        let Some((index, message)) = self.pushing.take() else { return };
        let (stats, now) = (self.server.stats(), self.server.kernel_mut().last_reading());
        let outcome = (stats.pushed - pushed_before, stats.pushes_dropped - dropped_before);
        let client = &mut self.clients[index];
        match outcome {
            (1, 0) => {
                client.pushed.extend(message);
                client.pushed_at = Some(now);
            }
            (0, 1) => {
                let ledger = self.server.kernel_mut().ledger(client.end);
                let open = ledger.closed.is_none() && ledger.shut_down_at.is_none();
                assert!(!open, "{index} could have accepted the push");
            }
            other => panic!("one message became {other:?}"),
        }
    }

    pub fn turn(&mut self) -> bool {
        let before = self.server.stats();
        let goes_on = self.server.turn().expect("no error of one connection ends the loop");
        self.note_push(before.pushed, before.pushes_dropped);
        self.server.assert_invariants();
        let kernel = self.server.kernel_mut();
        let served = self.admins.iter_mut().filter_map(|admin| admin.after_turn(kernel)).count();
        assert!(served <= MOST_ADMINS, "{served} clients of the endpoint had a share of one turn");
        let (open, stats) = (self.server.kernel_mut().open_streams(), self.server.stats());
        assert_eq!(open, stats.connections, "a slot without a socket, or the reverse");
        self.judge.after_turn(self.server.kernel_mut(), &self.clients, &stats);
        self.check_records();
        if self.server.kernel_mut().steps().is_multiple_of(8) {
            self.check_figures();
        }
        goes_on
    }

    fn check_records(&mut self) {
        for id in self.judge.records.open() {
            let record = self.server.record(id);
            self.judge.records.check(self.server.kernel_mut(), id, record.as_ref());
        }
    }

    /// One random act of one random client.
    fn act(&mut self) {
        if self.most_admins > 0 && self.random.chance(300) {
            return self.act_as_admin();
        }
        if self.clients.is_empty() || (self.clients.len() < 20 && self.random.chance(150)) {
            return self.connect();
        }
        let index = self.random.below(self.clients.len());
        let (client, kernel) = (&mut self.clients[index], self.server.kernel_mut());
        match self.random.below(20) {
            0 if client.fate == Fate::Present => {
                kernel.client_finish(client.end);
                client.fate = Fate::Finished;
            }
            1 if matches!(client.fate, Fate::Present | Fate::Finished)
                && self.random.chance(300) =>
            {
                kernel.client_reset(client.end);
                client.fate = Fate::Gone;
            }
            1 if client.fate == Fate::Present && self.judge.detects_vanished() => {
                kernel.client_vanish(client.end, self.random.chance(300));
                client.fate = Fate::Vanished;
            }
            2 => {
                if client.fate == Fate::Present && kernel.client_send_urgent(client.end) {
                    client.at_once = 0;
                }
            }
            3..=9 => {
                let limit = 1 + self.random.below(100);
                client.send(kernel, &mut self.random, limit);
            }
            _ => {
                let limit = 1 + self.random.below(100);
                client.read(kernel, limit);
            }
        }
    }

    fn connect(&mut self) {
        let mut capacity = || 1 + self.random.below(200);
        let (to_server, to_client, window) = (capacity(), capacity().max(32), capacity());
        let (span, first) = self.sources;
        let ip = PEERS[(first + self.random.below(span)) % PEERS.len()];
        let balancer = if self.proxied { PEERS[self.random.below(PEERS.len())] } else { ip };
        let peer = balancer.map(|ip| SocketAddr::new(ip, 1024));
        let end = self.server.kernel_mut().connect_from(peer, to_server, to_client, window);
        let mut client = Client::new(end, self.random.chance(850), self.random.below(600));
        client.at_once = to_server.min(window) as u64;
        if self.proxied {
            let mut header = Header::draw(&mut self.random, ip);
            // What comes before the challenge is a wrong digest.
            client.honest &= !(self.random.chance(100) && header.add_early(&mut self.random));
            client.header = Some(header);
        }
        self.clients.push(client);
    }

    /// Ends all faults and lets the clients finish. No time passes in which a deadline could make
    /// up for a lost wake-up.
    pub fn quiesce(&mut self) {
        self.server.kernel_mut().stop_faults();
        self.server.kernel_mut().set_patience(Duration::ZERO);
        // A pause of accepting needs time; it is not a lost wake-up.
        loop {
            self.run_until_asleep();
            let mut progress = false;
            for client in &mut self.clients {
                let kernel = self.server.kernel_mut();
                progress |= client.read(kernel, usize::MAX);
                progress |= client.send(kernel, &mut self.random, usize::MAX);
            }
            for admin in &mut self.admins {
                let kernel = self.server.kernel_mut();
                progress |= admin.read(kernel, usize::MAX);
                progress |= admin.send(kernel, usize::MAX);
            }
            if !progress {
                break;
            }
        }
        for client in &self.clients {
            client.assert_satisfied(self.server.kernel_mut());
        }
        for admin in &self.admins {
            admin.assert_satisfied(self.server.kernel_mut());
        }
        if self.most_admins > 0 && self.random.chance(300) {
            self.check_live();
        }
    }

    pub fn run_until_asleep(&mut self) {
        until_asleep(|| {
            self.turn();
            self.server.kernel_mut().slept()
        });
    }

    /// Ends all connections, one way or another; none may remain.
    pub fn end_all(&mut self) {
        let drained = self.random.chance(300);
        if drained {
            self.judge.draining = Some(self.server.kernel_mut().last_reading());
            self.server.handle().drain();
        }
        for client in &mut self.clients {
            let kernel = self.server.kernel_mut();
            match self.random.below(3) {
                _ if client.fate != Fate::Present => {}
                0 => {
                    kernel.client_reset(client.end);
                    client.fate = Fate::Gone;
                }
                // A peer that never reads in a drain, so that the drain timeout is tested.
                1 if drained && self.random.chance(100) => {}
                _ => {
                    kernel.client_finish(client.end);
                    client.fate = Fate::Finished;
                }
            }
        }
        self.server.kernel_mut().set_patience(Duration::from_secs(1));
        for _ in 0..20_000 {
            let goes_on = self.turn();
            for client in &mut self.clients {
                while client.read(self.server.kernel_mut(), usize::MAX) {}
            }
            let idle = self.server.kernel_mut().queued_clients() == 0;
            if !goes_on || (!drained && idle && self.server.stats().connections == 0) {
                return self.check_end();
            }
        }
        panic!("clients are gone but connections are not: {:?}", self.server.stats());
    }

    fn check_end(&mut self) {
        self.check_figures();
        let stats = self.server.stats();
        assert_eq!(stats.connections, 0, "drained and not empty");
        if self.judge.draining.is_some() {
            let open = self.server.kernel_mut().open_admin_streams();
            assert_eq!(open, 0, "the admin endpoint outlives its loop");
        }
        assert_eq!(stats.accepted, stats.closed_in_all(), "one reason for each connection");
        self.judge.compare_counters(&stats);
        let calls = self.handler.calls.lock().unwrap();
        self.judge.compare_with_handlers(self.server.kernel_mut(), &self.clients, &calls, &stats);
        drop(calls);
        for client in self.clients.iter().filter(|client| client.fate == Fate::Finished) {
            let kernel = self.server.kernel_mut();
            let disconnected = kernel.ledger(client.end).disconnected;
            if self.judge.reasons.get(&client.end) == Some(&CloseReason::PeerFinished)
                && !disconnected
            {
                assert_eq!(
                    client.seen,
                    Some(Seen::End),
                    "{:?} did not see the end of the stream",
                    client.end
                );
                assert_eq!(client.got.len(), client.sent.len(), "{:?} lost bytes", client.end);
                assert_eq!(client.messages, client.pushed, "{:?} lost messages", client.end);
            }
        }
    }
}
