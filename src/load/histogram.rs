//! Latencies as HDR histograms: three significant digits from a microsecond to an hour.
//!
//! A [`Latencies`] travels between processes as its pairs of value and count, without loss.

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const LATENCY_MAX_US: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS);
        Latencies(histogram.expect("the bounds are constants that HdrHistogram accepts"))
    }
}

impl Latencies {
    /// Records one latency; a latency above an hour counts as an hour.
    pub fn record(&mut self, latency_us: u64) {
        self.record_many(latency_us, 1);
    }

    /// Records one latency that occurred `count` times.
    pub fn record_many(&mut self, latency_us: u64, count: u64) {
        self.0.saturating_record_n(latency_us.clamp(1, LATENCY_MAX_US), count);
    }

    /// Adds another histogram.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The number of recorded values.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `percentile` (0 to 100) of all do not exceed; `None` if the histogram is empty.
    pub fn percentile(&self, percentile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(percentile / 100.0).min(self.0.max()))
    }

    /// The longest.
    pub fn max(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.max())
    }

    /// The mean.
    pub fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean())
    }
}

impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Latencies, D::Error> {
        let mut latencies = Latencies::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.record_many(value, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50.0), None);
        (1..=100_000).for_each(|us| latencies.record(us));
        let check = |percentile: f64, exact: u64| {
            let found = latencies.percentile(percentile).unwrap();
            assert!(found.abs_diff(exact) * 1000 <= exact, "p{percentile}: {found} for {exact}");
        };
        check(50.0, 50_000);
        check(95.0, 95_000);
        check(99.0, 99_000);
        check(99.9, 99_900);
        check(100.0, 100_000);
        assert_eq!(latencies.count(), 100_000);
    }

    #[test]
    fn merging_and_travelling_lose_nothing() {
        let (mut one, mut other, mut both) = (Latencies::default(), Latencies::default(), Latencies::default());
        for us in (0..50_000).map(|i| i * i % 777_777) {
            if us % 3 == 0 { &mut one } else { &mut other }.record(us);
            both.record(us);
        }
        let text = serde_json::to_string(&other).unwrap();
        one.add(&serde_json::from_str(&text).unwrap());
        assert_eq!(one.0, both.0);
        one.record(u64::MAX);
        assert_eq!(one.percentile(100.0).map(|us| us / 1_000_000), Some(3600));
    }
}
