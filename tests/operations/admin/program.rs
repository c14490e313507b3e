//! `saltecho serve --admin`, `ctl` and `health`: the program on both sides.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::asking::{ask, ask_and_stay, tcp, unix};
use crate::common::client::{authenticated, exchange, rest};
use crate::common::program::*;

/// A server with an endpoint at a Unix socket.
struct Watched {
    server: Serving,
    files: Files,
    admin: String,
}

impl Watched {
    fn start(args: &[&str]) -> Self {
        let files = Files::new();
        let admin = format!("unix:{}", files.path().join("admin.sock").display());
        let server = Serving::start(&[&["--admin", &admin], args].concat());
        Self { server, files, admin }
    }

    fn socket(&self) -> PathBuf {
        self.files.path().join("admin.sock")
    }

    fn ctl(&self, args: &[&str]) -> Finished {
        run(&[&["ctl", "--admin", &self.admin], args].concat(), b"")
    }
}

fn stdout(finished: &Finished) -> String {
    String::from_utf8(finished.stdout.clone()).unwrap()
}

#[test]
fn ctl_lists_and_kills() {
    let watched = Watched::start(&[]);
    assert!(watched.server.start_line.contains(&watched.admin), "{}", watched.server.start_line);
    let client = authenticated(watched.server.address);
    assert_eq!(exchange(&client, b"hello"), b"HELLO");
    let peer = client.local_addr().unwrap().to_string();
    let list = watched.ctl(&["list", "--sort", "age", "--state", "echoing"]);
    list.expect(0, &[]);
    let lines = stdout(&list);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let columns: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(columns[..4], ["1", "echoing", &peer, "bab78a7f"]);
    assert_eq!(columns[6..], ["21", "37", "0"], "received, sent, unsent");
    let json = stdout(&watched.ctl(&["list", "--json"]));
    let row: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&row["peer"], &row["sent"]), (&peer.into(), &37.into()));
    watched.ctl(&["list", "--sort", "size"]).expect(1, &["\"size\"", "unsent"]);
    let stats = stdout(&watched.ctl(&["stats"]));
    let value =
        |title: &str| stats.lines().find_map(|line| line.strip_prefix(title)).map(str::trim);
    assert_eq!(value("accepted "), Some("1"), "{stats}");
    assert_eq!(value("connections "), Some("1 echoing"), "{stats}");
    assert_eq!(value("authentications "), Some("1 accepted bab78a7f"), "{stats}");
    assert_eq!(value("refused "), Some("0"), "{stats}");
    for title in ["turn duration p50", "turn duration p99"] {
        let value = value(title).expect(title);
        assert!(value.starts_with("<= ") || value.starts_with("> "), "{title}: {value}");
    }
    // A loop with little to do may not have timed the turn with the one exchange.
    assert!(value("queue wait p50").is_some() && value("queue wait p99").is_some(), "{stats}");
    let json = stdout(&watched.ctl(&["stats", "--json"]));
    let figures: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let figure = |name: &str| figures.iter().find(|figure| figure["name"] == name).expect(name);
    assert_eq!(figure("saltecho_accepted_total")["value"], 1);
    let turns = figure("saltecho_turn_duration_seconds");
    assert_eq!(turns["labels"]["worker"], "1");
    assert!(turns["count"].as_u64().unwrap() > 0 && turns["p50"].is_number(), "{turns}");
    assert!(figure("saltecho_queue_wait_seconds")["count"].is_u64(), "{json}");
    let raw = stdout(&watched.ctl(&["stats", "--raw"]));
    assert!(raw.contains("# TYPE saltecho_accepted"), "{raw}");
    let killed = watched.ctl(&["kill", "1"]);
    assert_eq!((killed.code(), stdout(&killed).as_str()), (0, "killed #1\n"));
    assert_eq!(rest(&client).unwrap(), b"");
    watched.ctl(&["kill", "1"]).expect(1, &["no connection #1"]);
    watched.ctl(&["kill", "one/../two"]).expect(1, &["one"]);
    let finished = watched.server.finish();
    finished.expect(0, &["1 killed by an administrator"]);
}

#[test]
fn ctl_reloads_the_keys_and_drains() {
    let files = Files::new();
    let key = files.key("key", "correct horse battery staple\n");
    let mut watched = Watched::start(&["-k", &key]);
    let reloaded = watched.ctl(&["reload"]);
    assert_eq!(reloaded.code(), 0, "{}", reloaded.stderr);
    watched.server.running.wait_for("keys reloaded");
    files.key("key", "short\n");
    watched.ctl(&["reload"]).expect(1, &["key"]);
    let idle = TcpStream::connect(watched.server.address).unwrap();
    let drained = watched.ctl(&["drain"]);
    assert_eq!((drained.code(), stdout(&drained).as_str()), (0, "draining\n"));
    drop(idle);
    let socket = watched.socket();
    watched.server.running.wait().expect(0, &[]);
    assert!(!socket.exists(), "the socket's file goes with the server");
}

