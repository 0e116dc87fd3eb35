//! The sources of `fanfare serve`: starts those that the configuration names, and routes the events that clients
//! publish.

use std::sync::Arc;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::config::{ChannelTable, Config, DurableBusConfig, PostgresConfig, RedisConfig, RedisPayload};
use crate::event::RunName;
use crate::observe::live::Live;
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::lead::LeadEngine;
use crate::sources::bus::redis_stream::{RedisLead, RedisStream, StreamSettings, marker_channel};
use crate::sources::bus::{self, BusBounds, BusHandle, BusSettings, Engine};
use crate::sources::channel::{FetchPage, Outlet, Publish, SourceStatus};
use crate::sources::copying::{Copies, CopyingPublisher};
use crate::sources::feed::{self, FeedSettings};
use crate::sources::kafka_figures::{ConsumerFigures, KafkaFigures, ProducerFigures};
use crate::sources::redis::{self, ChannelRule, Payload, RedisHandle, RedisSettings, RedisTiming};
use crate::sources::sequencer::Sequencer;
use crate::sources::thread::SourceThread;
use crate::sources::{QueueLimits, host};

/// What may wait for Redis; beyond it, publishes are refused.
const QUEUE_LIMITS: QueueLimits = QueueLimits { publishes_max: 1024, bytes_max: 16 << 20 };

/// Running sources; dropping them stops their threads.
pub(super) struct Sources {
    /// For health checks and metrics.
    pub(super) statuses: Vec<Arc<SourceStatus>>,
    /// What each loop has of its own.
    pub(super) of_loops: Vec<LoopSources>,
    /// What is done with Kafka, if anything is.
    pub(super) kafka: Option<Arc<KafkaFigures>>,
    _copies: Option<SourceThread>,
    _kafka_feeds: Option<SourceThread>,
    _redis: Option<RedisHandle>,
    _ingest: Option<SourceThread>,
    _feed: Option<SourceThread>,
    _bus: Option<BusHandle>,
    _host: Option<SourceThread>,
}

/// What one loop has of the sources for its own clients.
pub(super) struct LoopSources {
    /// Where events that clients publish over HTTP go: to Redis and back, or straight into the loops.
    pub(super) publisher: Arc<dyn Publish + Send + Sync>,
    /// Fetches older events, if there is a durable bus.
    pub(super) fetcher: Option<Arc<dyn FetchPage + Send + Sync>>,
}

impl LoopSources {
    fn publishing_to(publisher: Arc<dyn Publish + Send + Sync>) -> LoopSources {
        LoopSources { publisher, fetcher: None }
    }
}

impl Sources {
    /// Starts the sources for the loops behind `outlets`.
    pub(super) fn start(
        config: &Config,
        outlets: Vec<Outlet>,
        sequencer: &Arc<Sequencer>,
        live: &Arc<Live>,
    ) -> anyhow::Result<Sources> {
        let mut statuses = Vec::new();
        let kafka = kafka_figures(config, &mut statuses);
        let (copying, copies) = copies(config, &kafka)?;
        let of_loops: Vec<LoopSources>;
        let (mut redis, mut bus, mut ingest, mut feed) = (None, None, None, None);
        let mut kafka_feeds = None;
        if let Some(durable) = config.durable_bus() {
            let status = SourceStatus::of_bus();
            statuses.push(Arc::clone(&status));
            let node = getrandom::u64().context("asking the kernel for random bits")?;
            let node = RunName::from_bits(node).to_string();
            let bounds = Arc::new(BusBounds::default());
            let engines = engines(config, &bounds)?;
            let bus_settings = bus_settings(config, node.clone(), Arc::clone(&bounds));
            let (handle, accesses) =
                bus::spawn(bus_settings, engines, copies, outlets, status).context("starting the bus")?;
            bus = Some(handle);
            let of_loop =
                |(publisher, fetcher)| LoopSources { publisher: Arc::new(publisher), fetcher: Some(Arc::new(fetcher)) };
            of_loops = accesses.into_iter().map(of_loop).collect();
            kafka_feeds = start_kafka_feeds(config, &kafka, &bounds)?;
            if let Some(settings) = config.redis.as_ref().filter(|redis| redis.has_channels()) {
                let status = SourceStatus::new("redis");
                statuses.push(Arc::clone(&status));
                let lead = lead_engine(config, settings, durable, &bounds)?;
                let settings = RedisSettings { bus: marker_channel(&durable.name), ..redis_settings(config, settings) };
                let thread = redis::spawn_ingest(settings, node.clone(), lead, Arc::clone(&bounds), status);
                ingest = Some(thread.context("starting the ingest")?);
            }
            if let Some(postgres) = config.postgres.as_ref().filter(|postgres| postgres.bus.is_none()) {
                let status = SourceStatus::new("postgres");
                statuses.push(Arc::clone(&status));
                feed = Some(start_feed(config, postgres, node, &bounds, status)?);
            }
        } else if let Some(settings) = &config.redis {
            let status = SourceStatus::new("redis");
            statuses.push(Arc::clone(&status));
            let settings = redis_settings(config, settings);
            let handle = redis::spawn(settings, Arc::clone(sequencer), status).context("starting the Redis source")?;
            let publisher = |outlet| Arc::new(handle.publisher(outlet, copies.clone())) as _;
            of_loops = outlets.into_iter().map(publisher).map(LoopSources::publishing_to).collect();
            redis = Some(handle);
        } else {
            let publisher: Arc<dyn Publish + Send + Sync> = match copies {
                Some(copies) => Arc::new(CopyingPublisher::new(Arc::clone(sequencer) as _, copies)),
                None => Arc::clone(sequencer) as _,
            };
            of_loops = outlets.iter().map(|_| LoopSources::publishing_to(Arc::clone(&publisher))).collect();
        }
        let host = match config.security.dev {
            false => None,
            true => {
                let status = SourceStatus::new("host");
                statuses.push(Arc::clone(&status));
                let topic = config.delivery.dashboard_topic.clone();
                let (live, sequencer) = (Arc::clone(live), Arc::clone(sequencer));
                let own = move |measured: &Map<String, Value>| {
                    live.set_host(measured.clone().into());
                    own_figures(&live)
                };
                Some(host::spawn(topic, sequencer, status, own).context("starting the host source")?)
            }
        };
        Ok(Sources {
            statuses,
            of_loops,
            kafka,
            _copies: copying,
            _kafka_feeds: kafka_feeds,
            _redis: redis,
            _ingest: ingest,
            _feed: feed,
            _bus: bus,
            _host: host,
        })
    }
}

