//! `saltecho load`: its messages, its files and its exit codes.
//!
//! On a busy machine the generator is late, says so and exits with 6 instead of 0. Both are
//! accepted here, and no measured time is checked.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::common::program::*;
use serde_json::Value;

/// Starts the program as a server; returns it and its address.
fn serve(more: &[&str]) -> (Running, String) {
    let mut server =
        Running::start(&mut saltecho(&[&["serve", "-l", "127.0.0.1:0"], more].concat()), vec![]);
    let line = server.wait_for("listening on");
    let address = line.split_whitespace().nth(3).expect("it says where").trim_end_matches(':');
    (server, address.to_owned())
}

/// Runs a load of one second with a hundred messages on five connections, unless `more` says
/// otherwise.
fn load(address: &str, more: &[&str]) -> Finished {
    let mut command = saltecho(&["load", address, "-d", "1s", "--json"]);
    if !more.contains(&"--closed") && !more.contains(&"idle") {
        command.args(["-r", "100"]);
    }
    if !more.contains(&"-c") {
        command.args(["-c", "5"]);
    }
    Running::start(command.args(more), vec![]).wait()
}

#[track_caller]
fn report(finished: &Finished) -> Value {
    assert!([0, 6].contains(&finished.code()), "{finished:?}");
    let report: Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
    assert_eq!(report["reliability"]["reliable"], finished.code() == 0);
    report
}

