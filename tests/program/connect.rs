//! `saltecho connect` in a pipe: every byte, both directions, and each way it can end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::client::pattern;
use crate::common::fake::{fake_server, fake_server_from_the_start, slow_line};
use crate::common::needs::say;
use crate::common::program::{Files, Running, Serving, Signal, run, saltecho, wait_until_full};
use rustix::io::ioctl_fionbio;

#[test]
fn megabytes_come_back_byte_for_byte() {
    let input = pattern(8 << 20);
    for args in [&["--reply", "same"][..], &["--reply", "same", "--recv-size", "1000"], &[]] {
        let server = Serving::start(args);
        let answer = run(&["connect", &server.place()], &input);
        answer.expect(0, &[]);
        let expected = if args.is_empty() { input.to_ascii_uppercase() } else { input.clone() };
        assert!(answer.stdout == expected, "{args:?}: {} bytes", answer.stdout.len());
        assert_eq!(answer.stderr, "");
        server.finish();
    }
}

#[test]
fn short_and_empty_inputs_are_echoed() {
    let server = Serving::start(&[]);
    for input in [&b""[..], b"x", b"no line feed", b"\n"] {
        let answer = run(&["connect", &server.place()], input);
        answer.expect(0, &[]);
        assert_eq!(answer.stdout, input.to_ascii_uppercase());
    }
    server.finish().expect(0, &["accepted 4, authenticated 4", "closed: 4 peer finished"]);
}

#[test]
fn host_names_and_ipv6_addresses_work() {
    let server = Serving::start(&[]);
    let named = format!("localhost:{}", server.address.port());
    assert_eq!(run(&["connect", &named], b"hello").stdout, b"HELLO");
    server.finish();
    if TcpListener::bind("[::1]:0").is_err() {
        say("NOT TESTED without IPv6: a connection over it");
        return;
    }
    let server = Serving::start_command(&mut saltecho(&["serve", "-l", "[::1]:0"]));
    assert_eq!(run(&["connect", &server.place()], b"hello").stdout, b"HELLO");
    server.finish();
}

#[test]
fn a_failed_authentication_exits_with_3_whatever_the_input() {
    let files = Files::new();
    let key = files.key("key", "not the key that the server has");
    let server = Serving::start(&[]);
    let words = &["authentication failed", "check -k and --mac"];
    for input in [Vec::new(), b"hello".to_vec(), pattern(4 << 20)] {
        for wrong in [["-k", &key], ["--mac", "sha256"]] {
            let refused = run(&["connect", &server.place(), wrong[0], wrong[1]], &input);
            refused.expect(3, words);
            assert!(refused.stdout.is_empty());
        }
    }
    // A refusal is reported without any input.
    let (stdin, _writer) = std::io::pipe().unwrap();
    let mut command = saltecho(&["connect", &server.place(), "-k", &key]);
    Running::start_with_stdin(command.stdin(stdin)).wait().expect(3, words);
    server.finish();
}

#[test]
fn an_unreachable_or_silent_server_exits_with_4() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let words = &["cannot connect to", free.as_str(), "Connection refused", "`saltecho serve`"];
    run(&["connect", &free], b"hello").expect(4, words);

    // The kernel completes the connection; the program never accepts it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = silent.local_addr().unwrap().to_string();
    let words = &["sent no challenge within 200ms", "--timeout"];
    run(&["connect", &place, "--timeout", "200ms"], b"hello").expect(4, words);

    let place = fake_server_from_the_start(drop);
    run(&["connect", &place], b"hello").expect(4, &["closed the connection without a challenge"]);
}

#[test]
fn bytes_of_the_challenge_do_not_extend_the_deadline() {
    let place = fake_server_from_the_start(|mut stream| {
        while stream.write_all(b"x").is_ok() {
            sleep(Duration::from_millis(50));
        }
    });
    let words = &["sent no challenge within 300ms, only ", "byte", ": `x"];
    run(&["connect", &place, "--timeout", "300ms"], b"hello").expect(4, words);
}

