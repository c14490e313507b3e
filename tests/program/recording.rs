//! `serve --record`, `replay` and `explain`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::common::client::{PATIENCE, authenticated, exchange};
use crate::common::program::{Files, Running, Serving, run};

/// A server that was recorded into this file, with two conversations.
fn record(path: &str, flags: &[&str]) -> String {
    let server = Serving::start(&[&["--record", path], flags].concat());
    for _ in 0..2 {
        let client = authenticated(server.address);
        assert_eq!(exchange(&client, b"a very secret message"), b"A VERY SECRET MESSAGE");
    }
    server.finish().stderr
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[test]
fn a_recorded_server_is_replayed_and_explained() {
    let files = Files::new();
    let path = files.path().join("run.rec");
    let path = path.to_str().unwrap();
    record(path, &[]);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(path).unwrap();
    assert!(!bytes.windows(6).any(|window| window.eq_ignore_ascii_case(b"secret")));

    let replayed = run(&["replay", path], b"");
    replayed.expect(0, &[]);
    let said = text(&replayed.stdout);
    assert!(said.starts_with("identical, ") && said.contains(" turns, "), "{said}");

    let state = run(&["replay", path, "--at", "4", "--connection", "1"], b"");
    state.expect(0, &[]);
    assert!(text(&state.stdout).starts_with("turn 4, "), "{}", text(&state.stdout));

    run(&["explain", path, "--connection", "3"], b"").expect(2, &["no step of connection #3 is"]);
    run(&["explain", path, "--to", "0s"], b"").expect(2, &["no step is between --from and --to"]);
    let told = run(&["explain", path, "--connection", "2", "--from", "0s", "--to", "1h"], b"");
    told.expect(0, &[]);
    let told = text(&told.stdout);
    for words in [
        ": short read, so the queue is empty; READABLE cleared (reactor/ready.rs)",
        "#2 has authenticated",
        "send(21) = 21: all of it",
        "#2 has ended: ",
    ] {
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    assert!(!told.contains("c1 "), "another connection's: {told}");
}

/// What `--from` and `--to` are compared with: not the time for which the machine has run.
#[test]
fn times_begin_with_the_loop() {
    let files = Files::new();
    let path = files.path().join("run.rec");
    let path = path.to_str().unwrap();
    let begun = Instant::now();
    record(path, &[]);
    let took = begun.elapsed().as_secs_f64();
    let explained = run(&["explain", path], b"");
    explained.expect(0, &[]);
    let lines = text(&explained.stdout);
    let times = lines.lines().map(|line| line.split_whitespace().next().unwrap());
    let times: Vec<f64> = times.map(|time| time.parse().unwrap()).collect();
    assert!(times.len() > 20 && times.is_sorted(), "{lines}");
    assert!(times.iter().all(|time| *time <= took), "{took} s, but {lines}");
}

#[test]
fn payload_is_kept_only_if_that_is_asked_for() {
    let files = Files::new();
    let path = files.path().join("run.rec");
    let said = record(path.to_str().unwrap(), &["--record-payload"]);
    assert!(said.contains("will have all that clients send"), "{said}");
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.windows(21).any(|window| window == b"a very secret message"));
    run(&["replay", path.to_str().unwrap()], b"").expect(0, &[]);
}

#[test]
fn each_worker_has_a_recording() {
    let files = Files::new();
    let path = files.path().join("run.rec");
    record(path.to_str().unwrap(), &["--workers", "2"]);
    for worker in 1..=2 {
        let path = format!("{}.{worker}", path.display());
        let replayed = run(&["replay", &path], b"");
        replayed.expect(0, &[]);
        assert!(text(&replayed.stdout).starts_with("identical, "));
    }
}

/// Stops the server, and lets it go on if this does not hold then.
fn stopped(running: &Running, holds: &impl Fn() -> bool) -> bool {
    running.signal(Signal::STOP);
    let pid = Pid::from_raw(running.pid().cast_signed());
    waitpid(pid, WaitOptions::UNTRACED).expect("it is our child").expect("it stops");
    let holds = holds();
    if !holds {
        running.signal(Signal::CONT);
    }
    holds
}

/// The server is killed after its recording has lost its beginning: what is left is explained and replayed
/// up to the last turn that was written.
#[test]
fn the_last_part_before_a_crash_is_there() {
    let files = Files::new();
    let [path, next] = ["run.rec", "run.rec.next"].map(|name| files.path().join(name));
    let flags = ["--record", path.to_str().unwrap(), "--record-limit", "64k", "--record-payload"];
    let mut server = Serving::start(&flags);
    let client = authenticated(server.address);
    let len = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let segment = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        let lines = String::from_utf8_lossy(&bytes).into_owned();
        lines.lines().find_map(|line| line.strip_prefix("segment=")?.parse::<u64>().ok())
    };
    let deadline = Instant::now() + PATIENCE;
    let message = vec![b'm'; 4_000];
    let is_long_enough = || segment(&path) >= Some(2) && len(&next) >= 12 << 10;
    // A thread writes the files, and is still behind when the last answer is here.
    while !(is_long_enough() && stopped(&server.running, &is_long_enough)) {
        assert_eq!(exchange(&client, &message).len(), message.len());
        assert!(len(&path) + len(&next) <= 64 << 10, "the limit is that of both");
        assert!(Instant::now() < deadline, "no segment is gone");
    }
    server.running.signal(Signal::KILL);
    server.running.status();
    drop(client);
    for path in [&path, &next] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let path = path.to_str().unwrap();
        let replayed = run(&["replay", path], b"");
        replayed.expect(0, &[]);
        let said = text(&replayed.stdout);
        assert!(said.starts_with("identical, "), "{said}");
        assert!(said.contains("begins with a snapshot after turn "), "{said}");
        assert!(said.contains("the recording is cut off after turn "), "{said}");
        run(&["replay", path, "--at", "1"], b"").expect(2, &["turn 1 is gone"]);
        run(&["replay", path, "--at", "999999"], b"").expect(2, &["there is no turn 999999"]);
        let told = run(&["explain", path], b"");
        told.expect(0, &[]);
        let told = text(&told.stdout);
        let first = told.lines().next().unwrap();
        assert!(first.contains("goes on from a snapshot here, after turn "), "{first}");
        assert!(told.contains("c1 is #1, which is there: echoing, bits "), "{told}");
        let last = told.lines().next_back().unwrap();
        assert!(last.starts_with("the recording is cut off after turn "), "{last}");
        let out = files.path().join("run.html");
        run(&["explain", path, "--html", out.to_str().unwrap()], b"").expect(0, &[]);
        let html = fs::read_to_string(&out).unwrap();
        assert!(html.contains("begins with a snapshot after turn "));
        let out = files.path().join("run.json");
        run(&["explain", path, "--perfetto", out.to_str().unwrap()], b"").expect(0, &[]);
        assert!(fs::read_to_string(&out).unwrap().contains("\"authenticated\""));
    }
    // Without its first file the second is a recording; without the second the first says so.
    fs::remove_file(&next).unwrap();
    let alone = run(&["replay", path.to_str().unwrap()], b"");
    alone.expect(0, &[]);
    assert!(text(&alone.stdout).contains("the recording is cut off after turn "));
}

