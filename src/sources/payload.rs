//! Converts messages of channels of Redis, and of topics of Kafka, to events, and back. Pure.
//!
//! - `raw`: the payload is the data, as it is, of an event of the channel's topic.
//! - `envelope`: the payload is the publish JSON, one event or an array. Its topics must equal that of the channel, because
//!   the publisher was allowed to write to that channel; a single event may omit its topic.

use crate::event::{Event, Topic};
use crate::protocol::envelope;
use crate::protocol::publish::{self, EventProblem, PublishError, PublishLimits};
use crate::sources::channel::Refusal;

/// How to read a message's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// The data.
    #[default]
    Raw,
    /// The publish JSON.
    Envelope,
}

/// A message that did not become an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason under which it is counted.
    pub refusal: Refusal,
    /// The topics whose subscribers miss events.
    pub topics: Vec<Topic>,
    /// What is wrong with it, for the log.
    pub reason: String,
}

/// The content of a message of a channel or a pattern.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// One event with only this data.
    Data(&'a str),
    /// Events with fields of their own.
    Events(Vec<Event>),
}

/// Reads a message of a channel whose topic is `topic`.
pub fn parse<'a>(
    kind: Payload,
    topic: &Topic,
    payload: &'a [u8],
    limits: &PublishLimits,
) -> Result<Parsed<'a>, Refused> {
    let parsed = match kind {
        Payload::Raw => parse_raw(payload, limits).map(Parsed::Data),
        Payload::Envelope => parse_envelope(topic, payload, limits).map(Parsed::Events),
    };
    parsed.map_err(|(refusal, reason)| Refused { refusal, topics: vec![topic.clone()], reason })
}

/// The topic of this name, or why it is not a valid one. `what` it is the name of is for that reason.
pub fn parse_topic(what: &str, name: &[u8], limits: &PublishLimits) -> Result<Topic, String> {
    let name = std::str::from_utf8(name).map_err(|_| format!("{what} is not UTF-8"))?;
    match name.len() {
        bytes if bytes > limits.topic_bytes_max => {
            Err(format!("{what} has {bytes} bytes: a topic may have {}", limits.topic_bytes_max))
        }
        _ => Topic::new(name).map_err(|error| format!("{what} {error}")),
    }
}

fn parse_raw<'a>(payload: &'a [u8], limits: &PublishLimits) -> Result<&'a str, (Refusal, String)> {
    if let Err(bytes) = limits.check_data(payload) {
        let reason = format!("the payload has {bytes} bytes: an event may have {}", limits.data_bytes_max);
        return Err((Refusal::TooLarge, reason));
    }
    match std::str::from_utf8(payload) {
        Ok(data) => Ok(data),
        Err(error) => Err((Refusal::NotUtf8, format!("the payload is not UTF-8 at byte {}", error.valid_up_to()))),
    }
}

fn parse_envelope(topic: &Topic, payload: &[u8], limits: &PublishLimits) -> Result<Vec<Event>, (Refusal, String)> {
    let without_topic = PublishError::Event { index: None, problem: EventProblem::MissingField("topic") };
    let parsed = match publish::parse(payload, limits) {
        Err(error) if error == without_topic => publish::parse(&with_topic(topic, payload), limits),
        parsed => parsed,
    };
    let events = parsed.map_err(|error| (refusal(&error), error.to_string()))?;
    match events.iter().find(|event| event.topic != *topic) {
        Some(other) => Err((
            Refusal::Malformed,
            format!("it names the topic {:?}, which is not that of its channel or topic", other.topic.as_str()),
        )),
        None => Ok(events),
    }
}

/// An event as a message of this kind.
pub(super) fn write(kind: Payload, event: &Event) -> Vec<u8> {
    match kind {
        Payload::Raw => event.data.clone().into_bytes(),
        Payload::Envelope => envelope::envelope(event).into_bytes(),
    }
}

/// The same object with the missing topic as its first member.
fn with_topic(topic: &Topic, object: &[u8]) -> Vec<u8> {
    let Some(open) = object.iter().position(|&byte| byte == b'{') else { return object.to_owned() };
    let member = format!("\"topic\":{},", serde_json::Value::from(topic.as_str()));
    [&object[..=open], member.as_bytes(), &object[open + 1..]].concat()
}

