//! The tutorial's client and server, in Python and in Rust: each client works with each server, and
//! `docs/PYTHON_AND_RUST.md` shows exactly these programs. The program can replace either without a
//! visible difference.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::common::client::pattern;
use crate::common::needs::PYTHON;
use crate::common::pages::{LIMIT, blocks, example, finish, read};
use crate::common::program::{Files, Finished, Running, Serving, run, run_command, saltecho};
use crate::common::python::python;
use rexpect::process::WaitStatus;
use rexpect::session::spawn_command;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Rust,
}

use Language::{Python, Rust};

impl Language {
    fn program(self, part: &str) -> Command {
        match self {
            Rust => example(&format!("python_{part}")),
            Python => {
                let mut python = Command::new("python3");
                let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
                // Unbuffered, because the port is read while the server runs.
                python.arg("-u").arg(format!("{directory}/tutorial_{part}.py"));
                python.env("PYTHONUTF8", "1");
                python
            }
        }
    }

    /// The languages that are installed.
    fn all() -> Vec<Self> {
        if PYTHON.is_missing() { vec![Rust] } else { vec![Python, Rust] }
    }
}

/// A server that runs until it is dropped.
struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start(language: Language) -> Self {
        Self::start_command(&mut language.program("server"))
    }

    fn start_command(command: &mut Command) -> Self {
        let mut child =
            command.arg("0").stdout(Stdio::piped()).spawn().expect("the server can be started");
        let lines = BufReader::new(child.stdout.take().expect("its output was asked for"));
        let mut server = Self { child, lines, port: 0 };
        let line = server.line();
        let port = line.strip_prefix("listening on 127.0.0.1:").expect("where it listens");
        server.port = port.parse().expect("a port");
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the server prints lines");
        line.trim_end().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which the test notices elsewhere.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn talk(language: Language, port: u16, input: &str) -> String {
    let mut client = language
        .program("client")
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client can be started");
    let mut stdin = client.stdin.take().expect("its input was asked for");
    stdin.write_all(input.as_bytes()).expect("a few lines fit into a pipe");
    drop(stdin);
    finish(client, &format!("the client in {language:?}"))
}

#[test]
fn each_client_talks_to_each_server() {
    let languages = Language::all();
    for &server in &languages {
        let mut running = Server::start(server);
        for &client in &languages {
            let printed = talk(client, running.port, "hello\n\n   \n  Grüße, 世界  \nquit\n");
            let expected = ">>>HELLO\n>>>>>>>>>GRüßE, 世界\n>>>";
            assert_eq!(printed, expected, "client in {client:?}, server in {server:?}");
            assert_eq!(running.line(), "accepted");
        }
    }
}

#[test]
fn a_client_without_the_key_is_refused() {
    for language in Language::all() {
        let mut server = Server::start(language);
        let mut unauthenticated =
            TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
        unauthenticated.set_read_timeout(Some(LIMIT)).expect("a time-out that is not zero");
        unauthenticated.read_exact(&mut [0; 32]).expect("the server speaks first");
        unauthenticated.write_all(&[0; 16]).expect("the server is there");
        assert_eq!(unauthenticated.read(&mut [0]).expect("an end, not an error"), 0);
        assert_eq!(server.line(), "refused");
        assert_eq!(talk(Rust, server.port, "next\nquit\n"), ">>>NEXT\n>>>");
    }
}

/// A program's output and exit code, without the port, which differs from run to run.
fn outcome(finished: &Finished, port: u16) -> (i32, Vec<u8>, String) {
    let said = finished.stderr.replace(&port.to_string(), "PORT");
    (finished.code(), finished.stdout.clone(), said)
}

/// Runs the tutorial's unmodified client against a server at this port.
fn tutorial_client(port: u16) -> Command {
    let mut client = python("tutorial_client.py").unwrap();
    client.arg(port.to_string()).env("PYTHONUTF8", "1");
    client
}

#[test]
fn the_tutorials_client_cannot_tell_the_program_from_its_own_server() {
    if PYTHON.is_missing() {
        return;
    }
    let (tutorial, program) = (Server::start(Python), Serving::start(&[]));
    // Few lines: on a busy machine each waits for a CPU four times.
    let long = format!("{}\n", "long line ".repeat(100)).repeat(10);
    let many: String = (0..30).map(|number| format!("line {number}\n")).collect();
    for (input, code, ends) in [
        ("hello\nquit\n", 0, ">>>HELLO\n>>>"),
        ("\n   \n\t\n  Grüße, 世界  \nquit\n", 0, ">>>>>>>>>>>>GRüßE, 世界\n>>>"),
        ("{}[]`~@ az AZ 09\nquit\nnever sent\n", 0, ">>>{}[]`~@ AZ AZ 09\n>>>"),
        ("quit\n", 0, ">>>"),
        (&format!("{many}quit\n"), 0, "LINE 29\n>>>"),
        (&format!("{long}quit\n"), 0, "LONG LINE\n>>>"),
        // Its input ends without `quit`, which raises an exception in the client.
        ("hello\n", 1, ">>>HELLO\n>>>"),
        ("", 1, ">>>"),
    ] {
        let [from_tutorial, from_program] = [tutorial.port, program.address.port()]
            .map(|port| outcome(&run_command(&mut tutorial_client(port), input.as_bytes()), port));
        assert_eq!(from_program, from_tutorial, "{:?}", &input[..input.len().min(40)]);
        let (ended, printed, _) = from_program;
        assert_eq!(ended, code);
        assert!(str::from_utf8(&printed).unwrap().ends_with(ends), "{input:?}: {printed:?}");
    }
    program.finish().expect(0, &["accepted 8, authenticated 8", "8 peer finished"]);
}

#[test]
fn the_tutorials_client_is_refused_in_the_same_way() {
    if PYTHON.is_missing() {
        return;
    }
    // Client and server have the key in their source; a changed source has another key.
    let files = Files::new();
    let text = read("tests/python/tutorial_server.py");
    let other = text.replace("linhaifeng bang bang bang", "not the key of the client");
    assert_ne!(text, other);
    let other = files.write("server.py", other.as_bytes(), 0o600);
    let key = files.key("key", "not the key of the client");
    let mut command = Command::new("python3");
    let tutorial = Server::start_command(command.args(["-u", &other]));
    let mut program = Serving::start(&["-v", "-k", &key]);
    let port = program.address.port();
    let from_program =
        refused_client(port, || drop(program.running.wait_for("authentication failed")));
    let mut running = tutorial;
    let port = running.port;
    let from_tutorial = refused_client(port, || {
        assert_eq!(running.line(), "refused");
        // It closes the connection afterwards, and only then accepts the next.
        let mut next = TcpStream::connect(("127.0.0.1", port)).unwrap();
        next.read_exact(&mut [0; 32]).unwrap();
    });
    assert_eq!(from_program, from_tutorial);
    let (code, printed, said) = from_program;
    assert_eq!((code, printed.as_slice()), (1, &b">>>\n>>>"[..]));
    assert!(said.ends_with("BrokenPipeError: [Errno 32] Broken pipe\n"), "{said}");
    program.finish().expect(0, &["accepted 1, authenticated 0", "1 wrong digest"]);
}

/// The outcome of a client that sends its lines after it has been refused.
fn refused_client(port: u16, mut wait: impl FnMut()) -> (i32, Vec<u8>, String) {
    let (stdin, mut keyboard) = std::io::pipe().unwrap();
    let client = Running::start_with_stdin(tutorial_client(port).stdin(stdin));
    wait();
    keyboard.write_all(b"hello\nagain\nquit\n").unwrap();
    outcome(&client.wait(), port)
}

#[test]
fn connect_cannot_tell_the_tutorials_server_from_the_programs() {
    if PYTHON.is_missing() {
        return;
    }
    let files = Files::new();
    let wrong = files.key("key", "not the key that the server has");
    let mut tutorial = Server::start(Python);
    let program = Serving::start(&[]);
    let large = pattern(5 << 20);
    for (args, input, code, verdict) in [
        (&[][..], &b"hello\n"[..], 0, "accepted"),
        (&[], b"", 0, "accepted"),
        (&[], b"\n\n", 0, "accepted"),
        (&[], b"quit\n", 0, "accepted"),
        (&[], b"no line feed, and \xff\x00 bytes", 0, "accepted"),
        (&[], &large, 0, "accepted"),
        (&["-k", &wrong], b"hello\n", 3, "refused"),
        (&["-k", &wrong], b"", 3, "refused"),
        (&["--mac", "sha256"], b"hello\n", 3, "refused"),
    ] {
        let [from_tutorial, from_program] = [tutorial.port, program.address.port()].map(|port| {
            let place = format!("127.0.0.1:{port}");
            outcome(&run(&[&["connect", &place], args].concat(), input), port)
        });
        assert!(from_program == from_tutorial, "{args:?}, {} bytes", input.len());
        assert_eq!(from_program.0, code, "{args:?}: {}", from_program.2);
        let answer = if code == 0 { input.to_ascii_uppercase() } else { Vec::new() };
        assert!(from_program.1 == answer, "{args:?}: {} bytes came back", from_program.1.len());
        assert_eq!(tutorial.line(), verdict);
    }
    program.finish().expect(0, &["accepted 9, authenticated 6"]);
}

#[test]
fn the_prompt_cannot_tell_the_tutorials_server_from_the_programs() {
    if PYTHON.is_missing() {
        return;
    }
    let (tutorial, program) = (Server::start(Python), Serving::start(&[]));
    for port in [tutorial.port, program.address.port()] {
        let mut command = saltecho(&["connect", &format!("127.0.0.1:{port}")]);
        command.env("TERM", "dumb");
        let patience = u64::try_from(LIMIT.as_millis()).unwrap();
        let mut session = spawn_command(command, Some(patience)).unwrap();
        let long = "long line ".repeat(300);
        for (line, answer) in [("hello", "HELLO"), ("", ""), (&long, &long.to_uppercase())] {
            session.exp_string(">>> ").unwrap();
            session.send_line(line).unwrap();
            session.exp_string(answer).unwrap();
        }
        session.exp_string(">>> ").unwrap();
        session.send_line("quit").unwrap();
        session.exp_eof().unwrap();
        assert!(matches!(session.process().wait().unwrap(), WaitStatus::Exited(_, 0)));
    }
    program.finish().expect(0, &["accepted 1, authenticated 1", "1 peer finished"]);
}

#[test]
fn the_page_shows_the_programs_that_ran() {
    let page = read("docs/PYTHON_AND_RUST.md");
    let (server, client) = page.split_once("\n## The client\n").expect("two parts");
    for (part, text) in [("server", server), ("client", client)] {
        // Definitions are separated by two blank lines in Python, by one in Rust.
        let python = blocks(text, "python").join("\n\n");
        assert_eq!(python, read(&format!("tests/python/tutorial_{part}.py")));
        let rust = blocks(text, "rust").join("\n");
        assert_eq!(rust, read(&format!("examples/python_{part}.rs")));
    }
}
