//! Which topic a channel's messages are for, and their format.
//!
//! The first rule that matches the channel decides, whichever subscription brings the message. That takes a while, so it is
//! done once for a recently seen channel and not for each message. Bounded: when the names take more than [`BYTES_MAX`],
//! all are discarded, and mapped again when they reappear.

use std::collections::HashMap;

use crate::event::{Topic, glob};
use crate::sources::payload::{self, Payload};
use crate::sources::redis::{ChannelRule, RedisSettings};

/// Room for the channels and topics of as many topics as a server has by default, 40 bytes each.
const BYTES_MAX: usize = 16 << 20;
/// What a channel costs in addition to both names.
const OVERHEAD_BYTES: usize = 80;

/// The topics of recently seen channels.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    known: HashMap<Box<str>, Mapped>,
    bytes: usize,
}

/// What becomes of a channel's messages.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub(super) topic: Topic,
    pub(super) payload: Payload,
}

impl Mapping {
    /// The topic of a channel, or why it has no valid one.
    pub(super) fn get(&mut self, channel: &[u8], settings: &RedisSettings) -> Result<Mapped, String> {
        let name = std::str::from_utf8(channel).ok();
        if let Some(mapped) = name.and_then(|name| self.known.get(name)) {
            return Ok(mapped.clone());
        }
        let mapped = settings.map(channel)?;
        if let Some(name) = name {
            let bytes = name.len() + mapped.topic.as_str().len() + OVERHEAD_BYTES;
            self.bytes += bytes;
            if self.bytes > BYTES_MAX {
                self.known = HashMap::new();
                self.bytes = bytes;
            }
            self.known.insert(name.into(), mapped.clone());
        }
        Ok(mapped)
    }
}

impl RedisSettings {
    /// The channels and the patterns to subscribe to.
    pub(super) fn subscribed(&self) -> (Vec<String>, Vec<String>) {
        let patterns = self.rules.iter().map(|rule| rule.pattern.clone());
        let (mut patterns, mut channels): (Vec<_>, Vec<_>) = patterns.partition(|pattern| glob::is_pattern(pattern));
        channels.extend(self.channels.iter().cloned());
        patterns.extend(self.patterns.iter().cloned());
        (channels, patterns)
    }

    fn rule(&self, channel: &[u8]) -> Option<&ChannelRule> {
        self.rules.iter().find(|rule| match glob::is_pattern(&rule.pattern) {
            true => glob::matches(rule.pattern.as_bytes(), channel),
            false => rule.pattern.as_bytes() == channel,
        })
    }

    fn map(&self, channel: &[u8]) -> Result<Mapped, String> {
        Ok(Mapped { topic: self.topic_of(channel)?, payload: self.payload_of(self.rule(channel)) })
    }

    /// The topic of a channel's messages, or why there is no valid one.
    pub(super) fn topic_of(&self, channel: &[u8]) -> Result<Topic, String> {
        let rule = self.rule(channel);
        match rule.and_then(|rule| Some((&rule.pattern, rule.topic.as_ref()?))) {
            None => payload::parse_topic("the channel's name", channel, &self.limits),
            Some((pattern, template)) => {
                let name = template.fill(pattern.as_bytes(), channel);
                payload::parse_topic("the topic's name", &name, &self.limits)
            }
        }
    }

    /// The format of a channel's messages.
    pub(super) fn payload_in(&self, channel: &str) -> Payload {
        self.payload_of(self.rule(channel.as_bytes()))
    }