#[test]
fn nothing_but_an_older_recording_makes_way_for_a_new_one() {
    let files = Files::new();
    let path = files.path().join("run.rec");
    let path = path.to_str().unwrap();
    record(path, &[]);
    let first = fs::read(path).unwrap();
    record(path, &[]);
    assert_eq!(fs::read(format!("{path}.old")).unwrap(), first);
    // A second file goes with its first.
    fs::write(format!("{path}.next"), &first).unwrap();
    record(path, &[]);
    assert_eq!(fs::read(format!("{path}.old.next")).unwrap(), first);
    assert!(!fs::exists(format!("{path}.next")).unwrap());
    record(path, &[]);
    assert!(!fs::exists(format!("{path}.old.next")).unwrap(), "it is no part of this one");

    let other = files.path().join("diary");
    fs::write(&other, "not a recording").unwrap();
    let flags = ["serve", "-l", "127.0.0.1:0", "--record", other.to_str().unwrap()];
    run(&flags, b"").expect(2, &["diary is there, and is no recording: choose another name"]);
    assert_eq!(fs::read(&other).unwrap(), b"not a recording");
}

#[test]
fn what_cannot_be_replayed_is_refused_with_its_reason() {
    let files = Files::new();
    let path = files.path().join("run.rec");
    record(path.to_str().unwrap(), &[]);
    let bytes = fs::read(&path).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let at = bytes.windows(8).position(|window| window == b"\ncommit=").unwrap() + 8;
    let mut other = bytes.clone();
    other[at..at + 4].copy_from_slice(b"0000");
    let other = write("other", &other);
    run(&["replay", &other], b"").expect(2, &["was recorded by commit 0000", "--anyway"]);
    run(&["replay", &other, "--anyway"], b"").expect(0, &[]);

    let mut damaged = bytes.clone();
    let last = damaged.len() - 3;
    damaged[last] ^= 1;
    run(&["replay", &write("damaged", &damaged)], b"").expect(2, &["the recording is damaged"]);
    let newer = [&b"saltecho recording 99\n\n"[..], &bytes].concat();
    run(&["replay", &write("newer", &newer)], b"").expect(2, &["has format 99"]);
    run(&["explain", &write("text", b"hello\n\n")], b"").expect(2, &["not a recording"]);
    for flags in [["--connection", "999"], ["--from", "1h"]] {
        run(&["explain", path.to_str().unwrap(), flags[0], flags[1]], b"")
            .expect(2, &["run.rec: no step"]);
    }
    run(&["replay", "/nowhere"], b"").expect(2, &["cannot open /nowhere"]);
    run(&["serve", "--record-limit", "1m"], b"").expect(2, &["--record-limit", "needs --record"]);
}

