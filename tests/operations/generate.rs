//! `saltecho generate`: each file is held against the program that reads it.

use std::fs;
use std::process::{Command, Output};

use crate::common::needs::{KUBERNETES_VALIDATE, MAN, PROMTOOL, SYSTEMD_ANALYZE};
use crate::common::program::*;
use serde_json::Value;
use tempfile::TempDir;

const COMMANDS: [&str; 7] = ["connect", "doctor", "generate", "keygen", "load", "report", "serve"];

#[track_caller]
fn generate(args: &[&str]) -> String {
    let finished = run(&[&["generate"], args].concat(), b"");
    finished.expect(0, &[]);
    String::from_utf8(finished.stdout).unwrap()
}

#[track_caller]
fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// The unit, its socket, its user and its settings, in a directory.
fn systemd() -> (TempDir, [String; 4]) {
    let directory = TempDir::new().unwrap();
    let written = generate(&["systemd", directory.path().to_str().unwrap()]);
    let texts: Vec<String> =
        written.lines().map(|path| fs::read_to_string(path).unwrap()).collect();
    (directory, texts.try_into().expect("four files"))
}

#[test]
fn each_command_has_a_man_page() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/man1");
    generate(&["man", path.to_str().unwrap()]);
    for command in COMMANDS {
        let page = fs::read_to_string(path.join(format!("saltecho-{command}.1"))).unwrap();
        assert!(page.contains(".SH EXAMPLES") && !page.contains(".SH EXTRA"), "{command}");
        let has_variables = !["generate", "report"].contains(&command);
        assert_eq!(page.contains("SALTECHO_"), has_variables, "{command}");
    }
    let help = run(&["--help"], b"").stdout;
    let help = String::from_utf8(help).unwrap();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is no command");
    }
}

#[test]
fn man_pages_have_no_warnings() {
    if MAN.is_missing() {
        return;
    }
    let directory = TempDir::new().unwrap();
    generate(&["man", directory.path().to_str().unwrap()]);
    let pages = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<_> = pages.collect();
    assert!(pages.len() > COMMANDS.len(), "{pages:?}");
    for page in pages {
        // As lintian asks.
        let mut man = MAN.find().expect("it was there");
        man.env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", "").env("MANWIDTH", "80");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(&page);
        let output = succeeds(&mut man);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page:?}");
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = generate(&["completions", "bash"]);
    let files = Files::new();
    let script = files.write("saltecho", script.as_bytes(), 0o600);
    for (words, completed) in [
        ("saltecho ser", "serve"),
        ("saltecho serve --drain-t", "--drain-timeout"),
        ("saltecho generate completions fi", "fish"),
        ("saltecho help", ""),
    ] {
        let ask = "source \"$1\"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
                   _saltecho saltecho \"${COMP_WORDS[-1]}\" \"${COMP_WORDS[-2]}\"; \
                   echo \"${COMPREPLY[@]}\"";
        let output = succeeds(Command::new("bash").args(["-c", ask, "bash", &script, words]));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), completed, "{words}");
    }
}

#[test]
fn other_shells_have_completions_too() {
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        assert!(generate(&["completions", shell]).contains("drain-timeout"), "{shell}");
    }
    run(&["generate", "completions", "sh"], b"").expect(2, &["bash", "zsh"]);
}

#[test]
fn the_unit_is_sound_and_exposes_little() {
    if SYSTEMD_ANALYZE.is_missing() {
        return;
    }
    let (directory, [unit, socket, _, _]) = systemd();
    // The program that would be installed is this one, and its pages are not.
    let program = saltecho(&[]).get_program().to_str().unwrap().to_owned();
    let path = directory.path().join("saltecho.service");
    fs::write(&path, unit.replace("/usr/bin/saltecho", &program)).unwrap();
    fs::write(directory.path().join("saltecho.socket"), socket).unwrap();
    let analyze = || SYSTEMD_ANALYZE.find().expect("it was there");
    let socket = directory.path().join("saltecho.socket");
    let output = succeeds(analyze().args(["verify", "--man=no"]).arg(&path).arg(socket));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // 2.0, of 10.
    succeeds(analyze().args(["security", "--offline=true", "--threshold=20"]).arg(&path));
}

/// All settings that the files have are settings of `serve`, and it starts with them.
#[test]
fn the_units_settings_are_accepted() {
    let (_directory, [unit, _, _, settings]) = systemd();
    let help = String::from_utf8(run(&["serve", "--help"], b"").stdout).unwrap();
    let files = Files::new();
    let key = files.key("key", "hex:000102030405060708090a0b0c0d0e0f");
    let in_unit = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    let in_file = settings.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let in_unit = in_unit.filter_map(|line| line.split_once('='));
    let mut command = saltecho(&["serve"]);
    let mut number = 0;
    for (name, value) in in_unit.chain(in_file).filter(|(name, _)| name.starts_with("SALTECHO_")) {
        assert!(help.contains(&format!("[env: {name}]")), "{name} is no setting");
        number += 1;
        match name {
            "SALTECHO_LISTEN" | "SALTECHO_LISTEN_PROXY" => command.env(name, "127.0.0.1:0"),
            "SALTECHO_KEY_FILE" => command.env(name, &key),
            _ => command.env(name, value),
        };
    }
    assert!(number > 5, "{number} settings");
    Serving::start_command(&mut command).finish();
}

