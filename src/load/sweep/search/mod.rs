use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Extent;

#[cfg(test)]
mod tests;

/// The search for the highest rate that holds an objective, without I/O and without a clock: ask for the
/// [`next`](Self::next) window, measure it, [`record`](Self::record) it, until there is none.
///
/// 1. The rates of the curve are measured from the lowest up. The first one above capacity is the last.
/// 2. A rate that failed below one that held is measured once more.
/// 3. Between the highest rate that held below every failure and the next one that did not, bisection
///    narrows the gap down to a twentieth.
/// 4. The rate that is left is confirmed over longer windows. If it fails there, it has failed, and the
///    search goes on below it.
///
/// Every rate is measured several times. A window in which the generator was late does not count, and a
/// rate at which that was half of them is unknown: it neither holds nor fails.
#[derive(Clone, Debug)]
pub struct Search {
    extent: Extent,
    target_ppm: Option<u32>,
    /// The windows of each rate.
    windows: BTreeMap<u64, Vec<(Purpose, Sample)>>,
}

/// The reason for which a window is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// It belongs to the curve.
    Curve,
    /// Its rate failed, and a higher one held.
    Again,
    /// It narrows the gap between a rate that held and one that did not.
    Bisect,
    /// It confirms the highest rate. It is longer: [`Search::CONFIRMATION`] times.
    Confirm,
}

/// A window to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Messages per second.
    pub rate: u64,
    /// Its purpose.
    pub purpose: Purpose,
    /// Number of the window among those of this rate and purpose, from 1.
    pub number: u32,
}

/// The kind of a measured window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It shows the server.
    Counted,
    /// The rate is above capacity: it shows the backlog.
    Overloaded,
    /// The generator was late: it shows the generator.
    Late,
}

/// The result of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its kind.
    pub fate: Fate,
    /// Number of messages within the limit.
    pub within: u64,
    /// Number of messages that were due.
    pub of: u64,
}

/// The standing of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was measured, and there is no objective.
    Measured,
    /// The objective holds: in more than half of the windows, and in all of them together.
    Holds,
    /// It does not.
    Fails,
    /// The rate is above capacity.
    Overloaded,
    /// The generator was late, so the rate is excluded.
    Late,
    /// The objective held until longer windows were measured.
    Refuted,
}

/// The reason for which no higher rate is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "rate_per_s")]
pub enum Bound {
    /// This rate failed.
    Failed(u64),
    /// At this rate the generator was late: the server may do more.
    GeneratorLate(u64),
    /// It is the highest of the sweep: the server may do more.
    EndOfSweep,
}

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Finding {
    /// This rate holds, and did so in longer windows.
    Found {
        /// Messages per second.
        rate_per_s: u64,
        /// The next rate above it.
        bound: Bound,
        /// Number of longer windows in which the objective held.
        held: u32,
        /// Number of longer windows that count.
        of: u32,
        /// The probability with which a window holds is at least this, in parts per million, with a
        /// confidence of 95 %.
        at_least_ppm: u32,
    },
    /// Each candidate failed in longer windows.
    NotReproduced {
        /// The lowest of them.
        rate_per_s: u64,
    },
    /// The lowest rate failed.
    NoRate {
        /// The lowest rate.
        rate_per_s: u64,
    },
    /// The generator was late at all rates that might hold.
    Unknown,
    /// The sweep was stopped before the search was over.
    Unfinished,
}

impl Search {
    /// Length of a confirming window, in windows.
    pub const CONFIRMATION: u32 = 3;
    /// Number of rates that are confirmed before the search is given up.
    const CONFIRMATIONS: usize = 4;
    /// The gap that bisection leaves: one in this many of the rate.
    const PRECISION: u64 = 20;

    /// A search for the highest rate at which this share of the messages is within the limit; without
    /// a share, only the curve.
    pub const fn new(extent: Extent, target_ppm: Option<u32>) -> Self {
        Self { extent, target_ppm, windows: BTreeMap::new() }
    }

    /// The next window to measure; `None` once the search is over.
    pub fn next(&self) -> Option<Request> {
        self.unfinished()
            .or_else(|| self.next_of_curve())
            .or_else(|| self.target_ppm.and_then(|_| self.contradiction()))
            .or_else(|| self.target_ppm.and_then(|_| self.narrow_or_confirm()))
    }

