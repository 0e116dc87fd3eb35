//! Feeds: messages of applications' topics in Kafka go onto a durable bus.
//!
//! All nodes are in one consumer group, which gives each partition to one of them. The group only divides the work: how
//! far a partition was read is its cursor, which the bus stores in the step that appends ([`CursorEngine`]).
//!
//! 1. A node reads a partition from the partition's cursor on, and appends in the order of the offsets.
//! 2. An append moves the cursor from where this node knows it to be. If another node has moved it, because this one was
//!    paused or the group has given the partition away, nothing is appended.
//! 3. So each message is appended once, or a gap is there, whenever a node stops, hangs or crashes. After an error, the
//!    node leaves the group, and begins again at the cursors.
//!
//! Absent: offsets committed to Kafka.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::{Partition, Statistics};
use rdkafka::types::RDKafkaRespErr;

use crate::observe::clip::clip;
use crate::protocol::publish::PublishLimits;
use crate::sources::backoff::{Backoff, BackoffLimits};
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::{BusBounds, Content};
use crate::sources::channel::{Refusal, SourceStatus};
use crate::sources::kafka::partition::FedPartition;
use crate::sources::kafka::places::Places;
use crate::sources::kafka::watch::Watch;
use crate::sources::kafka::{KafkaAddress, text_of};
use crate::sources::kafka_figures::{ConsumerFigures, KafkaFigures};
use crate::sources::payload::{self, Parsed, Payload, Refused};
use crate::sources::refused_log::RefusedLog;
use crate::sources::thread::{SourceThread, Stop};
use crate::sources::throttle::LogThrottle;

/// How long to wait for messages before something else is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// After this much silence, the group takes a node's partitions away.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look for new partitions.
const METADATA_INTERVAL: Duration = Duration::from_secs(30);
/// What is taken before it is appended: messages.
const TURN_MESSAGES_MAX: usize = 4096;
/// Their bytes; the last message may exceed them.
const TURN_BYTES_MAX: usize = 4 << 20;
/// What librdkafka reads ahead, in KiB.
const READ_AHEAD_KIB: usize = 16 << 10;
/// What one answer of a broker has, unless its first message is larger.
const FETCH_BYTES_MAX: usize = 8 << 20;
/// The log message for a message that is not an event.
const REFUSED: &str = "a message from Kafka was refused";

/// What is read.
#[derive(Clone, Debug)]
pub struct TopicFeedSettings {
    /// The address of Kafka.
    pub address: KafkaAddress,
    /// The topics of Kafka.
    pub feeds: Vec<TopicFeed>,
    /// The consumer group of all nodes.
    pub group: String,
    /// The format of the messages.
    pub payload: Payload,
    /// How large an event of this node may be.
    pub limits: PublishLimits,
    /// How large an event of the bus may be.
    pub bounds: Arc<BusBounds>,
    /// Delays between attempts.
    pub backoff: BackoffLimits,
}

/// A topic of Kafka, and the topic of its events.
#[derive(Clone, Debug)]
pub struct TopicFeed {
    /// The topic of Kafka.
    pub name: String,
    /// The topic of its events: the message's key stands between each two parts.
    pub topic: Vec<String>,
}

/// Starts the feeds. A Kafka or a bus that can't be reached is not an error.
pub fn spawn_feeds(
    settings: TopicFeedSettings,
    engine: Box<dyn CursorEngine>,
    figures: Arc<KafkaFigures>,
    status: Arc<SourceStatus>,
) -> io::Result<SourceThread> {
    let mut feeder = Feeder {
        backoff: Backoff::new(settings.backoff),
        places: Places::new(engine),
        settings,
        figures,
        status: Arc::clone(&status),
        refused_log: RefusedLog::new(REFUSED),
        log: LogThrottle::default(),
    };
    let lost = move |error| status.set_down(error);
    SourceThread::spawn("kafka-feed", lost, move |stop| feeder.run(stop))
}

/// The thread's state.
struct Feeder {
    settings: TopicFeedSettings,
    places: Places,
    figures: Arc<KafkaFigures>,
    status: Arc<SourceStatus>,
    backoff: Backoff,
    refused_log: RefusedLog,
    log: LogThrottle,
}

/// A membership in the group.
struct Session {
    consumer: BaseConsumer<Assignments>,
    /// In the order of their topics and numbers.
    partitions: Vec<FedPartition>,
}

impl Feeder {
    fn run(&mut self, stop: &Stop) {
        while !stop.is_asked() {
            let Err(error) = self.session(stop) else { break };
            self.consumer_figures(|figures| figures.set_assigned([]));
            self.status.count_reconnect();
            if let Some(swallowed) = self.log.permit(Instant::now()) {
                let address = &self.settings.address;
                tracing::warn!(%address, error, swallowed, "reading from Kafka was interrupted");
            }
            self.status.set_down(error);
            if stop.wait(self.backoff.next_delay(getrandom::u64().unwrap_or_default())) {
                break;
            }
        }
    }

