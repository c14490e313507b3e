//! What a load run tells, in every form: for a reader, for a program, for other tools.
//!
//! A [`Collector`] takes each second of a run and keeps a few hundred bytes of it; sinks write it
//! on as it comes: [`EventLog`] as a line of JSON, [`HistogramLog`] as HdrHistogram's interval log.
//! At the end the collector makes a [`Report`], which can be written as text, JSON and a page of
//! HTML. The logs of several generators make one, too: [`merge`] adds them up. [`Comparison`] puts
//! two side by side.

mod about;
mod collector;
mod compare;
pub(super) mod errors;
mod events;
mod figures;
mod hlog;
mod html;
mod json;
mod merge;
mod server;
mod text;
mod verdict;
mod visible;

use std::time::Duration;

pub use about::{About, Generator, Machine, Ran, Setup};
pub use collector::{Collector, Second, Sink, SinkFailure};
pub use compare::Comparison;
pub use events::EventLog;
pub use figures::{Bytes, Grouped, Nanos, Percentiles, QUANTILES};
pub use hlog::{HistogramLog, LoadLog, LogError};
pub use merge::{MergeError, merge};
pub use server::ServerUse;
pub use verdict::Verdict;
pub use visible::Visible;

use super::{Counts, Mode, Pace, Record, Series, Standing};

/// All that is told of a run, or of several that were added up.
#[derive(Debug)]
pub struct Report {
    /// Who made the load, one for each generator.
    pub generators: Vec<Generator>,
    /// All that was recorded.
    pub record: Record,
    /// The run second by second.
    pub seconds: Vec<Second>,
    /// How long the load was measured. Of several generators, from when the first began to measure
    /// until the last ended.
    pub measured: Duration,
    /// Of several generators, for how long all measured at once.
    pub overlap: Option<Duration>,
    /// How the connections stood when the measurement ended.
    pub standing: Standing,
    /// What the server's process used, if it was looked at.
    pub server: Option<ServerUse>,
    /// What a reader must know before they believe a figure.
    pub warnings: Vec<String>,
    /// Whether the figures are those of the server.
    pub verdict: Verdict,
}

impl Report {
    /// What is measured above all: what the verdict is about, and what charts over time show.
    pub fn headline(&self) -> Series {
        headline(self.mode())
    }

    /// What the connections did; the same for all generators.
    pub fn mode(&self) -> Mode {
        self.first().setup.mode
    }

    /// Whether messages were due at a rate or as soon as there was room.
    pub fn is_open(&self) -> bool {
        matches!(self.first().setup.pace, Pace::Open(_))
    }

    /// The percentiles of one series.
    pub fn percentiles(&self, series: Series) -> Percentiles {
        Percentiles::of(self.record.series(series))
    }

    /// The series in which anything was recorded.
    pub fn phases(&self) -> impl Iterator<Item = (Series, Percentiles)> + '_ {
        let all = Series::ALL.into_iter().map(|series| (series, self.percentiles(series)));
        all.filter(|(_, percentiles)| percentiles.n > 0)
    }

    /// So many in the measured time, as a rate in whole numbers a second.
    pub fn per_second(&self, number: u64) -> u64 {
        rate(number, self.measured)
    }

    /// Bytes a second while the load was measured: sent, received.
    pub fn byte_rates(&self) -> (u64, u64) {
        let Counts { bytes_sent, bytes_received, .. } = self.record.measured;
        (self.per_second(bytes_sent), self.per_second(bytes_received))
    }

    /// Whether several generators were added up.
    fn is_sum(&self) -> bool {
        self.generators.len() > 1
    }

    fn first(&self) -> &Generator {
        self.generators.first().expect("a report has at least one generator")
    }
}

/// What is measured above all in a mode. Connections that only stay have nothing but their
/// beginning.
pub(crate) fn headline(mode: Mode) -> Series {
    mode.main_series().unwrap_or(Series::Auth)
}

/// So many in this time, a second; to the nearest whole number.
fn rate(number: u64, time: Duration) -> u64 {
    let (nanos, number) = (time.as_nanos(), u128::from(number));
    let second = Duration::from_secs(1).as_nanos();
    let rate = (number * second + nanos / 2).checked_div(nanos).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
