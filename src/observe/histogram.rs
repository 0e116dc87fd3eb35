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
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum += duration;
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
}
