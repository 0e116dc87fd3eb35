//! What publishers send: `{"topic", "data", "event"?, "id"?, "retry"?}`, one or an array of them, accepted or refused
//! as a whole. The reverse is [`envelope`](super::envelope).
//!
//! JSON data passes through byte for byte. It is never parsed into numbers and maps, so it cannot change.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::encoder;
use super::number::whole;
use crate::event::{Event, EventId, EventType, NameError, Topic};

/// Limits on the content of one publish body; the body's own size is limited where it is read.
#[derive(Clone, Copy, Debug)]
pub struct PublishLimits {
    /// Bytes of a topic's name.
    pub topic_bytes_max: usize,
    /// Bytes of one event's data, as it is sent: each line but the first counts with its field name.
    pub data_bytes_max: usize,
    /// Events in one array.
    pub batch_max: usize,
}

impl PublishLimits {
    /// Of commands, which publish and deliver nothing.
    pub const NONE: PublishLimits = PublishLimits { topic_bytes_max: 0, data_bytes_max: 0, batch_max: 0 };

    /// Refuses data that is too large, and returns its size.
    pub fn check_data(&self, data: &[u8]) -> Result<(), usize> {
        // At worst every byte is a line end and needs a field name, 7 bytes in all. Nearly all data is far below.
        if data.len() <= self.data_bytes_max / 7 {
            return Ok(());
        }
        let bytes = encoder::data_bytes(data);
        if bytes <= self.data_bytes_max { Ok(()) } else { Err(bytes) }
    }
}

/// Why a publish body was refused: what, where, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The body is not UTF-8.
    #[error("the body is not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// The body is not JSON; the text has line and column.
    #[error("the body is not JSON, but must be a JSON object, or an array of objects: {0}")]
    NotJson(String),
    /// An array without events.
    #[error("the array is empty: at least one event is expected")]
    Empty,
    /// An array with too many events.
    #[error("the array holds {count} events: at most {batch_max} are accepted at once")]
    BatchTooLarge {
        /// How many there were.
        count: usize,
        /// How many are accepted.
        batch_max: usize,
    },
    /// One event is wrong, and with it the whole body.
    #[error("{}{problem}", Position(*index))]
    Event {
        /// Which one, from 0, when there was an array.
        index: Option<usize>,
        /// What is wrong with it.
        problem: EventProblem,
    },
}

/// What is wrong with one event of a publish body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventProblem {
    /// Something other than an object.
    #[error("an event is a JSON object with \"topic\" and \"data\"")]
    NotAnObject,
    /// A field that events don't have.
    #[error("unknown field {0:?}: the fields are topic, data, event, id and retry")]
    UnknownField(String),
    /// A field more than once.
    #[error("field {0:?} appears more than once")]
    RepeatedField(&'static str),
    /// A field that every event has.
    #[error("field {0:?} is missing")]
    MissingField(&'static str),
    /// A field of another type.
    #[error("field {field:?} must be {expected}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A topic, type or id that is not valid.
    #[error("field {field:?} {error}: {value:?}")]
    Name {
        /// The field.
        field: &'static str,
        /// Its value, or the start of it.
        value: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// More data than is accepted.
    #[error("field \"data\" holds {bytes} bytes: at most {data_bytes_max} are accepted")]
    DataTooLarge {
        /// How many there were.
        bytes: usize,
        /// How many are accepted.
        data_bytes_max: usize,
    },
}

impl PublishError {
    /// Every [`reason`](PublishError::reason) except `topic_bytes`, which also applies to streams.
    pub const REASONS: [&str; 2] = ["event_bytes", "batch_events"];

    /// The limit that the body exceeds, by its name in metrics; none if it is wrong in another way.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            PublishError::BatchTooLarge { .. } => Some("batch_events"),
            PublishError::Event { problem: EventProblem::DataTooLarge { .. }, .. } => Some("event_bytes"),
            PublishError::Event {
                problem: EventProblem::Name { field: "topic", error: NameError::TooLong(_), .. },
                ..
            } => Some("topic_bytes"),
            _ => None,
        }
    }

    /// The status to answer: 413 if a smaller body would be accepted, otherwise 400.
    pub fn status(&self) -> u16 {
        match self {
            PublishError::BatchTooLarge { .. }
            | PublishError::Event { problem: EventProblem::DataTooLarge { .. }, .. } => 413,
            _ => 400,
        }
    }
}

struct Position(Option<usize>);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |index| write!(f, "event {index}: "))
    }
}

/// Reads a publish body: one object, or an array of them. Their ids are the publisher's own.
pub fn parse(body: &[u8], limits: &PublishLimits) -> Result<Vec<Event>, PublishError> {
    parse_events(body, limits, EventId::of_publisher)
}

/// Reads what another node passes on: events whose ids may be whole ones.
pub fn parse_passed_on(body: &[u8], limits: &PublishLimits) -> Result<Vec<Event>, PublishError> {
    parse_events(body, limits, EventId::new)
}

/// Reads an id.
type ReadId = fn(&str) -> Result<EventId, NameError>;

