//! Every short script of up to three clients, over the simulated kernel without faults.
//!
//! `SALTECHO_SIM_SCRIPT_LENGTH=7 cargo test --release --test sim exhaustive -- --nocapture` runs
//! all scripts of that length. Each runs three times: with room for all, with room for two, of which
//! one may be unauthenticated, and with a handover behind each act. If a client vanishes it runs once
//! more without timeouts and with five of six probes lost, so that only keepalive ends the connection. The checks after each turn
//! and at each rest are in `world`.
//!
//! Clients connect in the order of their numbers; the first and the last have the same source. An
//! act without effect (a second digest, reading without having stalled) is left out: the script
//! without it is among the shorter ones, and each prefix of a script is checked with it.
//!
//! Scripts of up to two clients behind a balancer are a length shorter. In those, no client vanishes
//! or stalls: that has nothing to do with its header.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::world::World;
use crate::world::client::{Client, Fate};
use crate::world::header::Header;
use crate::world::moving::Outcome;
use saltecho::auth::Keyring;
use saltecho::proto::Config;
use saltecho::random::SplitMix;
use saltecho::server::Limits;
use saltecho::sim::{Faults, SimKernel};

const LENGTH: usize = 6;
const SLOTS: usize = 3;
const PROXIED_SLOTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Connect,
    Header(usize),
    /// All of it but its last byte.
    MostOfHeader(usize),
    NoHeader(usize),
    RightDigest(usize),
    WrongDigest(usize),
    OneByte(usize),
    MoreThanAWindow(usize),
    Finish(usize),
    Reset(usize),
    Vanish(usize),
    Read(usize),
    Stall(usize),
    TimePasses,
}

/// The part of a client's state that decides its possible acts.
#[derive(Clone, Copy, Debug, Default)]
struct Shadow {
    has_sent_header: bool,
    has_sent_most: bool,
    has_given_digest: bool,
    has_left: bool,
    has_finished: bool,
    stalls: bool,
}

#[test]
fn every_short_script_keeps_the_invariants() {
    run_all(length(), false);
}

#[test]
fn every_short_script_behind_a_balancer_keeps_the_invariants() {
    run_all(length() - 1, true);
}

fn length() -> usize {
    std::env::var("SALTECHO_SIM_SCRIPT_LENGTH")
        .map_or(LENGTH, |length| length.parse().expect("SALTECHO_SIM_SCRIPT_LENGTH is a number"))
}

/// Runs all scripts of a length, perhaps behind a balancer.
fn run_all(length: usize, proxied: bool) {
    let mut beginnings = Vec::new();
    let first = length.min(3);
    extend(&mut Vec::new(), &mut Vec::new(), first, proxied, &mut |script| {
        beginnings.push(script.to_vec());
    });
    let (next, scripts, begin) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(beginning) = beginnings.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (mut script, mut shadows) = (beginning.clone(), Vec::new());
                    for act in beginning {
                        follow(&mut shadows, *act);
                    }
                    extend(&mut script, &mut shadows, length, proxied, &mut |script| {
                        scripts.fetch_add(1, Ordering::Relaxed);
                        check(script, proxied);
                    });
                }
            });
        }
    });
    let (scripts, seconds) = (scripts.into_inner(), begin.elapsed().as_secs_f64());
    println!("{scripts} scripts of length {length}, each three times at least, in {seconds:.1} s");
    assert!(scripts > beginnings.len() || length <= 3);
}

/// Calls `run` with each script of this length that starts with this one.
fn extend(
    script: &mut Vec<Act>,
    shadows: &mut Vec<Shadow>,
    length: usize,
    proxied: bool,
    run: &mut dyn FnMut(&[Act]),
) {
    if script.len() == length {
        return run(script);
    }
    let acts = if proxied { acts_behind_a_balancer(shadows) } else { open_acts(shadows) };
    for act in acts {
        let before = shadows.clone();
        script.push(act);
        follow(shadows, act);
        extend(script, shadows, length, proxied, run);
        script.pop();
        *shadows = before;
    }
}

