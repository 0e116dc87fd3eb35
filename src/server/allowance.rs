//! An allowance: a token bucket with a rate per second and at most one second's worth saved. Callers pass the time in.

use std::time::Duration;

/// What remains of a rate.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second_max: u32,
    left: f64,
    filled_at: Duration,
}

impl Allowance {
    /// A full bucket.
    pub(super) fn new(per_second_max: u32, now: Duration) -> Allowance {
        Allowance { per_second_max, left: f64::from(per_second_max), filled_at: now }
    }

    /// Adds what the rate has earned since the last refill.
    pub(super) fn refill(&mut self, now: Duration) {
        let rate = f64::from(self.per_second_max);
        let earned = now.saturating_sub(self.filled_at).as_secs_f64() * rate;
        self.left = (self.left + earned).min(rate);
        self.filled_at = now;
    }

    /// True when `count` may pass.
    pub(super) fn has(&self, count: u32) -> bool {
        self.left >= f64::from(count)
    }

    /// Lets `count` pass.
    pub(super) fn take(&mut self, count: u32) {
        self.left -= f64::from(count);
    }

    /// True when it equals a new one.
    pub(super) fn is_full(&self) -> bool {
        self.has(self.per_second_max)
    }

    /// When `count` may pass, as of the last refill.
    pub(super) fn time_of(&self, count: u32) -> Duration {
        let missing = (f64::from(count) - self.left).max(0.0);
        self.filled_at + Duration::from_secs_f64(missing / f64::from(self.per_second_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_a_second_allows_and_not_one_more() {
        let ms = Duration::from_millis;
        let mut allowance = Allowance::new(3, ms(5000));
        for _ in 0..3 {
            assert!(allowance.has(1));
            allowance.take(1);
        }
        assert!(!allowance.has(1));
        let next = allowance.time_of(1);
        assert!(next >= ms(5333) && next < ms(5334), "{next:?}");
        allowance.refill(next + ms(1));
        assert!(allowance.has(1) && !allowance.has(2) && !allowance.is_full());
        allowance.refill(ms(60_000));
        assert!(allowance.is_full() && allowance.has(3) && !allowance.has(4), "no more than a second's worth is saved");
        allowance.refill(ms(1000));
        assert!(allowance.is_full(), "a clock that went back takes nothing away");
    }
}
