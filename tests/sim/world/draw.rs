//! Worlds in which everything is drawn: settings, limits, faults and clients.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::Config;
use saltecho::random::SplitMix;
use saltecho::server::{Limits, recording_header};
use saltecho::sim::{Faults, SimKernel};
use saltecho::trace::{RecordOptions, Recorder};

use super::handler::UpperHandler;
use super::segments::{self, Recorded};
use super::{MESSAGE, PEERS, World};

impl World {
    /// A world in which everything is drawn from one seed, faults and limits included.
    pub fn draw(mut random: SplitMix, traced: bool) -> Self {
        let kernel = SplitMix::new(random.next_u64());
        Self::of_choices(random, kernel).traced(traced)
    }

    /// The same with separate choices for the kernel.
    pub fn of_choices(random: SplitMix, kernel: SplitMix) -> Self {
        Self::of_choices_over(random, kernel, |kernel, _, _| Recorder::off(kernel))
    }

    /// The world of a seed, recorded into memory. `None` if payload is left out of the recording and
    /// decides about what the world's handlers do.
    pub fn recorded(seed: u64, keeps_payload: bool) -> Option<(Self, Arc<Mutex<Vec<u8>>>)> {
        Self::recorded_by(seed, keeps_payload, Recorder::to_memory)
    }

    /// The same in segments, of which two are no longer than `limit` together. All of them are kept.
    pub fn recorded_in_segments(
        seed: u64,
        keeps_payload: bool,
        limit: u64,
    ) -> Option<(Self, Recorded)> {
        Self::recorded_by(seed, keeps_payload, |kernel, options| {
            segments::record(kernel, RecordOptions { limit: Some(limit), ..options })
        })
    }

    fn recorded_by<T>(
        seed: u64,
        keeps_payload: bool,
        record: impl FnOnce(SimKernel, RecordOptions) -> (Recorder<SimKernel>, T),
    ) -> Option<(Self, T)> {
        // The first lines of a recording have what is drawn last.
        let probe = Self::draw(SplitMix::new(seed), false);
        if probe.handler.fragile && !keeps_payload {
            return None;
        }
        let proxies: Vec<_> = probe.balancers.iter().map(|net| net.parse().unwrap()).collect();
        let admin = if probe.most_admins > 0 { "yes" } else { "no" };
        let mut random = SplitMix::new(seed);
        let kernel = SplitMix::new(random.next_u64());
        let mut file = None;
        let mut world = Self::of_choices_over(random, kernel, |kernel, config, limits| {
            let header = recording_header(config, limits, &[], &proxies, &[probe.proxied]);
            let header = header.with("admin", admin);
            let options = RecordOptions { header, keeps_payload, ..RecordOptions::default() };
            let (recorder, bytes) = record(kernel, options);
            file = Some(bytes);
            recorder
        });
        // A recording does not go on in another loop, and has no address.
        world.handovers = 0;
        world.handler.calls.lock().unwrap().discreet = true;
        Some((world, file.expect("it is recorded")))
    }

    fn of_choices_over(
        mut random: SplitMix,
        kernel: SplitMix,
        over: impl FnOnce(SimKernel, &Config, &Limits) -> Recorder<SimKernel>,
    ) -> Self {
        let faults = Faults::draw(&mut random);
        let mut config = Config::new(Keyring::demo());
        config.recv_size = 1 + random.below(64);
        config.linger_bytes = 64;
        let mut pick = |choices: &[Option<u64>]| {
            choices[random.below(choices.len())].map(Duration::from_millis)
        };
        config.auth_timeout = pick(&[None, Some(500), Some(5000)]);
        config.idle_timeout = pick(&[None, None, Some(700), Some(10_000)]);
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
        limits.drain_delay = Duration::from_millis([0, 0, 800][random.below(3)]);
        limits.spin = Duration::from_micros([0, 0, 50, 1000][random.below(4)]);
        let pushes = [0, 0, 50, 500][random.below(4)];
        if pushes > 0 && random.chance(500) {
            config.max_answer = config.recv_size.max(MESSAGE) + random.below(300);
        }
        let mut handler = UpperHandler::new();
        handler.fragile = random.chance(150);
        config.header_timeout =
            [Some(5000), Some(500), None][random.clone().below(3)].map(Duration::from_millis);
        let late = faults.late_arrival > 0;
        let kernel = SimKernel::with_choices(kernel, faults);
        let mut world = Self::with_handler(kernel, config, limits, random, handler, over);
        world.pushes = pushes;
        if world.random.chance(300) {
            world.open_admin();
            world.most_admins = 1 + world.random.below(14);
            world.valid_requests = [950, 600, 100][world.random.below(3)];
        }
        world.judge.last_look_is_whole &= !late;
        world.judge.records.kept = world.random.chance(500);
        world.server.keep_records(world.judge.records.kept);
        world.sources = sources;
        // Drawn last, so that inputs of the fuzz target keep their meaning.
        if world.random.below(4) == 3 {
            let named = world.random.chance(300);
            world.put_behind_balancers(named);
        }
        world.handovers = [0, 0, 0, 30, 100, 400][world.random.clone().below(6)];
        world
    }
}
