//! `saltecho connect` on a real pseudo-terminal, as a user types at it.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, and not their helpers.

mod common;

use std::io::{Read, Write};

use common::client::PATIENCE;
use common::fake::fake_server;
use common::program::{Files, Serving, saltecho};
use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};

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
    session.exp_string("`quit` or ctrl-D ends").unwrap();
    for (line, answer) in [("hello", "HELLO\r\n"), ("grüße, 世界", "GRüßE, 世界\r\n")] {
        session.exp_string(PROMPT).unwrap();
        session.send_line(line).unwrap();
        session.exp_string(&as_read(answer)).unwrap();
    }
    // Ctrl-C gives up the line, not the session; arrow-up brings back the last line sent. The
    // first prompt behind an answer shows that the keys will be read as keys.
    session.exp_string(PROMPT).unwrap();
    session.send("never sent").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("`quit` or ctrl-D ends").unwrap();
    session.exp_string(PROMPT).unwrap();
    session.send("\x1b[A\x1b[A").unwrap();
    session.send_line("").unwrap();
    session.exp_string("HELLO\r\n").unwrap();
    // Blank lines are not sent: the server would have nothing to answer.
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
    let server = Serving::start(&["--bufsize", "7"]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string(PROMPT).unwrap();
    // More than the tutorial's single recv(1024) would have shown.
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
fn a_refusal_is_told_before_the_first_prompt() {
    let server = Serving::start(&[]);
    let (code, said) = exit_code(terminal(&[&server.place(), "--mac", "sha256"]));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("refused us") && !said.contains(PROMPT), "{said}");
    server.finish();
}

#[test]
fn control_characters_of_the_server_are_spelt_out() {
    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 9]).unwrap();
        stream.write_all(b"\x1b[2J\r\n\x07\xff!").unwrap();
        // Until the client ends.
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
fn a_part_of_an_answer_is_shown_and_does_not_pass_for_the_whole() {
    for (stays, code, words) in [
        (true, 4, "only 3 of the answer's 5 bytes came from"),
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
fn a_server_that_ends_is_noticed_with_the_next_line() {
    let server = Serving::start(&[]);
    let mut session = terminal(&[&server.place()]);
    session.exp_string(PROMPT).unwrap();
    session.send_line("hello").unwrap();
    session.exp_string("HELLO\r\n").unwrap();
    session.exp_string(PROMPT).unwrap();
    server.finish();
    session.send_line("anybody there?").unwrap();
    let (code, said) = exit_code(session);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("closed the connection"), "{said}");
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
fn a_pipe_onto_a_terminal_is_spelt_out_too() {
    let server = Serving::start(&["--reply", "same"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "printf 'one\\033[2J\\ntwo\\n' | \"$0\" connect \"$1\""]);
    shell.arg(env!("CARGO_BIN_EXE_saltecho")).arg(server.place()).env("TERM", "xterm");
    let (code, said) = exit_code(spawn_command(shell, Some(20_000)).unwrap());
    assert_eq!((code, said.as_str()), (0, "one\\x1b[2J\r\ntwo\r\n"));
    server.finish();
}

#[test]
fn errors_are_coloured_on_a_terminal_unless_no_color_is_set() {
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
