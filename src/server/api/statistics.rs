//! The server's own statistics as events: one a second on a reserved topic, and only while it has subscribers.
//!
//! They go through the sequencer like all events, because only it assigns positions. No client can publish to the
//! topic, because no name from outside makes it. Without subscribers, no work is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json as object};

use super::reports::{source_figures, topic_figures};
use crate::event::{Event, STATISTICS_TOPIC, Topic};
use crate::hub::Hub;
use crate::io::Io;
use crate::observe::histogram::Histogram;
use crate::observe::live::Live;
use crate::observe::metrics::{Counters, Labelled};
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::sources::channel::{Publish, SourceStatus, Ticket};

/// Topics that are listed.
const BUSIEST_MAX: usize = 10;
/// Fewer connections than this give no reliable cost per connection.
const CONNECTIONS_FOR_COST_MIN: usize = 1000;

/// The basis of rates: the counters as they were the last time.
#[derive(Debug)]
struct Sample {
    at: Duration,
    counters: Counters,
}

/// What the statistics report on.
pub(crate) struct Watched<'a, I: Io> {
    pub(crate) transport: &'a Transport<I>,
    pub(crate) hub: &'a Hub,
    /// Messages that wait in the channel.
    pub(crate) channel_messages: usize,
    pub(crate) node: &'a Node,
}

/// The sources of the statistics, and their destination.
pub(crate) struct Statistics {
    /// Publishes into this node's order, past every broker.
    own_events: Arc<dyn Publish + Send + Sync>,
    sources: Vec<Arc<SourceStatus>>,
    live: Arc<Live>,
    /// The counters of a second ago, while the topic has subscribers.
    last_sample: Option<Sample>,
    resident_at_start: Option<u64>,
}

impl Statistics {
    pub(crate) fn new(
        own_events: Arc<dyn Publish + Send + Sync>,
        sources: Vec<Arc<SourceStatus>>,
        live: Arc<Live>,
    ) -> Statistics {
        let resident_at_start = live.resident_bytes.known();
        Statistics { own_events, sources, live, last_sample: None, resident_at_start }
    }

    /// Publishes the statistics of the time since the last ones, if the topic has subscribers.
    pub(crate) fn publish<I: Io>(&mut self, watched: &Watched<'_, I>) {
        if watched.hub.topic(STATISTICS_TOPIC).is_none_or(|topic| topic.subscribers == 0) {
            self.last_sample = None;
            return;
        }
        let sample = Sample { at: watched.node.now, counters: watched.node.counters.clone() };
        let Some(before) = self.last_sample.replace(sample) else { return };
        let data = self.statistics(watched, &before).to_string();
        let event = Event::message(Topic::statistics(), data);
        if self.own_events.publish(vec![event], Ticket(u64::MAX)).is_err() {
            tracing::debug!("too much is waiting: this second's statistics are left out");
        }
    }

    /// Stores the figures that other threads read.
    pub(crate) fn leave_figures<I: Io>(&self, watched: &Watched<'_, I>) {
        let (live, Watched { transport, hub, node, .. }) = (&self.live, watched);
        live.connections.set(transport.connection_count() as u64);
        live.streams.set(transport.stream_count() as u64);
        live.held.set((transport.connection_count() + hub.topic_count() + hub.retained_events()) as u64);
        live.broadcasts.set(node.counters.broadcasts);
        live.delivered_events.set(node.counters.delivered_events);
        live.sent_bytes.set(node.counters.sent_bytes);
        live.lagging_subscribers.set(transport.unfinished_send_count() as u64);
    }

