//! Reports: health, metrics, one topic and the debug view. They only read. A HEAD of a large report is answered without
//! building it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json as object};

use super::context::RequestContext;
use super::routes::Probe;
use super::{Api, json};
use crate::event::EventId;
use crate::hub::{Hub, TopicInfo};
use crate::io::Io;
use crate::observe::metrics::{self, BusGauges, Gauges, KafkaGauges, SourceGauges};
use crate::protocol::head::Method;
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::Phase;
use crate::sources::bus_figures::BusFigures;
use crate::sources::channel::{Leading, SourceStatus};
use crate::sources::kafka_figures::{CopyOutcome, KafkaFigures, ProducerFigures};

/// Topics in the debug view.
pub(super) const BUSIEST_MAX: usize = 20;
/// Up to how many connections the debug view counts by phase: about 0.2 ms.
const CONNECTIONS_COUNTED_MAX: usize = 1 << 16;
/// The size of the metrics or the debug view, rounded up.
pub(super) const REPORT_BYTES: usize = 64 << 10;
/// The content type of Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Api {
    pub(super) fn health(&self, probe: Probe, streams: usize, node: &Node) -> Response {
        let down: Vec<_> = self.sources.iter().filter(|source| !source.is_up()).collect();
        let required = |name: &str| node.settings.ready_requires.iter().any(|required| required == name);
        let missing = down.iter().any(|source| required(source.name()));
        let state = match (node.is_leaving(), missing, down.is_empty()) {
            (true, ..) => "draining",
            (_, true, _) => "unready",
            (_, _, false) => "degraded",
            _ => "ok",
        };
        let ready = !node.is_leaving() && !missing;
        let status = if ready || probe != Probe::Ready { 200 } else { 503 };
        if probe == Probe::Live {
            return json(200, &object!({ "status": "live" }));
        }
        let sources = self.sources.iter().map(|source| (source.name().to_owned(), source_health(source)));
        let sources: serde_json::Map<String, Value> = sources.collect();
        let body = object!({ "status": state, "ready": ready, "sources": sources, "streams": streams });
        json(status, &body).with_header("Cache-Control", "no-store")
    }

    pub(super) fn metrics_page<I: Io>(
        &self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        if asked.head.method == Method::Head {
            return Ok(Response::new(200).with_unbuilt_body(METRICS_TYPE));
        }
        asked.admit_answer(REPORT_BYTES, node)?;
        let text = metrics::render(&node.counters, &self.gauges(asked, node));
        Ok(Response::new(200).with_body(METRICS_TYPE, text))
    }

    pub(super) fn topic_view(&self, name: &str, hub: &Hub) -> Response {
        match hub.topic(name) {
            Some(info) => json(200, &TopicView::of(&info)),
            None => response::problem(404, "No such topic", "it has no events and no subscribers"),
        }
    }

    pub(super) fn debug_view<I: Io>(
        &self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        let uncached = |response: Response| Ok(response.with_header("Cache-Control", "no-store"));
        if asked.head.method == Method::Head {
            return uncached(head_of_json());
        }
        asked.admit_answer(REPORT_BYTES, node)?;
        uncached(json(200, &self.debug_figures(asked, node)))
    }

    fn debug_figures<I: Io>(&self, asked: &RequestContext<'_, I>, node: &Node) -> Value {
        let (transport, hub) = (asked.transport, &*asked.hub);
        let gauges = self.gauges(asked, node);
        let settings = &node.settings;
        let closed: serde_json::Map<String, Value> =
            node.counters.closed.iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
        let sources = self.sources.iter().map(|source| {
            let mut object = source_figures(source);
            object["last_error"] = source.last_error().into();
            object
        });
        let sources: Vec<_> = sources.collect();
        let busiest = hub.busiest_topics(BUSIEST_MAX);
        let busiest: Vec<_> = busiest.iter().map(TopicView::of).collect();
        object!({
            "build": { "version": env!("CARGO_PKG_VERSION"), "run": hub.run().as_str() },
            "uptime_seconds": gauges.uptime.as_secs(),
            "draining": node.is_leaving(),
            "io": gauges.io_backend,
            "connections": phases(transport),
            "lagging_subscribers": gauges.lagging,
            "catching_up": transport.catching_up_count(),
            "closed": closed,
            "position": hub.id_of(hub.head()).as_str(),
            "topics": { "count": gauges.topics, "busiest": busiest },
            "logs": {
                "retained_events": gauges.retained_events,
                "retained_bytes": gauges.retained_bytes,
                "pinned_bytes": gauges.pinned_bytes,
            },
            "channel_messages": gauges.channel_messages,
            "answer_bytes": transport.waiting_answer_bytes(),
            "sources": sources,
            "limits": {
                "streams_max": settings.streams_max,
                "connections_total_max": settings.connections_total_max,
                "connections_per_address_max": settings.limits.connections_per_ip_max,
                "topics_max": hub.limits().topics_max,
                "accepts_per_second_max": settings.limits.accepts_per_second_max,
                "events_per_second_max": settings.limits.publishes_per_second_max,
                "pipelined_max": settings.limits.pipelined_max,
                "answer_bytes_max": settings.limits.answer_bytes_max,
                "topics_per_subscriber_max": settings.limits.topics_per_subscriber_max,
                "history_events_max": hub.limits().history_events_max,
                "history_bytes_max": hub.limits().history_bytes_max,
                "history_bytes_total_max": hub.limits().history_bytes_total_max,
                "body_bytes_max": settings.limits.body_bytes_max,
            },
            "memory_bytes": self.live.resident_bytes.known(),
        })
    }

    fn gauges<I: Io>(&self, asked: &RequestContext<'_, I>, node: &Node) -> Gauges {
        let (transport, hub) = (asked.transport, &*asked.hub);
        let source_gauges = |source: &Arc<SourceStatus>| SourceGauges {
            name: source.name(),
            up: source.is_up(),
            leads: source.leading().map(|leading| leading == Leading::Leads),
            received: source.received(),
            reconnects: source.reconnects(),
            copied: source.copied(),
            refused: source.refused().to_vec(),
        };
        let http = SourceGauges {
            name: "http",
            up: true,
            leads: None,
            received: node.counters.published_http,
            reconnects: 0,
            copied: 0,
            refused: Vec::new(),
        };
        Gauges {
            io_backend: transport.io_backend(),
            connections: transport.connection_count(),
            streams: transport.stream_count(),
            streams_max: node.settings.streams_max,
            lagging: transport.unfinished_send_count(),
            topics: hub.topic_count(),
            retained_events: hub.retained_events(),
            evicted_events: hub.evictions().collect(),
            retained_bytes: hub.bytes_total(),
            pinned_bytes: hub.pinned_bytes(),
            channel_messages: asked.inbox.len(),
            resident_bytes: self.live.resident_bytes.known(),
            open_descriptors: self.live.open_descriptors.known(),
            uptime: node.now.max(Duration::ZERO),
            draining: node.leaving as u8,
            sources: self.sources.iter().map(source_gauges).chain([http]).collect(),
            bus: self.sources.iter().find_map(|source| source.bus()).map(bus_gauges),
            kafka: kafka_gauges(self.kafka.as_deref()),
        }
    }
}

