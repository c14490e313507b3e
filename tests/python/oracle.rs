//! Replays the recorded behavior of CPython's sockets, scenario by scenario, step by step.
//!
//! `tests/data/scenarios.json` holds 206 scenarios recorded from CPython 3.11 over loopback, each
//! step with its outcome and, where it matters, a time window. The environment variable
//! SALTECHO_ORACLE names another file in the same format.

use std::collections::HashSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value as Json;

use crate::replay::value::{LONG, Value, bytes_of, describe_long};
use crate::replay::{Played, World, alone, describe_error, play};

/// Scenarios that cannot be replayed here, each with the reason. There are none.
const NOT_REPLAYED: [(&str, &str); 0] = [];

/// The factor for upper bounds, so that a busy machine does not exceed them. They keep their
/// meaning: 150 ms, which stands for "did not wait", stays below every timeout it is compared with.
const STRETCH: f64 = 2.5;

/// Here the upper bound distinguishes one budget for a whole `sendall` from one per send.
const NOT_STRETCHED: &str = "sendall/timeout-is-for-the-whole-call";

/// Attempts for a scenario that misses only upper bounds. A machine that stalls for seconds passes
/// on the second attempt; an implementation that is too slow never does.
const ATTEMPTS: usize = 4;

/// The time after which a scenario, recorded in under 2 s, counts as hanging.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn every_scenario_of_cpython_replays() {
    let _alone = alone();
    let path = std::env::var("SALTECHO_ORACLE").ok();
    let text = match &path {
        Some(path) => std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("SALTECHO_ORACLE names {path}: {error}")),
        None => include_str!("../data/scenarios.json").to_owned(),
    };
    let file: Json = serde_json::from_str(&text).expect("a scenario file is JSON");
    assert_eq!(file["format"], 1, "the format this replayer was written for");
    let scenarios = file["scenarios"].as_array().expect("a list of scenarios");
    let names: HashSet<_> = scenarios.iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names.len(), scenarios.len(), "every scenario has its own name");
    if path.is_none() {
        assert_eq!(scenarios.len(), 206, "none of the recorded scenarios is missing");
    }

    let mut complaints = Vec::new();
    let mut steps = 0;
    for scenario in scenarios {
        let name = scenario["name"].as_str().expect("a name");
        if let Some((_, reason)) = NOT_REPLAYED.iter().find(|(skipped, _)| *skipped == name) {
            println!("not replayed: {name}: {reason}");
            continue;
        }
        steps += scenario["steps"].as_array().expect("a list of steps").len();
        complaints.extend(replay_on_a_busy_machine(name, scenario));
    }
    println!("{} scenarios, {steps} steps replayed", scenarios.len() - NOT_REPLAYED.len());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_changed_outcome_or_window_is_noticed() {
    let _alone = alone();
    let scenario = |out: Json, ms: Json| {
        serde_json::json!({"name": "none", "steps": [
            {"do": "socket", "as": "s", "kind": "tcp", "out": {"ok": null}},
            {"do": "recv", "on": "s", "n": 1, "ms": ms, "out": out},
        ]})
    };
    let right = serde_json::json!({"err": {"kind": "OSError", "errno": 107}});
    let window = serde_json::json!([0, 10_000]);
    assert!(replay(&scenario(right.clone(), window.clone())).is_empty());
    for wrong in [
        serde_json::json!({"err": {"kind": "OSError", "errno": 9}}),
        serde_json::json!({"err": {"kind": "BrokenPipeError", "errno": 107}}),
        serde_json::json!({"ok": {"hex": ""}}),
    ] {
        assert_eq!(replay(&scenario(wrong, window.clone())).len(), 1);
    }
    let early = replay(&scenario(right.clone(), serde_json::json!([10_000, 20_000])));
    let late = replay(&scenario(right, serde_json::json!([0, 0])));
    assert_eq!((early.len(), early[0].late), (1, false));
    assert_eq!((late.len(), late[0].late), (1, true));
}

/// The complaints about one scenario, which is repeated if it was merely late.
fn replay_on_a_busy_machine(name: &str, scenario: &Json) -> Vec<String> {
    for attempt in 1.. {
        let complaints = replay_within_limit(name, scenario);
        let merely_late = complaints.iter().all(|complaint| complaint.late);
        if complaints.is_empty() || !merely_late || attempt == ATTEMPTS {
            return complaints.into_iter().map(|complaint| complaint.text).collect();
        }
        let first = &complaints[0].text;
        println!("late in attempt {attempt} of {ATTEMPTS}, played again: {first}");
    }
    unreachable!("the last attempt returns")
}

/// A difference in one step.
struct Complaint {
    text: String,
    /// True if the only fault is that it took too long.
    late: bool,
}

