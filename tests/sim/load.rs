//! The load generator over a network and a server with known delays: it must measure these delays
//! and report its own.

use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use crate::load_world::{Fate, Script, World};
use saltecho::auth::{Key, MacAlgorithm};
use saltecho::load::{
    Assertion, ErrorKind, Load, Mode, Outcome, Pace, Phase, Plan, PlanError, Record, Series,
    SizeShare, Sizes,
};
use saltecho::proto::Protocol;

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Ten connections, a thousand messages per second, five seconds.
pub(crate) fn plan(adjust: impl FnOnce(&mut Plan)) -> Plan {
    let target = "127.0.0.1:9".parse().unwrap();
    let mut plan = Plan::new(target, Key::demo(), MacAlgorithm::Md5);
    (plan.connections, plan.active) = (10, 10);
    plan.duration = Duration::from_secs(5);
    adjust(&mut plan);
    plan
}

/// Runs a load and checks its counters against each other.
pub(crate) fn run(script: Script, plan: &Plan) -> Outcome {
    run_in(World::new(script), plan)
}

pub(crate) fn run_in(world: World, plan: &Plan) -> Outcome {
    let mut sum = Record::new();
    let mut last = Duration::ZERO;
    let outcome = Load::new(world, plan.clone())
        .unwrap()
        .run(|interval| {
            assert_eq!(interval.start, last, "intervals follow each other");
            last += interval.length;
            assert!(interval.length <= millis(1100), "{:?}", interval.length);
            sum.merge(&interval.record);
        })
        .unwrap();
    assert!(sum == outcome.record, "the intervals make up the whole");
    let (counts, errors) = (&outcome.record.counts, &outcome.record.counts.errors);
    let lost = errors.of(ErrorKind::Unanswered) + errors.of(ErrorKind::Late);
    if plan.mode == Mode::Echo {
        assert_eq!(counts.due, counts.answered + lost, "{counts:?}");
    }
    if let Some(main) = plan.mode.main_series() {
        let timed = counts.answered + errors.of(ErrorKind::Late);
        assert_eq!(outcome.record.series(main).len(), timed, "{counts:?}");
    }
    outcome
}

#[track_caller]
fn assert_about(outcome: &Outcome, series: Series, quantile: f64, expected: Duration) {
    let nanos = outcome.record.series(series).value_at_quantile(quantile);
    let found = Duration::from_nanos(nanos);
    let error = found.abs_diff(expected);
    // An idle turn of this world takes 40 us.
    assert!(error <= expected / 20 + Duration::from_micros(150), "{series:?}: {found:?}");
}

#[test]
fn the_measured_latency_is_the_servers() {
    let outcome = run(Script::default(), &plan(|_| ()));
    let counts = &outcome.record.counts;
    assert_eq!((counts.due, counts.answered, counts.errors.total()), (5000, 5000, 0));
    assert_eq!((counts.connected, counts.authenticated), (10, 10));
    assert_eq!(counts.bytes_sent, 10 * (16 + 64) + 5000 * 64);
    assert_eq!(counts.bytes_received, 10 * (32 + 64) + 5000 * 64);
    for quantile in [0.0, 0.5, 0.99, 1.0] {
        assert_about(&outcome, Series::Echo, quantile, millis(1));
        assert_about(&outcome, Series::Service, quantile, millis(1));
        assert_about(&outcome, Series::Connect, quantile, Duration::from_micros(100));
        assert_about(&outcome, Series::Auth, quantile, millis(1));
        assert_about(&outcome, Series::Lateness, quantile, Duration::ZERO);
    }
    assert_eq!(outcome.measured.as_millis(), 5000);
    assert!(!outcome.stopped);
}