    /// Records the result of a window that was asked for.
    pub fn record(&mut self, request: Request, sample: Sample) {
        self.windows.entry(request.rate).or_default().push((request.purpose, sample));
    }

    /// The rates of the curve that were left out, as they are above capacity.
    pub fn skipped(&self) -> Vec<u64> {
        let rates = self.extent.rates_per_s.iter().copied();
        rates.filter(|rate| !self.windows.contains_key(rate)).collect()
    }

    /// The standing of a rate that was measured.
    pub fn standing(&self, rate: u64) -> Option<Standing> {
        let confirmation = self.judge(rate, |purpose| purpose == Purpose::Confirm);
        let is_complete = self.count(rate, Purpose::Confirm) >= self.extent.repeat;
        match confirmation.filter(|_| is_complete) {
            Some(Standing::Late) => Some(Standing::Late),
            Some(Standing::Fails | Standing::Overloaded) => Some(Standing::Refuted),
            _ => self.judge(rate, |purpose| purpose != Purpose::Confirm),
        }
    }

    /// The result.
    pub fn finding(&self) -> Finding {
        if self.next().is_some() {
            return Finding::Unfinished;
        }
        let confirmed = |rate| self.count(rate, Purpose::Confirm) > 0;
        if let Some((rate_per_s, above)) = self.bracket().filter(|(rate, _)| confirmed(*rate)) {
            let windows = self.of(rate_per_s, |purpose| purpose == Purpose::Confirm);
            let held = count(&windows, |sample| self.holds(sample));
            let of = count(&windows, |sample| sample.fate != Fate::Late);
            let bound = match above {
                None => Bound::EndOfSweep,
                Some(rate) if self.standing(rate) == Some(Standing::Late) => {
                    Bound::GeneratorLate(rate)
                }
                Some(rate) => Bound::Failed(rate),
            };
            return Finding::Found {
                rate_per_s,
                bound,
                held,
                of,
                at_least_ppm: at_least(held, of),
            };
        }
        let first = |wanted: &[Standing]| {
            let is_wanted =
                |rate: &u64| self.standing(*rate).is_some_and(|is| wanted.contains(&is));
            self.windows.keys().copied().find(is_wanted)
        };
        let late = first(&[Standing::Late]);
        match (first(&[Standing::Refuted]), first(&[Standing::Fails, Standing::Overloaded])) {
            (Some(rate_per_s), _) => Finding::NotReproduced { rate_per_s },
            (None, Some(rate_per_s)) if late.is_none_or(|late| late > rate_per_s) => {
                Finding::NoRate { rate_per_s }
            }
            _ => Finding::Unknown,
        }
    }

    /// The next window of a rate that has too few of them.
    fn unfinished(&self) -> Option<Request> {
        let repeat = self.extent.repeat;
        self.windows.iter().find_map(|(rate, windows)| {
            let (purpose, _) = *windows.last()?;
            let has = self.count(*rate, purpose);
            (has < repeat).then(|| self.request(*rate, purpose))
        })
    }

    fn next_of_curve(&self) -> Option<Request> {
        for rate in &self.extent.rates_per_s {
            match self.standing(*rate) {
                None => return Some(self.request(*rate, Purpose::Curve)),
                Some(Standing::Overloaded) => return None,
                Some(_) => {}
            }
        }
        None
    }

    /// A rate that failed below one that held, and was not measured again.
    fn contradiction(&self) -> Option<Request> {
        let highest = *self.windows.keys().rfind(|rate| self.is(**rate, Standing::Holds))?;
        let below = self.windows.keys().filter(|rate| **rate < highest);
        let mut failed = below.filter(|rate| {
            let fails = self.is(**rate, Standing::Fails) || self.is(**rate, Standing::Overloaded);
            fails && self.count(**rate, Purpose::Again) == 0
        });
        failed.next().map(|rate| self.request(*rate, Purpose::Again))
    }

    fn narrow_or_confirm(&self) -> Option<Request> {
        let (low, above) = self.bracket()?;
        if let Some(high) = above
            && high - low > (low / Self::PRECISION).max(1)
        {
            return Some(self.request(low + (high - low) / 2, Purpose::Bisect));
        }
        let confirms = |rate: &&u64| self.count(**rate, Purpose::Confirm) > 0;
        let confirmed = self.windows.keys().filter(confirms).count();
        let is_new = self.count(low, Purpose::Confirm) == 0;
        (is_new && confirmed < Self::CONFIRMATIONS).then(|| self.request(low, Purpose::Confirm))
    }

