//! The log of `saltecho serve`: bursts are logged completely, and losses are counted.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::common::client::{PATIENCE, authenticated, connect, exchange, fill};
use crate::common::program::{Files, Serving, clean, run, saltecho, terminate, wait_for_port};

#[test]
fn a_burst_of_connections_is_logged_whole() {
    const AT_ONCE: usize = 400;
    const ROUNDS: usize = 10;
    let server = Serving::start(&["-v"]);
    for _ in 0..ROUNDS {
        let connections: Vec<TcpStream> =
            (0..AT_ONCE).map(|_| authenticated(server.address)).collect();
        for connection in &connections {
            assert_eq!(exchange(connection, b"hello"), b"HELLO");
        }
    }
    // Connections not yet closed are drained and logged, too.
    let said = server.finish().stderr;
    for word in [" new from 127.0.0.1:", " authenticated", " closed: "] {
        let about = said.lines().filter(|line| line.starts_with("saltecho: #"));
        assert_eq!(about.filter(|line| line.contains(word)).count(), AT_ONCE * ROUNDS, "{word}");
    }
    assert!(!said.contains(" lost"));
}

#[test]
fn failed_authentications_are_logged_with_their_address() {
    let mut server = Serving::start(&[]);
    run(&["connect", &server.place(), "--mac", "sha256"], b"hello").expect(3, &[]);
    let line = server.running.wait_for("#1 closed: authentication failed (wrong digest)");
    assert!(line.contains(", from 127.0.0.1:"), "{line}");
    run(&["connect", &server.place()], b"hello").expect(0, &[]);
    let said = server.finish().stderr;
    assert!(!said.contains("#2"), "{said}");

    let mut server = Serving::start(&["--auth-timeout", "100ms"]);
    let (silent, _) = connect(server.address);
    let line = server.running.wait_for("#1 closed: authentication timed out");
    assert!(line.ends_with(&format!(", from {}", silent.local_addr().unwrap())), "{line}");
    server.finish();
}

#[test]
fn a_log_at_its_size_limit_does_not_stop_the_server_and_losses_are_counted() {
    let files = Files::new();
    let (path, port_file) = (files.path().join("log"), files.path().join("port"));
    let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let program = saltecho(&[]);
    let mut shell = Command::new("sh");
    clean(&mut shell).args(["-c", "ulimit -f 8 && exec \"$0\" \"$@\""]).arg(program.get_program());
    shell.args(["serve", "-v", "-l", "127.0.0.1:0", "--port-file"]).arg(&port_file);
    let server = shell.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let address = wait_for_port(&port_file);
    let talk = || assert_eq!(exchange(&authenticated(address), b"hello"), b"HELLO");
    for _ in 0..200 {
        talk();
    }
    let deadline = Instant::now() + PATIENCE;
    let text = || std::fs::read_to_string(&path).unwrap();
    while text().len() < 4096 {
        assert!(Instant::now() < deadline, "{}", text());
        std::thread::yield_now();
    }
    // Makes room again, as log rotation does.
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    while !text().contains(" lost") {
        assert!(Instant::now() < deadline, "{}", text());
        talk();
    }
    assert_eq!(terminate(server), Some(0));
}

#[test]
fn a_failing_server_does_not_wait_for_the_reader_of_its_log() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut other_end = writer.try_clone().unwrap();
    // Fills the pipe and blocks until the reader is gone.
    let filler = std::thread::spawn(move || other_end.write_all(&[b'.'; 1 << 20]));
    let files = Files::new();
    let port_file = files.path().join("port");
    let args = ["serve", "-v", "-l", "127.0.0.1:0", "--drain-timeout", "100ms", "--port-file"];
    let mut command = saltecho(&args);
    let server = command.arg(&port_file).stdin(Stdio::null()).stderr(writer).spawn().unwrap();
    let address = wait_for_port(&port_file);
    // Lines until the pipe is full, and a peer that leaves while its answer is pending.
    for _ in 0..50 {
        assert_eq!(exchange(&authenticated(address), b"hello"), b"HELLO");
    }
    let deaf = authenticated(address);
    fill(&deaf);
    assert_eq!(terminate(server), Some(1));
    drop((reader, command));
    assert!(filler.join().unwrap().is_err(), "the pipe was never full");
}