/// The figures of what is done with Kafka beside the bus, with the states that health checks show.
fn kafka_figures(config: &Config, statuses: &mut Vec<Arc<SourceStatus>>) -> Option<Arc<KafkaFigures>> {
    let kafka = config.kafka.as_ref().filter(|kafka| !kafka.copies.is_empty() || kafka.feeds.is_some())?;
    let mut figures = KafkaFigures::default();
    if !kafka.copies.is_empty() {
        let status = SourceStatus::new("kafka_copies");
        statuses.push(Arc::clone(&status));
        figures.producer = Some(ProducerFigures::new(status));
    }
    if let Some(feeds) = &kafka.feeds {
        let status = SourceStatus::new("kafka");
        statuses.push(Arc::clone(&status));
        figures.consumer = Some(ConsumerFigures::new(status, feeds.group.clone()));
    }
    Some(Arc::new(figures))
}

/// Starts the copies to Kafka, if there are any.
fn copies(config: &Config, figures: &Option<Arc<KafkaFigures>>) -> anyhow::Result<(Option<SourceThread>, Copies)> {
    let kafka = config.kafka.as_ref().filter(|kafka| !kafka.copies.is_empty());
    let (Some(kafka), Some(figures)) = (kafka, figures) else { return Ok((None, None)) };
    let (thread, copier) = super::kafka_flows::start_copies(config, kafka, figures)?;
    Ok((Some(thread), Some(Arc::new(copier))))
}

/// Starts reading topics of Kafka, if any are given.
fn start_kafka_feeds(
    config: &Config,
    figures: &Option<Arc<KafkaFigures>>,
    bounds: &Arc<BusBounds>,
) -> anyhow::Result<Option<SourceThread>> {
    let kafka = config.kafka.as_ref().filter(|kafka| kafka.feeds.is_some());
    let (Some(kafka), Some(figures)) = (kafka, figures) else { return Ok(None) };
    let engine = cursor_engine(config, bounds)?;
    super::kafka_flows::start_feeds(config, kafka, engine, Arc::clone(bounds), figures).map(Some)
}

/// An engine of the bus that keeps cursors.
fn cursor_engine(config: &Config, bounds: &Arc<BusBounds>) -> anyhow::Result<Box<dyn CursorEngine>> {
    if let Some(postgres) = &config.postgres
        && let Some(bus) = &postgres.bus
    {
        return super::postgres::cursor_engine(config, postgres, bus, bounds);
    }
    let (redis, stream) = stream_of(config).context("no server is given that has the bus")?;
    Ok(Box::new(RedisStream::new(stream_settings(config, redis, stream, bounds))))
}

