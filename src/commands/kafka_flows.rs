//! What goes between `fanfare serve` and topics of Kafka beside the bus. Builds without Kafka have `no_kafka_flows.rs`
//! instead.

use std::sync::Arc;

use anyhow::Context;

use crate::config::{Config, KEY_PLACE, KafkaConfig, KafkaFeed};
use crate::sources::QueueLimits;
use crate::sources::bus::BusBounds;
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::kafka::{CopySettings, KafkaCopier, TopicFeed, TopicFeedSettings, spawn_copies, spawn_feeds};
use crate::sources::kafka_figures::KafkaFigures;
use crate::sources::redis::RedisTiming;
use crate::sources::thread::SourceThread;

/// What may wait until Kafka has it; what comes then is dropped.
const COPIES_LIMITS: QueueLimits = QueueLimits { publishes_max: 16_384, bytes_max: 32 << 20 };

/// Starts the copies to Kafka.
pub(super) fn start_copies(
    config: &Config,
    kafka: &KafkaConfig,
    figures: &Arc<KafkaFigures>,
) -> anyhow::Result<(SourceThread, KafkaCopier)> {
    let producer = figures.producer.as_ref().context("there are no figures of a producer")?;
    let settings = CopySettings {
        address: super::kafka::address_of(kafka)?,
        rules: kafka.copies.iter().map(|copy| (copy.pattern.clone(), copy.name.clone())).collect(),
        data_bytes_max: config.limits.event_bytes_max,
        queue: COPIES_LIMITS,
    };
    let started = spawn_copies(settings, Arc::clone(figures), Arc::clone(&producer.status));
    started.map_err(anyhow::Error::msg).context("starting the copies to Kafka")
}

/// Starts reading topics of Kafka, for the bus of this engine.
pub(super) fn start_feeds(
    config: &Config,
    kafka: &KafkaConfig,
    engine: Box<dyn CursorEngine>,
    bounds: Arc<BusBounds>,
    figures: &Arc<KafkaFigures>,
) -> anyhow::Result<SourceThread> {
    let consumer = figures.consumer.as_ref().context("there are no figures of a consumer")?;
    let feeds = kafka.feeds.as_ref().context("no topic of Kafka is given")?;
    let feed = |KafkaFeed { name, topic }: &KafkaFeed| TopicFeed {
        name: name.clone(),
        topic: topic.split(KEY_PLACE).map(str::to_owned).collect(),
    };
    let settings = TopicFeedSettings {
        address: super::kafka::address_of(kafka)?,
        feeds: feeds.feeds.iter().map(feed).collect(),
        group: feeds.group.clone(),
        payload: super::sources::payload(feeds.payload),
        limits: config.limits.publish(),
        bounds,
        backoff: RedisTiming::default().backoff,
    };
    let started = spawn_feeds(settings, engine, Arc::clone(figures), Arc::clone(&consumer.status));
    started.context("starting to read topics of Kafka")
}
