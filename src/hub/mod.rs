//! The hub, pure: topics, subscriptions, topic logs, walks, replay and gaps. Decides who receives what.
//!
//! ```text
//!  append ──▶ topic log ──▶ walk over the topic's subscribers, in slices ──▶ run for a subscriber's position
//! ```
//!
//! Invariants:
//! - Positions are sequences. A subscriber at position p has had everything at or before p of its topics. What it
//!   gets next is [`Hub::run_for`]: everything after p across its topics, in order. A second visit finds nothing.
//! - A log is evicted by count, bytes and age, and all logs together by bytes; never by who has read what. Only
//!   [`Hub::would_outrun`] looks at readers: it lets the loop wait rather than evict what a walk has not brought
//!   round yet.
//!
//! Absent: sockets, time (passed in as the time since the start), formatting, and what a laggard has half written.

mod forget;
mod keys;
mod log;
mod replay;
mod report;
mod run;
mod subscriptions;
#[cfg(test)]
mod tests;
mod topics;
mod walk;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub use forget::EvictionReason;
pub use keys::{Subscriber, TopicKey};
pub use replay::{MissedGap, MissedReason, Replay, Start};
pub use report::TopicInfo;
pub use run::{Run, RunLimits};
pub use walk::Slice;

use crate::event::{Broadcast, EventId, Frame, RunName, Sequence, Topic};
use log::{Entry, Kind};
use subscriptions::{Seat, Subscriptions};
use topics::{TopicEntry, Topics};

/// The bounds of what the hub remembers. Together with the subscribers they bound its memory.
#[derive(Clone, Debug)]
pub struct HubLimits {
    /// Topics that exist at a time.
    pub topics_max: usize,
    /// Events that one topic remembers.
    pub history_events_max: usize,
    /// Bytes that one topic remembers: frames, ids and bookkeeping.
    pub history_bytes_max: usize,
    /// Bytes that all topics remember, with the frames that are evicted but half written to someone.
    pub history_bytes_total_max: usize,
    /// How long an event is remembered.
    pub history_age_max: Duration,
    /// Events that one replay brings at most.
    pub replay_events_max: Option<usize>,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits {
            topics_max: 100_000,
            history_events_max: 1000,
            history_bytes_max: 1 << 20,
            history_bytes_total_max: 64 << 20,
            history_age_max: Duration::from_secs(300),
            replay_events_max: None,
        }
    }
}

/// What became of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in its topic's log, and on its way if the topic has subscribers.
    Logged,
    /// The topic still remembers an event of this id.
    Duplicate,
    /// There is no room for another topic, and each has subscribers.
    NoTopic,
}

/// There is no room for another topic, and each has subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many topics as are allowed have subscribers already")]
pub struct TopicsExhausted;

/// The hub. See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    run: RunName,
    limits: HubLimits,
    topics: Topics,
    subscriptions: Subscriptions,
    walks: VecDeque<TopicKey>,
    /// The oldest entry of each log that has any: the first of them is the oldest of all.
    oldest: BTreeSet<(Sequence, TopicKey)>,
    head: Sequence,
    /// Bytes of all logs.
    bytes: usize,
    entries: usize,
    /// Frames that are in no log any more, but half written to someone.
    pinned: Vec<Frame>,
    pinned_bytes: usize,
    evictions: [u64; EvictionReason::ALL.len()],
}

impl Hub {
    /// An empty hub of the run whose ids it knows.
    pub fn new(run: RunName, limits: HubLimits) -> Hub {
        let topics = Topics::new(limits.topics_max);
        Hub {
            run,
            limits,
            topics,
            subscriptions: Subscriptions::default(),
            walks: VecDeque::new(),
            oldest: BTreeSet::new(),
            head: Sequence::ZERO,
            bytes: 0,
            entries: 0,
            pinned: Vec::new(),
            pinned_bytes: 0,
            evictions: [0; EvictionReason::ALL.len()],
        }
    }

    /// The newest position.
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// The run whose ids it knows.
    pub fn run(&self) -> RunName {
        self.run
    }

    /// Its bounds.
    pub fn limits(&self) -> &HubLimits {
        &self.limits
    }

    // ---- what comes in ----

    /// Appends a broadcast to its topic's log and starts, or prolongs, the walk over its subscribers.
    pub fn append(&mut self, broadcast: Broadcast, now: Duration) -> Appended {
        let Broadcast { sequence, topic, foreign_id, frame } = broadcast;
        self.advance(sequence);
        // An id of this run's own is new: it is made of the sequence.
        if foreign_id.as_ref().is_some_and(|id| self.remembers(topic.as_str(), id)) {
            return Appended::Duplicate;
        }
        let Ok(key) = self.find_or_insert(&topic) else {
            // Who comes for this topic later must not think that nothing was.
            self.topics.raise_floor(sequence);
            return Appended::NoTopic;
        };
        self.log(key, Entry { sequence, foreign_id, kind: Kind::Event, frame, appended_at: now });
        Appended::Logged
    }