#[test]
fn health_is_an_exit_code() {
    let watched = Watched::start(&[]);
    let place = watched.server.place();
    run(&["health", &watched.admin], b"").expect(0, &[]);
    run(&["health", "--admin", &watched.admin], b"").expect(0, &[]);
    run(&["health", "--deep", &place], b"").expect(0, &[]);
    let files = Files::new();
    let other = files.key("other", "another key of enough bytes\n");
    run(&["health", "--deep", "-k", &other, &place], b"").expect(1, &["refused the digest"]);
    run(&["health", "--deep", &watched.admin], b"").expect(2, &["expected a host and a port"]);
    let absent = files.path().join("absent");
    let absent = format!("unix:{}", absent.display());
    run(&["health", &absent], b"").expect(1, &["cannot connect", "--admin"]);
    run(&["ctl", "--admin", &absent, "list"], b"").expect(4, &["cannot connect"]);
    // A client that stays keeps a draining server alive, and not ready.
    let stays = authenticated(watched.server.address);
    assert_eq!(exchange(&stays, b"x"), b"X");
    watched.ctl(&["drain"]).expect(0, &[]);
    run(&["health", &watched.admin], b"").expect(1, &["not ready: draining"]);
    run(&["health", "--deep", &place], b"").expect(1, &["not ready"]);
    drop(stays);
    watched.server.running.wait().expect(0, &[]);
}

#[test]
fn what_is_no_endpoint_is_named_as_such() {
    let server = Serving::start(&[]);
    run(&["health", &server.place()], b"").expect(1, &["is not an admin endpoint", "in HTTP"]);
    run(&["ctl", "--admin", &server.place(), "drain"], b"")
        .expect(4, &["is not an admin endpoint"]);
    server.finish();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = silent.local_addr().unwrap().to_string();
    let in_time = ["--timeout", "50ms"];
    let words = format!("no answer from {place} within 50ms");
    run(&[&["health", &place], &in_time[..]].concat(), b"").expect(1, &[&words]);
    run(&[&["ctl", "--admin", &place, "list"], &in_time[..]].concat(), b"").expect(4, &[&words]);
    drop(silent);
    run(&["health", &place], b"").expect(1, &["cannot connect", "Connection refused"]);
}

#[test]
fn the_variable_names_the_endpoint() {
    let watched = Watched::start(&[]);
    for args in [&["health"][..], &["ctl", "stats"]] {
        run_command(saltecho(args).env("SALTECHO_ADMIN", &watched.admin), b"").expect(0, &[]);
    }
    watched.server.finish();
}

#[test]
fn a_reload_says_what_changed_or_why_nothing_did() {
    let files = Files::new();
    let path = files.write("saltecho.toml", b"", 0o644);
    let watched = Watched::start(&["--config", &path]);
    let reload = |text: &str| {
        files.write("saltecho.toml", text.as_bytes(), 0o644);
        let answer = ask(unix(&watched.socket()), "POST /reload");
        (answer.status, answer.text().to_owned())
    };
    let (status, text) = reload("idle-timeout = '10m'\nworkers = 2\n");
    assert_eq!(status, 200);
    let changed =
        "configuration reloaded: idle-timeout off -> 10m; a restart is needed for: workers";
    assert!(text.starts_with(changed), "{text}");
    let (status, text) = reload("idle-timeout = 'soon'\n");
    assert_eq!(status, 422);
    assert!(text.starts_with("configuration not reloaded, the old one stays in force: "), "{text}");
    assert!(text.contains(":1:16: `idle-timeout`: "), "{text}");
    let refused = watched.ctl(&["reload"]);
    refused.expect(1, &["configuration not reloaded", ":1:16: `idle-timeout`: "]);
    assert_eq!(refused.stdout, b"");
    files.write("saltecho.toml", b"idle-timeout = '10m'\n", 0o644);
    let reloaded = watched.ctl(&["reload"]);
    assert_eq!(
        (reloaded.code(), stdout(&reloaded).as_str()),
        (0, "configuration reloaded: no change\n")
    );
    watched.server.finish();
    // A server with nothing to read.
    let watched = Watched::start(&[]);
    watched.ctl(&["reload"]).expect(1, &["there is no key file (-k) and no configuration"]);
    watched.server.finish();
}

