//! The sources of `fanfare serve`: starts those that the configuration names, and routes the events that clients
//! publish.

use std::sync::Arc;

use anyhow::Context;
use serde_json::json;

use crate::config::{Config, RedisConfig, RedisPayload};
use crate::observe::live::Live;
use crate::sources::channel::{Outlet, Publish, SourceStatus};
use crate::sources::host;
use crate::sources::redis::{self, Payload, QueueLimits, RedisHandle, RedisSettings};
use crate::sources::sequencer::Sequencer;
use crate::sources::thread::SourceThread;

/// What may wait for Redis; beyond it, publishes are refused.
const QUEUE_LIMITS: QueueLimits = QueueLimits { publishes_max: 1024, bytes_max: 16 << 20 };

/// Running sources; dropping them stops their threads.
pub(super) struct Sources {
    /// For health checks and metrics.
    pub(super) statuses: Vec<Arc<SourceStatus>>,
    /// Where events that clients publish over HTTP go: to Redis and back, or straight into the loop.
    pub(super) publisher: Arc<dyn Publish + Send + Sync>,
    _redis: Option<RedisHandle>,
    _host: Option<SourceThread>,
}

impl Sources {
    pub(super) fn start(
        config: &Config,
        outlet: Outlet,
        sequencer: &Arc<Sequencer>,
        live: &Arc<Live>,
    ) -> anyhow::Result<Sources> {
        let mut statuses = Vec::new();
        let redis = match &config.redis {
            None => None,
            Some(settings) => {
                let status = SourceStatus::new("redis");
                statuses.push(Arc::clone(&status));
                let settings = redis_settings(config, settings);
                Some(redis::spawn(settings, Arc::clone(sequencer), status).context("starting the Redis source")?)
            }
        };
        let host = match config.security.dev {
            false => None,
            true => {
                let status = SourceStatus::new("host");
                statuses.push(Arc::clone(&status));
                let topic = config.delivery.dashboard_topic.clone();
                let (live, sequencer) = (Arc::clone(live), Arc::clone(sequencer));
                let own = move || own_figures(&live);
                Some(host::spawn(topic, sequencer, status, own).context("starting the host source")?)
            }
        };
        let publisher: Arc<dyn Publish + Send + Sync> = match &redis {
            Some(redis) => Arc::new(redis.publisher(outlet)),
            None => Arc::clone(sequencer) as _,
        };
        Ok(Sources { statuses, publisher, _redis: redis, _host: host })
    }
}

fn redis_settings(config: &Config, redis: &RedisConfig) -> RedisSettings {
    let names = |topics: &[crate::event::Topic]| topics.iter().map(|topic| topic.as_str().to_owned()).collect();
    RedisSettings {
        address: redis.address.clone(),
        channels: names(&redis.channels),
        patterns: names(&redis.patterns),
        payload: match redis.payload {
            RedisPayload::Raw => Payload::Raw,
            RedisPayload::Envelope => Payload::Envelope,
        },
        bus: redis.bus.as_str().to_owned(),
        copied_channels: names(&redis.copied_channels),
        limits: config.limits.publish(),
        body_bytes_max: config.limits.body_bytes_max,
        queue: QUEUE_LIMITS,
        timing: Default::default(),
    }
}

fn own_figures(live: &Live) -> serde_json::Value {
    json!({
        "connections": live.connections.get(),
        "streams": live.streams.get(),
        "broadcasts": live.broadcasts.get(),
        "delivered_events": live.delivered_events.get(),
        "sent_bytes": live.sent_bytes.get(),
        "lagging_subscribers": live.lagging_subscribers.get(),
    })
}