#[test]
fn another_service_is_recognized_by_its_greeting() {
    for (greeting, words) in [
        (
            &b"220 mail.example.org ESMTP Postfix (Debian)\r\n"[..],
            &["is not a saltecho server", "`220 mail.example.org ESMTP Postfix (Debian)\\r\\n`"][..],
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", &["21 bytes: `SSH-2.0-OpenSSH_9.2\\r\\n`"]),
        (&[b'\x1b'; 200], &["is not a saltecho server", "`\\x1b\\x1b", "\\x1b`..."]),
    ] {
        let place = fake_server_from_the_start(move |mut stream| {
            stream.write_all(greeting).unwrap();
            // Until the client closes.
            let _ = stream.read(&mut [0]);
        });
        run(&["connect", &place, "--timeout", "300ms"], b"hello").expect(4, words);
    }
}

#[test]
fn a_mismatched_mac_is_suggested_as_the_cause() {
    let server = Serving::start(&["--mac", "sha256"]);
    // The shorter digest and six bytes do not fill the longer one: the server keeps waiting.
    let (stdin, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"hello\n").unwrap();
    let mut command = saltecho(&["connect", &server.place(), "--timeout", "300ms"]);
    Running::start_with_stdin(command.stdin(stdin))
        .wait()
        .expect(4, &["did not answer within 300ms", "it may use --mac sha256"]);
    server.finish();
}

#[test]
fn a_slow_network_does_not_hide_a_refusal() {
    let files = Files::new();
    let wrong = files.key("key", "not the key that the server has");
    let server = Serving::start(&[]);
    for (args, input, code, answer) in [
        (&[][..], &b"hi"[..], 0, &b"HI"[..]),
        (&[], b"", 0, b""),
        (&["-k", &wrong], b"", 3, b""),
        (&["-k", &wrong], b"hi", 3, b""),
    ] {
        let line = slow_line(server.address, Duration::from_millis(150));
        let finished = run(&[&["connect", &line], args].concat(), input);
        finished.expect(code, &[]);
        assert_eq!(finished.stdout, answer, "{args:?}");
    }
    server.finish();
}

#[test]
fn a_drain_before_any_input_is_not_a_refusal() {
    let mut server = Serving::start(&["-v"]);
    let (stdin, _writer) = std::io::pipe().unwrap();
    let mut command = saltecho(&["connect", &server.place()]);
    let client = Running::start_with_stdin(command.stdin(stdin));
    server.running.wait_for("#1 authenticated");
    // Within two round trips the cause would more likely be a refusal.
    sleep(Duration::from_secs(1));
    server.running.signal(Signal::TERM);
    client.wait().expect(1, &["closed the connection before anything was sent", "shutting down"]);
    server.running.wait().expect(0, &[]);
}

#[test]
fn connect_ends_after_the_last_answer_even_if_the_server_keeps_the_stream_open() {
    for timeout in ["off", "1h"] {
        for input in [Vec::new(), b"hello".to_vec(), pattern(8 << 20)] {
            let place = fake_server(|mut stream| {
                let mut back = stream.try_clone().unwrap();
                std::io::copy(&mut stream, &mut back).unwrap();
                // Keeps the connection open until the test ends, as the tutorial's server does.
                loop {
                    std::thread::park();
                }
            });
            let answer = run(&["connect", &place, "--timeout", timeout], &input);
            answer.expect(0, &[]);
            assert!(answer.stdout == input, "{} bytes", answer.stdout.len());
        }
    }
}

#[test]
fn stdin_may_end_after_the_last_answer() {
    let place = fake_server(|mut stream| {
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap();
        loop {
            std::thread::park();
        }
    });
    let mut command = saltecho(&["connect", &place, "--timeout", "off"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    input.write_all(b"hello").unwrap();
    output.read_exact(&mut [0; 5]).unwrap();
    drop(input);
    assert_eq!(output.read(&mut [0]).unwrap(), 0);
    assert!(child.wait().unwrap().success());
}

#[test]
fn answers_longer_than_the_input_are_read_to_the_end() {
    let place = fake_server(|mut stream| {
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream.write_all(b"hello, and").unwrap();
        // Longer than the wait for the end of the stream after an echo.
        sleep(Duration::from_millis(500));
        stream.write_all(b" more").unwrap();
    });
    let answer = run(&["connect", &place], b"hello");
    answer.expect(0, &[]);
    assert_eq!(answer.stdout, b"hello, and more");
}

#[test]
fn a_server_that_stops_answering_exits_with_4() {
    for input in [b"hello".to_vec(), pattern(32 << 20)] {
        let place = fake_server(|mut stream| {
            stream.write_all(b"HE").unwrap();
            // Keeps the connection open and reads nothing until the test ends.
            loop {
                std::thread::park();
            }
        });
        let answer = run(&["connect", &place, "--timeout", "300ms"], &input);
        answer.expect(4, &["did not answer within 300ms"]);
        assert_eq!(answer.stdout, b"HE");
    }
}

#[test]
fn a_server_that_ends_too_early_exits_with_1() {
    let place = fake_server(|mut stream| {
        // To the end, so that the client knows how much it sent.
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream.write_all(b"HEL").unwrap();
    });
    let answer = run(&["connect", &place], b"hello");
    answer.expect(1, &["closed the connection after 3 of 5 bytes"]);
    assert_eq!(answer.stdout, b"HEL");

    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"H").unwrap();
    });
    let (stdin, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"h").unwrap();
    let mut command = saltecho(&["connect", &place]);
    Running::start_with_stdin(command.stdin(stdin))
        .wait()
        .expect(1, &["closed the connection after 1 byte, before stdin ended"]);

    let place = fake_server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HELLO").unwrap();
    });
    let (stdin, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"hello").unwrap();
    let mut command = saltecho(&["connect", &place]);
    Running::start_with_stdin(command.stdin(stdin))
        .wait()
        .expect(1, &["closed the connection after 5 bytes, before stdin ended"]);
}

