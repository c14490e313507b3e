//! Outputs of `load`: a result that cannot be written is an error, and no two share a file.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::client::PATIENCE;
use crate::common::program::{
    Files, Running, Serving, Signal, clean, run, saltecho, wait_until_full,
};
use crate::common::run::Script;
use rustix::io::ioctl_fionbio;
use saltecho::load::Mode;

/// Runs a load of a tenth of a second.
const LOAD: [&str; 8] = ["-c", "2", "-r", "100", "-d", "100ms", "--timeout", "10s"];

fn log(files: &Files, name: &str, seconds: u64) -> String {
    let mut script = Script::new(Mode::Echo);
    script.seconds = seconds;
    files.write(name, &script.log().0, 0o600)
}

/// Runs the program with this stdout.
fn into(stdout: impl Into<Stdio>, args: &[&str]) -> Output {
    saltecho(args).stdin(Stdio::null()).stdout(stdout).output().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "no {words:?} in {said:?}");
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let files = Files::new();
    let log = log(&files, "a.hlog", 2);
    let server = Serving::start(&[]);
    let place = server.place();
    let load = [&["load", &place, "-q"], &LOAD[..]].concat();
    for args in [
        &["--help"][..],
        &["load", "--help"],
        &["--version"],
        &["keygen"],
        &["report", &log],
        &["report", "--json", &log],
        &["report", "--compare", &log, &log],
        &["report", "--html", "-", &log],
        &load,
        &[&load[..], &["--json"]].concat(),
        &[&load[..], &["--events", "-"]].concat(),
    ] {
        let output = into(File::create("/dev/full").unwrap(), args);
        expect(&output, 1, "saltecho: error: cannot write to stdout: No space left on device");
    }
    // An unwritable output does not prevent the others.
    let page = files.path().join("page");
    let both = ["report", &log, "--html", page.to_str().unwrap()];
    expect(&into(File::create("/dev/full").unwrap(), &both), 1, "cannot write to stdout");
    assert!(fs::read_to_string(page).unwrap().contains("</html>"));
    let full = run(&["report", &log, "--html", "/dev/full"], b"");
    full.expect(1, &["cannot write /dev/full: No space left on device"]);
    assert!(!full.stdout.is_empty());
    server.finish();
}

#[test]
fn a_reader_may_close_the_pipe_early() {
    let files = Files::new();
    let log = log(&files, "a.hlog", 2);
    let server = Serving::start(&[]);
    let place = server.place();
    let load = [&["load", &place, "-q", "--events", "-"], &LOAD[..]].concat();
    for args in [&["report", &log][..], &["report", "--html", "-", &log], &load] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = into(writer, args);
        // On a busy machine the result may be unreliable.
        let code = output.status.code().unwrap();
        assert!([0, 6].contains(&code), "{code}: {}", String::from_utf8_lossy(&output.stderr));
    }
    server.finish();
}

