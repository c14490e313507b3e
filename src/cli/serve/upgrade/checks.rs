//! The checks before an upgrade begins: each refusal says what to change.

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use rustix::fs::{Access, access};
use rustix::process::{Resource, getpid, getppid, getrlimit};
use saltecho::reactor::resident_bytes;

use super::reason::Reason;
use crate::cli::values::{Limit, Size};

/// Descriptors that an upgrade takes in this process: the two ends of the channel, the new process,
/// and its input; one more in reserve.
const DESCRIPTORS: u64 = 5;

/// Descriptors of a process beside its connections and listeners.
pub(super) const OTHER_DESCRIPTORS: u64 = 32;

/// Programs that end a container, or start another server, when the process that they started ends.
const SUPERVISORS: [&str; 9] = [
    "tini",
    "docker-init",
    "dumb-init",
    "catatonit",
    "runsv",
    "supervise",
    "s6-supervise",
    "supervisord",
    "circusd",
];

/// Time that a freeze may take: a second, and 20 us for each connection.
pub(super) fn freeze_limit(connections: usize) -> Duration {
    let each = Duration::from_micros(20);
    Duration::from_secs(1) + each * u32::try_from(connections).unwrap_or(u32::MAX)
}

/// Refuses an upgrade that would fail.
///
/// # Errors
/// The reason, and in words what to change.
pub(super) fn refuse_impossible(
    program: &Path,
    connections: usize,
    freeze_max: Duration,
) -> Result<(), (Reason, String)> {
    let refuse = |reason, text: String| Err((reason, text));
    if getpid().is_init() {
        let text = "this is process 1, with whose end its container ends: start a second container \
                    and drain this one";
        return refuse(Reason::Init, text.to_owned());
    }
    if let Some(supervisor) = supervisor() {
        return refuse(
            Reason::Supervisor,
            format!(
                "{supervisor} started this process and cannot follow it to another one: run it under \
                 systemd, or start a second server and drain this one"
            ),
        );
    }
    let is_file = fs::metadata(program).is_ok_and(|file| file.is_file());
    if !is_file || access(program, Access::EXEC_OK).is_err() {
        return refuse(
            Reason::NoProgram,
            format!("{} cannot be executed: install the new version there", program.display()),
        );
    }
    let limit = freeze_limit(connections);
    if limit > freeze_max {
        let (limit, max) = (Limit(Some(limit)), Limit(Some(freeze_max)));
        return refuse(
            Reason::TooLong,
            format!(
                "with {connections} connections the freeze may take {limit}, and \
                 --handover-freeze-max is {max}: allow more, or wait until there are fewer"
            ),
        );
    }
    refuse_without_descriptors()?;
    refuse_without_memory()
}

fn refuse_without_descriptors() -> Result<(), (Reason, String)> {
    let limit = descriptor_limit();
    let open = fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    match open + DESCRIPTORS > limit {
        true => Err((
            Reason::Descriptors,
            format!(
                "{open} of {limit} descriptors are in use, and an upgrade takes {DESCRIPTORS}: raise \
                 the limit (LimitNOFILE=) or set --max-connections"
            ),
        )),
        false => Ok(()),
    }
}

/// Number of descriptors that this process may have.
pub(super) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The new process takes about as much memory as this one before this one's is given back.
fn refuse_without_memory() -> Result<(), (Reason, String)> {
    let Some(available) = available() else { return Ok(()) };
    let needed = resident().unwrap_or(0);
    match needed > available {
        true => Err((
            Reason::Memory,
            format!(
                "the new process takes about {} and {} are available: raise the limit (MemoryMax=), or \
                 wait until there are fewer connections",
                in_words(needed),
                in_words(available)
            ),
        )),
        false => Ok(()),
    }
}

fn in_words(bytes: u64) -> String {
    Size(usize::try_from(bytes >> 10 << 10).unwrap_or(usize::MAX)).to_string()
}

/// Resident memory of this process in bytes.
fn resident() -> Option<u64> {
    resident_bytes(&fs::read_to_string("/proc/self/statm").ok()?)
}

/// Memory that is left, within the control group (version 2) and in the machine. `None` if neither is
/// known.
fn available() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let machine = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let group = || {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let directory = Path::new("/sys/fs/cgroup").join(group);
        let number = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let max: u64 = number("memory.max")?.trim().parse().ok()?;
        let used: u64 = number("memory.current")?.trim().parse().ok()?;
        // The page cache goes first.
        let stat = number("memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let cache: u64 = cache.and_then(|cache| cache.parse().ok()).unwrap_or(0);
        Some((max + cache).saturating_sub(used))
    };
    [machine.map(|kib| kib << 10), group()].into_iter().flatten().min()
}

/// The supervisor that started this process, if it is one that cannot follow. A service manager to
/// which the new process is reported can.
fn supervisor() -> Option<String> {
    if env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty()) {
        return None;
    }
    let parent = getppid()?.as_raw_nonzero();
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    let name = name.trim();
    SUPERVISORS.contains(&name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Duration = Duration::from_secs(5);

    #[test]
    fn a_freeze_that_may_take_too_long_is_refused_with_the_setting() {
        assert_eq!(freeze_limit(20_000), Duration::from_millis(1400));
        let program = env::current_exe().unwrap();
        let (reason, text) = refuse_impossible(&program, 1_000_000, FIVE).unwrap_err();
        assert_eq!(reason, Reason::TooLong);
        assert!(text.contains("may take 21s, and --handover-freeze-max is 5s"), "{text}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for path in ["/no/such/file", "/", "/proc/self/status"] {
            let (reason, text) = refuse_impossible(Path::new(path), 0, FIVE).unwrap_err();
            assert_eq!(reason, Reason::NoProgram, "{path}: {text}");
        }
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
    }
}