fn parse_events(body: &[u8], limits: &PublishLimits, read_id: ReadId) -> Result<Vec<Event>, PublishError> {
    let text = std::str::from_utf8(body).map_err(|error| PublishError::NotUtf8(error.valid_up_to()))?;
    let not_json = |error: serde_json::Error| PublishError::NotJson(error.to_string());
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[') {
        let value: &RawValue = serde_json::from_str(text).map_err(not_json)?;
        let event =
            parse_event(value, limits, read_id).map_err(|problem| PublishError::Event { index: None, problem })?;
        return Ok(vec![event]);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let batch = Batch { kept_max: limits.batch_max }.deserialize(&mut json).map_err(not_json)?;
    json.end().map_err(not_json)?;
    match batch.count {
        0 => Err(PublishError::Empty),
        count if count > limits.batch_max => Err(PublishError::BatchTooLarge { count, batch_max: limits.batch_max }),
        _ => batch
            .kept
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                parse_event(value, limits, read_id)
                    .map_err(|problem| PublishError::Event { index: Some(index), problem })
            })
            .collect(),
    }
}

const FIELDS: [&str; 5] = ["topic", "data", "event", "id", "retry"];

fn parse_event(value: &RawValue, limits: &PublishLimits, read_id: ReadId) -> Result<Event, EventProblem> {
    if !value.get().starts_with('{') {
        return Err(EventProblem::NotAnObject);
    }
    let Members(members) = serde_json::from_str(value.get()).map_err(|_| EventProblem::NotAnObject)?;
    let (mut topic, mut data, mut event, mut id, mut retry) = (None, None, None, None, None);
    for (name, value) in members {
        let Some(name) = FIELDS.into_iter().find(|field| *field == name) else {
            return Err(EventProblem::UnknownField(shorten(&name)));
        };
        let slot = match name {
            "topic" => &mut topic,
            "data" => &mut data,
            "event" => &mut event,
            "id" => &mut id,
            _ => &mut retry,
        };
        // Parsers disagree on which of two equal fields counts.
        if slot.replace(value).is_some() {
            return Err(EventProblem::RepeatedField(name));
        }
    }
    let topic = parse_topic(topic.ok_or(EventProblem::MissingField("topic"))?, limits)?;
    let data = parse_data(data.ok_or(EventProblem::MissingField("data"))?, limits)?;
    let id = parse_name("id", id, read_id)?;
    let event_type = parse_name("event", event, EventType::new)?;
    Ok(Event { topic, id, event_type, data, retry: parse_retry(retry)? })
}

fn parse_topic(value: &RawValue, limits: &PublishLimits) -> Result<Topic, EventProblem> {
    let name = parse_string("topic", value)?;
    let topic = if name.len() > limits.topic_bytes_max {
        Err(NameError::TooLong(limits.topic_bytes_max))
    } else {
        Topic::new(&name)
    };
    topic.map_err(|error| EventProblem::Name { field: "topic", value: shorten(&name), error })
}

/// A string's text, or any other JSON exactly as it was written.
fn parse_data(value: &RawValue, limits: &PublishLimits) -> Result<String, EventProblem> {
    let data =
        if value.get().starts_with('"') { parse_string("data", value)?.into_owned() } else { value.get().to_owned() };
    match limits.check_data(data.as_bytes()) {
        Err(bytes) => Err(EventProblem::DataTooLarge { bytes, data_bytes_max: limits.data_bytes_max }),
        Ok(()) => Ok(data),
    }
}

fn parse_name<T>(
    field: &'static str,
    value: Option<&RawValue>,
    new: impl Fn(&str) -> Result<T, NameError>,
) -> Result<Option<T>, EventProblem> {
    let Some(value) = present(value) else { return Ok(None) };
    let name = parse_string(field, value)?;
    new(&name).map(Some).map_err(|error| EventProblem::Name { field, value: shorten(&name), error })
}

fn parse_retry(value: Option<&RawValue>) -> Result<Option<Duration>, EventProblem> {
    let Some(value) = present(value) else { return Ok(None) };
    let retry_ms = serde_json::from_str(value.get()).ok().and_then(|number| whole(&number));
    match retry_ms.filter(|retry_ms| *retry_ms <= u32::MAX.into()) {
        Some(retry_ms) => Ok(Some(Duration::from_millis(retry_ms))),
        None => Err(EventProblem::WrongType { field: "retry", expected: "whole milliseconds from 0 to 4294967295" }),
    }
}

/// Most serializers write `null` for an absent field.
fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

fn parse_string<'a>(field: &'static str, value: &'a RawValue) -> Result<Cow<'a, str>, EventProblem> {
    let text: Result<Text<'a>, _> = serde_json::from_str(value.get());
    text.map(|Text(text)| text).map_err(|_| EventProblem::WrongType { field, expected: "a string of Unicode text" })
}

/// The start of a client's text, short enough to repeat in an error.
fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}

/// A JSON string, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's members in order, repeated names included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    // One member more than there are fields is already an error, so the rest is not kept.
                    if members.len() <= FIELDS.len() {
                        members.push((name, value));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// An array's elements up to `kept_max`, and how many there were: a body of a million `0,` costs no memory.
struct Batch {
    kept_max: usize,
}

struct Elements<'a> {
    kept: Vec<&'a RawValue>,
    count: usize,
}

impl<'de> DeserializeSeed<'de> for Batch {
    type Value = Elements<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Batch {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < self.kept_max {
            match seq.next_element()? {
                Some(value) => kept.push(value),
                None => return Ok(Elements { count: kept.len(), kept }),
            }
        }
        let mut count = kept.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Elements { kept, count })
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
