//! What can be told of topics: for lists, snapshots and metrics. Changes nothing.

use super::log::Kind;
use super::topics::TopicEntry;
use super::{Hub, Subscriber};
use crate::event::{EventId, Frame, Sequence, Topic};

/// What can be told of a topic.
#[derive(Clone, Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: Topic,
    /// Its subscribers.
    pub subscribers: usize,
    /// The id of its newest event that is remembered.
    pub last_id: Option<EventId>,
    /// Everything through here is forgotten, or never was.
    pub evicted_through: Sequence,
    /// Entries of its log.
    pub retained_events: usize,
    /// Bytes of its log, bookkeeping included.
    pub retained_bytes: usize,
}

impl Hub {
    /// Entries of all logs.
    pub fn retained_events(&self) -> usize {
        self.entries
    }

    /// How many topics exist.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Every topic, in no order.
    pub fn topics(&self) -> impl Iterator<Item = TopicInfo> {
        self.topics.iter().map(|(_, entry)| self.info(entry))
    }

    /// One topic, if it exists.
    pub fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.topics.find(name).map(|key| self.info(self.topics.get(key)))
    }

    /// True when the subscriber has this topic.
    pub fn is_subscribed(&self, subscriber: Subscriber, topic: &str) -> bool {
        self.entries_of(subscriber).any(|entry| entry.name.as_str() == topic)
    }

    /// The topics with the most subscribers, most first.
    pub fn busiest_topics(&self, count_max: usize) -> Vec<TopicInfo> {
        let mut busiest: Vec<&TopicEntry> = Vec::with_capacity(count_max + 1);
        for (_, entry) in self.topics.iter() {
            let place = busiest.partition_point(|other| other.subscribers.len() >= entry.subscribers.len());
            if place < count_max {
                busiest.insert(place, entry);
                busiest.truncate(count_max);
            }
        }
        busiest.into_iter().map(|entry| self.info(entry)).collect()
    }

    /// The frame of the newest event that a topic remembers.
    pub fn latest(&self, topic: &str) -> Option<&Frame> {
        let log = &self.topics.get(self.topics.find(topic)?).log;
        log.after(Sequence::ZERO).rev().find(|entry| entry.kind == Kind::Event).map(|entry| &entry.frame)
    }

    fn info(&self, entry: &TopicEntry) -> TopicInfo {
        let newest = entry.log.after(Sequence::ZERO).next_back();
        TopicInfo {
            name: entry.name.clone(),
            subscribers: entry.subscribers.len(),
            last_id: newest.map(|entry| entry.foreign_id.clone().unwrap_or_else(|| self.run.id(entry.sequence))),
            evicted_through: entry.log.evicted_through(),
            retained_events: entry.log.len(),
            retained_bytes: entry.log.bytes(),
        }
    }
}
