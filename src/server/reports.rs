//! Reports: health, metrics, topics, the snapshot and the debug view. All of them read; none changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json as object};

use super::Server;
use super::connection::Phase;
use super::respond::json;
use super::routes::Probe;
use crate::event::{EventId, RESERVED_TOPIC_PREFIX};
use crate::hub::TopicInfo;
use crate::io::Io;
use crate::observe::metrics::{self, Gauges, SourceGauges};
use crate::protocol::decoder::{Decoder, Item};
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};
use crate::sources::channel::SourceStatus;

/// Topics that one answer lists at most.
const TOPICS_LISTED_MAX: usize = 1000;
/// Topics in the debug view.
const BUSIEST_MAX: usize = 20;

impl<I: Io> Server<I> {
    pub(super) fn health(&self, probe: Probe) -> Response {
        let down: Vec<_> = self.sources.iter().filter(|source| !source.is_up()).collect();
        let required = |name: &str| self.settings.ready_requires.iter().any(|required| required == name);
        let missing = down.iter().any(|source| required(source.name()));
        let state = match (self.is_draining(), missing, down.is_empty()) {
            (true, ..) => "draining",
            (_, true, _) => "unready",
            (_, _, false) => "degraded",
            _ => "ok",
        };
        let ready = !self.is_draining() && !missing;
        let status = if ready || probe != Probe::Ready { 200 } else { 503 };
        if probe == Probe::Live {
            return json(200, &object!({ "status": "live" }));
        }
        let sources = self
            .sources
            .iter()
            .map(|source| (source.name().to_owned(), object!({ "up": source.is_up(), "error": source.error() })));
        let sources: serde_json::Map<String, Value> = sources.collect();
        let body = object!({ "status": state, "ready": ready, "sources": sources, "streams": self.streams });
        json(status, &body).with_header("Cache-Control", "no-store")
    }

    pub(super) fn metrics_page(&self) -> Response {
        let text = metrics::render(&self.counters, &self.gauges());
        Response::new(200).with_body("text/plain; version=0.0.4; charset=utf-8", text)
    }

    pub(super) fn topic_list(&self) -> Response {
        let topics: Vec<_> = self.hub.topics().take(TOPICS_LISTED_MAX).map(|info| topic_object(&info)).collect();
        json(200, &object!({ "count": self.hub.topic_count(), "topics": topics }))
    }

    pub(super) fn topic_view(&self, name: &str) -> Response {
        match self.hub.topic(name) {
            Some(info) => json(200, &topic_object(&info)),
            None => response::problem(404, "No such topic", "nobody has published to it or subscribes to it"),
        }
    }

    /// The latest event of each topic, and the position they belong to: a stream from there on loses nothing.
    pub(super) fn snapshot(&mut self, slot: u32, head: &RequestHead) -> Response {
        let grant = match self.may_read(slot, head) {
            Ok(grant) => grant,
            Err(response) => return response,
        };
        // What is for operators is not for everybody here either.
        let is_reserved = |name: &str| name.starts_with(RESERVED_TOPIC_PREFIX);
        let mut names: BTreeSet<String> = head.target.get_all("topic").map(str::to_owned).collect();
        if let Err(response) = self.check_topic_count(names.len()) {
            return response;
        }
        if names.is_empty() {
            let all = self.hub.topics().map(|info| info.name.as_str().to_owned());
            names = all.filter(|name| grant.covers(name)).take(TOPICS_LISTED_MAX).collect();
        } else if let Some(outside) = names.iter().find(|name| !is_reserved(name) && !grant.covers(name)) {
            return self.deny_reading(slot, &grant, outside);
        }
        let latest = names.into_iter().filter(|name| !is_reserved(name)).filter_map(|name| {
            let event = Latest::read(self.hub.latest(&name)?.bytes())?;
            Some((name, event))
        });
        let id = self.hub.run().id(self.hub.head());
        let snapshot = Snapshot { id: id.as_str(), topics: latest.collect() };
        json(200, &snapshot).with_header("Cache-Control", "no-store")
    }