/// The reason under which an error in a publish body is counted.
pub(super) fn refusal(error: &PublishError) -> Refusal {
    match error {
        PublishError::NotUtf8(_) => Refusal::NotUtf8,
        PublishError::Event { problem: EventProblem::DataTooLarge { .. }, .. } | PublishError::BatchTooLarge { .. } => {
            Refusal::TooLarge
        }
        _ => Refusal::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 8, data_bytes_max: 10, batch_max: 2 };

    type Expected<'a> = Result<&'a [(&'a str, &'a str)], (Refusal, &'a [&'a str])>;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    /// The events of a message.
    fn parse(kind: Payload, channel: &[u8], payload: &[u8]) -> Result<Vec<Event>, Refused> {
        let no_topic = |reason| Refused { refusal: Refusal::Malformed, topics: Vec::new(), reason };
        let topic = parse_topic("the channel's name", channel, &LIMITS).map_err(no_topic)?;
        super::parse(kind, &topic, payload, &LIMITS).map(|parsed| match parsed {
            Parsed::Data(data) => vec![Event::message(topic, data)],
            Parsed::Events(events) => events,
        })
    }

    fn check(kind: Payload, channel: &[u8], payload: &[u8], expected: Expected<'_>) {
        let parsed = parse(kind, channel, payload);
        let expected = match expected {
            Ok(events) => Ok(events.iter().map(|(name, data)| Event::message(topic(name), *data)).collect()),
            Err((refusal, topics)) => Err((refusal, topics.iter().copied().map(topic).collect::<Vec<_>>())),
        };
        let parsed = parsed.map_err(|Refused { refusal, topics, .. }| (refusal, topics));
        assert_eq!(parsed, expected, "{:?} {:?}", String::from_utf8_lossy(channel), String::from_utf8_lossy(payload));
    }

    #[test]
    fn raw_payloads_are_the_data() {
        let check = |channel: &[u8], payload: &[u8], expected| check(Payload::Raw, channel, payload, expected);
        check(b"t", b"{\"a\": 1}", Ok(&[("t", "{\"a\": 1}")]));
        check(b"t", b"", Ok(&[("t", "")]));
        check("tä".as_bytes(), b"a\nb", Ok(&[("tä", "a\nb")]));
        check(b"t", b"a\xff", Err((Refusal::NotUtf8, &["t"])));
        check(b"t", b"12345678901", Err((Refusal::TooLarge, &["t"])));
        check(b"t", b"123\n", Ok(&[("t", "123\n")]));
        check(b"t", b"1234\n", Err((Refusal::TooLarge, &["t"])));
        check(b"123456789", b"x", Err((Refusal::Malformed, &[])));
        check(b"t\n", b"x", Err((Refusal::Malformed, &[])));
        check(b"\xff", b"x", Err((Refusal::Malformed, &[])));
        check(b"", b"x", Err((Refusal::Malformed, &[])));
    }

    #[test]
    fn envelopes_are_for_their_channel() {
        let check = |payload: &str, expected| check(Payload::Envelope, b"t", payload.as_bytes(), expected);
        check(r#"{"topic":"t","data":1}"#, Ok(&[("t", "1")]));
        check(r#" {"data":"x"}"#, Ok(&[("t", "x")]));
        check(r#"[{"topic":"t","data":1},{"topic":"t","data":2}]"#, Ok(&[("t", "1"), ("t", "2")]));
        let malformed = Err((Refusal::Malformed, &["t"][..]));
        check(r#"{"topic":"u","data":1}"#, malformed);
        check(r#"[{"topic":"t","data":1},{"topic":"u","data":2}]"#, malformed);
        check(r#"[{"data":1}]"#, malformed);
        check("{}", malformed);
        check("plain", malformed);
        check(r#"{"data":"12345678901"}"#, Err((Refusal::TooLarge, &["t"])));
        let quoted = parse(Payload::Envelope, b"\"\\", b"{\"id\":\"i\",\"data\":1}").unwrap();
        assert_eq!(quoted, [Event { id: EventId::new("i").ok(), ..Event::message(topic("\"\\"), "1") }]);
    }
}
