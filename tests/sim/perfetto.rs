//! The Chrome trace of a run, by the rules of its viewers.

use std::collections::{BTreeMap, HashMap, HashSet};

use saltecho::random::SplitMix;
use saltecho::trace::{Perfetto, Reader};
use serde_json::Value;

use crate::world::World;

/// The time of an event in nanoseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Times are small, from zero up.
fn nanos(value: &Value) -> u64 {
    let number = value.as_f64().expect("times are numbers");
    assert!(number >= 0.0, "{number}");
    (number * 1000.0).round() as u64
}

/// Checks every rule; returns the number of events of each kind.
fn check(json: &str) -> BTreeMap<String, usize> {
    let root: Value = serde_json::from_str(json).expect("it is JSON");
    let events = root["traceEvents"].as_array().expect("an object with a list");
    let (mut kinds, mut last) = (BTreeMap::new(), 0);
    let mut times: HashMap<(u64, u64), HashSet<u64>> = HashMap::new();
    let mut slices: HashMap<(u64, u64), Vec<(u64, u64)>> = HashMap::new();
    let mut lives: HashMap<String, u64> = HashMap::new();
    let (mut begun, mut ended) = (HashSet::new(), HashSet::new());
    let mut pids: HashMap<u64, u64> = HashMap::new();
    let mut counters = HashSet::new();
    for event in events {
        let kind = event["ph"].as_str().expect("a kind");
        *kinds.entry(kind.to_owned()).or_default() += 1;
        let pid = event["pid"].as_u64().expect("a process");
        assert!(pid >= 1);
        if kind == "M" {
            assert!(event.get("ts").is_none(), "names have no time");
            assert!(event["args"]["name"].is_string());
            continue;
        }
        let time = nanos(&event["ts"]);
        assert!(time >= last, "sorted by time");
        last = time;
        if kind == "C" {
            counters.insert(event["name"].as_str().unwrap().to_owned());
            continue;
        }
        let tid = event["tid"].as_u64().expect("a track");
        assert!(tid >= 1);
        assert_eq!(*pids.entry(tid).or_insert(pid), pid, "a track is one process's");
        let track = (pid, tid);
        if matches!(kind, "X" | "i") {
            assert!(times.entry(track).or_default().insert(time), "two at {time} on {track:?}");
        }
        match kind {
            "X" => {
                let end = time + nanos(&event["dur"]);
                assert!(end > time, "a slice can be clicked on");
                let open = slices.entry(track).or_default();
                while open.last().is_some_and(|(_, end)| *end <= time) {
                    open.pop();
                }
                assert!(
                    open.last().is_none_or(|(_, outer)| end <= *outer),
                    "slices nest: {event} in {open:?}"
                );
                open.push((time, end));
            }
            "i" => assert_eq!(event["s"], "t"),
            "b" => {
                let id = format!("{} {}", event["cat"], event["id"]);
                assert!(lives.insert(id.clone(), time).is_none(), "{id} begins twice");
            }
            "e" => {
                let id = format!("{} {}", event["cat"], event["id"]);
                assert!(lives.get(&id).is_some_and(|begin| *begin < time), "{id} ends unbegun");
            }
            "s" | "f" => {
                let id = event["id"].as_u64().expect("a number");
                assert!(id < 1 << 53);
                let inside = slices.get(&track).is_some_and(|open| {
                    open.iter().any(|(begin, end)| *begin < time && time < *end)
                });
                assert!(inside, "an arrow begins and ends within a slice");
                match kind {
                    "s" => assert!(begun.insert(id), "arrow {id} begins twice"),
                    _ => {
                        assert_eq!(event["bp"], "e");
                        assert!(begun.contains(&id) && ended.insert(id), "arrow {id}");
                    }
                }
            }
            other => panic!("{other} is not of the plain core"),
        }
    }
    assert_eq!(begun, ended, "every arrow ends");
    assert!(counters.len() <= 30, "{counters:?}");
    assert_eq!(kinds.get("b"), kinds.get("e"), "every life ends");
    kinds
}

#[test]
fn traces_of_simulated_worlds_keep_every_rule() {
    for seed in 0..100 {
        let mut world = World::draw(SplitMix::new(seed), true);
        world.run();
        let mut trace = Perfetto::by_step();
        for step in world.server.kernel_mut().trace() {
            trace.step(step, true);
        }
        let (json, left_out) = trace.finish();
        assert_eq!(left_out, 0);
        let kinds = check(&json);
        for kind in ["M", "X", "i", "b", "e", "s", "f"] {
            assert!(kinds.contains_key(kind), "seed {seed} has no {kind}: {kinds:?}");
        }
    }
}

#[test]
fn the_trace_of_a_recording_keeps_every_rule() {
    for name in ["tutorial", "multiprocessing", "proxied"] {
        let path = format!("{}/tests/data/recordings/{name}.rec", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let mut trace = Perfetto::new();
        while let Some(step) = reader.next_step().unwrap() {
            trace.step(&step, true);
        }
        let (json, _) = trace.finish();
        assert!(json.starts_with("{\"traceEvents\":["));
        let kinds = check(&json);
        assert!(kinds["s"] > 5 && kinds["C"] > 5, "{name}: {kinds:?}");
    }
}
