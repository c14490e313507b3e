use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::about::nanos;
use super::figures::Percentiles;
use super::verdict::{Verdict, shortfall};
use super::{Generator, Ran, Report};
use crate::load::{Counts, ErrorKind, Interval, Outcome, Part, Record, Series, Standing};

/// What is kept of a second of a run: figures, no histograms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// When it began, from the beginning of the run.
    #[serde(rename = "start_ns", with = "nanos")]
    pub start: Duration,
    /// How long it was.
    #[serde(rename = "duration_ns", with = "nanos")]
    pub length: Duration,
    /// Which part of the run it belongs to.
    pub part: Part,
    /// What was done in it.
    pub counts: Counts,
    /// How the connections stood at its end.
    pub standing: Standing,
    /// The percentiles of each series.
    #[serde(with = "phases")]
    phases: [Percentiles; Series::ALL.len()],
}

impl Second {
    /// What is kept of an interval.
    pub fn of(interval: &Interval) -> Self {
        let Interval { start, length, part, standing, .. } = *interval;
        Self::new(start, length, part, standing, &interval.record)
    }

    pub(super) fn new(
        start: Duration,
        length: Duration,
        part: Part,
        standing: Standing,
        record: &Record,
    ) -> Self {
        let phases = Series::ALL.map(|series| Percentiles::of(record.series(series)));
        Self { start, length, part, counts: record.counts.clone(), standing, phases }
    }

    /// The percentiles of one series in this second.
    pub const fn percentiles(&self, series: Series) -> &Percentiles {
        &self.phases[series as usize]
    }
}

/// Percentiles by the names of their series, those without values left out.
pub(super) mod phases {
    use super::{Deserialize, Percentiles, Series};
    use serde::de::Error;
    use serde::ser::SerializeMap;
    use serde::{Deserializer, Serializer};
    use std::collections::BTreeMap;

    type Phases = [Percentiles; Series::ALL.len()];

    pub(crate) fn serialize<S: Serializer>(phases: &Phases, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (series, percentiles) in Series::ALL.iter().zip(phases) {
            if percentiles.n > 0 {
                map.serialize_entry(series.as_str(), percentiles)?;
            }
        }
        map.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Phases, D::Error> {
        let mut phases = Phases::default();
        for (name, percentiles) in BTreeMap::<String, Percentiles>::deserialize(from)? {
            let series = Series::from_name(&name)
                .ok_or_else(|| D::Error::custom(format!("unknown series `{name}`")))?;
            phases[series as usize] = percentiles;
        }
        Ok(phases)
    }
}

/// Where the seconds of a run go as they come.
pub trait Sink: Send {
    /// One more second.
    ///
    /// # Errors
    /// When it cannot be written.
    fn second(&mut self, interval: &Interval, second: &Second) -> io::Result<()>;

    /// The run is over: writes what is still held back.
    ///
    /// # Errors
    /// When it cannot be written.
    fn end(&mut self, ran: &Ran) -> io::Result<()>;
}

/// A sink that failed, and how.
#[derive(Debug)]
pub struct SinkFailure {
    /// The sink's name.
    pub name: String,
    /// What befell it. Nothing was written to it after that.
    pub error: io::Error,
}

/// Takes a run as it goes, second by second, and makes a [`Report`] of it. It holds under a
/// kilobyte for each second.
///
/// What it does takes a millisecond or so, time that a generator does not have: call it on another
/// thread than the load's.
pub struct Collector {
    generator: Generator,
    seconds: Vec<Second>,
    sinks: Vec<(String, Box<dyn Sink>)>,
    failures: Vec<SinkFailure>,
}

impl Collector {
    /// A collector for the run of this generator.
    pub fn new(generator: Generator) -> Self {
        Self { generator, seconds: Vec::new(), sinks: Vec::new(), failures: Vec::new() }
    }

    /// Passes all seconds on to this sink, too. The name is for [`SinkFailure`].
    pub fn add_sink(&mut self, name: impl Into<String>, sink: impl Sink + 'static) {
        self.sinks.push((name.into(), Box::new(sink)));
    }

    /// Takes the next second. A sink that fails is left out from then on.
    pub fn take(&mut self, interval: &Interval) {
        let second = Second::of(interval);
        self.tell_sinks(|sink| sink.second(interval, &second));
        self.seconds.push(second);
    }

    /// The latest second.
    pub fn latest(&self) -> Option<&Second> {
        self.seconds.last()
    }

    /// The sinks that have failed so far.
    pub fn failures(&self) -> &[SinkFailure] {
        &self.failures
    }

    /// Ends the run: the report, and the sinks that failed. `waited` is for how long the generator
    /// could have run and had no processor, if the system counts it.
    pub fn finish(
        mut self,
        outcome: Outcome,
        waited: Option<Duration>,
    ) -> (Report, Vec<SinkFailure>) {
        let ran = Ran { waited, ..Ran::from(&outcome) };
        self.tell_sinks(|sink| sink.end(&ran));
        self.generator.ran = Some(ran);
        let mut warnings = Vec::new();
        if self.generator.about.debug_build {
            warnings.push("a debug build made this load: it is many times slower".to_owned());
        }
        if outcome.stopped {
            warnings.push("the run was ended before its time".to_owned());
        }
        warnings.extend(shortfall(&outcome.record));
        if let Some(error) = outcome.first_other {
            let kind = ErrorKind::Other.as_str();
            warnings.push(format!("the first error of the kind \"{kind}\" was: {error}"));
        }
        let report = Report {
            verdict: Verdict::of(&outcome.record, self.generator.setup.mode, Some(&ran)),
            generators: vec![self.generator],
            record: outcome.record,
            seconds: self.seconds,
            measured: outcome.measured,
            overlap: None,
            standing: outcome.standing,
            server: None,
            warnings,
        };
        (report, self.failures)
    }

    fn tell_sinks(&mut self, mut call: impl FnMut(&mut dyn Sink) -> io::Result<()>) {
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
