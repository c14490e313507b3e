//! Two reports side by side.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::Report;
use super::figures::{Grouped, Nanos};
use super::text::paragraph;
use crate::load::Series;

/// What was before and what is now.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// What was.
    pub old: &'a Report,
    /// What is.
    pub new: &'a Report,
}

pub(super) const SIGNIFICANCE: &str = "One pair of runs shows no significance: how far two \
    runs of the same thing lie apart must be known first. Repeat both, in turn.";

/// What stands beside each other.
pub(super) const COLUMNS: [&str; 3] = ["old", "new", "new/old"];

/// One figure of both, and its ratio.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) figures: [String; COLUMNS.len()],
}

impl Row {
    fn of(name: &'static str, old: u64, new: u64, show: impl Fn(u64) -> String) -> Self {
        let ratio = match old {
            0 => "-".to_owned(),
            _ => format!("{:.3}", new as f64 / old as f64),
        };
        Self { name, figures: [show(old), show(new), ratio] }
    }
}

impl Comparison<'_> {
    /// Both, and their ratios, as text of at most 80 columns.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        for (which, report) in self.both() {
            for generator in &report.generators {
                let (who, command) = (generator.who(), generator.about.command_line());
                paragraph(to, "", &format!("{which}: {who}: {command}"));
                for line in [generator.what(), generator.when(), generator.where_from()] {
                    paragraph(to, "  ", &line);
                }
            }
            if let Some(line) = report.sum_line() {
                paragraph(to, "", &format!("{which}: {line}."));
            }
            paragraph(to, "  ", &format!("verdict: {}", report.verdict_line()));
            for warning in &report.warnings {
                paragraph(to, "  ", &format!("warning: {warning}"));
            }
        }
        for (group, rows) in self.groups() {
            let [old, new, ratio] = COLUMNS;
            writeln!(to, "\n{group:<11}{old:>12}{new:>14}{ratio:>11}")?;
            for Row { name, figures: [old, new, ratio] } in rows {
                writeln!(to, "  {name:<9}{old:>12}{new:>14}{ratio:>11}")?;
            }
        }
        to.push('\n');
        if let Some(difference) = self.difference() {
            paragraph(to, "", difference);
        }
        paragraph(to, "", SIGNIFICANCE);
        Ok(())
    }

    pub(super) const fn both(&self) -> [(&'static str, &Report); 2] {
        [("old", self.old), ("new", self.new)]
    }

    /// What is compared: the times of each series that either has, and all together.
    pub(super) fn groups(&self) -> Vec<(&'static str, Vec<Row>)> {
        let number = |number| Grouped(number).to_string();
        let mut groups = Vec::new();
        for series in Series::ALL {
            let (old, new) = (self.old.percentiles(series), self.new.percentiles(series));
            if old.n == 0 && new.n == 0 {
                continue;
            }
            let mut rows = vec![Row::of("n", old.n, new.n, number)];
            if old.n > 0 && new.n > 0 {
                let both = old.by_name().into_iter().zip(new.by_name());
                rows.extend(both.map(|((name, old), (_, new))| {
                    Row::of(name, old, new, |nanos| Nanos(nanos).to_string())
                }));
            }
            groups.push((series.as_str(), rows));
        }
        let rate = |report: &Report| report.per_second(report.record.measured.answered);
        let errors = |report: &Report| report.record.counts.errors.total();
        let together = vec![
            Row::of("answers/s", rate(self.old), rate(self.new), number),
            Row::of("errors", errors(self.old), errors(self.new), number),
        ];
        groups.push(("together", together));
        groups
    }

    /// A warning, if the two were told to make another load.
    pub(super) fn difference(&self) -> Option<&'static str> {
        let told = |report: &Report| {
            let setups = report.generators.iter().map(|one| &one.setup);
            let manners: BTreeSet<_> =
                setups.map(|setup| (setup.mac.clone(), setup.spin)).collect();
            (report.plan_in_words(), manners)
        };
        (told(self.old) != told(self.new)).then_some(
            "The two were told to make different loads, so the ratios are not the server's alone.",
        )
    }
}
