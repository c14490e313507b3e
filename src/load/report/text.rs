//! A report for the terminal.

use std::fmt::{self, Write};
use std::time::Duration;

use super::figures::{Bytes, Grouped, Nanos, Percentiles, QUANTILES};
use super::{Generator, Report};
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
            paragraph(to, "", &generator.about.command_line());
            paragraph(to, "  ", &generator.what());
            paragraph(to, "  ", &generator.when());
            paragraph(
                to,
                "  ",
                &format!("{}; {}", generator.about.program(), generator.machine.line()),
            );
        }
        to.push('\n');
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
        if let Some(overlap) = self.overlap {
            let (overlap, measured) = (length(overlap), length(self.measured));
            let number = self.generators.len();
            let sum = format!(
                "{number} generators, added up: they measured together for {overlap} of {measured}."
            );
            paragraph(to, "", &sum);
        }
        for warning in &self.warnings {
            paragraph(to, "", &format!("Warning: {warning}."));
        }
        paragraph(to, "", &format!("Verdict: {}.", self.verdict_line()));
        Ok(())
    }

    fn write_rates(&self, to: &mut String) -> fmt::Result {
        let counts = &self.record.counts;
        let (sent, received) = self.byte_rates();
        let noun = if self.mode() == Mode::Connect { "cycles" } else { "messages" };
        if self.mode() != Mode::Idle {
            for (what, number) in
                [("due", counts.due), ("sent", counts.sent), ("answered", counts.answered)]
            {
                writeln!(
                    to,
                    "{what:<9}{:>13} {noun}{:>13}/s",
                    Grouped(number),
                    Grouped(self.per_second(number))
                )?;
            }
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
    /// What it did, in words.
    pub fn what(&self) -> String {
        let setup = &self.setup;
        let connections = Grouped(setup.connections as u64);
        let size = setup.size;
        let in_flight = Grouped(setup.in_flight as u64);
        let what = match (setup.mode, setup.pace) {
            (Mode::Echo, Pace::Open(rate)) => format!(
                "open model: {} messages of {size} bytes a second over {} of {connections} \
                 connections, at most {in_flight} in flight on each",
                Grouped(rate.get()),
                Grouped(setup.active as u64),
            ),
            (Mode::Echo, Pace::Closed) => format!(
                "closed model: messages of {size} bytes as fast as they are answered over {} of \
                 {connections} connections, {in_flight} in flight on each",
                Grouped(setup.active as u64),
            ),
            (Mode::Connect, Pace::Open(rate)) => format!(
                "open model: {} cycles (connect, authenticate, one echo of {size} bytes, close) a \
                 second, at most {connections} at once",
                Grouped(rate.get()),
            ),
            (Mode::Connect, Pace::Closed) => format!(
                "closed model: cycles (connect, authenticate, one echo of {size} bytes, close), \
                 {connections} at once",
            ),
            (Mode::Idle, _) => {
                format!("{connections} connections that authenticate and then are silent")
            }
        };
        let sources = match setup.sources.len() {
            0 => String::new(),
            1 => format!(" from {}", setup.sources[0]),
            number => format!(" from {number} addresses"),
        };
        let spin = match setup.spin.is_zero() {
            true => String::new(),
            false => format!("; without sleep for {} after each event", length(setup.spin)),
        };
        format!("{what}; to {}{sources}, {} with key {}{spin}", setup.target, setup.mac, setup.key)
    }

    /// When it ran, and for how long.
    pub fn when(&self) -> String {
        let began = format!("began {}", self.about.began_utc());
        match &self.ran {
            None => format!("{began}; its log was cut off"),
            Some(ran) => format!(
                "{began}; measured {}{} after a ramp of {}",
                length(ran.measured),
                if ran.stopped_early { ", stopped early," } else { "" },
                length(ran.ramp)
            ),
        }
    }
}

pub(super) fn length(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
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
/// all but the first.
pub(super) fn paragraph(to: &mut String, indent: &str, text: &str) {
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
