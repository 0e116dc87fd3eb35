//! What every part of a loop may read and count: the settings in force, the counters, the time of the turn, the stage of
//! leaving, and the limits on repeated log entries; and what the loops of the node have in common.
//!
//! Not here: sockets, topics and requests.

pub(super) mod address_counts;
pub(super) mod common;
pub(super) mod figures;
pub(super) mod history;
pub(super) mod letter;
pub(super) mod log_entries;
pub(super) mod member;
pub(super) mod publish_rates;
pub(super) mod refusal;
pub(super) mod reload;
pub(super) mod slow_clients;
pub(super) mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use super::jitter::Jitter;
use super::settings::Settings;
use crate::observe::metrics::Counters;
use common::Common;
use letter::{Asker, Letter};
use log_entries::{LogEntry, LogLimits};
use member::Member;
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
    /// Shared with the other loops of the node.
    pub(super) common: Arc<Common>,
    /// This loop among them.
    pub(super) member: Member,
    log_limits: LogLimits,
}

impl Node {
    pub(super) fn new(settings: Settings, counters: Counters, member: Member, seed: u64, now: Duration) -> Node {
        member.note_alive(now);
        Node {
            settings,
            counters,
            now,
            jitter: Jitter(seed),
            leaving: Leaving::No,
            common: member.common(),
            member,
            log_limits: LogLimits::default(),
        }
    }

    /// A connection of this loop is gone, and its place is free.
    pub(super) fn forget_connection(&self) {
        self.common.give_back_place();
        self.member.uncount_connection();
    }

    /// Replies to the question of another loop, which needs no reply if it has ended.
    pub(super) fn reply(&self, asker: Asker, letter: Letter) {
        let _ = self.member.send(asker.index, letter);
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