    /// Joins the group, and appends until asked to stop.
    fn session(&mut self, stop: &Stop) -> Result<(), String> {
        let names: Vec<_> = self.settings.feeds.iter().map(|feed| feed.name.clone()).collect();
        // Without the bus, this node takes no partition from another one.
        let is_known = self.places.know_topics(&names)?;
        let mut session = Session { consumer: self.open()?, partitions: Vec::new() };
        if !is_known {
            self.places.note_topics(&names, &session.consumer)?;
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        session.consumer.subscribe(&names).map_err(|error| text_of(&error))?;
        while !stop.is_asked() {
            self.turn(&mut session)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<BaseConsumer<Assignments>, String> {
        let mut config = self.settings.address.client_config();
        Watch::configure(&mut config);
        config.set("group.id", &self.settings.group).set("enable.auto.commit", "false");
        config.set("session.timeout.ms", SESSION_TIMEOUT.as_millis().to_string());
        config.set("partition.assignment.strategy", "roundrobin");
        // What the retention has passed over is a gap.
        config.set("auto.offset.reset", "error").set("isolation.level", "read_committed");
        config.set("topic.metadata.refresh.interval.ms", METADATA_INTERVAL.as_millis().to_string());
        config.set("queued.max.messages.kbytes", READ_AHEAD_KIB.to_string());
        config.set("fetch.max.bytes", FETCH_BYTES_MAX.to_string());
        let watch = Watch::new("feeds", Arc::clone(&self.figures), Arc::clone(&self.status));
        config.create_with_context(Assignments { watch, newest: Mutex::default() }).map_err(|error| text_of(&error))
    }

    /// Takes what has arrived, and appends it.
    fn turn(&mut self, session: &mut Session) -> Result<(), String> {
        let (mut wait, mut messages, mut bytes) = (POLL_INTERVAL, 0, 0);
        while messages < TURN_MESSAGES_MAX && bytes < TURN_BYTES_MAX {
            match session.consumer.poll(wait) {
                Some(Ok(message)) => {
                    messages += 1;
                    bytes += message.payload_len();
                    if self.take(&message, &mut session.partitions) {
                        break;
                    }
                }
                Some(Err(error)) => self.take_error(&error, &mut session.partitions)?,
                None => break,
            }
            wait = Duration::ZERO;
        }
        self.refused_log.log_left_out();
        if let Some(assigned) = session.consumer.context().take() {
            // What was not appended, the next owner reads again.
            session.partitions = self.partitions(assigned);
            self.places.take_over(&mut session.partitions);
            self.note_assigned(session);
        }
        for partition in &mut session.partitions {
            self.append(partition)?;
        }
        if self.places.find(&mut session.partitions, &session.consumer, |error| self.status.set_error(error))? {
            session.read_on()?;
            self.note_assigned(session);
            self.backoff.reset();
        }
        Ok(())
    }

    fn partitions(&self, mut assigned: Vec<(String, i32)>) -> Vec<FedPartition> {
        assigned.sort();
        let feed_of = |name: &str| self.settings.feeds.iter().find(|feed| feed.name == name);
        let assigned = assigned.into_iter();
        assigned.filter_map(|(name, number)| Some(FedPartition::new(feed_of(&name)?, number))).collect()
    }

    /// Takes a message; true when its partition has enough to append.
    fn take(&mut self, message: &BorrowedMessage<'_>, partitions: &mut [FedPartition]) -> bool {
        let place = (message.topic(), message.partition());
        let found = partitions.binary_search_by(|partition| partition.place().cmp(&place));
        let Some(partition) = found.ok().map(|index| &mut partitions[index]) else { return false };
        if partition.passes(message.offset()) {
            self.status.count_received();
            self.read(message, partition);
        }
        partition.is_full()
    }

    /// Makes events of a message.
    fn read(&mut self, message: &BorrowedMessage<'_>, partition: &mut FedPartition) {
        let payload = message.payload().unwrap_or_default();
        let topic = match partition.topic_of(message.key(), &self.settings.limits) {
            Ok(topic) => topic,
            // A name that is no topic has no subscribers, so there is no gap to announce.
            Err(reason) => {
                let refused = Refused { refusal: Refusal::Malformed, topics: Vec::new(), reason };
                return self.refuse(message, partition, &refused);
            }
        };
        let parsed = payload::parse(self.settings.payload, &topic, payload, &self.settings.limits);
        let events = match parsed {
            Ok(Parsed::Data(data)) => vec![crate::event::Event::message(topic, data)],
            Ok(Parsed::Events(events)) => events,
            Err(refused) => return self.refuse(message, partition, &refused),
        };
        for event in events {
            if self.settings.bounds.admits(&event) {
                partition.contents.push(Content::Event(event));
            } else {
                let reason = "it is larger than the bus takes".to_owned();
                let refused = Refused { refusal: Refusal::TooLarge, topics: vec![event.topic], reason };
                self.refuse(message, partition, &refused);
            }
        }
    }

    fn refuse(&mut self, message: &BorrowedMessage<'_>, partition: &mut FedPartition, refused: &Refused) {
        self.status.count_refused(refused.refusal);
        refused.topics.iter().for_each(|topic| partition.contents.announce_refused(topic));
        if self.refused_log.admit() {
            let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
            tracing::warn!(topic, partition, offset, reason = &*clip(&refused.reason), "{REFUSED}");
        }
    }

    /// Most errors pass, and librdkafka tries again.
    fn take_error(&mut self, error: &KafkaError, partitions: &mut [FedPartition]) -> Result<(), String> {
        let text = text_of(error);
        let code = error.rdkafka_error_code();
        let is_in_no_group = code == Some(RDKafkaErrorCode::GroupAuthorizationFailed);
        if is_in_no_group || matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(text);
        }
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.places.suspect(partitions);
        }
        if let Some(swallowed) = self.log.permit(Instant::now()) {
            tracing::warn!(error = text, swallowed, "reading from Kafka met an error");
        }
        self.status.set_error(text);
        Ok(())
    }

    fn append(&mut self, partition: &mut FedPartition) -> Result<(), String> {
        let Some(appended) = self.places.append(partition)? else { return Ok(()) };
        for (content, receipt) in appended {
            match content {
                _ if receipt.is_duplicate => self.status.count_refused(Refusal::Duplicate),
                Content::Event(event) => self.figures.received.add(&event.topic, event.data.len()),
                _ => {}
            }
        }
        self.consumer_figures(|figures| figures.note_position(partition.place(), partition.position()));
        Ok(())
    }

    fn note_assigned(&self, session: &Session) {
        let places = session.partitions.iter().filter(|partition| partition.is_placed());
        let places = places.map(|partition| {
            let (name, number) = partition.place();
            ((name.to_owned(), number), partition.position())
        });
        self.consumer_figures(|figures| figures.set_assigned(places));
    }

    fn consumer_figures(&self, note: impl FnOnce(&ConsumerFigures)) {
        self.figures.consumer.as_ref().map(note);
    }
}

impl Session {
    /// Reads the partitions whose places are known, from these on.
    fn read_on(&self) -> Result<(), String> {
        let mut list = TopicPartitionList::new();
        for partition in self.partitions.iter().filter(|partition| partition.is_placed()) {
            partition.add_to(&mut list).map_err(|error| text_of(&error))?;
        }
        self.consumer.assign(&list).map_err(|error| text_of(&error))
    }
}

/// Receives what the group assigns to this node.
struct Assignments {
    watch: Watch,
    /// The newest assignment, until the thread takes it.
    newest: Mutex<Option<Vec<(String, i32)>>>,
}

impl Assignments {
    fn take(&self) -> Option<Vec<(String, i32)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes what librdkafka reports about a partition.
fn note_partition(figures: &ConsumerFigures, topic: &str, partition: &Partition) {
    if partition.hi_offset >= 0 {
        figures.note_end(topic, partition.partition, partition.hi_offset);
    }
    // Behind the last message may be the marks of transactions.
    if partition.fetchq_cnt == 0 {
        figures.note_position((topic, partition.partition), partition.next_offset);
    }
}

impl ClientContext for Assignments {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.watch.log(level, kind, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(figures) = &self.watch.figures.consumer {
            let group_state = statistics.cgrp.as_ref().map_or("", |group| group.join_state.as_str());
            figures.set_group_state(group_state);
            for (name, topic) in &statistics.topics {
                topic.partitions.values().for_each(|partition| note_partition(figures, name, partition));
            }
        }
        self.watch.stats(statistics);
    }
}

impl ConsumerContext for Assignments {
    /// Takes nothing at once: where to begin is looked up first.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, cause: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let is_given = cause == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let assigned = if is_given { list.elements() } else { Vec::new() };
        let assigned: Vec<_> =
            assigned.iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        tracing::info!(
            partitions = assigned.len(),
            "the group of nodes that read Kafka assigns partitions to this one"
        );
        // A node that is given no partition must accept that, too, or the group waits for it.
        let outcome = match is_given {
            true => consumer.assign(&TopicPartitionList::new()),
            false => consumer.unassign(),
        };
        if let Err(error) = outcome {
            tracing::warn!(error = text_of(&error), "librdkafka refuses an assignment");
        }
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(assigned);
    }
}
