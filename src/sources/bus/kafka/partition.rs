//! The one partition of the bus's topic, read by one thread.
//!
//! A [`Partition`] yields dense offsets: those that it skips, because a transaction was aborted or has its mark there, hold
//! nothing. What proves that is Kafka's consumer, which yields every record from the offset that it was given, in order, and
//! reports one that the broker does not have (`auto.offset.reset=error`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};

use crate::protocol::publish::PublishLimits;
use crate::sources::bus::EngineError;
use crate::sources::bus::kafka::record::{self, Record};
use crate::sources::kafka::{ANSWER_TIMEOUT, KafkaAddress, KafkaLog, text_of};

/// The only partition.
pub(super) const PARTITION: i32 = 0;
/// How long a broker waits for a record before it answers that there is none.
const BROKER_WAIT: Duration = Duration::from_millis(100);
/// How long a record that exists may take before the partition is read anew from its place.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of records that wait to be read.
const QUEUED_KIB_MAX: usize = 4 << 10;
/// Bytes of records in one answer of a broker; a larger record comes alone.
const FETCHED_BYTES_MAX: usize = 1 << 20;

/// Why there is no record.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The broker does not have the offset that comes next, or another leader has a shorter history: librdkafka reports it.
    OutOfRange,
    /// The leader says that the partition ends before the offset that comes next. One answer may be old.
    Short,
    /// Anything else; the next call goes on trying.
    Failed(EngineError),
}

impl From<EngineError> for ReadError {
    fn from(error: EngineError) -> ReadError {
        ReadError::Failed(error)
    }
}

/// The oldest offset of the partition, and the one after the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) low: u64,
    pub(super) high: u64,
}

/// A consumer of the partition.
pub(super) struct Partition {
    consumer: BaseConsumer<KafkaLog>,
    brokers: String,
    topic: String,
    /// The offset that is yielded next; none: nothing is read.
    next: Option<u64>,
    /// A record that was read, at `next` or later.
    ahead: Option<Record>,
    /// It is proven that no record is between `next` and this offset, except the one that is `ahead`.
    empty_until: u64,
    is_at_end: bool,
    /// What the leader had when it was last asked.
    range: Range,
}

impl Partition {
    pub(super) fn open(address: &KafkaAddress, topic: &str) -> Result<Partition, EngineError> {
        let mut config = address.client_config();
        // Assigning a partition needs a group's name. Nothing is stored under it.
        config.set("group.id", format!("fanfare.{topic}")).set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
        // What an application's transaction aborts is no event.
        config.set("isolation.level", "read_committed");
        config.set("fetch.wait.max.ms", BROKER_WAIT.as_millis().to_string());
        config.set("fetch.error.backoff.ms", BROKER_WAIT.as_millis().to_string());
        config.set("queued.max.messages.kbytes", QUEUED_KIB_MAX.to_string());
        config.set("fetch.message.max.bytes", FETCHED_BYTES_MAX.to_string());
        let consumer = config.create_with_context(KafkaLog::new("bus, reading"));
        let brokers = address.to_string();
        let consumer = consumer.map_err(|error| EngineError(format!("{brokers}: {}", text_of(&error))))?;
        let topic = topic.to_owned();
        Ok(Partition {
            consumer,
            brokers,
            topic,
            next: None,
            ahead: None,
            empty_until: 0,
            is_at_end: false,
            range: Range::default(),
        })
    }

    /// The offset that is yielded next.
    pub(super) fn next(&self) -> u64 {
        self.next.unwrap_or_default()
    }

    /// What the leader had when it was last asked.
    pub(super) fn known_range(&self) -> Range {
        self.range
    }

