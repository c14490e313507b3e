//! The quantiles that are reported.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The quantiles that are reported, by name.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// Summary of a histogram: the number of values, and percentiles in nanoseconds, rounded up to three
/// digits. All zero if there are no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Number of values.
    pub n: u64,
    /// Half of the values are at most this.
    pub p50_ns: u64,
    /// 90 % of the values are at most this.
    pub p90_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p99_9_ns: u64,
    /// 99.99 %.
    pub p99_99_ns: u64,
    /// The largest value.
    pub max_ns: u64,
}

impl From<&Histogram<u64>> for Percentiles {
    /// Summarizes a histogram of nanoseconds.
    fn from(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let mut values = histogram.value_at_quantiles(QUANTILES.map(|(_, quantile)| quantile));
        let mut next = || values.next().expect("the quantiles ascend");
        Self {
            n: histogram.len(),
            p50_ns: next(),
            p90_ns: next(),
            p99_ns: next(),
            p99_9_ns: next(),
            p99_99_ns: next(),
            max_ns: histogram.max(),
        }
    }
}

impl Percentiles {
    /// The percentiles by name, in the order of [`QUANTILES`], and the maximum.
    pub const fn by_name(&self) -> [(&'static str, u64); 6] {
        [
            ("p50", self.p50_ns),
            ("p90", self.p90_ns),
            ("p99", self.p99_ns),
            ("p99.9", self.p99_9_ns),
            ("p99.99", self.p99_99_ns),
            ("max", self.max_ns),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::empty_histogram;

    #[test]
    fn percentiles_are_those_of_the_histogram() {
        assert_eq!(Percentiles::from(&empty_histogram()), Percentiles::default());
        let mut histogram = empty_histogram();
        (1..=10_000).for_each(|micros| histogram.record(micros * 1_000).unwrap());
        let percentiles = Percentiles::from(&histogram);
        assert_eq!(percentiles.n, 10_000);
        for ((name, quantile), (same, nanos)) in QUANTILES.into_iter().zip(percentiles.by_name()) {
            assert_eq!(name, same);
            assert_eq!(nanos, histogram.value_at_quantile(quantile));
            let exact = quantile * 1e7;
            assert!((exact..exact * 1.002).contains(&(nanos as f64)), "{name}: {nanos}");
        }
        assert_eq!(percentiles.max_ns, histogram.max());
    }
}
