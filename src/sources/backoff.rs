//! How long to wait before the next attempt: the delay doubles each time, with random jitter so that nodes differ.

use std::time::Duration;

/// The shortest and the longest wait between attempts.
#[derive(Clone, Copy, Debug)]
pub struct BackoffLimits {
    /// The delay before the second attempt.
    pub delay_min: Duration,
    /// The upper limit, however many attempts fail.
    pub delay_max: Duration,
}

/// The state of a run of failed attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    limits: BackoffLimits,
    delay: Duration,
}

impl Backoff {
    pub(super) fn new(limits: BackoffLimits) -> Backoff {
        Backoff { limits, delay: limits.delay_min }
    }

    /// The next wait: between half and the whole of the current delay, as `random` decides.
    pub(super) fn next_delay(&mut self, random: u64) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(self.limits.delay_max);
        // 32 bits of randomness fit an f64 exactly; nanosecond rounding is no concern here.
        delay.mul_f64(0.5 + 0.5 * (random as u32 as f64 / f64::from(u32::MAX)))
    }

    /// An attempt succeeded: start over.
    pub(super) fn reset(&mut self) {
        self.delay = self.limits.delay_min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_are_spread_over_their_upper_half() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(BackoffLimits { delay_min: ms(100), delay_max: ms(1000) });
        let delays: Vec<_> = (0..6).map(|_| backoff.next_delay(u64::MAX)).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000].map(ms));
        assert_eq!(backoff.next_delay(0), ms(500));
        backoff.reset();
        assert_eq!(backoff.next_delay(0), ms(50));
    }
}
