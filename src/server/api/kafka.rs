//! `GET /kafka/status`: what this node does with Kafka. Bounded: at most [`PARTITIONS_MAX`] partitions and
//! [`BROKERS_MAX`] brokers are listed.

use serde_json::{Map, Value, json as object};

use super::context::RequestContext;
use super::reports::{REPORT_BYTES, head_of_json};
use super::{Api, json};
use crate::io::Io;
use crate::protocol::head::Method;
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::sources::channel::SourceStatus;
use crate::sources::kafka_figures::{
    Broker, ConsumerFigures, CopyOutcome, KafkaFigures, ProducerFigures, Volume, WINDOWS_MINUTES, Windows,
};

/// Partitions in one answer; the rest is only counted.
pub(super) const PARTITIONS_MAX: usize = 200;
/// Brokers, likewise.
pub(super) const BROKERS_MAX: usize = 100;

impl Api {
    pub(super) fn kafka_status<I: Io>(
        &self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        let Some(kafka) = &self.kafka else {
            let detail = "this server has nothing to do with Kafka: --kafka-publish and --kafka-consume give it that";
            return Err(response::problem(404, "No Kafka", detail));
        };
        let uncached = |response: Response| Ok(response.with_header("Cache-Control", "no-store"));
        if asked.head.method == Method::Head {
            return uncached(head_of_json());
        }
        asked.admit_answer(REPORT_BYTES, node)?;
        uncached(json(200, &status(kafka)))
    }
}

fn status(kafka: &KafkaFigures) -> Value {
    let brokers = kafka.brokers();
    object!({
        "producer": kafka.producer.as_ref().map(producer),
        "consumer": kafka.consumer.as_ref().map(consumer),
        "brokers": brokers.iter().take(BROKERS_MAX).map(broker).collect::<Vec<_>>(),
        "broker_count": brokers.len(),
        "windows": { "in": windows(&kafka.received), "out": windows(&kafka.sent) },
    })
}

fn state(status: &SourceStatus) -> &'static str {
    if status.is_up() { "up" } else { "down" }
}

fn producer(producer: &ProducerFigures) -> Value {
    let (waiting, bytes) = producer.waiting();
    object!({
        "state": state(&producer.status),
        "in_queue": waiting,
        "in_queue_bytes": bytes,
        "delivered": producer.counted(CopyOutcome::Delivered),
        "failed": producer.counted(CopyOutcome::Failed),
        "dropped": producer.counted(CopyOutcome::Dropped),
        "last_error": producer.status.last_error(),
    })
}

fn consumer(consumer: &ConsumerFigures) -> Value {
    let partitions = consumer.partitions(PARTITIONS_MAX).into_iter().map(|((topic, partition), place)| {
        object!({
            "topic": topic,
            "partition": partition,
            "position": place.position,
            "end": place.end,
            "lag": place.lag(),
        })
    });
    object!({
        "group": consumer.group,
        "state": state(&consumer.status),
        "group_state": consumer.group_state(),
        "partitions": partitions.collect::<Vec<_>>(),
        "partition_count": consumer.partition_count(),
        "lag": consumer.lag(),
        "last_error": consumer.status.last_error(),
    })
}

fn broker(broker: &Broker) -> Value {
    object!({
        "id": broker.id,
        "host": broker.host,
        "port": broker.port,
        "state": broker.state,
        "round_trip_ms": broker.round_trip_us.map(|us| us as f64 / 1000.0),
    })
}

fn windows(windows: &Windows) -> Value {
    let report = windows.report();
    let topics = report.topics.iter().map(|(topic, volumes)| {
        let mut topic = object!({ "topic": topic.as_str() });
        topic.as_object_mut().into_iter().for_each(|object| object.extend(by_window(volumes)));
        topic
    });
    object!({ "topics": topics.collect::<Vec<_>>(), "others": by_window(&report.others) })
}

fn by_window(volumes: &[Volume; 3]) -> Map<String, Value> {
    let windows = WINDOWS_MINUTES.iter().zip(volumes);
    let volume = |Volume { events, bytes }: &Volume| object!({ "events": events, "bytes": bytes });
    windows.map(|(minutes, window)| (format!("{minutes}m"), volume(window))).collect()
}