    /// Asks a broker about the topic.
    pub(super) fn metadata(&self) -> Result<Metadata, EngineError> {
        self.consumer.fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT).map_err(|error| self.unanswered(&error))
    }

    /// Asks the leader what it has.
    pub(super) fn ask_range(&mut self) -> Result<Range, EngineError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let (low, high) = loop {
            match self.consumer.fetch_watermarks(&self.topic, PARTITION, ANSWER_TIMEOUT) {
                Ok(range) => break range,
                // librdkafka asks who leads now.
                Err(error) if is_of_a_new_leader(&error) && Instant::now() < deadline => sleep(BROKER_WAIT),
                Err(error) => return Err(self.unanswered(&error)),
            }
        };
        let number = |offset: i64| u64::try_from(offset).unwrap_or_default();
        self.range = Range { low: number(low), high: number(high) };
        Ok(self.range)
    }

    /// Continues at an offset.
    pub(super) fn seek(&mut self, offset: u64) -> Result<(), EngineError> {
        match self.next == Some(offset) {
            true => Ok(()),
            false => self.assign(offset),
        }
    }

    fn assign(&mut self, offset: u64) -> Result<(), EngineError> {
        self.forget();
        let mut list = TopicPartitionList::new();
        let offset_there = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        list.add_partition_offset(&self.topic, PARTITION, offset_there).map_err(|error| self.failed(&error))?;
        self.consumer.assign(&list).map_err(|error| self.failed(&error))?;
        self.next = Some(offset);
        Ok(())
    }

    /// Reads again from the next offset, if possible from a place that librdkafka knows together with the epoch of its leader.
    /// That shows whether the history is still the same.
    fn assign_again(&mut self) -> Result<(), EngineError> {
        let next = self.next();
        let places = self.consumer.position().map_err(|error| self.failed(&error))?;
        let is_known = places.find_partition(&self.topic, PARTITION).is_some_and(
            |place| matches!(place.offset(), Offset::Offset(offset) if u64::try_from(offset).is_ok_and(|it| it <= next)),
        );
        if !is_known {
            return self.assign(next);
        }
        self.forget();
        self.consumer.assign(&places).map_err(|error| self.failed(&error))?;
        self.next = Some(next);
        Ok(())
    }

    /// Reads nothing until the next seek, and takes what librdkafka has collected.
    pub(super) fn rest(&mut self) {
        self.forget();
        // Without an assignment, there is only what the client says about itself.
        let outcome = self.consumer.unassign();
        while outcome.is_ok() && self.consumer.poll(Duration::ZERO).is_some() {}
    }

    fn forget(&mut self) {
        (self.next, self.ahead, self.empty_until, self.is_at_end) = (None, None, 0, false);
    }

    /// The record at the next offset, if it comes within this time.
    pub(super) fn poll(&mut self, wait: Duration, limits: &PublishLimits) -> Result<Option<Record>, ReadError> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(record) = self.take_next() {
                return Ok(Some(record));
            }
            let pause = deadline.saturating_duration_since(Instant::now());
            match self.consumer.poll(pause) {
                None if pause.is_zero() => return Ok(None),
                None => {}
                Some(Ok(message)) => {
                    let record = record::read(&message, limits);
                    // What was on the way before the place changed is none of this.
                    if record.offset >= self.next.unwrap_or_default() {
                        self.is_at_end = false;
                        self.ahead = Some(record);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.is_at_end = true;
                    return Ok(None);
                }
                Some(Err(error)) if is_out_of_range(&error) => {
                    self.next = None;
                    return Err(ReadError::OutOfRange);
                }
                Some(Err(error)) if is_lasting(&error) => return Err(ReadError::Failed(self.failed(&error))),
                // librdkafka tries again. Whether the leader answers at all is asked by the next query.
                Some(Err(_)) => {}
            }
        }
    }

    /// The record at the next offset. None: nothing came within this time, and then the leader had nothing there.
    pub(super) fn poll_to_end(&mut self, wait: Duration, limits: &PublishLimits) -> Result<Option<Record>, ReadError> {
        if let Some(record) = self.poll(wait, limits)? {
            return Ok(Some(record));
        }
        let range = self.ask_range()?;
        let next = self.next();
        if range.high < next {
            return Err(ReadError::Short);
        }
        if range.high == next {
            return Ok(None);
        }
        // A record is on its way, or the offsets up to the end hold none.
        if let Some(record) = self.poll(ARRIVAL_TIMEOUT, limits)? {
            return Ok(Some(record));
        }
        self.assign_again()?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(record) = self.poll(ANSWER_TIMEOUT, limits)? {
                return Ok(Some(record));
            }
            if self.is_at_end {
                self.empty_until = range.high;
                return Ok(self.take_next());
            }
        }
        let seconds = ANSWER_TIMEOUT.as_secs();
        Err(ReadError::Failed(EngineError(format!("{}: no record came in {seconds} s", self.brokers))))
    }

    /// What is at the next offset, if that is known.
    fn take_next(&mut self) -> Option<Record> {
        let next = self.next?;
        let record = match self.ahead.take_if(|ahead| ahead.offset == next) {
            Some(record) => record,
            None if self.ahead.is_some() || next < self.empty_until => Record::empty(next),
            None => return None,
        };
        self.next = Some(next + 1);
        Some(record)
    }

    /// Why there is no answer. While nothing is read, the client yields only errors, and a refused login is one of them.
    fn unanswered(&self, error: &KafkaError) -> EngineError {
        let mut errors = std::iter::from_fn(|| self.consumer.poll(BROKER_WAIT)).filter_map(Result::err);
        let reason = if self.next.is_none() { errors.find(is_lasting) } else { None };
        self.failed(reason.as_ref().unwrap_or(error))
    }

    fn failed(&self, error: &KafkaError) -> EngineError {
        EngineError(format!("{}: topic {}: {}", self.brokers, self.topic, text_of(error)))
    }
}

