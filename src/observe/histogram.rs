//! A histogram of durations: fixed bounds, one counter each, no allocation when something is observed.

use std::time::Duration;

/// Upper bounds in microseconds, each about 2.5 times the one before; the last bucket has none.
pub const BOUNDS_US: [u64; 15] =
    [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000];

/// Counts by duration.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: [u64; BOUNDS_US.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, duration: Duration) {
        self.observe_many(duration, 1);
    }

    /// Counts several that took equally long.
    pub fn observe_many(&mut self, duration: Duration, count: u32) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)] += u64::from(count);
        self.sum += duration * count;
    }

    /// Adds what another histogram counted.
    pub fn add(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(own, count)| *own += count);
        self.sum += other.sum;
    }

    /// What was counted since `earlier`, an older state of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let buckets = std::array::from_fn(|i| self.buckets[i].saturating_sub(earlier.buckets[i]));
        Histogram { buckets, sum: self.sum.saturating_sub(earlier.sum) }
    }

    /// The duration, in microseconds, that a share (0 to 1) of all observations did not exceed; none without
    /// observations. Assumes that a bucket's observations are evenly spread, so it is exact only to the bounds around
    /// it.
    pub fn quantile_us(&self, share: f64) -> Option<f64> {
        let (mut rank, mut lower) = (share * self.count() as f64, 0);
        for (bound, &count) in BOUNDS_US.iter().zip(&self.buckets) {
            if count > 0 && rank <= count as f64 {
                return Some(lower as f64 + (bound - lower) as f64 * rank.max(0.0) / count as f64);
            }
            (rank, lower) = (rank - count as f64, *bound);
        }
        (self.count() > 0).then_some(lower as f64)
    }

    /// How many were at or below each bound, and in all.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = BOUNDS_US.iter().copied().map(Some).chain([None]);
        bounds.zip(self.buckets.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        }))
    }

    /// How many in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_counts_what_is_equal_to_it() {
        let mut histogram = Histogram::default();
        for us in [0, 10, 11, 2_500_000, 2_500_001] {
            histogram.observe(Duration::from_micros(us));
        }
        let counts: Vec<_> = histogram.cumulative().collect();
        assert_eq!(counts[0], (Some(10), 2));
        assert_eq!(counts[1], (Some(25), 3));
        assert_eq!(counts[14], (Some(2_500_000), 4));
        assert_eq!(counts[15], (None, 5));
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), None);
        histogram.observe_many(Duration::from_micros(40), 50);
        let earlier = histogram.clone();
        histogram.observe_many(Duration::from_micros(200), 50);
        let check = |histogram: &Histogram, share, expected| assert_eq!(histogram.quantile_us(share), Some(expected));
        check(&histogram, 0.0, 25.0);
        check(&histogram, 0.5, 50.0);
        check(&histogram, 0.75, 175.0);
        check(&histogram, 1.0, 250.0);
        check(&histogram.since(&earlier), 0.5, 175.0);
        histogram.observe_many(Duration::from_secs(9), 900);
        check(&histogram, 1.0, 2_500_000.0);
    }
}
