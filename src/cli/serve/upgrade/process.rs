//! The new process of an upgrade: how it is started, watched and ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::cli::environment::PREDECESSOR;
use crate::cli::signals::OF_A_SERVER;

/// Variables that a successor inherits, beside those that begin with one of [`PREFIXES`]: a fixed list, so
/// that the environment does not change from process to process. Without WATCHDOG_PID the watchdog
/// is for whichever process is the service; LISTEN_FDS is not there, since listeners are handed over.
const VARIABLES: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TERM",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "CREDENTIALS_DIRECTORY",
    "LD_LIBRARY_PATH",
];
const PREFIXES: [&str; 4] = ["SALTECHO_", "LC_", "RUST_", "GLIBC_"];

/// What a process was started with, which its successors get too.
pub(super) struct Origin {
    /// The file to execute, as an absolute path that is looked up again each time.
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    /// The processors that the process may use, not those of the thread that starts another.
    processors: Option<CpuSet>,
}

impl Origin {
    /// Takes note of how this process was started. It must be called before the process changes any of
    /// that.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut words = env::args_os();
        let name = words.next().unwrap_or_default();
        Ok(Self {
            program: program(&name)?,
            arguments: words.collect(),
            directory: env::current_dir().ok(),
            environment: env::vars_os().filter(|(name, _)| is_inherited(name)).collect(),
            processors: sched_getaffinity(None).ok(),
        })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a successor with its end of the channel, in a single step. It has no signal until it
    /// asks for them: one that came before its handlers are there would end it. The calling thread is
    /// to end afterwards, since its signals and processors are those of the successor.
    pub(super) fn start(&self, channel: OwnedFd) -> io::Result<Successor> {
        blocked().thread_block()?;
        if let Some(processors) = &self.processors {
            // A processor may have gone offline since.
            let _ = sched_setaffinity(None, processors);
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::from(channel)).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env(PREDECESSOR, std::process::id().to_string());
        // One that was deleted would leave the successor nowhere; it may also have been replaced.
        let directory = self.directory.as_deref().filter(|directory| directory.is_dir());
        command.current_dir(directory.unwrap_or(Path::new("/")));
        let mut child = command.spawn()?;
        drop(command);
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Successor { child, process: Heir(pidfd) }),
            Err(error) => {
                // It is not waited for by any other, so its number is still its own.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }
}

/// The signals that wait until a successor serves.
pub(super) fn blocked() -> SigSet {
    let signals = OF_A_SERVER.iter().filter_map(|signal| (*signal).try_into().ok());
    signals.collect()
}

fn is_inherited(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name != PREDECESSOR
        && (VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// The absolute path that a program was started by: its own name, so that a symbolic link is followed
/// anew each time. /proc/self/exe would name the file that it led to then, even after its deletion.
fn program(name: &OsStr) -> io::Result<PathBuf> {
    let running = fs::metadata("/proc/self/exe").map(|file| (file.dev(), file.ino()));
    let is_this = |path: &PathBuf| match (&running, fs::metadata(path)) {
        (Ok(running), Ok(file)) => *running == (file.dev(), file.ino()),
        _ => false,
    };
    let candidates: Vec<PathBuf> = match name.as_encoded_bytes().contains(&b'/') {
        true => vec![std::path::absolute(name)?],
        false => env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .filter_map(|directory| std::path::absolute(directory.join(name)).ok())
            .collect(),
    };
    // A name can be any text.
    candidates.into_iter().find(is_this).map_or_else(env::current_exe, Ok)
}

/// A process that was started to take over.
pub(super) struct Successor {
    child: Child,
    process: Heir,
}

impl Successor {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and waits for that; returns how it ended. `None` if that took too long: then it is in
    /// the kernel, and runs no more of the program.
    pub(super) fn kill(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.signal(Signal::KILL);
        self.wait(limit)
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(status) = self.child.try_wait()
                && status.is_some()
            {
                return status;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !ends_within(self.as_fd(), left) {
                return self.child.try_wait().ok().flatten();
            }
        }
    }

    /// Stops it, so that it does nothing until it is [resumed](Self::resume); false if it has ended.
    pub(super) fn halt(&self) -> bool {
        self.process.signal(Signal::STOP);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let state = waitid(WaitId::PidFd(self.as_fd()), options);
        state.ok().flatten().is_some_and(|state| state.stopped())
    }

    /// Lets it go on.
    pub(super) fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Lets go of a process that has taken over.
    pub(super) fn into_heir(self) -> Heir {
        self.process
    }
}

/// A process that has taken over.
pub(super) struct Heir(OwnedFd);

impl Heir {
    /// Sends a signal, unless the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.0, signal);
    }
}

/// The descriptor is readable once the process has ended.
impl AsFd for Successor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.0.as_fd()
    }
}

/// Waits for the end of a process; false if the time is up first.
pub(super) fn ends_within(pidfd: BorrowedFd<'_>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut polled, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.is_ok_and(|count| count > 0),
        }
    }
}

/// The words for how a process ended.
pub(super) fn ending(status: Option<ExitStatus>) -> String {
    match status {
        None => "it does not end".to_owned(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_a_fixed_list() {
        for name in ["PATH", "SALTECHO_WORKERS", "LC_ALL", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            assert!(is_inherited(OsStr::new(name)), "{name}");
        }
        for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", PREDECESSOR, "OTHER"] {
            assert!(!is_inherited(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_another_programs_is_not_believed() {
        let own = env::current_exe().unwrap();
        assert_eq!(program(own.as_os_str()).unwrap(), own);
        for name in ["sh", "/bin/sh", "no such program", ""] {
            assert_eq!(program(OsStr::new(name)).unwrap(), own, "{name}");
        }
    }
}
