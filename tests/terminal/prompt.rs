//! `saltecho connect` on a pseudo-terminal, as a user types at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use crate::common::client::PATIENCE;
use crate::common::fake::{fake_server, fake_server_from_the_start};
use crate::common::needs::say;
use crate::common::program::{Files, Serving, Signal, saltecho};
use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command, spawn_stream};
use rustix::fs::{Mode, OFlags};
use rustix::io::ioctl_fionbio;
use rustix::process::kill_process;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp};

const PROMPT: &str = ">>> ";

fn terminal(args: &[&str]) -> PtySession {
    let mut command = saltecho(&[&["connect"], args].concat());
    command.env("TERM", "xterm");
    let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
    spawn_command(command, Some(patience)).unwrap()
}

/// A text as rexpect reads it: each byte as a character.
fn as_read(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

/// The text without the sequences that color an error's first word.
fn without_colors(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part
            .split_once('m')
            .filter(|(code, _)| code.len() < 8)
            .map_or(part, |(_, rest)| rest)
    })
}

/// The exit code, once the terminal has been read to its end.
fn exit_code(mut session: PtySession) -> (i32, String) {
    let said = session.exp_eof().unwrap();
    match session.process().wait().unwrap() {
        WaitStatus::Exited(_, code) => (code, said),
        other => panic!("{other:?} after {said:?}"),
    }
}

