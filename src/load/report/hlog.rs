//! Writing and reading of HdrHistogram interval logs.
//!
//! Each series with values in a second is one line, tagged with its name, in nanoseconds, as V2 with
//! deflate, which every reader knows. Everything else is JSON in comments, which other readers skip:
//! `#saltecho run`, `#saltecho second`, `#saltecho end`.

use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, IntervalLogWriterError,
    LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Generator, RunInfo, Second, Sink};
use crate::load::{Interval, Phase, Record, Series};

const RUN: &str = "saltecho run ";
const SECOND: &str = "saltecho second ";
const END: &str = "saltecho end ";

/// Schema of the comments.
const SCHEMA: &str = "saltecho-load-log/2";
/// Its predecessor, which had other names for some fields. It is still read. Logs that are older than
/// the field have this one.
const FIRST_SCHEMA: &str = "saltecho-load-log/1";

/// The last second with a date in RFC 3339: the end of the year 9999.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// Maximum size of a histogram to unpack; that of a second has a few kilobytes.
const MAX_UNPACKED: usize = 1 << 20;

/// Writes the histograms of each second as an HdrHistogram interval log.
pub struct HistogramLog<W> {
    to: W,
    serializer: V2DeflateSerializer,
}

impl<W: Write + Send> HistogramLog<W> {
    /// Starts the log of a run of this generator.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(mut to: W, generator: &Generator) -> io::Result<Self> {
        let mut serializer = V2DeflateSerializer::new();
        let began = generator.program.began;
        // Some readers know only one of the two times, and without it would take the timestamps for
        // seconds since 1970.
        IntervalLogWriterBuilder::new()
            .add_comment("saltecho load: times in nanoseconds, one tag per series")
            .add_comment(&note(RUN, &Header { schema: SCHEMA.into(), generator }))
            .with_start_time(began)
            .with_base_time(began)
            .begin_log_with(&mut to, &mut serializer)?;
        Ok(Self { to, serializer })
    }
}

/// A generator with the schema of the comments.
#[derive(Serialize, Deserialize)]
struct Header<G> {
    #[serde(default = "first_schema")]
    schema: String,
    #[serde(flatten)]
    generator: G,
}

fn first_schema() -> String {
    FIRST_SCHEMA.to_owned()
}

fn note(kind: &str, content: &impl Serialize) -> String {
    let json = serde_json::to_string(content).expect("all keys are strings");
    format!("{kind}{json}")
}

impl<W: Write + Send> Sink for HistogramLog<W> {
    fn second(&mut self, interval: &Interval, second: &Second) -> io::Result<()> {
        let builder = IntervalLogWriterBuilder::new();
        let mut log = builder.begin_log_with(&mut self.to, &mut self.serializer)?;
        for series in Series::ALL {
            let histogram = interval.record.series(series);
            if !histogram.is_empty() {
                let tag = Tag::new(series.as_str());
                log.write_histogram(histogram, interval.start, interval.length, tag).map_err(
                    |error| match error {
                        IntervalLogWriterError::IoError(error) => error,
                        IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
                    },
                )?;
            }
        }
        log.write_comment(&note(SECOND, second))?;
        self.to.flush()
    }

    fn end(&mut self, run: &RunInfo) -> io::Result<()> {
        writeln!(self.to, "#{}", note(END, run))?;
        self.to.flush()
    }
}

/// The contents of a log written by [`HistogramLog`].
#[derive(Debug)]
pub struct LoadLog {
    pub(super) generator: Generator,
    /// Base of its timestamps, since 1970.
    pub(super) base: Duration,
    pub(super) seconds: Vec<Second>,
    /// Its packed histograms: start since 1970, and series.
    pub(super) packed: Vec<(Duration, Series, Vec<u8>)>,
    /// The sum of the histograms, and the counts.
    pub(super) record: Record,
    pub(super) warnings: Vec<String>,
}

/// The reason why a file is not a log of a load.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name}, line {line}: {problem}")]
pub struct LogError {
    /// The file.
    pub name: String,
    /// The line, counted from 1.
    pub line: usize,
    /// Description of the problem.
    pub problem: String,
}

impl LoadLog {
    /// Parses a log. An incomplete last line is ignored, with a warning.
    ///
    /// # Errors
    /// If a line is invalid, or the log was not written by [`HistogramLog`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, LogError> {
        let fail = |line, problem| LogError { name: name.to_owned(), line, problem };
        let mut reader = Reader::default();
        let mut warnings = Vec::new();
        let mut number = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            number += 1;
            if line.last() != Some(&b'\n') {
                warnings.push(format!("{name}: the last line is incomplete and was ignored"));
                break;
            }
            reader.line(line).map_err(|problem| fail(number, problem))?;
        }
        let missing = "expected an HdrHistogram interval log from `saltecho load --hlog`";
        let Some(mut generator) = reader.generator else {
            return Err(fail(number.max(1), format!("{missing}, found no `#{RUN}` line")));
        };
        let Some(base) = reader.base else {
            return Err(fail(number, format!("{missing}, found no `#[BaseTime: ` line")));
        };
        if reader.run.is_none() {
            warnings
                .push(format!("{name}: no end-of-run record: the generator was probably killed"));
        }
        generator.name = name.to_owned();
        generator.run = reader.run;
        reader.packed.iter_mut().for_each(|(start, _, _)| *start += base);
        let Reader { seconds, packed, record, .. } = reader;
        Ok(Self { generator, base, seconds, packed, record, warnings })
    }

    /// Start of the run, by the clock of its machine.
    pub fn began(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.base
    }
}

