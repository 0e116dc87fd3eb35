//! A partition that this node reads: how far, and what waits to be appended.

use std::time::Instant;

use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::event::Topic;
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::Contents;
use crate::sources::kafka::feeds::TopicFeed;
use crate::sources::payload;

/// A partition of a topic of Kafka.
#[derive(Debug)]
pub(super) struct FedPartition {
    feed: TopicFeed,
    number: i32,
    /// Its cursor, as this node knows it; none: it is not read before that is found.
    pub(super) cursor: Option<i64>,
    /// The next offset: what is before it was appended, or waits.
    next: i64,
    /// What waits.
    pub(super) contents: Contents,
    /// True: Kafka may no longer have what is at the cursor.
    pub(super) is_suspect: bool,
    /// True: it ended before its cursor when Kafka was last asked.
    pub(super) is_short: bool,
    /// When to look for the cursor again, if that failed.
    pub(super) tries_at: Option<Instant>,
}

impl FedPartition {
    /// Of a feed; not placed yet.
    pub(super) fn new(feed: &TopicFeed, number: i32) -> FedPartition {
        FedPartition {
            feed: feed.clone(),
            number,
            cursor: None,
            next: 0,
            contents: Contents::default(),
            is_suspect: false,
            is_short: false,
            tries_at: None,
        }
    }

    /// The topic of Kafka, and the number.
    pub(super) fn place(&self) -> (&str, i32) {
        (&self.feed.name, self.number)
    }

    /// Its name among the sources of the bus.
    pub(super) fn source(&self) -> String {
        format!("{}:{}", topic_source(&self.feed.name), self.number)
    }

    /// The topics that its events can have; none: any.
    pub(super) fn topics(&self) -> Vec<Topic> {
        match &self.feed.topic[..] {
            [only] => Topic::new(only).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The topic of a message.
    pub(super) fn topic_of(&self, key: Option<&[u8]>, limits: &PublishLimits) -> Result<Topic, String> {
        let parts: Vec<_> = self.feed.topic.iter().map(String::as_bytes).collect();
        let name = match (key, parts.len()) {
            (None, 2..) => return Err("the message has no key, of which its topic is made".to_owned()),
            (key, _) => parts.join(key.unwrap_or_default()),
        };
        payload::parse_topic("the topic's name", &name, limits)
    }

    /// True for a message that was not seen yet; the next one comes after it.
    pub(super) fn passes(&mut self, offset: i64) -> bool {
        let is_new = self.cursor.is_some() && offset >= self.next;
        if is_new {
            self.next = offset + 1;
        }
        is_new
    }

    /// True when what waits should be appended first.
    pub(super) fn is_full(&self) -> bool {
        self.contents.are_full()
    }

    /// True once it is known where to read.
    pub(super) fn is_placed(&self) -> bool {
        self.cursor.is_some()
    }

    /// The next offset.
    pub(super) fn position(&self) -> i64 {
        self.next
    }

    /// It is read from here on.
    pub(super) fn set_place(&mut self, cursor: i64) {
        (self.cursor, self.next, self.tries_at) = (Some(cursor), cursor, None);
        (self.is_suspect, self.is_short) = (false, false);
    }

    /// Kafka may no longer have what comes next. Its place is looked for from this time on.
    pub(super) fn lose_place(&mut self, tries_at: Instant) {
        self.contents.take();
        (self.cursor, self.is_suspect, self.tries_at) = (None, true, Some(tries_at));
    }

    /// Adds it to what is read.
    pub(super) fn add_to(&self, list: &mut TopicPartitionList) -> Result<(), KafkaError> {
        list.add_partition_offset(&self.feed.name, self.number, Offset::Offset(self.next))
    }
}

/// The name of a topic of Kafka among the sources of the bus. Its cursor is the number of partitions that it had when it
/// was first read: those are read from their ends, and later ones from their beginnings.
pub(super) fn topic_source(name: &str) -> String {
    format!("kafka:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 10, data_bytes_max: 1, batch_max: 1 };

    fn partition(parts: &[&str]) -> FedPartition {
        let feed = TopicFeed { name: "k".to_owned(), topic: parts.iter().map(|part| (*part).to_owned()).collect() };
        FedPartition::new(&feed, 3)
    }

    #[test]
    fn a_topic_may_be_made_of_the_key() {
        let check = |parts: &[&str], key: Option<&[u8]>, expected: Result<&str, &str>| {
            let topic = partition(parts).topic_of(key, &LIMITS);
            match (topic, expected) {
                (Ok(topic), Ok(name)) => assert_eq!(topic.as_str(), name),
                (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
                (topic, _) => panic!("{topic:?}"),
            }
        };
        check(&["news"], None, Ok("news"));
        check(&["news"], Some(b"k"), Ok("news"));
        check(&["a.", ""], Some(b"k"), Ok("a.k"));
        check(&["", "/", ""], Some(b"k"), Ok("k/k"));
        check(&["a.", ""], Some(b""), Ok("a."));
        check(&["a.", ""], None, Err("no key"));
        check(&["a.", ""], Some(b"\xff"), Err("not UTF-8"));
        check(&["a.", ""], Some(b"123456789"), Err("11 bytes"));
        check(&["", ""], Some(b"fanfare:x"), Err("reserved"));
        assert_eq!((partition(&["a"]).topics().len(), partition(&["a", ""]).topics().len()), (1, 0));
        assert_eq!(partition(&["a"]).source(), "kafka:k:3");
    }

    #[test]
    fn an_offset_passes_once_and_only_when_the_place_is_known() {
        let mut partition = partition(&["a"]);
        assert!(!partition.passes(5));
        partition.set_place(5);
        assert_eq!([4, 5, 5, 9, 8].map(|offset| partition.passes(offset)), [false, true, false, true, false]);
        assert_eq!(partition.position(), 10);
        partition.lose_place(Instant::now());
        assert!(!partition.passes(10) && partition.is_suspect);
    }
}