#[test]
fn ctl_log_changes_what_is_logged() {
    let mut watched = Watched::start(&[]);
    let visit = |watched: &Watched| {
        let client = authenticated(watched.server.address);
        assert_eq!(exchange(&client, b"x"), b"X");
        client.local_addr().unwrap().to_string()
    };
    let set = |watched: &Watched, level: &str| {
        let answer = watched.ctl(&["log", level]);
        let said = format!("the log level is now {level}\n");
        assert_eq!((answer.code(), stdout(&answer)), (0, said));
    };
    let before = visit(&watched);
    set(&watched, "verbose");
    let loud = visit(&watched);
    watched.server.running.wait_for(&format!("new from {loud}"));
    watched.server.running.wait_for(&format!("closed: peer finished, from {loud}"));
    let answer = ask(unix(&watched.socket()), "POST /log?level=normal");
    assert_eq!((answer.status, answer.text()), (200, "the log level is now normal\n"));
    let after = visit(&watched);
    set(&watched, "quiet");
    watched.ctl(&["log", "loud"]).expect(1, &["use quiet, normal or verbose"]);
    let said = watched.server.finish().stderr;
    for silent in [before, after] {
        assert!(!said.contains(&format!("new from {silent}")), "{said}");
    }
    assert!(!said.contains("draining: "), "it is quiet: {said}");
}

#[test]
fn sigterm_makes_it_unready_at_once() {
    let mut watched = Watched::start(&[]);
    let stays = authenticated(watched.server.address);
    assert_eq!(exchange(&stays, b"x"), b"X");
    let probe = unix(&watched.socket());
    assert!(ask_and_stay(&probe, "GET /readyz").starts_with("HTTP/1.1 200 "));
    watched.server.running.signal(Signal::TERM);
    watched.server.running.wait_for("draining");
    // The line is printed in the turn that begins the drain.
    assert!(ask_and_stay(&probe, "GET /readyz").starts_with("HTTP/1.1 503 "));
    assert!(ask_and_stay(&probe, "GET /livez").starts_with("HTTP/1.1 200 "));
    drop(stays);
    watched.server.running.wait().expect(0, &[]);
}

#[test]
fn it_answers_a_process_that_has_no_descriptor_left() {
    let watched = Watched::start(&[]);
    let clients: Vec<TcpStream> = (0..10).map(|_| authenticated(watched.server.address)).collect();
    for client in &clients {
        assert_eq!(exchange(client, b"x"), b"X");
    }
    // From now on no descriptor can be opened: all numbers below the limit are taken.
    let pid = rustix::process::Pid::from_raw(watched.server.running.pid().try_into().unwrap());
    let files = format!("/proc/{}/fd", watched.server.running.pid());
    let free = (0..).find(|number| !Path::new(&format!("{files}/{number}")).exists());
    let most = free;
    let limit = rustix::process::Rlimit { current: most, maximum: most };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let _waiting = TcpStream::connect(watched.server.address).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(unix(&watched.socket()), "GET /livez").status, 200);
        let list = ask(unix(&watched.socket()), "GET /connections");
        assert_eq!(list.text().lines().count(), 10);
    }
    drop(clients);
}

#[test]
fn addresses_that_would_expose_or_replace_something_are_refused() {
    let files = Files::new();
    run(&["serve", "-l", "127.0.0.1:0", "--admin", "0.0.0.0:0"], b"")
        .expect(2, &["--admin 0.0.0.0:0", "--admin-exposed"]);
    let exposed = Serving::start(&["--admin", "0.0.0.0:0", "--admin-exposed"]);
    let place = exposed.start_line.split("admin endpoint 0.0.0.0:").nth(1).unwrap();
    let port: u16 = place.split(':').next().unwrap().parse().unwrap();
    assert_eq!(ask(tcp(SocketAddr::from(([127, 0, 0, 1], port))), "GET /livez").status, 200);
    exposed.finish();
    let path = files.write("file", b"precious", 0o600);
    run(&["serve", "-l", "127.0.0.1:0", "--admin", &format!("unix:{path}")], b"")
        .expect(1, &["exists and is not a socket"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let live = files.path().join("live");
    let listener = UnixListener::bind(&live).unwrap();
    let admin = format!("unix:{}", live.display());
    run(&["serve", "-l", "127.0.0.1:0", "--admin", &admin], b"")
        .expect(1, &["another process listens at this socket"]);
    // What a killed process has left behind is replaced.
    drop(listener);
    let server = Serving::start(&["--admin", &admin]);
    assert_eq!(ask(unix(&live), "GET /livez").status, 200);
    server.finish();
}
