//! A report as text.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::time::Duration;

use super::figures::{Percentiles, QUANTILES};
use super::{Bytes, Grouped, Nanos};
use super::{Generator, PlanInfo, Report, Visible};
use crate::load::{Mode, Pace, Series, SizeShare};

/// Maximum line length.
const WIDTH: usize = 80;

impl Report {
    /// The report as text of at most 80 columns, without colors.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        for generator in &self.generators {
            let command = generator.program.command_line();
            match self.is_merged() {
                true => paragraph(to, "", &format!("{}: {command}", generator.who())),
                false => paragraph(to, "", &command),
            }
            for line in [generator.what(), generator.when(), generator.where_from()] {
                paragraph(to, "  ", &line);
            }
        }
        to.push('\n');
        if let Some(line) = self.merged_line() {
            paragraph(to, "", &format!("{line}."));
            to.push('\n');
        }
        table(to, self.recorded_series())?;
        to.push('\n');
        self.write_rates(to)?;
        to.push('\n');
        if let Some(line) = self.server_line() {
            paragraph(to, "", &format!("{line}."));
        }
        if let Some(line) = self.upgrades_line() {
            paragraph(to, "", &format!("{line}."));
        }
        if let Some(explanation) = self.explanation() {
            paragraph(to, "", &explanation);
        }
        for warning in &self.warnings {
            paragraph(to, "", &format!("Warning: {warning}."));
        }
        paragraph(to, "", &format!("Verdict: {}.", self.verdict_line()));
        Ok(())
    }

    fn write_rates(&self, to: &mut String) -> fmt::Result {
        let (counts, measured) = (&self.record.counts, &self.record.measured);
        let (sent, received) = self.byte_rates();
        let noun = if self.mode() == Mode::Connect { "cycles" } else { "messages" };
        if self.mode() != Mode::Idle {
            for (what, number, in_time) in [
                ("due", counts.due, measured.due),
                ("sent", counts.sent, measured.sent),
                ("answered", counts.answered, measured.answered),
            ] {
                writeln!(
                    to,
                    "{what:<9}{:>13} {noun}{:>13}/s",
                    Grouped(number),
                    Grouped(self.per_second(in_time))
                )?;
            }
            let afterwards = counts.answered - measured.answered;
            if afterwards > 0 {
                let text = format!(
                    "{} arrived after the measurement and {} not included in the rates",
                    counted(afterwards, "answer"),
                    if afterwards == 1 { "is" } else { "are" },
                );
                paragraph(to, "", &text);
            }
        }
        if self.mode() == Mode::Idle && counts.due > 0 {
            writeln!(
                to,
                "proof    {} of {} connections answered at the end",
                Grouped(counts.answered),
                Grouped(counts.authenticated)
            )?;
        }
        writeln!(to, "bytes    {}/s sent, {}/s received", Bytes(sent), Bytes(received))?;
        let states = self.states.by_name().into_iter().filter(|(_, number)| *number > 0);
        let states: Vec<String> =
            states.map(|(name, number)| format!("{} {name}", Grouped(number as u64))).collect();
        if !states.is_empty() {
            writeln!(to, "states at the end of the measurement: {}", states.join(", "))?;
        }
        let errors: Vec<String> = counts
            .errors
            .occurred()
            .map(|(kind, number)| format!("{} {}", Grouped(number), kind.as_str()))
            .collect();
        match errors.is_empty() {
            true => writeln!(to, "errors   none"),
            false => {
                let total = Grouped(counts.errors.total());
                paragraph(to, "", &format!("errors   {total}: {}", errors.join(", ")));
                Ok(())
            }
        }
    }
}

impl Generator {
    /// Name of its log and its host, to distinguish several generators.
    pub fn who(&self) -> String {
        match (self.name.as_str(), self.machine.host.as_deref()) {
            (name, None) => name.to_owned(),
            ("", Some(host)) => host.to_owned(),
            (name, Some(host)) => format!("{name} on {host}"),
        }
    }

    /// Its plan in words.
    pub fn what(&self) -> String {
        self.described(&plan_in_words(&[&self.plan]))
    }

