//! Forgetting: by count and bytes of a topic, by age, and by bytes of all topics together, the oldest first. Losses are
//! forgotten by their log's own bounds.
//!
//! A frame that is evicted while it is half written to a connection is pinned ([`super::holds`]): it counts towards the
//! bound until it is released.

use std::time::Duration;

use super::Hub;
use super::keys::TopicKey;
use super::log::{ENTRY_OVERHEAD_BYTES, Entry};
use super::losses::{Loss, LossScope};
use super::topics::TopicEntry;
use crate::event::Frame;
use crate::hub::holds::HoldChange;

/// Evictions per call: about 2 ms. Events that arrive in a burst also expire in a burst.
const EVICTIONS_PER_AGING_MAX: usize = 8192;
/// Topics that vanish per call: about 2 ms.
const VANISHING_PER_AGING_MAX: usize = 1024;

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
    /// The number of topics: its topic was removed.
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

    /// The name in metrics: the option that sets the bound.
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

    /// Evicts what is older than the age limit, and removes topics of which nothing is left. False: there may be more.
    pub fn age(&mut self, now: Duration) -> bool {
        let mut budget = EVICTIONS_PER_AGING_MAX;
        while budget > 0
            && let Some(topic) = self.topic_of_too_old(now)
        {
            self.evict_oldest_of(topic, EvictionReason::Age);
            budget -= 1;
        }
        let has_aged_all = budget > 0;
        // No loss is forgotten before the events that are older.
        while has_aged_all
            && let Some(oldest) = now.checked_sub(self.topics.rules.age_max())
            && let Some(loss) = self.losses.take_older(oldest)
        {
            self.forget_loss(loss);
        }
        has_aged_all && self.topics.remove_forgotten(VANISHING_PER_AGING_MAX)
    }

    /// How many topics have vanished since the last call.
    pub fn take_vanished(&mut self) -> usize {
        self.topics.take_vanished()
    }

    /// Marks the topics that a loss touched as incomplete through its position.
    pub(super) fn forget_loss(&mut self, loss: Loss) {
        match loss.scope {
            LossScope::All => self.losses_forgotten_through = loss.sequence,
            LossScope::Topics(topics) => {
                topics.iter().for_each(|topic| self.topics.note_forgotten_loss(topic, loss.sequence));
            }
        }
        self.holds.note_evicted(&loss.frame);
    }

    /// Takes note of what connections hold half written. Call it before what may evict.
    pub fn apply_holds(&mut self, changes: impl IntoIterator<Item = HoldChange>) {
        changes.into_iter().for_each(|change| self.holds.apply(change));
    }

    /// Records that frames are no longer kept where subscribers share them, though some may be half written.
    pub fn note_unshared(&mut self, frames: impl IntoIterator<Item = Frame>) {
        frames.into_iter().for_each(|frame| self.holds.note_evicted(&frame));
    }

    /// True when `frame_bytes` more would pass the bound over all topics while pinned frames count towards it: then the
    /// connections that hold them are closed before anything is evicted.
    pub fn is_pinned_over(&self, frame_bytes: usize) -> bool {
        let bytes = self.bytes_total() + frame_bytes + ENTRY_OVERHEAD_BYTES;
        self.pinned_bytes() > 0 && bytes > self.limits.history_bytes_total_max
    }

    /// True when this frame is in no log any more, but half written to a connection.
    pub fn is_pinned(&self, frame: &Frame) -> bool {
        self.holds.is_pinned(frame)
    }

    /// Appends to a log whose bounds leave room for it.
    pub(super) fn remember(&mut self, key: TopicKey, entry: Entry) {
        self.bytes += entry.cost_bytes();
        self.entries += 1;
        let topic = self.topics.get_mut(key);
        if topic.log.is_empty() {
            self.oldest.insert(topic.limits.age_max, (entry.sequence, key));
        }
        topic.log.append(entry);
    }

    /// Returns false if its log is empty.
    pub(super) fn evict_oldest_of(&mut self, key: TopicKey, reason: EvictionReason) -> bool {
        let topic = self.topics.get_mut(key);
        let Some(evicted) = topic.log.evict_oldest() else { return false };
        let next = topic.log.oldest().map(|oldest| (oldest.sequence, key));
        self.oldest.replace(topic.limits.age_max, (evicted.sequence, key), next);
        if next.is_none() {
            self.topics.note_may_vanish(key);
        }
        self.forgotten_ids.add(&self.topics.get(key).name, &evicted.naming);
        self.forget(&evicted, reason);
        true
    }

    pub(super) fn evict_oldest_of_all(&mut self) -> bool {
        self.oldest.first().is_some_and(|(_, topic)| self.evict_oldest_of(topic, EvictionReason::BytesTotal))
    }

    /// Evicts the whole log of a topic that was removed; `key` was its key.
    pub(super) fn forget_log(&mut self, key: TopicKey, vanished: TopicEntry) {
        let TopicEntry { name, mut log, limits, .. } = vanished;
        if let Some(oldest) = log.oldest() {
            self.oldest.replace(limits.age_max, (oldest.sequence, key), None);
        }
        while let Some(evicted) = log.evict_oldest() {
            self.forgotten_ids.add(&name, &evicted.naming);
            self.forget(&evicted, EvictionReason::Topics);
        }
    }

    /// A topic whose oldest entry is older than it may be.
    fn topic_of_too_old(&self, now: Duration) -> Option<TopicKey> {
        let is_too_old = |&(age_max, topic): &(Duration, TopicKey)| {
            self.topics.get(topic).log.oldest().is_some_and(|entry| entry.appended_at + age_max <= now)
        };
        self.oldest.first_of_each_age().find(is_too_old).map(|(_, topic)| topic)
    }

    fn forget(&mut self, evicted: &Entry, reason: EvictionReason) {
        self.evictions[reason as usize] += 1;
        self.bytes -= evicted.cost_bytes();
        self.entries -= 1;
        self.holds.note_evicted(&evicted.frame);
    }

    /// Bytes of all topics' logs and pinned frames.
    pub fn bytes_total(&self) -> usize {
        self.bytes + self.pinned_bytes()
    }

    /// Bytes of the losses that are remembered.
    pub fn loss_bytes(&self) -> usize {
        self.losses.bytes()
    }

    /// Bytes of frames that are in no log any more, but that are written to a client only in part.
    pub fn pinned_bytes(&self) -> usize {
        self.holds.pinned_bytes()
    }
}
