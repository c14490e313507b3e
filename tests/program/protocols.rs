//! `--protocol`: each side in each protocol, and echo servers that exist.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::client::{PATIENCE, pattern};
use crate::common::needs::{NCAT, SOCAT};
use crate::common::program::{Files, Finished, Running, Serving, Signal, run};
use crate::common::python::python;

const MULTIPROCESSING: [&str; 2] = ["--protocol", "multiprocessing"];
const PLAIN: [&str; 2] = ["--protocol", "plain"];

fn connect(server: &Serving, more: &[&str], input: &[u8]) -> Finished {
    run(&[&["connect", &server.place()], more].concat(), input)
}

#[test]
fn connect_and_serve_agree_in_each_protocol() {
    for protocol in [MULTIPROCESSING, PLAIN] {
        for reply in ["upper", "same"] {
            let server = Serving::start(&[&protocol[..], &["--reply", reply]].concat());
            for input in [&b""[..], b"hello", &pattern(3 << 20)] {
                let done = connect(&server, &protocol, input);
                done.expect(0, &[]);
                let is_same = if reply == "same" {
                    done.stdout == input
                } else {
                    done.stdout == input.to_ascii_uppercase()
                };
                assert!(is_same, "{protocol:?}: {} bytes", done.stdout.len());
            }
            server.finish().expect(0, &["accepted 3, authenticated 3", "3 peer finished"]);
        }
    }
}

#[test]
fn the_start_line_says_what_is_served() {
    let server = Serving::start(&[&MULTIPROCESSING[..], &["--max-message", "64k"]].concat());
    for words in ["multiprocessing, HMAC-SHA-256 with key bab78a7f", "; max message 64k"] {
        assert!(server.start_line.contains(words), "{}", server.start_line);
    }
    server.finish();
    let server = Serving::start(&PLAIN);
    assert!(server.start_line.contains(": plain, no authentication; "), "{}", server.start_line);
    let done = server.finish();
    assert!(!done.stderr.contains("demo key"), "there is no key: {}", done.stderr);
}

#[test]
fn another_key_is_refused_in_both_directions() {
    let files = Files::new();
    let key = files.key("key", "not the key of the other side\n");
    let server = Serving::start(&MULTIPROCESSING);
    connect(&server, &[&MULTIPROCESSING[..], &["-k", &key]].concat(), b"hello")
        .expect(3, &["authentication failed", "-k"]);
    server.finish().expect(0, &["authentication failed (wrong digest)", "1 wrong digest"]);
}

/// A peer of another protocol gets an error that names the one to try.
#[test]
fn a_wrong_protocol_is_named() {
    let tutorial = Serving::start(&[]);
    connect(&tutorial, &MULTIPROCESSING, b"hello").expect(4, &["try --protocol tutorial"]);
    tutorial.finish();
    let framed = Serving::start(&MULTIPROCESSING);
    connect(&framed, &[], b"hello").expect(4, &["try --protocol multiprocessing"]);
    framed.finish();
    let plain = Serving::start(&PLAIN);
    let silent = ["--timeout", "300ms"];
    connect(&plain, &silent, b"hello").expect(4, &["no challenge"]);
    connect(&plain, &[&MULTIPROCESSING[..], &silent].concat(), b"hello")
        .expect(4, &["no challenge"]);
    plain.finish();
}

#[test]
fn useless_and_dangerous_flags_are_refused() {
    let files = Files::new();
    let key = files.key("key", "a key that the plain protocol has no use for\n");
    for (args, words) in [
        (&["serve", "--max-message", "1k"][..], &["--max-message", "--protocol tutorial"][..]),
        (&["serve", "--protocol", "plain", "--max-message", "1k"], &["it has no messages"]),
        (&["serve", "--protocol", "plain", "-k", &key], &["-k", "no authentication"]),
        (&["serve", "--protocol", "plain", "--mac", "md5"], &["--mac", "no authentication"]),
        (&["connect", "--protocol", "plain", "-k", &key], &["-k", "no authentication"]),
        (&["load", "--protocol", "plain", "-k", &key], &["-k", "no authentication"]),
        (&["serve", "--protocol", "framed"], &["tutorial, multiprocessing, plain"]),
        (&["serve", "--protocol", "multiprocessing", "--max-message", "1g"], &["like 1000, 64k"]),
        (
            &["serve", "--allow-unauthenticated"],
            &["--allow-unauthenticated", "--protocol tutorial", "leave it out", "--protocol plain"],
        ),
        (
            &["serve", "--protocol", "plain", "-l", "0.0.0.0:0"],
            &["authenticates no client", "127.0.0.1", "--allow-unauthenticated"],
        ),
    ] {
        run(args, b"").expect(2, words);
    }
    let open = ["--protocol", "plain", "--allow-unauthenticated", "-l", "0.0.0.0:0"];
    let server = Serving::start(&open);
    server.finish().expect(0, &["warning", "nothing is authenticated or encrypted"]);
}

