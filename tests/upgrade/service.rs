//! A server that is to be upgraded, with clients that must not notice.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::common::client::{PATIENCE, authenticated, exchange};
use crate::common::program::{Files, Finished, Running, Serving, Signal, clean, run, saltecho};

/// A server that was started from a copy of the program, which a test can replace.
pub(crate) struct Service {
    pub(crate) files: Files,
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    /// The process that serves.
    pub(crate) pid: u32,
    pub(crate) clients: Vec<TcpStream>,
    /// That of the process that serves.
    generation: u64,
    exchanges: usize,
}

impl Service {
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// Starts it as `adjust` has it.
    #[track_caller]
    pub(crate) fn start_with(args: &[&str], adjust: impl FnOnce(&mut Command)) -> Self {
        Self::launch(args, |files| Command::new(files.join("saltecho")), adjust)
    }

    /// Starts it by a path and in a directory.
    #[track_caller]
    pub(crate) fn start_at(place: impl FnOnce(&Path) -> (PathBuf, PathBuf), args: &[&str]) -> Self {
        let command = |files: &Path| {
            let (program, directory) = place(files);
            let mut command = Command::new(program);
            command.current_dir(directory);
            command
        };
        Self::launch(args, command, |_| {})
    }

    /// Starts it by a program that executes what follows its own words.
    #[track_caller]
    pub(crate) fn start_under(words: impl FnOnce(&Path) -> Vec<String>, args: &[&str]) -> Self {
        let command = |files: &Path| {
            let words = words(files);
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg(files.join("saltecho"));
            command
        };
        Self::launch(args, command, |_| {})
    }

    /// Starts it as another user, with room for so many descriptors. It takes root.
    #[track_caller]
    pub(crate) fn start_of(user: u32, descriptors: u32) -> Self {
        let limit = format!("ulimit -n {descriptors}; exec \"$@\"");
        let command = |files: &Path| {
            for path in [files.to_owned(), files.join("settings.toml")] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
            let mut command = Command::new("sh");
            command.args(["-c", &limit, "sh"]).arg(files.join("saltecho")).uid(user).gid(user);
            command
        };
        Self::launch(&[], command, |_| {})
    }

    /// Starts it with room for so many descriptors.
    #[track_caller]
    pub(crate) fn start_limited(descriptors: u32) -> Self {
        let limit = format!("ulimit -n {descriptors}; exec \"$@\"");
        Self::start_under(|_| vec!["sh".into(), "-c".into(), limit, "sh".into()], &[])
    }

    #[track_caller]
    fn launch(
        args: &[&str],
        command: impl FnOnce(&Path) -> Command,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let files = Files::new();
        install(Path::new(saltecho(&[]).get_program()), &files.path().join("saltecho"));
        let settings = files.write("settings.toml", b"", 0o600);
        let admin = format!("unix:{}", files.path().join("admin").display());
        let mut command = command(files.path());
        clean(&mut command).args(["serve", "-l", "127.0.0.1:0", "--log-format", "json"]);
        command.args(["--admin", &admin, "--config", &settings]).args(args);
        adjust(&mut command);
        let Serving { running, address, .. } = Serving::start_command(&mut command);
        let pid = running.pid();
        Self { files, running, address, pid, clients: Vec::new(), generation: 1, exchanges: 0 }
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.files.path().join("saltecho")
    }

    /// The path of its admin endpoint, as a flag has it.
    pub(crate) fn admin(&self) -> String {
        format!("unix:{}", self.files.path().join("admin").display())
    }

    /// Has so many more clients, each of which has had an answer.
    #[track_caller]
    pub(crate) fn connect(&mut self, count: usize) {
        for _ in 0..count {
            self.clients.push(authenticated(self.address));
        }
        self.check_clients();
    }

