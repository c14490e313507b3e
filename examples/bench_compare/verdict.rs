//! What two estimates of one benchmark say about each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::estimates::Estimate;

/// What can be said of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It became slower: the intervals are apart and the estimates differ by more than the noise.
    Slower,
    /// It became faster, in the same sense.
    Faster,
    /// Whatever the times are, within their intervals they differ by no more than the noise; or
    /// they differ for certain, and by no more than that.
    Same,
    /// The intervals overlap and leave room for more than the noise: measure for longer.
    Inconclusive,
    /// One baseline has no such benchmark.
    OnlyOld,
    /// The other has none.
    OnlyNew,
}

/// A benchmark in both baselines, or in one.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) old: Option<Estimate>,
    pub(crate) new: Option<Estimate>,
    pub(crate) verdict: Verdict,
}

impl Row {
    /// Whether only one baseline has it.
    pub(crate) fn is_one_sided(&self) -> bool {
        matches!(self.verdict, Verdict::OnlyOld | Verdict::OnlyNew)
    }
}

/// `noise` is a fraction of the old time.
pub(crate) fn judge(old: Estimate, new: Estimate, noise: f64) -> Verdict {
    let change = new.point / old.point - 1.0;
    let apart = new.low > old.high || new.high < old.low;
    let (least, most) = (new.low / old.high - 1.0, new.high / old.low - 1.0);
    if apart && change > noise {
        Verdict::Slower
    } else if apart && change < -noise {
        Verdict::Faster
    } else if apart || (least >= -noise && most <= noise) {
        Verdict::Same
    } else {
        Verdict::Inconclusive
    }
}

/// Every benchmark of either baseline, by name.
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
            let verdict = match (old, new) {
                (Some(old), Some(new)) => judge(old, new, noise),
                (Some(_), None) => Verdict::OnlyOld,
                (None, _) => Verdict::OnlyNew,
            };
            Row { name: name.clone(), old, new, verdict }
        })
        .collect()
}

/// The table of all, and a last line that counts.
pub(crate) fn report(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(9);
    let mut text = format!(
        "{:<width$}  {:>20}  {:>20}  {:>8}  verdict\n",
        "benchmark", "old", "new", "change"
    );
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
            word(row.verdict),
        );
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    text += &format!(
        "{} slower, {} faster, {} the same within the noise, {} inconclusive",
        count(Verdict::Slower),
        count(Verdict::Faster),
        count(Verdict::Same),
        count(Verdict::Inconclusive)
    );
    let one_sided = rows.iter().filter(|row| row.is_one_sided()).count();
    if one_sided > 0 {
        text += &format!(", {one_sided} in one baseline only");
    }
    text + "\n"
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Slower => "SLOWER",
        Verdict::Faster => "faster",
        Verdict::Same => "same",
        Verdict::Inconclusive => "inconclusive",
        Verdict::OnlyOld => "only old",
        Verdict::OnlyNew => "only new",
    }
}

/// A time with half the width of its interval, in the unit that suits it.
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
