//! The Kafka that has the bus, or other topics: reads its password and certificates.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::bus::{BusKind, BusOptions, DurableBusConfig};
use super::kafka_flows::{KafkaCopyRule, KafkaFeedsConfig, KafkaFlowOptions};
use super::{ConfigError, KAFKA_PASSWORD_VARIABLE, Secret, SecretReader};

/// The longest name of a topic in Kafka.
const TOPIC_BYTES_MAX: usize = 249;

/// The options about Kafka as given; [`KafkaConfig`] is what remains of them when there are brokers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kafka")]
pub(super) struct KafkaOptions {
    /// Brokers of Kafka: HOST:PORT, and more of them after commas. They name the others
    #[arg(id = "kafka-brokers", long, value_name = "ADDR,…")]
    pub(super) brokers: Option<KafkaBrokers>,

    /// Speak TLS to the brokers
    #[arg(
        id = "kafka-tls", long, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true,
        hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(super) tls: bool,

    /// A file of PEM certificates to verify the brokers with over TLS, instead of this host's own
    #[arg(id = "kafka-tls-ca", long, value_name = "FILE")]
    pub(super) tls_ca: Option<PathBuf>,

    /// The user to log in as
    #[arg(id = "kafka-user", long, value_name = "NAME")]
    pub(super) user: Option<String>,

    /// A file whose first line is the password for Kafka; FANFARE_KAFKA_PASSWORD holds the password itself
    #[arg(id = "kafka-password-file", long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// How to log in
    ///
    /// plain sends the password itself: without --kafka-tls, every host on the way can read it.
    #[arg(id = "kafka-sasl", long, value_name = "MECHANISM", default_value = "scram-sha-512")]
    pub(super) sasl: KafkaSasl,

    /// The topic of Kafka that is the bus; it has one partition
    #[arg(id = "kafka-topic", long, value_name = "NAME", default_value = "fanfare", value_parser = kafka_topic)]
    pub(super) topic: String,

    /// Use a topic that may lose acknowledged events: one replica, min.insync.replicas 1, or unclean leader election
    #[arg(
        id = "kafka-accept-loss", long, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true,
        hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(super) accepts_loss: bool,
}

/// Addresses of brokers, as librdkafka takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaBrokers(String);

/// How to log in to Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KafkaSasl {
    /// The password itself is sent.
    Plain,
    /// SCRAM with SHA-256: both sides prove that they know the password.
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[default]
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

/// A Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Where it is.
    pub brokers: KafkaBrokers,
    /// True: over TLS.
    pub has_tls: bool,
    /// The PEM certificates to trust for it over TLS; none: this host's.
    pub tls_ca: Option<Vec<u8>>,
    /// The user and the password, if there is a login.
    pub login: Option<(String, Secret)>,
    /// How the login is made.
    pub sasl: KafkaSasl,
    /// The bus in it, if it has the bus.
    pub bus: Option<KafkaBusConfig>,
    /// Which events are copied to topics of it; of several that match a topic, the first one counts.
    pub copies: Vec<KafkaCopyRule>,
    /// The topics of it that are read, if any.
    pub feeds: Option<KafkaFeedsConfig>,
}

/// The bus in a topic of Kafka.
#[derive(Clone, Debug)]
pub struct KafkaBusConfig {
    /// The topic.
    pub topic: String,
    /// True: it may be one that can lose what it acknowledged.
    pub accepts_loss: bool,
    /// What is the same for all durable buses.
    pub durable: DurableBusConfig,
}

impl KafkaOptions {
    /// Reads the files that the options name; none without brokers.
    pub(super) fn read(
        self,
        bus: &BusOptions,
        flows: &KafkaFlowOptions,
        secrets: &mut SecretReader<'_>,
    ) -> Result<Option<KafkaConfig>, ConfigError> {
        let Some(brokers) = self.brokers else { return Ok(None) };
        if self.tls_ca.is_some() && !self.tls {
            return Err(refused(secrets, "kafka-tls-ca", "a CA is for brokers with TLS: add kafka-tls"));
        }
        let tls_ca = self.tls_ca.as_deref().map(std::fs::read).transpose();
        let tls_ca = tls_ca.map_err(|error| refused(secrets, "kafka-tls-ca", &error.to_string()))?;
        let file = self.password_file.as_deref();
        let login = match (self.user, secrets.password("kafka-password-file", file, KAFKA_PASSWORD_VARIABLE)?) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(refused(secrets, "kafka-user", "it has no password: give kafka-password-file"));
            }
            (None, Some(_)) => {
                return Err(refused(secrets, "kafka-brokers", "a password needs a user: give kafka-user"));
            }
        };
        let bus = bus.of(BusKind::Kafka);
        let bus = bus.map(|durable| KafkaBusConfig { topic: self.topic, accepts_loss: self.accepts_loss, durable });
        let (copies, feeds) = (flows.copies.clone(), flows.feeds());
        Ok(Some(KafkaConfig { brokers, has_tls: self.tls, tls_ca, login, sasl: self.sasl, bus, copies, feeds }))
    }
}

fn refused(secrets: &SecretReader<'_>, option: &str, reason: &str) -> ConfigError {
    ConfigError::Value { setting: secrets.settings.get(option).to_string(), reason: reason.to_owned() }
}

impl KafkaBrokers {
    /// All of them, with commas between them.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KafkaBrokers {
    type Err = String;

    fn from_str(text: &str) -> Result<KafkaBrokers, String> {
        const ADVICE: &str = "allowed is HOST:PORT, and more of them after commas";
        let is_broker = |broker: &str| {
            let Some((host, port)) = broker.rsplit_once(':') else { return false };
            let is_host = |letter: char| letter.is_ascii_alphanumeric() || ".-_:[]".contains(letter);
            !host.is_empty() && host.chars().all(is_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        match text.split(',').all(is_broker) {
            true => Ok(KafkaBrokers(text.to_owned())),
            false => Err(ADVICE.to_owned()),
        }
    }
}

impl fmt::Display for KafkaBrokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KafkaSasl {
    /// The mechanism's name in Kafka.
    pub fn mechanism(self) -> &'static str {
        match self {
            KafkaSasl::Plain => "PLAIN",
            KafkaSasl::ScramSha256 => "SCRAM-SHA-256",
            KafkaSasl::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Reads the name of a topic of Kafka.
pub fn kafka_topic(text: &str) -> Result<String, String> {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let is_long_enough = (1..=TOPIC_BYTES_MAX).contains(&text.len()) && !text.trim_matches('.').is_empty();
    match is_long_enough && text.chars().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!("it has 1 to {TOPIC_BYTES_MAX} letters, digits, dots, dashes and underscores")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_ports() {
        for good in ["a:9092", "10.0.0.1:1,b-c.example:65535", "[::1]:9092"] {
            assert_eq!(good.parse::<KafkaBrokers>().unwrap().to_string(), good);
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:1,", "a:1, b:2", "user:pw@a:1", "a:1\nb:2"] {
            assert!(bad.parse::<KafkaBrokers>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_topic_of_kafka_has_a_bounded_name() {
        for good in ["a", "a.B_c-1", &"x".repeat(249)] {
            assert_eq!(kafka_topic(good).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(kafka_topic(bad).is_err(), "{bad:?}");
        }
    }
}
