//! Histogram logs: read back by this program and by others, and several merged into one report.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::common::needs::PYTHON_WITH_HDRHISTOGRAM;
use crate::common::program::{Files, run};
use crate::common::python::python_by;
use crate::common::run::Script;
use saltecho::load::report::{LoadLog, MergeError, Verdict, merge};
use saltecho::load::{ErrorKind, Mode, Pace, Phase, Series};

fn two() -> (Script, Script) {
    let mut one = Script::new(Mode::Echo);
    one.errors = vec![(ErrorKind::Reset, 2)];
    let mut two = one.clone();
    two.salt = 1;
    two.began += Duration::from_millis(120);
    (one, two)
}

#[test]
fn a_written_log_is_read_back() {
    let mut script = Script::new(Mode::Connect);
    script.errors = ErrorKind::ALL.into_iter().zip(1..).collect();
    let (bytes, report) = script.log();
    let read = merge(vec![LoadLog::parse("a", &bytes).unwrap()]).unwrap();
    assert_eq!(read.record, report.record);
    assert_eq!(read.seconds, report.seconds);
    assert_eq!(read.measured, report.measured);
    assert_eq!(read.states, report.states);
    assert_eq!(read.generators[0].name, "a");
    assert_eq!(read.generators[0].plan, report.generators[0].plan);
    assert_eq!(read.generators[0].run, report.generators[0].run);
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
}

/// `tests/data/load-log-1.hlog` was written by the version whose seconds had a `part`, the `standing` of
/// the connections and `phases`.
#[test]
fn a_log_of_the_first_schema_is_still_read() {
    let bytes = include_bytes!("../data/load-log-1.hlog");
    let report = merge(vec![LoadLog::parse("old", bytes).unwrap()]).unwrap();
    assert_eq!(
        report.seconds.iter().map(|second| second.phase).collect::<Vec<_>>(),
        [Phase::Ramp, Phase::Measure, Phase::Drain]
    );
    let measured = &report.seconds[1];
    assert_eq!((measured.counts.answered, measured.states.quiet), (50, 5));
    let echo = measured.percentiles(Series::Echo);
    assert_eq!((echo.n, echo.max_ns), (50, report.percentiles(Series::Echo).max_ns));
    assert_eq!(report.states.quiet, 5);
    assert_eq!(report.generators[0].run.unwrap().waited, Some(Duration::from_nanos(70_842_000)));
    assert_eq!(
        report.warnings,
        ["old: the load generator is a debug build, which is many times slower"]
    );
    // Written again it has the names of today.
    let json = report.to_json();
    assert_eq!(json["seconds"][1]["phase"], "measure");
    assert_eq!(json["seconds"][1]["series"]["echo"]["n"], 50);
    assert_eq!(json["seconds"][1]["states"]["quiet"], 5);
}

#[test]
fn a_generator_short_of_cpu_is_unreliable_in_its_log_too() {
    let mut script = Script::new(Mode::Echo);
    script.waited = Some(Duration::from_secs(5));
    let (bytes, report) = script.log();
    let read = merge(vec![LoadLog::parse("a", &bytes).unwrap()]).unwrap();
    assert_eq!(read.generators[0].run, report.generators[0].run);
    assert_eq!(read.generators[0].run.unwrap().waited, script.waited);
    let (written, read) = (report.verdict.reason().unwrap(), read.verdict.reason().unwrap());
    assert!(read.ends_with(written) && written.contains("waited for a CPU"), "{written}; {read}");
}

#[test]
fn the_python_reader_finds_the_same() {
    let Some(mut command) = python_by(&PYTHON_WITH_HDRHISTOGRAM, "read_hlog.py") else { return };
    // Its percentiles round a rank to the nearest, ours up: with a thousand messages per second
    // both agree.
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
fn logs_of_several_generators_are_summed() {
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
    assert_eq!(merged.seconds[7].states.busy, 100);
    let all: u64 = merged.seconds.iter().map(|second| second.percentiles(Series::Echo).n).sum();
    assert_eq!(all, 30_000, "no second is lost or counted twice");
    let answered: u64 = merged.seconds.iter().map(|second| second.counts.answered).sum();
    assert_eq!(answered, 30_000);
}

#[test]
fn several_generators_are_named_and_counted() {
    let (mut one, mut two) = two();
    (one.stall, two.stall) = (None, None);
    (one.seconds, two.seconds) = (4, 4);
    two.plan.connections = 30;
    two.plan.active = 20;
    two.plan.size = 1024.into();
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
        "open model: 250 messages/s of 1,024 bytes over 20 of 30 connections, at most 4 in",
        "2 generators merged; open model: 1,250 messages/s of 64 to 1,024 bytes over 70 of \
         80 connections, at most 1 to 4 in flight on each; to 127.0.0.1:9999. They measured \
         together for 3.88 s of 4.12 s.",
        "Verdict: reliable: generator lateness of",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }

    (one.stall, two.stall) = (Some((2, 90)), Some((2, 90)));
    let stalled = merge(logs(&one, &two)).unwrap().explanation().unwrap();
    assert!(stalled.contains("while 1 to 4 were in flight"), "{stalled}");

    (one.stall, two.stall) = (None, None);
    (one.lateness, two.lateness) = (1_000_000, 1_000_000);
    let late = merge(logs(&one, &two)).unwrap();
    let reason = late.verdict.reason().unwrap();
    assert!(reason.starts_with("a.hlog: generator lateness of"), "{reason}");
    assert!(reason.ends_with("Also unreliable: b.hlog"), "{reason}");
}

