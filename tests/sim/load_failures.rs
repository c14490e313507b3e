//! The load generator over connections that fail: each failure is counted, and no message is lost from
//! the counts.

use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use crate::load::{millis, mixed, plan, run, run_in};
use crate::load_world::{DIGEST, Fate, Script, World};
use saltecho::load::{Assertion, ErrorKind, Load, Mode, Pace, Phase, Plan, Series};
use saltecho::random::SplitMix;

#[test]
fn each_failure_is_counted_by_its_kind() {
    let rate = NonZeroU64::new(200).unwrap();
    for (fate, after, kind) in [
        (Fate::Refused, 0, ErrorKind::Refused),
        (Fate::Unreachable, 0, ErrorKind::ConnectTimeout),
        (Fate::Mute, 0, ErrorKind::AuthTimeout),
        (Fate::Ends, 0, ErrorKind::Rejected),
        (Fate::FallsSilent, 0, ErrorKind::AuthTimeout),
        (Fate::Ends, DIGEST + 64, ErrorKind::Closed),
        (Fate::Resets, DIGEST + 64, ErrorKind::Reset),
        (Fate::FallsSilent, DIGEST + 640, ErrorKind::EchoTimeout),
        (Fate::Lies, DIGEST + 64, ErrorKind::Mismatch),
        (Fate::Chatters, DIGEST + 64, ErrorKind::Mismatch),
    ] {
        let plan = plan(|plan| {
            (plan.pace, plan.timeout) = (Pace::Open(rate), Some(Duration::from_secs(1)));
        });
        let script = Script { fate: Some((after, fate)), every: 5, ..Script::default() };
        let outcome = run(script, &plan);
        let (counts, errors) = (&outcome.record.counts, &outcome.record.counts.errors);
        assert_eq!(errors.of(kind), 2, "{fate:?} after {after}: {counts:?}");
        // Two of ten connections are lost with the messages due on them.
        let unanswered = errors.of(ErrorKind::Unanswered);
        assert_eq!(errors.total(), 2 + unanswered, "{fate:?} after {after}: {counts:?}");
        let before = ((after.saturating_sub(DIGEST + 64)) / 64) as u64;
        assert_eq!(unanswered, 200 - 2 * before, "{fate:?} after {after}: {counts:?}");
        assert_eq!((outcome.states.ended, counts.due), (2, 1000), "{fate:?}");
    }
}

#[test]
fn a_socket_that_cannot_be_registered_is_one_failure() {
    for (mode, failures) in [(Mode::Echo, 2), (Mode::Idle, 2), (Mode::Connect, 1000)] {
        let plan = plan(|plan| plan.mode = mode);
        let script = Script { is_unregistered: true, every: 5, ..Script::default() };
        let outcome = run(script, &plan);
        let errors = &outcome.record.counts.errors;
        assert_eq!(errors.of(ErrorKind::Other), failures, "{mode:?}: {errors:?}");
        // In echo mode a fifth of the messages is due on missing connections.
        let unanswered = if mode == Mode::Echo { 1000 } else { 0 };
        assert_eq!(errors.total(), failures + unanswered, "{mode:?}: {errors:?}");
        let error = outcome.first_other.expect("it is kept");
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }
}

#[test]
fn idle_connections_are_verified_at_the_end_and_lost_ones_are_errors() {
    let idle = |connections: usize| {
        plan(|plan| {
            (plan.mode, plan.connections) = (Mode::Idle, connections);
            plan.timeout = Some(Duration::from_secs(1));
        })
    };
    // The first message is answered, later ones are not.
    let after = DIGEST + 64;
    for (fate, kind) in [
        (Fate::FallsSilent, ErrorKind::EchoTimeout),
        (Fate::Ends, ErrorKind::Closed),
        (Fate::Resets, ErrorKind::Reset),
        (Fate::Lies, ErrorKind::Mismatch),
    ] {
        let script = Script { fate: Some((after, fate)), every: 5, ..Script::default() };
        let world = World::new(script);
        let crowd = Rc::clone(&world.crowd);
        let outcome = run_in(world, &idle(1000));
        let counts = &outcome.record.counts;
        assert_eq!((counts.due, counts.sent, counts.answered), (1000, 1000, 800), "{fate:?}");
        assert_eq!((counts.errors.of(kind), counts.errors.total()), (200, 200), "{fate:?}");
        let claim: Assertion = "errors==0".parse().unwrap();
        assert!(!claim.check(Mode::Idle, &outcome.record, outcome.measured).holds);
        // They are verified no faster than they were connected.
        assert!(crowd.get() <= Plan::MAX_CONNECTING, "{} at once", crowd.get());
        // Lost connections do not delay the others.
        assert!(outcome.drain < Duration::from_secs(3), "{fate:?}: {:?}", outcome.drain);
        assert_eq!(outcome.measured.as_millis(), 5000, "the proof is not measured");
        assert_eq!((outcome.states.quiet, outcome.record.measured.due), (1000, 0), "{fate:?}");
    }
    let all = run(Script::default(), &idle(1000));
    assert_eq!((all.record.counts.answered, all.record.counts.errors.total()), (1000, 0));
    assert_eq!(all.record.series(Series::Echo).len(), 1000);
}