#[test]
fn a_slow_stdin_or_stdout_does_not_count_as_a_server_timeout() {
    let server = Serving::start(&[]);
    let mut command = saltecho(&["connect", &server.place(), "--timeout", "200ms"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for line in [&b"before\n"[..], b"after\n"] {
        input.write_all(line).unwrap();
        let mut answer = vec![0; line.len()];
        output.read_exact(&mut answer).unwrap();
        assert_eq!(answer, line.to_ascii_uppercase());
        // Longer than the timeout: the silence is under test.
        sleep(Duration::from_millis(500));
    }
    let megabytes = pattern(16 << 20);
    let expected = megabytes.to_ascii_uppercase();
    let writer = std::thread::spawn(move || input.write_all(&megabytes));
    // Without a reader all buffers fill up; then data flows again.
    sleep(Duration::from_millis(700));
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).unwrap();
    writer.join().unwrap().unwrap();
    assert!(answer == expected, "{} bytes", answer.len());
    assert!(child.wait().unwrap().success());
    server.finish();
}

#[test]
fn a_closed_stdout_ends_connect_without_a_message() {
    let server = Serving::start(&[]);
    let files = Files::new();
    let input = files.write("input", &pattern(1 << 20), 0o600);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = saltecho(&["connect", &server.place()]);
    let output = command.stdin(File::open(input).unwrap()).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    server.finish();
}

#[test]
fn errors_of_stdin_and_stdout_are_reported() {
    let server = Serving::start(&[]);
    let files = Files::new();
    let directory = File::open(files.path()).unwrap();
    let mut command = saltecho(&["connect", &server.place()]);
    Running::start_with_stdin(command.stdin(directory)).wait().expect(1, &["cannot read stdin"]);

    let full = File::options().write(true).open("/dev/full").unwrap();
    let input = files.write("input", b"hello", 0o600);
    let mut command = saltecho(&["connect", &server.place()]);
    let output = command.stdin(File::open(input).unwrap()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot write to stdout: No space left"), "{said}");
    server.finish();
}

#[test]
fn an_empty_non_blocking_stdin_is_not_at_its_end() {
    let server = Serving::start(&[]);
    let (stdin, mut writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&stdin, true).unwrap();
    let mut command = saltecho(&["connect", &server.place()]);
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    for word in [b"hello", b"world"] {
        writer.write_all(word).unwrap();
        let mut answer = [0; 5];
        output.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *word.to_ascii_uppercase());
    }
    // The command holds the other end of stdin, too.
    drop((command, writer));
    assert!(child.wait().unwrap().success());
    server.finish();
}

#[test]
fn a_full_non_blocking_stdout_is_waited_for() {
    let server = Serving::start(&["--reply", "same"]);
    let input = pattern(3 << 20);
    let (mut reader, writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    let mut command = saltecho(&["connect", &server.place()]);
    let stdout = writer.try_clone().unwrap();
    let mut child = command.stdin(Stdio::piped()).stdout(stdout).spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let feeding = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    wait_until_full(writer);
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).unwrap();
    assert!(answer == input, "{} bytes", answer.len());
    feeding.join().unwrap();
    assert!(child.wait().unwrap().success());
    server.finish();
}

#[test]
fn an_ignored_interrupt_stays_ignored() {
    let server = Serving::start(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' INT; exec \"$0\" connect \"$1\""]);
    shell.arg(saltecho(&[]).get_program()).arg(server.place());
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for word in [b"hello", b"world"] {
        input.write_all(word).unwrap();
        let mut answer = [0; 5];
        output.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *word.to_ascii_uppercase());
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::INT).unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    server.finish();
}