fn open_acts(shadows: &[Shadow]) -> Vec<Act> {
    let mut acts = Vec::new();
    if shadows.len() < SLOTS {
        acts.push(Act::Connect);
    }
    for (i, shadow) in shadows.iter().enumerate().filter(|(_, shadow)| !shadow.has_left) {
        if !shadow.has_finished {
            match shadow.has_given_digest {
                false => acts.extend([Act::RightDigest(i), Act::WrongDigest(i)]),
                true => acts.push(Act::MoreThanAWindow(i)),
            }
            acts.extend([Act::OneByte(i), Act::Finish(i)]);
        }
        // A client that vanishes after it finished is detected like one that vanished before.
        if !shadow.has_finished {
            acts.push(Act::Vanish(i));
        }
        acts.extend([Act::Reset(i), if shadow.stalls { Act::Read(i) } else { Act::Stall(i) }]);
    }
    if !shadows.is_empty() {
        acts.push(Act::TimePasses);
    }
    acts
}

fn acts_behind_a_balancer(shadows: &[Shadow]) -> Vec<Act> {
    let mut acts = Vec::new();
    if shadows.len() < PROXIED_SLOTS {
        acts.push(Act::Connect);
    }
    for (i, shadow) in shadows.iter().enumerate().filter(|(_, shadow)| !shadow.has_left) {
        acts.push(Act::Reset(i));
        if shadow.has_finished {
            continue;
        }
        acts.push(Act::Finish(i));
        match (shadow.has_sent_header, shadow.has_given_digest) {
            (false, _) if shadow.has_sent_most => acts.push(Act::Header(i)),
            (false, _) => acts.extend([Act::Header(i), Act::MostOfHeader(i), Act::NoHeader(i)]),
            (true, false) => {
                acts.extend([Act::RightDigest(i), Act::WrongDigest(i), Act::OneByte(i)]);
            }
            (true, true) => acts.push(Act::OneByte(i)),
        }
    }
    if !shadows.is_empty() {
        acts.push(Act::TimePasses);
    }
    acts
}

fn follow(shadows: &mut Vec<Shadow>, act: Act) {
    match act {
        Act::Connect => shadows.push(Shadow::default()),
        Act::Header(i) => shadows[i].has_sent_header = true,
        Act::MostOfHeader(i) => shadows[i].has_sent_most = true,
        // It is closed at once.
        Act::NoHeader(i) => shadows[i].has_left = true,
        Act::RightDigest(i) | Act::WrongDigest(i) => shadows[i].has_given_digest = true,
        Act::Finish(i) => shadows[i].has_finished = true,
        Act::Reset(i) | Act::Vanish(i) => shadows[i].has_left = true,
        Act::Read(i) => shadows[i].stalls = false,
        Act::Stall(i) => shadows[i].stalls = true,
        Act::OneByte(_) | Act::MoreThanAWindow(_) | Act::TimePasses => {}
    }
}

