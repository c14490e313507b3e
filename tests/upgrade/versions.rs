//! Programs of other versions: a format that one of the two does not know is refused before anything has
//! happened, and what was added is optional. An earlier program hands over to this one, and back.

use std::path::PathBuf;
use std::process::Command;

use crate::common::needs::PYTHON;
use crate::common::program::{Files, Finished, Running, clean, saltecho};
use crate::service::{Service, install, wait_until};
use crate::stages::Stages;

/// What a server at 127.0.0.1:0 offers, but for the format.
const SERVING: &str = "upgrade=1-1\ngeneration=1\nversion=9.9.9 (fedcba987654)\nconnections=0\n\
                       listen=127.0.0.1:0\npassed=\npassed-admin=\nadmin=\nprotocol=tutorial\n\
                       can-probe=true\naddresses=127.0.0.1:9\n";

/// Has this program take over from one that offers this, and then sends a record of this kind.
fn offered(offer: &str, records: u8) -> Finished {
    let files = Files::new();
    let old = files.write("old.py", include_bytes!("fake.py"), 0o644);
    let program = saltecho(&[]).get_program().to_owned();
    let mut command = Command::new("python3");
    clean(&mut command).args([
        &old,
        "--as-old",
        &format!("{SERVING}{offer}"),
        &records.to_string(),
    ]);
    command.arg(program).args(["serve", "-l", "127.0.0.1:0"]);
    Running::start(&mut command, Vec::new()).wait()
}

/// The answer has this kind, and these words.
#[track_caller]
fn is_answered(finished: &Finished, kind: u8, words: &[&str]) {
    let answers = String::from_utf8(finished.stdout.clone()).unwrap();
    assert!(answers.contains(&format!("{kind} ")), "{answers}{}", finished.stderr);
    for word in words {
        assert!(answers.contains(word), "no {word:?} in {answers}");
    }
}

const PREPARED: u8 = 130;
const ERROR: u8 = 136;

#[test]
fn an_old_program_of_another_format_is_refused_with_both_versions() {
    if PYTHON.is_missing() {
        return;
    }
    let refused = offered("format=7\ncapabilities=0\n", 0);
    let words = ["reason=format", "version 9.9.9 (fedcba987654) writes format 7, and version "];
    is_answered(&refused, ERROR, &words);
    assert!(!refused.stderr.contains("listening"), "{}", refused.stderr);
    assert_ne!(refused.code(), 0);
}

#[test]
fn an_addition_that_was_not_agreed_on_is_refused() {
    if PYTHON.is_missing() {
        return;
    }
    let refused = offered("format=1\ncapabilities=9223372036854775808\n", 0);
    is_answered(&refused, ERROR, &["reason=format", "uses additions 0x8000000000000000"]);
    assert_ne!(refused.code(), 0);
}

#[test]
fn what_a_later_version_adds_to_its_offer_is_skipped_and_what_an_earlier_one_lacks_is_not_needed() {
    if PYTHON.is_missing() {
        return;
    }
    is_answered(&offered("format=1\ncapabilities=0\nfuture=1\nno line\n", 0), PREPARED, &[]);
    is_answered(&offered("format=1\n", 0), PREPARED, &[]);
}

#[test]
fn a_record_of_a_later_version_is_refused() {
    if PYTHON.is_missing() {
        return;
    }
    let refused = offered("format=1\n", 9);
    is_answered(&refused, PREPARED, &[]);
    is_answered(&refused, ERROR, &["kind of chunk is not one that this version understands"]);
}

/// The earlier program that SALTECHO_EARLIER_PROGRAM names; `scripts/upgrade-from-earlier` builds one.
fn earlier() -> Option<PathBuf> {
    let program = std::env::var_os("SALTECHO_EARLIER_PROGRAM").map(PathBuf::from);
    if program.is_none() {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        eprintln!("NOT TESTED: {name}: scripts/upgrade-from-earlier builds an earlier program");
    }
    program
}

#[test]
fn an_earlier_program_hands_over_to_this_one_and_takes_over_from_it() {
    let Some(earlier) = earlier() else { return };
    let mut service = Service::start_at(
        |files| {
            install(&earlier, &files.join("saltecho"));
            (files.join("saltecho"), files.to_owned())
        },
        &["--workers", "2", "--auth-timeout", "1m"],
    );
    service.connect(300);
    let clients = Stages::connect(service.address);
    let is_of_earlier = |service: &Service| {
        let read = |path: PathBuf| std::fs::read(path).unwrap();
        let running = PathBuf::from(format!("/proc/{}/exe", service.pid));
        read(running) == read(earlier.clone())
    };
    assert!(is_of_earlier(&service));
    for to_earlier in [false, true, false] {
        match to_earlier {
            true => install(&earlier, &service.program()),
            false => service.restore_program(),
        }
        service.upgrade();
        assert_eq!(is_of_earlier(&service), to_earlier);
        service.check_clients();
        service.connect(2);
    }
    clients.finish();
    let pid = service.pid;
    wait_until("one process is left", || crate::service::children(pid).is_empty());
    let said = service.finish();
    assert!(!said.contains("panicked"), "{said}");
}