    pub(super) fn debug_view(&self) -> Response {
        let gauges = self.gauges();
        let settings = &self.settings;
        let closed: serde_json::Map<String, Value> =
            self.counters.closed.iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
        let sources = self.sources.iter().map(|source| {
            let mut object = source_figures(source);
            object["last_error"] = source.last_error().into();
            object
        });
        let sources: Vec<_> = sources.collect();
        let busiest: Vec<_> = self.hub.busiest_topics(BUSIEST_MAX).iter().map(topic_object).collect();
        let view = object!({
            "build": { "version": env!("CARGO_PKG_VERSION"), "run": self.hub.run().as_str() },
            "uptime_seconds": gauges.uptime.as_secs(),
            "draining": self.is_draining(),
            "connections": self.phases(),
            "lagging_subscribers": gauges.lagging,
            "catching_up": self.catching_up.len(),
            "closed": closed,
            "position": self.hub.run().id(self.hub.head()).as_str(),
            "topics": { "count": gauges.topics, "busiest": busiest },
            "logs": {
                "retained_events": gauges.retained_events,
                "retained_bytes": gauges.retained_bytes,
                "pinned_bytes": gauges.pinned_bytes,
            },
            "channel_messages": gauges.channel_messages,
            "answer_bytes": self.answer_bytes,
            "sources": sources,
            "limits": {
                "streams_max": settings.limits.streams_max,
                "connections_total_max": settings.connections_total_max,
                "connections_per_address_max": settings.limits.connections_per_address_max,
                "topics_max": self.hub.limits().topics_max,
                "accepts_per_second_max": settings.limits.accepts_per_second_max,
                "events_per_second_max": settings.limits.events_per_second_max,
                "pipelined_max": settings.limits.pipelined_max,
                "answer_bytes_max": settings.limits.answer_bytes_max,
                "topics_per_subscriber_max": settings.limits.topics_per_subscriber_max,
                "history_events_max": self.hub.limits().history_events_max,
                "history_bytes_max": self.hub.limits().history_bytes_max,
                "history_bytes_total_max": self.hub.limits().history_bytes_total_max,
                "body_bytes_max": settings.limits.body_bytes_max,
            },
            "memory_bytes": self.live.resident_bytes.known(),
        });
        json(200, &view).with_header("Cache-Control", "no-store")
    }

    fn phases(&self) -> Value {
        let mut counts = [0usize; 7];
        for (_, connection) in &self.connections {
            counts[match connection.phase {
                Phase::Idle => 0,
                Phase::Requesting(_) => 1,
                Phase::Responding(_) => 2,
                Phase::Publishing(_) => 3,
                Phase::Streaming => 4,
                Phase::Lingering(_) => 5,
                Phase::Dead => 6,
            }] += 1;
        }
        let [idle, requesting, responding, publishing, streaming, lingering, dead] = counts;
        object!({
            "idle": idle, "requesting": requesting, "responding": responding, "publishing": publishing,
            "streaming": streaming, "lingering": lingering, "dead": dead,
        })
    }

    fn gauges(&self) -> Gauges {
        let source_gauges = |source: &Arc<SourceStatus>| SourceGauges {
            name: source.name(),
            up: source.is_up(),
            received: source.received(),
            reconnects: source.reconnects(),
            copied: source.copied(),
            refused: source.refused().to_vec(),
        };
        let http = SourceGauges {
            name: "http",
            up: true,
            received: self.counters.published_http,
            reconnects: 0,
            copied: 0,
            refused: Vec::new(),
        };
        Gauges {
            connections: self.connections.len(),
            streams: self.streams,
            streams_max: self.settings.limits.streams_max,
            lagging: self.laggards.len(),
            topics: self.hub.topic_count(),
            retained_events: self.hub.retained_events(),
            evicted_events: self.hub.evictions().collect(),
            retained_bytes: self.hub.bytes_total(),
            pinned_bytes: self.hub.pinned_bytes(),
            channel_messages: self.inbox.len(),
            resident_bytes: self.live.resident_bytes.known(),
            open_descriptors: self.live.open_descriptors.known(),
            uptime: self.now.max(Duration::ZERO),
            draining: self.drain_stage(),
            sources: self.sources.iter().map(source_gauges).chain([http]).collect(),
        }
    }
}

fn topic_object(info: &TopicInfo) -> Value {
    let mut object = topic_figures(info);
    object["last_id"] = info.last_id.as_ref().map(EventId::as_str).into();
    object
}

/// What every view tells of a topic.
pub(super) fn topic_figures(info: &TopicInfo) -> Value {
    object!({
        "topic": info.name.as_str(),
        "subscribers": info.subscribers,
        "retained_events": info.retained_events,
        "retained_bytes": info.retained_bytes,
    })
}

/// What every view tells of a source.
pub(super) fn source_figures(source: &SourceStatus) -> Value {
    object!({
        "name": source.name(),
        "up": source.is_up(),
        "received": source.received(),
        "reconnects": source.reconnects(),
    })
}

/// What `/dashboard/data` answers.
#[derive(Serialize)]
struct Snapshot<'a> {
    id: &'a str,
    topics: BTreeMap<String, Latest>,
}

/// A topic's latest event. Data that is JSON stands there as JSON, byte for byte; any other as a string.
#[derive(Serialize)]
struct Latest {
    id: String,
    event: String,
    data: Box<RawValue>,
}

impl Latest {
    /// Reads an event back from its own frame, so that nothing is kept twice.
    fn read(frame: &[u8]) -> Option<Latest> {
        let mut latest = None;
        // Whatever its size, it was let in.
        let read = Decoder::with_event_bytes_max(u32::MAX).feed(frame, |item| {
            if let Item::Event { event_type, data, id } = item {
                let raw = RawValue::from_string(data.to_owned()).or_else(|_| serde_json::value::to_raw_value(data));
                latest = raw.ok().map(|data| Latest { id: id.to_owned(), event: event_type.to_owned(), data });
            }
        });
        read.ok().and(latest)
    }
}
