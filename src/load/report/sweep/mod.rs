//! The report on a sweep, in the format of `schemas/load-sweep.schema.json`.

mod compare;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::collector::DEBUG_BUILD;
use super::generator::nanos;
use super::json::{value, visible_text};
use super::verdict::waited_for_cpu;
use super::{Generator, Grouped, Nanos, Percentiles, Report, Verdict, rate};
use crate::load::sweep::{Backlog, Extent, Fate, Finding, Purpose, Request, Sample, Search};
use crate::load::sweep::{Slo, Standing};
use crate::load::{Series, empty_histogram};

pub use compare::SweepComparison;

const SCHEMA: &str = "saltecho-load-sweep/1";

/// The report on a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepReport {
    schema: String,
    /// The load generator; its plan has the lowest rate.
    pub generator: Generator,
    /// The rates of the curve.
    pub extent: Extent,
    /// The objective, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloInfo>,
    /// The rates that were measured, ascending.
    pub rates: Vec<RateReport>,
    /// Rates of the curve that were left out: they are above one that is above capacity.
    pub skipped_per_s: Vec<u64>,
    /// The rate with the highest ratio of throughput to mean latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knee_per_s: Option<u64>,
    /// The highest rate that holds the objective, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// Problems that a reader has to know about before trusting the figures.
    pub warnings: Vec<String>,
}

/// An objective in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SloInfo {
    /// As it was given: `p99<5ms`.
    pub text: String,
    /// The share of the messages that must be within the limit.
    pub target_ppm: u32,
    /// The limit.
    pub limit_ns: u64,
}

/// One rate of a sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateReport {
    /// Messages due per second.
    pub rate_per_s: u64,
    /// What the windows say together.
    pub standing: Standing,
    /// Messages answered per second, over all windows in which the generator was not late.
    pub answered_per_s: u64,
    /// Mean latency of the windows that count; 0 if there is none.
    pub mean_ns: u64,
    /// Percentiles of the histograms of all windows that count, added up.
    pub times: Percentiles,
    /// Its windows, in the order in which they were measured.
    pub windows: Vec<WindowReport>,
}

/// One measurement at one rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReport {
    /// The reason for which it was measured.
    pub purpose: Purpose,
    /// What it shows: the server, the backlog or the generator.
    pub fate: Fate,
    /// True if it was ended early, because the backlog grew without bound.
    pub cut_short: bool,
    /// The reason, if it does not show the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its duration.
    #[serde(rename = "measured_ns", with = "nanos")]
    pub measured: Duration,
    /// Messages due.
    pub due: u64,
    /// Messages answered within the measurement.
    pub answered: u64,
    /// Failures of all kinds.
    pub errors: u64,
    /// Messages within the limit; 0 without an objective.
    pub within: u64,
    /// Percentiles of the main series.
    pub times: Percentiles,
    /// Lateness of the generator at p99.
    pub lateness_p99_ns: u64,
}

/// A sweep that is being made: asks for windows, and turns them into a report.
#[derive(Debug)]
pub struct Sweep {
    extent: Extent,
    slo: Option<Slo>,
    search: Search,
    rates: BTreeMap<u64, RateSum>,
}

#[derive(Debug)]
struct RateSum {
    times: Histogram<u64>,
    measured: Duration,
    answered: u64,
    windows: Vec<WindowReport>,
}

impl Sweep {
    /// A sweep over these rates.
    pub fn new(extent: Extent, slo: Option<Slo>) -> Self {
        let search = Search::new(extent.clone(), slo.as_ref().map(Slo::target_ppm));
        Self { extent, slo, search, rates: BTreeMap::new() }
    }

    /// The next window to measure; `None` once the sweep is over.
    pub fn next(&self) -> Option<Request> {
        self.search.next()
    }

    /// Takes the result of a window that was asked for, and returns what it shows.
    pub fn take(
        &mut self,
        request: Request,
        report: &Report,
        backlog: &Backlog,
        cut_short: bool,
    ) -> &WindowReport {
        let record = &report.record;
        let (fate, reason) = judge(report, backlog);
        let (within, of) = match &self.slo {
            Some(slo) => slo.count(report.mode(), record),
            None => (0, record.counts.due),
        };
        let sum = self.rates.entry(request.rate).or_insert_with(|| RateSum {
            times: empty_histogram(),
            measured: Duration::ZERO,
            answered: 0,
            windows: Vec::new(),
        });
        if fate == Fate::Counted {
            let times = record.series(report.headline());
            sum.times.add(times).expect("all have the same bounds");
        }
        if fate != Fate::Late {
            sum.measured += report.measured;
            sum.answered += record.measured.answered;
        }
        self.search.record(request, Sample { fate, within, of });
        sum.windows.push(WindowReport {
            purpose: request.purpose,
            fate,
            cut_short,
            reason,
            measured: report.measured,
            due: record.counts.due,
            answered: record.measured.answered,
            errors: record.counts.errors.total(),
            within,
            times: report.percentiles(report.headline()),
            lateness_p99_ns: report.percentiles(Series::Lateness).p99_ns,
        });
        sum.windows.last().expect("it was just added")
    }

