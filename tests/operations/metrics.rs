//! A server's metrics, parsed by Prometheus' own programs.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::common::needs::{PROMTOOL, PYTHON_WITH_PROMETHEUS};
use crate::common::program::Running;
use saltecho::metrics::{
    Connections, Process, Refusals, Snapshot, TimeHistogram, Upgrades, Worker, openmetrics,
    prometheus_text,
};
use saltecho::proto::CloseReason;

/// A snapshot with a different value in each figure.
fn snapshot() -> Snapshot {
    let times = |millis: &[u64]| {
        let mut times = TimeHistogram::default();
        millis.iter().for_each(|millis| times.record(Duration::from_millis(*millis)));
        times
    };
    let worker = |number: usize, base: u64| Worker {
        number,
        turns: base + 1,
        events: base + 2,
        stale_events: base + 3,
        asleep: Duration::from_millis(base * 1000 + 500),
        turn: times(&[1, 20, 5000]),
        queue_wait: times(&[3]),
    };
    Snapshot {
        version: "1.2.3",
        commit: Some("0123456789ab"),
        ready: true,
        process: Some(Process {
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_250),
            cpu: Duration::from_millis(1_250),
            resident: 10_001,
            descriptors: Some(10_002),
            descriptors_limit: 10_003,
        }),
        descriptors: 9_999,
        connections: Connections { await_header: 10, await_digest: 11, echoing: 12, lingering: 14 },
        connections_limit: 10_004,
        accepted: 10_005,
        refused: Refusals { no_room: 21, suspect: 22, over_share: 23, untrusted_proxy: 24 },
        accept_errors: 24,
        accept_pauses: 25,
        authenticated: vec![("bab78a7f".to_owned(), 31), ("odd\"\\\n".to_owned(), 32)],
        closed: std::array::from_fn(|index| 100 + index as u64),
        bytes_received: u64::MAX,
        bytes_sent: 42,
        bytes_undelivered: 43,
        bytes_discarded: 44,
        backlog_bytes: 45,
        deadlines: 46,
        log_lines_suppressed: 47,
        workers_missing: 48,
        upgrades: Some(Upgrades {
            attempts: vec![("committed", "", 51), ("aborted", "late", 52)],
            in_progress: true,
            generation: 53,
            service_started: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(54)),
            last_success: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(55)),
            freezes: times(&[20]),
            last_freeze: Duration::from_millis(20),
            last_prepare: Duration::from_millis(57),
            connections: 58,
            dropped: 59,
        }),
        workers: vec![worker(1, 200), worker(2, 300)],
    }
}

const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    assert family.documentation, family.name
    for s in family.samples:
        labels = ','.join(f'{k}={v}' for k, v in sorted(s.labels.items()) if v)
        print(json.dumps([family.name, family.type, family.unit, f'{s.name}{{{labels}}}', s.value]))
";

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;
/// Families with their type and unit.
type Families = BTreeMap<String, (String, String)>;

/// The result of Python's strict parser.
fn parsed(text: String) -> Option<(Samples, Families)> {
    let mut python = PYTHON_WITH_PROMETHEUS.find()?;
    let finished = Running::start(python.args(["-c", PARSER]), text.into_bytes()).wait();
    finished.expect(0, &[]);
    let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
    for line in str::from_utf8(&finished.stdout).unwrap().lines() {
        let (family, kind, unit, sample, value): (String, String, String, String, f64) =
            serde_json::from_str(line).unwrap();
        families.insert(family, (kind, unit));
        assert_eq!(samples.insert(sample.clone(), value), None, "{sample} twice");
    }
    Some((samples, families))
}

