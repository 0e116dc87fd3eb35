//! What librdkafka logs, passed on to this server's log. It says the same again and again while brokers are away, so its lines
//! get rarer, and the rest is counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::observe::clip::clip;
use crate::sources::kafka::text_of;
use crate::sources::throttle::LogThrottle;

/// One for each kind of client: a client that is created anew continues with it.
static THROTTLES: Mutex<BTreeMap<&str, LogThrottle>> = Mutex::new(BTreeMap::new());

/// Receives the lines of one client of librdkafka.
#[derive(Clone, Copy, Debug)]
pub struct KafkaLog {
    /// What the client is for.
    client: &'static str,
}

impl KafkaLog {
    /// For the client that is for this.
    pub fn new(client: &'static str) -> KafkaLog {
        KafkaLog { client }
    }

    /// How many lines were left out, if one more may be written.
    fn permit(self) -> Option<u64> {
        let mut throttles = THROTTLES.lock().unwrap_or_else(PoisonError::into_inner);
        throttles.entry(self.client).or_default().permit(Instant::now())
    }
}

impl ClientContext for KafkaLog {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        let Some(swallowed) = self.permit() else { return };
        let (client, text) = (self.client, &*clip(text));
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::info!(client, kind, text, swallowed, "librdkafka reports");
            }
            _ => tracing::warn!(client, kind, text, swallowed, "librdkafka warns"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is none.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if let Some(swallowed) = self.permit() {
            let (client, error, reason) = (self.client, text_of(&error), &*clip(reason));
            tracing::warn!(client, error, reason, swallowed, "a client of Kafka failed; it goes on trying");
        }
    }
}

impl ConsumerContext for KafkaLog {}
