//! `saltecho load --sweep`, once over, with windows too short to mean anything. On a busy machine the
//! generator is late: a rate may be excluded, and no time is checked.

use crate::common::program::*;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../schemas/load-sweep.schema.json");

fn serve() -> (Running, String) {
    let mut server = Running::start(&mut saltecho(&["serve", "-l", "127.0.0.1:0"]), vec![]);
    let line = server.wait_for("listening on");
    let address = line.split_whitespace().nth(3).expect("it says where").trim_end_matches(':');
    (server, address.to_owned())
}

fn stop(server: Running) {
    server.signal(Signal::TERM);
    server.wait();
}

/// Runs a sweep; returns its report and its exit code.
#[track_caller]
fn sweep(address: &str, more: &[&str]) -> (Value, i32, Vec<u8>) {
    let command = ["load", address, "-c", "5", "-d", "200ms", "--json", "-q"];
    let finished = Running::start(&mut saltecho(&[&command[..], more].concat()), vec![]).wait();
    assert!([0, 5, 6].contains(&finished.code()), "{finished:?}");
    let report: Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).expect("it stands alone");
    let errors: Vec<_> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    (report, finished.code(), finished.stdout)
}

#[test]
fn a_sweep_is_measured_reported_and_compared() {
    let (server, address) = serve();
    let flags = ["--sweep", "100..400", "--repeat", "2", "--slo", "p50<1h"];
    let (report, code, json) = sweep(&address, &flags);
    assert_eq!(report["extent"]["rates_per_s"], serde_json::json!([100, 200, 400]));
    let rates = report["rates"].as_array().expect("there are some");
    for rate in rates.iter().filter(|rate| rate["standing"] == "holds") {
        let windows = rate["windows"].as_array().expect("there are some");
        assert!(windows.len() >= 2, "{rate}");
        // The percentiles are those of all windows that count together.
        let counted = windows.iter().filter(|window| window["fate"] == "counted");
        let n: u64 = counted.filter_map(|window| window["times"]["n"].as_u64()).sum();
        assert_eq!(rate["times"]["n"], n, "{rate}");
    }
    let found = report["finding"]["result"] == "found";
    assert_eq!(found, code == 0, "{report:#}");
    stop(server);

    let files = Files::new();
    let [old, new] = ["old.json", "new.json"].map(|name| files.write(name, &json, 0o600));
    let page = files.write("page.html", b"", 0o600);
    let again = run(&["report", &old, "--json"], b"");
    assert_eq!((again.code(), &again.stdout), (code, &json), "it is read as it was written");
    let text = run(&["report", &old], b"");
    for part in ["p99 of each window", "each rate 2 times for 200 ms", "p50<1h"] {
        let shown =
            String::from_utf8_lossy(&text.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let compared = run(&["report", "--compare", &old, &new, "--html", &page], b"");
    assert_eq!(compared.code(), code, "{compared:?}");
    let page = std::fs::read_to_string(page).expect("it was written");
    assert!(page.contains("<title>saltecho load sweeps</title>"), "{page}");
    assert!(page.contains("Latency by rate"), "{page}");
    run(&["report", &old, &new], b"").expect(2, &["cannot be merged"]);
    let log = files.write("a.hlog", b"#", 0o600);
    run(&["report", "--compare", &old, &log], b"").expect(2, &["a.hlog", "sweep"]);
    let other = files.write("other.json", br#"{"schema": "saltecho-load-report/2"}"#, 0o600);
    run(&["report", &other], b"").expect(2, &["saltecho-load-report/2", "saltecho-load-sweep/1"]);
}

#[test]
fn a_limit_that_no_answer_keeps_is_an_assertion_that_failed() {
    let (server, address) = serve();
    let flags = ["--sweep", "50..100", "--repeat", "1", "--slo", "max<1ns"];
    let (report, code, _) = sweep(&address, &flags);
    let result = report["finding"]["result"].as_str().expect("it has one");
    assert!([("no_rate", 5), ("unknown", 6)].contains(&(result, code)), "{report:#}");
    stop(server);
    let command = ["load", &address, "--sweep", "50..100", "-c", "1", "-d", "1s", "-q"];
    run(&command, b"").expect(4, &["refused"]);
}

#[test]
fn an_interrupted_sweep_reports_what_it_has() {
    let (server, address) = serve();
    let command = ["load", &address, "--sweep", "50..100", "-c", "2", "-d", "100ms", "--json"];
    let more = ["--repeat", "1000", "--slo", "p50<1h"];
    let mut load = Running::start(&mut saltecho(&[&command[..], &more].concat()), vec![]);
    load.wait_for("1 of 1000");
    load.signal(Signal::INT);
    let finished = load.wait();
    finished.expect(6, &["stopped early"]);
    let report: Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
    assert_eq!(report["finding"]["result"], "unfinished");
    assert_eq!(report["rates"][0]["rate_per_s"], 50, "{report:#}");
    stop(server);
}

#[test]
fn flags_that_a_sweep_cannot_use_are_refused() {
    for (flags, words) in [
        (&["--rate", "5"][..], &["--sweep", "--rate", "sets the rates"][..]),
        (&["--closed"], &["--sweep", "--closed"]),
        (&["--mode", "idle"], &["--sweep", "idle"]),
        (&["--hlog", "x"], &["--sweep", "--hlog", "--json"]),
        (&["--admin", "unix:/admin"], &["--sweep", "--admin"]),
        (&["--assert", "errors==0"], &["--assert", "--slo"]),
        (&["--slo", "errors==0"], &["p99<5ms"]),
    ] {
        run(&[&["load", "--sweep", "10..20"], flags].concat(), b"").expect(2, words);
    }
    run(&["load", "--sweep", "20..10"], b"").expect(2, &["10k..200k"]);
    run(&["load", "--slo", "p99<5ms"], b"").expect(2, &["--sweep"]);
}
