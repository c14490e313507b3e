//! Comparison of two estimates of one benchmark.

use std::collections::{BTreeMap, BTreeSet};

use crate::estimates::Estimate;

/// Change of a benchmark between two baselines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Slower: the intervals are disjoint and the estimates differ by more than the noise.
    Slower,
    /// Faster, in the same sense.
    Faster,
    /// Any two times in the intervals differ by at most the noise; or the intervals are disjoint and
    /// the estimates differ by at most the noise.
    Same,
    /// The intervals overlap and allow a change above the noise: measure for longer.
    Inconclusive,
    /// Missing in the new baseline.
    OnlyOld,
    /// Missing in the old baseline.
    OnlyNew,
}

/// One benchmark, in both baselines or in one.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) old: Option<Estimate>,
    pub(crate) new: Option<Estimate>,
    pub(crate) change: Change,
}

impl Row {
    /// Returns true if only one baseline has the benchmark.
    pub(crate) fn is_one_sided(&self) -> bool {
        matches!(self.change, Change::OnlyOld | Change::OnlyNew)
    }
}

/// Classifies the change; `noise` is a fraction of the old time.
pub(crate) fn classify(old: Estimate, new: Estimate, noise: f64) -> Change {
    let change = new.point / old.point - 1.0;
    let apart = new.low > old.high || new.high < old.low;
    let (least, most) = (new.low / old.high - 1.0, new.high / old.low - 1.0);
    if apart && change > noise {
        Change::Slower
    } else if apart && change < -noise {
        Change::Faster
    } else if apart || (least >= -noise && most <= noise) {
        Change::Same
    } else {
        Change::Inconclusive
    }
}

/// Compares every benchmark of either baseline, by name.
pub(crate) fn compare(
    old: &BTreeMap<String, Estimate>,
    new: &BTreeMap<String, Estimate>,
    noise: f64,
) -> Vec<Row> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let (old, new) = (old.get(name).copied(), new.get(name).copied());
            let change = match (old, new) {
                (Some(old), Some(new)) => classify(old, new, noise),
                (Some(_), None) => Change::OnlyOld,
                (None, _) => Change::OnlyNew,
            };
            Row { name: name.clone(), old, new, change }
        })
        .collect()
}

/// Formats the table of all rows and a line of totals.
pub(crate) fn report(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(9);
    let mut text =
        format!("{:<width$}  {:>20}  {:>20}  {:>8}  result\n", "benchmark", "old", "new", "change");
    for row in rows {
        let change = match (row.old, row.new) {
            (Some(old), Some(new)) => format!("{:+.1} %", (new.point / old.point - 1.0) * 100.0),
            _ => String::new(),
        };
        text += &format!(
            "{:<width$}  {:>20}  {:>20}  {change:>8}  {}\n",
            row.name,
            row.old.map(time).unwrap_or_default(),
            row.new.map(time).unwrap_or_default(),
            word(row.change),
        );
    }
    let count = |change| rows.iter().filter(|row| row.change == change).count();
    text += &format!(
        "{} slower, {} faster, {} the same within the noise, {} inconclusive",
        count(Change::Slower),
        count(Change::Faster),
        count(Change::Same),
        count(Change::Inconclusive)
    );
    let one_sided = rows.iter().filter(|row| row.is_one_sided()).count();
    if one_sided > 0 {
        text += &format!(", {one_sided} in one baseline only");
    }
    text + "\n"
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Slower => "SLOWER",
        Change::Faster => "faster",
        Change::Same => "same",
        Change::Inconclusive => "inconclusive",
        Change::OnlyOld => "only old",
        Change::OnlyNew => "only new",
    }
}

/// Formats a time and half the width of its interval in a suitable unit.
fn time(estimate: Estimate) -> String {
    let (unit, name) = match estimate.point {
        nanos if nanos < 1e3 => (1.0, "ns"),
        nanos if nanos < 1e6 => (1e3, "us"),
        nanos if nanos < 1e9 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let half = (estimate.high - estimate.low) / 2.0;
    format!("{:.2} ±{:.2} {name}", estimate.point / unit, half / unit)
}