/// Plays a scenario once. One that hangs ends the test, since nothing can end the blocked call.
fn replay_within_limit(name: &str, scenario: &Json) -> Vec<Complaint> {
    let (report, result) = mpsc::channel();
    let scenario = scenario.clone();
    let main_line = std::thread::spawn(move || {
        // The receiver is gone only if the test has failed.
        let _ = report.send(replay(&scenario));
    });
    match result.recv_timeout(LIMIT) {
        Ok(complaints) => complaints,
        Err(RecvTimeoutError::Timeout) => panic!("{name} hangs: over {LIMIT:?}"),
        Err(RecvTimeoutError::Disconnected) => match main_line.join() {
            Ok(()) => unreachable!("the thread reports before it ends"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

fn replay(scenario: &Json) -> Vec<Complaint> {
    let name = scenario["name"].as_str().expect("a name");
    let steps = scenario["steps"].as_array().expect("a list of steps");
    let stretch = if name == NOT_STRETCHED { 1.0 } else { STRETCH };
    let (world, played) = play(steps);
    let mut complaints = Vec::new();
    for (index, (step, played)) in steps.iter().zip(&played).enumerate() {
        let mut complain = |late, what: String| {
            let text = format!("{name}, step {index} ({}): {what}", without_outcome(step));
            complaints.push(Complaint { text, late });
        };
        if !outcome_matches(&step["out"], played, &world) {
            complain(false, format!("wanted {}, got {}", step["out"], describe(played, &world)));
        }
        if let (Some(least), Some(most)) = (step["ms"][0].as_f64(), step["ms"][1].as_f64()) {
            let took = played.elapsed.as_secs_f64() * 1000.0;
            if took < least || took > most * stretch {
                complain(took > most, format!("took {took:.1} ms, not {least} to {most}"));
            }
        }
    }
    complaints
}

fn outcome_matches(want: &Json, played: &Played, world: &World) -> bool {
    if let Some(any) = want["any_of"].as_array() {
        return any.iter().any(|want| outcome_matches(want, played, world));
    }
    match (&played.outcome, want.get("ok"), want.get("err")) {
        (Ok(value), Some(want), None) => matches(value, want, world),
        (Err(error), None, Some(want)) => {
            let got = describe_error(error);
            // Without an errno the text tells two OSErrors or TimeoutErrors apart; elsewhere it is
            // only advice.
            let text_matters = want["errno"].is_null()
                && (want["kind"] == "OSError" || want["kind"] == "TimeoutError");
            got["kind"] == want["kind"]
                && got["errno"] == want["errno"]
                && got["written"] == want["written"]
                && (!text_matters || got["msg"] == want["msg"])
        }
        _ => false,
    }
}

/// Compares a result with the one in the scenario file.
fn matches(value: &Value, want: &Json, world: &World) -> bool {
    if let Some(bounds) = want["int_in"].as_array() {
        let bound = |index: usize| bounds[index].as_i64().expect("integer bounds");
        return matches!(value, Value::Int(n) if (bound(0)..=bound(1)).contains(n));
    }
    if let Some(name) = want["var"].as_str() {
        return world.var(name).as_ref() == Some(value);
    }
    if let Some(parts) = want["sum"].as_array() {
        return *value == Value::Int(parts.iter().map(|part| summand(part, world)).sum());
    }
    if !want["prefix_of"].is_null() {
        let whole = bytes_of(&want["prefix_of"], world);
        let bound = |index: usize| want["len_in"][index].as_u64().expect("integer bounds");
        return matches!(value, Value::Bytes(bytes) if whole.starts_with(bytes)
            && (bound(0)..=bound(1)).contains(&(bytes.len() as u64)));
    }
    match value {
        Value::Secs(secs) => want["secs"].as_f64().is_some_and(|want| (want - secs).abs() <= 4e-10),
        Value::Bytes(bytes) if bytes.len() > LONG => *want == describe_long(bytes),
        Value::List(items) => want["list"].as_array().is_some_and(|wants| {
            wants.len() == items.len()
                && items.iter().zip(wants).all(|(item, want)| matches(item, want, world))
        }),
        Value::Addr(host, port) => {
            let wanted = match want["addr"][1].as_str().and_then(|p| p.strip_prefix("port:")) {
                Some(name) => world.port_of(name).map(u64::from),
                None => want["addr"][1].as_u64(),
            };
            want["addr"][0] == host.as_str() && wanted == Some(u64::from(*port))
        }
        _ => *want == value.describe(world),
    }
}

/// A literal integer or a stored one.
fn summand(part: &Json, world: &World) -> i64 {
    match part.as_str() {
        None => part.as_i64().expect("a summand is an integer or a name"),
        Some(name) => match world.var(name) {
            Some(Value::Int(n)) => n,
            other => panic!("{name} holds {other:?}, not an integer"),
        },
    }
}

fn describe(played: &Played, world: &World) -> String {
    match &played.outcome {
        Ok(value) => format!("{{\"ok\":{}}}", value.describe(world)),
        Err(error) => format!("{{\"err\":{}}}", describe_error(error)),
    }
}

fn without_outcome(step: &Json) -> String {
    let mut step = step.clone();
    if let Some(fields) = step.as_object_mut() {
        fields.remove("out");
        fields.remove("ms");
    }
    step.to_string()
}