    fn statistics<I: Io>(&self, watched: &Watched<'_, I>, before: &Sample) -> Value {
        let Watched { transport, hub, node, .. } = watched;
        let (now, then) = (&node.counters, &before.counters);
        let elapsed = node.now.saturating_sub(before.at).max(Duration::from_millis(1));
        let rate = |count: fn(&Counters) -> u64| {
            let passed = count(now).saturating_sub(count(then)) as f64;
            rounded(passed / elapsed.as_secs_f64())
        };
        let turns = now.turn_duration.since(&then.turn_duration);
        let since_epoch = transport.unix_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        object!({
            "time_ms": since_epoch.as_millis() as u64,
            "version": env!("CARGO_PKG_VERSION"),
            "run": hub.run().as_str(),
            "uptime_seconds": node.now.as_secs(),
            "draining": node.is_leaving(),
            "connections": {
                "open": transport.connection_count(),
                "streams": transport.stream_count(),
                "streams_max": node.settings.streams_max,
                "accepted": now.accepted,
                "accepted_per_second": rate(|counters| counters.accepted),
                "closed": labelled(&now.closed),
                "closed_per_second": rate(|counters| counters.closed.total()),
                "refused": labelled(&now.refused),
            },
            "events": {
                "published": now.broadcasts,
                "published_per_second": rate(|counters| counters.broadcasts),
                "delivered": now.delivered_events,
                "delivered_per_second": rate(|counters| counters.delivered_events),
                "sent_bytes_per_second": rate(|counters| counters.sent_bytes),
                "dropped": labelled(&now.dropped),
                "gaps": labelled(&now.gaps),
            },
            "delivery_us": quantiles(&now.delivery_duration.since(&then.delivery_duration)),
            "broadcast_us": quantiles(&now.broadcast_duration.since(&then.broadcast_duration)),
            "loop": {
                "busy_percent": rounded(100.0 * turns.sum().as_secs_f64() / elapsed.as_secs_f64()),
                "turn_us": quantiles(&turns),
            },
            "subscribers": {
                "lagging": transport.unfinished_send_count(),
                "catching_up": transport.catching_up_count(),
            },
            "channel_messages": watched.channel_messages,
            "memory": self.memory(watched),
            "sources": self.source_states(node),
            "topics": { "count": hub.topic_count(), "busiest": busiest(hub) },
        })
    }

    fn memory<I: Io>(&self, watched: &Watched<'_, I>) -> Value {
        let Watched { transport, hub, .. } = watched;
        let resident = self.live.resident_bytes.known();
        let logs_bytes = hub.bytes_total() as u64;
        let grown = resident.zip(self.resident_at_start).map(|(now, start)| now.saturating_sub(start + logs_bytes));
        let many = transport.connection_count() >= CONNECTIONS_FOR_COST_MIN;
        let per_connection = grown.filter(|_| many).map(|bytes| bytes / transport.connection_count() as u64);
        object!({
            "resident_bytes": resident,
            "per_connection_bytes": per_connection,
            "retained_bytes": hub.bytes_total(),
            "pinned_bytes": hub.pinned_bytes(),
        })
    }

    fn source_states(&self, node: &Node) -> Vec<Value> {
        let state = |source: &Arc<SourceStatus>| {
            let mut object = source_figures(source);
            object["error"] = source.error().into();
            object
        };
        let http = object!({ "name": "http", "up": true, "received": node.counters.published_http, "reconnects": 0 });
        self.sources.iter().map(state).chain([http]).collect()
    }
}

fn busiest(hub: &Hub) -> Vec<Value> {
    hub.busiest_topics(BUSIEST_MAX).iter().map(topic_figures).collect()
}

/// Only those that are not zero: a reader takes the others as zero.
fn labelled(counters: &Labelled) -> BTreeMap<&'static str, u64> {
    counters.iter().filter(|(_, count)| *count > 0).collect()
}

fn quantiles(histogram: &Histogram) -> Value {
    let us = |share| histogram.quantile_us(share).map(rounded);
    object!({ "count": histogram.count(), "p50": us(0.5), "p99": us(0.99), "max": us(1.0) })
}

/// Rounds to one decimal, which is enough for readers.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
