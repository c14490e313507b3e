//! The real loop over the simulated kernel: random clients, random faults, one seed.
//!
//! `SALTECHO_SIM_SEED=7 cargo test --test sim random_worlds` replays one seed and prints its trace;
//! `SALTECHO_SIM_SEEDS=1000000` runs that many new ones, `SALTECHO_SIM_EVENTS=1000000000` as many as it
//! takes for so many events and calls, and prints how far it is.

use std::fmt::{self, Display};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::world::World;
use crate::world::client::{Client, Fate};
use saltecho::auth::Keyring;
use saltecho::proto::{CloseReason, Config};
use saltecho::random::SplitMix;
use saltecho::server::Limits;
use saltecho::sim::{Faults, Seen, SimKernel};

const FIXED_SEEDS: u64 = 3000;
const FRESH_SEEDS: u64 = 8_000;
/// The minimum of a run with the default number of seeds.
const LEAST_STEPS: u64 = 7_000_000;
/// Events and calls between two lines that say how far a run is.
const PROGRESS: u64 = 20_000_000;

#[test]
fn nothing_is_lost_whatever_the_kernel_does() {
    if let Ok(seed) = std::env::var("SALTECHO_SIM_SEED") {
        let seed = seed.parse().expect("SALTECHO_SIM_SEED is a number");
        return replay(seed);
    }
    let goal = number("SALTECHO_SIM_EVENTS");
    let fresh = match goal {
        Some(_) => u64::MAX - FIXED_SEEDS,
        None => number("SALTECHO_SIM_SEEDS").unwrap_or(FRESH_SEEDS),
    };
    let goal = goal.unwrap_or(u64::MAX);
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let first = u64::try_from(first).unwrap();
    println!("{FIXED_SEEDS} fixed seeds, and new ones from {first}");
    let seed = |number| match number {
        0..FIXED_SEEDS => number,
        _ => first.wrapping_add(number),
    };
    let (next, done, failed) = (AtomicU64::new(0), Mutex::new(Tally::default()), Mutex::new(None));
    let begin = Instant::now();
    let show = |tally: &Tally| {
        let rate = tally.steps as f64 / begin.elapsed().as_secs_f64();
        println!("{tally}, {rate:.0} events and calls a second");
    };
    let work = || {
        while failed.lock().unwrap().is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= FIXED_SEEDS + fresh || done.lock().unwrap().steps >= goal {
                break;
            }
            let Ok(tally) = catch_unwind(|| run(seed(number))) else {
                return *failed.lock().unwrap() = Some(seed(number));
            };
            let mut done = done.lock().unwrap();
            let before = done.steps;
            *done += tally;
            if done.steps / PROGRESS > before / PROGRESS {
                show(&done);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some(seed) = failed.into_inner().unwrap() {
        println!("seed {seed} failed; its trace:");
        replay(seed);
        unreachable!("a seed fails again");
    }
    let done = done.into_inner().unwrap();
    show(&done);
    let is_short = fresh < FRESH_SEEDS || goal < LEAST_STEPS;
    assert!(is_short || done.steps >= LEAST_STEPS, "the worlds have become small");
    assert!(done.handovers > 0 && done.failed_handovers > 0 && done.admins > 0, "{done}");
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// What happened in worlds.
#[derive(Clone, Copy, Default)]
struct Tally {
    worlds: u64,
    /// Events and calls.
    steps: u64,
    handovers: u64,
    failed_handovers: u64,
    /// Connections of the admin endpoint.
    admins: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.steps += other.steps;
        self.handovers += other.handovers;
        self.failed_handovers += other.failed_handovers;
        self.admins += other.admins;
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, steps, handovers, failed_handovers, admins } = self;
        write!(
            f,
            "{worlds} worlds with {steps} events and calls, {handovers} handovers, {failed_handovers} that \
             failed, {admins} connections of the admin endpoint"
        )
    }
}

fn run(seed: u64) -> Tally {
    let mut world = World::draw(SplitMix::new(seed), false);
    world.run();
    Tally {
        worlds: 1,
        steps: world.server.kernel_mut().steps(),
        handovers: world.handed_over,
        failed_handovers: world.not_handed_over,
        admins: world.admins.len() as u64,
    }
}

/// Runs a seed with a trace, and prints it on failure.
fn replay(seed: u64) {
    let mut world = World::draw(SplitMix::new(seed), true);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = outcome {
        for line in saltecho::trace::lines(world.server.kernel_mut().trace()) {
            println!("{line}");
        }
        std::panic::resume_unwind(panic);
    }
}

/// The worlds behind balancers are no use if nothing happens in them.
#[test]
fn worlds_behind_balancers_reach_every_end_and_refusal() {
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for seed in 0..2000 {
        let mut world = World::draw(SplitMix::new(seed), false);
        world.run();
        let stats = world.server.stats();
        let refused =
            if stats.closed(CloseReason::Refused) > 0 { stats.refused_suspects } else { 0 };
        let refusals = [("suspect", refused), ("untrusted", stats.refused_untrusted_proxies)];
        let reasons = stats.closes().map(|(reason, count)| (reason.as_str(), count));
        for (what, count) in reasons.chain(refusals) {
            *seen.entry(what.to_owned()).or_default() += count;
        }
    }
    for reason in [
        CloseReason::HeaderMissing,
        CloseReason::HeaderMalformed,
        CloseReason::HeaderTimeout,
        CloseReason::Refused,
        CloseReason::HealthCheck,
    ] {
        assert!(seen.contains_key(reason.as_str()), "none ended: {reason}; {seen:?}");
    }
    assert!(seen["suspect"] > 0 && seen["untrusted"] > 0, "{seen:?}");
}

/// The limit per turn and connection covers received and sent bytes together, and a call counts as
/// at least 4 KiB.
#[test]
fn a_turn_moves_one_share() {
    for (recv_size, received) in [(4096, 6 * 4096), (16, 12 * 16)] {
        let mut config = Config::new(Keyring::demo());
        config.recv_size = recv_size;
        let mut limits = Limits::for_connections(1);
        limits.bytes_per_turn = 48 << 10;
        let kernel = SimKernel::new(1, Faults::none());
        let mut world = World::new(kernel, config, limits, SplitMix::new(1));
        let end = world.server.kernel_mut().connect(1 << 20, 1 << 20, 1 << 20);
        world.clients.push(Client::new(end, true, 0));
        while world.server.stats().authenticated == 0 {
            world.turn();
            let (client, kernel) = (&mut world.clients[0], world.server.kernel_mut());
            client.read(kernel, usize::MAX);
            client.send(kernel, &mut world.random, usize::MAX);
        }
        world.run_until_asleep();
        let (client, kernel) = (&mut world.clients[0], world.server.kernel_mut());
        client.input_left = 1 << 19;
        client.send(kernel, &mut world.random, usize::MAX);
        for _ in 0..3 {
            let before = world.server.stats().bytes_received;
            world.turn();
            let moved = world.server.stats().bytes_received - before;
            assert_eq!(moved, received, "in pieces of {recv_size}");
        }
    }
}

/// A peer that has finished and reads to the end must get all its answers.
#[test]
fn an_orderly_end_of_stream_means_a_complete_stream() {
    for seed in 0..500 {
        let mut random = SplitMix::new(seed);
        let kernel = SimKernel::new(seed, Faults::none());
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(4));
        let mut world = World::new(kernel, config, limits, SplitMix::new(seed));
        let (to_server, to_client) = (1 + random.below(100), 32 + random.below(100));
        let end = world.server.kernel_mut().connect(to_server, to_client, 1 + random.below(100));
        world.clients.push(Client::new(end, true, 1000));
        let mut turns = 0;
        while world.clients[0].seen.is_none() {
            turns += 1;
            assert!(turns < 20_000, "seed {seed}: the end of the stream never came");
            world.turn();
            let (client, kernel) = (&mut world.clients[0], world.server.kernel_mut());
            client.read(kernel, 1 + random.below(50));
            client.send(kernel, &mut random, 70);
            if client.input_left == 0 && client.fate == Fate::Present {
                kernel.client_finish(end);
                client.fate = Fate::Finished;
            }
        }
        let client = &world.clients[0];
        assert_eq!((client.seen, client.got.len()), (Some(Seen::End), 1000), "seed {seed}");
        assert_eq!(world.server.stats().closed(CloseReason::PeerFinished), 1);
    }
}

