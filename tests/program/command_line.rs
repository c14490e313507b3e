//! The command line: help, errors, exit codes, key files, settings, secrets.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::client::{authenticated, exchange};
use crate::common::program::{
    Files, Running, Serving, Signal, clean, run, run_command, saltecho, terminate, wait_for_port,
};

const SECRET: &str = "a secret that nobody must ever see";

#[test]
fn short_help_is_short_and_long_help_has_examples() {
    for command in [&[][..], &["serve"], &["connect"], &["keygen"]] {
        let help = |flag| {
            let shown = run(&[command, &[flag]].concat(), b"");
            shown.expect(0, &[]);
            String::from_utf8(shown.stdout).unwrap()
        };
        let (short, long) = (help("-h"), help("--help"));
        assert!(short.lines().count() < long.lines().count(), "{short}");
        assert!(long.lines().all(|line| line.chars().count() <= 100), "{long}");
        assert!(!examples(&long).is_empty(), "{long}");
    }
}

#[test]
fn the_long_version_names_the_commit_and_the_features() {
    let version = |flag| String::from_utf8(run(&[flag], b"").stdout).unwrap();
    let short = format!("saltecho {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(version("-V"), format!("{short}\n"));
    let long = version("--version");
    assert!(long.starts_with(&format!("{short} (")), "{long}");
    assert!(long.contains(", features: cli"), "{long}");
    // Another build has its own commit, and HEAD may have moved since this build.
    let commit = option_env!("BUILD_COMMIT").unwrap_or("unknown commit");
    let is_ours = std::env::var_os("SALTECHO_PROGRAM").is_none();
    assert!(!is_ours || long.contains(commit), "{commit} in {long}");
    // A source archive has no repository.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut git = Command::new("git");
    let kind = git.args(["cat-file", "-t", commit]).current_dir(root).output();
    if let Some(kind) = kind.ok().filter(|_| root.join(".git").exists()) {
        assert_eq!(String::from_utf8(kind.stdout).unwrap(), "commit\n", "{commit}");
    }
}

/// The commands under `Examples:`, ready for a shell.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Examples")).skip(1);
    lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn the_examples_of_the_help_run() {
    let files = Files::new();
    let key = files.key("saltecho.key", SECRET);
    files.write("input", b"from a file\n", 0o600);
    files.write("saltecho.toml", b"listen = ['127.0.0.1:0']\n", 0o600);
    let plain = Serving::start(&[]);
    let keyed = Serving::start(&["-k", &key, "--mac", "sha256"]);
    let framed = Serving::start(&["--protocol", "multiprocessing"]);
    let open = Serving::start(&["--protocol", "plain"]);
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["config", "--help"],
        &["connect", "--help"],
        &["keygen", "--help"],
    ] {
        let help = String::from_utf8(run(command, b"").stdout).unwrap();
        for example in examples(&help) {
            let server = match &example {
                example if example.contains("-k saltecho.key") => &keyed,
                example if example.contains("multiprocessing") => &framed,
                example if example.contains("--protocol plain") => &open,
                _ => &plain,
            };
            run_example(&example, &files, server);
        }
    }
    for server in [plain, keyed, framed, open] {
        server.finish();
    }
    assert_eq!(std::fs::read(files.path().join("output")).unwrap(), b"FROM A FILE\n");
    assert_eq!(std::fs::read_to_string(files.path().join("ports")).unwrap().lines().count(), 2);
}

