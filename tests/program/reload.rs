//! SIGHUP to a server with a configuration: what changes, what waits for a restart, and that nothing
//! is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::client::{authenticated, exchange, rest};
use crate::common::program::{Files, Serving, Signal, run, saltecho};

const RELOADED: &str = "configuration reloaded: ";
const NOT_RELOADED: &str = "configuration not reloaded, the old one stays in force: ";

/// A server with a configuration that can be changed.
struct World {
    files: Files,
    server: Serving,
}

impl World {
    fn start(text: &str, args: &[&str]) -> Self {
        let files = Files::new();
        let path = files.write("saltecho.toml", text.as_bytes(), 0o644);
        let mut command = saltecho(&["serve", "--config", &path]);
        Self { server: Serving::start_command(command.args(args)), files }
    }

    /// Replaces the configuration and sends SIGHUP; returns the line with these words.
    fn reload(&mut self, text: &str, words: &str) -> String {
        self.files.write("saltecho.toml", text.as_bytes(), 0o644);
        self.server.running.signal(Signal::HUP);
        self.server.running.wait_for(words)
    }
}

const LISTEN: &str = "listen = ['127.0.0.1:0']\n";

#[test]
fn what_changed_is_named_and_takes_effect() {
    let mut world = World::start(LISTEN, &[]);
    let veteran = authenticated(world.server.address);
    let text = format!("{LISTEN}idle-timeout = '50ms'\nmax-connections = 7\n");
    let said = world.reload(&text, RELOADED);
    let expected = "max-connections (not set) -> 7, idle-timeout off -> 50ms";
    assert!(said.ends_with(&format!("{RELOADED}{expected}")), "{said}");
    let newcomer = authenticated(world.server.address);
    assert_eq!(rest(&newcomer).unwrap(), b"", "idle for longer than the new limit");
    assert_eq!(exchange(&veteran, b"still here"), b"STILL HERE", "its recv began without a limit");
    assert_eq!(rest(&veteran).unwrap(), b"");
    let said = world.reload(&text, RELOADED);
    assert!(said.ends_with("no change"), "{said}");
    let said = world.reload(LISTEN, RELOADED);
    assert!(said.ends_with("max-connections 7 -> (not set), idle-timeout 50ms -> off"), "{said}");
    world.server.finish();
}

#[test]
fn what_needs_a_restart_is_named_and_stays_as_it_is() {
    let mut world = World::start(&format!("{LISTEN}keepalive = 'off'\n"), &["--backlog", "100"]);
    let text = "listen = ['127.0.0.1:0', '127.0.0.2:0']\nworkers = 2\nreply = 'same'\n\
                backlog = 200\nkeepalive = '30s'\nauth-timeout = '7s'\n";
    let said = world.reload(text, RELOADED);
    assert!(said.ends_with("reloaded: auth-timeout 5s -> 7s"), "{said}");
    let said = world.server.running.wait_for("a restart is needed for: ");
    let expected = "listen [\"127.0.0.1:0\"] -> [\"127.0.0.1:0\", \"127.0.0.2:0\"], reply upper -> \
                    same, keepalive off -> 30s, workers 1 -> 2";
    assert!(said.ends_with(expected), "{said}: the flag overrides the backlog of the file");
    // It says so until the restart.
    let said = world.reload(text, "a restart is needed for: ");
    assert!(said.ends_with(expected), "{said}");
    assert_eq!(exchange(&authenticated(world.server.address), b"hello"), b"HELLO");
    world.server.finish();
}

#[test]
fn the_level_of_the_log_changes_and_its_format_waits() {
    let mut world = World::start(LISTEN, &[]);
    let visit = |world: &World| {
        let client = authenticated(world.server.address);
        assert_eq!(exchange(&client, b"x"), b"X");
        client.local_addr().unwrap()
    };
    let before = visit(&world);
    let verbose = format!("{LISTEN}verbose = true\nlog-format = 'json'\n");
    let said = world.reload(&verbose, RELOADED);
    assert!(said.ends_with("reloaded: verbose false -> true"), "{said}");
    let said = world.server.running.wait_for("a restart is needed for: ");
    assert!(said.ends_with("log-format auto -> json"), "{said}");
    let loud = visit(&world);
    world.server.running.wait_for(&format!("new from {loud}"));
    let said = world.server.running.wait_for(&format!("closed: peer finished, from {loud}"));
    assert!(said.contains(" with key bab78a7f after "), "records are kept from then on: {said}");
    let said = world.reload(&format!("{verbose}quiet = true\n"), RELOADED);
    assert!(said.ends_with("reloaded: quiet false -> true"), "a signal asked for it: {said}");
    let after = visit(&world);
    let said = world.server.finish().stderr;
    for silent in [before, after] {
        assert!(!said.contains(&format!("new from {silent}")), "{said}");
    }
    assert!(!said.contains("draining: "), "{said}");
}