/// The purpose of the open model: one message in twenty is due while the server stalls.
#[test]
fn a_stall_is_charged_to_every_message_that_was_due_in_it() {
    let begin = Duration::from_secs(3);
    let stall = Some((begin, begin + millis(500)));
    let outcome = run(Script { stall, ..Script::default() }, &plan(|_| ()));
    let counts = &outcome.record.counts;
    assert_eq!((counts.due, counts.answered, counts.errors.total()), (5000, 5000, 0));
    // 500 of 5,000 messages are due during the stall and wait 0 to 500 ms; then ten connections
    // catch up on fifty each, at a millisecond each.
    assert_about(&outcome, Series::Echo, 0.5, millis(1));
    let p95 = outcome.record.series(Series::Echo).value_at_quantile(0.95);
    assert!(p95 > millis(200).as_nanos().try_into().unwrap(), "p95 {p95} ns");
    // Only ten were sent during the stall; a closed model would count only these as slow.
    assert_about(&outcome, Series::Service, 0.99, millis(1));
    assert_about(&outcome, Series::Service, 1.0, millis(500));
    // The generator caused none of it.
    assert_about(&outcome, Series::Lateness, 1.0, Duration::ZERO);
}

#[test]
fn the_closed_model_sends_as_fast_as_answers_come() {
    for (in_flight, rate) in [(1, 10_000), (4, 40_000)] {
        let plan = plan(|plan| {
            plan.pace = Pace::Closed;
            plan.in_flight = in_flight;
            plan.duration = Duration::from_secs(1);
        });
        let outcome = run(Script::default(), &plan);
        let answered = outcome.record.counts.answered;
        assert!(answered.abs_diff(rate) < rate / 20, "{answered} with {in_flight} in flight");
        assert_about(&outcome, Series::Echo, 0.99, millis(1));
        assert_eq!(outcome.record.counts.errors.total(), 0);
    }
}

/// The closed model only: in the open model the generator does not sleep before a due message
/// anyway.
#[test]
fn a_spinning_generator_sleeps_when_its_spin_time_has_passed_without_an_event() {
    for spin in [0, 100, 700, 5_000].map(Duration::from_micros) {
        let plan = plan(|plan| {
            (plan.connections, plan.active, plan.pace) = (1, 1, Pace::Closed);
            (plan.duration, plan.spin) = (Duration::from_secs(1), spin);
        });
        let world = World::new(Script::default());
        let polls = Rc::clone(&world.polls);
        let outcome = run_in(world, &plan);
        let polls = polls.borrow();
        let first = polls.iter().position(|poll| poll.reported).unwrap();
        let (mut awake_until, mut restless) = (Duration::ZERO, 0);
        for poll in &polls[first..] {
            let sleeps = poll.timeout != Some(Duration::ZERO);
            let is_to_spin = poll.began < awake_until;
            assert!(!(sleeps && is_to_spin), "{poll:?}, to spin until {awake_until:?}");
            restless += u32::from(!sleeps && !is_to_spin);
            if poll.reported {
                awake_until = poll.ended + spin;
            }
        }
        // The turns in which measuring and draining start have work without an event.
        assert!(restless <= 2, "{restless} polls after {spin:?} did not sleep");
        // A spin longer than the answer time leaves no sleep, the others one per message.
        let slept = polls.iter().filter(|poll| poll.timeout > Some(Duration::ZERO)).count() as u64;
        let answered = outcome.record.counts.answered;
        let expected = if spin > millis(1) { 0 } else { answered };
        assert!(slept.abs_diff(expected) < 10, "{slept} sleeps in {answered} answers, {spin:?}");
        // The measurement is the same.
        assert!(answered.abs_diff(1000) < 50, "{answered} answers, {spin:?}");
        assert_about(&outcome, Series::Echo, 0.99, millis(1));
        assert_eq!(outcome.record.counts.errors.total(), 0);
    }
}

#[test]
fn spinning_changes_nothing_in_the_open_model() {
    for rate in [50, 1000] {
        let [sleeping, spinning] = [0, 500].map(|spin| {
            let plan = plan(|plan| {
                plan.pace = Pace::Open(NonZeroU64::new(rate).unwrap());
                plan.spin = Duration::from_micros(spin);
            });
            let outcome = run(Script::default(), &plan);
            assert_about(&outcome, Series::Echo, 0.99, millis(1));
            assert_about(&outcome, Series::Lateness, 0.99, Duration::ZERO);
            outcome.record.counts
        });
        assert_eq!(sleeping, spinning);
        assert_eq!(spinning.answered, 5 * rate);
    }
}

