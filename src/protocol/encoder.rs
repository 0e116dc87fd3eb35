//! The stream's frames: events, and what the server itself sends, in the format of WHATWG HTML 9.2.5.
//!
//! Every frame is a whole block, which ends in an empty line, or a comment line, so any frame may follow any other.
//! Invariant: the decoder returns an event's data with its line ends turned into `\n`, and no data can pass for another
//! field.

use std::io::Write;
use std::time::Duration;

use memchr::memchr2_iter;
use serde::Serialize;

use crate::event::{Event, EventId, EventType, Frame, GAP_EVENT_TYPE};

/// The heartbeat: a comment, which clients drop and proxies count as activity. No empty line follows it: a client that
/// keeps the last id in its decoder (httpx-sse) would take that for the end of an empty event.
pub const HEARTBEAT: &[u8] = b":\n";
/// The last line for a subscriber whose token has expired; also a comment.
pub const TOKEN_EXPIRED: &[u8] = b": the token has expired\n";
/// The last line for a subscriber that would no longer be admitted.
pub const REVOKED: &[u8] = b": access was revoked\n";
/// The last line for a subscriber that an operator disconnected.
pub const DISCONNECTED: &[u8] = b": disconnected by an operator\n";

/// The fields of an event in its frame, except its id.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Its type; none means `message`.
    pub event_type: Option<&'a EventType>,
    /// A reconnection time.
    pub retry: Option<Duration>,
    /// Its data.
    pub data: &'a str,
}

impl<'a> Fields<'a> {
    /// An event with only data.
    pub fn data(data: &'a str) -> Fields<'a> {
        Fields { event_type: None, retry: None, data }
    }
}

impl<'a> From<&'a Event> for Fields<'a> {
    fn from(event: &'a Event) -> Fields<'a> {
        Fields { event_type: event.event_type.as_ref(), retry: event.retry, data: &event.data }
    }
}

/// Where the id's text begins in what [`write_event`] writes.
pub const ID_AT: usize = "id: ".len();

/// An event under its id.
pub fn event(event: &Event, id: &EventId) -> Frame {
    let mut bytes = Vec::new();
    write_event(&mut bytes, id.as_str(), &Fields::from(event));
    bytes.into()
}

/// Writes an event under its id to the end of `bytes`. Empty data still has a `data:` line, without which clients would
/// dispatch nothing.
pub fn write_event(bytes: &mut Vec<u8>, id: &str, fields: &Fields<'_>) {
    let data = fields.data.as_bytes();
    let event_type = fields.event_type.map_or("", EventType::as_str);
    // Every line end may add a field name; `\r\n` is counted twice, which only reserves more than needed.
    let lines = 1 + memchr2_iter(b'\r', b'\n', data).count();
    bytes.reserve(id.len() + event_type.len() + FIELDS_BYTES_MAX + data.len() + lines * "data: \n".len());
    push_field(bytes, "id", id);
    if !event_type.is_empty() {
        push_field(bytes, "event", event_type);
    }
    if let Some(retry) = fields.retry {
        push_retry(bytes, retry);
    }
    push_data(bytes, data);
    bytes.push(b'\n');
}

/// A stream's first frame: the reconnection time, and the position to resume from if nothing follows. An `id:` without
/// data dispatches no event, but sets what the client sends as `Last-Event-ID`.
pub fn preamble(retry: Duration, position: &EventId) -> Frame {
    let mut bytes = Vec::with_capacity(FIELDS_BYTES_MAX + position.as_str().len());
    push_retry(&mut bytes, retry);
    push_field(&mut bytes, "id", position.as_str());
    bytes.push(b'\n');
    bytes.into()
}

/// Only the reconnection time: the last frame of a stream that ends on purpose.
pub fn retry_only(retry: Duration) -> Frame {
    let mut bytes = Vec::with_capacity(FIELDS_BYTES_MAX);
    push_retry(&mut bytes, retry);
    bytes.push(b'\n');
    bytes.into()
}

/// A new position without an event, for a subscriber whose topics were quiet or skipped.
pub fn position(id: &EventId) -> Frame {
    let mut bytes = Vec::with_capacity(FIELDS_BYTES_MAX + id.as_str().len());
    push_field(&mut bytes, "id", id.as_str());
    bytes.push(b'\n');
    bytes.into()
}

/// A gap event: the reason, the topics, and the last id before it that is certain.
pub fn gap(id: &EventId, reason: &str, topics: &[&str], last_id: Option<&str>) -> Frame {
    #[derive(Serialize)]
    struct Gap<'a> {
        reason: &'a str,
        topics: &'a [&'a str],
        last_id: Option<&'a str>,
    }
    let data = serde_json::to_vec(&Gap { reason, topics, last_id }).expect("strings are JSON");
    let mut bytes = Vec::with_capacity(FIELDS_BYTES_MAX + id.as_str().len() + data.len());
    push_field(&mut bytes, "id", id.as_str());
    push_field(&mut bytes, "event", GAP_EVENT_TYPE);
    push_data(&mut bytes, &data);
    bytes.push(b'\n');
    bytes.into()
}

