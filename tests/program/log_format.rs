//! The formats of the log of `saltecho serve`: lines for people and for the journal, and objects.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::common::client::{authenticated, connect, exchange};
use crate::common::program::{
    Files, Serving, run, run_command, saltecho, terminate, wait_for_port,
};
use jsonschema::Validator;
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../../schemas/log.schema.json");

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).expect("it stands alone")
}

/// The entries of a log, each valid.
#[track_caller]
fn entries(log: &str) -> Vec<Value> {
    let validator = validator();
    let parse = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        let errors: Vec<_> = validator.iter_errors(&entry).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?} in {line}");
        entry
    };
    log.lines().map(parse).collect()
}

fn of_kind<'a>(entries: &'a [Value], event: &str) -> Vec<&'a Value> {
    entries.iter().filter(|entry| entry["event"] == event).collect()
}

#[test]
fn each_end_of_a_connection_is_an_object() {
    for (args, steps) in [(&["--log-format=json"][..], 0), (&["--log-format=json", "-v"], 1)] {
        let server = Serving::start(args);
        let client = authenticated(server.address);
        let peer = client.local_addr().unwrap().to_string();
        assert_eq!(exchange(&client, b"hello"), b"HELLO");
        drop(client);
        run(&["connect", &server.place(), "--mac", "sha256"], b"").expect(3, &[]);
        let address = server.place();
        let entries = entries(&server.finish().stderr);
        assert_eq!(of_kind(&entries, "connection_opened").len(), 2 * steps);
        assert_eq!(of_kind(&entries, "connection_authenticated").len(), steps);
        let ends = of_kind(&entries, "connection_closed");
        let [end, rejected] = ends[..] else { panic!("{ends:#?}") };
        for (field, value) in [
            ("level", json!("info")),
            ("message", json!(format!("#1 closed: peer finished, from {peer}"))),
            ("worker", json!(1)),
            ("id", json!(1)),
            ("peer", json!(peer)),
            ("listener", json!(address)),
            ("key", json!("bab78a7f")),
            ("reason", json!("peer_finished")),
            ("bytes_received", json!(16 + 5)),
            ("bytes_sent", json!(32 + 5)),
        ] {
            assert_eq!(end[field], value, "{field}");
        }
        assert!(end["duration_ns"].as_u64().unwrap() > 0);
        let fields = ["reason", "key", "bytes_sent"].map(|field| &rejected[field]);
        assert_eq!(fields, [&json!("rejected"), &Value::Null, &json!(32)]);
        let counters = of_kind(&entries, "counters")[0];
        assert_eq!(counters["closed"], json!({ "peer_finished": 1, "rejected": 1 }));
        assert_eq!(counters["authenticated_by_key"], json!({ "bab78a7f": 1 }));
        assert_eq!(of_kind(&entries, "listening")[0]["addresses"], json!([address]));
    }
}

#[test]
fn all_that_a_server_logs_is_an_object() {
    let files = Files::new();
    // An error that the server ends with, and a warning about its environment.
    let port_file = files.path().join("no\nsuch/port");
    let mut command = saltecho(&["serve", "-l", "127.0.0.1:0", "--log-format", "json"]);
    command.arg("--port-file").arg(&port_file).env("SALTECHO_LISTN", "x");
    let failed = run_command(&mut command, b"");
    failed.expect(1, &[]);
    let logged = entries(&failed.stderr);
    assert_eq!((&logged[0]["level"], &logged[0]["event"]), (&json!("warning"), &json!("message")));
    assert!(logged[0]["message"].as_str().unwrap().contains("SALTECHO_LISTEN"), "{logged:#?}");
    let last = logged.last().unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&json!("failed"), &json!(1)));
    assert!(last["message"].as_str().unwrap().contains("no\\nsuch"), "{last}");
}

#[test]
fn a_crowd_that_is_drained_is_logged_whole() {
    const CROWD: usize = 300;
    let server = Serving::start(&["--log-format", "json", "--workers", "2"]);
    let crowd: Vec<_> = (0..CROWD).map(|_| authenticated(server.address)).collect();
    let (silent, _) = connect(server.address);
    server.running.signal(rustix::process::Signal::TERM);
    drop(crowd);
    let finished = server.running.wait();
    finished.expect(0, &[]);
    drop(silent);
    let entries = entries(&finished.stderr);
    let ends = of_kind(&entries, "connection_closed");
    assert_eq!(ends.len(), CROWD + 1);
    let unknown: Vec<_> = ends.iter().filter(|end| end["key"].is_null()).collect();
    assert_eq!(unknown.len(), 1, "{unknown:#?}");
    let mut names: Vec<_> =
        ends.iter().map(|end| (end["worker"].as_u64(), end["id"].as_u64())).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CROWD + 1, "each has a name of its own");
    assert_eq!(of_kind(&entries, "counters")[0]["log_lines_suppressed"], json!(0));
}

/// Runs a server that logs into this file.
fn log_into(command: &mut Command, files: &Files, log: &File) {
    let port_file = files.path().join("port");
    command.args(["serve", "-l", "127.0.0.1:0", "--port-file"]).arg(&port_file);
    let server = command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).spawn().unwrap();
    drop(authenticated(wait_for_port(&port_file)));
    assert_eq!(terminate(server), Some(0));
    std::fs::remove_file(port_file).unwrap();
}

fn is_timed(line: &str) -> bool {
    let shape = line.get(..25).unwrap_or_default().bytes().zip(*b"0000-00-00T00:00:00.000Z ");
    line.len() > 25
        && shape.clone().all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == shape,
        })
}

#[test]
fn lines_in_a_file_have_a_time_and_those_in_a_pipe_if_asked_for() {
    let files = Files::new();
    let path = files.path().join("log");
    log_into(&mut saltecho(&[]), &files, &File::create(&path).unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.lines().count() > 2 && text.lines().all(is_timed), "{text}");
    let server = Serving::start(&["--log-format", "text"]);
    let text = server.finish().stderr;
    assert!(text.lines().count() > 2 && text.lines().all(is_timed), "{text}");
    let server = Serving::start(&[]);
    let text = server.finish().stderr;
    assert!(text.lines().all(|line| line.starts_with("saltecho: ")), "a pipe: {text}");
}

#[test]
fn the_journal_gets_priorities() {
    let files = Files::new();
    let path = files.path().join("log");
    let log = File::create(&path).unwrap();
    let metadata = log.metadata().unwrap();
    let (device, inode) = (metadata.dev(), metadata.ino());
    let mut command = saltecho(&[]);
    command.env("JOURNAL_STREAM", format!("{device}:{inode}"));
    log_into(&mut command, &files, &log);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("<4>warning: using the demo key"), "{text}");
    assert!(lines.all(|line| !line.starts_with(['<', 's']) && !is_timed(line)), "{text}");
    // The variable of a parent whose stderr was the journal.
    let mut command = saltecho(&[]);
    let other = File::create(files.path().join("other")).unwrap();
    command.env("JOURNAL_STREAM", format!("{device}:{inode}"));
    log_into(&mut command, &files, &other);
    let text = std::fs::read_to_string(files.path().join("other")).unwrap();
    assert!(text.lines().all(is_timed), "{text}");
}
