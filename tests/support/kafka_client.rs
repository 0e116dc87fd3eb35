//! What an application would do with a Kafka: read topics, and write messages to partitions.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::wait::{DEADLINE, eventually};

/// A message as an application reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub partition: i32,
    pub key: String,
    pub value: String,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a topic from its beginning, without a group.
pub struct Application(BaseConsumer);

impl Application {
    pub fn read(brokers: &str, topic: &str, partitions: i32) -> Application {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "test").set("enable.auto.commit", "false");
        config.set("reconnect.backoff.max.ms", "500");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        Application(consumer)
    }

    /// The next messages.
    #[track_caller]
    pub fn take(&self, count: usize) -> Vec<Received> {
        (0..count).map(|_| eventually("a message of Kafka", || self.poll())).collect()
    }

    /// The next message, if there is one soon.
    pub fn poll(&self) -> Option<Received> {
        let message = self.0.poll(Duration::from_millis(100))?.ok()?;
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Some(Received {
            partition: message.partition(),
            key: text(message.key()),
            value: text(message.payload()),
            headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
        })
    }
}

/// Writes messages, each to a partition of its topic.
pub struct Writer(BaseProducer);

impl Writer {
    pub fn new(brokers: &str) -> Writer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("enable.idempotence", "true");
        config.set("reconnect.backoff.max.ms", "500");
        Writer(config.create().unwrap())
    }

    pub fn write(&self, topic: &str, partition: i32, value: &[u8]) {
        self.send(BaseRecord::to(topic).partition(partition).payload(value));
    }

    pub fn write_with_key(&self, topic: &str, partition: i32, key: &str, value: &[u8]) {
        self.send(BaseRecord::to(topic).partition(partition).key(key).payload(value));
    }

    fn send(&self, record: BaseRecord<'_, str, [u8]>) {
        self.0.send(record).map_err(|(error, _)| error).unwrap();
    }

    /// Waits until Kafka has all of it.
    #[track_caller]
    pub fn flush(&self) {
        self.0.flush(DEADLINE).unwrap();
    }
}
