//! The reliability of a load's result, and the difference between latency and service time.

use super::figures::Percentiles;
use super::text::Range;
use super::{Grouped, Nanos};
use super::{Report, RunInfo, headline};
use crate::load::{Counts, Mode, Record, Series};

/// The reliability of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The generator was punctual enough.
    Reliable,
    /// It was not, for this reason.
    Unreliable(String),
    /// Nothing was measured, for this reason.
    Nothing(String),
}

impl Verdict {
    /// The verdict on one generator. Its lateness at p99 may be at most a tenth of the p99 that it
    /// reports. If `run` is known, it may have waited for a CPU for at most a twentieth of the time.
    pub fn new(record: &Record, mode: Mode, run: Option<&RunInfo>) -> Self {
        if run.is_some_and(|run| run.measured.is_zero()) {
            return Self::ended_during_ramp();
        }
        let verdict = Self::by_lateness(record, mode, "generator lateness");
        match run.filter(|_| verdict == Self::Reliable).and_then(waited_for_cpu) {
            Some(reason) => Self::Unreliable(reason),
            None => verdict,
        }
    }

    pub(super) fn ended_during_ramp() -> Self {
        let reason =
            "the run ended before all connections were authenticated, so no load was measured";
        Self::Nothing(reason.to_owned())
    }

    /// The verdict on the sum of several generators, each of which is reliable: a late one with long
    /// latencies and a punctual one with short ones do not compensate each other.
    pub(super) fn for_sum(record: &Record, mode: Mode) -> Self {
        Self::by_lateness(record, mode, "combined generator lateness")
    }

    fn by_lateness(record: &Record, mode: Mode, whose: &str) -> Self {
        let series = headline(mode);
        let reported = Percentiles::from(record.series(series));
        let lateness = Percentiles::from(record.series(Series::Lateness));
        if reported.n == 0 {
            return Self::Nothing(format!("no {series} was completed", series = series.as_str()));
        }
        if lateness.p99_ns > reported.p99_ns / 10 {
            return Self::Unreliable(format!(
                "{whose} of {} at p99 is more than a tenth of the {} p99 of {}: the results include \
                 that delay. Lower the rate, give each generator a CPU of its own, or split the \
                 load among more of them",
                Nanos(lateness.p99_ns),
                series.as_str(),
                Nanos(reported.p99_ns),
            ));
        }
        Self::Reliable
    }

    /// The name in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Reliable => "reliable",
            Self::Unreliable(_) => "unreliable",
            Self::Nothing(_) => "nothing_measured",
        }
    }

    /// The reason, unless it is reliable.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Reliable => None,
            Self::Unreliable(reason) | Self::Nothing(reason) => Some(reason),
        }
    }
}

/// The reason why a run is unreliable that waited for a CPU for too long; `None` if it did not.
pub(super) fn waited_for_cpu(run: &RunInfo) -> Option<String> {
    let waited = run.waited.filter(|waited| *waited > run.measured / WAITING)?;
    Some(format!(
        "the generator waited for a CPU for {} of {}: the results include that delay. Give it a CPU \
         of its own (taskset), or lower the rate",
        Nanos::from(waited),
        Nanos::from(run.measured),
    ))
}

/// A warning if less than nine tenths of the due messages were sent.
pub(super) fn shortfall(record: &Record) -> Option<String> {
    let Counts { due, sent, .. } = record.counts;
    (sent < due - due / 10).then(|| {
        format!(
            "{} of {} due messages were never sent: the server or the generator cannot keep up with \
             the rate",
            Grouped(due.saturating_sub(sent)),
            Grouped(due),
        )
    })
}

/// The factor from which two percentiles count as different; histograms are exact to 0.1 %.
const DIFFER: f64 = 1.25;

/// A generator may wait for a CPU for a twentieth of the time. If it is not running when an answer
/// arrives, its own clock does not show the delay; this does.
const WAITING: u32 = 20;

impl Report {
    /// The verdict as a sentence.
    pub fn verdict_line(&self) -> String {
        match &self.verdict {
            Verdict::Reliable => {
                let lateness = self.percentiles(Series::Lateness);
                let reported = self.percentiles(self.headline());
                format!(
                    "reliable: generator lateness of {} at p99 is at most a tenth of the {} p99 of {}",
                    Nanos(lateness.p99_ns),
                    self.headline().as_str(),
                    Nanos(reported.p99_ns)
                )
            }
            Verdict::Unreliable(reason) => format!("UNRELIABLE: {reason}"),
            Verdict::Nothing(reason) => format!("NOTHING MEASURED: {reason}"),
        }
    }

    /// Explains the difference between latency and service time; `None` if only one was measured.
    ///
    /// Latency is measured from when a message was due, service time from when it was sent. The
    /// difference is the time that it waited for its turn. A generator that leaves it out omits the
    /// very moments in which the server was slow (coordinated omission).
    pub fn explanation(&self) -> Option<String> {
        let series = self.headline();
        let latency = self.percentiles(series);
        let service = self.percentiles(Series::Service);
        if self.mode() == Mode::Idle || latency.n == 0 {
            return None;
        }
        if !self.is_open() {
            return Some(format!(
                "Closed model: the next {} starts when one is answered, so a slow server gets less \
                 load and its slow moments are undercounted. Compare throughput, not latency; -r \
                 sends at a fixed rate.",
                noun(series)
            ));
        }
        let pairs = latency.by_name().into_iter().zip(service.by_name());
        let mut apart = pairs.filter(|((_, whole), (_, part))| differ(*whole, *part));
        let Some(((name, whole), (_, part))) = apart.next() else {
            return Some(format!(
                "Latency and service time agree at every percentile: no {} had to wait for its turn.",
                noun(series)
            ));
        };
        Some(format!(
            "{} There, latency from when a {noun} was due is {}; service time from when it was sent \
             is only {}. {} A generator that starts its clock when it sends would have shown the \
             service time only (coordinated omission).",
            format_args!("Latency exceeds service time from {name} on."),
            Nanos(whole),
            Nanos(part),
            self.cause(whole - part),
            noun = noun(series),
        ))
    }

    /// The reason why messages waited: the generator or the server.
    fn cause(&self, waited: u64) -> String {
        let lateness = self.percentiles(Series::Lateness);
        if lateness.max_ns >= waited / 2 && self.verdict != Verdict::Reliable {
            let subject = if self.is_merged() { "generators" } else { "generator" };
            return format!(
                "The {subject} may have caused the difference: messages were sent up to {} late.",
                Nanos(lateness.max_ns)
            );
        }
        let plans = || self.generators.iter().map(|generator| &generator.plan);
        match self.mode() {
            Mode::Connect => format!(
                "Cycles waited until fewer than {} connections{} were open: the server was slow to \
                 finish the earlier ones.",
                Range::new(plans().map(|plan| plan.connections)),
                if self.is_merged() { " of their generator" } else { "" },
            ),
            _ => format!(
                "Messages waited while {} on their connection: the server was slow to answer the \
                 earlier ones.",
                match Range::new(plans().map(|plan| plan.in_flight)) {
                    Range(1, 1) => "one was in flight".to_owned(),
                    numbers => format!("{numbers} were in flight"),
                }
            ),
        }
    }
}

fn differ(whole: u64, part: u64) -> bool {
    whole as f64 > part as f64 * DIFFER
}

/// The noun for one event of a series.
fn noun(series: Series) -> &'static str {
    match series {
        Series::Cycle => "cycle",
        _ => "message",
    }
}
