//! From the intervals of a run to its report.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::figures::Percentiles;
use super::generator::nanos;
use super::verdict::{Verdict, shortfall};
use super::{Generator, Report, RunInfo};
use crate::load::{Counts, ErrorKind, Interval, Outcome, Phase, Record, Series, StateCounts};

/// The figures of one second of a run, without the histograms. The aliases are the names of the
/// first schema, which logs written by older versions have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Its start, counted from the start of the run.
    #[serde(rename = "start_ns", with = "nanos")]
    pub start: Duration,
    /// Its duration.
    #[serde(rename = "duration_ns", with = "nanos")]
    pub length: Duration,
    /// Phase of the run that it belongs to.
    #[serde(alias = "part")]
    pub phase: Phase,
    /// Counts of this second.
    pub counts: Counts,
    /// States of the connections at its end.
    #[serde(alias = "standing")]
    pub states: StateCounts,
    /// Percentiles of each series.
    #[serde(alias = "phases", with = "series_map")]
    series: [Percentiles; Series::ALL.len()],
}

impl From<&Interval> for Second {
    fn from(interval: &Interval) -> Self {
        let Interval { start, length, phase, states, .. } = *interval;
        Self::new(start, length, phase, states, &interval.record)
    }
}

impl Second {
    pub(super) fn new(
        start: Duration,
        length: Duration,
        phase: Phase,
        states: StateCounts,
        record: &Record,
    ) -> Self {
        let series = Series::ALL.map(|series| Percentiles::from(record.series(series)));
        Self { start, length, phase, counts: record.counts.clone(), states, series }
    }

    /// The percentiles of one series in this second.
    pub const fn percentiles(&self, series: Series) -> &Percentiles {
        &self.series[series as usize]
    }
}

/// Percentiles by the name of their series; series without values are left out.
pub(super) mod series_map {
    use super::{Deserialize, Percentiles, Series};
    use serde::de::Error;
    use serde::ser::SerializeMap;
    use serde::{Deserializer, Serializer};
    use std::collections::BTreeMap;

    type All = [Percentiles; Series::ALL.len()];

    pub(crate) fn serialize<S: Serializer>(all: &All, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (series, percentiles) in Series::ALL.iter().zip(all) {
            if percentiles.n > 0 {
                map.serialize_entry(series.as_str(), percentiles)?;
            }
        }
        map.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<All, D::Error> {
        let mut all = All::default();
        for (name, percentiles) in BTreeMap::<String, Percentiles>::deserialize(from)? {
            let series = Series::from_name(&name)
                .ok_or_else(|| D::Error::custom(format!("unknown series `{name}`")))?;
            all[series as usize] = percentiles;
        }
        Ok(all)
    }
}

/// A destination for the seconds of a run as they come.
pub trait Sink: Send {
    /// Takes the next second.
    ///
    /// # Errors
    /// If it cannot be written.
    fn second(&mut self, interval: &Interval, second: &Second) -> io::Result<()>;

    /// Ends the run: writes everything that is still buffered.
    ///
    /// # Errors
    /// If it cannot be written.
    fn end(&mut self, run: &RunInfo) -> io::Result<()>;
}

pub(super) const DEBUG_BUILD: &str =
    "the load generator is a debug build, which is many times slower";
pub(super) const STOPPED_EARLY: &str = "the run was stopped early";

/// A sink that failed, and its error.
#[derive(Debug)]
pub struct SinkFailure {
    /// Name of the sink.
    pub name: String,
    /// Its error. Nothing was written to the sink after that.
    pub error: io::Error,
}

/// Collects a run second by second and turns it into a [`Report`]. Keeps less than a kilobyte per
/// second.
///
/// A call takes about a millisecond, too long for the thread of a load generator: use another
/// thread.
pub struct Collector {
    generator: Generator,
    seconds: Vec<Second>,
    sinks: Vec<(String, Box<dyn Sink>)>,
    failures: Vec<SinkFailure>,
}

impl Collector {
    /// Creates a collector for a run of this generator.
    pub fn new(generator: Generator) -> Self {
        Self { generator, seconds: Vec::new(), sinks: Vec::new(), failures: Vec::new() }
    }

    /// Adds a sink that gets all seconds too. The name is for [`SinkFailure`].
    pub fn add_sink(&mut self, name: impl Into<String>, sink: impl Sink + 'static) {
        self.sinks.push((name.into(), Box::new(sink)));
    }

    /// Adds the next second. A sink that fails gets nothing more.
    pub fn take(&mut self, interval: &Interval) {
        let second = Second::from(interval);
        self.write_to_sinks(|sink| sink.second(interval, &second));
        self.seconds.push(second);
    }

    /// The last second so far.
    pub fn latest(&self) -> Option<&Second> {
        self.seconds.last()
    }

    /// The sinks that have failed so far.
    pub fn failures(&self) -> &[SinkFailure] {
        &self.failures
    }

    /// Ends the run and returns the report and the sinks that failed. `waited` is the time that the
    /// generator was ready to run and waited for a CPU, if the system counts it.
    pub fn finish(
        mut self,
        outcome: Outcome,
        waited: Option<Duration>,
    ) -> (Report, Vec<SinkFailure>) {
        let run = RunInfo { waited, ..RunInfo::from(&outcome) };
        self.write_to_sinks(|sink| sink.end(&run));
        self.generator.run = Some(run);
        let mut warnings = Vec::new();
        if self.generator.program.debug_build {
            warnings.push(DEBUG_BUILD.to_owned());
        }
        if outcome.stopped {
            warnings.push(STOPPED_EARLY.to_owned());
        }
        warnings.extend(shortfall(&outcome.record));
        if let Some(error) = outcome.first_other {
            let kind = ErrorKind::Other.as_str();
            warnings.push(format!("first error of kind \"{kind}\": {error}"));
        }
        let report = Report {
            verdict: Verdict::new(&outcome.record, self.generator.plan.mode, Some(&run)),
            generators: vec![self.generator],
            record: outcome.record,
            seconds: self.seconds,
            measured: outcome.measured,
            overlap: None,
            states: outcome.states,
            server: None,
            upgrades: Vec::new(),
            warnings,
        };
        (report, self.failures)
    }

    fn write_to_sinks(&mut self, mut call: impl FnMut(&mut dyn Sink) -> io::Result<()>) {
        let failures = &mut self.failures;
        self.sinks.retain_mut(|(name, sink)| match call(sink.as_mut()) {
            Ok(()) => true,
            Err(error) => {
                failures.push(SinkFailure { name: name.clone(), error });
                false
            }
        });
    }
}