#[test]
fn a_delayed_generator_records_its_lateness() {
    let preempted = Some((millis(20), millis(20)));
    for pace in [Pace::Open(NonZeroU64::new(1000).unwrap()), Pace::Closed] {
        let outcome = run(Script { preempted, ..Script::default() }, &plan(|p| p.pace = pace));
        let [p99, latency] = [Series::Lateness, Series::Echo]
            .map(|series| outcome.record.series(series).value_at_quantile(0.99));
        assert!(latency > 5_000_000, "{pace:?}: the delays are in what was measured: {latency}");
        assert!(p99 * 10 > latency, "{pace:?}: {p99} ns late in {latency} ns");
    }
}

#[test]
fn messages_longer_than_a_send_are_verified_to_the_last_byte() {
    let plan = plan(|plan| {
        plan.size = (1 << 20).into();
        plan.pace = Pace::Open(NonZeroU64::new(20).unwrap());
    });
    let outcome = run(Script::default(), &plan);
    let counts = &outcome.record.counts;
    assert_eq!((counts.answered, counts.errors.total()), (100, 0));
    assert_eq!(counts.bytes_received, 10 * 32 + 110 * (1 << 20));
}

/// Three quarters of one size, a quarter of another.
pub(crate) fn mixed(most: usize, rest: usize) -> Sizes {
    let shares = [(most, 750_000), (rest, 250_000)];
    let share = |(bytes, share_ppm)| SizeShare { bytes, share_ppm };
    Sizes::mixed(shares.map(share).to_vec()).unwrap()
}

#[test]
fn messages_of_several_sizes_are_verified_and_have_their_shares() {
    for (mode, in_flight) in [(Mode::Echo, 1), (Mode::Echo, 7), (Mode::Connect, 1)] {
        let plan = plan(|plan| {
            plan.size = mixed(100, 40_000);
            (plan.mode, plan.in_flight) = (mode, in_flight);
        });
        let outcome = run(Script::default(), &plan);
        let Record { counts, .. } = &outcome.record;
        assert_eq!((counts.answered, counts.errors.total()), (5_000, 0), "{mode:?}");
        let (probes, dialed) = match mode {
            Mode::Connect => (0, 5_000),
            _ => (10, 10),
        };
        let messages = counts.bytes_received - dialed * 32;
        let large = (messages - (5_000 + probes) * 100) / 39_900;
        assert_eq!(messages, (5_000 + probes) * 100 + large * 39_900, "{mode:?}");
        // Six standard deviations of a binomial distribution are 184.
        assert!((1_066..=1_434).contains(&large), "{mode:?}: {large} of 5,000");
    }
}

/// An answer takes 1 ms and the pause 99 ms, so each connection sends ten messages a second.
#[test]
fn a_pause_separates_an_answer_from_the_next_message() {
    let plan = plan(|plan| {
        plan.pace = Pace::Closed;
        plan.think = millis(99);
        plan.duration = Duration::from_secs(2);
    });
    let outcome = run(Script::default(), &plan);
    let counts = &outcome.record.counts;
    assert!((180..=200).contains(&counts.answered), "{counts:?}");
    assert_eq!((counts.answered, counts.errors.total()), (counts.due, 0));
    assert_about(&outcome, Series::Echo, 0.99, millis(1));
}

