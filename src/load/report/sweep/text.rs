//! A sweep as text.

use std::fmt::{self, Write};

use super::{Grouped, Nanos, RateReport, SweepReport};
use crate::load::report::text::paragraph;
use crate::load::sweep::{Bound, Fate, Finding, Standing};

impl SweepReport {
    /// The report as text of at most 80 columns, without colors.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        let generator = &self.generator;
        paragraph(to, "", &generator.program.command_line());
        let started = format!("started {}", generator.program.began_utc());
        for line in [self.what(), started, generator.where_from()] {
            paragraph(to, "  ", &line);
        }
        writeln!(
            to,
            "\n{:>10}{:>11}{:>9}{:>9}  {:<20}{:>8}",
            "rate/s", "answered/s", "p50", "p99", "p99 of each window", "within"
        )?;
        for rate in &self.rates {
            let row = self.row(rate);
            let [due, answered, p50, p99, spread, within, standing] = &row;
            let line = format!(
                "{due:>10}{answered:>11}{p50:>9}{p99:>9}  {spread:<20}{within:>8}  {standing}"
            );
            writeln!(to, "{}", line.trim_end())?;
        }
        to.push('\n');
        for line in self.remarks() {
            paragraph(to, "", &line);
        }
        Ok(())
    }

    /// What was measured.
    pub(in crate::load::report) fn what(&self) -> String {
        let rates = &self.extent.rates_per_s;
        let [low, high] =
            [rates.first(), rates.last()].map(|rate| Grouped(rate.copied().unwrap_or(0)));
        let plan = self.generator.what_at(&format!("{low} to {high}"));
        format!(
            "{plan}; each rate {} for {}",
            times(self.extent.repeat),
            Nanos::from(self.generator.plan.duration)
        )
    }

    /// The cells of a rate's row.
    pub(in crate::load::report) fn row(&self, rate: &RateReport) -> [String; 7] {
        let time = |nanos| match rate.is_usable() {
            true => Nanos(nanos).to_string(),
            false => "-".to_owned(),
        };
        let spread = rate.spread_p99_ns().filter(|_| rate.is_usable());
        let (within, due) = rate.within();
        let is_judged = self.slo.is_some() && due > 0;
        [
            Grouped(rate.rate_per_s).to_string(),
            if due > 0 { Grouped(rate.answered_per_s).to_string() } else { "-".to_owned() },
            time(rate.times.p50_ns),
            time(rate.times.p99_ns),
            spread.map_or_else(String::new, |(low, high)| {
                format!("{} to {}", Nanos(low), Nanos(high))
            }),
            if is_judged { share(within, due) } else { String::new() },
            standing(rate.standing).to_owned(),
        ]
    }

    /// The findings, exclusions and warnings, a sentence each.
    pub(in crate::load::report) fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> =
            self.warnings.iter().map(|warning| format!("Warning: {warning}.")).collect();
        let with = |wanted| self.rates.iter().filter(move |rate| rate.standing == wanted);
        let late: Vec<_> = with(Standing::Late).collect();
        if let [first, ..] = late[..] {
            let window = first.windows.iter().find(|window| window.fate == Fate::Late);
            remarks.push(format!(
                "Excluded, as the generator was late: {}. At {}/s: {}.",
                listed(late.iter().map(|rate| rate.rate_per_s)),
                Grouped(first.rate_per_s),
                window.and_then(|window| window.reason.as_deref()).unwrap_or_default()
            ));
        }
        for rate in with(Standing::Overloaded) {
            let cut = rate.windows.iter().filter(|window| window.cut_short).count();
            remarks.push(format!(
                "Above capacity: {}/s. The backlog grows without bound there, so latencies would \
                 describe the length of the window; {cut} of {} windows were cut short.",
                Grouped(rate.rate_per_s),
                rate.windows.len()
            ));
        }
        if !self.skipped_per_s.is_empty() {
            remarks.push(format!("Not measured: {}.", listed(self.skipped_per_s.iter().copied())));
        }
        remarks.extend(self.knee_per_s.map(|rate| {
            format!("Knee: {}/s has the most throughput for its mean latency.", Grouped(rate))
        }));
        remarks.extend(self.answer());
        remarks
    }

    /// The highest rate that holds the objective, in a sentence.
    fn answer(&self) -> Option<String> {
        let (slo, finding) = (&self.slo.as_ref()?.text, self.finding?);
        Some(match finding {
            Finding::Found { rate_per_s, bound, held, of, at_least_ppm } => {
                let bound = match bound {
                    Bound::Failed(rate) => format!("{}/s does not", Grouped(rate)),
                    Bound::GeneratorLate(rate) => {
                        format!(
                            "at {}/s the generator was late, so the server may do more",
                            Grouped(rate)
                        )
                    }
                    Bound::EndOfSweep => "no higher rate was asked for".to_owned(),
                };
                format!(
                    "Highest rate that holds {slo}: {}/s; {bound}. {held} of {of} longer windows held: \
                     with 95 % confidence at least {:.0} % of such windows do.",
                    Grouped(rate_per_s),
                    f64::from(at_least_ppm / 10_000)
                )
            }
            Finding::NotReproduced { rate_per_s } => format!(
                "No rate holds {slo} reproducibly: each one that did, down to {}/s, failed in longer \
                 windows.",
                Grouped(rate_per_s)
            ),
            Finding::NoRate { rate_per_s } => {
                format!("No rate holds {slo}: {}/s does not.", Grouped(rate_per_s))
            }
            Finding::Unknown => format!(
                "Unknown which rate holds {slo}: the generator was late where it might. Give it a CPU \
                 of its own (taskset)."
            ),
            Finding::Unfinished => {
                format!("Unknown which rate holds {slo}: the sweep was stopped early.")
            }
        })
    }
}

fn listed(rates: impl Iterator<Item = u64>) -> String {
    rates.map(|rate| format!("{}/s", Grouped(rate))).collect::<Vec<_>>().join(", ")
}

/// `once`, `3 times`.
fn times(number: u32) -> String {
    if number == 1 { "once".to_owned() } else { format!("{number} times") }
}

/// A share in percent, never rounded up to one that was not reached.
fn share(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

const fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Measured => "",
        Standing::Holds => "holds",
        Standing::Fails => "fails",
        Standing::Overloaded => "overload",
        Standing::Late => "excluded",
        Standing::Refuted => "refuted",
    }
}
