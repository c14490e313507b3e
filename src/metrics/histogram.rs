use std::time::Duration;

/// Times in buckets whose bounds are powers of four, from about a microsecond to a second: fine
/// enough to tell a slow disk from a slow handler, and a dozen counters small. Recording is a count of
/// leading zeros and two additions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeHistogram {
    /// Times up to each bound and above the one before; the last has no bound.
    counts: [u64; Self::BOUNDS + 1],
    sum: u64,
}

impl TimeHistogram {
    /// The number of bounds: 1.024 us, four times as much, and so on up to 1.074 s.
    const BOUNDS: usize = 11;
    /// The first bound is two to this power, in nanoseconds.
    const FIRST: usize = 10;

    /// Records a time. The sum stops at 584 years.
    pub fn record(&mut self, time: Duration) {
        self.record_times(time, 1);
    }

    /// Records the same time `times` times, for a sample that stands for others.
    pub fn record_times(&mut self, time: Duration, times: u64) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // The number of bits of what lies below a bound, which belongs to its bucket.
        let bits = (u64::BITS - nanos.saturating_sub(1).leading_zeros()) as usize;
        let bucket = bits.saturating_sub(Self::FIRST).div_ceil(2).min(Self::BOUNDS);
        self.counts[bucket] += times;
        self.sum = self.sum.saturating_add(nanos.saturating_mul(times));
    }

    /// A histogram with these numbers of times in its buckets, in their order, and this sum. What is
    /// missing is zero, and what is too much is left out.
    pub fn from_parts(counts: impl IntoIterator<Item = u64>, sum: Duration) -> Self {
        let mut histogram = Self::default();
        for (count, given) in histogram.counts.iter_mut().zip(counts) {
            *count = given;
        }
        histogram.sum = u64::try_from(sum.as_nanos()).unwrap_or(u64::MAX);
        histogram
    }

    /// The counters of the buckets, then the sum of all times in nanoseconds.
    #[cfg(feature = "server")]
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().copied().chain([self.sum])
    }

    /// One of the [numbers](Self::numbers), to be changed.
    #[cfg(feature = "server")]
    pub(crate) fn number_mut(&mut self, place: usize) -> Option<&mut u64> {
        self.counts.iter_mut().chain([&mut self.sum]).nth(place)
    }

    /// Number of times recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all times.
    pub const fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// Each bucket's upper bound and the times in it and in no lower one; the last has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.counts.iter().enumerate().map(|(index, count)| {
            let bound = 1_u64 << (Self::FIRST + 2 * index);
            ((index < Self::BOUNDS).then(|| Duration::from_nanos(bound)), *count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let bounds: Vec<Duration> =
            TimeHistogram::default().buckets().map_while(|(bound, _)| bound).collect();
        assert_eq!(bounds.len(), TimeHistogram::BOUNDS);
        let last = *bounds.last().unwrap();
        assert!(last > Duration::from_secs(1) && last < Duration::from_millis(1100));
        let nano = Duration::from_nanos(1);
        let times = bounds.iter().flat_map(|bound| [*bound - nano, *bound, *bound + nano]);
        for time in times.chain([Duration::ZERO, Duration::MAX]) {
            let mut histogram = TimeHistogram::default();
            histogram.record(time);
            let expected = bounds.iter().position(|bound| time <= *bound).unwrap_or(bounds.len());
            let found = histogram.buckets().position(|(_, count)| count == 1);
            assert_eq!((found, histogram.count()), (Some(expected), 1), "{time:?}");
        }
    }

    #[test]
    fn times_add_up() {
        let mut histogram = TimeHistogram::default();
        (1..4).for_each(|millis| histogram.record(Duration::from_millis(millis)));
        assert_eq!((histogram.count(), histogram.sum()), (3, Duration::from_millis(6)));
        histogram.record(Duration::MAX);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.sum(), Duration::from_nanos(u64::MAX));
        let (mut one_by_one, mut at_once) = (TimeHistogram::default(), TimeHistogram::default());
        (0..7).for_each(|_| one_by_one.record(Duration::from_micros(70)));
        at_once.record_times(Duration::from_micros(70), 7);
        assert_eq!(at_once, one_by_one);
    }
}