    fn payload_of(&self, rule: Option<&ChannelRule>) -> Payload {
        rule.and_then(|rule| rule.payload).unwrap_or(self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::publish::PublishLimits;
    use crate::redis_address::RedisAddress;

    fn settings(rules: &[(&str, Option<&str>, Option<Payload>)]) -> RedisSettings {
        let rule = |(pattern, topic, payload): &(&str, Option<&str>, Option<Payload>)| ChannelRule {
            pattern: (*pattern).to_owned(),
            topic: topic.map(|topic| topic.parse().unwrap()),
            payload: *payload,
        };
        RedisSettings {
            address: RedisAddress::new("redis://localhost", None).unwrap(),
            rules: rules.iter().map(rule).collect(),
            channels: Vec::new(),
            patterns: Vec::new(),
            payload: Payload::Raw,
            bus: "bus".to_owned(),
            copied_channels: Vec::new(),
            limits: PublishLimits { topic_bytes_max: 1024, data_bytes_max: 1, batch_max: 1 },
            body_bytes_max: 1,
            queue: crate::sources::QueueLimits { publishes_max: 1, bytes_max: 1 },
            timing: Default::default(),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let (raw, envelope) = (Some(Payload::Raw), Some(Payload::Envelope));
        let settings = settings(&[
            ("rails:odd", Some("odd"), None),
            ("rails:*", Some("app.{1}"), envelope),
            ("*:*", None, raw),
            ("go:*:*", Some("never"), envelope),
            ("p?", Some("{0}.{1}"), envelope),
            ("?*", Some("{1}"), raw),
        ]);
        let mut mapping = Mapping::default();
        let mut check = |channel: &[u8], expected: Result<(&str, Payload), &str>| {
            for _ in 0..2 {
                let mapped = mapping.get(channel, &settings);
                let mapped = mapped.as_ref().map(|mapped| (mapped.topic.as_str(), mapped.payload));
                let is_expected = match (&mapped, &expected) {
                    (Err(reason), Err(words)) => reason.contains(words),
                    _ => mapped.as_ref().ok() == expected.as_ref().ok(),
                };
                assert!(is_expected, "{:?}: {mapped:?}", String::from_utf8_lossy(channel));
            }
        };
        check(b"rails:odd", Ok(("odd", Payload::Raw)));
        check(b"rails:orders", Ok(("app.orders", Payload::Envelope)));
        check(b"rails:", Ok(("app.", Payload::Envelope)));
        check(b"go:a:b", Ok(("go:a:b", Payload::Raw)));
        check(b"fanfare:x", Err("the channel's name is reserved"));
        check(b"px", Ok(("px.", Payload::Envelope)));
        check(b"xfanfare", Ok(("fanfare", Payload::Raw)));
        check(b"xyz", Ok(("yz", Payload::Raw)));
        check(b"x", Err("the topic's name must not be empty"));
        check("ä".as_bytes(), Err("the topic's name is not UTF-8"));
        check(b"x\xff", Err("the topic's name is not UTF-8"));
        check(b"\xffx", Ok(("x", Payload::Raw)));
        check(&[b'x'; 1025], Ok((&"x".repeat(1024), Payload::Raw)));
        check(&[b'x'; 1026], Err("the topic's name has 1025 bytes: a topic may have 1024"));
        check(b"", Err("the channel's name must not be empty"));
        assert_eq!([settings.payload_in("rails:a"), settings.payload_in("q")], [Payload::Envelope, Payload::Raw]);
    }

    #[test]
    fn rules_are_subscribed_to_before_other_channels() {
        let rules = settings(&[("a.*", None, None), ("b", None, None), ("c?", None, None)]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let settings = RedisSettings { channels: names(&["d"]), patterns: names(&["e*", "f"]), ..rules };
        assert_eq!(settings.subscribed(), (names(&["b", "d"]), names(&["a.*", "c?", "e*", "f"])));
    }

    #[test]
    fn a_template_can_name_no_topic_of_the_server() {
        let settings = settings(&[("*|*", Some("{1}{2}"), None)]);
        let refused = settings.map(b"fan|fare:statistics").unwrap_err();
        assert!(refused.contains("the topic's name is reserved"), "{refused}");
    }

    #[test]
    fn a_name_is_allocated_once_and_not_too_many_are_kept() {
        let settings = settings(&[]);
        let mut mapping = Mapping::default();
        let get = |mapping: &mut Mapping, name: &str| mapping.get(name.as_bytes(), &settings).unwrap().topic;
        let first = get(&mut mapping, "a");
        assert_eq!(get(&mut mapping, "a").as_str().as_ptr(), first.as_str().as_ptr());
        for number in 0..20_000 {
            let name = format!("{number:01000}");
            assert_eq!(get(&mut mapping, &name).as_str(), name);
            let names = mapping.known.iter().map(|(channel, mapped)| channel.len() + mapped.topic.as_str().len());
            let bytes: usize = names.map(|names| names + OVERHEAD_BYTES).sum();
            assert!(bytes == mapping.bytes && bytes <= BYTES_MAX || number % 1000 != 0, "{bytes}");
        }
    }
}