#[test]
fn reliable_generators_do_not_make_a_reliable_sum_of_themselves() {
    // One generator is late, but the server's stall is longer; the other has ten times as many
    // messages and no stall.
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
    assert!(reason.starts_with("combined generator lateness of 1."), "{reason}");
}

#[test]
fn logs_that_do_not_belong_together_are_reported() {
    let (one, mut two) = two();
    two.began += Duration::from_secs(60);
    two.lateness = 1_000_000;
    let parse = |name, script: &Script| LoadLog::parse(name, &script.log().0).unwrap();
    let apart = merge(vec![parse("a", &one), parse("b", &two)]).unwrap();
    assert_eq!(apart.overlap, Some(Duration::ZERO));
    assert!(apart.warnings[0].contains("never measured at the same time"), "{:?}", apart.warnings);
    let Verdict::Unreliable(reason) = &apart.verdict else { panic!("{:?}", apart.verdict) };
    assert!(reason.starts_with("b: generator lateness of"), "{reason}");

    let mut closed = one.clone();
    closed.plan.pace = Pace::Closed;
    let error = merge(vec![parse("a", &one), parse("b", &closed)]).unwrap_err();
    assert_eq!(error, MergeError::Different("a".to_owned(), "b".to_owned()));
    assert_eq!(merge(Vec::new()).unwrap_err(), MergeError::None);
}

#[test]
fn a_truncated_line_is_reported_and_no_whole_line_is_lost() {
    let mut script = Script::new(Mode::Echo);
    script.seconds = 2;
    let (bytes, _) = script.log();
    let ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    // After the header: without it there is nothing to report.
    for pair in ends[3..].windows(2) {
        let middle = pair[0] + (pair[1] - pair[0]) / 2;
        let log = LoadLog::parse("cut", &bytes[..middle]).unwrap();
        let report = merge(vec![log]).unwrap();
        assert!(report.warnings[0].contains("incomplete"), "{:?}", report.warnings);
        assert!(report.warnings[1].contains("killed"), "{:?}", report.warnings);
        assert!(report.to_text().contains("its log was cut off"));
        let whole = LoadLog::parse("whole", &bytes[..=pair[0]]).unwrap();
        assert_eq!(merge(vec![whole]).unwrap().record, report.record);
    }
}

#[test]
fn a_malformed_log_is_refused_with_its_line_number() {
    let mut script = Script::new(Mode::Echo);
    script.seconds = 1;
    let (whole, _) = script.log();
    let whole = String::from_utf8(whole).unwrap();
    let end = whole.trim_end().rfind('\n').unwrap() + 1;
    let (good, end) = whole.split_at(end);
    let (good, lines) = (good.to_owned(), good.lines().count());
    let later = whole.replace("load-log/2", "load-log/3");
    let year = good.replace("#[BaseTime: 1790000000", "#[BaseTime: 253402300800");
    let last = good.lines().last().unwrap();
    for (bytes, line, words) in [
        (String::new(), 1, "found no `#saltecho run ` line"),
        ("hello\n".to_owned(), 1, "expected a comment, or a line like Tag=echo"),
        ("#[BaseTime: 1.000 (seconds since epoch)]\n".to_owned(), 1, "found no `#saltecho run "),
        (good.clone() + "Tag=echo,1.0,1.0,1.0,!!!\n", lines + 1, "not base64"),
        (good.clone() + &claiming_gigabytes() + "\n", lines + 1, "V2 format"),
        (later, 2, "the log has schema \"saltecho-load-log/3\""),
        (year, 4, "after the year 9999"),
        (good.clone() + last + "\n", lines + 1, "seconds out of order"),
        (good.clone() + end + "Tag=echo,1.0,1.0,1.0,AAAA\n", lines + 2, "after the end of the run"),
        (good.clone() + end + last + "\n", lines + 2, "after the end of the run"),
        (good.clone() + end + end, lines + 2, "after the end of the run"),
        (good.clone() + "Tag=echo,1.0,1.0,1.0,AAAA\n", lines + 1, "V2 format"),
        (good.clone() + "Tag=other,1.0,1.0,1.0,AAAA\n", lines + 1, "the tag is \"other\""),
        (good.clone() + "1.0,1.0,1.0,AAAA\n", lines + 1, "the tag is \"\""),
        (good.clone() + "#saltecho end {}\n", lines + 1, "invalid comment"),
    ] {
        let error = LoadLog::parse("x", bytes.as_bytes()).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.to_string().starts_with(&format!("x, line {line}: ")), "{error}");
        assert!(error.problem.contains(words), "no {words:?} in {error}");
    }
}