#[test]
fn a_vanished_server_does_not_prolong_the_verification() {
    let script = Script { fate: Some((DIGEST + 64, Fate::FallsSilent)), ..Script::default() };
    for (timeout, longest) in [(Some(1), 8), (None, 400)] {
        let plan = plan(|plan| {
            (plan.mode, plan.connections) = (Mode::Idle, 2000);
            plan.timeout = timeout.map(Duration::from_secs);
        });
        let outcome = run(script.clone(), &plan);
        let counts = &outcome.record.counts;
        assert_eq!((counts.due, counts.answered), (2000, 0), "{timeout:?}");
        assert_eq!(counts.errors.of(ErrorKind::EchoTimeout), 2000, "{timeout:?}");
        // 256 at first, then more and more.
        assert!(outcome.drain < Duration::from_secs(longest), "{timeout:?}: {:?}", outcome.drain);
    }
}

#[test]
fn a_stopped_idle_load_is_verified_too() {
    let plan = plan(|plan| plan.mode = Mode::Idle);
    let load = Load::new(World::new(Script::default()), plan).unwrap();
    let stopper = load.stopper();
    let mut parts = Vec::new();
    let outcome = load
        .run(|interval| {
            parts.push(interval.phase);
            if interval.phase == Phase::Measure {
                stopper.stop();
            }
        })
        .unwrap();
    assert!(outcome.stopped);
    assert!(parts.contains(&Phase::Prove), "{parts:?}");
    assert_eq!((outcome.record.counts.answered, outcome.record.counts.errors.total()), (10, 0));
}

/// Random plans and failures: `run` checks that every message is accounted for.
#[test]
fn every_message_is_accounted_for() {
    let fates = [
        Fate::Refused,
        Fate::Unreachable,
        Fate::Mute,
        Fate::Ends,
        Fate::Resets,
        Fate::FallsSilent,
        Fate::Lies,
        Fate::Chatters,
    ];
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = SplitMix::new(seed);
        let mut below = |limit| random.below(limit);
        let script = Script {
            connecting: Duration::from_micros(below(3000) as u64),
            service: Duration::from_micros(1 + below(30_000) as u64),
            stall: (below(3) == 0).then(|| (millis(1200), millis(1200 + below(2000) as u64))),
            fate: (below(2) == 0).then(|| (below(1000), fates[below(fates.len())])),
            every: 1 + below(5),
            is_unregistered: below(6) == 0,
            preempted: (below(4) == 0).then(|| (millis(50), millis(below(30) as u64))),
        };
        let plan = plan(|plan| {
            plan.connections = 1 + below(12);
            plan.active = 1 + below(plan.connections);
            plan.mode = [Mode::Echo, Mode::Echo, Mode::Connect, Mode::Idle][below(4)];
            plan.in_flight = 1 + below(4);
            let (small, large) = (1 + below(300), 1 + below(3000));
            plan.size = match below(2) {
                0 => small.into(),
                _ => mixed(small, large),
            };
            plan.duration = millis(1 + below(1000) as u64);
            plan.timeout = (below(3) > 0).then(|| millis(1 + below(400) as u64));
            plan.ramp = millis(below(300) as u64);
            plan.seed = seed;
            let rate = NonZeroU64::new(1 + below(3000) as u64).unwrap();
            plan.pace = if below(2) == 0 { Pace::Closed } else { Pace::Open(rate) };
            plan.spin = Duration::from_micros(300 * below(3) as u64);
            if plan.pace == Pace::Closed && plan.mode == Mode::Echo && below(2) == 0 {
                plan.in_flight = 1;
                plan.think = millis(1 + below(200) as u64);
            }
        });
        // Without a timeout, a connection that is never established would be waited for forever.
        let hangs =
            matches!(script.fate, Some((_, Fate::Unreachable | Fate::Mute | Fate::FallsSilent)));
        let mut plan = plan;
        plan.timeout = plan.timeout.or(hangs.then(|| millis(500)));
        run(script, &plan);
    }
}