/// With 300 ms per answer, fifty connections get at most 167 answers per second.
#[test]
fn answers_after_the_end_do_not_count_in_the_rate() {
    let crowded = |mode: Mode, pace: Pace| {
        let plan = plan(|plan| {
            (plan.mode, plan.pace) = (mode, pace);
            (plan.connections, plan.active) = (50, 50);
            plan.duration = Duration::from_secs(2);
        });
        run(Script { service: millis(300), ..Script::default() }, &plan)
    };
    let open = Pace::Open(NonZeroU64::new(250).unwrap());
    for (mode, pace) in [
        (Mode::Echo, open),
        (Mode::Echo, Pace::Closed),
        (Mode::Connect, open),
        (Mode::Connect, Pace::Closed),
    ] {
        let outcome = crowded(mode, pace);
        let Record { counts, measured, .. } = &outcome.record;
        assert!(counts.answered > measured.answered, "{mode:?} {pace:?}: {counts:?}");
        assert!((250..=334).contains(&measured.answered), "{mode:?} {pace:?}: {measured:?}");
        let claim: Assertion = "rate>=200".parse().unwrap();
        let checked = claim.check(mode, &outcome.record, outcome.measured);
        assert!(!checked.holds, "{mode:?} {pace:?}: {checked:?}");
    }
}

#[test]
fn an_invalid_plan_is_refused() {
    let too_much = |field, number, most| PlanError::TooMuch { field, number, most };
    let active = |active| PlanError::Active { active, connections: 10 };
    type Case = (fn(&mut Plan), PlanError);
    let cases: [Case; 16] = [
        (|plan| plan.connections = 0, PlanError::Zero("connections")),
        (|plan| plan.in_flight = 0, PlanError::Zero("in_flight")),
        (|plan| plan.size = 0.into(), PlanError::Zero("size")),
        (|plan| plan.duration = Duration::ZERO, PlanError::Zero("duration")),
        (|plan| plan.timeout = Some(Duration::ZERO), PlanError::Zero("timeout")),
        (|plan| plan.active = 0, active(0)),
        (|plan| plan.active = 11, active(11)),
        (|plan| plan.connections = (1 << 24) + 1, too_much("connections", (1 << 24) + 1, 1 << 24)),
        (|plan| plan.in_flight = 65_537, too_much("in_flight", 65_537, 65_536)),
        (|plan| plan.size = usize::MAX.into(), too_much("size", u64::MAX, 16 << 20)),
        (
            |plan| plan.pace = Pace::Open(NonZeroU64::MAX),
            too_much("the rate", u64::MAX, 1_000_000_000),
        ),
        (|plan| plan.think = millis(1), PlanError::Think),
        (|plan| (plan.mode, plan.think) = (Mode::Idle, millis(1)), PlanError::Think),
        (
            |plan| {
                (plan.pace, plan.in_flight, plan.think) = (Pace::Closed, 2, millis(1));
            },
            PlanError::Think,
        ),
        (
            |plan| {
                (plan.protocol, plan.size) = (Protocol::Multiprocessing, mixed(1, 2));
            },
            PlanError::MixedFrames,
        ),
        (
            |plan| plan.sources = vec!["[::1]:0".parse().unwrap()],
            PlanError::Family { from: "::1".parse().unwrap(), to: "127.0.0.1:9".parse().unwrap() },
        ),
    ];
    for (adjust, error) in cases {
        let plan = plan(adjust);
        assert_eq!(Load::new(World::new(Script::default()), plan).err(), Some(error));
    }
}

#[test]
fn unanswered_messages_count_with_the_time_they_waited() {
    let begin = Duration::from_secs(5);
    let stall = Some((begin, begin + Duration::from_secs(60)));
    let outcome = run(Script { stall, ..Script::default() }, &plan(|_| ()));
    let late = outcome.record.counts.errors.of(ErrorKind::Late);
    assert!((1000..1020).contains(&late), "{late} of those due from second 4 to 5");
    // The oldest waited during that second and the whole grace period.
    assert_about(&outcome, Series::Echo, 1.0, Duration::from_secs(2));
}

/// One message per nanosecond is a billion, of which a few thousand can be answered.
#[test]
fn an_impossible_rate_is_given_up_on_time() {
    for mode in [Mode::Echo, Mode::Connect] {
        let plan = plan(|plan| {
            plan.mode = mode;
            plan.pace = Pace::Open(NonZeroU64::new(1_000_000_000).unwrap());
            plan.duration = Duration::from_secs(1);
        });
        let outcome = run(Script::default(), &plan);
        let counts = &outcome.record.counts;
        assert!(counts.due >= 1_000_000_000, "{mode:?}: {counts:?}");
        assert!(counts.answered > 1_000, "{mode:?}: {counts:?}");
        let late = counts.errors.of(ErrorKind::Late);
        assert_eq!(counts.answered + late, counts.due, "{mode:?}");
        assert!(outcome.measured + outcome.drain < millis(2_100), "{mode:?}: {outcome:?}");
        // They were due evenly over the second and waited for another.
        assert_about(&outcome, mode.main_series().unwrap(), 0.5, millis(1_500));
    }
}

