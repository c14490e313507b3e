//! The configuration of `saltecho serve`: errors, precedence, and the commands for it.

use std::fs;

use crate::common::client::{authenticated, exchange};
use crate::common::program::{Files, Finished, Serving, run, run_command, saltecho};

const NAME: &str = "saltecho.toml";

/// Runs the program in a directory in which `saltecho.toml` has this text.
fn run_with(text: &str, args: &[&str], variables: &[(&str, &str)]) -> Finished {
    let files = Files::new();
    files.write(NAME, text.as_bytes(), 0o644);
    let mut command = saltecho(args);
    command.current_dir(files.path()).envs(variables.iter().copied());
    run_command(&mut command, b"")
}

fn stdout(finished: &Finished) -> String {
    String::from_utf8(finished.stdout.clone()).unwrap()
}

#[test]
fn an_error_in_the_file_shows_the_place_and_the_remedy() {
    for (text, expected) in [
        (
            "# Settings\nauth_timout = \"5s\"\n",
            "saltecho: error: saltecho.toml:2:1: unknown key `auth_timout`; did you mean \
             `auth-timeout`?\n  |\n2 | auth_timout = \"5s\"\n  | ^^^^^^^^^^^\n",
        ),
        (
            "listen = [\n  \"127.0.0.1:0\",\n  \"example.org\",\n]\n",
            "saltecho: error: saltecho.toml:3:3: `listen`: example.org is not an IP address, and \
             host names may resolve differently tomorrow: give the address, like 127.0.0.1:9999\n  \
             |\n3 |   \"example.org\",\n  |   ^^^^^^^^^^^^^\n",
        ),
        (
            "idle-timeout = 5\n",
            "saltecho: error: saltecho.toml:1:16: `idle-timeout`: expected a number with a unit, \
             like 5s, 500ms or 2m, or `off`\n  |\n1 | idle-timeout = 5\n  |                ^\n",
        ),
        (
            "max-connections = \"many\"\n",
            "saltecho: error: saltecho.toml:1:19: `max-connections`: expected a number, found a \
             string\n  |\n1 | max-connections = \"many\"\n  |                   ^^^^^^\n",
        ),
        (
            "verbose = yes\n",
            "saltecho: error: saltecho.toml:1:11: string values must be quoted, expected literal \
             string\n  |\n1 | verbose = yes\n  |           ^^^\n",
        ),
        (
            "key-file = \"\x1b[2J\n",
            "saltecho: error: saltecho.toml:1:17: invalid basic string, expected `\"`\n  |\n1 | \
             key-file = \"\\x1b[2J\n  |                    ^\n",
        ),
    ] {
        for command in [&["serve", "--config", NAME][..], &["config", "check", NAME]] {
            let refused = run_with(text, command, &[]);
            refused.expect(2, &[]);
            assert_eq!(refused.stderr, expected, "{command:?}");
            assert!(refused.stdout.is_empty());
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let files = Files::new();
    let missing = files.path().join("missing").display().to_string();
    let latin = files.write("latin", b"# fine\nkey-file = 'Gr\xfc\xdfe'\n", 0o644);
    let large = files.write("large", "# comment\n".repeat(110_000).as_bytes(), 0o644);
    let directory = files.path().display().to_string();
    for (path, words) in [
        (&missing, "no such file; `saltecho config init > "),
        (&latin, "line 2 is not UTF-8 text"),
        (&large, "larger than 1 MiB"),
        (&directory, "not a regular file"),
    ] {
        let refused = run(&["serve", "--config", path], b"");
        refused.expect(2, &[&format!("configuration {path}: "), words]);
        let mut command = saltecho(&["config", "check"]);
        run_command(command.env("SALTECHO_CONFIG", path), b"").expect(2, &[words]);
    }
}

#[test]
fn checks_are_those_of_serve() {
    let files = Files::new();
    let key = files.key("key", "a key that is long enough\n");
    let exposed = files.write("exposed", b"a key that is long enough\n", 0o644);
    for (text, words) in [
        (
            "drain-delay = '25s'".to_owned(),
            "--drain-delay 25s must be shorter than --drain-timeout",
        ),
        ("listen = ['127.0.0.1:1', '127.0.0.1:1']".to_owned(), "is given twice"),
        ("listen = ['0.0.0.0:1']".to_owned(), "the demo key is public"),
        ("max-connections = 90000000".to_owned(), "--max-connections: room for 90000000 takes"),
        ("max-connections = 2\nworkers = 3".to_owned(), "at least the number of --workers"),
        ("max-connections = 2\nmax-unauthenticated = 3".to_owned(), "exceeds the maximum of 2"),
        ("key-file = 'missing'".to_owned(), "key file missing: no such file"),
        ("key-file = 'credential:key'".to_owned(), "LoadCredential=key:FILE"),
        (format!("key-file = '{exposed}'"), "chmod 600"),
        (format!("key-file = '{key}'\nport-file = '{key}'"), "it is the key file"),
        (format!("port-file = '{NAME}'"), "it is the configuration"),
    ] {
        for command in [&["serve", "--config", NAME][..], &["config", "check", NAME]] {
            run_with(&text, command, &[("CREDENTIALS_DIRECTORY", "")]).expect(2, &[words]);
        }
    }
    let ports = files.write("ports", b"4711\n", 0o644);
    let text = format!("key-file = '{key}'\nlisten = ['0.0.0.0:1']\nport-file = '{ports}'\n");
    let fine = run_with(&text, &["config", "check", NAME], &[]);
    fine.expect(0, &[]);
    let said = stdout(&fine);
    assert!(said.starts_with("saltecho.toml: valid: HMAC-MD5 with key "), "{said}");
    assert_eq!(fs::read_to_string(&ports).unwrap(), "4711\n", "a check changes nothing");
    let flags = run_with("", &["config", "check", "--auth-timeout", "3s"], &[]);
    flags.expect(0, &[]);
    assert!(stdout(&flags).contains("timeouts auth 3s"), "{}", stdout(&flags));
}

#[test]
fn the_flag_overrides_the_variable_which_overrides_the_file_which_overrides_the_default() {
    let text = "auth-timeout = \"1s\"\nidle_timeout = \"2s\"\nsend-timeout = \"3s\"\n\
                trust = [\"10.0.0.0/8\", \"192.0.2.1\"]\nverbose = true\n";
    let variables = [
        ("SALTECHO_IDLE_TIMEOUT", "20s"),
        ("SALTECHO_SEND_TIMEOUT", "30s"),
        ("SALTECHO_VERBOSE", "0"),
        ("SALTECHO_CONFIG", "missing"),
    ];
    let args = ["config", "show", "--origin", NAME, "--send-timeout", "300s"];
    let shown = run_with(text, &args, &variables);
    shown.expect(0, &[]);
    let shown = stdout(&shown);
    for (setting, origin) in [
        ("#listen = [\"ADDR\"]", "default"),
        ("#key-file = \"FILE\"", "default"),
        ("trust = [\"10.0.0.0/8\", \"192.0.2.1\"]", "saltecho.toml:4"),
        ("auth-timeout = \"1s\"", "saltecho.toml:1"),
        ("idle-timeout = \"20s\"", "SALTECHO_IDLE_TIMEOUT"),
        ("send-timeout = \"300s\"", "flag"),
        ("drain-timeout = \"25s\"", "default"),
        ("verbose = false", "SALTECHO_VERBOSE"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(setting));
        let line = line.unwrap_or_else(|| panic!("no {setting:?} in {shown}"));
        assert_eq!(line[setting.len()..].trim_start(), format!("# {origin}"), "{line}");
    }
    // It is a configuration itself.
    let again = run_with(&shown, &["config", "show", "--origin", NAME], &[]);
    again.expect(0, &[]);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap().trim_end().to_owned()).collect()
    };
    assert_eq!(values(&stdout(&again)), values(&shown));
}