/// Runs a command with its default addresses replaced by free ones through the environment.
fn run_example(example: &str, files: &Files, server: &Serving) {
    let program = Path::new(env!("CARGO_BIN_EXE_saltecho"));
    let path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let serves = example.starts_with("saltecho serve");
    let text = if serves { format!("exec {example}") } else { example.to_owned() };
    let mut shell = Command::new("sh");
    clean(&mut shell).args(["-c", &text]).current_dir(files.path()).env("PATH", path.unwrap());
    shell.env("SALTECHO_LISTEN", "127.0.0.1:0").env("SALTECHO_ADDRESS", server.place());
    if serves {
        let serving = Serving::start_command(&mut shell);
        if !example.contains("-k ") && !example.contains("--protocol") {
            assert_eq!(exchange(&authenticated(serving.address), b"hello"), b"HELLO");
        }
        serving.finish();
    } else {
        let finished = run_command(&mut shell, b"");
        // On a busy machine the generator rightly reports that it was late.
        let is_late = example.starts_with("saltecho load") && finished.code() == 6;
        finished.expect(if is_late { 6 } else { 0 }, &[]);
        if example.contains("echo hello |") {
            assert_eq!(finished.stdout, b"HELLO\n");
        }
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_accepted() {
    for (args, words) in [
        (&["serf"][..], &["saltecho: error: unrecognized subcommand 'serf'", "'serve'"][..]),
        (&["serve", "--auth-timeout", "5"], &["--auth-timeout", "like 5s", "`off`"]),
        (&["serve", "--idle-timeout", "0s"], &["zero", "`off`"]),
        (&["serve", "--bufsize", "0"], &["--recv-size", "from 1 to 16m"]),
        (&["serve", "--recv-size", "32kb"], &["like 1000, 1k or 32k"]),
        (&["serve", "--max-connections", "0"], &["0 is not in 1.."]),
        (&["serve", "--backlog", "70000"], &["1..=65535"]),
        (&["serve", "-l", "example.org:1"], &["not an IP address", "like 127.0.0.1:1"]),
        (&["serve", "-l", ":9999"], &["the address is missing", "0.0.0.0:9999"]),
        (&["serve", "-l", "127.0.0.1:x"], &["like 127.0.0.1:9999"]),
        (&["serve", "--spin", "50"], &["--spin", "like 50us"]),
        (&["serve", "--mac", "sha1"], &["possible values: md5, sha256"]),
        (&["serve", "--reply", "lower"], &["possible values: upper, same"]),
        (&["serve", "--max-connections", "4000000000"], &["--max-connections", "descriptors"]),
        (&["connect", "localhost:port"], &["like 127.0.0.1:9999"]),
        (&["connect", "--timeout", "soon"], &["like 5s"]),
        (&["connect", "a", "b"], &["unexpected argument 'b'"]),
        (&["keygen", "--encoding", "rot13"], &["possible values: base64, hex"]),
    ] {
        run(args, b"").expect(2, words);
    }
    let nothing = run(&[], b"");
    nothing.expect(2, &["Usage: saltecho <COMMAND>"]);
    assert!(nothing.stdout.is_empty());
}

#[test]
fn an_address_that_cannot_be_bound_is_named_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap().to_string();
    let in_use = format!("{place} is in use");
    run(&["serve", "-l", &place], b"").expect(1, &[&in_use, "`ss -ltnp", "-l"]);

    let files = Files::new();
    let key = files.key("key", SECRET);
    // TEST-NET-1 (RFC 5737) is assigned to no host.
    run(&["serve", "-k", &key, "-l", "192.0.2.1:9999"], b"")
        .expect(1, &["192.0.2.1:9999 is not a local address", "0.0.0.0:9999"]);
    run(&["serve", "-l", "127.0.0.1:0", "--port-file", "/nonexistent/port"], b"")
        .expect(1, &["cannot write the port file /nonexistent/port"]);
}

#[test]
fn unsafe_or_malformed_key_files_are_refused() {
    let files = Files::new();
    let readable = files.write("readable", SECRET.as_bytes(), 0o644);
    let writable = files.write("writable", SECRET.as_bytes(), 0o602);
    let large = files.write("large", &[b'#'; (64 << 10) + 1], 0o600);
    let directory = files.path().to_str().unwrap().to_owned();
    let absent = format!("{directory}/absent");
    let remedy = format!("`chmod 600 {readable}`");
    for (path, words) in [
        (&readable, &["(mode 0644)", remedy.as_str(), "--allow-exposed-key"][..]),
        (&writable, &["(mode 0602)", "chmod 600"]),
        (&large, &["larger than 64 KiB"]),
        (&directory, &["it is a directory, not a regular file"]),
        (&"/dev/null".to_owned(), &["not a regular file"]),
        (&absent, &["no such file", "saltecho keygen"]),
        (&files.key("empty", ""), &["it contains no key", "saltecho keygen"]),
        (&files.key("comments", "# nothing\n\n"), &["it contains no key"]),
        (&files.key("weak", "\nshort"), &["line 2", "5 bytes", "--allow-weak-key"]),
        (&files.key("hex", "hex:xyz"), &["line 1", "after `hex:` is not valid hex"]),
        (&files.key("binary", "sixteen bytes \u{1} and\na line feed"), &["line 1", "base64 -w0"]),
        (
            &files.key("url", "base64url:AAECAwQFBgcICQoLDA0ODw"),
            &["line 1", "put `text:` before it"],
        ),
        (&files.key("many", &format!("{SECRET}\n").repeat(5)), &["line 5: more than 4 keys"]),
    ] {
        let name = format!("key file {path}: ");
        for program in [&["serve", "-l", "127.0.0.1:0"][..], &["connect", "127.0.0.1:1"]] {
            let refused = run(&[program, &["-k", path]].concat(), b"");
            refused.expect(2, &[words, &[&name]].concat());
        }
    }
}

#[test]
fn a_pipe_in_place_of_a_key_file_does_not_hang() {
    let files = Files::new();
    let pipe = files.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = pipe.to_str().unwrap();
    run(&["connect", "127.0.0.1:1", "-k", path], b"").expect(2, &["it is a pipe"]);
}

#[test]
fn a_world_readable_key_file_needs_a_flag_that_names_the_risk() {
    let files = Files::new();
    for mode in [0o444, 0o644] {
        let key = files.write(&format!("{mode:o}"), SECRET.as_bytes(), mode);
        let server = Serving::start(&["-k", &key, "--allow-exposed-key"]);
        let mut client = saltecho(&["connect", &server.place(), "-k", &key]);
        let answer = run_command(client.env("SALTECHO_ALLOW_EXPOSED_KEY", "1"), b"hello");
        answer.expect(0, &[]);
        assert_eq!(answer.stdout, b"HELLO");
        server.finish();
    }
    let directory = files.path().to_str().unwrap();
    let args = ["connect", "127.0.0.1:1", "-k", directory, "--allow-exposed-key"];
    run(&args, b"").expect(2, &["not a regular file"]);
}

#[test]
fn a_key_file_can_be_given_as_a_descriptor() {
    let files = Files::new();
    let key = files.key("key", SECRET);
    let server = Serving::start(&["-k", &key]);
    let connect = |behind: &str| {
        let program = saltecho(&[]).get_program().to_str().unwrap().to_owned();
        let script = format!("{behind} exec {program} connect {} -k /dev/fd/3", server.place());
        run_command(clean(Command::new("sh").args(["-c", &script])), b"hello")
    };
    assert_eq!(connect(&format!("exec 3<{key};")).stdout, b"HELLO");
    let pipe = format!("mkfifo {key}.fifo; cat {key} >{key}.fifo & exec 3<{key}.fifo;");
    connect(&pipe).expect(2, &["it is a pipe, not a regular file"]);
    server.finish();
}

#[test]
fn keys_of_every_form_work_through_a_link_too() {
    let files = Files::new();
    let weak = files.key("weak", "short");
    let several =
        files.key("several", &format!("# old and new\n{SECRET}\nhex:{}\n", "ab".repeat(16)));
    let second = files.key("second", &format!("hex:{}", "AB".repeat(16)));
    let link = files.path().join("link");
    symlink(&several, &link).unwrap();
    let server = Serving::start(&["-k", link.to_str().unwrap()]);
    for key in [&several, &second] {
        let answer = run(&["connect", &server.place(), "-k", key], b"hello");
        answer.expect(0, &[]);
        assert_eq!(answer.stdout, b"HELLO");
    }
    run(&["connect", &server.place()], b"hello").expect(3, &["(the demo key)"]);
    server.finish();

    let server = Serving::start(&["-k", &weak, "--allow-weak-key"]);
    // Its id would let a reader of the log try short keys until one fits.
    assert!(server.start_line.contains("key (weak)"), "{}", server.start_line);
    let answer = run(&["connect", &server.place(), "-k", &weak, "--allow-weak-key"], b"hello");
    assert_eq!(answer.stdout, b"HELLO");
    server.finish();
}

#[test]
fn the_demo_key_serves_loopback_only_and_warns() {
    let files = Files::new();
    let as_file = files.key("demo", "linhaifeng bang bang bang");
    for args in
        [&["-l", "0.0.0.0:0"][..], &["-l", "[::]:0"], &["-l", "127.0.0.1:0", "-l", "0.0.0.0:0"]]
    {
        let words = &["the demo key is public", "saltecho keygen", "-k saltecho.key"];
        run(&[&["serve"], args].concat(), b"").expect(2, words);
        run(&[&["serve", "-k", &as_file], args].concat(), b"").expect(2, words);
    }
    let finished = Serving::start(&[]).finish();
    finished.expect(0, &["warning: using the demo key, which is public"]);
    let key = files.key("key", SECRET);
    let finished = Serving::start(&["-k", &key]).finish();
    assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
}

#[test]
fn a_real_key_beyond_loopback_causes_a_warning() {
    let files = Files::new();
    let key = files.key("key", SECRET);
    let server = Serving::start_command(&mut saltecho(&["serve", "-l", "0.0.0.0:0", "-k", &key]));
    server.finish().expect(0, &["warning: 0.0.0.0:0 can be reached", "nothing is encrypted"]);
}

#[test]
fn the_start_line_and_the_summary_are_complete() {
    let server = Serving::start(&["--max-connections", "300", "--idle-timeout", "10m"]);
    for part in [
        "HMAC-MD5 with key ",
        "at most 300 connections, 256 unauthenticated, backlog 4096, recv size 32k",
        "timeouts auth 5s, idle 10m, keepalive 1m, send 1m, drain 25s",
    ] {
        assert!(server.start_line.contains(part), "{}", server.start_line);
    }
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    let finished = server.finish();
    finished.expect(0, &["accepted 1, authenticated 1; bytes received 21, sent 37"]);
    assert!(finished.stdout.is_empty());
}

#[test]
fn every_flag_overrides_its_environment_variable() {
    let files = Files::new();
    let key = files.key("key", SECRET);
    let mut command = saltecho(&["serve"]);
    command.envs([
        ("SALTECHO_LISTEN", "127.0.0.1:0,127.0.0.2:0"),
        ("SALTECHO_KEY_FILE", &key),
        ("SALTECHO_MAC", "sha256"),
        ("SALTECHO_REPLY", "same"),
        ("SALTECHO_RECV_SIZE", "2k"),
        ("SALTECHO_BACKLOG", "17"),
        ("SALTECHO_MAX_CONNECTIONS", "99"),
        ("SALTECHO_AUTH_TIMEOUT", "1s"),
        ("SALTECHO_IDLE_TIMEOUT", "2s"),
        ("SALTECHO_KEEPALIVE", "90s"),
        ("SALTECHO_SEND_TIMEOUT", "3s"),
        ("SALTECHO_DRAIN_TIMEOUT", "4s"),
        ("SALTECHO_SPIN", "50us"),
        ("SALTECHO_WORKERS", "2"),
        ("SALTECHO_VERBOSE", "1"),
        ("SALTECHO_QUIET", "no"),
    ]);
    let port_file = files.path().join("ports");
    let server = Serving::start_command(command.env("SALTECHO_PORT_FILE", &port_file));
    let ports = std::fs::read_to_string(&port_file).unwrap();
    assert_eq!(ports.lines().next(), Some(server.address.port().to_string().as_str()));
    for part in [
        "HMAC-SHA-256",
        "127.0.0.2:",
        "at most 99",
        "backlog 17, recv size 2k",
        "auth 1s, idle 2s, keepalive 1m 30s, send 3s, drain 4s; spin 50us; 2 workers",
    ] {
        assert!(server.start_line.contains(part), "{}", server.start_line);
    }
    let mut client = saltecho(&["connect"]);
    client.env("SALTECHO_ADDRESS", server.place()).env("SALTECHO_TIMEOUT", "19s");
    client.env("SALTECHO_KEY_FILE", &key).env("SALTECHO_MAC", "md5");
    let answer = run_command(client.args(["--mac", "sha256"]), b"same");
    answer.expect(0, &[]);
    assert_eq!(answer.stdout, b"same");
    server.finish().expect(0, &["#1 authenticated"]);
}

#[test]
fn an_invalid_or_misspelt_variable_is_named() {
    for (command, variable, value) in [
        ("serve", "SALTECHO_LISTEN", ""),
        ("serve", "SALTECHO_LISTEN", "127.0.0.1:0,here:x"),
        ("serve", "SALTECHO_BACKLOG", ""),
        ("serve", "SALTECHO_KEY_FILE", ""),
        ("serve", "SALTECHO_IDLE_TIMEOUT", "soon"),
        ("serve", "SALTECHO_REPLY", ""),
        ("connect", "SALTECHO_ADDRESS", ""),
        ("connect", "SALTECHO_TIMEOUT", "5"),
        ("connect", "SALTECHO_MAC", "sha1"),
        ("keygen", "SALTECHO_ENCODING", ""),
    ] {
        run_command(saltecho(&[command]).env(variable, value), b"").expect(2, &[variable]);
    }
    let mut misspelt = saltecho(&["keygen"]);
    let key = run_command(misspelt.env("SALTECHO_ENCODNG", "hex"), b"");
    key.expect(0, &["SALTECHO_ENCODNG is not a setting; did you mean SALTECHO_ENCODING?"]);
}

#[test]
fn verbose_logs_each_connection() {
    let mut server = Serving::start(&["-v"]);
    run(&["connect", &server.place()], b"hello").expect(0, &[]);
    server.running.wait_for("#1 new from 127.0.0.1:");
    server.running.wait_for("#1 authenticated");
    server.running.wait_for("#1 closed: peer finished");
    run(&["connect", &server.place(), "--mac", "sha256"], b"hello").expect(3, &[]);
    server.running.wait_for("#2 closed: authentication failed (wrong digest), from 127.0.0.1:");
    server.finish();
}

#[test]
fn quiet_prints_only_errors() {
    let files = Files::new();
    let port_file = files.path().join("port");
    let mut command = saltecho(&["serve", "-q", "-v", "-l", "127.0.0.1:0", "--port-file"]);
    let running = Running::start(command.arg(&port_file), Vec::new());
    let address = wait_for_port(&port_file);
    assert_eq!(exchange(&authenticated(address), b"hello"), b"HELLO");
    running.signal(Signal::TERM);
    let finished = running.wait();
    finished.expect(0, &[]);
    assert_eq!(finished.stderr, "");
}

#[test]
fn secrets_and_settings_are_never_shown() {
    let files = Files::new();
    let key = files.key("key", SECRET);
    let mut server = Serving::start(&["-v", "-k", &key]);
    run(&["connect", &server.place(), "-k", &key], b"hello").expect(0, &[]);
    let refused = run(&["connect", &server.place(), "-k", &key, "--mac", "sha256"], b"hello");
    server.running.signal(Signal::HUP);
    server.running.wait_for("keys reloaded");
    server.running.signal(Signal::USR1);
    server.running.wait_for("accepted 2");
    let mut shown = server.finish().stderr + &refused.stderr;
    for command in ["serve", "connect"] {
        let mut help = saltecho(&[command, "--help"]);
        let help = run_command(help.env("SALTECHO_KEY_FILE", "/where/the/key/is"), b"");
        shown += &String::from_utf8(help.stdout).unwrap();
    }
    files.write("broken", format!("{SECRET}\nhex:{SECRET}").as_bytes(), 0o600);
    let broken = files.path().join("broken");
    shown += &run(&["serve", "-k", broken.to_str().unwrap()], b"").stderr;
    for word in [SECRET, "nobody must ever see", "/where/the/key/is"] {
        assert!(!shown.contains(word), "{shown}");
    }
}

#[test]
fn generated_keys_differ_and_work() {
    let files = Files::new();
    let mut lines = Vec::new();
    for args in [&["keygen"][..], &["keygen"], &["keygen", "--encoding", "hex"]] {
        let key = run(args, b"");
        key.expect(0, &[]);
        lines.push(String::from_utf8(key.stdout).unwrap());
    }
    assert!(lines[0].starts_with("base64:") && lines[0].len() == 7 + 44 + 1, "{}", lines[0]);
    assert!(lines[2].starts_with("hex:") && lines[2].len() == 4 + 64 + 1, "{}", lines[2]);
    assert_ne!(lines[0], lines[1]);
    let ring = files.key("ring", &lines.concat());
    let server = Serving::start(&["-k", &ring]);
    for line in &lines {
        let key = files.key("key", line);
        assert_eq!(run(&["connect", &server.place(), "-k", &key], b"hello").stdout, b"HELLO");
    }
    server.finish();
}

#[test]
fn a_closed_stdout_is_not_reported() {
    for args in [&["--help"][..], &["serve", "--help"], &["--version"], &["keygen"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = saltecho(args).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

#[test]
fn an_unread_log_does_not_stop_the_server() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut other_end = writer.try_clone().unwrap();
    // Fills the pipe and blocks until the reader is gone.
    let filler = std::thread::spawn(move || other_end.write_all(&[b'.'; 1 << 20]));
    let files = Files::new();
    let port_file = files.path().join("port");
    let mut command = saltecho(&["serve", "-v", "-l", "127.0.0.1:0", "--port-file"]);
    let server = command.arg(&port_file).stdin(Stdio::null()).stderr(writer).spawn().unwrap();
    let address = wait_for_port(&port_file);
    for _ in 0..500 {
        assert_eq!(exchange(&authenticated(address), b"hello"), b"HELLO");
    }
    assert_eq!(terminate(server), Some(0));
    drop((reader, command));
    assert!(filler.join().unwrap().is_err(), "the pipe was never full");
}
