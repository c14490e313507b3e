//! Two reports side by side.

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

impl Comparison<'_> {
    /// Both, and their ratios, as text of at most 80 columns.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        for (which, report) in [("old", self.old), ("new", self.new)] {
            for generator in &report.generators {
                paragraph(
                    to,
                    "",
                    &format!("{which}: {}: {}", generator.name, generator.about.command_line()),
                );
                paragraph(to, "  ", &generator.what());
                paragraph(to, "  ", &generator.when());
            }
            paragraph(to, "  ", &format!("verdict: {}", report.verdict_line()));
            for warning in &report.warnings {
                paragraph(to, "  ", &format!("warning: {warning}"));
            }
        }
        for series in Series::ALL {
            let (old, new) = (self.old.percentiles(series), self.new.percentiles(series));
            if old.n == 0 && new.n == 0 {
                continue;
            }
            writeln!(to, "\n{:<9}{:>14}{:>14}{:>11}", series.as_str(), "old", "new", "new/old")?;
            row(to, "n", old.n, new.n, |number| Grouped(number).to_string())?;
            if old.n > 0 && new.n > 0 {
                for ((name, old), (_, new)) in old.by_name().into_iter().zip(new.by_name()) {
                    row(to, name, old, new, |nanos| Nanos(nanos).to_string())?;
                }
            }
        }
        writeln!(to)?;
        let (old, new) = (&self.old.record.counts, &self.new.record.counts);
        let number = |number| Grouped(number).to_string();
        let rate = |report: &Report| report.per_second(report.record.counts.answered);
        row(to, "answers/s", rate(self.old), rate(self.new), number)?;
        row(to, "errors", old.errors.total(), new.errors.total(), number)?;
        to.push('\n');
        paragraph(
            to,
            "",
            "One pair of runs shows no significance: how far two runs of the same thing lie apart \
             must be known first. Repeat both, in turn.",
        );
        Ok(())
    }
}

fn row(
    to: &mut String,
    name: &str,
    old: u64,
    new: u64,
    show: impl Fn(u64) -> String,
) -> fmt::Result {
    let ratio = match old {
        0 => "-".to_owned(),
        _ => format!("{:.3}", new as f64 / old as f64),
    };
    writeln!(to, "  {name:<9}{:>12}{:>14}{ratio:>11}", show(old), show(new))
}
