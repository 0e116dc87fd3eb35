//! The bus: the messages with which nodes pass on to each other what clients published. Pure.
//!
//! ```text
//! [event, ...]                                   envelopes of any topics, each with its id
//! {"copied":["news"],"events":[event, ...]}      those of the topic news follow, copied to the channel news
//! {"disconnect":{...},"asked_at_s":n}            streams to end; an older node refuses it as malformed
//! ```

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{Event, Topic};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::envelope;
use crate::protocol::publish::{self, PublishLimits};
use crate::sources::channel::Refusal;
use crate::sources::payload::{self, Refused};
use crate::sources::redis::copies::ChannelCopy;

/// What a node adds to an event's id, or the whole id with its field's name and punctuation.
const EVENT_OVERHEAD_BYTES: usize = 64;
/// Length of a character that JSON escapes.
const ESCAPED_BYTES: usize = 6;

/// The longest message that a node, or an application that sends envelopes, has reason to send.
///
/// A publish body on the bus is at most three times as long: JSON data becomes text, in which a quote takes two bytes,
/// and copied topics are named once more. Each event gets an id, or a place before the publisher's own. The data of one event may be escaped throughout.
pub fn message_bytes_max(limits: &PublishLimits, body_bytes_max: usize) -> usize {
    let data = limits.data_bytes_max.saturating_mul(ESCAPED_BYTES);
    let overhead = limits.batch_max.saturating_add(1).saturating_mul(EVENT_OVERHEAD_BYTES);
    body_bytes_max.saturating_mul(3).max(data).saturating_add(overhead).saturating_add(EVENT_BYTES_BESIDES_MAX)
}

/// All of an event except its data: names of a kilobyte and their escapes.
const EVENT_BYTES_BESIDES_MAX: usize = 16 << 10;

/// The content of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BusMessage {
    /// What was published.
    pub events: Vec<Event>,
    /// The topics whose events were copied to their channels.
    pub copied: Vec<String>,
    /// Which streams to end.
    pub disconnect: Option<Disconnect>,
}

/// A message with copies.
#[derive(Serialize, Deserialize)]
struct WithCopies<'a> {
    #[serde(borrow)]
    copied: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    events: &'a RawValue,
}

/// The message that carries `events` and announces these copies of them.
pub(super) fn write(events: &[Event], copies: &[ChannelCopy]) -> String {
    let events = envelope::envelopes(events);
    if copies.is_empty() {
        return events;
    }
    let mut copied: Vec<Cow<'_, str>> = copies.iter().map(|copy| copy.channel.as_str().into()).collect();
    copied.sort_unstable();
    copied.dedup();
    let events = RawValue::from_string(events).expect("it was just written as JSON");
    serde_json::to_string(&WithCopies { copied, events: &events }).expect("strings and JSON are JSON")
}

/// Reads a message. The number of events is not limited here: the node that accepted them has limited it.
pub fn parse(message: &[u8], limits: &PublishLimits) -> Result<BusMessage, Refused> {
    if let Some(disconnect) = Disconnect::parse_passed(message) {
        let disconnect = disconnect.map_err(|error| Refused {
            refusal: Refusal::Malformed,
            topics: Vec::new(),
            reason: error.to_string(),
        })?;
        return Ok(BusMessage { disconnect: Some(disconnect), ..BusMessage::default() });
    }
    let limits = PublishLimits { batch_max: usize::MAX, ..*limits };
    let (events, copied) = match serde_json::from_slice(message) {
        Ok(WithCopies { copied, events }) => {
            (events.get().as_bytes(), copied.into_iter().map(Cow::into_owned).collect())
        }
        Err(_) => (message, Vec::new()),
    };
    match publish::parse_passed_on(events, &limits) {
        Ok(events) => Ok(BusMessage { events, copied, disconnect: None }),
        // A node with another version or other limits sent this. Subscribers of the topics it names receive a gap
        // event.
        Err(error) => Err(Refused {
            refusal: payload::refusal(&error),
            topics: named_topics(events, &limits),
            reason: error.to_string(),
        }),
    }
}

