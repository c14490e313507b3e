//! Several logs as one report.

use std::time::Duration;

use super::hlog::{LoadLog, unpack};
use super::{Generator, Report, Second, Verdict};
use crate::load::{Counts, Pace, Part, Record, Standing};

/// Why logs make no common report.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MergeError {
    /// There is none.
    #[error("there is no log to report on")]
    None,
    /// Their times do not mean the same.
    #[error("{0} and {1} cannot be added up: their mode or model is not the same")]
    Different(String, String),
}

/// Adds up what several generators recorded. Histograms are added, percentiles never averaged; what
/// was recorded in the same second of the wall clock makes one second.
///
/// # Errors
/// When there is no log, or when the times of two do not mean the same.
pub fn merge(mut logs: Vec<LoadLog>) -> Result<Report, MergeError> {
    let first = logs.first().ok_or(MergeError::None)?;
    let kind = |generator: &Generator| {
        (generator.setup.mode, matches!(generator.setup.pace, Pace::Open(_)))
    };
    if let Some(other) = logs.iter().find(|log| kind(&log.generator) != kind(&first.generator)) {
        let names = [first, other].map(|log| log.generator.name.clone());
        let [one, two] = names;
        return Err(MergeError::Different(one, two));
    }
    let mode = first.generator.setup.mode;
    let mut warnings: Vec<String> =
        logs.iter_mut().flat_map(|log| std::mem::take(&mut log.warnings)).collect();
    let mut record = Record::new();
    let mut standing = Standing::default();
    let mut distrust: Vec<(&str, String)> = Vec::new();
    for log in &logs {
        record.merge(&log.record);
        add(&mut standing, &standing_at_the_end(&log.seconds));
        let name = &log.generator.name;
        if let Verdict::Unreliable(reason) =
            Verdict::of(&log.record, mode, log.generator.ran.as_ref())
        {
            distrust.push((name, reason));
        }
        if log.generator.about.debug_build {
            warnings.push(format!("{name}: a debug build made this load: it is many times slower"));
        }
        if log.generator.ran.is_some_and(|ran| ran.stopped_early) {
            warnings.push(format!("{name}: the run was ended before its time"));
        }
    }
    let (measured, together) = spans(&logs);
    if logs.len() > 1 && together < measured.mul_f64(0.9) {
        warnings.push(format!(
            "the generators measured together for only {:.1} s of {:.1} s: what is added up is not \
             one load",
            together.as_secs_f64(),
            measured.as_secs_f64()
        ));
    }
    let verdict = match &distrust[..] {
        [] if measured.is_zero() => Verdict::ended_in_the_ramp(),
        [] => Verdict::of_sum(&record, mode),
        [(_, reason)] if logs.len() == 1 => Verdict::Unreliable(reason.clone()),
        [(name, reason)] => Verdict::Unreliable(format!("{name}: {reason}")),
        [(name, reason), others @ ..] => {
            let others: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
            Verdict::Unreliable(format!(
                "{name}: {reason}. Unreliable as well: {}",
                others.join(", ")
            ))
        }
    };
    let seconds = match logs.len() {
        1 => std::mem::take(&mut logs[0].seconds),
        _ => merged_seconds(&logs),
    };
    Ok(Report {
        verdict,
        overlap: (logs.len() > 1).then_some(together),
        generators: logs.into_iter().map(|log| log.generator).collect(),
        record,
        seconds,
        measured,
        standing,
        server: None,
        warnings,
    })
}

/// From when the first began to measure until the last ended, and for how long all did.
fn spans(logs: &[LoadLog]) -> (Duration, Duration) {
    let measured = |log: &LoadLog| {
        let mut seconds = log.seconds.iter().filter(|second| second.part == Part::Measure);
        let first = seconds.next()?;
        let last = seconds.next_back().unwrap_or(first);
        // What the generator says of itself is exact; a log that was cut off has its seconds.
        let length = match &log.generator.ran {
            Some(ran) => ran.measured,
            None => last.start + last.length - first.start,
        };
        Some((log.base + first.start, log.base + first.start + length))
    };
    let spans: Option<Vec<_>> = logs.iter().map(measured).collect();
    let Some(spans) = spans else {
        let longest = logs.iter().filter_map(measured).map(|(from, to)| to - from).max();
        return (longest.unwrap_or_default(), Duration::ZERO);
    };
    let begins = || spans.iter().map(|(from, _)| *from);
    let ends = || spans.iter().map(|(_, to)| *to);
    let edge = |time: Option<Duration>| time.unwrap_or_default();
    (
        edge(ends().max()).saturating_sub(edge(begins().min())),
        edge(ends().min()).saturating_sub(edge(begins().max())),
    )
}

fn standing_at_the_end(seconds: &[Second]) -> Standing {
    let measured = seconds.iter().rfind(|second| second.part == Part::Measure);
    measured.or(seconds.last()).map(|second| second.standing).unwrap_or_default()
}

fn add(sum: &mut Standing, other: &Standing) {
    sum.waiting += other.waiting;
    sum.connecting += other.connecting;
    sum.authenticating += other.authenticating;
    sum.quiet += other.quiet;
    sum.busy += other.busy;
    sum.ended += other.ended;
}

/// One second for each of the wall clock's, counted from the first beginning. One histogram at a
/// time is unpacked: all of an hour would not fit.
fn merged_seconds(logs: &[LoadLog]) -> Vec<Second> {
    let begin = logs.iter().map(|log| log.base).min().unwrap_or_default();
    // An interval belongs to the second in which it begins; half of one forgives a clock that
    // drifts.
    let place = |at: Duration| {
        let at = at.saturating_sub(begin) + Duration::from_millis(500);
        usize::try_from(at.as_secs()).unwrap_or(usize::MAX)
    };
    let mut packed: Vec<_> = logs.iter().flat_map(|log| &log.packed).collect();
    packed.sort_by_key(|(start, _, _)| *start);
    let mut packed = packed.into_iter().peekable();
    let mut rest: Vec<_> =
        logs.iter().map(|log| (log.base, log.seconds.as_slice(), None)).collect();
    let mut seconds = Vec::new();
    for number in 0.. {
        if rest.iter().all(|(_, seconds, _)| seconds.is_empty()) {
            break;
        }
        let mut counts = Counts::default();
        let mut standing = Standing::default();
        let mut parts = Vec::new();
        for (base, left, latest) in &mut rest {
            while let Some((second, others)) = left.split_first()
                && place(*base + second.start) <= number
            {
                counts.merge(&second.counts);
                parts.push(second.part);
                *latest = Some(second.standing);
                *left = others;
            }
            if let Some(latest) = latest {
                add(&mut standing, latest);
            }
        }
        let mut record = Record::new();
        while let Some((_, series, packed)) =
            packed.next_if(|(start, _, _)| place(*start) <= number)
        {
            let histogram = unpack(packed).expect("it was unpacked when the log was read");
            record.series_mut(*series).add(&histogram).expect("it was added when it was read");
        }
        record.counts = counts;
        let part = [Part::Measure, Part::Ramp, Part::Prove, Part::Drain].into_iter();
        let part = part.into_iter().find(|part| parts.contains(part)).unwrap_or(Part::Measure);
        let start = Duration::from_secs(number as u64);
        seconds.push(Second::new(start, Duration::from_secs(1), part, standing, &record));
    }
    seconds
}
