//! Whether the figures are the server's, and what the two latencies say.

use super::figures::{Grouped, Nanos, Percentiles};
use super::text::Range;
use super::{Ran, Report, headline};
use crate::load::{Counts, Mode, Record, Series};

/// Whether the figures of a run can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The generator kept its times well enough.
    Reliable,
    /// It did not, for this reason.
    Unreliable(String),
    /// Nothing was measured, for this reason.
    Nothing(String),
}

impl Verdict {
    /// Judges what a generator recorded: its own lateness at p99 may be at most a tenth of the p99
    /// that it reports. If it is known how its run went, it may not have waited for a processor for
    /// more than a twentieth of the time that it measured.
    pub fn of(record: &Record, mode: Mode, ran: Option<&Ran>) -> Self {
        if ran.is_some_and(|ran| ran.measured.is_zero()) {
            return Self::ended_in_the_ramp();
        }
        let verdict = Self::by_lateness(record, mode, "the generator itself was");
        if verdict == Self::Reliable
            && let Some(ran) = ran
            && let Some(waited) = ran.waited.filter(|waited| *waited > ran.measured / WAITING)
        {
            return Self::Unreliable(format!(
                "the generator had to wait for a processor for {} of {}: what it measured is \
                 partly that. Give it a processor of its own (taskset), or ask less of it",
                Nanos::from(waited),
                Nanos::from(ran.measured),
            ));
        }
        verdict
    }

    pub(super) fn ended_in_the_ramp() -> Self {
        let reason = "the run ended before all connections were made, so no load was measured";
        Self::Nothing(reason.to_owned())
    }

    /// Judges the sum of what several generators recorded, each of which is reliable: a late one
    /// with long latencies and a punctual one with short ones do not make up for each other.
    pub(super) fn of_sum(record: &Record, mode: Mode) -> Self {
        Self::by_lateness(record, mode, "the generators themselves were")
    }

    fn by_lateness(record: &Record, mode: Mode, who_was: &str) -> Self {
        let series = headline(mode);
        let reported = Percentiles::of(record.series(series));
        let lateness = Percentiles::of(record.series(Series::Lateness));
        if reported.n == 0 {
            return Self::Nothing(format!("no {series} was completed", series = series.as_str()));
        }
        if lateness.p99_ns > reported.p99_ns / 10 {
            return Self::Unreliable(format!(
                "{who_was} late by {} at p99, more than a tenth of the {} that is reported as p99 \
                 of {}: the figures are partly that. Ask for less, give a generator a processor of \
                 its own, or share the load among more of them",
                Nanos(lateness.p99_ns),
                Nanos(reported.p99_ns),
                series.as_str(),
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

    /// Why, unless all is well.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Reliable => None,
            Self::Unreliable(reason) | Self::Nothing(reason) => Some(reason),
        }
    }
}

/// What a load could not do, if it sent less than nine tenths of what was due.
pub(super) fn shortfall(record: &Record) -> Option<String> {
    let Counts { due, sent, .. } = record.counts;
    (sent < due - due / 10).then(|| {
        format!(
            "{} of {} that were due were never sent: the server, or the generator, cannot do the \
             rate that was asked for",
            Grouped(due.saturating_sub(sent)),
            Grouped(due),
        )
    })
}

/// From this factor on two percentiles are said to differ; histograms tell them to 0.1 %.
const DIFFER: f64 = 1.25;

/// The share of the time that a generator may wait for a processor: a twentieth. A generator that
/// sleeps when its answer comes is not late by any clock of its own; this is what shows it.
const WAITING: u32 = 20;

impl Report {
    /// The verdict in a sentence.
    pub fn verdict_line(&self) -> String {
        match &self.verdict {
            Verdict::Reliable => {
                let lateness = self.percentiles(Series::Lateness);
                let reported = self.percentiles(self.headline());
                let who = if self.is_sum() { "generators were" } else { "generator was" };
                format!(
                    "reliable: the {who} late by {} at p99, at most a tenth of the {} that is \
                     reported",
                    Nanos(lateness.p99_ns),
                    Nanos(reported.p99_ns)
                )
            }
            Verdict::Unreliable(reason) => format!("UNRELIABLE: {reason}"),
            Verdict::Nothing(reason) => format!("NOTHING MEASURED: {reason}"),
        }
    }

    /// What latency and service time say beside each other; `None` where there are no two.
    ///
    /// Latency counts from when a message was due, service time from when it was sent. What lies
    /// between is the time that it waited for its turn, and a generator that leaves it out omits
    /// the very moments in which the server was slow (coordinated omission).
    pub fn explanation(&self) -> Option<String> {
        let series = self.headline();
        let latency = self.percentiles(series);
        let service = self.percentiles(Series::Service);
        if self.mode() == Mode::Idle || latency.n == 0 {
            return None;
        }
        if !self.is_open() {
            return Some(format!(
                "Closed model: the next {} begins when one is answered, so a slow server is asked \
                 less often and its slow moments are counted too rarely. Compare throughput by it, \
                 not latency; -r asks at a steady rate.",
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
            "{} Latency, from when a {noun} was due, is {} there; service time, from when it was \
             sent, only {}. {} A generator that starts its clock on sending would have shown the \
             service time alone (coordinated omission).",
            if name == "p50" {
                "Latency is longer than service time from p50 on.".to_owned()
            } else {
                format!("Latency grew beyond service time from {name} on.")
            },
            Nanos(whole),
            Nanos(part),
            self.cause(whole - part),
            noun = noun(series),
        ))
    }

    /// Why messages waited: because of the generator, or because of the server.
    fn cause(&self, waited: u64) -> String {
        let lateness = self.percentiles(Series::Lateness);
        if lateness.max_ns >= waited / 2 && self.verdict != Verdict::Reliable {
            let whose = if self.is_sum() { "generators'" } else { "generator's" };
            return format!(
                "The difference may be the {whose} own doing: messages were begun late by up to {}.",
                Nanos(lateness.max_ns)
            );
        }
        let setups = || self.generators.iter().map(|generator| &generator.setup);
        match self.mode() {
            Mode::Connect => format!(
                "The difference is the time that cycles waited until fewer than {} connections{} \
                 were open: the server was slow to finish those before.",
                Range::of(setups().map(|setup| setup.connections)),
                if self.is_sum() { " of their generator" } else { "" },
            ),
            _ => format!(
                "The difference is the time that messages waited while {} on their connection: the \
                 server was slow to answer those before.",
                match Range::of(setups().map(|setup| setup.in_flight)) {
                    Range(1, 1) => "one was under way".to_owned(),
                    numbers => format!("{numbers} were under way"),
                }
            ),
        }
    }
}

fn differ(whole: u64, part: u64) -> bool {
    whole as f64 > part as f64 * DIFFER
}

/// What one event of a series is called.
fn noun(series: Series) -> &'static str {
    match series {
        Series::Cycle => "cycle",
        _ => "message",
    }
}
