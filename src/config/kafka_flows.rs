//! What goes between this server and topics of Kafka beside the bus: copies of what clients publish, and topics of
//! applications.

use clap::Args;

use super::bus::BusKind;
use super::check::refuse;
use super::options::{Options, RedisPayload};
use super::{ConfigError, Settings, absent_feature, kafka_topic};
use crate::event::Topic;

/// What stands for the key of a message in the name of a topic.
pub const KEY_PLACE: &str = "{key}";
/// The longest name of a consumer group.
const GROUP_BYTES_MAX: usize = 249;

/// The options about copies and about topics of applications.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kafka")]
pub(super) struct KafkaFlowOptions {
    /// A topic of Kafka that gets a copy of every event published over HTTP; with PATTERN=NAME, of topics that match the
    /// pattern; repeatable
    ///
    /// Of several that match a topic, the first one counts. The key of the message is the event's topic, and its value is
    /// the data. A publish never waits for Kafka.
    #[arg(id = "kafka-publish", long, value_name = "[PATTERN=]NAME", value_parser = copy_rule)]
    pub(super) copies: Vec<KafkaCopyRule>,

    /// A topic of Kafka whose messages become events; with NAME=TOPIC, of that topic; repeatable
    ///
    /// {key} in TOPIC is the message's key. It needs --bus redis-stream or postgres, which keeps how far each partition
    /// was read. A topic that no node has read yet is read from its end.
    #[arg(id = "kafka-consume", long, value_name = "NAME[=TOPIC]", value_parser = feed)]
    pub(super) feeds: Vec<KafkaFeed>,

    /// The consumer group in which the nodes share the partitions of --kafka-consume
    #[arg(id = "kafka-group", long, value_name = "NAME", default_value = "fanfare", value_parser = group)]
    pub(super) group: String,

    /// The format of these messages: the data itself, or the JSON that POST /publish takes
    #[arg(id = "kafka-payload", long, value_name = "FORMAT", default_value = "raw")]
    pub(super) payload: RedisPayload,
}

/// Which topics are copied to a topic of Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaCopyRule {
    /// A pattern of topics in Redis's language.
    pub pattern: String,
    /// The topic of Kafka.
    pub name: String,
}

/// A topic of Kafka that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaFeed {
    /// The topic of Kafka.
    pub name: String,
    /// The topic of its events, in which [`KEY_PLACE`] stands for the message's key.
    pub topic: String,
}

/// What is read from Kafka.
#[derive(Clone, Debug)]
pub struct KafkaFeedsConfig {
    /// The topics.
    pub feeds: Vec<KafkaFeed>,
    /// The consumer group.
    pub group: String,
    /// The format of the messages.
    pub payload: RedisPayload,
}

impl KafkaFlowOptions {
    /// True if anything goes to Kafka or comes from there beside the bus.
    pub(super) fn are_given(&self) -> bool {
        !self.copies.is_empty() || !self.feeds.is_empty()
    }

    /// What is read, if anything is.
    pub(super) fn feeds(&self) -> Option<KafkaFeedsConfig> {
        let KafkaFlowOptions { feeds, group, payload, .. } = self.clone();
        (!feeds.is_empty()).then_some(KafkaFeedsConfig { feeds, group, payload })
    }
}

fn copy_rule(text: &str) -> Result<KafkaCopyRule, String> {
    let (pattern, name) = text.rsplit_once('=').unwrap_or(("*", text));
    Topic::new(pattern).map_err(|error| format!("a pattern of topics {error}"))?;
    Ok(KafkaCopyRule { pattern: pattern.to_owned(), name: kafka_topic(name)? })
}

fn feed(text: &str) -> Result<KafkaFeed, String> {
    let (name, topic) = text.split_once('=').unwrap_or((text, text));
    let example = topic.replace(KEY_PLACE, "x");
    Topic::new(&example).map_err(|error| format!("a topic's name {error}"))?;
    match Topic::looks_like_pattern(topic) {
        true => Err("a topic's name has no *".to_owned()),
        false => Ok(KafkaFeed { name: kafka_topic(name)?, topic: topic.to_owned() }),
    }
}

