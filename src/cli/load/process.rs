//! CPU time and memory of a process, from proc(5).

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use saltecho::load::Phase;
use saltecho::load::report::ServerUse;
use saltecho::reactor::resident_bytes;

/// CPU time and memory of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time of all threads.
    pub(super) cpu: Duration,
    /// CPU time in user mode and in the kernel, in ticks of 10 ms.
    pub(super) user: Duration,
    pub(super) system: Duration,
    /// Time that its threads were ready to run and waited for a CPU.
    pub(super) waited: Duration,
    /// Resident memory in bytes.
    pub(super) resident: u64,
}

impl Usage {
    /// Reads the usage of a process; takes about fifty microseconds.
    pub(super) fn read(pid: u32) -> Result<Self> {
        let read_file = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (mut cpu, mut waited) = (0, 0);
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            // The thread may have ended.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let [ran, queued] = schedstat(&text).context("unknown format of schedstat")?;
            cpu += ran;
            waited += queued;
        }
        let [user, system] = ticks(&read_file("stat")?).context("unknown format of stat")?;
        let resident = resident_bytes(&read_file("statm")?).context("unknown format of statm")?;
        let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(Self {
            cpu: Duration::from_nanos(cpu),
            user: tick * user,
            system: tick * system,
            waited: Duration::from_nanos(waited),
            resident,
        })
    }

    /// The usage since `earlier`; memory is the current value.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            waited: self.waited.saturating_sub(earlier.waited),
            resident: self.resident,
        }
    }
}

/// The usage of the server during a load.
pub(super) struct ServerUsage {
    pid: u32,
    /// Before the first connection.
    before: Usage,
    /// At the start and at the end of the measurement.
    start: Usage,
    end: Usage,
}

impl ServerUsage {
    /// Reads the usage before the first connection.
    pub(super) fn start(pid: u32) -> Result<Self> {
        let usage = Usage::read(pid)?;
        Ok(Self { pid, before: usage, start: usage, end: usage })
    }

    /// Reads the usage at the end of an interval of this phase of the run. If the process has ended,
    /// the last values stay.
    pub(super) fn update(&mut self, phase: Phase) {
        match (phase, Usage::read(self.pid)) {
            (Phase::Ramp, Ok(usage)) => (self.start, self.end) = (usage, usage),
            (Phase::Measure, Ok(usage)) => self.end = usage,
            (Phase::Prove | Phase::Drain, _) | (_, Err(_)) => {}
        }
    }

    /// The usage during the measurement.
    pub(super) fn finish(self) -> ServerUse {
        let used = self.end.since(&self.start);
        ServerUse {
            pid: self.pid,
            cpu: used.cpu,
            user: used.user,
            system: used.system,
            waited: used.waited,
            resident_before: self.before.resident,
            resident: used.resident,
        }
    }
}

/// Time that the calling thread was ready to run and waited for a CPU during the measurement; unknown
/// if the kernel does not count it.
pub(super) struct CpuWait {
    start: Option<Duration>,
    end: Option<Duration>,
}

impl CpuWait {
    /// Reads the counter for the first time.
    pub(super) fn start() -> Self {
        let waited = Self::so_far();
        Self { start: waited, end: waited }
    }

    /// Reads the counter at the end of an interval of this phase of the run, on the same thread.
    pub(super) fn update(&mut self, phase: Phase) {
        match phase {
            Phase::Ramp => *self = Self::start(),
            Phase::Measure => self.end = Self::so_far(),
            Phase::Prove | Phase::Drain => {}
        }
    }

    /// The time from the end of the ramp to the end of the measurement.
    pub(super) fn finish(self) -> Option<Duration> {
        Some(self.end?.saturating_sub(self.start?))
    }

    fn so_far() -> Option<Duration> {
        let text: io::Result<String> = fs::read_to_string("/proc/thread-self/schedstat");
        schedstat(&text.ok()?).map(|[_, waited]| Duration::from_nanos(waited))
    }
}

/// Nanoseconds on a CPU, and waiting for one.
fn schedstat(text: &str) -> Option<[u64; 2]> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

/// Ticks in user mode and in the kernel. The second field is the name of the program, which may
/// contain anything, also spaces and parentheses.
fn ticks(stat: &str) -> Option<[u32; 2]> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_grows_with_work_and_memory() {
        let own = std::process::id();
        let before = Usage::read(own).unwrap();
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let mut after = Usage::read(own).unwrap();
        assert!(after.resident >= before.resident + (16 << 20), "{before:?} {after:?}");
        // The kernel counts in ticks, of which a short piece of work may take none.
        while after.since(&before).cpu.is_zero() {
            std::hint::black_box((0..1_000_000u64).fold(block.len() as u64, |sum, i| sum ^ i));
            after = Usage::read(own).unwrap();
        }
        let error = Usage::read(u32::MAX).unwrap_err();
        assert!(format!("{error:#}").contains("/proc/4294967295"), "{error:#}");
    }

    #[test]
    fn waiting_counts_from_the_end_of_the_ramp_to_the_end_of_measuring() {
        assert!(CpuWait::start().finish().is_some(), "the kernel counts it");
        let at = |millis| Some(Duration::from_millis(millis));
        let mut wait = CpuWait { start: at(0), end: at(0) };
        wait.update(Phase::Measure);
        let measured = wait.end;
        wait.update(Phase::Drain);
        assert_eq!(wait.end, measured, "the drain is not measured");
        wait = CpuWait { start: at(0), end: at(1) };
        wait.update(Phase::Ramp);
        assert_eq!(wait.finish(), Some(Duration::ZERO), "nor is the ramp");
        assert_eq!(CpuWait { start: None, end: at(1) }.finish(), None);
    }

    #[test]
    fn names_may_contain_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), Some([250, 75]));
        assert_eq!(schedstat("12 34 5\n"), Some([12, 34]));
        assert_eq!(schedstat("12"), None);
    }
}
