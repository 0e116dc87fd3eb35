//! Watches over one client of librdkafka: whether it is connected, its last error, and its brokers.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::observe::clip::clip;
use crate::sources::channel::SourceStatus;
use crate::sources::kafka::{KafkaLog, text_of};
use crate::sources::kafka_figures::{Broker, KafkaFigures};

/// How often librdkafka reports its figures.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Receives what a client of librdkafka reports about itself.
pub(super) struct Watch {
    client: &'static str,
    log: KafkaLog,
    pub(super) figures: Arc<KafkaFigures>,
    pub(super) status: Arc<SourceStatus>,
    /// Why the last connection failed.
    last_failure: Mutex<Option<String>>,
}

impl Watch {
    /// Over the client that is for this.
    pub(super) fn new(client: &'static str, figures: Arc<KafkaFigures>, status: Arc<SourceStatus>) -> Watch {
        Watch { client, log: KafkaLog::new(client), figures, status, last_failure: Mutex::default() }
    }

    /// Adds the setting that makes librdkafka report.
    pub(super) fn configure(config: &mut ClientConfig) {
        config.set("statistics.interval.ms", REPORT_INTERVAL.as_millis().to_string());
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.log.log(level, kind, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut last_failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.status.set_down(last_failure.clone().unwrap_or_else(|| "no broker can be reached".to_owned()));
        } else {
            let text = format!("{}: {}", text_of(&error), clip(reason));
            *last_failure = Some(text.clone());
            self.status.set_error(text);
        }
        drop(last_failure);
        self.log.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") && !self.status.is_up() {
            self.status.set_up();
            tracing::info!(client = self.client, "connected to Kafka");
        }
        let brokers = statistics.brokers.into_values().filter(|broker| broker.nodeid >= 0).map(|broker| {
            let (host, port) = broker.nodename.rsplit_once(':').unwrap_or((&broker.nodename, ""));
            Broker {
                id: broker.nodeid,
                host: host.to_owned(),
                port: port.parse().unwrap_or_default(),
                state: broker.state,
                round_trip_us: broker.rtt.filter(|rtt| rtt.cnt > 0).and_then(|rtt| u64::try_from(rtt.avg).ok()),
            }
        });
        self.figures.set_brokers(self.client, brokers.collect());
    }
}