fn group(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic();
    match (1..=GROUP_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!("a group has 1 to {GROUP_BYTES_MAX} visible ASCII characters")),
    }
}

/// Checks what copies and topics of applications need, and what they exclude.
pub(super) fn check(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let flows = &options.kafka_flows;
    let refused = |name: &str, reason: &str| {
        let setting = settings.get(name).to_string();
        Err(ConfigError::Value { setting, reason: reason.to_owned() })
    };
    let pair = |first: &str, second: &str| (settings.get(first).to_string(), settings.get(second).to_string());
    if !flows.are_given() {
        return Ok(());
    }
    let given = if flows.copies.is_empty() { "kafka-consume" } else { "kafka-publish" };
    if !cfg!(feature = "kafka") {
        return refused(given, &absent_feature("kafka"));
    }
    if options.kafka.brokers.is_none() {
        return refused(given, "no kafka-brokers are given: they have the topic");
    }
    let copies_to = |name: &str| flows.copies.iter().any(|copy| copy.name == name);
    if options.bus.kind == Some(BusKind::Kafka) && copies_to(&options.kafka.topic) {
        return refuse(pair("kafka-publish", "kafka-topic"), "the bus has every event already: name another topic");
    }
    if flows.feeds.is_empty() {
        return Ok(());
    }
    match options.bus.kind {
        Some(BusKind::RedisStream | BusKind::Postgres) => {}
        Some(BusKind::Kafka) => {
            let reason =
                "this bus has no place for how far each partition was read: use --bus redis-stream or postgres";
            return refuse(pair("bus", "kafka-consume"), reason);
        }
        _ => {
            let reason = "it needs a durable bus, on which one node appends each message for all nodes: use --bus \
                          redis-stream or postgres";
            return refused("kafka-consume", reason);
        }
    }
    for (index, feed) in flows.feeds.iter().enumerate() {
        if flows.feeds[..index].iter().any(|other| other.name == feed.name) {
            return refused("kafka-consume", &format!("{} is given twice", feed.name));
        }
        if copies_to(&feed.name) {
            return refuse(pair("kafka-publish", "kafka-consume"), "the copies would come back as events");
        }
        if feed.topic.replace(KEY_PLACE, "").len() > options.limits.topic_bytes_max {
            return refuse(pair("kafka-consume", "topic-bytes"), "the name is longer than topics may be");
        }
    }
    Ok(())
}

/// Warns about settings that have no effect.
pub(super) fn oddities(options: &Options, settings: &Settings, warnings: &mut Vec<String>) {
    if options.kafka_flows.feeds.is_empty() {
        let given = ["kafka-group", "kafka-payload"].map(|name| settings.get(name));
        let given = given.into_iter().filter(|setting| setting.is_explicit());
        warnings.extend(given.map(|setting| format!("{setting} has no effect without kafka-consume")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_a_pattern_and_a_topic_of_kafka() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let rule = copy_rule(text).ok().map(|rule| (rule.pattern, rule.name));
            assert_eq!(rule, expected.map(|(pattern, name)| (pattern.to_owned(), name.to_owned())), "{text}");
        };
        check("events", Some(("*", "events")));
        check("orders.*=shop", Some(("orders.*", "shop")));
        check("a=b=c", Some(("a=b", "c")));
        for bad in ["", "=a", "a=", "a b", "fanfare:x=a"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_topic_that_is_read_may_have_another_name() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let feed = feed(text).ok().map(|feed| (feed.name, feed.topic));
            assert_eq!(feed, expected.map(|(name, topic)| (name.to_owned(), topic.to_owned())), "{text}");
        };
        check("orders", Some(("orders", "orders")));
        check("orders=shop/orders", Some(("orders", "shop/orders")));
        check("users=user.{key}", Some(("users", "user.{key}")));
        check("users={key}", Some(("users", "{key}")));
        for bad in ["", "a=", "=a", "a b", "a=fanfare:x", "a=b*"] {
            check(bad, None);
        }
        assert!(group("fanfare-2").is_ok() && group("").is_err() && group("a b").is_err());
    }
}