fn named_topics(events: &[u8], limits: &PublishLimits) -> Vec<Topic> {
    #[derive(Deserialize)]
    struct Named {
        topic: String,
    }
    let named: Vec<Named> = serde_json::from_slice(events).unwrap_or_default();
    named
        .iter()
        .filter_map(|named| payload::parse_topic("the topic's name", named.topic.as_bytes(), limits).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::join;

    const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 8, data_bytes_max: 10, batch_max: 2 };

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn event(name: &str) -> Event {
        Event::message(topic(name), "x")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let events = ["a", "b", "a\"", "a"].map(event);
        let copy = |name: &str| ChannelCopy { channel: topic(name), payload: b"x".to_vec() };
        let check = |copies: &[&str], copied: &[&str]| {
            let copies: Vec<_> = copies.iter().map(|name| copy(name)).collect();
            let message = write(&events, &copies);
            let copied = copied.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(
                parse(message.as_bytes(), &LIMITS),
                Ok(BusMessage { events: events.to_vec(), copied, disconnect: None })
            );
        };
        check(&[], &[]);
        check(&["b"], &["b"]);
        check(&["a", "a\"", "a"], &["a", "a\""]);
    }

    #[test]
    fn streams_to_end_come_without_events() {
        let disconnect = Disconnect::parse(br#"{"topic":"t","subject":"a"}"#, 7).unwrap();
        let read = parse(disconnect.passed().as_bytes(), &LIMITS).unwrap();
        assert_eq!(read, BusMessage { disconnect: Some(disconnect), ..BusMessage::default() });
    }

    #[test]
    fn no_bus_message_exceeds_the_size_that_nodes_read() {
        let limits = PublishLimits { topic_bytes_max: 1024, data_bytes_max: 1 << 16, batch_max: 1000 };
        let check = |body: &str| {
            let mut events = publish::parse(body.as_bytes(), &limits).unwrap();
            let longest_id = crate::event::RunName::from_bits(1).id(crate::event::Sequence(u64::MAX));
            events.iter_mut().for_each(|event| event.id = Some(join(longest_id.clone(), event.id.as_ref())));
            let copies: Vec<_> =
                events.iter().map(|event| ChannelCopy { channel: event.topic.clone(), payload: vec![] }).collect();
            let length = write(&events, &copies).len();
            assert!(length <= message_bytes_max(&limits, body.len()), "{length} bytes of {}", body.len());
        };
        let batch = |event: &str| format!("[{}]", vec![event; 1000].join(","));
        let quotes = format!(r#"{{"topic":"t","data":[{}]}}"#, vec![r#""""#; 20_000].join(","));
        check(&quotes);
        check(&batch(r#"{"topic":"t","data":1}"#));
        check(&batch(r#"{"topic":"t","data":1,"id":"1"}"#));
        check(&batch(r#"{"topic":"\"\"\"\"\"\"","data":""}"#));
        check(&batch(r#"{"topic":"t","data":["","","",""]}"#));
        check(&format!(r#"{{"topic":"t","data":"{}"}}"#, r"\u0001".repeat(1 << 16)));
        let topics: Vec<_> =
            (0..1000).map(|n| format!(r#"{{"topic":"{n}{}","data":""}}"#, r#"\""#.repeat(1000))).collect();
        check(&format!("[{}]", topics.join(",")));
        // An application's envelope, however it escapes what it sends.
        let application = format!(r#"{{"topic":"t","data":"{}"}}"#, r"\u0041".repeat(1 << 16));
        assert!(application.len() <= message_bytes_max(&limits, 0));
    }

    #[test]
    fn a_refused_bus_message_names_the_topics_that_lose_its_events() {
        let check = |message: &str, expected: (Refusal, &[&str])| {
            let Refused { refusal, topics, .. } = parse(message.as_bytes(), &LIMITS).unwrap_err();
            assert_eq!(refusal, expected.0, "{message}");
            assert_eq!(topics.iter().map(Topic::as_str).collect::<Vec<_>>(), expected.1, "{message}");
        };
        let long = Event::message(topic("b"), "12345678901");
        check(&envelope::envelopes(&[event("a"), long]), (Refusal::TooLarge, &["a", "b"]));
        check(r#"[{"topic":"a","data":1,"new":2}]"#, (Refusal::Malformed, &["a"]));
        check(r#"{"copied":["a"],"events":[{"topic":"a","data":1,"new":2}]}"#, (Refusal::Malformed, &["a"]));
        check(r#"[{"topic":"123456789","data":1}]"#, (Refusal::Malformed, &[]));
        check(r#"{"disconnect":{"all":true},"asked_at_s":7}"#, (Refusal::Malformed, &[]));
        check("garbage", (Refusal::Malformed, &[]));
    }
}
