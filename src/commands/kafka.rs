//! The Kafka that has the bus of `fanfare serve` and `fanfare bus`. Builds without it have `absent.rs` instead.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::UsageError;
use super::redis::password;
use crate::cli::BusPlace;
use crate::config::{Config, KAFKA_PASSWORD_VARIABLE, KafkaBrokers, KafkaBusConfig, KafkaConfig, KafkaSasl, Secret};
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::kafka::{KafkaBus, KafkaBusSettings, REPLICAS, creating_command};
use crate::sources::bus::tools::BusTools;
use crate::sources::bus::{BusBounds, Engine};
use crate::sources::kafka::{KafkaAddress, KafkaLogin, KafkaTls};

/// The command that creates the topic of the bus.
pub(super) fn installation(place: &BusPlace) -> anyhow::Result<String> {
    let brokers = place.kafka.brokers.as_ref().map_or("localhost:9092", KafkaBrokers::as_str);
    Ok(creating_command(brokers, &place.kafka.topic, place.kafka.replicas))
}

/// The bus at this place. How many entries it keeps is Kafka's own matter.
pub(super) fn bus_at(place: &BusPlace, brokers: &KafkaBrokers, _: u64) -> anyhow::Result<Box<dyn BusTools>> {
    let place = &place.kafka;
    let password = password("--kafka-password-file", place.password_file.as_deref(), KAFKA_PASSWORD_VARIABLE)?;
    let login = match (&place.user, password) {
        (Some(user), Some(password)) => Some((user.clone(), password)),
        (Some(_), None) => return Err(UsageError("--kafka-user needs --kafka-password-file".to_owned()).into()),
        (None, _) => None,
    };
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("--kafka-tls-ca {}", path.display()));
    let ca = place.tls_ca.as_deref().map(read).transpose()?;
    Ok(Box::new(KafkaBus::new(KafkaBusSettings {
        address: address(brokers, place.tls, ca.as_deref(), login.as_ref(), place.sasl)?,
        topic: place.topic.clone(),
        replicas: place.replicas,
        accepts_loss: place.accepts_loss,
        bounds: Arc::default(),
        shared: Arc::default(),
        // Nothing is published or delivered.
        limits: PublishLimits::NONE,
    })))
}

/// What makes the engines of a node.
pub(super) fn engines(
    config: &Config,
    kafka: &KafkaConfig,
    bus: &KafkaBusConfig,
    bounds: &Arc<BusBounds>,
) -> anyhow::Result<Box<dyn Fn() -> Box<dyn Engine>>> {
    let settings = KafkaBusSettings {
        address: address_of(kafka)?,
        topic: bus.topic.clone(),
        replicas: REPLICAS,
        accepts_loss: bus.accepts_loss,
        bounds: Arc::clone(bounds),
        shared: Arc::default(),
        limits: config.limits.publish(),
    };
    Ok(Box::new(move || Box::new(KafkaBus::new(settings.clone()))))
}

/// The address that the configuration says.
pub(super) fn address_of(kafka: &KafkaConfig) -> Result<KafkaAddress, UsageError> {
    address(&kafka.brokers, kafka.has_tls, kafka.tls_ca.as_deref(), kafka.login.as_ref(), kafka.sasl)
}

fn address(
    brokers: &KafkaBrokers,
    has_tls: bool,
    ca: Option<&[u8]>,
    login: Option<&(String, Secret)>,
    sasl: KafkaSasl,
) -> Result<KafkaAddress, UsageError> {
    let ca = ca.map(|pem| String::from_utf8(pem.to_owned())).transpose();
    let ca = ca.map_err(|_| UsageError("--kafka-tls-ca: the file holds no certificate: expected PEM".to_owned()))?;
    let login = login.map(|(user, password)| KafkaLogin {
        user: user.clone(),
        password: password.expose().to_owned(),
        mechanism: sasl.mechanism(),
    });
    let tls = if has_tls { KafkaTls::On(ca) } else { KafkaTls::Off };
    Ok(KafkaAddress { brokers: brokers.as_str().to_owned(), tls, login })
}
