//! `saltecho generate`: each file is checked by the program that reads it.

use std::fs;
use std::process::{Command, Output};

use crate::common::needs::{KUBERNETES_VALIDATE, MAN, PROMTOOL, SYSTEMD_ANALYZE};
use crate::common::program::*;
use serde_json::Value;
use tempfile::TempDir;

const COMMANDS: [&str; 9] =
    ["connect", "ctl", "doctor", "generate", "health", "keygen", "load", "report", "serve"];

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

/// The unit, its socket, its user and its configuration, in a directory.
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
        // The command that lintian runs.
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
fn the_unit_is_valid_and_hardened() {
    if SYSTEMD_ANALYZE.is_missing() {
        return;
    }
    let (directory, [unit, socket, _, _]) = systemd();
    // The unit names the installed program and its man pages; the former is this build, the latter are absent.
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

/// The unit's command starts a server with the configuration, which names the key and the endpoint
/// that `ctl` finds.
#[test]
fn the_unit_starts_with_its_configuration() {
    let (_directory, [unit, _, _, configuration]) = systemd();
    let set: Vec<&str> =
        configuration.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let (key_file, admin) = ("/etc/saltecho/saltecho.key", "/run/saltecho/admin.sock");
    assert_eq!(set, [format!("key-file = \"{key_file}\""), format!("admin = \"unix:{admin}\"")]);
    let defaults = generate(&["config"]);
    assert_eq!(defaults.lines().count(), configuration.lines().count(), "it has all keys");
    assert!(unit.contains("\nRuntimeDirectory=saltecho\n"));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/saltecho "));
    let command = command.expect("it starts the program");
    let check = command.replace("serve --config", "config check");
    assert!(unit.contains(&format!("\nExecReload=/usr/bin/saltecho {check}\n")), "{check}");

    let files = Files::new();
    let key = files.key("key", "hex:000102030405060708090a0b0c0d0e0f");
    let socket = files.path().join("admin.sock");
    let configuration =
        configuration.replace(key_file, &key).replace(admin, socket.to_str().unwrap());
    let configuration = files.write("saltecho.toml", configuration.as_bytes(), 0o644);
    let moved = |command: &str| {
        let words = command.replace("/etc/saltecho/saltecho.toml", &configuration);
        words.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let check = moved(&check);
    run(&check.iter().map(String::as_str).collect::<Vec<_>>(), b"").expect(0, &[]);
    let mut serve = saltecho(&moved(command).iter().map(String::as_str).collect::<Vec<_>>());
    let server = Serving::start_command(serve.env("SALTECHO_LISTEN", "127.0.0.1:0"));
    let admin = format!("unix:{}", socket.display());
    run(&["health", &admin], b"").expect(0, &[]);
    run(&["health", "--live", &admin], b"").expect(0, &[]);
    server.finish();
}

#[test]
fn files_are_printed_with_their_paths() {
    let text = generate(&["systemd"]);
    for place in [
        "/usr/lib/systemd/system/saltecho.service",
        "/usr/lib/systemd/system/saltecho.socket",
        "/etc/saltecho/saltecho.toml",
    ] {
        assert!(text.contains(&format!("# {place}\n")), "{text}");
    }
    run(&["generate", "systemd", "/proc/nowhere"], b"").expect(1, &["cannot write /proc/nowhere"]);
    run(&["generate", "man", "/dev/null"], b"").expect(1, &["cannot write /dev/null"]);
}

#[test]
fn the_manifests_match_the_schemas_of_kubernetes() {
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

/// A command of the manifests, as a list of words.
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
    let admin = format!("unix:{}", files.path().join("admin.sock").display());
    let mut serving = Serving::start(
        &[
            &["-k", &key, "--admin", &admin][..],
            &["--drain-delay", "10m", "--drain-timeout", "20m"],
        ]
        .concat(),
    );
    let with_key = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = saltecho(&words);
        command.env("SALTECHO_KEY_FILE", &key);
        command
    };
    let [deep, ready, live] = ["startup", "readiness", "liveness"].map(|kind| {
        command(&text, &format!("{kind}Probe:\n            exec: {{command: [/saltecho, "))
    });
    let mut probe = deep;
    let place = probe.iter_mut().find(|word| *word == "127.0.0.1:9999");
    *place.expect("it asks the server") = serving.place();
    run_command(&mut with_key(&probe), b"").expect(0, &[]);
    assert!(text.contains("{name: SALTECHO_ADMIN, value: \"unix:/run/saltecho/admin.sock\"}"));
    assert!(text.contains("{name: run, mountPath: /run/saltecho}"));
    for probe in [&ready, &live] {
        run_command(with_key(probe).env("SALTECHO_ADMIN", &admin), b"").expect(0, &[]);
    }

    // Three pods, each with one stream for its output; a shorter load than in the manifest.
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

    // A server that drains is alive, but not ready.
    serving.running.signal(Signal::TERM);
    serving.running.wait_for("draining");
    for (probe, code, words) in [(&ready, 1, "not ready"), (&live, 0, "")] {
        let finished = run_command(with_key(probe).env("SALTECHO_ADMIN", &admin), b"");
        finished.expect(code, &[words]);
    }
    serving.running.signal(Signal::TERM);
    serving.running.wait().expect(0, &[]);
}

#[test]
fn the_dashboard_queries_existing_metrics() {
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
    // Those left out have too little to say for a place of their own.
    const LEFT_OUT: [&str; 7] = [
        "process_start_time_seconds",
        "saltecho_accept_errors_total",
        "saltecho_build_info",
        "saltecho_discarded_bytes_total",
        "saltecho_service_start_time_seconds",
        "saltecho_stale_events_total",
        "saltecho_upgrade_last_success_timestamp_seconds",
    ];
    let shown = |metric: &&&str| rules.contains(**metric) != LEFT_OUT.contains(*metric);
    assert!(metrics.iter().all(|metric| shown(&metric)), "{metrics:?} and {rules}");
    rules.push_str("]}]\n");
    let Some(mut promtool) = PROMTOOL.find() else { return };
    let files = Files::new();
    succeeds(promtool.args(["check", "rules", &files.write("rules", rules.as_bytes(), 0o600)]));
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_fire() {
    let alerts = generate(&["prometheus"]);
    let metrics = include_str!("../../docs/OPERATIONS.md");
    let metrics: Vec<&str> = words(metrics).filter(|word| is_metric(word)).collect();
    for name in words(&alerts).filter(|word| is_metric(word)) {
        assert!(metrics.contains(&name.trim_end_matches("_bucket")), "{name} is no metric");
    }
    let Some(mut promtool) = PROMTOOL.find() else { return };
    let files = Files::new();
    let rules = files.write("alerts.yml", alerts.as_bytes(), 0o600);
    let output = succeeds(promtool.args(["check", "rules", &rules]));
    let number = alerts.matches("- alert: ").count();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("{number} rules found")));
    // Twenty minutes of a server with every trouble, and of one with none.
    let troubles = [
        (r#"saltecho_turn_duration_seconds_bucket{worker="1",le="0.016777216"}"#, "0+90x20"),
        (r#"saltecho_turn_duration_seconds_bucket{worker="1",le="0.067108864"}"#, "0+95x20"),
        (r#"saltecho_turn_duration_seconds_bucket{worker="1",le="0.268435456"}"#, "0+100x20"),
        (r#"saltecho_turn_duration_seconds_bucket{worker="1",le="+Inf"}"#, "0+100x20"),
        (r#"saltecho_asleep_seconds_total{worker="1"}"#, "0+1x20"),
        ("saltecho_workers_missing{}", "1x20"),
        ("saltecho_accept_pauses_total{}", "0+600x20"),
        (r#"saltecho_refused_total{reason="no_room"}"#, "0+300x20"),
        ("saltecho_undelivered_bytes_total{}", "0+1000x20"),
        (r#"saltecho_upgrades_total{result="aborted",reason="late"}"#, "0+1x20"),
        ("saltecho_upgrade_connections_dropped_total{}", "0+1x20"),
        (r#"saltecho_authentications_total{result="rejected"}"#, "0+20x20"),
        (r#"saltecho_authentications_total{result="accepted"}"#, "0+100x20"),
        ("process_open_fds{}", "95x20"),
        ("process_max_fds{}", "100x20"),
        ("saltecho_build_info{}", "1x20"),
        ("saltecho_ready{}", "0x20"),
        ("saltecho_log_lines_suppressed_total{}", "0+1x20"),
    ];
    let calm = |series: &str, values: &str| match series {
        _ if series.contains("turn_duration") => "0+100x20".to_owned(),
        _ if series.contains("asleep") => "0+30x20".to_owned(),
        _ if series.contains("accepted") => "0+100x20".to_owned(),
        _ if series.contains("fds") || series.contains("build") => {
            if series.contains("open") { "10x20" } else { values }.to_owned()
        }
        _ if series.contains("ready") => "1x20".to_owned(),
        _ => "0x20".to_owned(),
    };
    let mut series = String::new();
    for (name, values) in troubles {
        let of = |instance: &str, values: &str| {
            let labels = format!("{{instance=\"{instance}\",job=\"saltecho\",");
            let name = name.replacen('{', &labels, 1).replace(",}", "}");
            format!("  - {{series: '{name}', values: '{values}'}}\n")
        };
        series += &(of("troubled", values) + &of("calm", &calm(name, values)));
    }
    let count = "count by (instance) (ALERTS{alertstate=\"firing\"})";
    let test = format!(
        "rule_files: [{rules}]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n\
         {series}  promql_expr_test:\n  - expr: '{count}'\n    eval_time: 20m\n    \
         exp_samples: [{{labels: '{{instance=\"troubled\"}}', value: {number}}}]\n"
    );
    let test = files.write("test.yml", test.as_bytes(), 0o600);
    succeeds(PROMTOOL.find().expect("it was there").args(["test", "rules", &test]));
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

fn is_metric(word: &str) -> bool {
    // The name of the Debian package begins like one.
    (word.starts_with("saltecho_") || word.starts_with("process_")) && word != "saltecho_0"
}
