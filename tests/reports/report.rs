//! The report as text, JSON and events.

use std::io::{self, Write};
use std::time::Duration;

use crate::common::run::{Script, Shared};
use jsonschema::Validator;
use saltecho::auth::Key;
use saltecho::load::report::{Collector, Comparison, EventLog, Generator, Report, Verdict};
use saltecho::load::{ErrorKind, Mode, Pace, Series};
use serde_json::{Value, json};

const EVENT: &str = include_str!("../../schemas/load-event.schema.json");
const REPORT: &str = include_str!("../../schemas/load-report.schema.json");
const SWEEP: &str = include_str!("../../schemas/load-sweep.schema.json");

/// The validators of events and reports.
fn validators() -> [Validator; 2] {
    let [event, report]: [Value; 2] =
        [EVENT, REPORT].map(|text| serde_json::from_str(text).unwrap());
    for schema in [&event, &report] {
        assert!(jsonschema::meta::is_valid(schema));
    }
    [event, report].map(|schema| jsonschema::validator_for(&schema).expect("it stands alone"))
}

#[track_caller]
fn validate(validator: &Validator, value: &Value) {
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Fails on any number that is not whole.
fn is_whole(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_u64(),
        Value::Array(values) => values.iter().all(is_whole),
        Value::Object(map) => map.values().all(is_whole),
        _ => true,
    }
}

/// A writer that fails after this many writes.
struct Full(u32);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn scripts() -> Vec<Script> {
    let mut closed = Script::new(Mode::Echo);
    closed.plan.pace = Pace::Closed;
    closed.plan.timeout = None;
    let mut failing = Script::new(Mode::Connect);
    failing.errors = ErrorKind::ALL.into_iter().zip(1..).collect();
    let mut nothing = Script::new(Mode::Echo);
    nothing.seconds = 0;
    vec![Script::new(Mode::Echo), closed, failing, Script::new(Mode::Idle), nothing]
}

#[test]
fn the_json_conforms_to_its_schema() {
    let [event, report] = validators();
    for script in scripts() {
        let events = Shared::default();
        let made =
            script.run(|collector| collector.add_sink("events", EventLog::new(events.clone())));
        let json = made.to_json();
        validate(&report, &json);
        assert!(is_whole(&json), "{json:#}");
        let text = String::from_utf8(events.0.lock().unwrap().clone()).unwrap();
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len() as u64, script.seconds + 2);
        for line in &mut lines {
            validate(&event, line);
            let schema = line.as_object_mut().unwrap().remove("schema");
            assert_eq!(schema, Some(json!("saltecho-load-event/2")));
        }
        assert_eq!(json["seconds"], json!(lines), "the report has the same seconds");
    }
}

#[test]
fn the_schemas_share_their_definitions() {
    let [event, report]: [Value; 2] =
        [EVENT, REPORT].map(|text| serde_json::from_str(text).unwrap());
    for (name, definition) in event["$defs"].as_object().unwrap() {
        assert_eq!(&report["$defs"][name], definition, "{name}");
    }
    let sweep: Value = serde_json::from_str(SWEEP).unwrap();
    for name in ["generator", "count"] {
        assert_eq!(report["$defs"][name], sweep["$defs"][name], "{name}");
    }
    let mut properties = event["properties"].clone();
    properties.as_object_mut().unwrap().remove("schema");
    assert_eq!(report["$defs"]["second"]["properties"], properties);
}

#[test]
fn the_schemas_reject_invalid_values() {
    let [event, report] = validators();
    let good = Script::new(Mode::Echo).report().to_json();
    for (pointer, bad) in [
        ("/measured_ns", json!(1.5)),
        ("/measured_ns", json!(-1)),
        ("/series/echo/p99_ns", Value::Null),
        ("/series/echo/n", json!(0)),
        ("/reliability/verdict", json!("perhaps")),
        ("/generators", json!([])),
        ("/generators/0/plan/timeout_ns", json!(0)),
        ("/seconds/0/phase", json!("lunch")),
        ("/counts/errors", json!({})),
    ] {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap_or_else(|| panic!("there is {pointer}")) = bad.clone();
        assert!(!report.is_valid(&json), "{pointer}: {bad}");
    }
    let mut second = good["seconds"][0].clone();
    assert!(!event.is_valid(&second), "an event says which form it has");
    second["schema"] = json!("saltecho-load-event/2");
    assert!(event.is_valid(&second));
    second["more"] = json!(1);
    assert!(!event.is_valid(&second));
}