/// Of a present peer's probes five in a row may be lost; only six are taken for its end.
#[test]
fn a_peer_that_answers_one_probe_in_six_stays() {
    for seed in 0..20 {
        let faults = Faults { lost_probe: Faults::ALWAYS, ..Faults::none() };
        let mut config = Config::new(Keyring::demo());
        config.keepalive = Some(Duration::from_secs(1));
        let limits = Limits::for_connections(1);
        let mut world =
            World::new(SimKernel::new(seed, faults), config, limits, SplitMix::new(seed));
        let end = world.server.kernel_mut().connect(100, 100, 100);
        world.clients.push(Client::new(end, true, 0));
        world.server.kernel_mut().set_patience(Duration::from_secs(60));
        let mut probes = 0;
        while probes < 100 {
            world.turn();
            let (client, kernel) = (&mut world.clients[0], world.server.kernel_mut());
            client.read(kernel, usize::MAX);
            client.send(kernel, &mut world.random, usize::MAX);
            assert!(kernel.is_served(end), "seed {seed}: closed after {probes} probes");
            probes = world.server.stats().probes;
        }
        assert_eq!(world.server.stats().authenticated, 1);
    }
}

/// A digest that arrived in time counts, even if the process was stopped until after the deadline and
/// the event comes later still.
#[test]
fn a_digest_that_waits_in_the_kernel_is_in_time() {
    for seed in 0..20 {
        let faults = Faults { delayed_event: Faults::ALWAYS, ..Faults::none() };
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
        let mut world =
            World::new(SimKernel::new(seed, faults), config, limits, SplitMix::new(seed));
        let end = world.server.kernel_mut().connect(100, 100, 100);
        world.clients.push(Client::new(end, true, 0));
        while world.clients[0].digest.is_empty() {
            world.turn();
            world.clients[0].read(world.server.kernel_mut(), usize::MAX);
        }
        world.clients[0].send(world.server.kernel_mut(), &mut world.random, usize::MAX);
        world.server.kernel_mut().pass(Duration::from_secs(60));
        for _ in 0..3 {
            world.turn();
        }
        let stats = world.server.stats();
        let timed_out = stats.closed(CloseReason::AuthTimeout);
        assert_eq!((stats.authenticated, timed_out), (1, 0), "seed {seed}");
    }
}