    /// Its plan in words, with these rates.
    pub(super) fn what_at(&self, rates: &str) -> String {
        self.described(&in_words(&[&self.plan], Some(rates.to_owned())))
    }

    /// Its plan in words, without its rate and the server.
    pub(super) fn what_without_target(&self) -> String {
        in_words(&[&self.plan], Some(String::new()))
    }

    fn described(&self, words: &str) -> String {
        let plan = &self.plan;
        let sources = match plan.sources.len() {
            0 => String::new(),
            1 => format!(" from {}", plan.sources[0]),
            number => format!(" from {number} addresses"),
        };
        let spin = match plan.spin.is_zero() {
            true => String::new(),
            false => format!("; spinning for {} after each event", Nanos::from(plan.spin)),
        };
        let how = match plan.protocol.as_str() {
            "plain" => "plain, without authentication".to_owned(),
            "tutorial" => format!("{} with key {}", plan.mac, plan.key),
            protocol => format!("{protocol}, {} with key {}", plan.mac, plan.key),
        };
        format!("{words}; to {}{sources}, {how}{spin}", plan.target)
    }

    /// Start and durations of its run.
    pub fn when(&self) -> String {
        let started = format!("started {}", self.program.began_utc());
        match &self.run {
            None => format!("{started}; its log was cut off"),
            Some(run) => format!(
                "{started}; measured {}{} after a ramp of {}",
                Nanos::from(run.measured),
                if run.stopped_early { ", stopped early," } else { "" },
                Nanos::from(run.ramp)
            ),
        }
    }

    /// Its program and its machine.
    pub(super) fn where_from(&self) -> String {
        format!("{}; {}", self.program.program(), self.machine.line())
    }
}

impl Report {
    /// For several generators, the sum of their plans and the time in which all measured.
    pub fn merged_line(&self) -> Option<String> {
        let overlap = self.overlap?;
        let targets = self.generators.iter().map(|one| one.plan.target.to_string());
        let mut targets: Vec<String> = targets.collect();
        targets.sort_unstable();
        targets.dedup();
        Some(format!(
            "{} generators merged; {}; to {}. They measured together for {} of {}",
            self.generators.len(),
            self.plan_in_words(),
            targets.join(" and "),
            Nanos::from(overlap),
            Nanos::from(self.measured),
        ))
    }

    /// The sum of the plans in words.
    pub(super) fn plan_in_words(&self) -> String {
        plan_in_words(&self.generators.iter().map(|one| &one.plan).collect::<Vec<_>>())
    }
}

/// A plan in words, or the sum of several: counts and rates are added. All have the same mode and
/// model.
fn plan_in_words(plans: &[&PlanInfo]) -> String {
    let rates = plans.iter().map(|plan| match plan.pace {
        Pace::Open(rate) => Some(rate.get()),
        Pace::Closed => None,
    });
    let rates: Option<Vec<u64>> = rates.collect();
    let rate = rates.map(|rates| rates.into_iter().fold(0, u64::saturating_add));
    in_words(plans, rate.map(|rate| Grouped(rate).to_string()))
}

fn in_words(plans: &[&PlanInfo], rate: Option<String>) -> String {
    let sum = |part: fn(&PlanInfo) -> usize| {
        let parts = plans.iter().map(|plan| part(plan) as u64);
        Grouped(parts.fold(0, u64::saturating_add))
    };
    let range = |part: fn(&PlanInfo) -> usize| Range::new(plans.iter().map(|plan| part(plan)));
    let (connections, active) = (sum(|plan| plan.connections), sum(|plan| plan.active));
    let noun = if connections.0 == 1 { "connection" } else { "connections" };
    let (size, in_flight) = (sizes_in_words(plans), range(|plan| plan.in_flight));
    let steps = format!("(connect, authenticate, one echo of {size}, close)");
    match (plans[0].mode, rate) {
        (Mode::Echo, Some(rate)) => format!(
            "open model: {rate} messages/s of {size} over {active} of {connections} {noun}, \
             at most {in_flight} in flight on each",
        ),
        (Mode::Echo, None) => format!(
            "closed model: messages of {size} {pause} over {active} of {connections} {noun}, {in_flight} \
             in flight on each",
            pause = pause_in_words(plans),
        ),
        (Mode::Connect, Some(rate)) => {
            format!("open model: {rate} cycles/s {steps}, at most {connections} at a time")
        }
        (Mode::Connect, None) => format!("closed model: cycles {steps}, {connections} at a time"),
        (Mode::Idle, _) => {
            format!(
                "{connections} idle {noun}: authenticate, stay silent, echo once more at the end"
            )
        }
    }
}