#[test]
fn a_recording_becomes_a_page() {
    let files = Files::new();
    let [path, page] = ["run.rec", "run.html"].map(|name| files.path().join(name));
    let (path, out) = (path.to_str().unwrap(), page.to_str().unwrap());
    record(path, &["--idle-timeout", "1h"]);
    run(&["explain", path, "--html", out], b"").expect(0, &[]);
    let html = fs::read_to_string(&page).unwrap();
    let (_, data) = html.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let data = data.split_once("</script>").unwrap().0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let steps = data["runs"][0]["steps"].as_array().unwrap();
    let version = run(&["--version"], b"").stdout;
    let has_commit = !String::from_utf8_lossy(&version).contains("unknown commit");
    // The last value of a key that any state has.
    let last =
        |key: &str| steps.iter().rev().find_map(|step| step[4].get(key).filter(|v| !v.is_null()));
    for stream in ["c1", "c2"] {
        // The digest and the message, the challenge and its answer.
        assert_eq!(last(&format!("{stream}.received")).unwrap(), 16 + 21);
        assert_eq!(last(&format!("{stream}.sent")).unwrap(), 32 + 21);
        assert_eq!(last(&format!("{stream}.stage")).unwrap(), "closed");
        // This build's loop runs beside, if it knows that it is the recorded one.
        assert_eq!(last(&format!("{stream}.deadline")).is_some(), has_commit);
    }
    assert!(html.contains("short read, so the queue is empty") && html.contains("pub fn turn("));

    run(&["explain", path, "--html", out, "--from", "1h"], b"").expect(2, &["no step is between"]);
    run(&["explain", path, "--html", out, "--perfetto", out], b"")
        .expect(2, &["cannot be used with"]);
}