fn bus_gauges(bus: &BusFigures) -> BusGauges {
    let place = bus.place();
    BusGauges {
        epoch: place.read.epoch,
        offset: place.read.offset,
        lag: place.lag(),
        forks: bus.forks(),
        pages: bus.pages(),
        appended: bus.appends(),
    }
}

fn kafka_gauges(kafka: Option<&KafkaFigures>) -> KafkaGauges {
    let brokers = kafka.map(KafkaFigures::brokers).unwrap_or_default();
    let up = brokers.iter().filter(|broker| broker.is_up()).count();
    let producer = kafka.and_then(|kafka| kafka.producer.as_ref());
    let consumer = kafka.and_then(|kafka| kafka.consumer.as_ref());
    let counted = |outcome| producer.map_or(0, |producer| producer.counted(outcome));
    KafkaGauges {
        copies: CopyOutcome::ALL.map(|outcome| (outcome.as_str(), counted(outcome))),
        waiting: producer.map(ProducerFigures::waiting),
        feeds: consumer.map(|consumer| (consumer.partition_count(), consumer.lag())),
        brokers: vec![("up", up), ("other", brokers.len() - up)],
    }
}

/// Connections by phase; with very many connections, only streams and others.
fn phases<I: Io>(transport: &Transport<I>) -> Value {
    if transport.slots_end() > CONNECTIONS_COUNTED_MAX {
        return object!({ "streaming": transport.stream_count(), "other": transport.connection_count() - transport.stream_count() });
    }
    let mut counts = [0usize; 7];
    for connection in transport.connections() {
        counts[match connection.phase {
            Phase::Idle => 0,
            Phase::Requesting(_) => 1,
            Phase::Responding(_) => 2,
            Phase::Publishing(_) => 3,
            Phase::Streaming(_) => 4,
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

/// The head of a JSON answer, for HEAD: the body's length is not known without building the body.
pub(super) fn head_of_json() -> Response {
    Response::new(200).with_unbuilt_body("application/json")
}

/// A topic as lists show it.
#[derive(Serialize)]
pub(super) struct TopicView<'a> {
    topic: &'a str,
    subscribers: usize,
    retained_events: usize,
    retained_bytes: usize,
    last_id: Option<&'a str>,
}

impl TopicView<'_> {
    pub(super) fn of(info: &TopicInfo) -> TopicView<'_> {
        TopicView {
            topic: info.name.as_str(),
            subscribers: info.subscribers,
            retained_events: info.retained_events,
            retained_bytes: info.retained_bytes,
            last_id: info.last_id.as_ref().map(EventId::as_str),
        }
    }
}

/// The figures of a topic that every view has.
pub(super) fn topic_figures(info: &TopicInfo) -> Value {
    object!({
        "topic": info.name.as_str(),
        "subscribers": info.subscribers,
        "retained_events": info.retained_events,
        "retained_bytes": info.retained_bytes,
    })
}

/// A source's state.
fn source_health(source: &SourceStatus) -> Value {
    let mut health = object!({ "up": source.is_up(), "error": source.error() });
    if let Some(leading) = source.leading() {
        health["role"] = (if leading == Leading::Leads { "leader" } else { "standby" }).into();
    }
    health
}

/// The figures of a source that every view has.
pub(super) fn source_figures(source: &SourceStatus) -> Value {
    let mut figures = object!({
        "name": source.name(),
        "up": source.is_up(),
        "received": source.received(),
        "reconnects": source.reconnects(),
    });
    if let Some(place) = source.bus().map(BusFigures::place) {
        figures["position"] = place.read.to_string().into();
        figures["lag"] = place.lag().into();
    }
    figures
}
