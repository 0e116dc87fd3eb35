//! An event written and read back: the same event, its line ends unified, and nothing else, whatever is in it.

use std::time::Duration;

use fanfare::event::{Event, EventId, EventType, Topic};
use fanfare::protocol::encoder;

use super::sse_decoder::{decode, decode_naively};

/// Events one after the other, each of an id, a type, a retry time and data with NULs between them; what can't be an
/// id or a type is none.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut fields = text.split('\0');
    let mut events = Vec::new();
    while let (Some(id), Some(event_type), Some(retry), Some(data)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    {
        events.push(Event {
            topic: Topic::new("t").expect("a topic"),
            id: EventId::new(id).ok(),
            event_type: EventType::new(event_type).ok(),
            retry: retry.parse().ok().map(Duration::from_millis),
            data: data.to_owned(),
        });
    }
    check_events(&events, |stream| decode(std::iter::once(stream)));
    check_events(&events, decode_naively);
}

/// Writes a stream of these events, with all that a server says between them, and has it read back.
pub fn check_events(events: &[Event], decode: impl FnOnce(&[u8]) -> Vec<String>) {
    let position = EventId::new("p-0").expect("an id");
    let mut stream = encoder::preamble(Duration::from_secs(3), &position).bytes().to_vec();
    let mut expected = vec!["retry|3000".to_owned()];
    for event in events {
        let id = event.id.as_ref().unwrap_or(&position);
        stream.extend_from_slice(encoder::event(event, id).bytes());
        stream.extend_from_slice(encoder::HEARTBEAT);
        let retry_ms = |retry: Duration| retry.as_millis().min(u32::MAX.into());
        expected.extend(event.retry.map(|retry| format!("retry|{}", retry_ms(retry))));
        let event_type = event.event_type.as_ref().map_or("message", EventType::as_str);
        let data = event.data.replace("\r\n", "\n").replace('\r', "\n");
        expected.push(format!("{event_type}|{data}|{id}"));
        expected.push("comment|".to_owned());
    }
    assert_eq!(decode(&stream), expected);
}
