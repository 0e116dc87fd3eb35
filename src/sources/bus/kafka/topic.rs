//! The topic of the bus: what Kafka says about it, and how it is created.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;
use rdkafka::types::RDKafkaRespErr;

use crate::sources::bus::EngineError;
use crate::sources::bus::findings::Verdict;
use crate::sources::bus::kafka::KafkaBusSettings;
use crate::sources::bus::kafka::partition::Partition;
use crate::sources::kafka::{ANSWER_TIMEOUT, KafkaAddress, KafkaLog, text_of};

/// The replicas of a correct topic.
pub const REPLICAS: i32 = 3;
/// The replicas that must have an event before it is acknowledged.
const IN_SYNC: &str = "min.insync.replicas";
/// The other settings of a topic that Fanfare creates.
const SETTINGS: [(&str, &str); 2] = [("cleanup.policy", "delete"), ("unclean.leader.election.enable", "false")];

/// What Kafka says about the topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Topic {
    /// None: there is no such topic.
    pub(super) partitions: Option<usize>,
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
    /// The broker that leads the first partition.
    pub(super) leader: i32,
    /// Its settings, or why they can't be read; none: they were not asked for.
    pub(super) settings: Option<Result<BTreeMap<String, String>, String>>,
}

impl Topic {
    pub(super) fn read(partition: &Partition, settings: &KafkaBusSettings) -> Result<Topic, EngineError> {
        let mut topic = Topic::read_partitions(partition, settings)?;
        topic.settings = topic.partitions.map(|_| read_settings(settings, topic.leader));
        Ok(topic)
    }

    pub(super) fn exists(partition: &Partition, settings: &KafkaBusSettings) -> Result<bool, EngineError> {
        Ok(Topic::read_partitions(partition, settings)?.partitions.is_some())
    }

    fn read_partitions(partition: &Partition, settings: &KafkaBusSettings) -> Result<Topic, EngineError> {
        let metadata = partition.metadata()?;
        let absent = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
        let Some(found) = metadata.topics().iter().find(|topic| topic.name() == settings.topic) else {
            return Ok(Topic::default());
        };
        match found.error() {
            None => {}
            Some(error) if error == absent => return Ok(Topic::default()),
            Some(error) => {
                let text = text_of(&KafkaError::MetadataFetch(error.into()));
                return Err(EngineError(format!("{}: topic {}: {text}", settings.address, settings.topic)));
            }
        }
        let first = found.partitions().first();
        Ok(Topic {
            partitions: Some(found.partitions().len()),
            replicas: first.map_or(0, |partition| partition.replicas().len()),
            in_sync: first.map_or(0, |partition| partition.isr().len()),
            leader: first.map_or(-1, MetadataPartition::leader),
            settings: None,
        })
    }
}

/// Refuses a topic that is not fit for a bus. Its settings are read once for each node.
pub(super) fn check(partition: &Partition, settings: &KafkaBusSettings) -> Result<(), EngineError> {
    let mut is_checked = settings.shared.is_checked.lock().unwrap_or_else(PoisonError::into_inner);
    let topic = match *is_checked {
        true => Topic::read_partitions(partition, settings)?,
        false => Topic::read(partition, settings)?,
    };
    let findings = topic.findings(settings);
    if let Some(found) = findings.iter().find(|finding| finding.verdict == Verdict::Problem) {
        let (address, name) = (&settings.address, &settings.topic);
        return Err(EngineError(format!("{address}: topic {name}: {}; do: {}", found.text, found.advice)));
    }
    if !*is_checked {
        for found in findings.iter().filter(|finding| finding.verdict == Verdict::Note) {
            tracing::warn!(topic = settings.topic, subject = found.subject, "the bus in Kafka: {}", found.text);
        }
    }
    *is_checked = true;
    Ok(())
}

/// The command that creates a correct topic with this number of replicas.
pub fn creating_command(brokers: &str, topic: &str, replicas: i32) -> String {
    let settings: String =
        settings_of(replicas).iter().map(|(name, value)| format!(" --config {name}={value}")).collect();
    format!(
        "kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 1 \
         --replication-factor {replicas}{settings}"
    )
}

fn settings_of(replicas: i32) -> Vec<(&'static str, &'static str)> {
    let in_sync = if replicas > 1 { "2" } else { "1" };
    [(IN_SYNC, in_sync)].into_iter().chain(SETTINGS).collect()
}

/// Creates the topic.
pub(super) fn create(settings: &KafkaBusSettings) -> Result<(), EngineError> {
    let (address, topic, replicas) = (&settings.address, &settings.topic, settings.replicas);
    let refused = |error: &KafkaError| {
        let command = creating_command(&address.brokers, topic, replicas);
        EngineError(format!("{address}: topic {topic} can't be created: {}; do: {command}", text_of(error)))
    };
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(replicas));
    let new = settings_of(replicas).into_iter().fold(new, |new, (name, value)| new.set(name, value));
    let admin = admin(address)?;
    let results = wait_for(admin.create_topics([&new], &options())).map_err(|error| refused(&error))?;
    match results.into_iter().next() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(refused(&KafkaError::AdminOp(code))),
        None => Err(refused(&KafkaError::Canceled)),
    }
}

fn read_settings(settings: &KafkaBusSettings, broker: i32) -> Result<BTreeMap<String, String>, String> {
    let admin = admin(&settings.address).map_err(|error| error.0)?;
    let topic = ResourceSpecifier::Topic(&settings.topic);
    let found =
        wait_for(admin.describe_configs([&topic], &options().broker_id(broker))).map_err(|error| text_of(&error))?;
    let found = found.into_iter().next().ok_or("the brokers named none")?;
    let found = found.map_err(|code| text_of(&KafkaError::AdminOp(code)))?;
    Ok(found.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

fn admin(address: &KafkaAddress) -> Result<AdminClient<KafkaLog>, EngineError> {
    let admin = address.client_config().create_with_context(KafkaLog::new("bus, administration"));
    admin.map_err(|error| EngineError(format!("{address}: {}", text_of(&error))))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT))
}

/// Waits for what a thread of the client completes, within the time of the options.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}