#[cfg(test)]
impl Partition {
    /// One that never connects and has read this far.
    fn at(next: u64, ahead: Option<u64>, empty_until: u64) -> Partition {
        let address = KafkaAddress { brokers: "127.0.0.1:1".to_owned(), tls: Default::default(), login: None };
        let ahead = ahead.map(|offset| Record { state: Some(Default::default()), ..Record::empty(offset) });
        Partition { next: Some(next), ahead, empty_until, ..Partition::open(&address, "t").unwrap() }
    }
}

/// True if another broker is, or becomes, the leader.
fn is_of_a_new_leader(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{FencedLeaderEpoch, LeaderNotAvailable, NotLeaderForPartition, UnknownLeaderEpoch};
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(code, FencedLeaderEpoch | LeaderNotAvailable | NotLeaderForPartition | UnknownLeaderEpoch)
    })
}

/// True if trying again does not help.
fn is_lasting(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        Authentication, GroupAuthorizationFailed, SSL, SaslAuthenticationFailed, TopicAuthorizationFailed,
        UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    let code = error.rdkafka_error_code();
    is_fatal
        || code.is_some_and(|code| {
            matches!(
                code,
                Authentication
                    | GroupAuthorizationFailed
                    | SSL
                    | SaslAuthenticationFailed
                    | TopicAuthorizationFailed
                    | UnknownPartition
                    | UnknownTopic
                    | UnknownTopicOrPartition
            )
        })
}

/// True if the broker lacks the offset, or if another leader has a shorter history (`_LOG_TRUNCATION`).
fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::LogTruncation)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets that are known; those of records have a `!`.
    fn taken(mut partition: Partition) -> String {
        let records = std::iter::from_fn(|| partition.take_next());
        let show = |record: Record| format!("{}{}", record.offset, if record.state.is_some() { "!" } else { "" });
        records.map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_the_consumer_skips_is_filled() {
        assert_eq!(taken(Partition::at(7, None, 0)), "");
        assert_eq!(taken(Partition::at(7, Some(7), 0)), "7!");
        assert_eq!(taken(Partition::at(7, Some(10), 0)), "7 8 9 10!");
        assert_eq!(taken(Partition::at(7, None, 9)), "7 8");
        assert_eq!(taken(Partition::at(7, Some(8), 10)), "7 8! 9");
        assert_eq!(taken(Partition::at(7, None, 7)), "");
    }
}