/// `64 bytes`, `64 to 1,024 bytes`, or the sizes with their shares.
fn sizes_in_words(plans: &[&PlanInfo]) -> String {
    if plans.iter().all(|plan| plan.sizes.is_empty()) {
        let size = Range::new(plans.iter().map(|plan| plan.size));
        return format!("{size} {}", if size == Range(1, 1) { "byte" } else { "bytes" });
    }
    let each = plans.iter().map(|plan| match &plan.sizes[..] {
        [] => format!("{} bytes", Grouped(plan.size as u64)),
        shares => {
            let share = |share: &SizeShare| {
                let percent = f64::from(share.share_ppm) / 10_000.0;
                format!("{} ({percent} %)", Grouped(share.bytes as u64))
            };
            format!("{} bytes", shares.iter().map(share).collect::<Vec<_>>().join(" or "))
        }
    });
    let different: BTreeSet<String> = each.collect();
    different.into_iter().collect::<Vec<_>>().join(" and ")
}

/// When the next message follows an answer, in the closed model.
fn pause_in_words(plans: &[&PlanInfo]) -> String {
    let pauses: BTreeSet<Duration> = plans.iter().map(|plan| plan.think).collect();
    match pauses.iter().all(Duration::is_zero) {
        true => "as fast as they are answered".to_owned(),
        false => {
            let each: Vec<String> =
                pauses.into_iter().map(|pause| Nanos::from(pause).to_string()).collect();
            format!("{} after each answer", each.join(" or "))
        }
    }
}

/// `1 answer`, `2 answers`.
fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", Grouped(number), if number == 1 { "" } else { "s" })
}

/// The smallest and the largest of some numbers, written as one if they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range(pub(super) usize, pub(super) usize);

impl Range {
    pub(super) fn new(numbers: impl Iterator<Item = usize>) -> Self {
        numbers.fold(Self(usize::MAX, 0), |Self(least, most), number| {
            Self(least.min(number), most.max(number))
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, most] = [self.0, self.1].map(|number| Grouped(number as u64));
        match least == most {
            true => write!(f, "{least}"),
            false => write!(f, "{least} to {most}"),
        }
    }
}

/// One line per series: the number of values, and the percentiles.
pub(super) fn table(
    to: &mut String,
    series: impl Iterator<Item = (Series, Percentiles)>,
) -> fmt::Result {
    write!(to, "{:<9}{:>11}", "", "n")?;
    for name in QUANTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
        write!(to, "{name:>9}")?;
    }
    to.push('\n');
    for (series, percentiles) in series {
        write!(to, "{:<9}{:>11}", series.as_str(), Grouped(percentiles.n))?;
        for (_, nanos) in percentiles.by_name() {
            write!(to, "{:>9}", Nanos(nanos))?;
        }
        to.push('\n');
    }
    Ok(())
}

/// Wraps a text at its spaces, with `indent` before each line and two more spaces before all but the
/// first. Escapes control characters.
pub(super) fn paragraph(to: &mut String, indent: &str, text: &str) {
    let text = Visible(text).to_string();
    let mut column = 0;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column == 0 {
            to.push_str(indent);
            column = indent.len();
        } else if column + 1 + width > WIDTH {
            to.push('\n');
            to.push_str(indent);
            to.push_str("  ");
            column = indent.len() + 2;
        } else {
            to.push(' ');
            column += 1;
        }
        to.push_str(word);
        column += width;
    }
    to.push('\n');
}
