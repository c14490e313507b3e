//! Upgrades that are refused: nothing is started, and what to change is said aloud.

use std::fs;

use crate::common::needs::PYTHON;
use crate::common::program::{Files, Signal, run};
use crate::service::{Service, children, wait_until};

/// Asks for an upgrade that must be refused for this reason.
#[track_caller]
fn is_refused(service: &mut Service, reason: &str, words: &str) {
    service.ctl(&["upgrade"]).expect(1, &["refused (", reason, words]);
    let step = service.step("refused");
    assert_eq!(step["reason"], reason, "{step}");
    let message = step["message"].as_str().unwrap();
    assert!(message.contains(words) && message.contains("goes on"), "{step}");
    service.check_clients();
}

#[test]
fn a_program_that_is_missing_or_cannot_be_executed_is_refused() {
    let mut service = Service::start(&[]);
    service.connect(2);
    service.replace_program(b"#!/bin/sh\n", 0o644);
    if !rustix::process::geteuid().is_root() {
        is_refused(&mut service, "no_program", "cannot be executed");
    }
    fs::remove_file(service.program()).unwrap();
    is_refused(&mut service, "no_program", "cannot be executed: install the new version there");
    assert!(children(service.pid).is_empty());
    service.finish();
}

#[test]
fn a_program_of_no_known_form_cannot_be_started() {
    let mut service = Service::start(&[]);
    service.connect(2);
    for content in [&b""[..], b"\x7fELF\x02\x01\x01 for another machine"] {
        service.replace_program(content, 0o755);
        service.ctl(&["upgrade"]).expect(1, &["given up: cannot start ", "Exec format error"]);
        assert_eq!(service.step("given up")["reason"], "spawn");
        service.check_clients();
    }
    service.finish();
}

#[test]
fn of_a_hundred_signals_in_a_burst_one_is_obeyed_and_the_others_are_refused_aloud() {
    if PYTHON.is_missing() {
        return;
    }
    let mut service = Service::start(&[]);
    service.connect(2);
    // An upgrade that lasts, so that the others come in between.
    service.pretend("hello hang");
    service.signal(Signal::USR2);
    service.step("format agreed");
    for _ in 0..100 {
        service.signal(Signal::USR2);
    }
    let refused = service.step("refused");
    assert_eq!(refused["reason"], "busy");
    is_refused(&mut service, "busy", "another upgrade is in progress");
    assert_eq!(service.step("given up")["reason"], "late");
    service.check_clients();
    let said = service.finish();
    assert_eq!(said.matches("\"step\":\"started\"").count(), 1, "{said}");
    // Signals of one kind that come together are one.
    let asked = said.matches("\"step\":\"requested\"").count();
    assert_eq!(said.matches("\"step\":\"refused\"").count(), asked - 1, "{said}");
}

#[test]
fn a_freeze_that_may_take_too_long_is_refused_with_the_setting() {
    let mut service = Service::start(&["--handover-freeze-max", "1s"]);
    // 1 s and 20 us for the client.
    service.connect(1);
    is_refused(&mut service, "freeze_too_long", "--handover-freeze-max is 1s: allow more");
    service.finish();
}

#[test]
fn a_recorded_server_refuses_upgrades() {
    let recording = Files::new();
    let path = recording.path().join("run.rec");
    let mut service = Service::start(&["--record", path.to_str().unwrap()]);
    service.connect(2);
    for words in [&["upgrade", "--check"][..], &["upgrade"]] {
        service.ctl(words).expect(1, &["refused (recorded): the server is recorded"]);
    }
    let words = "a recording ends with its process: restart it";
    is_refused(&mut service, "recorded", words);
    service.signal(Signal::USR2);
    let step = service.step("refused");
    assert_eq!(step["reason"], "recorded", "{step}");
    assert!(children(service.pid).is_empty());
    service.finish();
    let replayed = run(&["replay", path.to_str().unwrap()], b"");
    replayed.expect(0, &[]);
}

#[test]
fn a_drain_refuses_upgrades() {
    let mut service = Service::start(&["--drain-delay", "10m", "--drain-timeout", "20m"]);
    service.connect(1);
    service.ctl(&["drain"]).expect(0, &[]);
    service.running.wait_for("draining in ");
    is_refused(&mut service, "draining", "the server drains");
    service.signal(Signal::TERM);
    service.finish();
}

#[test]
fn a_drain_ends_an_upgrade_first() {
    if PYTHON.is_missing() {
        return;
    }
    for steps in ["hang", "hello hang", "hello prepared end hang"] {
        // The clients stay, so it does not end at once.
        let mut service = Service::start(&["--drain-timeout", "5s"]);
        service.connect(3);
        service.pretend(steps);
        service.signal(Signal::USR2);
        service.step(if steps.contains("end") { "sent" } else { "started" });
        let pid = service.pid;
        service.signal(Signal::TERM);
        let given_up = service.step("given up");
        let reasons = if steps.contains("end") { ["late", "late"] } else { ["cancelled", "late"] };
        assert!(reasons.contains(&given_up["reason"].as_str().unwrap()), "{given_up}");
        wait_until("no process is left", || children(pid).is_empty());
        let said = service.finish();
        assert!(said.contains("draining: no new connections"), "{said}");
    }
}