/// The Redis that has the bus.
fn stream_of(config: &Config) -> Option<(&RedisConfig, &DurableBusConfig)> {
    let redis = config.redis.as_ref()?;
    Some((redis, redis.stream.as_ref()?))
}

/// Where nodes take the lead: where the bus is.
fn lead_engine(
    config: &Config,
    redis: &RedisConfig,
    bus: &DurableBusConfig,
    bounds: &Arc<BusBounds>,
) -> anyhow::Result<Box<dyn LeadEngine>> {
    match &config.postgres {
        Some(postgres) if postgres.bus.is_some() => {
            super::postgres::lead_engine(config, postgres, bus, bounds, redis.address.clone())
        }
        _ => Ok(Box::new(RedisLead::new(stream_settings(config, redis, bus, bounds)))),
    }
}

/// Starts what brings onto the bus what transactions publish.
fn start_feed(
    config: &Config,
    postgres: &PostgresConfig,
    node: String,
    bounds: &Arc<BusBounds>,
    status: Arc<SourceStatus>,
) -> anyhow::Result<SourceThread> {
    let (redis, stream) = stream_of(config).context("no Redis is given that has the bus")?;
    let log = super::postgres::log_to_feed(config, postgres, stream)?;
    let bus = Box::new(RedisStream::new(stream_settings(config, redis, stream, bounds)));
    let backoff = RedisTiming::default().backoff;
    let settings = FeedSettings { source: status.name(), node, bounds: Arc::clone(bounds), backoff };
    feed::spawn(settings, log, bus, status).context("starting the feed")
}

/// What makes an engine for each thread of the bus.
fn engines(config: &Config, bounds: &Arc<BusBounds>) -> anyhow::Result<Box<dyn Fn() -> Box<dyn Engine>>> {
    if let Some(postgres) = &config.postgres
        && let Some(bus) = &postgres.bus
    {
        return super::postgres::engines(config, postgres, bus, bounds);
    }
    if let Some(kafka) = &config.kafka
        && let Some(bus) = &kafka.bus
    {
        return super::kafka::engines(config, kafka, bus, bounds);
    }
    let (redis, stream) = stream_of(config).context("no server is given that has the bus")?;
    let settings = stream_settings(config, redis, stream, bounds);
    Ok(Box::new(move || Box::new(RedisStream::new(settings.clone()))))
}

fn stream_settings(
    config: &Config,
    redis: &RedisConfig,
    stream: &DurableBusConfig,
    bounds: &Arc<BusBounds>,
) -> StreamSettings {
    StreamSettings {
        bounds: Arc::clone(bounds),
        address: redis.address.clone(),
        name: stream.name.clone(),
        entries_max: stream.entries_max,
        id_memory: stream.id_memory,
        limits: config.limits.publish(),
    }
}

fn bus_settings(config: &Config, node: String, bounds: Arc<BusBounds>) -> BusSettings {
    BusSettings {
        node,
        load_bytes_max: config.history.bytes_total_max,
        queue: QUEUE_LIMITS,
        bounds,
        backoff: RedisTiming::default().backoff,
    }
}

fn redis_settings(config: &Config, redis: &RedisConfig) -> RedisSettings {
    let names = |topics: &[crate::event::Topic]| topics.iter().map(|topic| topic.as_str().to_owned()).collect();
    RedisSettings {
        address: redis.address.clone(),
        rules: redis.tables.iter().map(channel_rule).collect(),
        channels: names(&redis.channels),
        patterns: names(&redis.patterns),
        payload: payload(redis.payload),
        bus: redis.bus.as_str().to_owned(),
        copied_channels: names(&redis.copied_channels),
        limits: config.limits.publish(),
        body_bytes_max: config.limits.body_bytes_max,
        queue: QUEUE_LIMITS,
        timing: Default::default(),
    }
}

fn channel_rule(table: &ChannelTable) -> ChannelRule {
    let ChannelTable { pattern, topic, payload: format } = table.clone();
    ChannelRule { pattern, topic, payload: format.map(payload) }
}

pub(super) fn payload(format: RedisPayload) -> Payload {
    match format {
        RedisPayload::Raw => Payload::Raw,
        RedisPayload::Envelope => Payload::Envelope,
    }
}

fn own_figures(live: &Live) -> Value {
    json!({
        "connections": live.connections.get(),
        "streams": live.streams.get(),
        "broadcasts": live.broadcasts.get(),
        "delivered_events": live.delivered_events.get(),
        "sent_bytes": live.sent_bytes.get(),
        "lagging_subscribers": live.lagging_subscribers.get(),
    })
}
