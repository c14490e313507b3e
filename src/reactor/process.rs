//! The operating system's figures for this process.

use std::fs;
use std::time::{Duration, SystemTime};

use rlimit::Resource;
use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Process;

/// Reads the figures: four system calls and two small files of proc(5), some ten microseconds, however
/// many connections there are. `started` is the time from an earlier reading, so that it never
/// changes.
///
/// Returns `None` where /proc is not mounted.
pub(super) fn read(started: Option<SystemTime>) -> Option<Process> {
    let resident = resident_bytes(&fs::read_to_string("/proc/self/statm").ok()?)?;
    Some(Process {
        started: match started {
            Some(started) => started,
            None => started_at()?,
        },
        cpu: time(ClockId::ProcessCPUTime),
        resident,
        descriptors: descriptors(),
        descriptors_limit: Resource::NOFILE.get_soft().unwrap_or(0),
    })
}

/// The number of open descriptors. Linux has given it as the size of this directory since 6.2; before, it
/// is zero, and counting the entries would take milliseconds for a crowd.
fn descriptors() -> Option<u64> {
    fs::metadata("/proc/self/fd").ok().map(|directory| directory.len()).filter(|size| *size > 0)
}

fn started_at() -> Option<SystemTime> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let since_boot = boot_to_start(&stat, rustix::param::clock_ticks_per_second())?;
    SystemTime::now().checked_sub(time(ClockId::Boottime).saturating_sub(since_boot))
}

fn time(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

/// Resident memory in bytes by the text of `/proc/PID/statm` (proc_pid_statm(5)); `None` if it is none.
pub fn resident_bytes(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// From the boot of the machine to the start of the process, by /proc/self/stat, which counts in ticks. The
/// second field is the name of the program, which may contain anything, also spaces and parentheses.
fn boot_to_start(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(ticks * 1000 / ticks_per_second))
}

/// Returns memory to the kernel that a handover took and freed: 165 bytes for each connection that the
/// admin endpoint lists. glibc keeps it otherwise, since it lies below what is in use; with other
/// allocators this does nothing. Call it when the new loops are there.
pub fn release_memory() {
    crate::rawopt::trim_memory();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_this_process_are_plausible() {
        let first = read(None).expect("/proc is mounted");
        let age = SystemTime::now().duration_since(first.started).unwrap();
        assert!(age < Duration::from_secs(24 * 3600), "{first:?}");
        let spun = (0..3_000_000_u64).fold(0, |sum, i| sum ^ std::hint::black_box(i));
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let second = read(Some(first.started)).expect("it was there");
        assert_eq!(second.started, first.started);
        assert!(second.cpu > first.cpu, "{first:?} {second:?} {spun}");
        assert!(second.resident > first.resident + (32 << 20), "{} {second:?}", block.len());
        assert!(second.descriptors_limit >= 16, "{second:?}");
        let are_counted = fs::metadata("/proc/self/fd").unwrap().len() > 0;
        assert_eq!(second.descriptors.is_some(), are_counted);
        assert!(
            second.descriptors.is_none_or(|open| open >= 3),
            "stdin, stdout and stderr: {second:?}"
        );
    }

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 1 0 4711 1 1";
        assert_eq!(boot_to_start(stat, 100), Some(Duration::from_millis(47_110)));
        let page = rustix::param::page_size() as u64;
        assert_eq!(resident_bytes("900 17 3 1 0 5 0\n"), Some(17 * page));
        assert_eq!((boot_to_start("7 (a) S", 100), resident_bytes("900")), (None, None));
    }
}