#[test]
fn a_non_blocking_pipe_gets_everything() {
    let files = Files::new();
    let log = log(&files, "a.hlog", 200);
    let whole = run(&["report", "--json", &log], b"").stdout;
    assert!(whole.len() > 2 << 16, "more than a pipe holds: {}", whole.len());
    let (mut reader, writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    let mut command = saltecho(&["report", "--json", &log]);
    let stdout = writer.try_clone().unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(stdout).spawn().unwrap();
    drop(command);
    wait_until_full(writer);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(read == whole, "{} of {} bytes", read.len(), whole.len());
}

#[test]
fn two_results_do_not_share_a_file() {
    let files = Files::new();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let log = log(&files, "a.hlog", 2);
    let kept = files.write("kept", b"something", 0o600);
    let key = files.key("key", "a key of more than sixteen bytes");
    let [new, symbolic, hard, dangling] = ["new", "symbolic", "hard", "dangling"].map(path);
    symlink(&kept, &symbolic).unwrap();
    fs::hard_link(&kept, &hard).unwrap();
    symlink(&new, &dangling).unwrap();
    let load = |more: &[&str]| run(&[&["load", "127.0.0.1:9", "-k", &key], more].concat(), b"");
    for outputs in [
        ["--events", &new, "--hlog", &new],
        ["--events", &new, "--hlog", &dangling],
        ["--events", &kept, "--html", &kept],
        ["--hlog", &kept, "--html", &symbolic],
        ["--events", &hard, "--hlog", &symbolic],
    ] {
        load(&outputs).expect(2, &["are the same file", outputs[0], outputs[3]]);
    }
    load(&["--events", "/dev/stdout"]).expect(2, &["--events /dev/stdout and stdout are the same"]);
    load(&["--html", &key]).expect(2, &["are the same file", &key]);
    load(&["--html", "-", "--events", "-"]).expect(2, &["--html - both write to stdout"]);
    load(&["--html", "-", "--json"]).expect(2, &["--json and --html - both write to stdout"]);
    run(&["report", &log, "--html", &log], b"").expect(2, &["are the same file"]);
    run(&["report", "--compare", &log, &log, "--html", &log], b"").expect(2, &["the same file"]);

    let taken = File::options().append(true).open(&kept).unwrap();
    let html = ["report", &log, "--html", &symbolic];
    expect(&into(taken.try_clone().unwrap(), &html), 2, "and stdout are the same file");
    let to_stderr = saltecho(&html).stdin(Stdio::null()).stderr(taken).output().unwrap();
    assert_eq!(to_stderr.status.code(), Some(2));

    let stderr = fs::read_to_string(&kept).unwrap();
    assert!(stderr.starts_with("something") && stderr.contains("and stderr are the same file"));
    assert!(fs::read_to_string(&key).unwrap().starts_with("a key of"), "it is not overwritten");
    assert!(fs::symlink_metadata(&dangling).unwrap().is_symlink(), "what was there stays");
    run(&["report", &log], b"").expect(0, &[]);
    // Devices store nothing that could get mixed up.
    let null = ["report", &log, "--html", "/dev/null"];
    expect(&into(File::create("/dev/null").unwrap(), &null), 0, "");
}

#[test]
fn outputs_are_opened_before_the_run_and_overwritten_only_with_a_result() {
    let files = Files::new();
    let old = files.write("old", b"the last page", 0o600);
    let new = files.path().join("new");
    for flag in ["--events", "--hlog", "--html"] {
        // A load of an hour would exceed the test's patience.
        let bad = ["load", "127.0.0.1:9", "-d", "1h", flag, "/nonexistent/x", "--html", &old];
        let bad = if flag == "--html" { &bad[..6] } else { &bad };
        run(bad, b"").expect(2, &["cannot write /nonexistent/x: No such file or directory"]);
    }
    let two = ["load", "--events", new.to_str().unwrap(), "--html", "/nonexistent/x"];
    run(&two, b"").expect(2, &["cannot write /nonexistent/x"]);
    assert!(!new.exists(), "nothing is left of outputs that were refused");
    assert_eq!(fs::read(&old).unwrap(), b"the last page");

    let log = log(&files, "a.hlog", 2);
    run(&["report", &log, "--html", &old], b"").expect(0, &[]);
    let page = fs::read_to_string(&old).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    let long = files.write("long", "x".repeat(1 << 20).as_bytes(), 0o600);
    run(&["report", &log, "--html", &long], b"").expect(0, &[]);
    assert_eq!(fs::read_to_string(&long).unwrap(), page, "nothing is left of what was there");
}

#[test]
fn a_dash_is_stdout_and_the_text_goes_to_stderr() {
    let files = Files::new();
    let log = log(&files, "a.hlog", 2);
    let page = run(&["report", &log, "--html", "-"], b"");
    page.expect(0, &["Verdict: reliable"]);
    assert!(page.stdout.starts_with(b"<!DOCTYPE html>") && page.stdout.ends_with(b"</html>\n"));

    let server = Serving::start(&[]);
    for flag in ["--events", "--hlog", "--html"] {
        let mut command = saltecho(&["load", &server.place(), "-q", flag, "-"]);
        let load = Running::start(command.args(LOAD).current_dir(files.path()), vec![]).wait();
        assert!(load.stderr.contains("Verdict: "), "{load:?}");
        let begin = [("--events", "{"), ("--hlog", "#saltecho load"), ("--html", "<!DOCTYPE")];
        let (_, begin) = begin.into_iter().find(|(known, _)| *known == flag).unwrap();
        assert!(load.stdout.starts_with(begin.as_bytes()), "{load:?}");
    }
    assert!(!files.path().join("-").exists());
    server.finish();
}

#[test]
fn waiting_for_the_reader_of_a_fifo_can_be_interrupted() {
    let files = Files::new();
    let fifo = files.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let load = saltecho(&["load", "127.0.0.1:9", "--events", fifo.to_str().unwrap()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut load = load.unwrap();
    let pid = rustix::process::Pid::from_child(&load);
    // It waits for a reader and prints nothing before; /proc shows the wait.
    let deadline = Instant::now() + PATIENCE;
    let waits = || {
        let status = fs::read_to_string(format!("/proc/{}/status", load.id())).unwrap();
        status.contains("Threads:\t1\n") && status.contains("State:\tS")
    };
    while !waits() {
        assert!(Instant::now() < deadline, "it does not wait");
        std::thread::sleep(Duration::from_millis(2));
    }
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(load.wait().unwrap().code(), None, "ended by the signal");
}

#[test]
fn a_small_stack_is_enough() {
    let files = Files::new();
    let log = log(&files, "a.hlog", 2);
    let program = saltecho(&[]).get_program().to_str().unwrap().to_owned();
    for args in [&["report", &log][..], &["load", "--help"], &["keygen"]] {
        let script = format!("ulimit -s 64; exec {program} {}", args.join(" "));
        let mut shell = Command::new("sh");
        let ended = Running::start(clean(shell.args(["-c", &script])), vec![]).wait();
        ended.expect(0, &[]);
    }
}
