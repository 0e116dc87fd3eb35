//! A Kafka: where it is, how to log in, and the settings of librdkafka that all its clients share. No text that this module
//! returns contains a password.
//!
//! librdkafka has threads of its own; what they log arrives when its client is polled ([`log`]).

mod copies;
mod feeds;
mod log;
mod partition;
mod places;
mod watch;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use copies::{CopySettings, KafkaCopier, spawn_copies};
pub use feeds::{TopicFeed, TopicFeedSettings, spawn_feeds};
pub use log::KafkaLog;

/// How long to wait for an answer of the brokers.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What a batch, and the key and headers of a message, may take beside its data.
pub const OVERHEAD_BYTES: usize = 16 << 10;
/// What librdkafka lets a message have, at least (its own default) and at most.
const MESSAGE_BYTES: RangeInclusive<usize> = 1_000_000..=1_000_000_000;
/// How long librdkafka waits for an answer to one request. It ends the connection then, and connects again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it pauses, at most, between two attempts to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The address of a Kafka and the login for it. Displays as its brokers.
#[derive(Clone)]
pub struct KafkaAddress {
    /// Brokers as `host:port`, with commas between them.
    pub brokers: String,
    /// The transport.
    pub tls: KafkaTls,
    /// The login, if there is one.
    pub login: Option<KafkaLogin>,
}

/// Whether connections are encrypted.
#[derive(Clone, Default)]
pub enum KafkaTls {
    /// They are not.
    #[default]
    Off,
    /// TLS; certificates are verified with these, in PEM, or with this host's own.
    On(Option<String>),
}

/// A login.
#[derive(Clone)]
pub struct KafkaLogin {
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: &'static str,
}

impl KafkaAddress {
    /// The settings of a client; its own ones are added to them.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // What librdkafka says at a lower level is about its own state, and more of it than a log should hold.
        config.set_log_level(RDKafkaLogLevel::Notice);
        config.set("client.id", "fanfare").set("bootstrap.servers", &self.brokers);
        config.set("socket.timeout.ms", REQUEST_TIMEOUT.as_millis().to_string());
        config.set("socket.connection.setup.timeout.ms", ANSWER_TIMEOUT.as_millis().to_string());
        config.set("socket.nagle.disable", "true").set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.max.ms", RECONNECT_PAUSE_MAX.as_millis().to_string());
        // A topic that a broker creates by itself has the wrong settings.
        config.set("allow.auto.create.topics", "false");
        if let KafkaTls::On(Some(pem)) = &self.tls {
            config.set("ssl.ca.pem", pem);
        }
        config.set(
            "security.protocol",
            match (&self.tls, &self.login) {
                (KafkaTls::Off, None) => "plaintext",
                (KafkaTls::Off, Some(_)) => "sasl_plaintext",
                (KafkaTls::On(_), None) => "ssl",
                (KafkaTls::On(_), Some(_)) => "sasl_ssl",
            },
        );
        if let Some(login) = &self.login {
            config.set("sasl.mechanism", login.mechanism);
            config.set("sasl.username", &login.user).set("sasl.password", &login.password);
        }
        config
    }

    /// The settings of a producer of messages with at most this much data: a retry of librdkafka's is no second message.
    pub fn producer_config(&self, data_bytes_max: usize) -> ClientConfig {
        let mut config = self.client_config();
        config.set("enable.idempotence", "true").set("acks", "all");
        let bytes_max = data_bytes_max.saturating_add(OVERHEAD_BYTES).min(*MESSAGE_BYTES.end());
        config.set("message.max.bytes", bytes_max.max(*MESSAGE_BYTES.start()).to_string());
        // The brokers' own bound is for a batch, and may be as low as for one message.
        config.set("batch.size", bytes_max.to_string());
        config
    }

    /// True if a login sends its password as it is, for every host on the way to read.
    pub fn shows_password(&self) -> bool {
        matches!(self.tls, KafkaTls::Off) && self.login.as_ref().is_some_and(|login| login.mechanism == "PLAIN")
    }
}

impl fmt::Display for KafkaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.brokers)
    }
}

impl fmt::Debug for KafkaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error's text, with what to do about it. The crate's own text of a refused setting has its value, which may be a
/// password.
pub fn text_of(error: &KafkaError) -> String {
    if let KafkaError::ClientConfig(_, _, name, _) = error {
        return format!("librdkafka refuses its setting {name}");
    }
    let advice = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
            "; check --kafka-user, and --kafka-password-file or FANFARE_KAFKA_PASSWORD"
        }
        Some(RDKafkaErrorCode::SSL) => "; check --kafka-tls and --kafka-tls-ca",
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ) => "; grant what docs/scaling.md lists",
        _ => "",
    };
    format!("{error}{advice}")
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientContext;
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn address(tls: KafkaTls, mechanism: Option<&'static str>) -> KafkaAddress {
        let login = |mechanism| KafkaLogin { user: "u".to_owned(), password: "hunter2".to_owned(), mechanism };
        KafkaAddress { brokers: "a:1,b:2".to_owned(), tls, login: mechanism.map(login) }
    }

    #[test]
    fn librdkafka_was_built_with_tls_and_scram() {
        let check = |tls: KafkaTls, mechanism, protocol: &str| {
            let config = address(tls, mechanism).client_config();
            assert_eq!(config.get("security.protocol"), Some(protocol));
            let consumer: Result<BaseConsumer<_>, _> = config.create_with_context(KafkaLog::new("test"));
            consumer.map(drop).unwrap();
        };
        check(KafkaTls::Off, None, "plaintext");
        check(KafkaTls::On(None), None, "ssl");
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            check(KafkaTls::Off, Some(mechanism), "sasl_plaintext");
            check(KafkaTls::On(None), Some(mechanism), "sasl_ssl");
        }
        assert!(address(KafkaTls::Off, Some("PLAIN")).shows_password());
        assert!(!address(KafkaTls::On(None), Some("PLAIN")).shows_password());
        assert!(!address(KafkaTls::Off, Some("SCRAM-SHA-256")).shows_password());
    }

    #[test]
    fn no_text_has_the_password() {
        let address = address(KafkaTls::Off, Some("PLAIN"));
        assert_eq!(format!("{address:?} {address}"), "a:1,b:2 a:1,b:2");
        assert!(!format!("{:?}", address.client_config()).contains("hunter2"));
        let refused = || {
            let mut config = address.client_config();
            config.set("sasl.mechanisms.hunter2", "hunter2");
            config.create_native_config().err().unwrap()
        };
        assert_eq!(text_of(&refused()), "librdkafka refuses its setting sasl.mechanisms.hunter2");
        // A context is what receives librdkafka's lines.
        KafkaLog::new("test").log(RDKafkaLogLevel::Error, "FAIL", "a:1/bootstrap: no route");
    }
}
