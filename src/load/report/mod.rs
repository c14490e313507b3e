//! Reports on load runs, as text, JSON, HTML, events and histogram logs.
//!
//! A [`Collector`] takes each second of a run and keeps a few hundred bytes of it. Sinks write each
//! second as it comes: [`EventLog`] as a line of JSON, [`HistogramLog`] as an HdrHistogram interval
//! log. At the end the collector returns a [`Report`], which can be written as text, JSON and an HTML
//! page. [`merge`] turns the logs of several generators into one report, and [`Comparison`] compares
//! two reports.

mod collector;
mod compare;
mod events;
mod figures;
mod generator;
mod hlog;
mod html;
mod json;
mod merge;
mod server;
mod sweep;
mod text;
mod verdict;
mod visible;

use std::time::Duration;

pub use collector::{Collector, Second, Sink, SinkFailure};
pub use compare::Comparison;
pub use events::EventLog;
pub use figures::{Percentiles, QUANTILES};
pub use generator::{Generator, Machine, PlanInfo, ProgramInfo, RunInfo, command_line};
pub use hlog::{HistogramLog, LoadLog, LogError};
pub use merge::{MergeError, merge};
pub use server::{ServerUse, Upgrade};
pub use sweep::{
    RateReport, SloInfo, Sweep, SweepComparison, SweepError, SweepReport, WindowReport,
};
pub use verdict::Verdict;
pub use visible::Visible;

pub use super::format::{Bytes, Grouped, Nanos};

use super::{Counts, Mode, Pace, Record, Series, StateCounts};

/// The report on a run, or on several merged ones.
#[derive(Debug)]
pub struct Report {
    /// The load generators.
    pub generators: Vec<Generator>,
    /// Histograms and counts of the whole run.
    pub record: Record,
    /// Each second of the run.
    pub seconds: Vec<Second>,
    /// Duration of the measurement. For several generators, from the first start to the last end.
    pub measured: Duration,
    /// For several generators, the time in which all of them measured.
    pub overlap: Option<Duration>,
    /// States of the connections at the end of the measurement.
    pub states: StateCounts,
    /// CPU time and memory of the server, if its PID was given.
    pub server: Option<ServerUse>,
    /// Upgrades of the server, if its admin endpoint was given.
    pub upgrades: Vec<Upgrade>,
    /// Problems that a reader has to know about before trusting the figures.
    pub warnings: Vec<String>,
    /// The reliability of the figures: of the server, or distorted by the generator.
    pub verdict: Verdict,
}

impl Report {
    /// The main series: the verdict is about it, and charts over time show it.
    pub fn headline(&self) -> Series {
        headline(self.mode())
    }

    /// Behavior of the connections; the same for all generators.
    pub fn mode(&self) -> Mode {
        self.first().plan.mode
    }

    /// Returns true if messages were due at a rate (open model).
    pub fn is_open(&self) -> bool {
        matches!(self.first().plan.pace, Pace::Open(_))
    }

    /// Percentiles of one series.
    pub fn percentiles(&self, series: Series) -> Percentiles {
        Percentiles::from(self.record.series(series))
    }

    /// The series that have values.
    pub fn recorded_series(&self) -> impl Iterator<Item = (Series, Percentiles)> + '_ {
        let all = Series::ALL.into_iter().map(|series| (series, self.percentiles(series)));
        all.filter(|(_, percentiles)| percentiles.n > 0)
    }

    /// A count in the measured time as a rate per second, rounded.
    pub fn per_second(&self, number: u64) -> u64 {
        rate(number, self.measured)
    }

    /// Bytes sent and received per second during the measurement.
    pub fn byte_rates(&self) -> (u64, u64) {
        let Counts { bytes_sent, bytes_received, .. } = self.record.measured;
        (self.per_second(bytes_sent), self.per_second(bytes_received))
    }

    /// Returns true if several generators were merged.
    fn is_merged(&self) -> bool {
        self.generators.len() > 1
    }

    fn first(&self) -> &Generator {
        self.generators.first().expect("a report has at least one generator")
    }
}

/// The main series of a mode. Idle connections have only their authentication.
pub(crate) fn headline(mode: Mode) -> Series {
    mode.main_series().unwrap_or(Series::Auth)
}

/// A count in this time as a rate per second, rounded.
fn rate(number: u64, time: Duration) -> u64 {
    let (nanos, number) = (time.as_nanos(), u128::from(number));
    let second = Duration::from_secs(1).as_nanos();
    let rate = (number * second + nanos / 2).checked_div(nanos).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
