//! Where partitions are read: their cursors, which the bus stores with what is appended.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use crate::event::Topic;
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::{Content, EngineError, Receipt};
use crate::sources::channel::GapReason;
use crate::sources::kafka::partition::{FedPartition, topic_source};
use crate::sources::kafka::{ANSWER_TIMEOUT, text_of};

/// How long to wait for the bounds of a partition.
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the search for cursors may take before messages are looked at again.
const SEARCH_MAX: Duration = Duration::from_secs(5);
/// How long to wait for the other errors of an answer: it has one for each partition, and they come one by one.
const SETTLE: Duration = Duration::from_millis(250);
/// When to search again for the place of a partition whose leader gave no answer.
const RETRY: Duration = Duration::from_secs(2);

/// The cursors on the bus.
pub(super) struct Places {
    engine: Box<dyn CursorEngine>,
    /// How many partitions each topic had when it was first read.
    first_partitions: Vec<(String, i32)>,
    /// Kafka refused a place, and no partition was found since that lacks what is at its cursor.
    is_unexplained: bool,
}

impl Places {
    pub(super) fn new(engine: Box<dyn CursorEngine>) -> Places {
        Places { engine, first_partitions: Vec::new(), is_unexplained: false }
    }

    /// Reads what the bus has about these topics; false: it lacks some of them.
    pub(super) fn know_topics(&mut self, names: &[String]) -> Result<bool, String> {
        self.first_partitions.clear();
        for name in names {
            if let Some(count) = self.number_at(&topic_source(name))? {
                self.first_partitions.push((name.clone(), i32::try_from(count).unwrap_or(i32::MAX)));
            }
        }
        Ok(self.first_partitions.len() == names.len())
    }

    /// Stores how many partitions the topics have that no node has read before.
    pub(super) fn note_topics<C: ConsumerContext>(
        &mut self,
        names: &[String],
        consumer: &BaseConsumer<C>,
    ) -> Result<(), String> {
        for name in names {
            if !self.first_partitions.iter().any(|(known, _)| known == name) {
                let count = partition_count(name, consumer)?;
                // If another node was first, that one's number counts.
                self.engine.append_from(&topic_source(name), None, &count.to_string(), &[]).map_err(text)?;
            }
        }
        match self.know_topics(names)? {
            true => Ok(()),
            false => Err("the bus does not keep the cursors of topics".to_owned()),
        }
    }

    /// Kafka does not have what comes next in one of these partitions. The error does not say in which one.
    pub(super) fn suspect(&mut self, partitions: &mut [FedPartition]) {
        let settled_at = Instant::now() + SETTLE;
        partitions.iter_mut().for_each(|partition| partition.lose_place(settled_at));
        self.is_unexplained = true;
    }

    /// Takes new partitions: what was refused may be one of them.
    pub(super) fn take_over(&mut self, partitions: &mut [FedPartition]) {
        if self.is_unexplained {
            self.suspect(partitions);
        }
    }

    /// Finds the cursors of partitions that have none. True if any was found. What only delays it is for `report`.
    pub(super) fn find<C: ConsumerContext>(
        &mut self,
        partitions: &mut [FedPartition],
        consumer: &BaseConsumer<C>,
        report: impl Fn(String),
    ) -> Result<bool, String> {
        let begun_at = Instant::now();
        let is_due = |partition: &&mut FedPartition| {
            !partition.is_placed() && partition.tries_at.is_none_or(|tries_at| begun_at >= tries_at)
        };
        let mut is_found = false;
        let mut suspects = partitions.iter().filter(|partition| partition.is_suspect).count();
        let topics = topics_of(partitions);
        for partition in partitions.iter_mut().filter(is_due) {
            let is_last = partition.is_suspect && suspects == 1;
            match self.place(partition, consumer, is_last.then_some(&topics[..]))? {
                Ok(cursor) => {
                    suspects -= usize::from(partition.is_suspect);
                    partition.set_place(cursor);
                    is_found = true;
                }
                Err(error) => {
                    partition.tries_at = Some(Instant::now() + RETRY);
                    let (name, number) = partition.place();
                    report(format!("partition {number} of {name}: {error}"));
                }
            }
            if begun_at.elapsed() >= SEARCH_MAX {
                break;
            }
        }
        Ok(is_found)
    }

