//! What every part of the server may read and count: the settings in force, the counters, the time of the turn, the
//! stage of leaving, and the limits on repeated log entries.
//!
//! Not here: sockets, topics and requests.

pub(super) mod log_entries;
pub(super) mod refusal;
pub(super) mod reload;
pub(super) mod supervisor;

use std::time::Duration;

use super::jitter::Jitter;
use super::settings::Settings;
use crate::observe::metrics::Counters;
use log_entries::{LogEntry, LogLimits};
use refusal::Refusal;

/// The stage of leaving. The number is the gauge's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaving {
    /// It serves.
    No = 0,
    /// It is unready, but still accepts.
    Notice = 1,
    /// It closes its streams and starts no new ones.
    ClosingStreams = 2,
}

/// Shared by all parts of one loop.
pub(super) struct Node {
    pub(super) settings: Settings,
    pub(super) counters: Counters,
    /// The time at which this turn began.
    pub(super) now: Duration,
    pub(super) jitter: Jitter,
    pub(super) leaving: Leaving,
    log_limits: LogLimits,
}

impl Node {
    pub(super) fn new(settings: Settings, counters: Counters, seed: u64, now: Duration) -> Node {
        Node { settings, counters, now, jitter: Jitter(seed), leaving: Leaving::No, log_limits: LogLimits::default() }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    /// True once no new stream may start.
    pub(super) fn is_closing_streams(&self) -> bool {
        self.leaving == Leaving::ClosingStreams
    }

    pub(super) fn count_refusal(&mut self, refusal: Refusal) {
        self.counters.refused.count(refusal.as_str());
    }

    /// True when another entry of this kind may be written.
    pub(super) fn may_log(&mut self, entry: LogEntry) -> bool {
        self.log_limits.may_log(entry, self.now)
    }

    /// Logs how many entries of each kind were omitted, for kinds whose interval is over.
    pub(super) fn log_omitted(&mut self) {
        self.log_limits.log_omitted(self.now);
    }
}