#[test]
fn every_figure_has_its_name() {
    let Some((samples, families)) = parsed(openmetrics(snapshot())) else { return };
    let expected = [
        ("saltecho_build_info{commit=0123456789ab,version=1.2.3}", 1.0),
        ("process_start_time_seconds{}", 1_790_000_000.25),
        ("process_cpu_seconds_total{}", 1.25),
        ("process_resident_memory_bytes{}", 10_001.0),
        ("process_open_fds{}", 10_002.0),
        ("process_max_fds{}", 10_003.0),
        ("saltecho_ready{}", 1.0),
        ("saltecho_connections{state=await_header}", 10.0),
        ("saltecho_connections{state=await_digest}", 11.0),
        ("saltecho_connections{state=echoing}", 12.0),
        ("saltecho_connections{state=lingering}", 14.0),
        ("saltecho_connections_limit{}", 10_004.0),
        ("saltecho_accepted_total{}", 10_005.0),
        ("saltecho_refused_total{reason=no_room}", 21.0),
        ("saltecho_refused_total{reason=suspect}", 22.0),
        ("saltecho_refused_total{reason=over_share}", 23.0),
        ("saltecho_refused_total{reason=untrusted_proxy}", 24.0),
        ("saltecho_accept_errors_total{}", 24.0),
        ("saltecho_accept_pauses_total{}", 25.0),
        ("saltecho_authentications_total{key=bab78a7f,result=accepted}", 31.0),
        ("saltecho_authentications_total{key=odd\"\\\n,result=accepted}", 32.0),
        ("saltecho_authentications_total{result=rejected}", 101.0),
        ("saltecho_authentications_total{result=handshake_failed}", 102.0),
        ("saltecho_authentications_total{result=abandoned}", 103.0),
        ("saltecho_authentications_total{result=timed_out}", 104.0),
        ("saltecho_log_lines_suppressed_total{}", 47.0),
        ("saltecho_received_bytes_total{}", 18_446_744_073_709_551_615.0),
        ("saltecho_sent_bytes_total{}", 42.0),
        ("saltecho_undelivered_bytes_total{}", 43.0),
        ("saltecho_discarded_bytes_total{}", 44.0),
        ("saltecho_backlog_bytes{}", 45.0),
        ("saltecho_deadlines{}", 46.0),
        ("saltecho_workers_missing{}", 48.0),
        ("saltecho_upgrades_total{result=committed}", 51.0),
        ("saltecho_upgrades_total{reason=late,result=aborted}", 52.0),
        ("saltecho_upgrade_in_progress{}", 1.0),
        ("saltecho_upgrade_generation{}", 53.0),
        ("saltecho_service_start_time_seconds{}", 54.0),
        ("saltecho_upgrade_last_success_timestamp_seconds{}", 55.0),
        ("saltecho_upgrade_last_freeze_seconds{}", 0.02),
        ("saltecho_upgrade_prepare_seconds{}", 0.057),
        ("saltecho_upgrade_connections_total{}", 58.0),
        ("saltecho_upgrade_connections_dropped_total{}", 59.0),
        ("saltecho_turns_total{worker=1}", 201.0),
        ("saltecho_turns_total{worker=2}", 301.0),
        ("saltecho_events_total{worker=1}", 202.0),
        ("saltecho_events_total{worker=2}", 302.0),
        ("saltecho_stale_events_total{worker=1}", 203.0),
        ("saltecho_stale_events_total{worker=2}", 303.0),
        ("saltecho_asleep_seconds_total{worker=1}", 200.5),
        ("saltecho_asleep_seconds_total{worker=2}", 300.5),
    ];
    let mut left = samples.clone();
    for (name, value) in expected {
        assert_eq!(left.remove(name), Some(value), "{name}");
    }
    for (reason, number) in CloseReason::ALL.iter().zip(100..) {
        let name = format!("saltecho_closed_total{{reason={}}}", snake_case(*reason));
        assert_eq!(left.remove(&name), Some(f64::from(number)), "{name}");
    }
    // Two workers with two histograms each, and that of freezes: twelve buckets, a sum and a count.
    assert_eq!(left.len(), 5 * 14, "{left:?}");
    for (name, value) in [
        ("saltecho_turn_duration_seconds_bucket{le=0.001048576,worker=1}", 1.0),
        ("saltecho_turn_duration_seconds_bucket{le=0.067108864,worker=1}", 2.0),
        ("saltecho_turn_duration_seconds_bucket{le=+Inf,worker=1}", 3.0),
        ("saltecho_turn_duration_seconds_sum{worker=2}", 5.021),
        ("saltecho_queue_wait_seconds_count{worker=2}", 1.0),
    ] {
        assert_eq!(left.get(name), Some(&value), "{name} in {left:?}");
    }
    for (family, (kind, unit)) in families {
        for (ending, expected) in [("_bytes", "bytes"), ("_seconds", "seconds")] {
            assert_eq!(family.ends_with(ending), unit == expected, "{family}");
        }
        let is_known = ["counter", "gauge", "histogram", "info"].contains(&kind.as_str());
        assert!(is_known, "{family} is a {kind}");
    }
}

#[test]
fn the_documented_metrics_are_the_existing_ones() {
    let docs = include_str!("../../docs/OPERATIONS.md");
    let named: BTreeSet<&str> = docs
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("saltecho_") || word.starts_with("process_"))
        // The name of the Debian package begins like one.
        .filter(|word| *word != "saltecho_0")
        .collect();
    let text = prometheus_text(snapshot());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let rendered: BTreeSet<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(named, rendered);
}

fn snake_case(reason: CloseReason) -> String {
    let mut name = String::new();
    for letter in format!("{reason:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[test]
fn promtool_accepts_the_metrics() {
    let Some(mut promtool) = PROMTOOL.find() else { return };
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let text = prometheus_text(snapshot());
    let finished = Running::start(&mut promtool, text.clone().into_bytes()).wait();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{text}");
}

#[test]
fn the_older_format_has_the_same_samples() {
    let samples = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (new, old) = (openmetrics(snapshot()), prometheus_text(snapshot()));
    assert_eq!(samples(&new), samples(&old));
    assert!(new.ends_with("\n# EOF\n") && !old.contains("# EOF"));
    for line in [
        "# HELP saltecho_accepted_total Connections accepted and served.",
        "# TYPE saltecho_accepted_total counter",
        "# TYPE saltecho_build_info gauge",
        "# TYPE saltecho_turn_duration_seconds histogram",
    ] {
        assert!(old.lines().any(|other| other == line), "no {line:?} in {old}");
    }
    // A scrape of two workers is one slice of an HTTP answer.
    assert!(new.len() < 16 << 10, "{} bytes", new.len());
}
