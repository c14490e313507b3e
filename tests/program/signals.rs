//! Signals to `saltecho serve`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::common::client::{authenticated, exchange, fill, finish_sending, rest};
use crate::common::program::{Files, Serving, Signal, clean, run, saltecho};

const DRAINING: &str = "draining: no new connections";

/// A peer that reads nothing, with all buffers full.
fn stuck_peer(server: &Serving) -> (TcpStream, usize) {
    let peer = authenticated(server.address);
    let sent = fill(&peer);
    (peer, sent)
}

#[test]
fn sigterm_finishes_pending_answers_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Serving::start(&[]);
        let (peer, sent) = stuck_peer(&server);
        let idle = authenticated(server.address);
        assert_eq!(exchange(&idle, b"hello"), b"HELLO");
        server.running.signal(signal);
        server.running.wait_for(DRAINING);
        // The answer to received input is pending; input behind that was never received.
        let answer = rest(&peer);
        let answer = answer.expect("an orderly end");
        assert!(!answer.is_empty() && answer.len() <= sent, "{} of {sent}", answer.len());
        assert!(answer.iter().all(|byte| *byte == b'X'));
        assert_eq!(rest(&idle).unwrap(), b"", "an idle peer is owed nothing but an end");
        let place = server.address;
        drop((peer, idle));
        let finished = server.running.wait();
        // Two challenges of 32 bytes, `HELLO`, and only bytes that arrived.
        let sent = format!(", sent {}", answer.len() + 32 + 32 + 5);
        finished.expect(0, &[&sent, "closed: 2 drained"]);
        assert!(!finished.stderr.contains("undelivered"), "{}", finished.stderr);
        assert!(TcpStream::connect(place).is_err(), "a listener is still open");
    }
}

#[test]
fn a_second_signal_stops_at_once_with_exit_code_1() {
    let mut server = Serving::start(&["--drain-timeout", "off", "--send-timeout", "off"]);
    let (peer, _) = stuck_peer(&server);
    server.running.signal(Signal::TERM);
    server.running.wait_for(DRAINING);
    server.running.signal(Signal::INT);
    let finished = server.running.wait();
    finished.expect(1, &[", undelivered ", "closed: 1 stopped", "was delivered: 1 connection"]);
    // The part must not look complete.
    assert!(rest(&peer).is_err(), "an orderly end after a part of the answer");
}

#[test]
fn the_drain_timeout_closes_remaining_connections() {
    let server = Serving::start(&["--drain-timeout", "200ms"]);
    let (_peer, _) = stuck_peer(&server);
    server.running.signal(Signal::TERM);
    server.running.wait().expect(1, &[DRAINING, "1 cut off by the drain timeout"]);
}

#[test]
fn sighup_reloads_the_keys_and_keeps_connections() {
    let files = Files::new();
    let old = files.key("old", "the key of yesterday\n");
    let new = files.key("new", "the key of tomorrow\n");
    let key = files.key("key", "the key of yesterday\n");
    let mut server = Serving::start(&["-k", &key]);
    let place = server.place();
    let answer = |key: &str| run(&["connect", &place, "-k", key], b"hello");
    answer(&old).expect(0, &[]);
    // A connection from before the reload, whose stdin stays open.
    let (stdin, mut input) = std::io::pipe().unwrap();
    let mut command = saltecho(&["connect", &place, "-k", &old]);
    let mut veteran = command.stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut output = veteran.stdout.take().unwrap();
    let mut exchange = |line: &[u8]| {
        input.write_all(line).unwrap();
        let mut answer = vec![0; line.len()];
        output.read_exact(&mut answer).unwrap();
        answer
    };
    assert_eq!(exchange(b"before"), b"BEFORE");

    files.key("key", "the key of tomorrow\n");
    server.running.signal(Signal::HUP);
    let said = server.running.wait_for("keys reloaded: ");
    assert!(!server.start_line.contains(said.split(' ').next_back().unwrap()), "{said}");
    answer(&new).expect(0, &[]);
    answer(&old).expect(3, &["authentication failed"]);

    for (text, mode, why) in [
        ("an exposed key file", 0o644, "chmod 600"),
        ("short", 0o600, "5 bytes"),
        ("", 0o600, "no key"),
    ] {
        files.write("key", text.as_bytes(), mode);
        server.running.signal(Signal::HUP);
        let said = server.running.wait_for("keys not reloaded, the old ones stay valid");
        assert!(said.contains(why) && said.contains(&key), "{said}");
        answer(&new).expect(0, &[]);
    }
    assert_eq!(exchange(b"after"), b"AFTER");
    drop(input);
    assert!(veteran.wait().unwrap().success());
    server.finish();
}

/// Signals are events of the loop, and need no thread.
#[test]
fn it_has_a_thread_for_each_loop_and_one_for_the_log() {
    for workers in [1, 3] {
        let mut server = Serving::start(&["--workers", &workers.to_string()]);
        // All loops have answered, so all threads are there.
        server.counters();
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.running.pid())).unwrap();
        assert_eq!(threads.count(), workers + 1);
        server.finish();
    }
}

#[test]
fn sighup_without_a_key_file_keeps_the_keys() {
    let mut server = Serving::start(&[]);
    server.running.signal(Signal::HUP);
    server.running.wait_for("keys not reloaded, the old ones stay valid: there is no key file");
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    server.finish();
}

#[test]
fn sigusr1_prints_the_counters() {
    let mut server = Serving::start(&[]);
    let peer = authenticated(server.address);
    assert_eq!(exchange(&peer, b"hello"), b"HELLO");
    server.running.signal(Signal::USR1);
    let said = server.running.wait_for("accepted");
    assert!(said.contains("accepted 1, authenticated 1"), "{said}");
    assert!(said.ends_with("bytes received 21, sent 37; open 1"), "{said}");
    finish_sending(&peer);
    assert_eq!(rest(&peer).unwrap(), b"");
    server.finish();
}

#[test]
fn signals_that_were_ignored_from_the_start_stay_ignored() {
    let files = Files::new();
    let key = files.key("key", "the key of yesterday\n");
    let mut shell = Command::new("sh");
    // As `nohup` does with SIGHUP, and `&` in a script with SIGINT.
    clean(&mut shell).args(["-c", "trap '' HUP INT && exec \"$0\" \"$@\""]);
    shell.arg(saltecho(&[]).get_program());
    shell.args(["serve", "-l", "127.0.0.1:0", "-k", &key]);
    let mut server = Serving::start_command(&mut shell);
    server.running.signal(Signal::HUP);
    server.running.signal(Signal::INT);
    server.counters();
    let finished = server.finish();
    finished.expect(0, &["SIGHUP was ignored at startup"]);
    let (before, after) = finished.stderr.split_once("accepted 0").expect("the counters");
    assert!(!before.contains("reloaded") && !before.contains("draining"), "{before}");
    assert!(after.contains("draining"), "SIGTERM was not ignored: {after}");
}
