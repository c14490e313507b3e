//! Programs that some tests need besides Rust.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// A program that a test runs and that may be missing.
pub struct Tool {
    name: &'static str,
    remedy: &'static str,
    /// Commands to try; the first that succeeds is the program.
    probes: &'static [&'static [&'static str]],
}

pub const CHROMIUM: Tool = Tool {
    name: "chromium",
    remedy: "apt-get install chromium",
    probes: &[&["chromium", "--version"], &["chromium-browser", "--version"]],
};

pub const HAPROXY: Tool =
    Tool { name: "haproxy", remedy: "apt-get install haproxy", probes: &[&["haproxy", "-v"]] };

pub const KUBERNETES_VALIDATE: Tool = Tool {
    name: "kubernetes-validate",
    remedy: "pip install kubernetes-validate",
    probes: &[&["kubernetes-validate", "--help"]],
};

pub const MAN: Tool =
    Tool { name: "man", remedy: "apt-get install man-db", probes: &[&["man", "--version"]] };

pub const NCAT: Tool =
    Tool { name: "ncat", remedy: "apt-get install ncat", probes: &[&["ncat", "--version"]] };

pub const PYTHON: Tool = Tool {
    name: "python3",
    remedy: "apt-get install python3",
    probes: &[&["python3", "--version"]],
};

pub const PYTHON_WITH_HDRHISTOGRAM: Tool = Tool {
    name: "python3 with hdrhistogram",
    remedy: "pip install hdrhistogram",
    probes: &[&["python3", "-c", "import hdrh"]],
};

pub const PYTHON_WITH_PROMETHEUS: Tool = Tool {
    name: "python3 with prometheus-client",
    remedy: "pip install prometheus-client",
    probes: &[&["python3", "-c", "import prometheus_client"]],
};

pub const PROMTOOL: Tool = Tool {
    name: "promtool",
    remedy: "apt-get install prometheus",
    probes: &[&["promtool", "--version"]],
};

pub const SOCAT: Tool =
    Tool { name: "socat", remedy: "apt-get install socat", probes: &[&["socat", "-V"]] };

pub const STRACE: Tool =
    Tool { name: "strace", remedy: "apt-get install strace", probes: &[&["strace", "-V"]] };

pub const SYSTEMD_ANALYZE: Tool = Tool {
    name: "systemd-analyze",
    remedy: "apt-get install systemd",
    probes: &[&["systemd-analyze", "--version"]],
};

pub const SYSTEMD_SOCKET_ACTIVATE: Tool = Tool {
    name: "systemd-socket-activate",
    remedy: "apt-get install systemd",
    probes: &[&["systemd-socket-activate", "--version"]],
};

pub const VALGRIND: Tool = Tool {
    name: "valgrind",
    remedy: "apt-get install valgrind",
    probes: &[&["valgrind", "--version"]],
};

impl Tool {
    /// The program, without arguments. If it is missing, a line names the test that is skipped;
    /// with CI set, where that line would go unread, the test fails.
    #[track_caller]
    pub fn find(&self) -> Option<Command> {
        let works = |probe: &&&[&str]| {
            let output = Command::new(probe[0]).args(&probe[1..]).output();
            output.is_ok_and(|output| output.status.success())
        };
        let found = self.probes.iter().find(works).map(|probe| Command::new(probe[0]));
        if found.is_none() {
            let Self { name, remedy, .. } = self;
            assert!(
                std::env::var_os("CI").is_none(),
                "with CI set, there must be {name}: {remedy}"
            );
            let test = std::thread::current();
            say(&format!("NOT TESTED without {name} ({remedy}): {}", test.name().unwrap_or("?")));
        }
        found
    }

    /// The same for callers that need no command.
    #[track_caller]
    pub fn is_missing(&self) -> bool {
        self.find().is_none()
    }
}

/// Every Python from 3.8 on that can be found: those of pyenv, then that of the system.
pub fn pythons() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let root = std::env::var_os("PYENV_ROOT").map_or_else(|| home.join(".pyenv"), PathBuf::from);
    let mut pythons: Vec<PathBuf> = std::fs::read_dir(root.join("versions"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/python3")))
        .collect();
    pythons.sort();
    pythons.push("/usr/bin/python3".into());
    let is_new = |python: &PathBuf| {
        let check = "import sys; sys.exit(sys.version_info < (3, 8))";
        Command::new(python).args(["-c", check]).output().is_ok_and(|run| run.status.success())
    };
    pythons.retain(is_new);
    if pythons.is_empty() { vec!["python3".into()] } else { pythons }
}

/// Prints a line that shows even if the test passes: unlike `println`, it is not captured.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}
