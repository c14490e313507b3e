//! The checks before an upgrade begins: each refusal says what to change.

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use rustix::event::{EventfdFlags, eventfd};
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

/// The default of `--handover-freeze-max`.
const FREEZE_MAX: Duration = Duration::from_secs(5);

/// Estimate of the time that a freeze may take: a second, and 20 us for each connection.
fn freeze_estimate(connections: usize) -> Duration {
    let each = Duration::from_micros(20);
    Duration::from_secs(1) + each * u32::try_from(connections).unwrap_or(u32::MAX)
}

/// Time after which a freeze is given up: the estimate, or the most that is allowed if that is more
/// than the default. Where system calls are slow, as in a virtual machine without hardware support, the
/// estimate is too low, and only the operator knows.
pub(super) fn freeze_limit(connections: usize, freeze_max: Duration) -> Duration {
    let allowed = if freeze_max > FREEZE_MAX { freeze_max } else { Duration::ZERO };
    freeze_estimate(connections).max(allowed)
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
    let limit = freeze_estimate(connections);
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

/// Takes as many descriptors as an upgrade needs. To count those in use would list them all, for which
/// the kernel makes a file and a directory entry of each.
fn refuse_without_descriptors() -> Result<(), (Reason, String)> {
    let spare: Result<Vec<_>, _> =
        (0..DESCRIPTORS).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect();
    match spare {
        Ok(_) => Ok(()),
        Err(error) => Err((
            Reason::Descriptors,
            format!(
                "an upgrade takes {DESCRIPTORS} descriptors, and so many of the {} are not left \
                 ({error}): raise the limit (LimitNOFILE=) or set --max-connections",
                descriptor_limit()
            ),
        )),
    }
}

/// Number of descriptors that this process may have.
pub(super) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The new process takes about as much memory as this one before this one's is given back.
fn refuse_without_memory() -> Result<(), (Reason, String)> {
    match (resident(), available()) {
        (Some(needed), Some(available)) => compare_memory(needed, available),
        // What is not known is no reason to refuse.
        _ => Ok(()),
    }
}

fn compare_memory(needed: u64, available: u64) -> Result<(), (Reason, String)> {
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

/// Memory that is left, within the control group and in the machine. `None` if neither is known.
fn available() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let machine = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = group.and_then(|group| left_of_group(&Path::new("/sys/fs/cgroup").join(group)));
    [machine.map(|kib| kib << 10), group].into_iter().flatten().min()
}

/// Memory that is left within the control group (version 2) of this directory. `None` if it has no limit.
fn left_of_group(directory: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let max: u64 = number("memory.max")?.trim().parse().ok()?;
    let used: u64 = number("memory.current")?.trim().parse().ok()?;
    // The page cache goes first.
    let stat = number("memory.stat").unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cache: u64 = cache.and_then(|cache| cache.parse().ok()).unwrap_or(0);
    Some((max + cache).saturating_sub(used))
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
        assert_eq!(freeze_estimate(20_000), Duration::from_millis(1400));
        let program = env::current_exe().unwrap();
        let (reason, text) = refuse_impossible(&program, 1_000_000, FIVE).unwrap_err();
        assert_eq!(reason, Reason::TooLong);
        assert!(text.contains("may take 21s, and --handover-freeze-max is 5s"), "{text}");
    }

    #[test]
    fn only_a_limit_above_the_default_gives_a_freeze_more_time_than_estimated() {
        let default = crate::cli::values::freeze_max("5s").unwrap();
        assert_eq!(default.0, Some(FREEZE_MAX));
        for (max, limit) in [(2, 1400), (5, 1400), (6, 6000), (600, 600_000)] {
            let found = freeze_limit(20_000, Duration::from_secs(max));
            assert_eq!(found, Duration::from_millis(limit), "at most {max} s");
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for path in ["/no/such/file", "/", "/proc/self/status"] {
            let (reason, text) = refuse_impossible(Path::new(path), 0, FIVE).unwrap_err();
            assert_eq!(reason, Reason::NoProgram, "{path}: {text}");
        }
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn too_little_memory_is_refused_with_both_figures() {
        let (reason, text) = compare_memory(300 << 20, 200 << 20).unwrap_err();
        assert_eq!(reason, Reason::Memory);
        let words = "takes about 300m and 200m are available: raise the limit (MemoryMax=)";
        assert!(text.contains(words), "{text}");
        assert_eq!(compare_memory(200 << 20, 200 << 20), Ok(()));
    }

    #[test]
    fn the_memory_left_in_a_control_group_is_that_below_its_limit_and_the_cache() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        assert_eq!(left_of_group(group.path()), None, "the root group has no limit");
        write("memory.current", "700\n");
        write("memory.max", "max\n");
        assert_eq!(left_of_group(group.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(left_of_group(group.path()), Some(300));
        write("memory.stat", "anon 650\nactive_file 20\ninactive_file 30\n");
        assert_eq!(left_of_group(group.path()), Some(330));
        write("memory.max", "600\n");
        assert_eq!(left_of_group(group.path()), Some(0), "a limit that was lowered since");
    }
}