    /// Ends the sweep.
    pub fn finish(self, generator: Generator, mut warnings: Vec<String>) -> SweepReport {
        if generator.program.debug_build {
            warnings.push(DEBUG_BUILD.to_owned());
        }
        let rates = self.rates.iter().filter_map(|(&rate_per_s, sum)| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A recorded time.
            let mean_ns = sum.times.mean().round() as u64;
            Some(RateReport {
                rate_per_s,
                standing: self.search.standing(rate_per_s)?,
                answered_per_s: rate(sum.answered, sum.measured),
                mean_ns,
                times: Percentiles::from(&sum.times),
                windows: sum.windows.clone(),
            })
        });
        let rates: Vec<_> = rates.collect();
        SweepReport {
            schema: SCHEMA.to_owned(),
            generator,
            skipped_per_s: self.search.skipped(),
            knee_per_s: knee(&rates),
            rates,
            finding: self.slo.as_ref().map(|_| self.search.finding()),
            slo: self.slo.map(|slo| SloInfo {
                text: slo.to_string(),
                target_ppm: slo.target_ppm(),
                limit_ns: slo.limit_ns(),
            }),
            extent: self.extent,
            warnings,
        }
    }
}

/// Decides what a window shows.
fn judge(report: &Report, backlog: &Backlog) -> (Fate, Option<String>) {
    if !backlog.is_large() {
        return match &report.verdict {
            Verdict::Reliable => (Fate::Counted, None),
            Verdict::Unreliable(reason) => (Fate::Late, Some(reason.clone())),
            // Not the generator's fault: connections were made.
            Verdict::Nothing(reason) => (Fate::Counted, Some(reason.clone())),
        };
    }
    let run = report.generators.iter().find_map(|generator| generator.run.as_ref());
    if let Some(reason) = run.and_then(waited_for_cpu) {
        return (Fate::Late, Some(reason));
    }
    // The latency of a backlog is so long that any lateness is small beside it. The service time has
    // no part of the backlog.
    let [service, lateness] =
        [Series::Service, Series::Lateness].map(|series| report.percentiles(series).p99_ns);
    if lateness > service / 10 {
        let reason = format!(
            "the generator may be what cannot keep up: its lateness of {} at p99 is more than a tenth \
             of the service p99 of {}",
            Nanos(lateness),
            Nanos(service)
        );
        return (Fate::Late, Some(reason));
    }
    let counts = &report.record.counts;
    let reason = format!(
        "only {} of {} due messages were answered in time: the backlog grows without bound",
        Grouped(report.record.measured.answered),
        Grouped(counts.due)
    );
    (Fate::Overloaded, Some(reason))
}

/// The knee of the curve, where power, the ratio of throughput to mean delay, is greatest (Kleinrock,
/// 1979); `None` if there are fewer than three rates to choose from.
fn knee(rates: &[RateReport]) -> Option<u64> {
    let power = |rate: &RateReport| rate.answered_per_s as f64 / rate.mean_ns as f64;
    let usable: Vec<_> = rates.iter().filter(|rate| rate.is_usable()).collect();
    let best = usable.iter().max_by(|a, b| power(a).total_cmp(&power(b)))?;
    (usable.len() >= 3).then_some(best.rate_per_s)
}

impl RateReport {
    /// Returns true if its latencies are those of the server.
    pub fn is_usable(&self) -> bool {
        !matches!(self.standing, Standing::Late | Standing::Overloaded) && self.times.n > 0
    }

    /// The lowest and the highest p99 of the windows that count.
    pub fn spread_p99_ns(&self) -> Option<(u64, u64)> {
        let counted = self.windows.iter().filter(|window| window.fate == Fate::Counted);
        let times = counted.map(|window| window.times.p99_ns);
        Some((times.clone().min()?, times.max()?))
    }

    /// Messages within the limit, and messages due, over all windows in which the generator was not late.
    pub fn within(&self) -> (u64, u64) {
        let windows = self.windows.iter().filter(|window| window.fate != Fate::Late);
        windows.fold((0, 0), |(within, due), window| (within + window.within, due + window.due))
    }
}

/// The reason why a text is not the report on a sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// It is not in this format.
    #[error("not the report of a sweep (`saltecho load --sweep ... --json`): {0}")]
    Format(#[from] serde_json::Error),
    /// It is of another version, or another kind of report.
    #[error("its schema is {0:?}, and only {SCHEMA:?} can be read: the JSON of a sweep")]
    Schema(String),
}

impl SweepReport {
    /// Reads a report that was written as JSON.
    ///
    /// # Errors
    /// If it is something else.
    pub fn parse(json: &[u8]) -> Result<Self, SweepError> {
        #[derive(Deserialize)]
        struct Header {
            schema: String,
        }
        let header: Header = serde_json::from_slice(json)?;
        match header.schema == SCHEMA {
            true => Ok(serde_json::from_slice(json)?),
            false => Err(SweepError::Schema(header.schema)),
        }
    }

    /// The report as indented JSON text with a final line feed. Escapes characters that control a
    /// terminal.
    pub fn to_json_text(&self) -> String {
        visible_text(&value(self))
    }

    /// The highest rate that was measured.
    pub(super) fn highest(&self) -> u64 {
        self.rates.last().map_or(1, |rate| rate.rate_per_s)
    }
}