#[derive(Default)]
struct Reader {
    generator: Option<Generator>,
    base: Option<Duration>,
    seconds: Vec<Second>,
    /// Series that the current second already has.
    seen: [bool; Series::ALL.len()],
    packed: Vec<(Duration, Series, Vec<u8>)>,
    record: Record,
    run: Option<RunInfo>,
}

impl Reader {
    /// Parses one whole line, including its end.
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let comment = line.strip_prefix(b"#").map(<[u8]>::trim_ascii);
        let note = |kind: &str| comment.and_then(|text| text.strip_prefix(kind.as_bytes()));
        if let Some(json) = note(RUN) {
            return self.run(json);
        }
        if self.run.is_some() && (comment.is_none() || note(SECOND).or(note(END)).is_some()) {
            return Err(
                "unexpected line after the end of the run; was another log appended?".to_owned()
            );
        }
        if let Some(json) = note(SECOND) {
            return self.second(parse_note(json)?);
        }
        if let Some(json) = note(END) {
            self.run = Some(parse_note(json)?);
            return Ok(());
        }
        for entry in IntervalLogIterator::new(line) {
            match entry {
                Ok(LogEntry::StartTime(_)) => {}
                Ok(LogEntry::BaseTime(time)) if time > LAST => {
                    return Err("the start is after the year 9999".to_owned());
                }
                Ok(LogEntry::BaseTime(time)) => self.base = Some(time),
                Ok(LogEntry::Interval(interval)) => self.interval(&interval)?,
                Err(_) => {
                    return Err("expected a comment, or a line like \
                                Tag=echo,START,LENGTH,MAX,HISTOGRAM"
                        .to_owned());
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, json: &[u8]) -> Result<(), String> {
        if self.generator.is_some() {
            return Err("another run starts here: each run needs its own file, and `saltecho \
                        report` takes several files"
                .to_owned());
        }
        let Header { schema, generator } = parse_note(json)?;
        if ![SCHEMA, FIRST_SCHEMA].contains(&schema.as_str()) {
            return Err(format!(
                "the log has schema {schema:?}, expected {SCHEMA:?} or {FIRST_SCHEMA:?}"
            ));
        }
        self.generator = Some(generator);
        Ok(())
    }

    fn second(&mut self, second: Second) -> Result<(), String> {
        if let Some(last) = self.seconds.last()
            && second.start < last.start.saturating_add(last.length)
        {
            return Err(
                "seconds out of order: this one starts before the previous one ended".to_owned()
            );
        }
        self.record.counts.merge(&second.counts);
        if second.phase == Phase::Measure {
            self.record.measured.merge(&second.counts);
        }
        self.seconds.push(second);
        self.seen = Default::default();
        Ok(())
    }

    fn interval(&mut self, interval: &IntervalLogHistogram<'_>) -> Result<(), String> {
        let tag = interval.tag().map_or("", |tag| tag.as_str());
        let series = Series::from_name(tag).ok_or_else(|| {
            let known = Series::ALL.map(Series::as_str).join(", ");
            format!("the tag is {tag:?}, expected one of {known}")
        })?;
        if std::mem::replace(&mut self.seen[series as usize], true) {
            return Err(format!("{tag} occurs twice in one second"));
        }
        let packed = BASE64
            .decode(interval.encoded_histogram().as_bytes())
            .map_err(|error| format!("the histogram is not base64: {error}"))?;
        let histogram = unpack(&packed)?;
        let sum = self.record.series_mut(series).add(&histogram);
        sum.map_err(|_| "the histogram contains times of more than an hour".to_owned())?;
        self.packed.push((interval.start_timestamp().min(LAST), series, packed));
        Ok(())
    }
}

fn parse_note<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| format!("invalid comment: {error}"))
}

/// Unpacks a histogram in V2 format with deflate. Checks the length that it claims first, because the
/// deserializer would reserve that much.
pub(super) fn unpack(packed: &[u8]) -> Result<Histogram<u64>, String> {
    const HEADER: usize = 40;
    let expected = || "expected a histogram in V2 format with deflate".to_owned();
    let deflated = packed.get(8..).ok_or_else(expected)?;
    let mut plain = Vec::new();
    let limit = MAX_UNPACKED as u64;
    let inflated = ZlibDecoder::new(deflated).take(limit).read_to_end(&mut plain);
    inflated.map_err(|error| format!("{}: {error}", expected()))?;
    let length = plain.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let length = length.and_then(|length| usize::try_from(length).ok());
    let digits = plain.get(12..16);
    if length.is_none_or(|length| length > plain.len().saturating_sub(HEADER))
        || digits != Some(&3_u32.to_be_bytes())
    {
        return Err(expected());
    }
    let histogram = Deserializer::new().deserialize(&mut &plain[..]);
    histogram.map_err(|error| format!("{}: {error}", expected()))
}
