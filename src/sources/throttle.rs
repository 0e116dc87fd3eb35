//! Log throttle for a lasting condition such as an outage: it logs at once, then at growing intervals, with a count of
//! the suppressed lines. For floods of messages about different things, see `observe::log_limit`.
//!
//! Invariant: the first occurrence is always logged. Absent: the log itself, and a clock.

use std::time::{Duration, Instant};

/// The first pause; each following pause is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// The longest pause. After the current pause and this much more silence, the pauses start again at the first.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Decides whether an occurrence is logged.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    last: Option<(Instant, Duration)>,
    swallowed: u64,
}

impl LogThrottle {
    /// `Some(number suppressed since the last line)` when this occurrence should be logged.
    pub(super) fn permit(&mut self, now: Instant) -> Option<u64> {
        let pause = match self.last {
            Some((at, pause)) if now < at + pause => {
                self.swallowed += 1;
                return None;
            }
            Some((at, pause)) if now < at + pause + PAUSE_MAX => (pause * 2).min(PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        self.last = Some((now, pause));
        Some(std::mem::take(&mut self.swallowed))
    }

    /// The condition is over: the next occurrence is logged at once.
    pub(super) fn reset(&mut self) {
        *self = LogThrottle::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_rarer_while_something_goes_on() {
        let start = Instant::now();
        let mut throttle = LogThrottle::default();
        let mut logged = Vec::new();
        for second in 0..2000 {
            if let Some(swallowed) = throttle.permit(start + Duration::from_secs(second)) {
                logged.push((second, swallowed));
            }
        }
        let expected = [(0, 0), (10, 9), (30, 19), (70, 39), (150, 79), (310, 159), (630, 319), (1230, 599)];
        assert_eq!(logged[..expected.len()], expected);
        assert_eq!(throttle.permit(start + Duration::from_secs(10_000)).map(|_| ()), Some(()));
        assert_eq!(throttle.last.map(|(_, pause)| pause), Some(PAUSE_MIN), "a long silence starts anew");
        throttle.reset();
        assert_eq!(throttle.permit(start), Some(0));
    }
}