fn check(script: &[Act], proxied: bool) {
    let vanishes = script.iter().any(|act| matches!(act, Act::Vanish(_)));
    let patient = vanishes.then_some(Stage::Patient);
    let stages = [Stage::Roomy, Stage::Tight, Stage::HandedOver];
    for stage in stages.into_iter().chain(patient) {
        if let Err(panic) = catch_unwind(|| perform(&mut stage.set(proxied), stage, script)) {
            println!("{script:?} failed on a stage that is {stage:?}; its account:");
            let mut world = stage.set(proxied);
            world.server.kernel_mut().start_trace();
            let _ = catch_unwind(AssertUnwindSafe(|| perform(&mut world, stage, script)));
            for line in world.server.kernel_mut().trace() {
                println!("{line}");
            }
            resume_unwind(panic);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Roomy,
    Tight,
    /// With a handover behind each act, or an attempt at one.
    HandedOver,
    Patient,
}

impl Stage {
    fn set(self, proxied: bool) -> World {
        let tight = self == Self::Tight;
        let time_out = |millis| (self != Self::Patient).then(|| Duration::from_millis(millis));
        let mut config = Config::new(Keyring::demo());
        config.header_timeout = time_out(500);
        config.auth_timeout = time_out(500);
        config.idle_timeout = time_out(700);
        config.send_timeout = time_out(600);
        config.linger_timeout = Some(Duration::from_millis(300));
        config.keepalive = Some(Duration::from_secs(1));
        config.recv_size = 24;
        let mut limits = Limits::for_connections(if tight { 2 } else { SLOTS });
        limits.unauthenticated = if tight { 1 } else { SLOTS };
        limits.eviction_age = Duration::from_millis(300);
        limits.suspicion = Duration::from_millis(700);
        let lost_probe = if self == Self::Patient { Faults::ALWAYS } else { 0 };
        let faults = Faults { lost_probe, ..Faults::none() };
        let mut world = World::new(SimKernel::new(7, faults), config, limits, SplitMix::new(7));
        if proxied {
            world.put_behind_balancers(false);
        }
        world
    }
}

fn perform(world: &mut World, stage: Stage, script: &[Act]) {
    let mut stalls = [false; SLOTS];
    for (number, act) in script.iter().enumerate() {
        let kernel = world.server.kernel_mut();
        match *act {
            Act::Connect => {
                let source = u8::try_from(world.clients.len() % 2).unwrap();
                let ip = IpAddr::from([192, 0, 2, source]);
                let header = world.proxied.then(|| Header::naming(ip));
                // Its balancer has another address, and sends all of a header at once.
                let (peer, capacity) = match header {
                    None => (ip, 40),
                    Some(_) => (IpAddr::from([198, 51, 100, 1]), 100),
                };
                let peer = Some(SocketAddr::new(peer, 1024));
                let end = kernel.connect_from(peer, capacity, 36, capacity);
                let client = Client::new(end, true, 0);
                world.clients.push(Client { header, ..client });
            }
            Act::Header(i) | Act::MostOfHeader(i) | Act::NoHeader(i) => {
                let client = &mut world.clients[i];
                if *act == Act::NoHeader(i) {
                    client.header = Some(Header::missing());
                }
                let left = usize::from(*act == Act::MostOfHeader(i));
                let header = client.header.as_mut().expect("it is behind a balancer");
                header.send_all_but(left, client.end, kernel);
            }
            Act::TimePasses => kernel.pass(Duration::from_millis(400)),
            Act::Read(i) => stalls[i] = false,
            Act::Stall(i) => stalls[i] = true,
            Act::RightDigest(i) => world.clients[i].input_left += 16,
            Act::WrongDigest(i) => {
                world.clients[i].honest = false;
                world.clients[i].input_left += 16;
            }
            Act::OneByte(i) => world.clients[i].input_left += 1,
            Act::MoreThanAWindow(i) => world.clients[i].input_left += 100,
            Act::Finish(i) => {
                kernel.client_finish(world.clients[i].end);
                world.clients[i].fate = Fate::Finished;
            }
            Act::Reset(i) => {
                kernel.client_reset(world.clients[i].end);
                world.clients[i].fate = Fate::Gone;
            }
            Act::Vanish(i) => {
                kernel.client_vanish(world.clients[i].end, false);
                world.clients[i].fate = Fate::Vanished;
            }
        }
        if stage == Stage::HandedOver {
            let outcomes = [Outcome::Done, Outcome::Done, Outcome::NotCommitted];
            world.hand_over(outcomes[number % 3], Duration::ZERO);
        }
        come_to_rest(world, stalls);
    }
    come_to_rest(world, [false; SLOTS]);
    if stage == Stage::Patient {
        outlast_keepalive(world);
    }
    world.end_all();
}

/// Lets a minute pass, in which each peer is probed several times: after it vanished peers are
/// closed and the others are not.
fn outlast_keepalive(world: &mut World) {
    let served = |world: &mut World| {
        let kernel = world.server.kernel_mut();
        world.clients.iter().map(|client| kernel.is_served(client.end)).collect::<Vec<_>>()
    };
    let before = served(world);
    let kernel = world.server.kernel_mut();
    let until = kernel.last_reading().saturating_add(Duration::from_secs(60));
    kernel.set_patience(Duration::from_secs(60));
    while world.server.kernel_mut().last_reading() < until {
        world.turn();
    }
    let after = served(world);
    for ((client, before), after) in world.clients.iter().zip(before).zip(after) {
        let expected = before && client.fate != Fate::Vanished;
        assert_eq!(after, expected, "{:?} after a minute", client.end);
    }
}

/// Runs without any time passing until nothing moves; then every client that does not stall has all
/// its data.
fn come_to_rest(world: &mut World, stalls: [bool; SLOTS]) {
    world.server.kernel_mut().set_patience(Duration::ZERO);
    loop {
        world.run_until_asleep();
        // A client that is accepted after the sleep is sent nothing that would show it.
        if world.proxied {
            world.run_until_asleep();
        }
        let mut progress = false;
        for (client, stalls) in world.clients.iter_mut().zip(stalls) {
            let kernel = world.server.kernel_mut();
            progress |= !stalls && client.read(kernel, usize::MAX);
            progress |= client.send_allowed(kernel, &mut world.random);
        }
        if !progress {
            break;
        }
    }
    for (client, stalls) in world.clients.iter().zip(stalls) {
        if !stalls {
            client.assert_at_rest(world.server.kernel_mut());
        }
    }
}
