//! The server's own statistics as events: one a second on a reserved topic, and only while somebody subscribes.
//!
//! They take the way of all events, through the sequencer, which alone gives places in the order. Nobody else can
//! publish there, because no name that comes from outside makes this topic. Absent: any work while nobody watches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json as object};

use super::Server;
use super::reports::{source_figures, topic_figures};
use crate::event::{Event, STATISTICS_TOPIC, Topic};
use crate::io::Io;
use crate::observe::histogram::Histogram;
use crate::observe::metrics::{Counters, Labelled};
use crate::sources::channel::{SourceStatus, Ticket};

/// Topics that are told of.
const BUSIEST_MAX: usize = 10;
/// Fewer connections than this say nothing of what one costs.
const CONNECTIONS_FOR_COST_MIN: usize = 1000;

/// What rates are told from: the counters as they were the last time.
#[derive(Debug)]
pub(super) struct Sample {
    at: Duration,
    counters: Counters,
}

impl<I: Io> Server<I> {
    /// Publishes the statistics of the time since the last ones, if anybody watches.
    pub(super) fn tell_statistics(&mut self) {
        self.hub.look_for_busiest();
        if self.hub.topic(STATISTICS_TOPIC).is_none_or(|topic| topic.subscribers == 0) {
            self.last_sample = None;
            return;
        }
        let sample = Sample { at: self.now, counters: self.counters.clone() };
        let Some(before) = self.last_sample.replace(sample) else { return };
        let data = self.statistics(&before).to_string();
        let event = Event::message(Topic::statistics(), data);
        if self.own_events.publish(vec![event], Ticket(u64::MAX)).is_err() {
            tracing::debug!("too much is waiting: this second's statistics are left out");
        }
    }

    fn statistics(&self, before: &Sample) -> Value {
        let (now, then) = (&self.counters, &before.counters);
        let elapsed = self.now.saturating_sub(before.at).max(Duration::from_millis(1));
        let rate = |count: fn(&Counters) -> u64| {
            let passed = count(now).saturating_sub(count(then)) as f64;
            rounded(passed / elapsed.as_secs_f64())
        };
        let turns = now.turn_duration.since(&then.turn_duration);
        let since_epoch = self.io.unix_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        object!({
            "time_ms": since_epoch.as_millis() as u64,
            "version": env!("CARGO_PKG_VERSION"),
            "run": self.hub.run().as_str(),
            "uptime_seconds": self.now.as_secs(),
            "draining": self.is_draining(),
            "connections": {
                "open": self.connections.len(),
                "streams": self.streams,
                "streams_max": self.settings.limits.streams_max,
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
            "subscribers": { "lagging": self.laggards.len(), "catching_up": self.catching_up.len() },
            "channel_messages": self.inbox.len(),
            "memory": self.memory(),
            "sources": self.source_states(),
            "topics": { "count": self.hub.topic_count(), "busiest": self.busiest() },
        })
    }

    fn memory(&self) -> Value {
        let resident = self.live.resident_bytes.known();
        let logs_bytes = self.hub.bytes_total() as u64;
        let grown = resident.zip(self.resident_at_start).map(|(now, start)| now.saturating_sub(start + logs_bytes));
        let many = self.connections.len() >= CONNECTIONS_FOR_COST_MIN;
        let per_connection = grown.filter(|_| many).map(|bytes| bytes / self.connections.len() as u64);
        object!({
            "resident_bytes": resident,
            "per_connection_bytes": per_connection,
            "retained_bytes": self.hub.bytes_total(),
            "pinned_bytes": self.hub.pinned_bytes(),
        })
    }

    fn source_states(&self) -> Vec<Value> {
        let state = |source: &Arc<SourceStatus>| {
            let mut object = source_figures(source);
            object["error"] = source.error().into();
            object
        };
        let http = object!({ "name": "http", "up": true, "received": self.counters.published_http, "reconnects": 0 });
        self.sources.iter().map(state).chain([http]).collect()
    }

    fn busiest(&self) -> Vec<Value> {
        self.hub.busiest_topics(BUSIEST_MAX).iter().map(topic_figures).collect()
    }
}

/// Those that are not zero: a reader knows the others.
fn labelled(counters: &Labelled) -> BTreeMap<&'static str, u64> {
    counters.iter().filter(|(_, count)| *count > 0).collect()
}

fn quantiles(histogram: &Histogram) -> Value {
    let us = |share| histogram.quantile_us(share).map(rounded);
    object!({ "count": histogram.count(), "p50": us(0.5), "p99": us(0.99), "max": us(1.0) })
}

/// One decimal is what anybody reads.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