#[test]
fn a_wrong_value_of_a_variable_is_the_variables_fault() {
    let refused =
        run_with("auth-timeout = '1s'", &["config", "check", NAME], &[("SALTECHO_SPIN", "x")]);
    refused.expect(2, &["'--spin <TIME>'", "the environment variable SALTECHO_SPIN"]);
}

#[test]
fn serve_takes_its_settings_from_the_file() {
    let files = Files::new();
    let key = files.key("key", "a key that is long enough\n");
    let ports = files.path().join("ports").display().to_string();
    let text = format!(
        "listen = ['127.0.0.1:0', '127.0.0.2:0']\nkey-file = '{key}'\nport-file = '{ports}'\n\
         auth-timeout = '2s'\nmax-connections = 77\nreply = 'same'\nverbose = true\n"
    );
    let path = files.write("file", text.as_bytes(), 0o644);
    let mut server = Serving::start_command(&mut saltecho(&["serve", "--config", &path]));
    let line = server.start_line.clone();
    assert!(line.contains("at most 77 connections") && line.contains("auth 2s,"), "{line}");
    assert!(line.contains(", 127.0.0.2:"), "{line}");
    let answer = run(&["connect", &server.place(), "-k", &key], b"as it is");
    answer.expect(0, &[]);
    assert_eq!(answer.stdout, b"as it is");
    server.running.wait_for("authenticated");
    assert_eq!(fs::read_to_string(&ports).unwrap().lines().count(), 2);
    server.finish();
}

