//! The clock of a load test: microseconds of wall time that never step backwards.
//!
//! Wall time is read once; after that the monotonic clock carries it on. So another process can read the stamps of this
//! one: on this host without error, and on another host as well as the clocks agree. A clock step during a test shows
//! in no latency.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall time carried on by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_at: Instant,
    started_at_us: u64,
}

impl Clock {
    /// Reads wall time, once.
    pub fn start() -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Clock { started_at: Instant::now(), started_at_us: micros(since_epoch) }
    }

    /// Microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        self.started_at_us + micros(self.started_at.elapsed())
    }
}

/// A duration in whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
