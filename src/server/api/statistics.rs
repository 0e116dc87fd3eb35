//! The server's own statistics: once a second, kept for 15 minutes in few numbers, and while the reserved topic has
//! subscribers, also as an event.
//!
//! The events go through the sequencer like all others, because only it assigns positions. No client can publish to the
//! topic, because no name from outside makes it.
//!
//! Invariant: what looking at the statistics causes is not in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json as object};

use super::history::{row_of, totals_of};
use super::reports::{figures_of, figures_of_node, source_figures, topic_figures};
use crate::event::{Event, STATISTICS_TOPIC, Topic};
use crate::hub::Hub;
use crate::io::Io;
use crate::observe::histogram::Histogram;
use crate::observe::live::Live;
use crate::observe::metrics::{Counters, Labelled, LoopGauges};
use crate::server::node::Node;
use crate::server::node::figures::Figures;
use crate::server::node::slow_clients::SlowClient;
use crate::server::transport::Transport;
use crate::sources::channel::{Inbox, Leading, Publish, SourceStatus, Ticket};

/// Topics that are listed.
const BUSIEST_MAX: usize = 10;
/// What is shown of the host.
const HOST_FIGURES: [&str; 5] = [
    "cpu_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "network_received_bytes_per_second",
    "network_sent_bytes_per_second",
];
/// Fewer connections than this give no reliable cost per connection.
const CONNECTIONS_FOR_COST_MIN: usize = 1000;

/// The basis of rates: the counters as they were the last time.
#[derive(Debug)]
struct Sample {
    at: Duration,
    counters: Counters,
    subscribers: usize,
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
    /// The counters of a second ago.
    last_sample: Sample,
    /// What was published last, while the topic has subscribers.
    published: Option<Value>,
    resident_at_start: Option<u64>,
}

impl Statistics {
    pub(crate) fn new(
        own_events: Arc<dyn Publish + Send + Sync>,
        sources: Vec<Arc<SourceStatus>>,
        live: Arc<Live>,
        node: &Node,
    ) -> Statistics {
        let resident_at_start = live.resident_bytes.known();
        let last_sample = Sample { at: node.now, counters: node.counters.clone(), subscribers: 0 };
        Statistics { own_events, sources, live, last_sample, published: None, resident_at_start }
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

    /// Keeps the statistics of the time since the last ones, and publishes them if the topic has subscribers.
    fn publish<I: Io>(&mut self, watched: &Watched<'_, I>) {
        let Watched { transport, hub, inbox, node } = *watched;
        let figures = figures_of_node(transport, hub, inbox, node);
        let subscribers = subscribers_of(&figures);
        let sample = Sample { at: node.now, counters: figures.counters.clone(), subscribers };
        let before = std::mem::replace(&mut self.last_sample, sample);
        let statistics = self.statistics(&figures, watched, &before);
        node.common.history.add(row_of(&statistics), || totals_of(&statistics));
        self.published = (figures.watchers > 0).then_some(statistics);
        self.send();
    }

    /// Publishes the last statistics once more, with the news that the server is leaving: those who watch learn it before their
    /// streams close.
    pub(crate) fn announce_drain(&mut self, node: &Node) {
        if let Some(published) = self.published.as_mut().filter(|_| node.member.is_first()) {
            published["draining"] = true.into();
            self.send();
        }
    }

    fn send(&self) {
        let Some(published) = &self.published else { return };
        let event = Event::message(Topic::statistics(), published.to_string());
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
        let (subscribers, joined) = (subscribers_of(figures), joined(now).saturating_sub(joined(then)));
        let left = (joined + before.subscribers as u64).saturating_sub(subscribers as u64);
        let per_second = |count: u64| rounded(count as f64 / elapsed.as_secs_f64());
        let busiest = figures.busiest.iter().filter(|info| !info.name.is_reserved());
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
                "published": now.broadcasts.saturating_sub(now.own.broadcasts),
                "published_per_second": rate(|of| of.broadcasts.saturating_sub(of.own.broadcasts)),
                "delivered": now.delivered_events.saturating_sub(now.own.delivered_events),
                "delivered_per_second": rate(|of| of.delivered_events.saturating_sub(of.own.delivered_events)),
                "sent_bytes_per_second": rate(|of| of.sent_bytes.saturating_sub(of.own.sent_bytes)),
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
                "count": subscribers,
                "joined_per_second": per_second(joined),
                "left_per_second": per_second(left),
                "lagging": figures.slow_clients.streams(),
                "catching_up": figures.catching_up,
                "slow": figures.slow_clients.iter().map(slow_client).collect::<Vec<_>>(),
            },
            "channel_messages": gauges.channel_messages,
            "memory": self.memory(gauges),
            "limits": { "history_bytes": hub.limits().history_bytes_total_max },
            "sources": self.source_states(now),
            "bus": self.bus_state(),
            "host": shown_host(&self.live.host()),
            "topics": {
                "count": gauges.topic_count() - usize::from(hub.topic(STATISTICS_TOPIC).is_some()),
                "busiest": busiest.take(BUSIEST_MAX).map(topic_figures).collect::<Vec<_>>(),
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

    /// The durable bus, if there is one.
    fn bus_state(&self) -> Option<Value> {
        let source = self.sources.iter().find(|source| source.bus().is_some())?;
        let bus = source.bus()?;
        let mut state = source_figures(source);
        state["error"] = source.error().into();
        state["leads"] = source.leading().map(|leading| leading == Leading::Leads).into();
        state["forks"] = bus.forks().into();
        state["appended"] = object!(BTreeMap::from(bus.appends()));
        Some(state)
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

/// What is shown of this host, if `--dev` measures it.
fn shown_host(measured: &Value) -> Option<Value> {
    let of = |name: &&'static str| ((*name).to_owned(), measured[*name].clone());
    measured.is_object().then(|| HOST_FIGURES.iter().map(of).collect())
}

/// Streams but those that watch the statistics.
fn subscribers_of(figures: &Figures) -> usize {
    figures.gauges.streams.saturating_sub(figures.watchers)
}

/// How many of them there ever were.
fn joined(counters: &Counters) -> u64 {
    counters.streams.saturating_sub(counters.own.streams)
}

fn slow_client(client: &SlowClient) -> Value {
    object!({
        "address": client.address.map(|address| address.to_string()),
        "streams": client.streams,
        "waiting_seconds": rounded(client.waiting.as_secs_f64()),
    })
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
