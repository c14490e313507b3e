//! Merging of several logs into one report.

use std::time::Duration;

use super::Nanos;
use super::collector::{DEBUG_BUILD, STOPPED_EARLY};
use super::hlog::{LoadLog, unpack};
use super::verdict::shortfall;
use super::{Generator, Report, Second, Verdict};
use crate::load::{Counts, Pace, Phase, Record, StateCounts};

/// The reason why logs cannot be merged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MergeError {
    /// There is no log.
    #[error("no log to report on")]
    None,
    /// Their times are not comparable.
    #[error("{0} and {1} cannot be merged: mode or model differ")]
    Different(String, String),
    /// A run would be counted twice.
    #[error("{0} and {1} are logs of the same run: give each run once")]
    Same(String, String),
}

/// Merges the logs of several generators. Histograms are added, percentiles are never averaged.
/// Everything recorded in the same second of the wall clock becomes one second.
///
/// # Errors
/// If there is no log, if the times of two are not comparable, or if two are of the same run.
pub fn merge(mut logs: Vec<LoadLog>) -> Result<Report, MergeError> {
    let first = logs.first().ok_or(MergeError::None)?;
    let kind =
        |generator: &Generator| (generator.plan.mode, matches!(generator.plan.pace, Pace::Open(_)));
    if let Some(other) = logs.iter().find(|log| kind(&log.generator) != kind(&first.generator)) {
        let names = [first, other].map(|log| log.generator.name.clone());
        let [one, two] = names;
        return Err(MergeError::Different(one, two));
    }
    for (number, one) in logs.iter().enumerate() {
        if let Some(other) = logs[..number].iter().find(|other| is_same_run(one, other)) {
            let [other, one] = [other, one].map(|log| log.generator.name.clone());
            return Err(MergeError::Same(other, one));
        }
    }
    let mode = first.generator.plan.mode;
    let mut warnings: Vec<String> =
        logs.iter_mut().flat_map(|log| std::mem::take(&mut log.warnings)).collect();
    let mut record = Record::new();
    let mut states = StateCounts::default();
    let mut unreliable: Vec<(&str, String)> = Vec::new();
    for log in &logs {
        record.merge(&log.record);
        add(&mut states, &final_states(&log.seconds));
        let name = &log.generator.name;
        if let Verdict::Unreliable(reason) =
            Verdict::new(&log.record, mode, log.generator.run.as_ref())
        {
            unreliable.push((name, reason));
        }
        if log.generator.program.debug_build {
            warnings.push(format!("{name}: {DEBUG_BUILD}"));
        }
        warnings.extend(shortfall(&log.record).map(|text| format!("{name}: {text}")));
        if log.generator.run.is_some_and(|run| run.stopped_early) {
            warnings.push(format!("{name}: {STOPPED_EARLY}"));
        }
    }
    let (measured, together) = spans(&logs);
    if logs.len() > 1 && together.is_zero() {
        warnings.push(
            "the generators never measured at the same time: their sum is not one load".to_owned(),
        );
    } else if logs.len() > 1 && together < measured.mul_f64(0.9) {
        warnings.push(format!(
            "the generators measured together for only {} of {}: their sum is not one load",
            Nanos::from(together),
            Nanos::from(measured)
        ));
    }
    let verdict = match &unreliable[..] {
        [] if measured.is_zero() => Verdict::ended_during_ramp(),
        [] => Verdict::for_sum(&record, mode),
        [(_, reason)] if logs.len() == 1 => Verdict::Unreliable(reason.clone()),
        [(name, reason)] => Verdict::Unreliable(format!("{name}: {reason}")),
        [(name, reason), others @ ..] => {
            let others: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
            Verdict::Unreliable(format!("{name}: {reason}. Also unreliable: {}", others.join(", ")))
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
        states,
        server: None,
        upgrades: Vec::new(),
        warnings,
    })
}

/// Returns whether two logs are of the same run, even if one was cut off. Two generators with the same
/// command may start in the same millisecond, but never measure the same times.
fn is_same_run(one: &LoadLog, other: &LoadLog) -> bool {
    let identity = |log: &LoadLog| {
        let Generator { program, machine, plan, .. } = &log.generator;
        (program.clone(), machine.clone(), plan.clone())
    };
    let seconds = one.seconds.len().min(other.seconds.len());
    one.base == other.base
        && identity(one) == identity(other)
        && one.seconds[..seconds] == other.seconds[..seconds]
}

/// The time from the first start to the last end of measuring, and the time in which all measured.
fn spans(logs: &[LoadLog]) -> (Duration, Duration) {
    let measured = |log: &LoadLog| {
        let mut seconds = log.seconds.iter().filter(|second| second.phase == Phase::Measure);
        let first = seconds.next()?;
        let last = seconds.next_back().unwrap_or(first);
        // The generator's own duration is exact; a log that was cut off has only its seconds.
        let length = match &log.generator.run {
            Some(run) => run.measured,
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

fn final_states(seconds: &[Second]) -> StateCounts {
    let measured = seconds.iter().rfind(|second| second.phase == Phase::Measure);
    measured.or(seconds.last()).map(|second| second.states).unwrap_or_default()
}

fn add(sum: &mut StateCounts, other: &StateCounts) {
    for (sum, more) in [
        (&mut sum.waiting, other.waiting),
        (&mut sum.connecting, other.connecting),
        (&mut sum.authenticating, other.authenticating),
        (&mut sum.quiet, other.quiet),
        (&mut sum.busy, other.busy),
        (&mut sum.ended, other.ended),
    ] {
        *sum = sum.saturating_add(more);
    }
}

/// Merges seconds by the wall clock, counted from the first start. Seconds that no log has are left
/// out: logs may be a year apart. Unpacks one histogram at a time, because those of an hour would not
/// fit into memory.
fn merged_seconds(logs: &[LoadLog]) -> Vec<Second> {
    let begin = logs.iter().map(|log| log.base).min().unwrap_or_default();
    // An interval belongs to the second in which it starts; half a second allows for clock drift.
    let place = |at: Duration| (at.saturating_sub(begin) + Duration::from_millis(500)).as_secs();
    let mut packed: Vec<_> = logs.iter().flat_map(|log| &log.packed).collect();
    packed.sort_by_key(|(start, _, _)| *start);
    let mut packed = packed.into_iter().peekable();
    let mut rest: Vec<_> =
        logs.iter().map(|log| (log.base, log.seconds.as_slice(), None)).collect();
    let mut seconds = Vec::new();
    let next = |rest: &[(Duration, &[Second], Option<StateCounts>)]| {
        let firsts = rest.iter().filter_map(|(base, left, _)| Some(*base + left.first()?.start));
        firsts.min().map(place)
    };
    while let Some(number) = next(&rest) {
        let mut counts = Counts::default();
        let mut states = StateCounts::default();
        let mut phases = Vec::new();
        for (base, left, latest) in &mut rest {
            while let Some((second, others)) = left.split_first()
                && place(*base + second.start) <= number
            {
                counts.merge(&second.counts);
                phases.push(second.phase);
                *latest = Some(second.states);
                *left = others;
            }
            if let Some(latest) = latest {
                add(&mut states, latest);
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
        let phase = [Phase::Measure, Phase::Ramp, Phase::Prove, Phase::Drain].into_iter();
        let phase =
            phase.into_iter().find(|phase| phases.contains(phase)).unwrap_or(Phase::Measure);
        let start = Duration::from_secs(number);
        seconds.push(Second::new(start, Duration::from_secs(1), phase, states, &record));
    }
    seconds
}
