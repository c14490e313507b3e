//! `saltecho lab`: programs in Python, and programs that do not keep to the protocol.

use crate::common::needs::PYTHON;
use crate::common::program::{Files, Finished, saltecho};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn lab(args: &[&str]) -> Finished {
    // Without a limit: a busy machine may take long for all these processes.
    let output = saltecho(&[&["lab"], args].concat()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Finished { status: output.status, stdout: output.stdout, stderr }
}

fn judge(exercise: &str, seeds: &str, program: &[&str]) -> Finished {
    lab(&[&["run", exercise, "--seeds", seeds, "--"], program].concat())
}

fn stdout(finished: &Finished) -> String {
    String::from_utf8(finished.stdout.clone()).unwrap()
}

#[test]
fn a_complete_loop_in_python_passes() {
    if PYTHON.is_missing() {
        return;
    }
    let echo = format!("{ROOT}/lab/python/echo.py");
    for (exercise, seeds) in [("first-echo", "10"), ("drain", "20"), ("short-sends", "10")] {
        let judged = judge(exercise, seeds, &["python3", &echo]);
        judged.expect(0, &[]);
        assert!(stdout(&judged).starts_with("PASS "), "{}", stdout(&judged));
    }
}

#[test]
fn the_starter_solves_the_first_exercise_and_learns_what_is_missing() {
    if PYTHON.is_missing() {
        return;
    }
    let starter = format!("{ROOT}/lab/python/starter.py");
    judge("first-echo", "20", &["python3", &starter]).expect(0, &[]);
    let judged = judge("door", "20", &["python3", &starter]);
    judged.expect(5, &["the loop failed in exercise 2-door"]);
    let verdict = stdout(&judged);
    let mark =
        "<- from here on nothing will wake it: 1 client waits in the accept queue, no edge left";
    assert!(verdict.contains("error[L03]") && verdict.contains(mark), "{verdict}");
    // The command in the last line repeats it to the letter.
    let again = verdict.lines().last().unwrap().trim();
    let seed = again.split(' ').skip_while(|word| *word != "--seed").nth(1).unwrap();
    let files = Files::new();
    let page = files.path().join("door.html").display().to_string();
    let arguments = ["run", "2", "--seed", seed, "--html", &page, "--", "python3", &starter];
    let repeated = lab(&arguments);
    repeated.expect(5, &["the loop failed in exercise 2-door"]);
    let repeated = stdout(&repeated);
    let hint = "add --html FILE, a page of this run for a browser";
    assert!(verdict.contains(hint), "{verdict}");
    assert_eq!(repeated, verdict.replace(hint, &page), "{again}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("error[L03]") && page.contains("1 client waits in the accept queue"));
}

/// The transcripts in docs/LAB.md are one run, to the letter.
#[test]
fn the_documented_transcripts_are_a_run() {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/LAB.md")).unwrap();
    let is_wire = |line: &&str| line.starts_with("-> ") || line.starts_with("<- ");
    let documented: Vec<_> = page.lines().filter(is_wire).collect();
    let sent = documented.iter().filter_map(|line| line.strip_prefix("<- "));
    let sent: String = sent.map(|line| format!("{line}\n")).collect();
    let files = Files::new();
    let script = files.write("calls.json", sent.as_bytes(), 0o644);
    let judged = lab(&["run", "1", "--seed", "11", "--show-wire", "--", "cat", &script]);
    let seen: Vec<_> = judged.stderr.lines().filter(is_wire).collect();
    assert_eq!(seen, documented);
    assert!(documented.last().unwrap().contains("stop"));
}

#[test]
fn faults_of_the_wire_are_verdicts_of_their_own() {
    const READY: &str = r#"echo '{"id":0,"ok":{}}'; "#;
    let call = |text: &str| format!("{READY} echo '{text}'; cat >/dev/null");
    for (program, fault) in [
        ("echo hello".to_owned(), r#"no JSON: "hello""#),
        ("exit 3".to_owned(), "ended (exit status: 3) after the answer to init"),
        ("exec >&-; cat >/dev/null".to_owned(), "closed its stdout after the answer to init"),
        (r#"echo '{"id":7,"ok":{}}'"#.to_owned(), r#"the answer to init is {"id":0,"ok":{}}"#),
        (call("[]"), "a call is an object"),
        (call(r#"{"id":2,"call":"now"}"#), "the id of this call is to be 1"),
        (call(r#"{"id":1}"#), "the call has no name"),
        (call(r#"{"id":1,"call":"select"}"#), r#""select" is no call; there are poll, now"#),
        (call(r#"{"id":1,"call":"poll"}"#), "timeout_ms is missing"),
        (call(r#"{"id":1,"call":"poll","timeout_ms":-1}"#), "timeout_ms is a number from 0 up"),
        (call(r#"{"id":1,"call":"accept","listener":2}"#), "the listener is 1, not 2"),
        (call(r#"{"id":1,"call":"recv","stream":9,"max":4}"#), "there is no stream 9"),
        (call(r#"{"id":1,"call":"close","stream":"a"}"#), "stream is a whole number"),
        (call(r#"{"id":1,"call":"send","stream":2,"data":"xyz"}"#), "data is not hexadecimal"),
        (call(r#"{"id":1,"call":"register","stream":2,"token":1}"#), "token 1 is the listener's"),
        (format!("{READY} cat >&2"), "silent for 5 s after the answer to init"),
    ] {
        let judged = judge("1", "1", &["sh", "-c", &program]);
        judged.expect(1, &["the program did not keep to the protocol"]);
        let verdict = stdout(&judged);
        assert!(verdict.starts_with("ERROR 1-first-echo, seed 0\n"), "{verdict}");
        assert!(verdict.contains(fault), "{fault:?} expected: {verdict}");
    }
    judge("1", "1", &["./not-there"]).expect(1, &[]);
    lab(&["run", "13", "--", "true"]).expect(2, &["no exercise is called 13", "12-bad-night"]);
}

/// The command in the last line of a verdict is one for a shell.
#[test]
fn the_words_of_a_program_are_quoted() {
    let program = r#"echo '{"id":0,"ok":{}}'
        for id in $(seq 99); do echo "{\"id\":$id,\"call\":\"poll\",\"timeout_ms\":null}"; done
        cat >/dev/null"#;
    // A verdict has one line for it.
    let program = program.replace('\n', ";");
    let judged = judge("1", "1", &["sh", "-c", &program]);
    judged.expect(5, &[]);
    let verdict = stdout(&judged);
    let again = verdict.lines().last().unwrap().trim().strip_prefix("again:    saltecho ");
    let line = format!("exec '{}' {}", env!("CARGO_BIN_EXE_saltecho"), again.expect(&verdict));
    let repeated = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&repeated.stdout), verdict, "{line}");
}

#[test]
fn a_program_that_is_busy_with_nothing_is_stopped() {
    if PYTHON.is_missing() {
        return;
    }
    let starter = format!("{ROOT}/lab/python/starter.py");
    let text = std::fs::read_to_string(starter).unwrap();
    let busy = text.replace("timeout_ms=None", "timeout_ms=0");
    assert_ne!(text, busy);
    let files = Files::new();
    let busy = files.write("busy.py", busy.as_bytes(), 0o644);
    let judged = lab(&["run", "1", "--seed", "0", "--", "python3", &busy]);
    judged.expect(5, &[]);
    assert!(stdout(&judged).contains("error[L22]: the loop is busy with nothing"));
}

#[test]
fn codes_are_explained_and_listed() {
    let explained = lab(&["explain", "L02"]);
    explained.expect(0, &[]);
    assert!(stdout(&explained).contains("mio#1076"), "it names a real program");
    assert_eq!(stdout(&lab(&["explain"])).lines().count(), 24);
    assert_eq!(stdout(&lab(&["list"])).lines().count(), 12);
    lab(&["explain", "L25"]).expect(2, &["the codes are L01 to L24"]);
}