#[test]
fn a_ramp_is_even_and_sources_take_turns() {
    let sources: Vec<_> = (2..5).map(|d| ([127, 0, 0, d], 0).into()).collect();
    let plan = plan(|plan| {
        (plan.connections, plan.active) = (40, 4);
        plan.ramp = Duration::from_secs(2);
        plan.sources.clone_from(&sources);
        plan.mode = Mode::Idle;
    });
    let world = World::new(Script::default());
    let dials = Rc::clone(&world.dials);
    let load = Load::new(world, plan).unwrap();
    let mut parts = Vec::new();
    let outcome = load.run(|interval| parts.push(interval.phase)).unwrap();
    assert_eq!(parts.iter().filter(|part| **part == Phase::Ramp).count(), 2, "{parts:?}");
    for (i, (at, source)) in dials.borrow().iter().enumerate() {
        let due = Duration::from_secs(1) + millis(50) * u32::try_from(i).unwrap();
        assert!(at.abs_diff(due) < millis(1), "connection {i} at {at:?}");
        assert_eq!(*source, Some(sources[i % 3]));
    }
    assert_eq!(dials.borrow().len(), 40);
    assert_eq!((outcome.states.quiet, outcome.record.counts.due), (40, 40));
}

#[test]
fn cycles_are_timed_from_their_due_time() {
    // A cycle takes 1.1 ms and its close 0.1 ms: with two at once about 1,600 fit into a second.
    let cycles = |rate: u64| {
        plan(|plan| {
            plan.mode = Mode::Connect;
            plan.pace = Pace::Open(NonZeroU64::new(rate).unwrap());
            (plan.connections, plan.active) = (2, 2);
            plan.duration = Duration::from_secs(2);
        })
    };
    let easy = run(Script::default(), &cycles(1000));
    assert_eq!((easy.record.counts.answered, easy.record.counts.errors.total()), (2000, 0));
    assert_about(&easy, Series::Cycle, 0.99, Duration::from_micros(1100));
    assert_about(&easy, Series::Service, 0.99, Duration::from_micros(1100));
    let heavy = run(Script::default(), &cycles(3300));
    assert_about(&heavy, Series::Service, 0.99, Duration::from_micros(1100));
    // Of 6,600 cycles 3,200 can be served in time and 1,600 in the grace period of a second.
    let late = heavy.record.counts.errors.of(ErrorKind::Late);
    assert!((1600..2000).contains(&late), "{late}");
    assert!(heavy.record.series(Series::Cycle).value_at_quantile(0.5) > 500_000_000);
    assert_about(&heavy, Series::Lateness, 0.99, Duration::ZERO);
    let failing = Script { fate: Some((0, Fate::Ends)), every: 4, ..Script::default() };
    let failing = run(failing, &cycles(1000));
    let errors = &failing.record.counts.errors;
    assert_eq!((errors.of(ErrorKind::Rejected), errors.total()), (500, 500));
    assert_eq!(failing.record.counts.answered, 1500);
}

#[test]
fn a_stopped_load_reports_its_partial_result() {
    let load = Load::new(World::new(Script::default()), plan(|_| ())).unwrap();
    let stopper = load.stopper();
    let mut seconds = 0;
    let outcome = load
        .run(|interval| {
            seconds += u32::from(interval.phase == Phase::Measure);
            if seconds == 2 {
                stopper.stop();
            }
        })
        .unwrap();
    assert!(outcome.stopped);
    assert_eq!(outcome.measured.as_secs(), 2);
    let counts = &outcome.record.counts;
    assert_eq!((counts.due, counts.errors.total()), (counts.answered, 0));
}
