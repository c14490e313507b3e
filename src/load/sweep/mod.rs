//! A sweep: which rates are measured, in which order, and what follows from the results.
//!
//! Nothing here runs a load. [`Search`] is a pure state machine: it names the next rate and takes the
//! result, so simulated servers test it. [`Slo`] judges a window by the share of its
//! messages within a limit, and [`Backlog`] notices a rate above capacity, whose latencies would only
//! describe the length of the window.
//!
//! A *window* is one measurement at one rate.

mod backlog;
mod search;
mod slo;

pub use backlog::Backlog;
pub use search::{Bound, Fate, Finding, Purpose, Request, Sample, Search, Standing};
pub use slo::{Slo, SloError};

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// The extent of a sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Extent {
    /// The rates of the curve, ascending.
    pub rates_per_s: Vec<u64>,
    /// Number of windows at each rate.
    pub repeat: u32,
}

impl Extent {
    /// Maximum number of rates of the curve, and of windows at each.
    pub const MOST: u32 = 1000;

    /// The rates from the lowest to the highest: that many in even ratios, or each twice the one before.
    pub fn new(low: NonZeroU64, high: NonZeroU64, steps: Option<u32>, repeat: u32) -> Self {
        let (low, high) = (low.get().min(high.get()), high.get().max(low.get()));
        let mut rates_per_s: Vec<u64> = match steps.map(|steps| steps.clamp(2, Self::MOST)) {
            None => std::iter::successors(Some(low), |rate| rate.checked_mul(2))
                .take_while(|rate| *rate < high)
                .collect(),
            Some(steps) => {
                let ratio = high as f64 / low as f64;
                let rate = |step| low as f64 * ratio.powf(f64::from(step) / f64::from(steps - 1));
                (0..steps - 1).map(|step| round(rate(step))).collect()
            }
        };
        rates_per_s.push(high);
        rates_per_s.dedup();
        Self { rates_per_s, repeat: repeat.clamp(1, Self::MOST) }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A rate is at most 10^9.
fn round(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_double_or_have_even_ratios() {
        let rates = |low: u64, high: u64, steps| {
            let [low, high] = [low, high].map(|rate| NonZeroU64::new(rate).unwrap());
            Extent::new(low, high, steps, 3).rates_per_s
        };
        assert_eq!(rates(10_000, 100_000, None), [10_000, 20_000, 40_000, 80_000, 100_000]);
        assert_eq!(rates(10, 40, None), [10, 20, 40]);
        assert_eq!(rates(10, 1000, Some(3)), [10, 100, 1000]);
        assert_eq!(rates(10, 1000, Some(1)), [10, 1000]);
        assert_eq!(rates(7, 7, None), [7]);
        assert_eq!(rates(1, 3, Some(9)), [1, 2, 3]);
        assert_eq!(*rates(1, 1_000_000_000, None).last().unwrap(), 1_000_000_000);
    }
}
