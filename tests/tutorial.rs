//! The tutorial's client and server, in Python and in Rust: each client talks to each server, and
//! `docs/PYTHON_AND_RUST.md` shows the very programs that do so.
#![cfg(feature = "socket")]

#[path = "common/needs.rs"]
mod needs;
#[path = "common/pages.rs"]
mod pages;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use needs::PYTHON;
use pages::{LIMIT, blocks, example, finish, read};

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
                // Unbuffered, since the port is read while the server goes on.
                python.arg("-u").arg(format!("{directory}/tutorial_{part}.py"));
                python.env("PYTHONUTF8", "1");
                python
            }
        }
    }

    /// Those that are there.
    fn all() -> Vec<Self> {
        if PYTHON.is_missing() { vec![Rust] } else { vec![Python, Rust] }
    }
}

/// A server that is running, until it is dropped.
struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start(language: Language) -> Self {
        let mut child = language
            .program("server")
            .arg("0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server can be started");
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
        // It may have ended by itself, which the test has noticed otherwise.
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
fn who_does_not_have_the_key_is_refused() {
    for language in Language::all() {
        let mut server = Server::start(language);
        let mut stranger = TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
        stranger.set_read_timeout(Some(LIMIT)).expect("a time-out that is not zero");
        stranger.read_exact(&mut [0; 32]).expect("the server speaks first");
        stranger.write_all(&[0; 16]).expect("the server is there");
        assert_eq!(stranger.read(&mut [0]).expect("an end, not an error"), 0);
        assert_eq!(server.line(), "refused");
        assert_eq!(talk(Rust, server.port, "next\nquit\n"), ">>>NEXT\n>>>");
    }
}

#[test]
fn the_page_shows_the_programs_that_ran() {
    let page = read("docs/PYTHON_AND_RUST.md");
    let (server, client) = page.split_once("\n## The client\n").expect("two parts");
    for (part, text) in [("server", server), ("client", client)] {
        // Two blank lines stand between Python's definitions, one between Rust's.
        let python = blocks(text, "python").join("\n\n");
        assert_eq!(python, read(&format!("tests/python/tutorial_{part}.py")));
        let rust = blocks(text, "rust").join("\n");
        assert_eq!(rust, read(&format!("examples/python_{part}.rs")));
    }
}
