//! The report on a sweep, over windows that were never measured.

use std::time::Duration;

use crate::common::run::Script;
use saltecho::load::report::{Sweep, SweepComparison, SweepReport};
use saltecho::load::sweep::{Backlog, Extent, Fate, Finding, Purpose, Request, Standing};
use saltecho::load::{Interval, Mode, Pace, Phase};
use serde_json::Value;

const SCHEMA: &str = include_str!("../../schemas/load-sweep.schema.json");

/// The load of a window: up to 3,000 messages a second are answered at once, up to 7,000 there is a long
/// stall. At 1,000 the generator is late.
fn script(rate: u64, salt: u64) -> Script {
    let mut script = Script::new(Mode::Echo);
    script.plan.pace = Pace::Open(rate.try_into().unwrap());
    (script.seconds, script.salt) = (1, salt);
    script.stall = (rate > 3_000).then_some((0, 900));
    script.lateness = if rate == 1_000 { 10_000_000 } else { 2_000 };
    script
}

/// From 7,000 on half of the messages wait.
fn backlog(request: Request, script: &Script) -> (Backlog, bool) {
    let mut backlog = Backlog::new(&script.plan);
    let mut is_cut = false;
    for _ in 0..3 {
        let mut interval = Interval::default();
        (interval.phase, interval.length) = (Phase::Measure, Duration::from_secs(1));
        interval.record.counts.due = request.rate;
        interval.record.counts.answered = request.rate / if request.rate >= 7_000 { 2 } else { 1 };
        is_cut |= backlog.take(&interval);
    }
    (backlog, is_cut)
}

fn sweep(salt: u64) -> SweepReport {
    let [low, high] = [1_000_u64, 16_000].map(|rate| rate.try_into().unwrap());
    let mut sweep = Sweep::new(Extent::new(low, high, None, 3), Some("p99<100ms".parse().unwrap()));
    while let Some(request) = sweep.next() {
        let number =
            u64::from(request.number) + if request.purpose == Purpose::Confirm { 10 } else { 0 };
        let script = script(request.rate, salt + number);
        let (backlog, is_cut) = backlog(request, &script);
        sweep.take(request, &script.report(), &backlog, is_cut);
    }
    sweep.finish(script(1_000, 0).generator(), Vec::new())
}

#[test]
fn a_sweep_names_what_it_found_and_what_it_left_out() {
    let report = sweep(0);
    let text = report.to_text();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "1,000 to 16,000 messages/s",
        "each rate 3 times for",
        "1,000 - - - excluded",
        "Excluded, as the generator was late: 1,000/s. At 1,000/s: generator lateness of",
        "Above capacity: 8,000/s.",
        "3 of 3 windows were cut short.",
        "Not measured: 16,000/s.",
        "Knee: ",
        "Highest rate that holds p99<100ms: 3,000/s; 3,125/s does not.",
        "3 of 3 longer windows held: with 95 % confidence at least 36 % of such windows do.",
    ] {
        assert!(words.contains(part), "{part}: {text}");
    }
    assert!(matches!(report.finding, Some(Finding::Found { rate_per_s: 2_850..=3_000, .. })));
    for rate in &report.rates {
        let expected = match rate.rate_per_s {
            ..2_000 => Standing::Late,
            2_000..3_001 => Standing::Holds,
            3_001..7_000 => Standing::Fails,
            _ => Standing::Overloaded,
        };
        assert_eq!(rate.standing, expected, "{}", rate.rate_per_s);
    }
}

#[test]
fn percentiles_are_those_of_all_windows_together() {
    let report = sweep(0);
    let rate = report.rates.iter().find(|rate| rate.rate_per_s == 2_000).unwrap();
    let n: u64 = rate.windows.iter().map(|window| window.times.n).sum();
    assert_eq!(rate.times.n, n);
    let (low, high) = rate.spread_p99_ns().unwrap();
    assert!((low..=high).contains(&rate.times.p99_ns) && low < high, "{low} {high}");
    assert_eq!(rate.within(), (rate.times.n, rate.times.n));
    assert_eq!(rate.answered_per_s, 2_000);
}

/// Its backlog may be its own fault: it hardly ran, or it was late beside the service time.
#[test]
fn a_backlog_of_a_late_generator_says_nothing_about_the_server() {
    let fate = |adjust: fn(&mut Script)| {
        let mut sweep = Sweep::new(
            Extent::new(8_000.try_into().unwrap(), 9_000.try_into().unwrap(), None, 1),
            None,
        );
        let request = sweep.next().unwrap();
        let mut script = script(request.rate, 0);
        adjust(&mut script);
        let (backlog, is_cut) = backlog(request, &script);
        let window = sweep.take(request, &script.report(), &backlog, is_cut);
        (window.fate, window.reason.clone().unwrap_or_default())
    };
    let (overloaded, reason) = fate(|_| ());
    assert_eq!(overloaded, Fate::Overloaded);
    assert!(reason.contains("8,000 due messages"), "{reason}");
    let (late, reason) = fate(|script| script.waited = Some(Duration::from_millis(500)));
    assert_eq!(late, Fate::Late);
    assert!(reason.contains("waited for a CPU for 500 ms"), "{reason}");
    let (late, reason) = fate(|script| script.lateness = 100_000);
    assert_eq!(late, Fate::Late);
    assert!(reason.contains("of the service p99"), "{reason}");
}

#[test]
fn the_json_conforms_to_its_schema_and_is_read_again() {
    let report = sweep(0);
    let text = report.to_json_text();
    let json: Value = serde_json::from_str(&text).unwrap();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(SweepReport::parse(text.as_bytes()).unwrap().to_json_text(), text);
    for (json, message) in [
        ("{", "not the report of a sweep"),
        (r#"{"schema": "saltecho-load-sweep/9"}"#, "saltecho-load-sweep/1"),
        (r#"{"schema": "saltecho-load-sweep/1"}"#, "missing field"),
    ] {
        let error = SweepReport::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_page_shows_the_curve_and_another_two_in_one_figure() {
    let (old, new) = (sweep(0), sweep(50));
    let page = old.to_html();
    for part in ["Latency by rate", "p99&lt;100ms", "Above capacity: 8,000/s", "<th>2,000</th>"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("&lt;out&gt; &amp;") && !page.contains("<out>"), "it is escaped");
    let comparison = SweepComparison { old: &old, new: &new };
    let page = comparison.to_html();
    let charts = page.matches("<svg").count();
    assert_eq!(charts, 2, "both are in the same");
    for part in ["p99 old", "p99 new", "answered old", "answered new", "line dashed"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let text = comparison.to_text();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("  highest "), "{text}");
    assert!(!text.contains("different loads"), "{text}");
    let mut other = sweep(0);
    other.generator.plan.in_flight = 4;
    let comparison = SweepComparison { old: &old, new: &other };
    assert!(comparison.to_text().contains("different loads"));
}
