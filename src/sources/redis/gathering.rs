//! Gathering: when messages arrive fast, the thread pauses so that one read returns several of them. Pure.
//!
//! A read for each message wakes this thread and then the loop, which costs several times as much as the message
//! itself. So when a message follows the previous one closely, the thread pauses before it reads again. The length of
//! the pause bounds the added delay. A message that comes alone is not delayed.

use std::time::{Duration, Instant};

/// Messages with a smaller spacing than this, averaged over a read, are gathered.
const SPACING_MAX: Duration = Duration::from_micros(250);
/// The pause between two reads while gathering.
const PAUSE: Duration = Duration::from_millis(1);
/// Messages with a smaller spacing than this gather without a pause, while the thread works.
const SPACING_MIN: Duration = Duration::from_micros(20);

/// The time of the last read.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    read_at: Option<Instant>,
}

impl Gathering {
    /// How long to pause after a read that brought this many messages.
    pub(super) fn pause_after(&mut self, messages: u32, now: Instant) -> Option<Duration> {
        let before = self.read_at.replace(now)?;
        let spacing = now.duration_since(before) / messages.max(1);
        (SPACING_MIN..SPACING_MAX).contains(&spacing).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_that_come_fast_but_leave_time_between_them_are_gathered() {
        let mut gathering = Gathering::default();
        let mut now = Instant::now();
        let mut check = |after_us: u64, messages: u32, expected: bool| {
            now += Duration::from_micros(after_us);
            assert_eq!(gathering.pause_after(messages, now).is_some(), expected, "{messages} after {after_us} us");
        };
        check(0, 1, false);
        check(1_000_000, 1, false);
        check(250, 1, false);
        check(249, 1, true);
        check(300, 3, true);
        check(1_000, 4, false);
        check(200, 10, true);
        check(199, 10, false);
    }
}
