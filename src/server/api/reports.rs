//! Reports: health, metrics, one topic and the debug view. They only read. A HEAD of a large report is answered without
//! building it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json as object};

use super::context::{Outcome, RequestContext};
use super::routes::Probe;
use super::{Api, json};
use crate::event::{EventId, STATISTICS_TOPIC, Topic};
use crate::hub::{Hub, TopicInfo};
use crate::io::Io;
use crate::observe::metrics::{self, BusGauges, Gauges, KafkaGauges, LoopGauges, SourceGauges};
use crate::protocol::head::Method;
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::server::node::figures::{Figures, Phases};
use crate::server::node::letter::{Question, Report, TopicsAsked};
use crate::server::node::slow_clients::SlowClients;
use crate::server::transport::Transport;
use crate::server::transport::connection::{Flags, Phase};
use crate::sources::bus_figures::BusFigures;
use crate::sources::channel::{Inbox, Leading, SourceStatus};
use crate::sources::kafka_figures::{CopyOutcome, KafkaFigures, ProducerFigures};

/// Topics in the debug view.
pub(super) const BUSIEST_MAX: usize = 20;
/// Up to how many connections the debug view counts by phase: about 0.2 ms.
const CONNECTIONS_COUNTED_MAX: usize = 1 << 16;
/// Streams that are behind and looked at for the list of slow clients: about 0.2 ms.
const SLOW_STREAMS_SEEN_MAX: usize = 4096;
/// The size of the metrics or the debug view, rounded up.
pub(super) const REPORT_BYTES: usize = 64 << 10;
/// The content type of Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Api {
    pub(super) fn health(&self, probe: Probe, node: &Node) -> Response {
        let down: Vec<_> = self.sources.iter().filter(|source| !source.is_up()).collect();
        let required = |name: &str| node.settings.ready_requires.iter().any(|required| required == name);
        let missing = down.iter().any(|source| required(source.name()));
        let hanging = node.common.hanging_loops(node.now);
        let state = match (node.is_leaving(), missing || hanging > 0, down.is_empty()) {
            (true, ..) => "draining",
            (_, true, _) => "unready",
            (_, _, false) => "degraded",
            _ => "ok",
        };
        let ready = !node.is_leaving() && !missing && hanging == 0;
        let status = if ready || probe != Probe::Ready { 200 } else { 503 };
        if probe == Probe::Live {
            return match hanging {
                0 => json(200, &object!({ "status": "live" })),
                _ => {
                    let detail =
                        format!("{hanging} of {} event loops have not turned for 10 s", node.member.loop_count());
                    response::problem(503, "Hanging", &detail).with_header("Retry-After", "10")
                }
            };
        }
        let sources = self.sources.iter().map(|source| (source.name().to_owned(), source_health(source)));
        let sources: serde_json::Map<String, Value> = sources.collect();
        let mut body =
            object!({ "status": state, "ready": ready, "sources": sources, "streams": node.common.streams() });
        if hanging > 0 {
            body["hanging_loops"] = hanging.into();
        }
        json(status, &body).with_header("Cache-Control", "no-store")
    }

    /// Admits a report, which is built once the other loops have left their figures.
    pub(super) fn admit_report<I: Io>(
        &self,
        report: Report,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        if asked.head.method == Method::Head {
            return Ok(match report {
                Report::Metrics => Response::new(200).with_unbuilt_body(METRICS_TYPE).into(),
                Report::Debug => uncached(head_of_json()).into(),
            });
        }
        asked.admit_answer(REPORT_BYTES, node)?;
        Ok(Outcome::Ask(Question::Figures(report)))
    }

    /// The report, from the last figures of all loops.
    pub(super) fn report<I: Io>(
        &self,
        report: Report,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        asked.admit_answer(REPORT_BYTES, node)?;
        let figures = figures_of_node(asked.transport, asked.hub, asked.inbox, node);
        Ok(match report {
            Report::Metrics => {
                let text = metrics::render(&figures.counters, &self.gauges(&figures, node));
                Response::new(200).with_body(METRICS_TYPE, text)
            }
            Report::Debug => uncached(json(200, &self.debug_figures(&figures, asked, node))),
        })
    }

    pub(super) fn topic_view(&self, name: &str) -> Outcome {
        let topic = if name == STATISTICS_TOPIC { Some(Topic::statistics()) } else { Topic::new(name).ok() };
        match topic {
            Some(topic) => Outcome::Ask(Question::Topics(TopicsAsked { names: vec![topic], listed: None })),
            None => no_such_topic().into(),
        }
    }

    fn debug_figures<I: Io>(&self, figures: &Figures, asked: &RequestContext<'_, I>, node: &Node) -> Value {
        let (hub, gauges, settings) = (&*asked.hub, &figures.gauges, &node.settings);
        let closed: serde_json::Map<String, Value> =
            figures.counters.closed.iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
        let sources = self.sources.iter().map(|source| {
            let mut object = source_figures(source);
            object["last_error"] = source.last_error().into();
            object
        });
        let sources: Vec<_> = sources.collect();
        let busiest: Vec<_> = figures.busiest.iter().take(BUSIEST_MAX).map(TopicView::of).collect();
        object!({
            "build": { "version": env!("CARGO_PKG_VERSION"), "run": hub.run().as_str() },
            "uptime_seconds": node.now.as_secs(),
            "draining": node.is_leaving(),
            "io": gauges.loops_by_io_backend().into_keys().collect::<Vec<_>>().join(", "),
            "loops": node.common.connections_by_loop(),
            "connections": shown_phases(figures),
            "lagging_subscribers": gauges.lagging,
            "catching_up": figures.catching_up,
            "closed": closed,
            "position": hub.id_of(hub.head()).as_str(),
            "topics": { "count": gauges.topic_count(), "busiest": busiest },
            "logs": {
                "retained_events": gauges.retained_events,
                "retained_bytes": gauges.retained_bytes,
                "pinned_bytes": gauges.pinned_bytes,
            },
            "channel_messages": gauges.channel_messages,
            "answer_bytes": node.common.answers.public_bytes(),
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

    fn gauges(&self, figures: &Figures, node: &Node) -> Gauges {
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
            received: figures.counters.published_http,
            reconnects: 0,
            copied: 0,
            refused: Vec::new(),
        };
        Gauges {
            of_loops: figures.gauges.clone(),
            connections_by_loop: node.common.connections_by_loop(),
            hanging_loops: node.common.hanging_loops(node.now),
            certificates: node.settings.certificates.clone(),
            streams_max: node.settings.streams_max,
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

/// The figures of this loop.
pub(super) fn figures_of<I: Io>(transport: &Transport<I>, hub: &Hub, inbox: &Inbox, node: &Node) -> Figures {
    Figures {
        counters: node.counters.clone(),
        gauges: LoopGauges {
            io_backends: vec![transport.io_backend()],
            connections: transport.connection_count(),
            streams: transport.stream_count(),
            lagging: transport.unfinished_send_count(),
            topics: hub.topic_count() - hub.subscribed_topic_count(),
            subscribed_topics: hub.subscribed_topic_count(),
            retained_events: hub.retained_events(),
            evicted_events: hub.evictions().collect(),
            retained_bytes: hub.bytes_total(),
            pinned_bytes: hub.pinned_bytes(),
            channel_messages: inbox.len(),
        },
        phases: phases(transport),
        catching_up: transport.catching_up_count(),
        busiest: hub.busiest_topics(BUSIEST_MAX),
        watchers: hub.topic(STATISTICS_TOPIC).map_or(0, |topic| topic.subscribers),
        slow_clients: slow_clients(transport, node),
    }
}

/// Whose streams are behind: addresses as far as they are looked at, and all in number.
fn slow_clients<I: Io>(transport: &Transport<I>, node: &Node) -> SlowClients {
    let seen = transport.outboxes().take(SLOW_STREAMS_SEEN_MAX);
    let behind = seen.filter(|(slot, _)| {
        let connection = transport.at(*slot);
        connection.is_streaming() && !connection.flags.has(Flags::WATCHES)
    });
    let waits =
        behind.map(|(slot, outbox)| (transport.at(slot).peer.ip(), node.now.saturating_sub(outbox.progress_at)));
    let unseen = transport.unfinished_send_count().saturating_sub(SLOW_STREAMS_SEEN_MAX);
    SlowClients::of(waits, unseen)
}

/// The figures of all loops: this one's now, and what the others left last.
pub(super) fn figures_of_node<I: Io>(transport: &Transport<I>, hub: &Hub, inbox: &Inbox, node: &Node) -> Figures {
    let mut figures = figures_of(transport, hub, inbox, node);
    node.member.others_figures().for_each(|others| figures.add(&others));
    figures
}

/// Connections by phase, unless there are very many.
fn phases<I: Io>(transport: &Transport<I>) -> Option<Phases> {
    if transport.slots_end() > CONNECTIONS_COUNTED_MAX {
        return None;
    }
    let mut phases = Phases::default();
    for connection in transport.connections() {
        *match connection.phase {
            Phase::Securing => &mut phases.securing,
            Phase::Idle => &mut phases.idle,
            Phase::Requesting(_) => &mut phases.requesting,
            Phase::Responding(_) => &mut phases.responding,
            Phase::Publishing(_) => &mut phases.publishing,
            Phase::Streaming(_) => &mut phases.streaming,
            Phase::Lingering(_) => &mut phases.lingering,
            Phase::Dead => &mut phases.dead,
        } += 1;
    }
    Some(phases)
}

/// Connections by phase; with very many connections, only streams and others.
fn shown_phases(figures: &Figures) -> Value {
    let LoopGauges { connections, streams, .. } = figures.gauges;
    match figures.phases {
        None => object!({ "streaming": streams, "other": connections - streams }),
        Some(Phases { securing, idle, requesting, responding, publishing, streaming, lingering, dead }) => object!({
            "securing": securing, "idle": idle, "requesting": requesting, "responding": responding, "publishing": publishing,
            "streaming": streaming, "lingering": lingering, "dead": dead,
        }),
    }
}

fn uncached(response: Response) -> Response {
    response.with_header("Cache-Control", "no-store")
}

pub(super) fn no_such_topic() -> Response {
    response::problem(404, "No such topic", "it has no events and no subscribers")
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
    published_events: u64,
    retained_events: usize,
    retained_bytes: usize,
    last_id: Option<&'a str>,
}

impl TopicView<'_> {
    pub(super) fn of(info: &TopicInfo) -> TopicView<'_> {
        TopicView {
            topic: info.name.as_str(),
            subscribers: info.subscribers,
            published_events: info.published_events,
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
        "published_events": info.published_events,
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
