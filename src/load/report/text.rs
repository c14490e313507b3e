//! A report for the terminal.

use std::fmt::{self, Write};

use super::figures::{Bytes, Grouped, Nanos, Percentiles, QUANTILES};
use super::{Generator, Report, Setup, Visible};
use crate::load::{Mode, Pace, Series};

/// No line is longer.
const WIDTH: usize = 80;

impl Report {
    /// The report as text of at most 80 columns, without colours.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        for generator in &self.generators {
            let command = generator.about.command_line();
            match self.is_sum() {
                true => paragraph(to, "", &format!("{}: {command}", generator.who())),
                false => paragraph(to, "", &command),
            }
            for line in [generator.what(), generator.when(), generator.where_from()] {
                paragraph(to, "  ", &line);
            }
        }
        to.push('\n');
        if let Some(line) = self.sum_line() {
            paragraph(to, "", &format!("{line}."));
            to.push('\n');
        }
        table(to, self.phases())?;
        to.push('\n');
        self.write_rates(to)?;
        to.push('\n');
        if let Some(line) = self.server_line() {
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
                    "{} of the answers came after the measurement had ended and are in no rate",
                    Grouped(afterwards)
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
        let standing = self.standing.by_name().into_iter().filter(|(_, number)| *number > 0);
        let standing: Vec<String> =
            standing.map(|(name, number)| format!("{} {name}", Grouped(number as u64))).collect();
        if !standing.is_empty() {
            writeln!(to, "at the end of measuring: {}", standing.join(", "))?;
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
    /// Which of several it is: its log's name, and its host.
    pub fn who(&self) -> String {
        match (self.name.as_str(), self.machine.host.as_deref()) {
            (name, None) => name.to_owned(),
            ("", Some(host)) => host.to_owned(),
            (name, Some(host)) => format!("{name} on {host}"),
        }
    }

    /// What it did, in words.
    pub fn what(&self) -> String {
        let setup = &self.setup;
        let sources = match setup.sources.len() {
            0 => String::new(),
            1 => format!(" from {}", setup.sources[0]),
            number => format!(" from {number} addresses"),
        };
        let spin = match setup.spin.is_zero() {
            true => String::new(),
            false => format!("; without sleep for {} after each event", Nanos::from(setup.spin)),
        };
        let plan = plan_in_words(&[setup]);
        format!("{plan}; to {}{sources}, {} with key {}{spin}", setup.target, setup.mac, setup.key)
    }

    /// When it ran, and for how long.
    pub fn when(&self) -> String {
        let began = format!("began {}", self.about.began_utc());
        match &self.ran {
            None => format!("{began}; its log was cut off"),
            Some(ran) => format!(
                "{began}; measured {}{} after a ramp of {}",
                Nanos::from(ran.measured),
                if ran.stopped_early { ", stopped early," } else { "" },
                Nanos::from(ran.ramp)
            ),
        }
    }

    /// What it was, and on what it ran.
    pub(super) fn where_from(&self) -> String {
        format!("{}; {}", self.about.program(), self.machine.line())
    }
}

impl Report {
    /// Of several generators, the sum of their plans, and for how long they measured together.
    pub fn sum_line(&self) -> Option<String> {
        let overlap = self.overlap?;
        let targets = self.generators.iter().map(|one| one.setup.target.to_string());
        let mut targets: Vec<String> = targets.collect();
        targets.sort_unstable();
        targets.dedup();
        Some(format!(
            "{} generators, added up; {}; to {}. They measured together for {} of {}",
            self.generators.len(),
            self.plan_in_words(),
            targets.join(" and "),
            Nanos::from(overlap),
            Nanos::from(self.measured),
        ))
    }

    /// What the generators were to do, together.
    pub(super) fn plan_in_words(&self) -> String {
        plan_in_words(&self.generators.iter().map(|one| &one.setup).collect::<Vec<_>>())
    }
}

/// What one generator was to do, or several together: numbers and rates are added. All have the
/// same mode and model.
fn plan_in_words(setups: &[&Setup]) -> String {
    let sum = |part: fn(&Setup) -> usize| {
        let parts = setups.iter().map(|setup| part(setup) as u64);
        Grouped(parts.fold(0, u64::saturating_add))
    };
    let range = |part: fn(&Setup) -> usize| Range::of(setups.iter().map(|setup| part(setup)));
    let rates = setups.iter().map(|setup| match setup.pace {
        Pace::Open(rate) => Some(rate.get()),
        Pace::Closed => None,
    });
    let rates: Option<Vec<u64>> = rates.collect();
    let rate = rates.map(|rates| rates.into_iter().fold(0, u64::saturating_add));
    let (connections, active) = (sum(|setup| setup.connections), sum(|setup| setup.active));
    let (size, in_flight) = (range(|setup| setup.size), range(|setup| setup.in_flight));
    let cycle = format!("cycles (connect, authenticate, one echo of {size} bytes, close)");
    match (setups[0].mode, rate.map(Grouped)) {
        (Mode::Echo, Some(rate)) => format!(
            "open model: {rate} messages of {size} bytes a second over {active} of {connections} \
             connections, at most {in_flight} in flight on each",
        ),
        (Mode::Echo, None) => format!(
            "closed model: messages of {size} bytes as fast as they are answered over {active} of \
             {connections} connections, {in_flight} in flight on each",
        ),
        (Mode::Connect, Some(rate)) => {
            format!("open model: {rate} {cycle} a second, at most {connections} at once")
        }
        (Mode::Connect, None) => format!("closed model: {cycle}, {connections} at once"),
        (Mode::Idle, _) => {
            format!(
                "{connections} connections that authenticate, are silent, and echo once more at the end"
            )
        }
    }
}

/// The least and the most of some numbers, written as one if they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range(pub(super) usize, pub(super) usize);

impl Range {
    pub(super) fn of(numbers: impl Iterator<Item = usize>) -> Self {
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

/// One line for each phase: how many, and the percentiles.
pub(super) fn table(
    to: &mut String,
    phases: impl Iterator<Item = (Series, Percentiles)>,
) -> fmt::Result {
    write!(to, "{:<9}{:>11}", "", "n")?;
    for name in QUANTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
        write!(to, "{name:>9}")?;
    }
    to.push('\n');
    for (series, percentiles) in phases {
        write!(to, "{:<9}{:>11}", series.as_str(), Grouped(percentiles.n))?;
        for (_, nanos) in percentiles.by_name() {
            write!(to, "{:>9}", Nanos(nanos))?;
        }
        to.push('\n');
    }
    Ok(())
}

/// A text broken into lines at its spaces, with `indent` before each and two spaces more before
/// all but the first. Whatever came from outside is made visible.
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
