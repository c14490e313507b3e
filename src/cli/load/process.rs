//! What a process costs: its processor time and its memory, as /proc(5) has them.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use saltecho::load::Part;
use saltecho::load::report::ServerUse;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Time on a processor, of all its threads.
    pub(super) cpu: Duration,
    /// Of that, in user mode and in the kernel; counted in ticks of 10 ms.
    pub(super) user: Duration,
    pub(super) system: Duration,
    /// Time that its threads could have run and had no processor.
    pub(super) waited: Duration,
    /// Resident memory in bytes.
    pub(super) resident: u64,
}

impl Usage {
    /// Reads it all, some fifty microseconds.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (mut cpu, mut waited) = (0, 0);
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            // A thread may end while we look.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let [ran, queued] = schedstat(&text).context("schedstat has another form")?;
            cpu += ran;
            waited += queued;
        }
        let [user, system] = ticks(&read("stat")?).context("stat has another form")?;
        let pages = read("statm")?.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(Self {
            cpu: Duration::from_nanos(cpu),
            user: tick * user,
            system: tick * system,
            waited: Duration::from_nanos(waited),
            resident: pages.context("statm has another form")? * rustix::param::page_size() as u64,
        })
    }

    /// What was used since then. Memory is no flow: it stays as it is now.
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

/// A process that is looked at while it is under load.
pub(super) struct Watch {
    pid: u32,
    /// Before the first connection.
    before: Usage,
    /// When the measurement began, and when it ended.
    begin: Usage,
    end: Usage,
}

impl Watch {
    /// Looks for the first time.
    pub(super) fn begin(pid: u32) -> Result<Self> {
        let usage = Usage::of(pid)?;
        Ok(Self { pid, before: usage, begin: usage, end: usage })
    }

    /// Looks at the end of an interval of this part of the run. What cannot be seen any more stays
    /// as it was.
    pub(super) fn look(&mut self, part: Part) {
        match (part, Usage::of(self.pid)) {
            (Part::Ramp, Ok(usage)) => (self.begin, self.end) = (usage, usage),
            (Part::Measure, Ok(usage)) => self.end = usage,
            (Part::Prove | Part::Drain, _) | (_, Err(_)) => {}
        }
    }

    /// What it used while the load was measured.
    pub(super) fn finish(self) -> ServerUse {
        let used = self.end.since(&self.begin);
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

/// For how long the calling thread could have run and had no processor while the load was
/// measured; nothing where the kernel does not count it.
pub(super) struct Waits {
    begin: Option<Duration>,
    end: Option<Duration>,
}

impl Waits {
    /// Looks for the first time.
    pub(super) fn begin() -> Self {
        let waited = Self::so_far();
        Self { begin: waited, end: waited }
    }

    /// Looks at the end of an interval of this part of the run, on the thread that began.
    pub(super) fn look(&mut self, part: Part) {
        match part {
            Part::Ramp => *self = Self::begin(),
            Part::Measure => self.end = Self::so_far(),
            Part::Prove | Part::Drain => {}
        }
    }

    /// The time from the end of the ramp to the end of the measurement.
    pub(super) fn finish(self) -> Option<Duration> {
        Some(self.end?.saturating_sub(self.begin?))
    }

    fn so_far() -> Option<Duration> {
        let text: io::Result<String> = fs::read_to_string("/proc/thread-self/schedstat");
        schedstat(&text.ok()?).map(|[_, waited]| Duration::from_nanos(waited))
    }
}

/// Nanoseconds on a processor and waiting for one.
fn schedstat(text: &str) -> Option<[u64; 2]> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

/// Ticks in user mode and in the kernel. The second field is the program's name, which may hold
/// anything, spaces and brackets too.
fn ticks(stat: &str) -> Option<[u32; 2]> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_costs_what_it_uses() {
        let own = std::process::id();
        let before = Usage::of(own).unwrap();
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let spun = (0..1_000_000u64).fold(0, |sum, i| sum ^ std::hint::black_box(i));
        let after = Usage::of(own).unwrap();
        assert!(after.resident >= before.resident + (16 << 20), "{before:?} {after:?}");
        assert!(after.since(&before).cpu > Duration::ZERO, "{spun} {}", block.len());
        let nobody = Usage::of(u32::MAX).unwrap_err();
        assert!(format!("{nobody:#}").contains("/proc/4294967295"), "{nobody:#}");
    }

    #[test]
    fn waiting_counts_from_the_end_of_the_ramp_to_the_end_of_measuring() {
        assert!(Waits::begin().finish().is_some(), "the kernel counts it");
        let at = |millis| Some(Duration::from_millis(millis));
        let mut waits = Waits { begin: at(0), end: at(0) };
        waits.look(Part::Measure);
        let measured = waits.end;
        waits.look(Part::Drain);
        assert_eq!(waits.end, measured, "the drain is not measured");
        waits = Waits { begin: at(0), end: at(1) };
        waits.look(Part::Ramp);
        assert_eq!(waits.finish(), Some(Duration::ZERO), "nor is the ramp");
        assert_eq!(Waits { begin: None, end: at(1) }.finish(), None);
    }

    #[test]
    fn names_with_brackets_confuse_nobody() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), Some([250, 75]));
        assert_eq!(schedstat("12 34 5\n"), Some([12, 34]));
        assert_eq!(schedstat("12"), None);
    }
}