/// A line whose histogram of a few bytes claims to have 4 GiB.
fn claiming_gigabytes() -> String {
    let header = [
        &0x1c84_9313_u32.to_be_bytes()[..],
        &u32::MAX.to_be_bytes(),
        &0_u32.to_be_bytes(),
        &3_u32.to_be_bytes(),
        &1_u64.to_be_bytes(),
        &3_600_000_000_000_u64.to_be_bytes(),
        &1_f64.to_be_bytes(),
        &[2],
    ]
    .concat();
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(1));
    deflated.write_all(&header).unwrap();
    let deflated = deflated.finish().unwrap();
    let length = u32::try_from(deflated.len()).unwrap().to_be_bytes();
    let packed = [&0x1c84_9314_u32.to_be_bytes()[..], &length, &deflated].concat();
    format!("Tag=echo,1.0,1.0,1.0,{}", data_encoding::BASE64.encode(&packed))
}

#[test]
fn concatenated_logs_are_refused() {
    let (one, two) = two();
    let [one, two] = [one, two].map(|mut script| {
        script.seconds = 2;
        String::from_utf8(script.log().0).unwrap()
    });
    let line = |text: &str, begins: &str| {
        text.match_indices('\n').map(|(at, _)| at + 1).find(|at| text[*at..].starts_with(begins))
    };
    let end = line(&one, "#saltecho end").unwrap();
    let body = line(&two, "Tag=").unwrap();
    for (joined, problem) in [
        (one.clone() + &two, "another run starts here"),
        (one.clone() + &one, "another run starts here"),
        (one[..end].to_owned() + &two, "another run starts here"),
        (one[..end - 9].to_owned() + &two, "invalid comment"),
        (one.clone() + &two[body..], "unexpected line after the end of the run"),
        (one[..end].to_owned() + &two[body..], "starts before the previous one ended"),
        (one.replace("Tag=service", "Tag=echo"), "echo occurs twice in one second"),
    ] {
        let error = LoadLog::parse("joined", joined.as_bytes()).unwrap_err();
        assert!(error.problem.contains(problem), "no {problem:?} in {error}");
    }
}

#[test]
fn a_run_is_counted_once_whatever_its_log_is_called() {
    let (one, two) = two();
    let bytes = one.log().0;
    let files = Files::new();
    let a = files.write("a.hlog", &bytes, 0o600);
    let b = files.write("b.hlog", &two.log().0, 0o600);
    let copy = files.write("copy", &bytes, 0o600);
    let cut = files.write("cut", &bytes[..bytes.len() * 2 / 3], 0o600);
    let [link, hard] =
        ["link", "hard"].map(|name| files.path().join(name).to_str().unwrap().to_owned());
    std::os::unix::fs::symlink(&a, &link).unwrap();
    fs::hard_link(&a, &hard).unwrap();
    let around = format!("{}/../{}", files.path().display(), {
        let name = files.path().file_name().unwrap().to_str().unwrap();
        format!("{name}/a.hlog")
    });
    for again in [&a, &copy, &cut, &link, &hard, &around] {
        let words = [&a, "and", again, "are logs of the same run: give each run once"].join(" ");
        run(&["report", &a, &b, again], b"").expect(2, &[&words]);
    }
    run(&["report", files.path().to_str().unwrap(), &b], b"").expect(2, &["the same run"]);

    // Two generators with the same command may start in the same millisecond.
    let twin = Script { salt: 7, ..one.clone() };
    let logs = [("a", &one), ("b", &twin)];
    let logs = logs.map(|(name, script)| LoadLog::parse(name, &script.log().0).unwrap());
    assert_eq!(merge(logs.into()).unwrap().generators.len(), 2);
}

