//! Server, client and load generator against `multiprocessing.connection` of every installed Python
//! from 3.8 on.

use std::process::Command;

use crate::common::client::pattern;
use crate::common::needs::{PYTHON, pythons};
use crate::common::program::{Files, Running, Serving, run, run_command};

const DEMO: &str = "linhaifeng bang bang bang";

/// A program of this folder, once for each Python.
#[track_caller]
fn programs(name: &str) -> Vec<Command> {
    if PYTHON.is_missing() {
        return Vec::new();
    }
    let program = format!("{}/tests/python/{name}", env!("CARGO_MANIFEST_DIR"));
    let command = |python| {
        let mut command = Command::new(python);
        command.arg(&program);
        command
    };
    pythons().into_iter().map(command).collect()
}

#[test]
fn clients_of_every_python_are_served() {
    for mac in [None, Some("md5"), Some("sha256")] {
        let mut args = vec!["--protocol", "multiprocessing"];
        args.extend(mac.iter().flat_map(|mac| ["--mac", mac]));
        let server = Serving::start(&args);
        let port = server.address.port().to_string();
        let clients = programs("multiprocessing_client.py");
        let count = clients.len();
        for mut client in clients {
            let done = run_command(client.args([&port, DEMO]), b"");
            done.expect(0, &[]);
            assert_eq!(done.stdout, b"welcome\n", "{client:?}");
        }
        for mut client in programs("multiprocessing_client.py") {
            let done = run_command(client.args([&port, "not the key of the server"]), b"");
            assert_eq!(done.stdout, b"rejected\n", "{client:?}");
        }
        let counts = format!("accepted {}, authenticated {count}", 2 * count);
        let ends = format!("{count} peer finished, {count} wrong digest");
        server.finish().expect(0, &[&counts, &ends]);
    }
}

#[test]
fn objects_survive_an_echo_of_the_same_bytes() {
    let server = Serving::start(&["--protocol", "multiprocessing", "--reply", "same"]);
    let port = server.address.port().to_string();
    for mut client in programs("multiprocessing_client.py") {
        let done = run_command(client.args([&port, DEMO, "same"]), b"");
        done.expect(0, &[]);
        assert_eq!(done.stdout, b"welcome\n", "{client:?}");
    }
    server.finish();
}

/// The second of two keys, as during a rotation: the server has to answer with the client's.
#[test]
fn each_key_of_a_ring_works() {
    let files = Files::new();
    let keys = files.key("keys", "the newest of the two keys\nthe one before that one\n");
    let server = Serving::start(&["--protocol", "multiprocessing", "-k", &keys]);
    let port = server.address.port().to_string();
    for key in ["the newest of the two keys", "the one before that one"] {
        for mut client in programs("multiprocessing_client.py") {
            let done = run_command(client.args([&port, key]), b"");
            assert_eq!(done.stdout, b"welcome\n", "{client:?} {done:?}");
        }
    }
    server.finish();
}

#[test]
fn a_message_beyond_the_limit_ends_the_connection() {
    let server = Serving::start(&["--protocol", "multiprocessing", "--max-message", "16384"]);
    let port = server.address.port().to_string();
    let clients = programs("multiprocessing_client.py");
    let count = clients.len();
    for mut client in clients {
        let done = run_command(client.args([&port, DEMO]), b"");
        assert!(done.stdout.is_empty() && done.code() != 0, "{client:?} {done:?}");
    }
    let done = server.finish();
    let ends = format!("closed: {count} message too long");
    assert!(count == 0 || done.stderr.contains(&ends), "{}", done.stderr);
}

/// A listener of a program, and its address.
fn listen(program: &mut Command, connections: usize) -> (Running, String) {
    let mut server = Running::start(program.arg(DEMO).arg(connections.to_string()), Vec::new());
    let place = server.wait_for("port ").replace("port ", "127.0.0.1:");
    (server, place)
}

#[test]
fn connect_talks_to_listeners_of_every_python() {
    let files = Files::new();
    let other = files.key("other", "not the key that the server has\n");
    for mut program in programs("multiprocessing_server.py") {
        let (mut server, place) = listen(&mut program, 4);
        let connect = ["connect", &place, "--protocol", "multiprocessing"];
        let every_byte: Vec<u8> = (0..=255).collect();
        for input in [&every_byte[..], &pattern(1 << 20)] {
            let done = run(&connect, input);
            done.expect(0, &[]);
            assert!(done.stdout == input.to_ascii_uppercase(), "{} bytes", done.stdout.len());
            assert_eq!(server.wait_for("authenticated"), "authenticated");
        }
        let done = run(&[&connect[..], &["--mac", "md5"]].concat(), b"hello");
        done.expect(0, &[]);
        assert_eq!(done.stdout, b"HELLO");
        run(&[&connect[..], &["-k", &other]].concat(), b"hello")
            .expect(3, &["authentication failed"]);
        assert_eq!(server.wait_for("rejected"), "rejected");
        server.wait().expect(0, &[]);
    }
}

#[test]
fn load_measures_listeners_of_every_python() {
    for mut program in programs("multiprocessing_server.py") {
        // It serves one client at a time.
        let (server, place) = listen(&mut program, 1);
        let load = ["load", &place, "--protocol", "multiprocessing", "-c", "1", "-r", "200"];
        let rest =
            ["-d", "500ms", "-s", "1000", "--assert", "errors==0", "--assert", "answered>50"];
        let done = run(&[&load[..], &rest].concat(), b"");
        assert!([0, 6].contains(&done.code()), "{done:?}");
        server.wait().expect(0, &[]);
    }
}