/// Reports from before the setting lack it; those runs did not spin.
#[test]
fn the_spin_setting_is_reported() {
    let mut script = Script::new(Mode::Echo);
    assert!(!script.report().to_text().contains("spinning"));
    script.plan.spin = Duration::from_micros(100);
    let report = script.report();
    let text = report.to_text().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("; spinning for 100 µs after each event"), "{text}");
    let mut json = report.to_json();
    let setup = json.pointer_mut("/generators/0/plan").unwrap().as_object_mut().unwrap();
    assert_eq!(setup.remove("spin_ns"), Some(json!(100_000)));
    validate(&validators()[1], &json);
    let older: Generator = serde_json::from_value(json["generators"][0].clone()).unwrap();
    assert_eq!(older.plan.spin, Duration::ZERO);
}

#[test]
fn the_figures_match_the_run() {
    let mut script = Script::new(Mode::Echo);
    script.errors = vec![(ErrorKind::Reset, 3), (ErrorKind::Late, 4)];
    let report = script.report();
    let json = report.to_json();
    assert_eq!(json["counts"]["due"], 15_000);
    assert_eq!(json["counts"]["connected"], 50);
    assert_eq!(json["counts"]["errors"]["total"], 7);
    assert_eq!(json["counts"]["errors"]["reset"], 3);
    assert_eq!(json["counts"]["errors"]["refused"], 0);
    assert_eq!(json["rates"]["answered_per_s"], 1_000);
    assert_eq!(json["rates"]["bytes_sent_per_s"], 64_000, "probes and digests are not in it");
    assert_eq!(json["series"]["connect"]["n"], 50);
    assert_eq!(json["series"]["echo"]["n"], 15_000);
    assert!(json["series"]["cycle"].is_null());
    let echo = report.record.series(Series::Echo);
    assert_eq!(json["series"]["echo"]["p99_9_ns"], echo.value_at_quantile(0.999));
    assert_eq!(json["series"]["echo"]["max_ns"], echo.max());
    assert_eq!(json["states"]["quiet"], 47);
    assert_eq!(json["seconds"][7]["start_ns"], 7_000_000_000_u64);
    assert_eq!(json["seconds"][7]["states"]["busy"], 50);
    assert_eq!(json["generators"][0]["run"]["drain_ns"], 3_000_000);
    assert_eq!(json["generators"][0]["program"]["began"], "2026-09-21T14:13:20.000Z");
    let text = json.to_string() + &report.to_text();
    let secret = Key::demo();
    let secret = str::from_utf8(secret.as_bytes()).unwrap();
    assert!(!text.contains(secret), "the key must not be shown");
}

#[test]
fn the_verdict_follows_from_lateness() {
    let mut script = Script::new(Mode::Echo);
    script.stall = None;
    let calm = script.report();
    let p99 = calm.percentiles(Series::Echo).p99_ns;
    assert_eq!(calm.verdict, Verdict::Reliable);
    assert!(calm.verdict_line().starts_with("reliable: "), "{}", calm.verdict_line());

    script.lateness = p99 / 10 + 1_000;
    let late = script.report();
    let Verdict::Unreliable(reason) = &late.verdict else { panic!("{:?}", late.verdict) };
    assert!(reason.contains("a tenth") && reason.contains("echo p99 of"), "{reason}");
    assert!(late.to_text().contains("UNRELIABLE"));
    assert_eq!(late.to_json()["reliability"]["reliable"], false);

    script.lateness = 0;
    script.waited = Some(Duration::from_millis(750));
    assert_eq!(script.report().verdict, Verdict::Reliable, "a twentieth of 15 s");
    script.waited = Some(Duration::from_millis(751));
    let Verdict::Unreliable(reason) = script.report().verdict else { panic!() };
    assert!(reason.contains("waited for a CPU for 751 ms of 15.0 s"), "{reason}");

    script.seconds = 0;
    let nothing = script.report();
    let Verdict::Nothing(reason) = &nothing.verdict else { panic!("{:?}", nothing.verdict) };
    assert!(reason.contains("no load was measured"), "{reason}");
    assert_eq!(nothing.explanation(), None);
}

