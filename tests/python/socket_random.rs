//! Random programs must have the same outcomes on CPython's sockets and on these, step by step.
//!
//! SALTECHO_PROGRAMS sets their number (default: 1500) and SALTECHO_SEED the first seed (default:
//! from the clock; always printed). A difference is shrunk and printed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use saltecho::socket::ErrorKind;
use serde_json::{Value as Json, json};

use crate::common::needs::PYTHON;
use crate::programs::generate;
use crate::replay::{Played, alone, describe_error, play};

/// The only timeout that expires in a program.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(4);

/// The time after which a program counts as hanging on either side.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn random_programs_end_as_in_cpython() {
    let Some(mut python) = PYTHON.find().map(Python::start) else { return };
    let _alone = alone();
    let count = number("SALTECHO_PROGRAMS").unwrap_or(1500);
    let first = number("SALTECHO_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        since.as_secs() << 20
    });
    println!("SALTECHO_SEED={first} SALTECHO_PROGRAMS={count}");
    let (mut steps, mut unrepeated) = (0, 0);
    for seed in first..first + count {
        let program = generate(seed);
        steps += program.len();
        if python.difference(&program).is_none() {
            continue;
        }
        // Outcomes are deterministic, but a machine can stall past the patience of a `settle` step.
        if python.difference(&program).is_none() && python.difference(&program).is_none() {
            println!("seed {seed}: a difference that did not repeat");
            unrepeated += 1;
            continue;
        }
        let (program, difference) = python.shrink(program);
        let listing: Vec<String> = program.iter().map(Json::to_string).collect();
        panic!("seed {seed}:\n{}\n{difference}", listing.join("\n"));
    }
    println!("{count} programs, {steps} steps, all alike; {unrepeated} differed once");
    assert!(unrepeated * 1000 <= count, "more than one in a thousand programs is not determined");
}

/// One long-lived CPython that plays programs.
struct Python {
    child: Child,
    programs: Option<ChildStdin>,
    outcomes: Receiver<String>,
}

impl Python {
    fn start(mut command: Command) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/socket_driver.py");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 has just been found");
        let programs = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let (sender, outcomes) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, programs, outcomes }
    }

    /// The first step that ends differently, described; `None` if all end alike.
    fn difference(&mut self, program: &[Json]) -> Option<String> {
        let pipe = self.programs.as_mut().expect("open until this is dropped");
        writeln!(pipe, "{}", Json::from(program)).expect("python3 reads its programs");
        let (report, ours) = mpsc::channel();
        let copy = program.to_vec();
        std::thread::spawn(move || report.send(play_here(&copy)));
        let listing = || Json::from(program).to_string();
        let ours: Vec<Json> = ours
            .recv_timeout(LIMIT)
            .unwrap_or_else(|error| panic!("playing here: {error}: {}", listing()));
        let theirs = self
            .outcomes
            .recv_timeout(LIMIT)
            .unwrap_or_else(|error| panic!("playing in python3: {error}: {}", listing()));
        let theirs: Vec<Json> = serde_json::from_str(&theirs).expect("outcomes are JSON");
        assert_eq!(ours.len(), theirs.len(), "every step has its outcome");
        let differs = (0..ours.len()).find(|&i| ours[i] != theirs[i])?;
        let (ours, theirs) = (&ours[differs], &theirs[differs]);
        Some(format!("step {differs}: {}\n  here: {ours}\n  CPython: {theirs}", program[differs]))
    }

    /// A shorter program that still differs.
    ///
    /// Only steps whose absence makes no call wait longer are left out: steps that make a socket or
    /// a file, end a connection, set a mode or wait for arrivals stay.
    fn shrink(&mut self, mut program: Vec<Json>) -> (Vec<Json>, String) {
        let stays = |step: &Json| {
            let what = step["do"].as_str().unwrap_or_default();
            !step["as"].is_null()
                || !step["a"].is_null()
                || ["bind", "listen", "settle", "close", "rst_close", "shutdown"].contains(&what)
                || ["connect", "setblocking", "settimeout"].contains(&what)
        };
        let mut at = program.len();
        while at > 0 {
            at -= 1;
            if stays(&program[at]) {
                continue;
            }
            let mut shorter = program.clone();
            shorter.remove(at);
            if self.difference(&shorter).is_some() && self.difference(&shorter).is_some() {
                program = shorter;
            }
        }
        let difference = self.difference(&program).unwrap_or_else(|| "no longer".to_owned());
        (program, difference)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // The driver ends with its input, unless a program hangs.
        drop(self.programs.take());
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "the driver ended in order");
        }
    }
}

fn play_here(program: &[Json]) -> Vec<Json> {
    let (world, played) = play(program);
    let describe = |played: Played| match played.outcome {
        Ok(value) => json!({ "ok": value.describe(&world) }),
        Err(error) => {
            if error.kind() == ErrorKind::TimeoutError {
                let took = played.elapsed;
                assert!(took >= SHORTEST_TIMEOUT, "a timeout came early: {took:?}");
            }
            json!({ "err": describe_error(&error) })
        }
    };
    played.into_iter().map(describe).collect()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error}")))
}
