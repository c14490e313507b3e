//! Comparison of two reports.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::Report;
use super::text::paragraph;
use super::{Grouped, Nanos};
use crate::load::Series;

/// Two reports to compare.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// The baseline.
    pub old: &'a Report,
    /// The report to compare with it.
    pub new: &'a Report,
}

pub(super) const SIGNIFICANCE: &str = "A single pair of runs cannot show a significant difference. \
    Measure run-to-run variation first: alternate repeated runs of both.";

/// Columns of a comparison.
pub(super) const COLUMNS: [&str; 3] = ["old", "new", "new/old"];

/// A figure of both reports, and its ratio.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) figures: [String; COLUMNS.len()],
}

impl Row {
    fn new(name: &'static str, old: u64, new: u64, show: impl Fn(u64) -> String) -> Self {
        let ratio = match old {
            0 => "-".to_owned(),
            _ => format!("{:.3}", new as f64 / old as f64),
        };
        Self { name, figures: [show(old), show(new), ratio] }
    }
}

impl Comparison<'_> {
    /// Formats both reports and their ratios as text of at most 80 columns.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        for (which, report) in self.both() {
            for generator in &report.generators {
                let (who, command) = (generator.who(), generator.program.command_line());
                paragraph(to, "", &format!("{which}: {who}: {command}"));
                for line in [generator.what(), generator.when(), generator.where_from()] {
                    paragraph(to, "  ", &line);
                }
            }
            if let Some(line) = report.merged_line() {
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

    /// The compared figures: the times of each series that either report has, and the totals.
    pub(super) fn groups(&self) -> Vec<(&'static str, Vec<Row>)> {
        let number = |number| Grouped(number).to_string();
        let mut groups = Vec::new();
        for series in Series::ALL {
            let (old, new) = (self.old.percentiles(series), self.new.percentiles(series));
            if old.n == 0 && new.n == 0 {
                continue;
            }
            let mut rows = vec![Row::new("n", old.n, new.n, number)];
            if old.n > 0 && new.n > 0 {
                let both = old.by_name().into_iter().zip(new.by_name());
                rows.extend(both.map(|((name, old), (_, new))| {
                    Row::new(name, old, new, |nanos| Nanos(nanos).to_string())
                }));
            }
            groups.push((series.as_str(), rows));
        }
        let rate = |report: &Report| report.per_second(report.record.measured.answered);
        let errors = |report: &Report| report.record.counts.errors.total();
        let overall = vec![
            Row::new("answers/s", rate(self.old), rate(self.new), number),
            Row::new("errors", errors(self.old), errors(self.new), number),
        ];
        groups.push(("overall", overall));
        groups
    }

    /// A warning if the two loads had different settings.
    pub(super) fn difference(&self) -> Option<&'static str> {
        let settings = |report: &Report| {
            let plans = report.generators.iter().map(|one| &one.plan);
            let details: BTreeSet<_> =
                plans.map(|plan| (plan.protocol.clone(), plan.mac.clone(), plan.spin)).collect();
            (report.plan_in_words(), details)
        };
        (settings(self.old) != settings(self.new))
            .then_some("These are different loads, so the ratios are not due to the server alone.")
    }
}