    /// The place of a partition, or why that is not known yet. A place that Kafka no longer has moves, with a gap. If Kafka
    /// refused a place that all partitions have, one of them was cut and has grown again: the last one that is looked at has
    /// the gap for the topics of all.
    fn place<C: ConsumerContext>(
        &mut self,
        partition: &mut FedPartition,
        consumer: &BaseConsumer<C>,
        topics_if_last: Option<&[Topic]>,
    ) -> Result<Result<i64, String>, String> {
        let source = partition.source();
        let stored = self.number_at(&source)?;
        if let (Some(offset), false) = (stored, partition.is_suspect) {
            return Ok(Ok(offset));
        }
        let (name, number) = (partition.place().0.to_owned(), partition.place().1);
        let name = name.as_str();
        let (low, high) = match consumer.fetch_watermarks(name, number, BOUNDS_TIMEOUT) {
            Ok(bounds) => bounds,
            Err(error) => return Ok(Err(text_of(&error))),
        };
        let is_first = self.first_partitions.iter().any(|(known, count)| known == name && number < *count);
        let (to, lost) = match stored {
            Some(offset) if (low..=high).contains(&offset) => match topics_if_last.filter(|_| self.is_unexplained) {
                Some(topics) => (offset, Some(topics.to_vec())),
                None => return Ok(Ok(offset)),
            },
            // One answer may be old.
            Some(offset) if offset > high && !partition.is_short => {
                partition.is_short = true;
                return Ok(Err(format!("it ends at {high}, before {offset}; it is asked again")));
            }
            Some(offset) => (if offset < low { low } else { high }, Some(partition.topics())),
            None if is_first => (high, None),
            None => (low, (low > 0).then(|| partition.topics())),
        };
        let is_lost = lost.is_some();
        let gap = lost.map(|topics| Content::Gap { reason: GapReason::SourceLost, topics });
        let from = stored.map(|offset| offset.to_string());
        let moved = self.engine.append_from(&source, from.as_deref(), &to.to_string(), gap.as_slice()).map_err(text)?;
        if moved.is_some() && is_lost {
            self.is_unexplained = false;
            tracing::warn!(topic = name, partition = number, from, to, "Kafka no longer has messages: a gap");
        }
        Ok(moved.map(|_| to).ok_or_else(|| "another node has moved its cursor".to_owned()))
    }

    /// Appends what waits, and moves the cursor. None: there is nothing.
    pub(super) fn append(
        &mut self,
        partition: &mut FedPartition,
    ) -> Result<Option<impl Iterator<Item = (Content, Receipt)>>, String> {
        let to = partition.position();
        let Some(cursor) = partition.cursor.filter(|cursor| *cursor < to) else { return Ok(None) };
        let contents = partition.contents.take();
        let from = cursor.to_string();
        let receipts = self.engine.append_from(&partition.source(), Some(&from), &to.to_string(), &contents);
        let Some(receipts) = receipts.map_err(text)? else {
            let (name, number) = partition.place();
            return Err(format!("another node has read partition {number} of {name} beyond {from}"));
        };
        partition.cursor = Some(to);
        Ok(Some(contents.into_iter().zip(receipts)))
    }

    fn number_at(&mut self, source: &str) -> Result<Option<i64>, String> {
        let cursor = self.engine.cursor(source).map_err(text)?;
        let number = cursor.map(|cursor| cursor.parse().map_err(|_| format!("the cursor of {source} is no number")));
        number.transpose()
    }
}

fn text(EngineError(error): EngineError) -> String {
    error
}

/// The topics that events of these partitions can have; none: any.
fn topics_of(partitions: &[FedPartition]) -> Vec<Topic> {
    let mut all = Vec::new();
    for topics in partitions.iter().map(FedPartition::topics) {
        if topics.is_empty() {
            return topics;
        }
        all.extend(topics.into_iter().filter(|topic| !all.contains(topic)).collect::<Vec<_>>());
    }
    all
}

/// How many partitions a topic has; none, if it does not exist yet.
fn partition_count<C: ConsumerContext>(name: &str, consumer: &BaseConsumer<C>) -> Result<usize, String> {
    let metadata = consumer.fetch_metadata(Some(name), ANSWER_TIMEOUT).map_err(|error| text_of(&error))?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let topic = topic.ok_or_else(|| format!("the brokers do not answer about the topic {name}"))?;
    match topic.error() {
        None => Ok(topic.partitions().len()),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(0),
        Some(error) => Err(format!("topic {name}: {}", RDKafkaErrorCode::from(error))),
    }
}
