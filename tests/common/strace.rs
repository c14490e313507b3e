//! strace attached to the running program: its system calls, and injected errors.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

use super::program::{Serving, Signal};

/// An attached strace. Dropping it detaches.
pub struct Tracer {
    child: Child,
    log: TempDir,
}

impl Tracer {
    /// Attaches to the loop's thread alone and returns once every call is seen: the threads that
    /// wait for signals and write the log have no sockets, though one of them calls `recvfrom` too.
    #[track_caller]
    pub fn attach(serving: &Serving, options: &[&str]) -> Self {
        Self::attach_thread(serving.running.pid(), options)
    }

    /// The same for any thread, by its id.
    #[track_caller]
    pub fn attach_thread(thread: u32, options: &[&str]) -> Self {
        let log = TempDir::new().unwrap();
        let mut command = Command::new("strace");
        command.args(["-s", "16", "-o"]).arg(log.path().join("log")).args(options);
        command.args(["-p", &thread.to_string()]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("it is a pipe");
        while !said.contains("attached") {
            let mut piece = [0; 256];
            let n = stderr.read(&mut piece).unwrap();
            assert!(n > 0, "strace cannot attach: {said}");
            said.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
        // Later output is discarded; a closed pipe would end strace.
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, log }
    }

    /// The calls so far, one per line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }

    /// Detaches; returns the calls.
    pub fn detach(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.log()
    }

    /// Waits for strace after the program has ended; returns the calls.
    pub fn wait(mut self) -> String {
        self.child.wait().unwrap();
        self.log()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail if it was waited for already, which is fine. Killing strace leaves the program
        // running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
