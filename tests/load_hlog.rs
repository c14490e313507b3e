//! Histogram logs: what was written is read, by us and by others, and several make one report.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and these have hands.

mod common;

use std::fs;
use std::time::Duration;

use common::needs::PYTHON_WITH_HDRHISTOGRAM;
use common::program::{Files, run};
use common::python::python_by;
use common::run::Script;
use saltecho::load::report::{LoadLog, MergeError, Verdict, merge};
use saltecho::load::{ErrorKind, Mode, Pace, Series};

fn two() -> (Script, Script) {
    let mut one = Script::new(Mode::Echo);
    one.errors = vec![(ErrorKind::Reset, 2)];
    let mut two = one.clone();
    two.salt = 1;
    two.began += Duration::from_millis(120);
    (one, two)
}

#[test]
fn what_was_written_is_read() {
    let mut script = Script::new(Mode::Connect);
    script.errors = ErrorKind::ALL.into_iter().zip(1..).collect();
    let (bytes, report) = script.log();
    let read = merge(vec![LoadLog::parse("a", &bytes).unwrap()]).unwrap();
    assert_eq!(read.record, report.record);
    assert_eq!(read.seconds, report.seconds);
    assert_eq!(read.measured, report.measured);
    assert_eq!(read.standing, report.standing);
    assert_eq!(read.generators[0].name, "a");
    assert_eq!(read.generators[0].setup, report.generators[0].setup);
    assert_eq!(read.generators[0].ran, report.generators[0].ran);
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
}

#[test]
fn a_generator_that_had_no_processor_is_unreliable_in_its_log_too() {
    let mut script = Script::new(Mode::Echo);
    script.waited = Some(Duration::from_secs(5));
    let (bytes, report) = script.log();
    let read = merge(vec![LoadLog::parse("a", &bytes).unwrap()]).unwrap();
    assert_eq!(read.generators[0].ran, report.generators[0].ran);
    assert_eq!(read.generators[0].ran.unwrap().waited, script.waited);
    let (written, read) = (report.verdict.reason().unwrap(), read.verdict.reason().unwrap());
    assert!(read.ends_with(written) && written.contains("had to wait"), "{written}; {read}");
}

#[test]
fn pythons_reader_finds_the_same() {
    let Some(mut command) = python_by(&PYTHON_WITH_HDRHISTOGRAM, "read_hlog.py") else { return };
    // Its percentiles round a rank to the nearest, ours up: a thousand messages a second make them
    // the same.
    let (bytes, report) = Script::new(Mode::Echo).log();
    let files = Files::new();
    let path = files.write("run.hlog", &bytes, 0o600);
    let series = [Series::Echo, Series::Service, Series::Lateness];
    let output = command.arg(path).args(series.map(Series::as_str)).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected: Vec<String> = series
        .into_iter()
        .map(|series| {
            let all = report.record.series(series);
            let (p50, high) = (all.value_at_quantile(0.5), all.value_at_quantile(0.999));
            format!("{} {} {p50} {high} {}", series.as_str(), all.len(), all.max())
        })
        .collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected, "{errors}");
}

#[test]
fn logs_are_added_up() {
    let (one, two) = two();
    let logs = [&one, &two].map(Script::log);
    let parsed: Vec<LoadLog> = ["a", "b"]
        .into_iter()
        .zip(&logs)
        .map(|(name, (bytes, _))| LoadLog::parse(name, bytes).unwrap())
        .collect();
    let merged = merge(parsed).unwrap();
    let mut expected = logs[0].1.record.clone();
    expected.merge(&logs[1].1.record);
    assert_eq!(merged.record, expected, "one process that had recorded both would say the same");
    assert_eq!(merged.record.counts.errors.of(ErrorKind::Reset), 4);
    assert_eq!(merged.measured, Duration::from_millis(15_120));
    assert_eq!(merged.overlap, Some(Duration::from_millis(14_880)));
    assert!(merged.warnings.is_empty(), "{:?}", merged.warnings);
    assert_eq!(merged.seconds[7].counts.answered, 2_000);
    assert_eq!(merged.seconds[7].percentiles(Series::Echo).n, 2_000);
    assert_eq!(merged.seconds[7].standing.busy, 100);
    let all: u64 = merged.seconds.iter().map(|second| second.percentiles(Series::Echo).n).sum();
    assert_eq!(all, 30_000, "no second is lost or counted twice");
    let answered: u64 = merged.seconds.iter().map(|second| second.counts.answered).sum();
    assert_eq!(answered, 30_000);
}

