//! A server over a simulated kernel, its clients and its judge: what every simulated test needs.
#![allow(dead_code)] // Each test uses its own part of it.
#![allow(unreachable_pub)] // Public towards the test that includes it.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these are their hands.

mod admission;
pub mod client;
mod handler;
pub mod judge;
mod keepalive;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use client::{Client, Fate};
use handler::Teller;
use judge::Judge;
use saltecho::auth::Keyring;
use saltecho::proto::{CloseReason, Config};
use saltecho::server::{Limits, Server};
use saltecho::sim::{Faults, Seen, SimKernel, SplitMix};

/// A server, its kernel, the clients, and who judges them.
pub struct World {
    pub server: Server<SimKernel, Teller>,
    pub clients: Vec<Client>,
    pub judge: Judge,
    pub random: SplitMix,
    /// Where in [`PEERS`] clients come from: how many places, from which one on.
    sources: (usize, usize),
    handler: Teller,
    /// How often a turn is preceded by a push, in thousandths, and the one that was.
    pushes: u32,
    pushing: Option<(usize, Vec<u8>)>,
}

/// The longest message that is pushed, in bytes.
const MESSAGE: usize = 61;

/// Where clients come from: three IPv4 addresses, one of which also comes to an IPv6 listener; two
/// addresses of one IPv6 network, and one of another; loopback; and one that nothing is known of,
/// because it was gone when its address was asked for.
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
    /// A world in which everything is drawn from one seed, faults and limits included.
    pub fn draw(mut random: SplitMix, traced: bool) -> Self {
        let kernel = SplitMix::new(random.next_u64());
        Self::of_choices(random, kernel).traced(traced)
    }

    /// The same with choices of the kernel's own.
    pub fn of_choices(mut random: SplitMix, kernel: SplitMix) -> Self {
        let faults = Faults::draw(&mut random);
        let mut config = Config::new(Keyring::demo());
        config.recv_size = 1 + random.below(64);
        config.linger_bytes = 64;
        let mut pick = |choices: &[Option<u64>]| {
            choices[random.below(choices.len())].map(Duration::from_millis)
        };
        config.auth_timeout = pick(&[None, Some(500), Some(5000)]);
        config.recv_timeout = pick(&[None, None, Some(700), Some(10_000)]);
        config.send_timeout = pick(&[None, Some(600), Some(60_000)]);
        config.keepalive = pick(&[None, Some(1000), Some(1000), Some(7000), Some(60_000)]);
        let mut limits = Limits::for_connections(1 + random.below(12));
        limits.unauthenticated = 1 + random.below(limits.connections);
        limits.eviction_age = Duration::from_millis(random.below(3) as u64 * 500);
        limits.unauthenticated_per_source = match random.below(3) {
            0 => None,
            _ => Some(1 + random.below(limits.unauthenticated)),
        };
        limits.suspicion = Duration::from_millis([300, 3000, 60_000][random.below(3)]);
        limits.trust_loopback = random.chance(500);
        let sources = (1 + random.below(5), random.below(PEERS.len()));
        limits.accepts_per_turn = 1 + random.below(4);
        limits.bytes_per_turn = 1 + random.below(10_000);
        limits.deadlines_per_turn = if random.chance(500) { 1024 } else { 1 + random.below(4) };
        limits.shed_per_retry = random.below(3);
        limits.probes_per_second = [1, 10, 2000][random.below(3)];
        limits.drain_timeout = Some(Duration::from_secs(3));
        limits.spin = Duration::from_micros([0, 0, 50, 1000][random.below(4)]);
        let pushes = [0, 0, 50, 500][random.below(4)];
        if pushes > 0 && random.chance(500) {
            config.max_answer = config.recv_size.max(MESSAGE) + random.below(300);
        }
        let mut handler = Teller::new();
        handler.fragile = random.chance(150);
        let late = faults.late_arrival > 0;
        let kernel = SimKernel::with_choices(kernel, faults);
        let mut world = Self::with_handler(kernel, config, limits, random, handler);
        world.pushes = pushes;
        world.judge.last_look_is_whole &= !late;
        world.sources = sources;
        world
    }

    pub fn new(kernel: SimKernel, config: Config, limits: Limits, random: SplitMix) -> Self {
        Self::with_handler(kernel, config, limits, random, Teller::new())
    }

    fn with_handler(
        mut kernel: SimKernel,
        config: Config,
        limits: Limits,
        random: SplitMix,
        handler: Teller,
    ) -> Self {
        let judge = Judge::new(&config, &limits, false);
        kernel.set_witness(judge.witness());
        let (doors, own) = (vec![()], handler.clone());
        let mut server = Server::with_kernel(kernel, doors, config, limits, own).unwrap();
        server.set_observer(judge.observer());
        Self {
            server,
            clients: Vec::new(),
            judge,
            random,
            sources: (1, 0),
            handler,
            pushes: 0,
            pushing: None,
        }
    }

    fn traced(mut self, traced: bool) -> Self {
        if traced {
            self.server.kernel_mut().start_trace();
        }
        self
    }

    /// Disorder, then rest, then farewell.
    pub fn run(&mut self) {
        for _ in 0..20 + self.random.below(150) {
            self.disorder();
        }
        self.settle();
        self.leave();
    }

    /// A few acts of a few clients, and a turn.
    pub fn disorder(&mut self) {
        for _ in 0..self.random.below(4) {
            self.act();
        }
        let patience = [0, 1, 50, 400, 3000][self.random.below(5)];
        self.server.kernel_mut().set_patience(Duration::from_millis(patience));
        if self.random.chance(self.pushes) {
            self.push();
        }
        self.turn();
    }

    /// Pushes a message to a client that has authenticated, be it gone or not.
    fn push(&mut self) {
        let heard = self.handler.heard.lock().unwrap();
        if heard.opened.is_empty() {
            return;
        }
        let peer = heard.opened[self.random.below(heard.opened.len())];
        drop(heard);
        let client = self.server.kernel_mut().client_named(peer.id()).expect("it was registered");
        let index = self.clients.iter().position(|known| known.end == client).expect("it is ours");
        let message = [&b"b"[..], &vec![b'c'; self.random.below(MESSAGE - 1)], b"d"].concat();
        self.server.kernel_mut().note(|| format!("{} bytes are pushed to {index}", message.len()));
        self.server.handle().push(&peer, message.clone()).expect("there is room in the mailbox");
        self.pushing = Some((index, message));
    }

    /// Whether the loop took what was pushed before this turn.
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
                assert!(!open, "{index} could have taken what was pushed to it");
            }
            other => panic!("one message became {other:?}"),
        }
    }

    pub fn turn(&mut self) -> bool {
        let before = self.server.stats();
        let goes_on = self.server.turn().expect("no error of one connection ends the loop");
        self.note_push(before.pushed, before.pushes_dropped);
        self.server.assert_invariants();
        let (open, stats) = (self.server.kernel_mut().open_streams(), self.server.stats());
        assert_eq!(open, stats.connections, "a slot without a socket, or the reverse");
        self.judge.after_turn(self.server.kernel_mut(), &self.clients, &stats);
        goes_on
    }

    /// One random act of one random client.
    fn act(&mut self) {
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
            1 if client.fate == Fate::Present && self.judge.finds_who_vanished() => {
                kernel.client_vanish(client.end, self.random.chance(300));
                client.fate = Fate::Vanished;
            }
            2 => {
                client.piecemeal |=
                    client.fate == Fate::Present && kernel.client_send_urgent(client.end);
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
        let peer = ip.map(|ip| SocketAddr::new(ip, 1024));
        let end = self.server.kernel_mut().connect_from(peer, to_server, to_client, window);
        let mut client = Client::new(end, self.random.chance(850), self.random.below(600));
        client.piecemeal = to_server.min(window) < 16;
        self.clients.push(client);
    }

    /// The kernel behaves from here on, the clients do what they still have to do, and no time
    /// passes that would let a deadline make up for a wake-up that was lost.
    pub fn settle(&mut self) {
        self.server.kernel_mut().calm();
        self.server.kernel_mut().set_patience(Duration::ZERO);
        // A rest from accepting is a matter of time, and not a lost wake-up.
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
            client.assert_satisfied(self.server.kernel_mut());
        }
    }

    pub fn run_until_asleep(&mut self) {
        for _ in 0..20_000 {
            self.turn();
            if self.server.kernel_mut().slept() {
                return;
            }
        }
        panic!("the loop spins: it neither sleeps nor has anything to do");
    }

    /// Everybody leaves, one way or the other; nothing must be left of them.
    pub fn leave(&mut self) {
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
                // A deaf peer under a drain, or else nobody would test that time-out.
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
                return self.judge_the_end();
            }
        }
        panic!("clients are gone and connections are not: {:?}", self.server.stats());
    }

    fn judge_the_end(&mut self) {
        let stats = self.server.stats();
        assert_eq!(stats.connections, 0, "drained and not empty");
        assert_eq!(stats.accepted, stats.closed_in_all(), "one reason for each connection");
        self.judge.compare_with(&stats);
        let heard = self.handler.heard.lock().unwrap();
        self.judge.compare_with_handlers(self.server.kernel_mut(), &heard, &stats);
        drop(heard);
        for client in self.clients.iter().filter(|client| client.fate == Fate::Finished) {
            let kernel = self.server.kernel_mut();
            let severed = kernel.ledger(client.end).severed;
            if self.judge.reasons.get(&client.end) == Some(&CloseReason::PeerFinished) && !severed {
                assert_eq!(client.seen, Some(Seen::End), "{:?} was not let down", client.end);
                assert_eq!(client.got.len(), client.sent.len(), "{:?} lost bytes", client.end);
                assert_eq!(client.news, client.pushed, "{:?} lost news", client.end);
            }
        }
    }
}
