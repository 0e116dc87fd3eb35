//! The timeline: the course of a test, twice a second.

use super::histogram::Latencies;
use super::tally::Snapshot;

/// Half a second of a test. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// Milliseconds since the start.
    pub at_ms: u32,
    /// Streams open.
    pub open: u32,
    /// Connections tried.
    pub connect_attempts: u64,
    /// Messages sent.
    pub published: u64,
    /// Messages delivered, over all subscribers.
    pub delivered: u64,
    /// Bytes read.
    pub received_bytes: u64,
    /// Failures.
    pub errors: u64,
    /// Delivery latency of that time: median, 99th percentile and maximum.
    pub latency_us: Option<[u64; 3]>,
}

/// The course of a test.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    started_us: u64,
    points: Vec<Point>,
    /// Latencies since the last point; reports may arrive slightly late.
    latency: Latencies,
}

/// From one point to the next: several reports of each fleet.
const INTERVAL_MS: u32 = 500;
/// The most points kept, of 14 hours; what comes later is not recorded.
const POINTS_MAX: usize = 100_000;

impl Point {
    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        f64::from(self.at_ms) / 1000.0
    }

    /// How much of something there was in a second, on average, from this point to a later one.
    pub fn rate_to(&self, later: &Point, count: fn(&Point) -> u64) -> f64 {
        let seconds = (later.seconds() - self.seconds()).max(0.001);
        count(later).saturating_sub(count(self)) as f64 / seconds
    }
}

impl Timeline {
    /// An empty timeline.
    pub fn new(started_us: u64) -> Timeline {
        Timeline { started_us, ..Timeline::default() }
    }

    /// Adds latencies that a fleet reported.
    pub fn take(&mut self, latency: &Latencies) {
        self.latency.add(latency);
    }

    /// Adds a point if one is due at `now_us`, with the sum of all fleets.
    pub fn advance(&mut self, now_us: u64, total: &Snapshot, published: u64) {
        let passed_ms = (now_us.saturating_sub(self.started_us) / 1000) as u32;
        let published = published.max(self.points.last().map_or(0, |point| point.published));
        let slot = |ms: u32| ms / INTERVAL_MS;
        let is_early = self.points.last().is_some_and(|point| slot(point.at_ms) >= slot(passed_ms));
        if is_early || self.points.len() == POINTS_MAX {
            return;
        }
        let percentiles = [50.0, 99.0, 100.0].map(|percentile| self.latency.percentile(percentile).unwrap_or(0));
        self.points.push(Point {
            at_ms: passed_ms,
            open: total.open,
            connect_attempts: total.counters.connect_attempts,
            published,
            delivered: total.counters.delivered_events,
            received_bytes: total.counters.received_bytes,
            errors: total.counters.errors,
            latency_us: (self.latency.count() > 0).then_some(percentiles),
        });
        self.latency.clear();
    }

    /// The points so far.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two_points_a_second_and_rates_between_any_two() {
        let mut timeline = Timeline::new(1_000_000);
        let mut total = Snapshot::default();
        for step in 0..30 {
            // Reports come when they come: here 30 ms late.
            total.counters.delivered_events = step * 10;
            timeline.advance(1_030_000 + step * 100_000, &total, step);
        }
        let points = timeline.points();
        assert_eq!(points.iter().map(|point| point.at_ms).collect::<Vec<_>>(), [30, 530, 1030, 1530, 2030, 2530]);
        let rate = |from: usize, to: usize| points[from].rate_to(&points[to], |point| point.delivered);
        assert_eq!([rate(0, 1), rate(1, 5), rate(3, 3)].map(f64::round), [100.0, 100.0, 0.0]);
    }
}
