//! The log entries about messages that are no events. Every application that may publish can cause them, so the first few
//! are written, and the rest counted.

use std::time::Instant;

use crate::observe::log_limit::{INTERVAL, LogLimit};

/// Decides which of these entries are written.
#[derive(Debug)]
pub(super) struct RefusedLog {
    text: &'static str,
    limit: LogLimit,
    /// The start of the limit's clock.
    started_at: Instant,
}

impl RefusedLog {
    /// For entries with this text.
    pub(super) fn new(text: &'static str) -> RefusedLog {
        RefusedLog { text, limit: LogLimit::default(), started_at: Instant::now() }
    }

    /// True when one more entry may be written.
    pub(super) fn admit(&mut self) -> bool {
        self.limit.admit(self.started_at.elapsed())
    }

    /// Logs how many entries were left out; called now and then.
    pub(super) fn log_left_out(&mut self) {
        if let Some(count) = self.limit.left_out(self.started_at.elapsed()) {
            tracing::warn!("{count} more like this in the last {} s: {}", INTERVAL.as_secs(), self.text);
        }
    }
}