    /// The highest rate that holds below every failure, and the next one above it, which does not.
    fn bracket(&self) -> Option<(u64, Option<u64>)> {
        let mut low = None;
        let mut above = None;
        for rate in self.windows.keys() {
            match self.standing(*rate)? {
                Standing::Holds => (low, above) = (Some(*rate), None),
                Standing::Late | Standing::Measured => above = above.or(Some(*rate)),
                Standing::Fails | Standing::Overloaded | Standing::Refuted => {
                    above = above.or(Some(*rate));
                    break;
                }
            }
        }
        low.map(|low| (low, above))
    }

    fn request(&self, rate: u64, purpose: Purpose) -> Request {
        Request { rate, purpose, number: self.count(rate, purpose) + 1 }
    }

    fn is(&self, rate: u64, standing: Standing) -> bool {
        self.standing(rate) == Some(standing)
    }

    fn of(&self, rate: u64, is_wanted: impl Fn(Purpose) -> bool) -> Vec<Sample> {
        let windows = self.windows.get(&rate).into_iter().flatten();
        windows.filter(|(purpose, _)| is_wanted(*purpose)).map(|(_, sample)| *sample).collect()
    }

    fn count(&self, rate: u64, purpose: Purpose) -> u32 {
        count(&self.of(rate, |its| its == purpose), |_| true)
    }

    /// Judges some windows of a rate together. A window with other messages weighs as much as it has.
    fn judge(&self, rate: u64, is_wanted: impl Fn(Purpose) -> bool) -> Option<Standing> {
        let windows = self.of(rate, is_wanted);
        if windows.is_empty() {
            return None;
        }
        let counted: Vec<Sample> =
            windows.iter().filter(|sample| sample.fate != Fate::Late).copied().collect();
        if counted.len() * 2 <= windows.len() {
            return Some(Standing::Late);
        }
        let is_most = |number: u32| number as usize * 2 > counted.len();
        if is_most(count(&counted, |sample| sample.fate == Fate::Overloaded)) {
            return Some(Standing::Overloaded);
        }
        let Some(target) = self.target_ppm else { return Some(Standing::Measured) };
        let [within, of] = [
            counted.iter().map(|sample| sample.within).fold(0, u64::saturating_add),
            counted.iter().map(|sample| sample.of).fold(0, u64::saturating_add),
        ];
        let holds =
            reaches(within, of, target) && is_most(count(&counted, |sample| self.holds(sample)));
        Some(if holds { Standing::Holds } else { Standing::Fails })
    }

    /// Returns true if the objective holds in this window.
    pub fn holds(&self, sample: &Sample) -> bool {
        let reaches = |target| reaches(sample.within, sample.of, target);
        sample.fate == Fate::Counted && self.target_ppm.is_some_and(reaches)
    }
}

fn count(samples: &[Sample], is_wanted: impl Fn(&Sample) -> bool) -> u32 {
    let number = samples.iter().filter(|sample| is_wanted(sample)).count();
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn reaches(within: u64, of: u64, target_ppm: u32) -> bool {
    of > 0 && u128::from(within) * 1_000_000 >= u128::from(of) * u128::from(target_ppm)
}

/// The lowest probability of success, in parts per million, that makes so many successes or more no less
/// likely than 1 in 20 (Clopper and Pearson, 1934).
fn at_least(held: u32, of: u32) -> u32 {
    let is_unlikely = |ppm: u32| {
        let p = f64::from(ppm) / 1e6;
        let mut ways = 1.0;
        let mut fewer = 0.0;
        for k in 0..held {
            fewer += ways * p.powf(k.into()) * (1.0 - p).powf((of - k).into());
            ways = ways * f64::from(of - k) / f64::from(k + 1);
        }
        1.0 - fewer < 0.05
    };
    let (mut low, mut high) = (0, 1_000_000);
    while high - low > 1 {
        let middle = u32::midpoint(low, high);
        if is_unlikely(middle) { low = middle } else { high = middle }
    }
    low
}