    /// Fails unless every client gets an answer to a message of its own.
    #[track_caller]
    pub(crate) fn check_clients(&mut self) {
        for (number, client) in self.clients.iter().enumerate() {
            self.exchanges += 1;
            let message = format!("message {} of {number}", self.exchanges);
            let answer = exchange(client, message.as_bytes());
            assert_eq!(String::from_utf8(answer).unwrap(), message.to_uppercase());
        }
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Finished {
        run(&[&["ctl", "--admin", &self.admin()], words].concat(), b"")
    }

    /// Upgrades it, and waits for the new process to serve. On a busy machine one that was late is tried
    /// again.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let finished = self.ctl(&["upgrade"]);
            let is_late =
                ["(late: ", "(not_parked: "].iter().any(|why| finished.stderr.contains(why));
            if !is_late || Instant::now() >= deadline {
                finished.expect(0, &[]);
                return self.wait_for_successor();
            }
        }
    }

    #[track_caller]
    pub(crate) fn wait_for_successor(&mut self) -> Value {
        let step = self.step("serves");
        self.pid = u32::try_from(step["pid"].as_u64().unwrap()).unwrap();
        self.generation = step["generation"].as_u64().unwrap();
        step
    }

    /// A figure of the process that serves.
    #[track_caller]
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let finished = self.ctl(&["stats", "--raw"]);
        finished.expect(0, &[]);
        let text = String::from_utf8(finished.stdout).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until no upgrade is in progress, however many were asked for.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_busy = self.figure("saltecho_upgrade_in_progress") != 0;
            while self.generation < self.figure("saltecho_upgrade_generation") {
                self.wait_for_successor();
            }
            if !is_busy {
                return;
            }
            assert!(Instant::now() < deadline, "an upgrade does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a step of an upgrade in the log.
    #[track_caller]
    pub(crate) fn step(&mut self, name: &str) -> Value {
        let line = self.running.wait_for(&format!("\"step\":\"{name}\""));
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid, signal);
    }

    /// Puts another program in the place of its own.
    pub(crate) fn replace_program(&self, content: &[u8], mode: u32) {
        let new = self.files.path().join("new");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&new, self.program()).unwrap();
    }

    /// Puts the real program back, as another file.
    pub(crate) fn restore_program(&self) {
        let real = PathBuf::from(saltecho(&[]).get_program());
        fs::copy(real, self.files.path().join("new")).unwrap();
        fs::rename(self.files.path().join("new"), self.program()).unwrap();
    }

    /// Makes the new program a script that executes the real one after these words.
    pub(crate) fn wrap_program(&self, words: &str) {
        let real = self.files.path().join("real");
        install(Path::new(saltecho(&[]).get_program()), &real);
        let exec = if words.contains("exec") { "" } else { "exec " };
        let script = format!("#!/bin/sh\n{exec}{words} {} \"$@\"\n", real.display());
        self.replace_program(script.as_bytes(), 0o755);
    }

    /// Makes the new program do these steps of `fake.py`.
    pub(crate) fn pretend(&self, steps: &str) {
        fs::write(self.files.path().join("behavior"), steps).unwrap();
        self.replace_program(include_bytes!("fake.py"), 0o755);
    }

    /// Puts a setting into its configuration, which has no other.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.files.write("settings.toml", format!("{key} = {value}\n").as_bytes(), 0o600);
    }

    /// The kinds of the process' open descriptors, sorted.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let kinds = links.filter_map(|link| {
            let target = fs::read_link(link.ok()?.path()).ok()?;
            let target = target.to_str()?.to_owned();
            Some(target.split(":[").next()?.to_owned())
        });
        let mut kinds: Vec<String> = kinds.collect();
        kinds.sort();
        kinds
    }

    /// Waits until the process has these descriptors again.
    #[track_caller]
    pub(crate) fn wait_for_descriptors(&self, expected: &[String]) {
        let what = format!("the descriptors are those of before, {expected:?}");
        wait_until(&what, || self.descriptors() == expected);
    }

    /// Drains it, wherever it is by now; returns all that the processes have said.
    #[track_caller]
    pub(crate) fn finish(mut self) -> String {
        self.clients.clear();
        self.signal(Signal::TERM);
        let pid = self.pid;
        wait_until("the last process has ended", || has_ended(pid));
        self.running.said_to_the_end()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !has_ended(self.pid) {
            signal_to(self.pid, Signal::KILL);
        }
    }
}

/// Copies a program to a path, at which another may be running.
pub(crate) fn install(from: &Path, to: &Path) {
    let new = to.with_extension("copy");
    // If both names are of one file already, rename(2) does nothing and leaves this one behind.
    let _ = fs::remove_file(&new);
    // A link to a file that is executed needs no space, and cannot be open for writing.
    if fs::hard_link(from, &new).is_err() {
        fs::copy(from, &new).unwrap();
    }
    fs::rename(&new, to).unwrap();
}

pub(crate) fn signal_to(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = kill_process(pid, signal);
}

/// The state of a process, as proc(5) has it.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A process has ended if it is gone, or is only waited for by its parent.
pub(crate) fn has_ended(pid: u32) -> bool {
    state(pid).is_none_or(|state| matches!(state, 'Z' | 'X'))
}

/// The children of a process that have not ended; none if it has ended itself.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<u32> = lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    pids.into_iter().filter(|pid| !has_ended(*pid)).collect()
}

#[track_caller]
pub(crate) fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