#[test]
fn a_message_beyond_the_limit_has_its_own_reason() {
    let limit = [&MULTIPROCESSING[..], &["--max-message", "1k"]].concat();
    let server = Serving::start(&limit);
    let short = [b'x'; 1024];
    let done = connect(&server, &MULTIPROCESSING, &short);
    done.expect(0, &[]);
    assert_eq!(done.stdout, [b'X'; 1024]);
    connect(&server, &MULTIPROCESSING, &[b'x'; 1025]).expect(1, &["closed the connection"]);
    server.finish().expect(0, &["1 peer finished", "1 message too long"]);
}

/// Fails unless the load went through without an error. A busy machine may make it unreliable.
#[track_caller]
fn load(place: &str, more: &[&str]) {
    let all = ["load", place, "-d", "300ms", "--assert", "errors==0", "--assert", "answered>0"];
    let done = run(&[&all[..], more].concat(), b"");
    assert!([0, 6].contains(&done.code()), "{more:?}: {done:?}");
}

#[test]
fn load_measures_each_protocol_in_each_mode() {
    for protocol in [MULTIPROCESSING, PLAIN] {
        let server = Serving::start(&protocol);
        for more in [
            &["-c", "5", "-r", "200", "-s", "1"][..],
            &["-c", "3", "--closed", "--in-flight", "16", "-s", "100"],
            &["-c", "2", "--closed", "-s", "300k"],
            &["-c", "4", "--mode", "connect", "-r", "50", "-s", "20k"],
            &["-c", "20", "--mode", "idle"],
        ] {
            load(&server.place(), &[&protocol[..], more].concat());
        }
        let wrong = ["--protocol", "tutorial", "--timeout", "300ms", "-d", "100ms", "-c", "1"];
        let done = run(&[&["load", &server.place()], &wrong[..]].concat(), b"");
        assert!([1, 4].contains(&done.code()), "{done:?}");
        server.finish();
    }
}

#[test]
fn load_tells_a_refusal_from_another_answer() {
    let files = Files::new();
    let key = files.key("key", "not the key of the other side\n");
    let server = Serving::start(&MULTIPROCESSING);
    let place = server.place();
    let args = ["load", &place, "-c", "2", "-d", "100ms", "--protocol", "multiprocessing"];
    run(&[&args[..], &["-k", &key]].concat(), b"").expect(3, &["authentication failed"]);
    run(&[&args[..], &["--reply", "same"]].concat(), b"").expect(1, &["--reply"]);
    server.finish();
}

/// Measures an echo server that is not ours.
#[track_caller]
fn measure(place: &str) {
    let echo = [&PLAIN[..], &["--reply", "same", "-c", "4"]].concat();
    load(place, &[&echo[..], &["-r", "200", "-s", "700"]].concat());
    load(place, &[&echo[..], &["--closed", "--in-flight", "4", "-s", "5000"]].concat());
}

/// Sends it a stream that ends before all of it has come back.
#[track_caller]
fn pipe(place: &str) {
    let input = pattern(200_000);
    let done = run(&["connect", place, "--protocol", "plain"], &input);
    done.expect(0, &[]);
    assert!(done.stdout == input, "{} bytes", done.stdout.len());
}

/// A server that gets its address, a loopback address of this process alone.
fn start_at(
    mut command: Command,
    last: u8,
    args: impl Fn(&str, u16) -> Vec<String>,
) -> (Running, String) {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from(([127, 1 + high % 250, low, last], 7007));
    let args = args(&address.ip().to_string(), address.port());
    let server = Running::start(command.args(args), Vec::new());
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < PATIENCE, "{command:?} does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    (server, address.to_string())
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn an_inetd_style_server_is_measured() {
    let Some(socat) = SOCAT.find() else { return };
    let (server, place) = start_at(socat, 1, |ip, port| {
        words(&format!("TCP-LISTEN:{port},bind={ip},fork,backlog=64 EXEC:cat"))
    });
    measure(&place);
    pipe(&place);
    server.signal(Signal::TERM);
}

#[test]
fn socats_own_echo_is_measured() {
    let Some(socat) = SOCAT.find() else { return };
    let (server, place) = start_at(socat, 2, |ip, port| {
        words(&format!("TCP-LISTEN:{port},bind={ip},fork,backlog=64 PIPE"))
    });
    measure(&place);
    pipe(&place);
    server.signal(Signal::TERM);
}

/// No stream that ends: at its end ncat drops what its program has not answered yet.
#[test]
fn ncat_is_measured() {
    let Some(ncat) = NCAT.find() else { return };
    let (server, place) = start_at(ncat, 3, |ip, port| {
        words(&format!("--listen --keep-open --exec /bin/cat {ip} {port}"))
    });
    measure(&place);
    server.signal(Signal::TERM);
}

#[test]
fn pythons_socketserver_is_measured() {
    let Some(mut command) = python("socketserver_echo.py") else { return };
    let mut server = Running::start(&mut command, Vec::new());
    let place = server.wait_for("port ").replace("port ", "127.0.0.1:");
    measure(&place);
    pipe(&place);
    server.signal(Signal::TERM);
}
