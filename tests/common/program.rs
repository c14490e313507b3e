//! The built program as a child process: started, waited for with a deadline, ended by its pid.
//!
//! SALTECHO_PROGRAM names another build to test, such as `target/release/saltecho`.

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tempfile::TempDir;

use super::client::PATIENCE;

/// The program without the settings in this test's environment.
pub fn saltecho(args: &[&str]) -> Command {
    catch_ignored_signals();
    let other = std::env::var_os("SALTECHO_PROGRAM");
    let program = other.unwrap_or_else(|| env!("CARGO_BIN_EXE_saltecho").into());
    let mut command = Command::new(program);
    clean(&mut command).args(args);
    command
}

/// Waits until a pipe takes no more bytes. How many it holds depends on how they were written: a page
/// that is partly used counts as a whole one (pipe(7)).
pub fn wait_until_full(writer: PipeWriter) {
    let deadline = Instant::now() + PATIENCE;
    while poll(&mut [PollFd::new(&writer, PollFlags::OUT)], Some(&Timespec::default())) != Ok(0) {
        assert!(Instant::now() < deadline, "the pipe does not fill up");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(writer);
}

/// Catches the signals that this process was started to ignore, as by nohup or a script's `&`. The
/// program would inherit that and ignore them too; a caught signal is reset by execve(2).
fn catch_ignored_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            if ignored.unwrap_or(0) >> (signal - 1) & 1 == 1 {
                signal_hook::flag::register(signal, Arc::default()).unwrap();
            }
        }
    });
}

/// Removes variables that would change the program's behavior.
pub fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SALTECHO_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE")
}

/// Exit status and output of a finished program.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by signal {:?}", self.status.signal()))
    }

    /// Fails unless the exit code is this one and stderr has each of these texts, without colors.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {:?}", self.stderr);
        }
        assert!(!self.stderr.contains('\x1b'), "colors without a terminal: {:?}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A running program; its output is collected as it arrives.
pub struct Running {
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    /// Disconnects when the last process that holds stderr has ended.
    lines: Receiver<String>,
    said: String,
}

impl Running {
    /// Starts a program with `input` as its whole stdin.
    pub fn start(command: &mut Command, input: Vec<u8>) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("the program exists");
        let mut stdin = child.stdin.take().expect("it is a pipe");
        std::thread::spawn(move || {
            // The program may end without reading all of it.
            let _ = stdin.write_all(&input);
        });
        Self::watch(child)
    }

    /// Starts a program whose stdin the caller has set.
    pub fn start_with_stdin(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self::watch(child.expect("the program exists"))
    }

    fn watch(mut child: Child) -> Self {
        let mut out = child.stdout.take().expect("it is a pipe");
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).expect("a pipe can be read");
            bytes
        });
        let err = BufReader::new(child.stderr.take().expect("it is a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in err.lines() {
                if sender.send(line.expect("the program speaks UTF-8")).is_err() {
                    break;
                }
            }
        });
        Self { child, stdout, lines, said: String::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it was not waited for yet");
    }

    /// Waits for a line that contains this text.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Some(line) = self.next_line(deadline) {
            if line.contains(words) {
                return line;
            }
        }
        panic!("it ended without saying {words:?}:\n{}", self.said);
    }

    /// Waits for the process that was started to end; others may still say something.
    #[track_caller]
    pub fn status(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().expect("it is our child") {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "it did not end for {PATIENCE:?}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// All that was said so far, as far as it was waited for.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// All that is said until the last process that holds stderr has ended.
    #[track_caller]
    pub fn said_to_the_end(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.next_line(deadline).is_some() {}
        self.said.clone()
    }

    /// Waits for it to end.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        while self.next_line(deadline).is_some() {}
        let status = self.child.wait().expect("it is our child");
        let reader = std::mem::replace(&mut self.stdout, std::thread::spawn(Vec::new));
        let stdout = reader.join().expect("reading does not panic");
        Finished { status, stdout, stderr: std::mem::take(&mut self.said) }
    }

    #[track_caller]
    fn next_line(&mut self, deadline: Instant) -> Option<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.said.push_str(&line);
                self.said.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing for {PATIENCE:?}:\n{}", self.said),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it was waited for already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to completion.
#[track_caller]
pub fn run(args: &[&str], input: &[u8]) -> Finished {
    run_command(&mut saltecho(args), input)
}

#[track_caller]
pub fn run_command(command: &mut Command, input: &[u8]) -> Finished {
    Running::start(command, input.to_vec()).wait()
}

/// A server on a free loopback port.
pub struct Serving {
    pub running: Running,
    pub address: SocketAddr,
    /// The line logged at start.
    pub start_line: String,
}

impl Serving {
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        Self::start_command(saltecho(&["serve", "-l", "127.0.0.1:0"]).args(args))
    }

    /// Starts any command that logs the first address that it listens on.
    #[track_caller]
    pub fn start_command(command: &mut Command) -> Self {
        Self::watch(Running::start(command, Vec::new()))
    }

    /// Waits for the address of a program that was started.
    #[track_caller]
    pub fn watch(mut running: Running) -> Self {
        let start_line = running.wait_for("listening on ");
        let places = start_line.split("listening on ").nth(1).expect("it was waited for");
        let address = places.split([',', ' ']).next().expect("a split has a first part");
        let address = address.trim_end_matches(':').parse();
        Self { running, address: address.expect("an address"), start_line }
    }

    pub fn place(&self) -> String {
        self.address.to_string()
    }

    /// The number of open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.running.pid())).unwrap().count()
    }

    /// Waits until exactly this many descriptors are open: one that stays is a leak.
    #[track_caller]
    pub fn wait_for_descriptors(&self, expected: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.descriptors() != expected {
            let now = self.descriptors();
            assert!(Instant::now() < deadline, "{now} descriptors instead of {expected}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The counters, as logged on SIGUSR1.
    #[track_caller]
    pub fn counters(&mut self) -> String {
        self.running.signal(Signal::USR1);
        self.running.wait_for("accepted ")
    }

    /// Drains it; fails unless it exits with 0.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.running.signal(Signal::TERM);
        let finished = self.running.wait();
        finished.expect(0, &[]);
        finished
    }
}

/// A temporary directory for files.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(TempDir::new().expect("there is room for temporary files"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file with this mode; returns its path.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.into_os_string().into_string().expect("temporary paths are UTF-8")
    }

    pub fn key(&self, name: &str, text: &str) -> String {
        self.write(name, text.as_bytes(), 0o600)
    }
}

/// Sends SIGTERM to a program whose stderr is not captured; returns its exit code.
#[track_caller]
pub fn terminate(child: Child) -> Option<i32> {
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it was not waited for yet");
    wait_for_end(child)
}

/// Waits for a program to end; returns its exit code.
#[track_caller]
pub fn wait_for_end(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => return status.code(),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            None => {
                let _ = child.kill();
                panic!("it did not end for {PATIENCE:?}");
            }
        }
    }
}

/// Waits for a port file, which appears complete; returns the loopback address of its first port.
#[track_caller]
pub fn wait_for_port(file: &Path) -> SocketAddr {
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < deadline, "no port file");
        std::thread::sleep(Duration::from_millis(2));
    }
    let ports = fs::read_to_string(file).unwrap();
    let port = ports.lines().next().expect("it has a line for each address");
    format!("127.0.0.1:{port}").parse().unwrap()
}