#[test]
fn a_bad_file_changes_nothing() {
    let files = Files::new();
    let key = files.key("key", "a key that is long enough\n");
    let with_key = format!("{LISTEN}key-file = '{key}'\n");
    let mut world = World::start(&with_key, &[]);
    for (text, words) in [
        (
            format!("{with_key}auth_timout = '1s'\n"),
            ":3:1: unknown key `auth_timout`; did you mean",
        ),
        (format!("{with_key}workers = 0\n"), ":3:11: `workers`: 0 is not in 1..=256"),
        (format!("{with_key}idle-timeout = '1ms'\nauth-timeout = 1\n"), ":4:16: `auth-timeout`: "),
        (format!("{with_key}idle-timeout = '1ms'\nmax-connections = 90000000\n"), "room for"),
        (format!("{LISTEN}key-file = '/nonexistent/key'\n"), "key file /nonexistent/key: no such"),
        (LISTEN.to_owned(), "only a restart goes back to the demo key"),
        ("=".to_owned(), ":1:1: "),
    ] {
        let said = world.reload(&text, NOT_RELOADED);
        assert!(said.contains(words), "{said}");
    }
    std::fs::remove_file(world.files.path().join("saltecho.toml")).unwrap();
    world.server.running.signal(Signal::HUP);
    let said = world.server.running.wait_for(NOT_RELOADED);
    assert!(said.contains("no such file"), "{said}");
    let answer = run(&["connect", &world.server.place(), "-k", &key], b"hello");
    answer.expect(0, &[]);
    assert_eq!(answer.stdout, b"HELLO");
    let said = world.reload(&with_key, RELOADED);
    assert!(said.ends_with("no change"), "nothing of the bad files is left: {said}");
    world.server.finish();
}

#[test]
fn keys_are_reloaded_with_the_configuration() {
    let files = Files::new();
    let [old, new] = ["old", "new"].map(|name| files.key(name, &format!("the key named {name}\n")));
    let mut world = World::start(&format!("{LISTEN}key-file = '{old}'\n"), &[]);
    let code = |world: &World, key: &str| {
        run(&["connect", &world.server.place(), "-k", key], b"hello").code()
    };
    assert_eq!((code(&world, &old), code(&world, &new)), (0, 3));
    let said = world.reload(&format!("{LISTEN}key-file = '{new}'\n"), RELOADED);
    assert!(said.ends_with(&format!("key-file {old} -> {new}")), "{said}");
    assert_eq!((code(&world, &old), code(&world, &new)), (3, 0));
    files.key("new", "the key named old\n");
    let said = world.reload(&format!("{LISTEN}key-file = '{new}'\n"), RELOADED);
    assert!(said.ends_with("no change"), "{said}: the key is no setting");
    assert_eq!(code(&world, &old), 0, "and is read again all the same");
    world.server.finish();
}

#[test]
fn reloads_under_load_lose_nothing() {
    for workers in ["1", "2"] {
        let mut world = World::start(LISTEN, &["--workers", workers]);
        let descriptors = world.server.descriptors();
        let ended = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (ended, address) = (Arc::clone(&ended), world.server.address);
                thread::spawn(move || {
                    let veteran = authenticated(address);
                    let mut exchanges = 0_usize;
                    while !ended.load(Ordering::Relaxed) || exchanges == 0 {
                        let message = vec![b'a'; 1 + (exchanges * 7919) % 100_000];
                        assert_eq!(exchange(&veteran, &message), message.to_ascii_uppercase());
                        // Clients come and go as well.
                        assert_eq!(exchange(&authenticated(address), b"new"), b"NEW");
                        exchanges += 1;
                    }
                    exchanges
                })
            })
            .collect();
        for number in 0..20 {
            let text = format!(
                "{LISTEN}recv-size = '{}'\nkeepalive = '{}s'\nmax-connections = {}\n\
                 idle-timeout = '{}m'\n",
                ["1k", "32k", "1m"][number % 3],
                1 + number % 5,
                100 + number,
                1 + number,
            );
            let said = world.reload(&text, RELOADED);
            assert!(said.contains("max-connections"), "{said}");
        }
        ended.store(true, Ordering::Relaxed);
        let exchanges: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        let counters = world.server.counters();
        assert!(counters.contains(&format!("accepted {}", exchanges + 4)), "{counters}");
        world.server.wait_for_descriptors(descriptors);
        let finished = world.server.finish();
        assert!(finished.stderr.contains(&format!("{} peer finished", exchanges + 4)));
    }
}
