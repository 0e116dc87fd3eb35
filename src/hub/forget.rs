//! Forgetting: by count and bytes of a topic, by age, and by bytes of all topics together, the oldest first.
//!
//! A frame that is evicted while half written to someone is pinned: it counts towards the bound until it is let go.

use std::time::Duration;

use super::Hub;
use super::keys::TopicKey;
use super::log::{ENTRY_OVERHEAD_BYTES, Entry};
use crate::event::{Frame, Sequence};

/// An entry's place in the order of all entries, by which they age.
#[derive(Debug)]
pub(super) struct Aging {
    pub(super) topic: TopicKey,
    pub(super) sequence: Sequence,
    pub(super) appended_at: Duration,
}

/// Which bound an entry was evicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// The entries of one topic.
    Events,
    /// The bytes of one topic.
    Bytes,
    /// The bytes of all topics.
    BytesTotal,
    /// Its age.
    Age,
    /// The number of topics: its own went.
    Topics,
}

impl EvictionReason {
    /// All of them, in the order of their counters.
    pub const ALL: [EvictionReason; 5] = [
        EvictionReason::Events,
        EvictionReason::Bytes,
        EvictionReason::BytesTotal,
        EvictionReason::Age,
        EvictionReason::Topics,
    ];

    /// As it stands in metrics: the option that bounds it.
    pub fn as_str(self) -> &'static str {
        match self {
            EvictionReason::Events => "history_events",
            EvictionReason::Bytes => "history_bytes",
            EvictionReason::BytesTotal => "history_bytes_total",
            EvictionReason::Age => "history_age",
            EvictionReason::Topics => "max_topics",
        }
    }
}

impl Hub {
    /// How many entries were evicted, by reason.
    pub fn evictions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        EvictionReason::ALL.into_iter().map(|reason| (reason.as_str(), self.evictions[reason as usize]))
    }

    /// Evicts what is older than the age limit, and lets go of pinned frames that nobody holds any more.
    pub fn age(&mut self, now: Duration) {
        let age_max = self.limits.history_age_max;
        while self.order.front().is_some_and(|oldest| oldest.appended_at + age_max <= now) {
            // Only this one: behind a stale place stand others that are young still.
            if let Some(oldest) = self.order.pop_front().filter(|oldest| self.is_oldest_of_its_topic(oldest)) {
                self.evict_oldest_of(oldest.topic, EvictionReason::Age);
            }
        }
        self.unpin();
    }

    /// Lets go of the pinned frames that nobody holds any more.
    pub fn unpin(&mut self) {
        let bytes = &mut self.pinned_bytes;
        self.pinned.retain(|frame| {
            let keep = frame.is_shared();
            *bytes -= if keep { 0 } else { frame.len() };
            keep
        });
    }

    /// True when `frame_bytes` more would pass the bound over all topics while pinned frames count towards it: then
    /// their holders go before anything is evicted for it.
    pub fn is_pinned_over(&self, frame_bytes: usize) -> bool {
        let bytes = self.bytes_total() + frame_bytes + ENTRY_OVERHEAD_BYTES;
        self.pinned_bytes > 0 && bytes > self.limits.history_bytes_total_max
    }

    /// True when this frame is in no log any more.
    pub fn is_pinned(&self, frame: &Frame) -> bool {
        self.pinned.iter().any(|pinned| pinned.is_same(frame))
    }

    /// False: its log is empty.
    pub(super) fn evict_oldest_of(&mut self, key: TopicKey, reason: EvictionReason) -> bool {
        let evicted = self.topics.get_mut(key).log.evict_oldest();
        evicted.map(|evicted| self.forget(evicted, reason)).is_some()
    }

    pub(super) fn evict_oldest_of_all(&mut self) -> bool {
        while let Some(oldest) = self.order.pop_front() {
            if self.is_oldest_of_its_topic(&oldest) {
                self.evict_oldest_of(oldest.topic, EvictionReason::BytesTotal);
                return true;
            }
        }
        false
    }

    pub(super) fn forget(&mut self, evicted: Entry, reason: EvictionReason) {
        self.evictions[reason as usize] += 1;
        self.bytes -= evicted.cost_bytes();
        self.entries -= 1;
        if evicted.frame.is_shared() {
            self.pinned_bytes += evicted.frame.len();
            self.pinned.push(evicted.frame);
        }
        // Stale places in the order may not outnumber the entries that stand there for long.
        if self.order.len() > 2 * self.entries + 1024 {
            let topics = &self.topics;
            self.order.retain(|aging| topics.try_get(aging.topic).is_some_and(|entry| entry.log.holds(aging.sequence)));
        }
    }

    /// False: another bound evicted it before, and its place in the order is stale.
    fn is_oldest_of_its_topic(&self, aging: &Aging) -> bool {
        let oldest = self.topics.try_get(aging.topic).and_then(|entry| entry.log.oldest());
        oldest.is_some_and(|oldest| oldest.sequence == aging.sequence)
    }

    /// Bytes of all logs and pinned frames.
    pub fn bytes_total(&self) -> usize {
        self.bytes + self.pinned_bytes
    }

    /// Bytes of frames that are in no log any more, but half written to someone.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }
}