#[test]
fn a_long_gap_between_two_logs_costs_nothing() {
    let (one, mut two) = two();
    // An entry per second of these years would take half a terabyte.
    two.began += Duration::from_secs(3600 * 24 * 365 * 30);
    let logs = [("a", &one), ("b", &two)].map(|(name, script)| {
        // Cut off during the measurement, so that both end with a point in each chart.
        let log = String::from_utf8(script.log().0).unwrap();
        let end = log.trim_end().rmatch_indices('\n').nth(1).unwrap().0;
        LoadLog::parse(name, &log.as_bytes()[..=end]).unwrap()
    });
    let merged = merge(logs.into()).unwrap();
    assert_eq!(merged.seconds.len(), 2 * 16);
    let told = merged.warnings.join("; ");
    assert!(told.contains("never measured at the same time"), "{told}");
    let all: u64 = merged.seconds.iter().map(|second| second.percentiles(Series::Echo).n).sum();
    assert_eq!(all, 30_000);
    let page = merged.to_html();
    assert!(page.len() < 100_000, "{} bytes", page.len());
    let chart = page.split("<h2>Latency over time").nth(1).unwrap();
    let chart = chart.split("</section>").next().unwrap();
    assert_eq!(chart.matches("<polyline").count(), 2 * 3, "no line is drawn where nothing was");
}

#[test]
fn huge_numbers_are_added_without_overflow() {
    let mut script = Script::new(Mode::Echo);
    script.seconds = 2;
    let log = String::from_utf8(script.log().0).unwrap();
    let most = u64::MAX.to_string();
    let log = ["\"due\":", "\"busy\":", "\"bytes_sent\":", "\"connections\":", "\"rate_per_s\":"]
        .iter()
        .fold(log, |log, name| {
            let parts: Vec<&str> = log.split(name).collect();
            let rest =
                |part: &&str| part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
            let rest: Vec<String> = parts[1..].iter().map(rest).collect();
            rest.iter().fold(parts[0].to_owned(), |log, rest| log + name + &most + rest)
        });
    let other = log.replace("-r", "-x");
    let logs = [("a", &log), ("b", &other)];
    let logs = logs.map(|(name, text)| LoadLog::parse(name, text.as_bytes()).unwrap());
    let report = merge(logs.into()).unwrap();
    assert_eq!(report.record.counts.due, u64::MAX);
    assert!(report.to_html().contains("18,446,744,073,709,551,615"));
    assert!(report.to_text().contains("18,446,744,073,709,551,615"));
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
    assert_eq!(json["series"]["echo"]["n"], 30_000);

    let list = format!("{a},{b}");
    let compared = run(&["report", "--compare", &a, &list], b"");
    compared.expect(0, &[]);
    run(&["report", "--compare", &a, &list, "--html", &page], b"").expect(0, &[]);
    assert!(fs::read_to_string(&page).unwrap().contains("<h1>saltecho load comparison</h1>"));
    run(&["report", &a, "--html", "/nonexistent/page"], b"").expect(2, &["cannot write /none"]);
    let text = String::from_utf8(compared.stdout).unwrap();
    for words in [
        "  n              15,000        30,000      2.000",
        "cannot show a significant difference",
        "new/old",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains(&b)), "{text}");

    let other = files.write("other", b"hello\n", 0o600);
    run(&["report", &other], b"").expect(2, &["other, line 1: expected a comment"]);
    run(&["report", "--compare", &a], b"").expect(2, &["two loads"]);
    run(&["report", "/nonexistent"], b"").expect(2, &["cannot read /nonexistent"]);
    let empty = files.path().join("empty");
    fs::create_dir(&empty).unwrap();
    run(&["report", empty.to_str().unwrap()], b"").expect(2, &["no .hlog file in"]);
}

#[test]
fn a_report_exits_with_the_code_of_the_load() {
    let (mut good, mut late) = two();
    (good.seconds, late.seconds) = (4, 4);
    late.lateness = 1_000_000;
    let mut wrong = good.clone();
    wrong.errors = vec![(ErrorKind::Mismatch, 7)];
    let files = Files::new();
    let [good, late, wrong] = [("good", &good), ("late", &late), ("wrong", &wrong)]
        .map(|(name, script)| files.write(name, &script.log().0, 0o600));

    let unreliable = run(&["report", &late], b"");
    unreliable.expect(6, &["the result is unreliable; the verdict in the report says why"]);
    let told = String::from_utf8(unreliable.stdout).unwrap() + &unreliable.stderr;
    assert_eq!(told.matches("generator lateness of").count(), 1, "{told}");
    let json = run(&["report", "--json", &good, &late], b"");
    json.expect(6, &["unreliable"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let reason = json["reliability"]["reason"].as_str().unwrap();
    assert!(reason.contains("late: generator lateness"), "{reason}");
    run(&["report", &wrong], b"").expect(1, &["7 connections received wrong bytes"]);

    run(&["report", "--compare", &good, &good], b"").expect(0, &[]);
    run(&["report", "--compare", &good, &late], b"").expect(6, &["the new load: the result"]);
    run(&["report", "--compare", &late, &good], b"").expect(6, &["the old load: the result"]);
}