#[test]
fn several_generators_are_named_and_told_as_several() {
    let (mut one, mut two) = two();
    (one.stall, two.stall) = (None, None);
    (one.seconds, two.seconds) = (4, 4);
    two.plan.connections = 30;
    two.plan.active = 20;
    two.plan.size = 1024;
    two.plan.in_flight = 4;
    two.plan.pace = Pace::Open(250.try_into().unwrap());
    let logs = |one: &Script, two: &Script| {
        let logs = [("a.hlog", one), ("b.hlog", two)];
        logs.map(|(name, script)| LoadLog::parse(name, &script.log().0).unwrap()).into()
    };
    let text = merge(logs(&one, &two)).unwrap().to_text();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "a.hlog on loader: saltecho load 127.0.0.1:9999 -r 1000",
        "b.hlog on loader: saltecho load",
        "open model: 250 messages of 1,024 bytes a second over 20 of 30 connections, at most 4 in",
        "2 generators, added up; open model: 1,250 messages of 64 to 1,024 bytes a second over 70 \
         of 80 connections, at most 1 to 4 in flight on each; to 127.0.0.1:9999. They measured \
         together for 3.88 s of 4.12 s.",
        "Verdict: reliable: the generators were late by",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }

    (one.stall, two.stall) = (Some((2, 90)), Some((2, 90)));
    let stalled = merge(logs(&one, &two)).unwrap().explanation().unwrap();
    assert!(stalled.contains("while 1 to 4 were under way"), "{stalled}");

    (one.stall, two.stall) = (None, None);
    (one.lateness, two.lateness) = (1_000_000, 1_000_000);
    let late = merge(logs(&one, &two)).unwrap();
    let reason = late.verdict.reason().unwrap();
    assert!(reason.starts_with("a.hlog: the generator itself was late"), "{reason}");
    assert!(reason.ends_with("Unreliable as well: b.hlog"), "{reason}");
}

#[test]
fn reliable_generators_do_not_make_a_reliable_sum_of_themselves() {
    // One is late, but the server's stall is longer; the other has ten times as many messages and
    // no stall.
    let (mut slow, mut fast) = two();
    slow.plan.pace = Pace::Open(100.try_into().unwrap());
    (slow.seconds, fast.seconds) = (4, 4);
    slow.stall = Some((2, 300));
    slow.lateness = 1_000_000;
    fast.stall = None;
    let parse = |script: &Script| LoadLog::parse("x", &script.log().0).unwrap();
    for alone in [&slow, &fast] {
        assert_eq!(merge(vec![parse(alone)]).unwrap().verdict, Verdict::Reliable);
    }
    let verdict = merge(vec![parse(&slow), parse(&fast)]).unwrap().verdict;
    let Verdict::Unreliable(reason) = verdict else { panic!("{verdict:?}") };
    assert!(reason.starts_with("the generators themselves were late by 1."), "{reason}");
}

#[test]
fn what_was_no_common_load_is_told() {
    let (one, mut two) = two();
    two.began += Duration::from_secs(60);
    two.lateness = 1_000_000;
    let parse = |name, script: &Script| LoadLog::parse(name, &script.log().0).unwrap();
    let apart = merge(vec![parse("a", &one), parse("b", &two)]).unwrap();
    assert_eq!(apart.overlap, Some(Duration::ZERO));
    assert!(
        apart.warnings[0].contains("together for only 0.0 s of 75.1 s"),
        "{:?}",
        apart.warnings
    );
    let Verdict::Unreliable(reason) = &apart.verdict else { panic!("{:?}", apart.verdict) };
    assert!(reason.starts_with("b: the generator itself was late"), "{reason}");

    let mut closed = one.clone();
    closed.plan.pace = Pace::Closed;
    let error = merge(vec![parse("a", &one), parse("b", &closed)]).unwrap_err();
    assert_eq!(error, MergeError::Different("a".to_owned(), "b".to_owned()));
    assert_eq!(merge(Vec::new()).unwrap_err(), MergeError::None);
}

#[test]
fn a_line_that_was_cut_is_told_and_no_whole_line_is_lost() {
    let mut script = Script::new(Mode::Echo);
    script.seconds = 2;
    let (bytes, _) = script.log();
    let ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    // Behind the header: before it there is nothing to report on.
    for pair in ends[3..].windows(2) {
        let middle = pair[0] + (pair[1] - pair[0]) / 2;
        let log = LoadLog::parse("cut", &bytes[..middle]).unwrap();
        let report = merge(vec![log]).unwrap();
        assert!(report.warnings[0].contains("cut off"), "{:?}", report.warnings);
        assert!(report.warnings[1].contains("killed"), "{:?}", report.warnings);
        assert!(report.to_text().contains("its log was cut off"));
        let whole = LoadLog::parse("whole", &bytes[..=pair[0]]).unwrap();
        assert_eq!(merge(vec![whole]).unwrap().record, report.record);
    }
}

