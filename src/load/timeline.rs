//! The timeline: the course of a test, second by second.

use super::histogram::Latencies;
use super::tally::Snapshot;

/// One second of a test. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// Seconds since the start.
    pub second: u32,
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
    /// Delivery latency of that second: median, 99th percentile and maximum.
    pub latency_us: Option<[u64; 3]>,
}

/// The course of a test.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    started_us: u64,
    points: Vec<Point>,
    /// Latencies of the current second; the reports of a second may arrive slightly late.
    latency: Latencies,
}

/// The most points kept; later seconds are not recorded.
const POINTS_MAX: usize = 100_000;

impl Timeline {
    /// An empty timeline.
    pub fn new(started_us: u64) -> Timeline {
        Timeline { started_us, ..Timeline::default() }
    }

    /// Adds latencies that a fleet reported.
    pub fn take(&mut self, latency: &Latencies) {
        self.latency.add(latency);
    }

    /// Closes the seconds that are over at `now_us`, with the sum of all fleets.
    pub fn advance(&mut self, now_us: u64, total: &Snapshot, published: u64) {
        let second = (now_us.saturating_sub(self.started_us) / 1_000_000) as u32;
        let published = published.max(self.points.last().map_or(0, |point| point.published));
        if self.points.last().is_some_and(|point| point.second >= second) || self.points.len() == POINTS_MAX {
            return;
        }
        let percentiles = [50.0, 99.0, 100.0].map(|percentile| self.latency.percentile(percentile).unwrap_or(0));
        self.points.push(Point {
            second,
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

    /// The seconds so far.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}
