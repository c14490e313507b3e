//! `saltecho load --tui` on a pseudo-terminal.

use std::process::Command;

use crate::common::client::PATIENCE;
use crate::common::program::{Serving, clean};
use rexpect::session::{PtySession, spawn_command};
use rustix::process::{Pid, Signal, kill_process};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// A shell that runs a load of an hour on a terminal of 80 by 24 and prints the terminal's settings
/// before it, the pid, the exit code, and the settings after it.
fn load(server: &Serving) -> PtySession {
    const SCRIPT: &str = "trap : INT; stty echo sane rows 24 cols 80; stty -g
        sh -c 'echo $$; exec \"$0\" load \"$1\" -c 5 -r 100 -d 1h --tui' \"$0\" \"$1\"
        echo exit code $?; stty -g; stty -a";
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, env!("CARGO_BIN_EXE_saltecho"), &server.place()]);
    clean(&mut shell).env("TERM", "xterm");
    spawn_command(shell, Some(PATIENCE.as_millis().try_into().unwrap())).unwrap()
}

#[test]
fn ctrl_c_restores_the_terminal_and_prints_the_report() {
    let server = Serving::start(&[]);
    let mut session = load(&server);
    let before = session.read_line().unwrap();
    session.read_line().unwrap();
    session.exp_string(ENTER).unwrap();
    // Only changed cells are drawn; after "starting" and "ramp: 5 of 5" all of these change.
    session.exp_string("measure: ").unwrap();
    session.send("keys that are not shown").unwrap();
    session.send_control('c').unwrap();
    let shown = session.exp_string(LEAVE).unwrap();
    assert!(!shown.contains("keys") && !shown.contains("^C"), "echoed: {shown:?}");
    assert!(shown.contains(SHOW_CURSOR), "{shown:?}");
    let told = session.exp_eof().unwrap();
    let (report, after) = told.split_once("exit code ").unwrap();
    assert!(report.contains("closed") || report.contains("open model"), "{report:?}");
    // On a busy machine the generator is late and says so.
    assert!(after.starts_with('0') || after.starts_with('6'), "{after:?}");
    assert!(after.contains(&before), "{before:?} became {after:?}");
    assert!(after.contains(" echo "), "{after:?}");
    server.finish();
}

#[test]
fn a_fatal_signal_restores_the_terminal_first() {
    let server = Serving::start(&[]);
    for (signal, code) in [(Signal::HUP, 128 + 1), (Signal::QUIT, 128 + 3)] {
        let mut session = load(&server);
        let before = session.read_line().unwrap();
        let pid = session.read_line().unwrap().trim().parse().unwrap();
        session.exp_string(ENTER).unwrap();
        session.exp_string("measure: ").unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        let shown = session.exp_string(LEAVE).unwrap();
        assert!(shown.contains(SHOW_CURSOR), "{shown:?}");
        let told = session.exp_eof().unwrap();
        let after = told.split_once("exit code ").unwrap().1;
        assert!(after.starts_with(&code.to_string()), "{after:?}");
        assert!(after.contains(&before), "{before:?} became {after:?}");
    }
    server.finish();
}
