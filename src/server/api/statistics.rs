//! The server's own statistics as events: one a second on a reserved topic, and only while it has subscribers.
//!
//! They go through the sequencer like all events, because only it assigns positions. No client can publish to the
//! topic, because no name from outside makes it. Without subscribers, no work is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json as object};

use super::reports::{figures_of, figures_of_node, source_figures, topic_figures};
use crate::event::{Event, STATISTICS_TOPIC, Topic};
use crate::hub::Hub;
use crate::io::Io;
use crate::observe::histogram::Histogram;
use crate::observe::live::Live;
use crate::observe::metrics::{Counters, Labelled, LoopGauges};
use crate::server::node::Node;
use crate::server::node::figures::Figures;
use crate::server::transport::Transport;
use crate::sources::channel::{Inbox, Publish, SourceStatus, Ticket};

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
    pub(crate) inbox: &'a Inbox,
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

    /// Does what is due once a second: leaves the figures of this loop for the others. The first loop does the same for other
    /// threads, and publishes the statistics of all loops.
    pub(crate) fn report<I: Io>(&mut self, watched: &Watched<'_, I>) {
        let Watched { transport, hub, inbox, node } = *watched;
        if node.member.has_peers() {
            node.member.leave(figures_of(transport, hub, inbox, node));
        }
        if node.member.is_first() {
            self.leave_figures(watched);
            self.publish(watched);
        }
    }

    /// Publishes the statistics of the time since the last ones, if the topic has subscribers.
    fn publish<I: Io>(&mut self, watched: &Watched<'_, I>) {
        let Watched { transport, hub, inbox, node } = *watched;
        let is_watched = hub.topic(STATISTICS_TOPIC).is_some_and(|topic| topic.subscribers > 0)
            || node.member.others_figures().any(|others| others.watchers > 0);
        if !is_watched {
            self.last_sample = None;
            return;
        }
        let figures = figures_of_node(transport, hub, inbox, node);
        let sample = Sample { at: node.now, counters: figures.counters.clone() };
        let Some(before) = self.last_sample.replace(sample) else { return };
        let data = self.statistics(&figures, watched, &before).to_string();
        let event = Event::message(Topic::statistics(), data);
        if self.own_events.publish(vec![event], Ticket(u64::MAX)).is_err() {
            tracing::debug!("too much is waiting: this second's statistics are left out");
        }
    }

    /// Stores the figures of all loops that other threads read.
    fn leave_figures<I: Io>(&self, Watched { transport, hub, node, .. }: &Watched<'_, I>) {
        let (live, counters) = (&self.live, &node.counters);
        let others: Vec<_> = node.member.others_figures().collect();
        let sum = |own: u64, of: fn(&Figures) -> u64| own + others.iter().map(|figures| of(figures)).sum::<u64>();
        live.connections.set(node.common.connections_by_loop().into_iter().sum::<usize>() as u64);
        live.streams.set(node.common.streams() as u64);
        let held = transport.connection_count() + hub.topic_count() + hub.retained_events();
        let held_by = |figures: &Figures| {
            let gauges = &figures.gauges;
            (gauges.connections + gauges.topic_count() + gauges.retained_events) as u64
        };
        live.held.set(sum(held as u64, held_by));
        live.broadcasts.set(counters.broadcasts);
        live.delivered_events.set(sum(counters.delivered_events, |figures| figures.counters.delivered_events));
        live.sent_bytes.set(sum(counters.sent_bytes, |figures| figures.counters.sent_bytes));
        let lagging = transport.unfinished_send_count() as u64;
        live.lagging_subscribers.set(sum(lagging, |figures| figures.gauges.lagging as u64));
    }

    fn statistics<I: Io>(&self, figures: &Figures, watched: &Watched<'_, I>, before: &Sample) -> Value {
        let Watched { transport, hub, node, .. } = watched;
        let (now, then, gauges) = (&figures.counters, &before.counters, &figures.gauges);
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
                "open": gauges.connections,
                "streams": gauges.streams,
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
                "count": node.member.loop_count(),
                "busy_percent": rounded(
                    100.0 * turns.sum().as_secs_f64() / elapsed.as_secs_f64() / node.member.loop_count() as f64
                ),
                "turn_us": quantiles(&turns),
            },
            "subscribers": {
                "lagging": gauges.lagging,
                "catching_up": figures.catching_up,
            },
            "channel_messages": gauges.channel_messages,
            "memory": self.memory(gauges),
            "sources": self.source_states(now),
            "topics": {
                "count": gauges.topic_count(),
                "busiest": figures.busiest.iter().take(BUSIEST_MAX).map(topic_figures).collect::<Vec<_>>(),
            },
        })
    }

    fn memory(&self, gauges: &LoopGauges) -> Value {
        let resident = self.live.resident_bytes.known();
        let logs_bytes = gauges.retained_bytes as u64;
        let grown = resident.zip(self.resident_at_start).map(|(now, start)| now.saturating_sub(start + logs_bytes));
        let many = gauges.connections >= CONNECTIONS_FOR_COST_MIN;
        let per_connection = grown.filter(|_| many).map(|bytes| bytes / gauges.connections as u64);
        object!({
            "resident_bytes": resident,
            "per_connection_bytes": per_connection,
            "retained_bytes": gauges.retained_bytes,
            "pinned_bytes": gauges.pinned_bytes,
        })
    }

    fn source_states(&self, counters: &Counters) -> Vec<Value> {
        let state = |source: &Arc<SourceStatus>| {
            let mut object = source_figures(source);
            object["error"] = source.error().into();
            object
        };
        let http = object!({ "name": "http", "up": true, "received": counters.published_http, "reconnects": 0 });
        self.sources.iter().map(state).chain([http]).collect()
    }
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