#[test]
fn lines_go_out_and_answers_come_back() {
    let server = Serving::start(&[]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string("connected to 127.0.0.1:").unwrap();
    session.exp_string("`quit` or Ctrl-D exits").unwrap();
    for (line, answer) in [("hello", "HELLO\r\n"), ("grüße, 世界", "GRüßE, 世界\r\n")] {
        session.exp_string(PROMPT).unwrap();
        session.send_line(line).unwrap();
        session.exp_string(&as_read(answer)).unwrap();
    }
    // Ctrl-C cancels the line, not the session; arrow-up recalls the last line sent. After the
    // first answer's prompt the terminal is in raw mode.
    session.exp_string(PROMPT).unwrap();
    session.send("never sent").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("`quit` or Ctrl-D exits").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send("\x1b[A\x1b[A").unwrap();
    session.send_line("").unwrap();
    session.exp_string("HELLO\r\n").unwrap();
    // Blank lines are not sent: there would be nothing to answer.
    for blank in ["", "   "] {
        session.exp_string(PROMPT).unwrap();
        session.send_line(blank).unwrap();
    }
    session.exp_string(PROMPT).unwrap();
    session.send_line(" quit ").unwrap();
    assert_eq!(exit_code(session).0, 0);
    // The digest, `hello` twice, and 15 bytes of UTF-8.
    server.finish().expect(0, &["authenticated 1; bytes received 41", "1 peer finished"]);
}

#[test]
fn ctrl_d_ends_too() {
    let server = Serving::start(&[]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string(PROMPT).unwrap();
    session.send_control('d').unwrap();
    assert_eq!(exit_code(session).0, 0);
    server.finish();
}

#[test]
fn a_long_line_is_answered_whole() {
    let server = Serving::start(&["--recv-size", "7"]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string(PROMPT).unwrap();
    // More than the tutorial's single recv(1024) would show.
    let line = "saltecho ".repeat(300);
    session.send_line(&line).unwrap();
    session.exp_string(&format!("{}\r\n", line.to_uppercase())).unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("next").unwrap();
    session.exp_string("NEXT\r\n").unwrap();
    session.send_line("quit").unwrap();
    assert_eq!(exit_code(session).0, 0);
    server.finish();
}

#[test]
fn a_refusal_is_reported_before_the_first_prompt() {
    let server = Serving::start(&[]);
    let (code, said) = exit_code(terminal(&[&server.place(), "--mac", "sha256"]));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("authentication failed") && !said.contains(PROMPT), "{said}");
    server.finish();
}

#[test]
fn control_characters_from_the_server_are_escaped() {
    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 9]).unwrap();
        stream.write_all(b"\x1b[2J\r\n\x07\xff!").unwrap();
        // Until the client closes.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let mut session = terminal(&[&place]);
    session.exp_string(PROMPT).unwrap();
    session.send_line("nine byte").unwrap();
    session.exp_string("\\x1b[2J\\r\\n\\x07\\xff!\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("quit").unwrap();
    assert_eq!(exit_code(session).0, 0);
}

#[test]
fn a_partial_answer_is_shown_and_marked_as_partial() {
    for (stays, code, words) in [
        (true, 4, "received only 3 of 5 bytes of the answer from"),
        (false, 1, "before it closed the connection"),
    ] {
        let place = fake_server(move |mut stream| {
            stream.read_exact(&mut [0; 5]).unwrap();
            stream.write_all(b"HEL").unwrap();
            if stays {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
        });
        let mut session = terminal(&[&place, "--timeout", "300ms"]);
        session.exp_string(PROMPT).unwrap();
        session.send_line("hello").unwrap();
        session.exp_string("HEL\r\n").unwrap();
        let (ended, said) = exit_code(session);
        assert_eq!(ended, code, "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn the_end_of_the_server_is_noticed_at_once() {
    for (typed, words) in [
        ("", "error: 127.0.0.1:"),
        ("never sent", "error: the line above was not sent: 127.0.0.1:"),
    ] {
        let server = Serving::start(&[]);
        let mut session = terminal(&[&server.place()]);
        session.exp_string(PROMPT).unwrap();
        session.send_line("hello").unwrap();
        session.exp_string("HELLO\r\n").unwrap();
        session.exp_string(PROMPT).unwrap();
        session.send(typed).unwrap();
        session.flush().unwrap();
        session.exp_string(typed).unwrap();
        server.finish();
        let (code, said) = exit_code(session);
        assert_eq!(code, 1, "{said}");
        let said = without_colors(&said);
        assert!(said.contains(words) && said.contains("closed the connection"), "{said}");
    }
}

#[test]
fn lines_typed_ahead_are_all_answered() {
    let server = Serving::start(&[]);
    let mut session = terminal(&[&server.place()]);
    // All at once before the first prompt, with a canceled line in between and the end of input
    // behind them.
    let lines: Vec<String> = (0..50).map(|number| format!("line {number}\r")).collect();
    session.send(&lines[..25].concat()).unwrap();
    session.flush().unwrap();
    session.exp_string("LINE 24\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send(&(lines[25..].concat() + "given up\x03last\r\x04")).unwrap();
    session.flush().unwrap();
    let (code, said) = exit_code(session);
    assert_eq!(code, 0, "{said}");
    for number in 25..50 {
        assert!(said.contains(&format!("LINE {number}\r\n")), "{number}: {said}");
    }
    assert!(said.contains("LAST\r\n") && !said.contains("GIVEN UP"), "{said}");
    server.finish().expect(0, &["1 peer finished"]);
}

#[test]
fn a_paste_of_several_lines_is_one_message() {
    let server = Serving::start(&[]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string("\x1b[?2004h").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send("<\x1b[200~one\rtwo\r\nquit\x1b[201~>\r").unwrap();
    session.flush().unwrap();
    session.exp_string("<ONE\\nTWO\\nQUIT>\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_control('d').unwrap();
    assert_eq!(exit_code(session).0, 0);
    // The digest, and the message.
    server.finish().expect(0, &["bytes received 30"]);
}

#[test]
fn bytes_that_are_not_utf_8_are_sent_as_they_are() {
    let server = Serving::start(&[]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string(PROMPT).unwrap();
    let mut keyboard = session.process().get_file_handle().unwrap();
    keyboard.write_all(b"caf\xe9 one\rtwo\r").unwrap();
    session.exp_string("CAF\\xe9 ONE\r\n").unwrap();
    session.exp_string("TWO\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("quit").unwrap();
    assert_eq!(exit_code(session).0, 0);
    server.finish().expect(0, &["bytes received 27"]);
}

/// Fails unless this signal ended it; returns its last line.
fn signalled(session: &mut PtySession, signal: Signal) -> String {
    let said = session.exp_eof().unwrap();
    match session.process().wait().unwrap() {
        WaitStatus::Signaled(_, by, _) => assert_eq!(by as i32, signal.as_raw(), "{said:?}"),
        other => panic!("{other:?} after {said:?}"),
    }
    said.rsplit('\n').next().unwrap_or_default().to_owned()
}

/// True if the terminal is in line mode with signal keys, as a shell expects.
fn is_usual(terminal: impl AsFd) -> bool {
    tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ISIG)
}

#[test]
fn fatal_signals_leave_a_usable_terminal() {
    let server = Serving::start(&[]);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut session = terminal(&[&server.place()]);
        let tty = session.process().get_file_handle().unwrap();
        assert!(is_usual(&tty));
        session.exp_string(PROMPT).unwrap();
        session.send("half a line").unwrap();
        session.flush().unwrap();
        session.exp_string("half a line").unwrap();
        assert!(!is_usual(&tty), "the prompt reads keys");
        // The program leads the terminal's only process group.
        kill_process(tcgetpgrp(&tty).unwrap(), signal).unwrap();
        assert_eq!(signalled(&mut session, signal), "\x1b[?2004l");
        assert!(is_usual(&tty), "{signal:?}");
    }
    server.finish();
}

#[test]
fn a_shell_can_suspend_and_continue_it() {
    let server = Serving::start(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "set -m; \"$0\" connect \"$1\"; echo stopped: $?; fg >&2; echo ended: $?"]);
    shell.arg(saltecho(&[]).get_program()).arg(server.place()).env("TERM", "xterm");
    let mut session = spawn_command(shell, Some(20_000)).unwrap();
    let tty = session.process().get_file_handle().unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send("half").unwrap();
    session.send_control('z').unwrap();
    session.exp_string("\x1b[?2004l").unwrap();
    session.exp_string("stopped: ").unwrap();
    // After SIGCONT it continues with the line.
    session.exp_string(">>> half").unwrap();
    session.send_line(" and half").unwrap();
    session.exp_string("HALF AND HALF\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    assert!(!is_usual(&tty));
    session.send_line("quit").unwrap();
    session.exp_string("ended: 0").unwrap();
    assert!(is_usual(&tty));
    session.exp_eof().unwrap();
    server.finish();
}

#[test]
fn the_session_may_have_been_opened_outside_the_container() {
    let mut container = std::process::Command::new("unshare");
    container.args(["--user", "--map-root-user", "--pid", "--fork", "--"]);
    let mut probe = std::process::Command::new(container.get_program());
    if !probe.args(container.get_args()).arg("true").status().is_ok_and(|status| status.success()) {
        say("NOT TESTED where PID namespaces cannot be made: sessions from outside");
        return;
    }
    let server = Serving::start(&[]);
    // The shell waits, so that the program has a parent here; their session's leader is outside.
    container.args(["sh", "-c", "\"$0\" connect \"$1\"; echo ended: $?"]);
    container.arg(saltecho(&[]).get_program()).arg(server.place()).env("TERM", "xterm");
    let mut session = spawn_command(container, Some(20_000)).unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("hello").unwrap();
    session.exp_string("HELLO\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("quit").unwrap();
    session.exp_string("ended: 0").unwrap();
    session.exp_eof().unwrap();
    server.finish();
}

#[test]
fn a_long_wait_is_announced_and_ctrl_c_ends_it() {
    // The kernel completes the connection; the program never accepts it.
    let place = fake_server_from_the_start(|_held| {
        loop {
            std::thread::park();
        }
    });
    let mut session = terminal(&[&place, "--timeout", "off"]);
    session.exp_string(&format!("waiting for {place}")).unwrap();
    session.send_control('c').unwrap();
    signalled(&mut session, Signal::INT);

    let place = fake_server(|_held| {
        loop {
            std::thread::park();
        }
    });
    let mut session = terminal(&[&place, "--timeout", "off"]);
    let tty = session.process().get_file_handle().unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("hello").unwrap();
    session.exp_string(&format!("waiting for {place}; Ctrl-C exits")).unwrap();
    session.send("typed ahead\x03").unwrap();
    session.flush().unwrap();
    signalled(&mut session, Signal::INT);
    assert!(is_usual(&tty));
}

#[test]
fn a_terminal_without_escape_sequences_uses_its_own_line_editing() {
    let server = Serving::start(&[]);
    for kind in ["dumb", ""] {
        let mut command = saltecho(&["connect", &server.place()]);
        command.env("TERM", kind);
        let mut session = spawn_command(command, Some(20_000)).unwrap();
        session.exp_string(PROMPT).unwrap();
        session.send_line("one").unwrap();
        session.exp_string("ONE\r\n>>> ").unwrap();
        // A line that ends with the end of input instead of Enter.
        session.send("two\x04\x04").unwrap();
        session.flush().unwrap();
        let (code, said) = exit_code(session);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("TWO\r\n") && !said.contains('\x1b'), "{said:?}");
    }
    server.finish();
}

#[test]
fn a_terminal_may_be_non_blocking_and_not_the_controlling_one() {
    let server = Serving::start(&[]);
    let Ok(ours) = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY) else {
        say("NOT TESTED without /dev/ptmx: a terminal that does not control the process");
        return;
    };
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let open = || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        ioctl_fionbio(&theirs, true).unwrap();
        theirs
    };
    let mut command = saltecho(&["connect", &server.place()]);
    command.env("TERM", "xterm").stdin(open()).stdout(open()).stderr(open());
    let mut child = command.spawn().unwrap();
    drop(command);
    let keyboard = File::from(ours);
    let screen = keyboard.try_clone().unwrap();
    let mut session = spawn_stream(screen, keyboard, Some(20_000));
    session.exp_string(PROMPT).unwrap();
    // More than a terminal's buffer holds.
    let line = "saltecho ".repeat(2_000);
    session.send(&(line.clone() + "\r")).unwrap();
    session.flush().unwrap();
    session.exp_string(&(line.to_uppercase() + "\r\n")).unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send("quit\r").unwrap();
    session.flush().unwrap();
    assert!(child.wait().unwrap().success());
    server.finish();
}

#[test]
fn answers_can_go_to_a_file_while_the_prompt_stays_here() {
    let server = Serving::start(&[]);
    let files = Files::new();
    let output = files.path().join("answers");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" connect \"$1\" > \"$2\"", env!("CARGO_BIN_EXE_saltecho")]);
    shell.arg(server.place()).arg(&output).env("TERM", "xterm");
    let mut session = spawn_command(shell, Some(20_000)).unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("into the file").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send_line("quit").unwrap();
    assert_eq!(exit_code(session).0, 0);
    assert_eq!(std::fs::read(&output).unwrap(), b"INTO THE FILE\n");
    server.finish();
}

#[test]
fn output_to_a_terminal_from_a_pipe_is_escaped_too() {
    let server = Serving::start(&["--reply", "same"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "printf 'one\\033[2J\\ntwo\\n' | \"$0\" connect \"$1\""]);
    shell.arg(env!("CARGO_BIN_EXE_saltecho")).arg(server.place()).env("TERM", "xterm");
    let (code, said) = exit_code(spawn_command(shell, Some(20_000)).unwrap());
    assert_eq!((code, said.as_str()), (0, "one\\x1b[2J\r\ntwo\r\n"));
    server.finish();
}

#[test]
fn errors_are_colored_on_a_terminal_unless_no_color_is_set() {
    for (no_color, coloured) in [(None, true), (Some("1"), false)] {
        let mut command = saltecho(&["connect", "127.0.0.1:9999", "-k", "/nonexistent"]);
        command.env("TERM", "xterm");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let (code, said) = exit_code(spawn_command(command, Some(20_000)).unwrap());
        assert_eq!(code, 2, "{said}");
        assert_eq!(said.contains('\x1b'), coloured, "{said:?}");
    }
}
