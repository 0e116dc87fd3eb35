//! Events as publishers send them: the body of a `POST /publish`, the payload of a Redis message, the arrays on the bus.
//! [`publish::parse`](super::publish::parse) is the reverse.

use serde::Serialize;
use serde_json::value::RawValue;

use super::encoder::milliseconds;
use crate::event::{Event, EventId, EventType};

/// 49 days, which fits in 32 bits: some clients cannot handle more.
const RETRY_MS_MAX: u64 = u32::MAX as u64;

/// One event as a JSON object: `{"topic", "id"?, "event"?, "retry"?, "data"}`, `retry` in whole milliseconds.
#[derive(Debug, Serialize)]
pub struct Envelope<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The event's id; none: the server assigns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// The event's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'a str>,
    /// How long clients wait before they reconnect, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<u64>,
    /// What subscribers get.
    pub data: Data<'a>,
}

/// An event's data, as text or as JSON of its own. Read back, both are the same bytes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Data<'a> {
    /// Any text, JSON or not.
    Text(&'a str),
    /// JSON that keeps its spelling: numbers and the order of keys stay as they were written.
    Json(&'a RawValue),
}

impl<'a> Data<'a> {
    /// What subscribers get.
    pub fn as_str(self) -> &'a str {
        match self {
            Data::Text(text) => text,
            Data::Json(json) => json.get(),
        }
    }
}

impl<'a> From<&'a Event> for Envelope<'a> {
    /// Data is always text, so that its bytes survive even if they look like JSON.
    fn from(event: &'a Event) -> Envelope<'a> {
        Envelope {
            topic: event.topic.as_str(),
            id: event.id.as_ref().map(EventId::as_str),
            event: event.event_type.as_ref().map(EventType::as_str),
            retry: event.retry.map(|retry| milliseconds(retry).min(RETRY_MS_MAX)),
            data: Data::Text(&event.data),
        }
    }
}

/// An event as one publish body, an object.
pub fn envelope(event: &Event) -> String {
    serde_json::to_string(&Envelope::from(event)).expect("strings and numbers are JSON")
}

/// The events as one publish body, an array.
pub fn envelopes(events: &[Event]) -> String {
    let envelopes: Vec<_> = events.iter().map(Envelope::from).collect();
    serde_json::to_string(&envelopes).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Topic;
    use crate::protocol::publish::{PublishLimits, parse};

    const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 10, data_bytes_max: 20, batch_max: 3 };

    fn event(topic: &str, data: &str) -> Event {
        Event::message(Topic::new(topic).unwrap(), data)
    }

    #[test]
    fn events_are_read_back_as_they_were() {
        let full = Event {
            id: Some(EventId::new("i-1").unwrap()),
            event_type: Some(EventType::new("tick").unwrap()),
            retry: Some(Duration::from_millis(1500)),
            ..event("a", "{\"x\": 1}\r\n")
        };
        let events = [full, event("b", "")];
        let json = envelopes(&events);
        let expected =
            r#"[{"topic":"a","id":"i-1","event":"tick","retry":1500,"data":"{\"x\": 1}\r\n"},{"topic":"b","data":""}]"#;
        assert_eq!(json, expected);
        assert_eq!(parse(json.as_bytes(), &LIMITS).as_deref(), Ok(&events[..]));

        let forever = Event { retry: Some(Duration::MAX), ..event("a", "") };
        let returned = parse(envelope(&forever).as_bytes(), &LIMITS).unwrap();
        assert_eq!(returned[0].retry, Some(Duration::from_millis(RETRY_MS_MAX)));
    }
}
