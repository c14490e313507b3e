//! Comparison of two sweeps.

use std::fmt::{self, Write};

use super::{Grouped, Nanos, SweepReport};
use crate::load::report::compare::SIGNIFICANCE;
use crate::load::report::text::paragraph;
use crate::load::sweep::Finding;

/// Two sweeps to compare.
#[derive(Clone, Copy, Debug)]
pub struct SweepComparison<'a> {
    /// The baseline.
    pub old: &'a SweepReport,
    /// The sweep to compare with it.
    pub new: &'a SweepReport,
}

impl SweepComparison<'_> {
    /// Formats the rates that both have, and their ratios, as text of at most 80 columns.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        for (which, sweep) in self.both() {
            let command = sweep.generator.program.command_line();
            paragraph(to, "", &format!("{which}: {command}"));
            for line in
                [sweep.what(), sweep.generator.where_from()].into_iter().chain(sweep.remarks())
            {
                paragraph(to, "  ", &line);
            }
        }
        writeln!(to, "\n{:<13}{:>12}{:>14}{:>11}", "p99 at rate/s", "old", "new", "new/old")?;
        for [rate, old, new, ratio] in self.rows() {
            writeln!(to, "  {rate:<11}{old:>12}{new:>14}{ratio:>11}")?;
        }
        to.push('\n');
        if let Some(difference) = self.difference() {
            paragraph(to, "", difference);
        }
        paragraph(to, "", SIGNIFICANCE);
        Ok(())
    }

    pub(in crate::load::report) const fn both(&self) -> [(&'static str, &SweepReport); 2] {
        [("old", self.old), ("new", self.new)]
    }

    /// The p99 at each rate at which both show their server, and the highest rates that hold.
    pub(in crate::load::report) fn rows(&self) -> Vec<[String; 4]> {
        let mut rows = Vec::new();
        for old in self.old.rates.iter().filter(|rate| rate.is_usable()) {
            let same = self.new.rates.iter().find(|rate| rate.rate_per_s == old.rate_per_s);
            let Some(new) = same.filter(|rate| rate.is_usable()) else { continue };
            let [old_ns, new_ns] = [old.times.p99_ns, new.times.p99_ns];
            rows.push([
                Grouped(old.rate_per_s).to_string(),
                Nanos(old_ns).to_string(),
                Nanos(new_ns).to_string(),
                format!("{:.3}", new_ns as f64 / old_ns.max(1) as f64),
            ]);
        }
        if let [Some(old), Some(new)] = [self.old, self.new].map(|sweep| match sweep.finding {
            Some(Finding::Found { rate_per_s, .. }) => Some(rate_per_s),
            _ => None,
        }) {
            let ratio = format!("{:.3}", new as f64 / old as f64);
            let [old, new] = [old, new].map(|rate| Grouped(rate).to_string());
            rows.push(["highest".to_owned(), old, new, ratio]);
        }
        rows
    }

    /// A warning if the two sweeps had different settings.
    pub(in crate::load::report) fn difference(&self) -> Option<&'static str> {
        let settings = |sweep: &SweepReport| {
            let plan = &sweep.generator.plan;
            let kind = (plan.protocol.clone(), plan.mac.clone(), plan.spin, plan.duration);
            (sweep.generator.what_without_target(), kind, sweep.slo.clone())
        };
        (settings(self.old) != settings(self.new))
            .then_some("These are different loads, so the ratios are not due to the server alone.")
    }
}