#[test]
fn messages_are_due_at_the_rate_and_all_are_answered() {
    let (server, address) = serve(&[]);
    let finished = load(&address, &["--in-flight", "2", "-s", "1k"]);
    let report = report(&finished);
    let counts = &report["counts"];
    assert_eq!((&counts["due"], &counts["answered"]), (&100.into(), &100.into()), "{report}");
    assert_eq!(counts["authenticated"], 5);
    assert_eq!(report["series"]["echo"]["n"], 100);
    let quiet = load(&address, &["-q"]);
    assert!(!quiet.stderr.contains("measure"), "{:?}", quiet.stderr);
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn cycle_and_idle_modes_run() {
    let (server, address) = serve(&[]);
    let cycles = report(&load(&address, &["--mode", "connect", "-c", "2"]));
    assert_eq!(cycles["counts"]["answered"], 100);
    assert_eq!(cycles["series"]["cycle"]["n"], 100);
    let closed = ["--closed", "-s", "100k", "--active", "40%", "--spin", "50us"];
    let closed = report(&load(&address, &closed));
    assert!(closed["counts"]["answered"].as_u64() > Some(0));
    assert_eq!(closed["generators"][0]["plan"]["active"], 2);
    assert_eq!(closed["generators"][0]["plan"]["spin_ns"], 50_000);
    let idle = report(&load(&address, &["--mode", "idle", "-c", "40", "--ramp", "200ms"]));
    assert_eq!(
        (&idle["counts"]["authenticated"], &idle["states"]["quiet"]),
        (&40.into(), &40.into())
    );
    assert_eq!((&idle["counts"]["due"], &idle["counts"]["answered"]), (&40.into(), &40.into()));
    assert_eq!(idle["counts"]["errors"]["total"], 0);
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn messages_may_have_several_sizes_and_pauses_between_them() {
    let (server, address) = serve(&[]);
    let flags = ["--closed", "--think", "20ms", "--size", "64:75%,20k:25%", "-c", "4"];
    let report = report(&load(&address, &flags));
    let (counts, plan) = (&report["counts"], &report["generators"][0]["plan"]);
    assert_eq!(
        (&plan["think_ns"], &plan["sizes"][1]["bytes"]),
        (&20_000_000.into(), &20_480.into())
    );
    let answered = counts["answered"].as_u64().expect("it is a number");
    assert!((1..=200).contains(&answered), "at most 50 a second on each: {counts}");
    assert_eq!(counts["errors"]["total"], 0, "every byte was verified");
    for (flags, words) in [
        (&["--think", "1s"][..], &["--think", "--closed"][..]),
        (&["--think", "1s", "--closed", "--in-flight", "2"], &["--think", "--in-flight"]),
        (&["-s", "64:90%,1k:9%"], &["add up to 100%"]),
        (&["-s", "1:50%,2:50%", "--protocol", "multiprocessing"], &["one size"]),
    ] {
        load(&address, flags).expect(2, words);
    }
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn sources_take_turns() {
    let (mut server, address) = serve(&["-v"]);
    report(&load(&address, &["--source", "127.0.0.2-3,127.0.0.9", "-c", "3"]));
    for source in ["127.0.0.2:", "127.0.0.3:", "127.0.0.9:"] {
        server.wait_for(&format!("from {source}"));
    }
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn a_failed_assertion_is_named() {
    let (server, address) = serve(&[]);
    let claims = ["--assert", "errors==0", "--assert", "p50<1ns", "--assert", "answered>100"];
    load(&address, &claims).expect(5, &["p50<1ns", "answered>100 (actual: 100)"]);
    load(&address, &["--assert", "p99"]).expect(2, &["p99", "comparison"]);
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn a_generator_that_was_suspended_reports_itself_unreliable() {
    let (server, address) = serve(&[]);
    // Of 400 messages the first on each connection is late because of the generator: five would
    // just reach the 99th percentile.
    let command = ["load", &address, "-c", "20", "-r", "200", "-d", "2s"];
    let mut load = Running::start(&mut saltecho(&command), vec![]);
    load.wait_for("ramp");
    load.signal(Signal::STOP);
    // The subject of the test: half a second in which it does not run.
    thread::sleep(Duration::from_millis(500));
    load.signal(Signal::CONT);
    let finished = load.wait();
    finished.expect(6, &["unreliable"]);
    assert!(String::from_utf8_lossy(&finished.stdout).contains("UNRELIABLE"), "{finished:?}");
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn an_interrupt_ends_it_early_with_a_report() {
    let (server, address) = serve(&[]);
    let command = ["load", &address, "-c", "5", "-r", "100", "-d", "1h", "--json"];
    let mut load = Running::start(&mut saltecho(&command), vec![]);
    load.wait_for("measure");
    load.signal(Signal::INT);
    let report = report(&load.wait());
    assert_eq!(report["generators"][0]["run"]["stopped_early"], true);
    assert_eq!(report["counts"]["due"], report["counts"]["answered"]);
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn an_interrupt_that_was_ignored_from_the_start_stays_ignored() {
    let (server, address) = serve(&[]);
    let program = env!("CARGO_BIN_EXE_saltecho");
    let script = format!("trap '' INT; exec {program} load {address} -c 5 -r 100 -d 2s --json");
    let mut load = Running::start(clean(Command::new("sh").args(["-c", &script])), vec![]);
    load.wait_for("measure");
    load.signal(Signal::INT);
    let report = report(&load.wait());
    assert_eq!(report["generators"][0]["run"]["stopped_early"], false);
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn an_interrupt_during_ramp_up_reports_that_nothing_was_measured() {
    let (server, address) = serve(&[]);
    let files = Files::new();
    let log = files.write("log.hlog", b"", 0o600);
    for mode in ["echo", "idle"] {
        let command = ["load", &address, "--ramp", "1h", "--mode", mode, "--hlog", &log];
        let mut load = Running::start(&mut saltecho(&command), vec![]);
        load.wait_for("ramp");
        load.signal(Signal::INT);
        load.wait().expect(6, &["no load was measured"]);
        run(&["report", &log], b"").expect(6, &["no load was measured"]);
    }
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn a_refusing_or_missing_server_is_distinguished_from_a_slow_one() {
    let (server, address) = serve(&["--mac", "sha256"]);
    load(&address, &[]).expect(3, &["authentication failed", "--mac"]);
    server.signal(Signal::TERM);
    server.wait();
    load(&address, &[]).expect(4, &["refused", "saltecho serve"]);
}

#[test]
fn a_wrong_answer_is_distinguished_from_a_refusal() {
    let (server, address) = serve(&["--reply", "same"]);
    load(&address, &[]).expect(1, &["upper case", "--reply same"]);
    report(&load(&address, &["--reply", "same"]));
    server.signal(Signal::TERM);
    server.wait();
}

/// One useful line, without a table of zeros before it.
#[test]
fn a_silent_server_is_reported_in_one_line() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = silent.local_addr().expect("it is bound").to_string();
    let command = ["load", &address, "-c", "2", "-d", "1s", "--timeout", "100ms", "-q"];
    let finished = run(&command, b"");
    finished.expect(4, &["did not answer within 100ms", "--timeout"]);
    assert_eq!((finished.stdout.len(), finished.stderr.lines().count()), (0, 1), "{finished:?}");
}

#[test]
fn limits_of_the_machine_are_reported_before_the_first_connection() {
    let load = |flags: &str| {
        let program = env!("CARGO_BIN_EXE_saltecho");
        let script = format!("ulimit -n 100; exec {program} load 127.0.0.1:9 {flags}");
        Running::start(clean(Command::new("sh").args(["-c", &script])), vec![]).wait()
    };
    load("-c 200").expect(2, &["200 connections need 216 descriptors", "100", "LimitNOFILE"]);
    load("--source 192.0.2.7").expect(2, &["192.0.2.7 is not a local address"]);
    load("--source ::1").expect(2, &["different address families"]);
    load("--active 51").expect(2, &["--active 51"]);
    load("--start-at 2020-01-01T00:00:00Z").expect(2, &["--start-at 2020", "is in the past"]);
    load("-r 0").expect(2, &["from 1 to 1000m"]);
    for (flags, words) in [
        ("--closed -r 5", ["--closed", "--rate"]),
        ("--mode idle -r 5", ["--mode idle", "--rate"]),
        ("--mode idle --closed", ["--mode idle", "--closed"]),
        ("--mode idle --active 1", ["--mode idle", "--active"]),
        ("--mode idle --in-flight 2", ["--mode idle", "--in-flight"]),
        ("--mode connect --in-flight 2", ["--mode connect", "--in-flight"]),
        ("--mode connect --active 1", ["--mode connect", "--active"]),
        ("--mode connect --ramp 1s", ["--mode connect", "--ramp"]),
    ] {
        load(flags).expect(2, &[&words[..], &["cannot be used with"]].concat());
    }
    load("--tui --quiet").expect(2, &["--tui", "--quiet"]);
    let lacking = if cfg!(feature = "tui") { "a terminal on stderr" } else { "--features tui" };
    load("--tui").expect(2, &[lacking]);
}

#[test]
fn a_load_that_has_not_started_can_be_interrupted() {
    let (server, address) = serve(&[]);
    let files = Files::new();
    let fifo = files.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("coreutils");
    assert!(made.success());
    let later = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(3600));
    let later = later.to_string();
    for flag in [["--start-at", &later], ["--hlog", fifo.to_str().expect("it is UTF-8")]] {
        for signal in [Signal::INT, Signal::TERM] {
            let load = Running::start(saltecho(&["load", &address]).args(flag), vec![]);
            load.signal(signal);
            let status = load.wait().status;
            assert_eq!(status.signal(), Some(signal.as_raw()), "{flag:?}: {status}");
        }
    }
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn arguments_need_not_be_utf_8() {
    let (server, address) = serve(&[]);
    let files = Files::new();
    let path = files.path().join(OsStr::from_bytes(b"x\xff.hlog"));
    let mut command = saltecho(&["load", &address, "-r", "100", "-d", "100ms", "--json", "--hlog"]);
    let report = report(&Running::start(command.arg(&path), vec![]).wait());
    let words = report["generators"][0]["program"]["command"].as_array().expect("it has words");
    assert!(words.last().is_some_and(|word| word.as_str().is_some()), "{words:?}");
    assert!(path.metadata().is_ok_and(|log| log.len() > 0));
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn the_agreed_start_time_is_kept() {
    let (server, address) = serve(&[]);
    // Less a fraction of a second; on a busy machine the program must have started by then.
    let start = SystemTime::now() + Duration::from_secs(5);
    let text = humantime::format_rfc3339_seconds(start).to_string();
    let begun = report(&load(&address, &["--start-at", &text]));
    let began = begun["generators"][0]["program"]["began"].as_str().expect("it is a string");
    let began = humantime::parse_rfc3339(began).expect("it is a time");
    assert!(began >= humantime::parse_rfc3339(&text).unwrap(), "{began:?}");
    server.signal(Signal::TERM);
    server.wait();
}