#[test]
fn what_init_prints_is_a_configuration_that_changes_nothing() {
    let printed = run(&["config", "init"], b"");
    printed.expect(0, &[]);
    assert_eq!(stdout(&printed), stdout(&run(&["generate", "config"], b"")));
    let show = |text: &str| {
        let shown = run_with(text, &["config", "show", NAME], &[]);
        shown.expect(0, &[]);
        stdout(&shown)
    };
    assert_eq!(show(&stdout(&printed)), show(""));
    let mut server = saltecho(&["serve", "-l", "127.0.0.1:0", "--config"]);
    let files = Files::new();
    let path = files.write(NAME, &printed.stdout, 0o644);
    let server = Serving::start_command(server.arg(path));
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    server.finish();
}

#[test]
fn a_key_may_be_a_credential() {
    let files = Files::new();
    // As systemd passes it to a service with a user of its own.
    files.write("saltecho.key", b"a key that is long enough\n", 0o400);
    let text = "key_file = \"credential:saltecho.key\"\nlisten = ['127.0.0.1:0']\n";
    let path = files.write(NAME, text.as_bytes(), 0o644);
    let mut command = saltecho(&["serve", "--config", &path]);
    let command = command.env("CREDENTIALS_DIRECTORY", files.path());
    let server = Serving::start_command(command);
    assert!(!server.start_line.contains("demo"), "{}", server.start_line);
    server.finish();
}

#[test]
fn a_mounted_key_may_be_readable_by_the_group_if_root_owns_it() {
    let files = Files::new();
    let is_root = rustix::process::geteuid().is_root();
    for (mode, is_fine) in [(0o400, true), (0o440, is_root), (0o640, is_root), (0o444, false)] {
        let key = files.write("key", b"a key that is long enough\n", mode);
        let text = format!("key-file = '{key}'\n");
        let checked = run_with(&text, &["config", "check", NAME], &[]);
        match is_fine {
            true => checked.expect(0, &[]),
            false => checked.expect(2, &["other users have access", "--allow-exposed-key"]),
        }
        let text = text + "allow-exposed-key = true\n";
        run_with(&text, &["config", "check", NAME], &[]).expect(0, &[]);
        std::fs::remove_file(key).unwrap();
    }
}