#[test]
fn the_explanation_names_the_latency_that_grew() {
    let stalled = Script::new(Mode::Echo).report().explanation().unwrap();
    for words in ["exceeds service time from p99.9 on", "coordinated omission", "one was in flight"]
    {
        assert!(stalled.contains(words), "no {words:?} in {stalled}");
    }

    let mut script = Script::new(Mode::Echo);
    script.stall = None;
    let calm = script.report().explanation().unwrap();
    assert!(calm.contains("agree at every percentile"), "{calm}");

    script.plan.pace = Pace::Closed;
    let closed = script.report();
    assert!(closed.explanation().unwrap().starts_with("Closed model: "));
    assert!(closed.to_text().contains("closed model: messages of 64 bytes"));
    assert_eq!(closed.to_json()["model"], "closed");

    let cycles = Script::new(Mode::Connect).report().explanation().unwrap();
    assert!(cycles.contains("fewer than 50 connections"), "{cycles}");
    assert_eq!(Script::new(Mode::Idle).report().explanation(), None);
}

#[test]
fn the_text_is_narrow_and_complete() {
    for script in scripts() {
        let report = script.report();
        let text = report.to_text();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
            assert_eq!(line.trim_end(), line);
        }
        for (series, _) in report.recorded_series() {
            assert!(text.lines().any(|line| line.starts_with(series.as_str())), "{text}");
        }
        assert!(text.contains("saltecho load 127.0.0.1:9999"), "{text}");
        assert!(text.contains("commit 0123456789ab"), "{text}");
        assert!(text.contains("2 × A Processor, Linux 6.12.0, TCP cubic"), "{text}");
    }
}

#[test]
fn untrusted_text_does_not_control_the_terminal() {
    let mut report = Script::new(Mode::Echo).report();
    let hostile = || "a\x1b]0;b\x07\x1b[2J\u{9b}31m\u{202e}\r\nc\x7f".to_owned();
    let mut two = report.generators[0].clone();
    let generator = &mut report.generators[0];
    generator.name = hostile();
    generator.program.version = hostile();
    generator.program.commit = Some(hostile());
    generator.program.command = vec![hostile()];
    let machine = &mut generator.machine;
    for text in
        [&mut machine.host, &mut machine.kernel, &mut machine.cpu, &mut machine.congestion_control]
    {
        *text = Some(hostile());
    }
    (generator.plan.key, generator.plan.mac) = (hostile(), hostile());
    report.warnings.push(hostile());
    report.verdict = Verdict::Unreliable(hostile());
    two.name = hostile();
    let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    let both = |report: &Report| {
        let comparison = Comparison { old: report, new: report };
        [report.to_text(), report.to_json_text(), comparison.to_text(), comparison.to_html()]
    };
    for text in both(&report) {
        assert!(!text.contains(acts), "{text:?}");
    }
    let json: Value = serde_json::from_str(&report.to_json_text()).unwrap();
    assert_eq!(json["warnings"][0], hostile(), "JSON says the same in other words");
    report.generators.push(two);
    report.overlap = Some(Duration::from_secs(1));
    for text in both(&report) {
        assert!(!text.contains(acts), "{text:?}");
    }
    let spelled = r"a\x1b]0;b\x07\x1b[2J\u{9b}31m\u{202e}\r\nc\x7f";
    assert!(report.to_text().contains(spelled), "{}", report.to_text());
}

#[test]
fn a_failing_sink_is_dropped_and_reported() {
    let script = Script::new(Mode::Echo);
    let good = Shared::default();
    let mut collector = Collector::new(script.generator());
    collector.add_sink("full", EventLog::new(Full(4)));
    collector.add_sink("good", EventLog::new(good.clone()));
    let intervals = script.intervals();
    for (number, interval) in intervals.iter().enumerate() {
        assert_eq!(collector.failures().len(), usize::from(number > 4));
        collector.take(interval);
    }
    let (report, failures) = collector.finish(script.outcome(&intervals), None);
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].name, "full");
    assert_eq!(failures[0].error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(report.seconds.len(), intervals.len());
    let bytes = good.0.lock().unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), intervals.len());
}

#[test]
fn an_hour_long_run_uses_little_memory() {
    let second = std::mem::size_of::<saltecho::load::report::Second>();
    assert!(second * 3600 < 4 << 20, "{second} bytes a second");
}

#[test]
fn messages_that_could_not_be_sent_cause_a_warning() {
    let script = Script::new(Mode::Echo);
    let report = |sent_of_1000: u64| {
        let mut collector = Collector::new(script.generator());
        let mut intervals = script.intervals();
        for interval in &mut intervals {
            let counts = &mut interval.record.counts;
            counts.sent = counts.due * sent_of_1000 / 1000;
        }
        intervals.iter().for_each(|interval| collector.take(interval));
        collector.finish(script.outcome(&intervals), None).0.to_text()
    };
    assert!(report(899).contains("1,515 of 15,000 due messages were never sent"));
    assert!(!report(900).contains("never sent"));
}
