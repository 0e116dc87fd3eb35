//! Reports about topics, for lists, snapshots and metrics. Changes nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::keys::TopicKey;
use super::topics::TopicEntry;
use super::{Hub, Subscriber};
use crate::event::{EventId, Frame, Sequence, Topic};

/// A report about a topic.
#[derive(Clone, Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: Topic,
    /// Its subscribers.
    pub subscribers: usize,
    /// The id of its newest event that is remembered.
    pub last_id: Option<EventId>,
    /// Everything through here is forgotten, or never existed.
    pub evicted_through: Sequence,
    /// Events that reached its log since the topic exists.
    pub published_events: u64,
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

    /// Shares the bound on topics that only subscribers name with the hubs of other loops. Called before there are any.
    pub fn share_topic_bound(&mut self, subscribed_in_all: Arc<AtomicUsize>) {
        self.topics.share(subscribed_in_all);
    }

    /// How many of them exist only because subscribers name them.
    pub fn subscribed_topic_count(&self) -> usize {
        self.topics.subscribed()
    }

    /// Every topic, in no particular order.
    pub fn topics(&self) -> impl Iterator<Item = TopicInfo> {
        self.topics.iter().map(|(_, entry)| self.info(entry))
    }

    /// One topic, if it exists.
    pub fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.topics.find(name).map(|key| self.info(self.topics.get(key)))
    }

    /// How many places there are for topics, including free ones.
    pub fn topic_places(&self) -> usize {
        self.topics.places()
    }

    /// The name of the topic at a place, if there is one. A topic keeps its place as long as it exists.
    pub fn topic_name_at(&self, place: usize) -> Option<&Topic> {
        self.topics.try_get(TopicKey(u32::try_from(place).ok()?)).map(|entry| &entry.name)
    }

    /// True for a topic of the server's own.
    pub fn is_reserved(&self, topic: TopicKey) -> bool {
        self.topics.get(topic).is_own
    }

    /// The topics of a subscriber.
    pub fn topics_of(&self, subscriber: Subscriber) -> impl Iterator<Item = &Topic> {
        self.entries_of(subscriber).map(|entry| &entry.name)
    }

    /// The frame of the newest event that a topic remembers.
    pub fn latest(&self, topic: &str) -> Option<&Frame> {
        let log = &self.topics.get(self.topics.find(topic)?).log;
        log.newest().map(|entry| &entry.frame)
    }

    pub(super) fn info(&self, entry: &TopicEntry) -> TopicInfo {
        let newest = entry.log.newest();
        TopicInfo {
            name: entry.name.clone(),
            subscribers: entry.subscribers.len(),
            last_id: newest.map(|entry| self.whole_id_of(entry)),
            evicted_through: entry.log.evicted_through(),
            published_events: entry.log.appended(),
            retained_events: entry.log.len(),
            retained_bytes: entry.log.bytes(),
        }
    }
}
