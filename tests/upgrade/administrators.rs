//! What administrators see and have asked for, across upgrades.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::client::{PATIENCE, authenticated, exchange};
use crate::common::program::{Files, Signal, run, saltecho};
use crate::service::{Service, wait_until};

/// Version and commit of the program, as `--version` has them.
fn version() -> String {
    let said = run(&["--version"], b"").stdout;
    let said = String::from_utf8(said).unwrap();
    let version = said.strip_prefix("saltecho ").unwrap().split(", features").next().unwrap();
    format!("{version})")
}

#[test]
fn the_log_and_the_answer_name_version_and_commit() {
    let version = version();
    assert!(version.contains(" (") && version.len() > "0.1.0 ()".len(), "{version}");
    let mut service = Service::start(&[]);
    service.connect(1);
    let upgraded = service.ctl(&["upgrade"]);
    upgraded.expect(0, &[]);
    let answer = String::from_utf8(upgraded.stdout).unwrap();
    assert!(answer.contains(&format!("version {version} -> {version}")), "{answer}");
    let serves = service.wait_for_successor();
    assert_eq!(serves["version"], version.as_str(), "{serves}");
    assert!(serves["message"].as_str().unwrap().contains(&version), "{serves}");
    service.replace_program(b"#!/bin/sh\nexit 1\n", 0o755);
    service.ctl(&["upgrade"]).expect(1, &["given up"]);
    let given_up = service.step("given up");
    let goes_on = format!("version {version} goes on");
    assert!(given_up["message"].as_str().unwrap().ends_with(&goes_on), "{given_up}");
    std::fs::remove_file(service.program()).unwrap();
    service.ctl(&["upgrade"]).expect(1, &["refused"]);
    let refused = service.step("refused");
    assert!(refused["message"].as_str().unwrap().ends_with(&goes_on), "{refused}");
    service.finish();
}

/// The events that the log has of a connection.
#[track_caller]
fn logged(service: &mut Service) -> Vec<String> {
    let client = authenticated(service.address);
    assert_eq!(exchange(&client, b"hello"), b"HELLO");
    let peer = client.local_addr().unwrap().to_string();
    drop(client);
    wait_until("it has ended", || {
        !String::from_utf8(service.ctl(&["list"]).stdout).unwrap().contains(&peer)
    });
    // The counters come behind all that was said before, at every level.
    service.signal(Signal::USR1);
    service.running.wait_for("\"event\":\"counters\"");
    let said = service.running.said().lines();
    let said = said.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let said = said.filter(|line| line["peer"] == peer.as_str());
    said.map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_level_of_the_log_that_was_set_at_run_time_goes_over() {
    let [opened, authenticated, closed] =
        ["connection_opened", "connection_authenticated", "connection_closed"];
    let mut service = Service::start(&[]);
    assert_eq!(logged(&mut service), [closed]);
    service.ctl(&["log", "verbose"]).expect(0, &[]);
    assert_eq!(logged(&mut service), [opened, authenticated, closed]);
    for _ in 0..2 {
        service.upgrade();
        assert_eq!(logged(&mut service), [opened, authenticated, closed]);
    }
    // A setting that has changed since counts for more, as it does in a reload.
    service.set("quiet", "true");
    service.upgrade();
    assert!(logged(&mut service).is_empty());
    service.ctl(&["log", "normal"]).expect(0, &[]);
    service.upgrade();
    assert_eq!(logged(&mut service), [closed]);
    service.finish();
}

/// A client of the admin endpoint.
fn administrator(service: &Service, sends: &str) -> UnixStream {
    let mut stream = UnixStream::connect(service.files.path().join("admin")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(sends.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: UnixStream, sends: &str) -> String {
    stream.write_all(sends.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A request that is half received when the service moves is neither lost nor carried out by a process
/// that no longer serves.
#[test]
fn a_request_that_is_half_received_is_answered_with_where_to_ask() {
    let mut service = Service::start(&[]);
    service.connect(3);
    let drain = administrator(&service, "POST /drain HTTP/1.1\r\nHost: loc");
    let reload = administrator(&service, "POST /reload HT");
    let scrape = administrator(&service, "GET /met");
    let ready = administrator(&service, "GET /readyz HTTP/1.1\r\n");
    let silent = administrator(&service, "");
    // All are accepted before it moves.
    service.ctl(&["list"]).expect(0, &[]);
    service.upgrade();
    for (stream, rest) in [
        (drain, "alhost\r\n\r\n"),
        (reload, "TP/1.1\r\nHost: localhost\r\n\r\n"),
        (scrape, "rics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ] {
        let answer = answer(stream, rest);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.contains("nothing was done: another process has taken over"), "{answer}");
    }
    // The service is ready, whichever process it is in.
    let answer = answer(ready, "Host: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ready\n"), "{answer}");
    let mut end = String::new();
    let _ = (&silent).read_to_string(&mut end);
    assert_eq!(end, "");
    service.check_clients();
    service.connect(2);
    let said = service.running.said();
    assert!(!said.contains("draining"), "{said}");
    service.finish();
}

/// `ctl` asks again, so that an administrator need not know that an upgrade came in between.
#[test]
fn ctl_asks_the_new_process_if_the_old_one_has_left() {
    let files = Files::new();
    let path = files.path().join("admin");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for (head, text) in [("503 Service Unavailable", "ask again\n"), ("200 OK", "killed #1\n")]
        {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            assert!(asked.starts_with(b"POST /connections/1/kill "));
            let len = text.len();
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {len}\r\n\r\n{text}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let admin = format!("unix:{}", path.display());
    let mut command = saltecho(&["ctl", "--admin", &admin, "kill", "1"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"killed #1\n");
    server.join().unwrap();
}