    /// Appends a gap to the logs of `topics`, or of all, under the one sequence, so that each subscriber hears it once.
    pub fn append_gap(&mut self, sequence: Sequence, topics: Option<&[Topic]>, frame: &Frame, now: Duration) {
        self.advance(sequence);
        let keys: Vec<_> = match topics {
            Some(topics) => {
                let keys: Vec<_> = topics.iter().filter_map(|topic| self.topics.find(topic.as_str())).collect();
                if keys.len() < topics.len() {
                    self.topics.raise_floor(sequence); // also for those that don't exist yet
                }
                keys
            }
            None => {
                self.topics.raise_floor(sequence);
                self.topics.iter().map(|(key, _)| key).collect()
            }
        };
        for key in keys {
            let entry = self.topics.get_mut(key);
            if entry.subscribers.is_empty() && entry.log.is_empty() {
                // Nobody to tell and nothing to stand beside: that something is gone says it all.
                entry.log.skip_to(sequence);
                continue;
            }
            // A copy for each log: a frame that several hold would look half written when one of them evicts it.
            let frame = frame.bytes().into();
            self.log(key, Entry { sequence, foreign_id: None, kind: Kind::Gap, frame, appended_at: now });
        }
    }

    /// True while the topic remembers an event of this id.
    pub fn remembers(&self, topic: &str, id: &EventId) -> bool {
        let Some(key) = self.topics.find(topic) else { return false };
        let log = &self.topics.get(key).log;
        let own = || self.run.position(id.as_str()).is_some_and(|position| log.holds(position));
        log.holds_foreign(id.as_str()) || own()
    }

    fn advance(&mut self, sequence: Sequence) {
        debug_assert!(sequence > self.head, "the channel keeps the sequencer's order");
        self.head = sequence;
    }

    /// True when the topic exists, or could.
    pub fn has_room_for(&mut self, topic: &str) -> bool {
        self.topics.find(topic).is_some() || !self.topics.is_full() || self.topics.has_unused()
    }

    fn find_or_insert(&mut self, topic: &Topic) -> Result<TopicKey, TopicsExhausted> {
        if let Some(key) = self.topics.find(topic.as_str()) {
            return Ok(key);
        }
        if self.topics.is_full() {
            let (key, vanished) = self.topics.take_unused().ok_or(TopicsExhausted)?;
            self.forget_log(key, vanished.log);
        }
        Ok(self.topics.insert(topic))
    }

    fn log(&mut self, key: TopicKey, entry: Entry) {
        let (bytes, now) = (entry.cost_bytes(), entry.appended_at);
        let log = &self.topics.get(key).log;
        let over_events = (log.len() + 1).saturating_sub(self.limits.history_events_max);
        (0..over_events).for_each(|_| _ = self.evict_oldest_of(key, EvictionReason::Events));
        while self.topics.get(key).log.bytes() + bytes > self.limits.history_bytes_max
            && self.evict_oldest_of(key, EvictionReason::Bytes)
        {}
        while self.bytes_total() + bytes > self.limits.history_bytes_total_max && self.evict_oldest_of_all() {}

        let previous = self.topics.get(key).log.last();
        self.remember(key, entry);
        self.start_walk(key, previous, now);
    }

    // ---- runs: what they receive ----

    /// The run for every subscriber of `topic` alone that stands where one at `after` stands.
    pub fn run_for_topic(&self, topic: TopicKey, after: Sequence, limits: RunLimits, run: &mut Run) {
        run.clear();
        let log = &self.topics.get(topic).log;
        let first = log.index_after(after);
        let fitted = log.after(after).all(|entry| run.push(&entry.frame, entry.sequence, limits));
        run.finish(fitted, after, self.head);
        if let Some(next) = log.get(first) {
            let before = first.checked_sub(1).and_then(|index| log.get(index));
            let lowest = before.map_or(log.evicted_through(), |entry| entry.sequence);
            run.cover(lowest, Sequence(next.sequence.0 - 1));
        }
    }

