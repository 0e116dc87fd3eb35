//! Backoff: how long to wait before the next connection. Pure: the caller passes in chance, and no clock is read.

use std::time::Duration;

/// The wait when the server has sent no `retry:` (the usual value of browsers).
const RETRY_DEFAULT: Duration = Duration::from_secs(3);
/// The first wait after a failure.
const FAILURE_WAIT_FIRST: Duration = Duration::from_millis(500);
/// The longest wait, unless the server itself requested more.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A `retry: 0` must not turn a client into a hot loop.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// The waits between connections: the server's `retry:` after a stream's end, exponential after failures.
#[derive(Clone, Debug)]
pub struct Backoff {
    retry: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { retry: RETRY_DEFAULT, failures: 0 }
    }
}

impl Backoff {
    /// Sets the server's `retry:`, if the server sent one.
    pub fn set_retry(&mut self, retry: Option<Duration>) {
        self.retry = retry.unwrap_or(self.retry);
    }

    /// A stream was opened: earlier failures no longer count.
    pub fn connected(&mut self) {
        self.failures = 0;
    }

    /// The wait after a stream that was open. No jitter: the server's `retry:` has its own.
    pub fn after_end(&self) -> Duration {
        self.retry.max(WAIT_MIN)
    }

    /// The wait after a failure: between half and all of a time that doubles, or the time that the server requested.
    /// `chance` is a fraction of one.
    pub fn after_failure(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let doubled = FAILURE_WAIT_FIRST.saturating_mul(1 << self.failures.min(16)).min(WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        let jittered = doubled.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        jittered.max(asked.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_over_when_connected() {
        let mut backoff = Backoff::default();
        let mut check = |chance: f64, expected_ms: &[u128]| {
            let waits: Vec<u128> =
                expected_ms.iter().map(|_| backoff.after_failure(None, chance).as_millis()).collect();
            assert_eq!(waits, expected_ms, "chance {chance}");
            backoff.connected();
        };
        check(1.0, &[500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        check(0.0, &[250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
    }

    #[test]
    fn the_server_decides_how_long_to_wait() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_end(), RETRY_DEFAULT);
        backoff.set_retry(Some(Duration::from_secs(7)));
        assert_eq!(backoff.after_end(), Duration::from_secs(7));
        backoff.set_retry(Some(Duration::ZERO));
        assert_eq!(backoff.after_end(), WAIT_MIN);
        assert_eq!(backoff.after_failure(Some(Duration::from_secs(9)), 1.0), Duration::from_secs(9));
    }
}