#[test]
fn what_is_no_log_is_refused_with_its_line() {
    let mut script = Script::new(Mode::Echo);
    script.seconds = 1;
    let (good, _) = script.log();
    let good = String::from_utf8(good).unwrap();
    let lines = good.lines().count();
    for (bytes, line, words) in [
        (String::new(), 1, "found no `#saltecho run ` line"),
        ("hello\n".to_owned(), 1, "expected a comment, or a line like Tag=echo"),
        ("#[BaseTime: 1.000 (seconds since epoch)]\n".to_owned(), 1, "found no `#saltecho run "),
        (good.clone() + "Tag=echo,1.0,1.0,1.0,!!!\n", lines + 1, "no base64"),
        (good.clone() + "Tag=echo,1.0,1.0,1.0,AAAA\n", lines + 1, "V2 format"),
        (good.clone() + "Tag=other,1.0,1.0,1.0,AAAA\n", lines + 1, "the tag is \"other\""),
        (good.clone() + "1.0,1.0,1.0,AAAA\n", lines + 1, "the tag is \"\""),
        (good.clone() + "#saltecho end {}\n", lines + 1, "the note is not as expected"),
    ] {
        let error = LoadLog::parse("x", bytes.as_bytes()).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.to_string().starts_with(&format!("x, line {line}: ")), "{error}");
        assert!(error.problem.contains(words), "no {words:?} in {error}");
    }
}

#[test]
fn the_program_reports_and_compares() {
    let (one, two) = two();
    let files = Files::new();
    fs::create_dir(files.path().join("runs")).unwrap();
    let a = files.write("runs/a.hlog", &one.log().0, 0o600);
    let b = files.write("runs/b.hlog", &two.log().0, 0o600);
    let directory = files.path().join("runs").into_os_string().into_string().unwrap();

    let both = run(&["report", &a, &b], b"");
    both.expect(0, &[]);
    let same = run(&["report", &directory], b"");
    assert_eq!(both.stdout, same.stdout, "a directory is its logs");
    let page = files.path().join("page.html").into_os_string().into_string().unwrap();
    run(&["report", &a, &b, "--html", &page], b"").expect(0, &[]);
    assert!(fs::read_to_string(&page).unwrap().contains("<h2>Generators</h2>"));
    let json = run(&["report", "--json", &directory], b"");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["phases"]["echo"]["n"], 30_000);

    let list = format!("{a},{b}");
    let compared = run(&["report", "--compare", &a, &list], b"");
    compared.expect(0, &[]);
    run(&["report", "--compare", &a, &list, "--html", &page], b"").expect(0, &[]);
    assert!(fs::read_to_string(&page).unwrap().contains("<h1>saltecho load comparison</h1>"));
    run(&["report", &a, "--html", "/nonexistent/page"], b"").expect(1, &["cannot write /none"]);
    let text = String::from_utf8(compared.stdout).unwrap();
    for words in
        ["  n              15,000        30,000      2.000", "shows no significance", "new/old"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains(&b)), "{text}");

    let other = files.write("other", b"hello\n", 0o600);
    run(&["report", &other], b"").expect(2, &["other, line 1: expected a comment"]);
    run(&["report", "--compare", &a], b"").expect(2, &["two loads"]);
    run(&["report", "/nonexistent"], b"").expect(2, &["cannot read /nonexistent"]);
    let empty = files.path().join("empty");
    fs::create_dir(&empty).unwrap();
    run(&["report", empty.to_str().unwrap()], b"").expect(2, &["there is no .hlog file in"]);
}

#[test]
fn a_report_exits_as_the_load_did() {
    let (mut good, mut late) = two();
    (good.seconds, late.seconds) = (4, 4);
    late.lateness = 1_000_000;
    let mut wrong = good.clone();
    wrong.errors = vec![(ErrorKind::Mismatch, 7)];
    let files = Files::new();
    let [good, late, wrong] = [("good", &good), ("late", &late), ("wrong", &wrong)]
        .map(|(name, script)| files.write(name, &script.log().0, 0o600));

    let unreliable = run(&["report", &late], b"");
    unreliable.expect(6, &["the result is unreliable: ", "the generator itself was late by"]);
    assert!(!unreliable.stdout.is_empty(), "it reports all the same");
    run(&["report", "--json", &good, &late], b"").expect(6, &["late: the generator itself"]);
    run(&["report", &wrong], b"").expect(1, &["7 connections got bytes that were not the answer"]);

    run(&["report", "--compare", &good, &good], b"").expect(0, &[]);
    run(&["report", "--compare", &good, &late], b"").expect(6, &["the new load: the result"]);
    run(&["report", "--compare", &late, &good], b"").expect(6, &["the old load: the result"]);
}