/// The bytes that data takes in a stream, without the first line's field name: each further line adds `data: `.
pub fn data_bytes(data: &[u8]) -> usize {
    let is_in_pair = |line_end: &usize| data[..=*line_end].ends_with(b"\r\n");
    let further_lines = memchr2_iter(b'\r', b'\n', data).filter(|line_end| !is_in_pair(line_end)).count();
    data.len() + further_lines * "data: ".len()
}

/// Room for every field's name, colon, space and line end, twenty digits, and the empty line.
const FIELDS_BYTES_MAX: usize = "id: \nevent: \nretry: \ndata: \n\n".len() + 20;

fn push_field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(!value.contains(['\r', '\n']), "ids and types are checked when they are made");
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

fn push_retry(bytes: &mut Vec<u8>, retry: Duration) {
    writeln!(bytes, "retry: {}", milliseconds(retry)).expect("a Vec takes all bytes");
}

/// A duration as clients and publishers write it; the part below a millisecond is dropped.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn push_data(bytes: &mut Vec<u8>, data: &[u8]) {
    let mut line_start = 0;
    for line_end in memchr2_iter(b'\r', b'\n', data) {
        // The line feed of a CRLF: its carriage return has already ended the line.
        if data[..=line_end].ends_with(b"\r\n") {
            line_start = line_end + 1;
            continue;
        }
        push_data_line(bytes, &data[line_start..line_end]);
        line_start = line_end + 1;
    }
    push_data_line(bytes, &data[line_start..]);
}

fn push_data_line(bytes: &mut Vec<u8>, line: &[u8]) {
    // The space is always written: clients remove exactly one, and a line may start with its own.
    bytes.extend_from_slice(b"data: ");
    bytes.extend_from_slice(line);
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventType, Topic};

    fn id(id: &str) -> EventId {
        EventId::new(id).unwrap()
    }

    fn check(frame: &Frame, expected: &str) {
        assert_eq!(std::str::from_utf8(frame.bytes()).unwrap(), expected);
    }

    #[test]
    fn data_is_split_at_every_kind_of_line_end() {
        let check_data = |data: &str, expected: &str| {
            let message = Event::message(Topic::new("t").unwrap(), data);
            check(&event(&message, &id("7")), &format!("id: 7\n{expected}\n"));
            let counted = data_bytes(data.as_bytes()) + "data: \n".len();
            assert!(counted >= expected.len() && counted <= expected.len() + data.matches("\r\n").count(), "{data:?}");
        };
        check_data("a", "data: a\n");
        check_data("", "data: \n");
        check_data(" a", "data:  a\n");
        check_data("a\nb", "data: a\ndata: b\n");
        check_data("a\r\nb", "data: a\ndata: b\n");
        check_data("a\rb", "data: a\ndata: b\n");
        check_data("a\n\rb", "data: a\ndata: \ndata: b\n");
        check_data("\r\n", "data: \ndata: \n");
        check_data("\r\r\n\n", "data: \ndata: \ndata: \ndata: \n");
        check_data("a\n", "data: a\ndata: \n");
        check_data("id: 8\n\nevent: x", "data: id: 8\ndata: \ndata: event: x\n");
    }

    #[test]
    fn fields_come_in_one_order() {
        let full = Event {
            event_type: Some(EventType::new("tick").unwrap()),
            retry: Some(Duration::from_micros(1500)),
            ..Event::message(Topic::new("t").unwrap(), "x")
        };
        check(&event(&full, &id("a-1")), "id: a-1\nevent: tick\nretry: 1\ndata: x\n\n");
        check(&preamble(Duration::from_secs(3), &id("a-0")), "retry: 3000\nid: a-0\n\n");
        check(&retry_only(Duration::from_secs(3)), "retry: 3000\n\n");
        check(&position(&id("a-9")), "id: a-9\n\n");
    }

    #[test]
    fn a_gap_is_an_event_with_json() {
        let both = gap(&id("a-9"), "evicted", &["x", "line\nend"], Some("a-3"));
        let json = r#"{"reason":"evicted","topics":["x","line\nend"],"last_id":"a-3"}"#;
        check(&both, &format!("id: a-9\nevent: gap\ndata: {json}\n\n"));
        let json = r#"{"reason":"unknown","topics":[],"last_id":null}"#;
        check(&gap(&id("1"), "unknown", &[], None), &format!("id: 1\nevent: gap\ndata: {json}\n\n"));
    }
}