#[test]
fn files_are_printed_with_their_places() {
    let text = generate(&["systemd"]);
    for place in [
        "/usr/lib/systemd/system/saltecho.service",
        "/usr/lib/systemd/system/saltecho.socket",
        "/etc/default/saltecho",
    ] {
        assert!(text.contains(&format!("# {place}\n")), "{text}");
    }
    run(&["generate", "systemd", "/proc/nowhere"], b"").expect(1, &["cannot write /proc/nowhere"]);
    run(&["generate", "man", "/dev/null"], b"").expect(1, &["cannot write /dev/null"]);
}

#[test]
fn the_manifests_are_as_kubernetes_publishes_them() {
    let text = generate(&["kubernetes"]);
    for kind in ["Secret", "Deployment", "Service", "PodDisruptionBudget", "Job"] {
        assert!(text.contains(&format!("\nkind: {kind}\n")), "no {kind}");
    }
    assert!(!text.contains('@'), "a place is left to fill in");
    let key = |text: &str| text.split_once("saltecho.key: \"").unwrap().1[..50].to_owned();
    assert!(key(&text).starts_with("base64:"));
    assert_ne!(key(&text), key(&generate(&["kubernetes"])), "each has a key of its own");
    let Some(mut validate) = KUBERNETES_VALIDATE.find() else { return };
    let files = Files::new();
    let path = files.write("saltecho.yaml", text.as_bytes(), 0o600);
    succeeds(validate.args(["--strict", &path]));
}

/// The commands of the manifests, as a shell would split them.
#[track_caller]
fn command(manifests: &str, begin: &str) -> Vec<String> {
    let (_, rest) = manifests.split_once(begin).expect("it is there");
    let (list, _) = rest.split_once(']').expect("it has an end");
    list.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
}

#[test]
fn the_manifests_commands_work() {
    let text = generate(&["kubernetes"]);
    let (_, key) = text.split_once("saltecho.key: \"").unwrap();
    let files = Files::new();
    let key = files.key("key", key.split('"').next().unwrap());
    let serving = Serving::start(&["-k", &key]);
    let with_key = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = saltecho(&words);
        command.env("SALTECHO_KEY_FILE", &key);
        command
    };
    let mut probe = command(&text, "command: [/saltecho, ");
    assert_eq!(probe[1], "127.0.0.1:9999");
    probe[1] = serving.place();
    run_command(&mut with_key(&probe), b"").expect(0, &[]);

    // Three pods, whose output is one stream; shorter than what is asked of a cluster.
    let mut load = command(&text, "args: [load, ");
    for (word, shorter) in [
        ("saltecho:9999", serving.place()),
        ("1000", "5".to_owned()),
        ("5k", "50".to_owned()),
        ("60s", "1s".to_owned()),
    ] {
        *load.iter_mut().find(|other| *other == word).expect("it is asked for") = shorter;
    }
    load.insert(0, "load".to_owned());
    assert!(text.contains("grep -E '^(#|\"|Tag=)'"));
    let logs = files.path().join("logs");
    fs::create_dir(&logs).unwrap();
    for pod in 0..3 {
        let finished = run_command(&mut with_key(&load), b"");
        assert!([0, 6].contains(&finished.code()), "{finished:?}");
        let output = String::from_utf8(finished.stdout).unwrap();
        let kept = output.lines().filter(|line| {
            line.starts_with('#') || line.starts_with('"') || line.starts_with("Tag=")
        });
        let log: String = kept.map(|line| format!("{line}\n")).collect();
        fs::write(logs.join(format!("{pod}.hlog")), log).unwrap();
    }
    let report = run(&["report", "--json", logs.to_str().unwrap()], b"");
    let report: Value = serde_json::from_slice(&report.stdout).expect("it is JSON");
    assert_eq!(report["counts"]["answered"], 3 * 50, "{report:#}");
    serving.finish();
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&generate(&["grafana"])).expect("it is JSON");
    let metrics = include_str!("../../docs/OPERATIONS.md");
    let metrics: Vec<&str> = words(metrics).filter(|word| is_metric(word)).collect();
    let (mut queries, mut rules) = (0, "groups: [{name: a, rules: [\n".to_owned());
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let mut asked = words(query).filter(|word| is_metric(word)).peekable();
            assert!(asked.peek().is_some(), "{query}");
            for name in asked {
                let name = name.trim_end_matches("_bucket");
                assert!(metrics.contains(&name), "{name} is no metric: {query}");
            }
            let query = query.replace("$__rate_interval", "1m");
            let query = Value::from(query);
            rules.push_str(&format!("{{record: 'a:{queries}', expr: {query}}},\n"));
            queries += 1;
        }
    }
    assert!(queries > 12, "{queries} queries");
    rules.push_str("]}]\n");
    let Some(mut promtool) = PROMTOOL.find() else { return };
    let files = Files::new();
    succeeds(promtool.args(["check", "rules", &files.write("rules", rules.as_bytes(), 0o600)]));
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

fn is_metric(word: &str) -> bool {
    word.starts_with("saltecho_") || word.starts_with("process_")
}