    /// Adds to `run` what a subscriber at `after` gets next: everything newer across its topics, in order, but
    /// nothing beyond `through`.
    pub fn run_for(
        &self,
        subscriber: Subscriber,
        after: Sequence,
        through: Sequence,
        limits: RunLimits,
        run: &mut Run,
    ) {
        let seats = self.subscriptions.of(subscriber);
        let fitted = if let [seat] = seats {
            let entries = self.topics.get(seat.topic).log.after(after);
            let mut entries = entries.take_while(|entry| entry.sequence <= through);
            entries.all(|entry| run.push(&entry.frame, entry.sequence, limits))
        } else {
            let logs: Vec<_> = seats.iter().map(|seat| &self.topics.get(seat.topic).log).collect();
            let mut indexes: Vec<_> = logs.iter().map(|log| log.index_after(after)).collect();
            loop {
                // The lowest next sequence of all; equal ones are one gap in several logs, told once.
                let nexts = logs.iter().zip(&indexes).filter_map(|(log, index)| log.get(*index));
                let Some(next) = nexts.min_by_key(|entry| entry.sequence) else { break true };
                if next.sequence > through {
                    break true;
                }
                if !run.push(&next.frame, next.sequence, limits) {
                    break false;
                }
                for (log, index) in logs.iter().zip(&mut indexes) {
                    *index += usize::from(log.get(*index).is_some_and(|entry| entry.sequence == next.sequence));
                }
            }
        };
        run.finish(fitted, after, through.min(self.head));
    }

    /// Adds to `run` only the newest event of each of the subscriber's topics, and the newest gap, if newer than
    /// `after`. What does not fit is newer than what does, and so in the next run.
    pub fn latest_run_for(&self, subscriber: Subscriber, after: Sequence, limits: RunLimits, run: &mut Run) {
        let mut newest: Vec<&Entry> = Vec::new();
        for entry in self.entries_of(subscriber) {
            newest.extend(
                [Kind::Event, Kind::Gap]
                    .iter()
                    .filter_map(|kind| entry.log.after(after).rev().find(|entry| entry.kind == *kind)),
            );
        }
        newest.sort_unstable_by_key(|entry| entry.sequence);
        newest.dedup_by_key(|entry| entry.sequence);
        let fitted = newest.iter().all(|entry| run.push(&entry.frame, entry.sequence, limits));
        run.finish(fitted, after, self.head);
    }

    // ---- who comes and goes ----

    /// Gives `subscriber` a seat in each of `topics` (no two the same), or in none.
    pub fn subscribe(&mut self, subscriber: Subscriber, topics: &[Topic]) -> Result<(), TopicsExhausted> {
        let mut seats = Vec::with_capacity(topics.len());
        for topic in topics {
            match self.find_or_insert(topic) {
                Ok(topic) => {
                    // Seated at once: an empty topic could make place for the next one.
                    let list = &mut self.topics.get_mut(topic).subscribers;
                    seats.push(Seat { topic, index: list.len() as u32 });
                    list.push(subscriber);
                }
                Err(exhausted) => {
                    self.subscriptions.seat(subscriber, seats);
                    self.unsubscribe(subscriber);
                    return Err(exhausted);
                }
            }
        }
        self.subscriptions.seat(subscriber, seats);
        Ok(())
    }

    /// Takes its seats away. Walks in progress miss nobody else.
    pub fn unsubscribe(&mut self, subscriber: Subscriber) {
        for Seat { topic, index } in self.subscriptions.leave(subscriber) {
            let list = &mut self.topics.get_mut(topic).subscribers;
            list.swap_remove(index as usize);
            match list.get(index as usize) {
                Some(moved) => self.subscriptions.moved(*moved, topic, index),
                None if list.is_empty() => {
                    *list = Vec::new();
                    self.topics.mark_unused(topic);
                }
                None => {}
            }
        }
    }

    /// The newest position of which something is gone from the logs of the subscriber's topics.
    pub fn evicted_through(&self, subscriber: Subscriber) -> Sequence {
        self.evictions_of(subscriber).map(|(_, evicted_through)| evicted_through).max().unwrap_or_default()
    }

    /// The subscriber's topics, and the newest position of which something is gone from the log of each. A gap that
    /// another of its logs still tells is not gone.
    fn evictions_of(&self, subscriber: Subscriber) -> impl Iterator<Item = (&TopicEntry, Sequence)> {
        self.entries_of(subscriber).map(move |entry| {
            let is_told = |gap| self.entries_of(subscriber).any(|other| other.log.holds(gap));
            (entry, entry.log.lost_through(is_told))
        })
    }

    fn entries_of(&self, subscriber: Subscriber) -> impl Iterator<Item = &TopicEntry> {
        self.subscriptions.of(subscriber).iter().map(|seat| self.topics.get(seat.topic))
    }
}
