//! Appends records to the partition: idempotent, so that a retry of librdkafka's is no second record.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::sources::bus::EngineError;
use crate::sources::bus::kafka::partition::PARTITION;
use crate::sources::kafka::{ANSWER_TIMEOUT, KafkaAddress, KafkaLog, text_of};

/// How long librdkafka tries to append. It reports every record within this time.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(4);
/// How long one look at the reports takes.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A producer for the partition.
pub(super) struct Producer {
    producer: BaseProducer<Reports>,
    brokers: String,
    topic: String,
}

/// The reports about records, by their number.
struct Reports {
    log: KafkaLog,
    reports: Mutex<Vec<(usize, KafkaResult<i64>)>>,
}

impl Producer {
    /// A producer of records that may have this number of bytes.
    pub(super) fn open(address: &KafkaAddress, topic: &str, data_bytes_max: usize) -> Result<Producer, EngineError> {
        let mut config = address.producer_config(data_bytes_max);
        config.set("linger.ms", "0").set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
        let reports = Reports { log: KafkaLog::new("bus, appending"), reports: Mutex::default() };
        let brokers = address.to_string();
        let producer = config.create_with_context(reports);
        let producer = producer.map_err(|error| EngineError(format!("{brokers}: {}", text_of(&error))))?;
        Ok(Producer { producer, brokers, topic: topic.to_owned() })
    }

    /// Appends records in this order and returns their offsets. After an error, some or all of them may be there all the
    /// same, and the producer must not be used again.
    pub(super) fn append(&self, records: Vec<(OwnedHeaders, String)>) -> Result<Vec<u64>, EngineError> {
        let count = records.len();
        for (number, (headers, value)) in records.into_iter().enumerate() {
            let record = BaseRecord::with_opaque_to(&self.topic, number).partition(PARTITION);
            let record: BaseRecord<'_, (), _, _> = record.payload(&value).headers(headers);
            self.producer.send(record).map_err(|(error, _)| self.failed(&error))?;
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while self.producer.context().count() < count {
            if Instant::now() >= deadline {
                let seconds = ANSWER_TIMEOUT.as_secs();
                return Err(EngineError(format!("{}: topic {}: no answer in {seconds} s", self.brokers, self.topic)));
            }
            self.producer.poll(POLL_INTERVAL);
        }
        let mut reports = self.producer.context().take();
        reports.sort_by_key(|(number, _)| *number);
        let offset = |(_, report): (usize, KafkaResult<i64>)| match report {
            Ok(offset) => u64::try_from(offset).map_err(|_| {
                EngineError(format!("{}: topic {}: the brokers named no offset", self.brokers, self.topic))
            }),
            Err(error) => Err(self.failed(&error)),
        };
        reports.into_iter().map(offset).collect()
    }

    /// Takes what librdkafka has collected.
    pub(super) fn rest(&self) {
        self.producer.poll(Duration::ZERO);
    }

    fn failed(&self, error: &KafkaError) -> EngineError {
        let fatal = self.producer.client().fatal_error().map_or(String::new(), |(_, text)| format!(": {text}"));
        EngineError(format!("{}: topic {}: {}{fatal}", self.brokers, self.topic, text_of(error)))
    }
}

impl Reports {
    fn count(&self) -> usize {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Vec<(usize, KafkaResult<i64>)> {
        std::mem::take(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.log.log(level, kind, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push((number, report));
    }
}
