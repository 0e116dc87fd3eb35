//! The records of the bus's topic: the value is the event's data, and headers have the rest.
//!
//! Any producer may write an event: it needs the header `topic`, and `id`, `event` and `retry` if it likes. Nodes add the
//! header `bus`, which holds the state of the bus ([`BusState`]), so that every record of a node has it.

use std::fmt;
use std::time::Duration;

use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

use crate::event::{EventId, EventType};
use crate::observe::quiet;
use crate::protocol::disconnect::Disconnect;
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::Content;
use crate::sources::bus::stored_event::{StoredEvent, refused};

/// The newest format of records that this version reads; it also reads the one before.
pub(super) const FORMAT: u32 = 1;

const STATE: &str = "bus";
const KIND: &str = "kind";
const TOPIC: &str = "topic";
const ID: &str = "id";
const EVENT: &str = "event";
const RETRY: &str = "retry";
const NODE: &str = "node";
/// Of a fork: the epoch that its writer had read. A fork that follows another one of that epoch says nothing new.
const AFTER: &str = "after";
/// The kind of a record that only has the state.
const OF_STATE: &str = "state";
/// The kind of a record with which an epoch begins.
const OF_FORK: &str = "fork";
/// The kind of a record that ends streams.
const OF_DISCONNECT: &str = "disconnect";

/// What is true of the whole bus, as the writer of a record knew it. Each number only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BusState {
    /// The format of the records.
    pub(super) format: u32,
    /// The epoch: the time at which it began, in milliseconds.
    pub(super) epoch: u64,
    /// The bytes that a topic's name may have; 0: no node has set them.
    pub(super) topic_bytes: u64,
    /// The bytes that an event may have; 0: no node has set them.
    pub(super) event_bytes: u64,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) offset: u64,
    pub(super) state: Option<BusState>,
    /// Of a fork: the epoch that its writer had read.
    pub(super) after: Option<u64>,
    pub(super) content: Content,
}

impl Record {
    /// A record of nothing.
    pub(super) fn empty(offset: u64) -> Record {
        Record { offset, state: None, after: None, content: Content::Nothing }
    }

    /// The state, for a reader that has read this epoch. Of nodes that find another history at the same time, each writes a
    /// fork, and only the first one counts.
    pub(super) fn state_after(&self, epoch: u64) -> Option<BusState> {
        self.state.filter(|_| self.after.is_none_or(|after| after == 0 || after >= epoch))
    }
}

/// The epoch with which to read records whose predecessors are not known. `around` is that of what follows them.
pub(super) fn epoch_before(records: &[Record], around: u64) -> u64 {
    if records.first().is_some_and(|record| matches!(record.content, Content::Fork { .. })) {
        return 0;
    }
    // Before a fork is what its writer had read.
    let of = |record: &Record| record.after.filter(|after| *after > 0).or(record.state.map(|state| state.epoch));
    records.iter().find_map(of).map_or(around, |epoch| epoch.min(around))
}

impl BusState {
    /// The state that includes both.
    pub(super) fn max(self, other: BusState) -> BusState {
        BusState {
            format: self.format.max(other.format),
            epoch: self.epoch.max(other.epoch),
            topic_bytes: self.topic_bytes.max(other.topic_bytes),
            event_bytes: self.event_bytes.max(other.event_bytes),
        }
    }

    fn parse(text: &str) -> Option<BusState> {
        let mut numbers = text.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let [format, epoch, topic_bytes, event_bytes] = [next()?, next()?, next()?, next()?];
        Some(BusState { format: u32::try_from(format).ok()?, epoch, topic_bytes, event_bytes })
    }
}

impl fmt::Display for BusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.format, self.epoch, self.topic_bytes, self.event_bytes)
    }
}

// ---- what is written ----

/// The headers of a record that only has the state.
pub(super) fn state_headers(state: &BusState) -> OwnedHeaders {
    OwnedHeaders::new().insert(header(STATE, &state.to_string())).insert(header(KIND, OF_STATE))
}

/// The headers of a record with which an epoch begins, for a writer that had read another one.
pub(super) fn fork_headers(state: &BusState, after: u64) -> OwnedHeaders {
    let headers = OwnedHeaders::new().insert(header(STATE, &state.to_string())).insert(header(KIND, OF_FORK));
    headers.insert(header(AFTER, &after.to_string()))
}

/// The headers and the value of a record.
pub(super) fn write(content: &Content, state: &BusState) -> (OwnedHeaders, String) {
    let mut headers = OwnedHeaders::new().insert(header(STATE, &state.to_string()));
    let mut add = |name: &str, value: &str| headers = std::mem::take(&mut headers).insert(header(name, value));
    let value = match content {
        Content::Event(event) => {
            add(TOPIC, event.topic.as_str());
            event.id.iter().for_each(|id| add(ID, EventId::as_str(id)));
            event.event_type.iter().for_each(|event_type| add(EVENT, EventType::as_str(event_type)));
            event.retry.iter().for_each(|retry| add(RETRY, &retry.as_millis().to_string()));
            event.data.clone()
        }
        Content::Disconnect(disconnect, node) => {
            add(KIND, OF_DISCONNECT);
            add(NODE, node);
            disconnect.passed()
        }
        Content::Fork { .. } | Content::Gap { .. } | Content::Refused { .. } | Content::Nothing => {
            unreachable!("nodes append no such entries")
        }
    };
    (headers, value)
}

fn header<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header { key, value: Some(value) }
}

// ---- what is read ----

/// The headers that are known.
#[derive(Default)]
struct Fields<'a> {
    state: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    topic: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    event: Option<&'a [u8]>,
    retry: Option<&'a [u8]>,
    node: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Of several headers with one name, the last one counts.
    fn of(message: &'a BorrowedMessage<'_>) -> Fields<'a> {
        let mut fields = Fields::default();
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        for Header { key, value } in headers {
            match key {
                STATE => fields.state = value,
                KIND => fields.kind = value,
                TOPIC => fields.topic = value,
                ID => fields.id = value,
                EVENT => fields.event = value,
                RETRY => fields.retry = value,
                NODE => fields.node = value,
                AFTER => fields.after = value,
                _ => {}
            }
        }
        fields
    }

    fn state(&self) -> Option<BusState> {
        BusState::parse(std::str::from_utf8(self.state?).ok()?)
    }

    fn after(&self) -> Option<u64> {
        (self.kind == Some(OF_FORK.as_bytes())).then_some(())?;
        std::str::from_utf8(self.after?).ok()?.parse().ok()
    }

    fn content(&self, data: &[u8], limits: &PublishLimits) -> Content {
        let topic = self.topic.and_then(|topic| std::str::from_utf8(topic).ok());
        let read = || -> Result<Content, String> {
            match text(KIND, self.kind)? {
                Some(OF_STATE) => Ok(Content::Nothing),
                Some(OF_FORK) => Ok(Content::Fork { follows: None }),
                Some(OF_DISCONNECT) => {
                    let disconnect = Disconnect::parse_passed(data).ok_or("it is no message that nodes exchange")?;
                    let disconnect = disconnect.map_err(|error| error.to_string())?;
                    Ok(Content::Disconnect(disconnect, text(NODE, self.node)?.unwrap_or_default().to_owned()))
                }
                Some(_) => Err("it is of an unknown kind".to_owned()),
                None => {
                    let retry = text(RETRY, self.retry)?.map(str::parse).transpose();
                    let event = StoredEvent {
                        topic,
                        data: std::str::from_utf8(data).map_err(|_| "its data is not UTF-8")?,
                        id: text(ID, self.id)?,
                        event_type: text(EVENT, self.event)?,
                        retry: retry.map_err(|_| "its retry is no number")?.map(Duration::from_millis),
                    };
                    event.check(limits).map(Content::Event)
                }
            }
        };
        read().unwrap_or_else(|reason| refused(topic, limits, reason))
    }
}

/// Reads a record.
pub(super) fn read(message: &BorrowedMessage<'_>, limits: &PublishLimits) -> Record {
    let offset = u64::try_from(message.offset()).unwrap_or_default();
    // The crate panics at a header whose name is not UTF-8.
    let Some(fields) = quiet::catch(|| Fields::of(message)) else {
        let content = refused(None, limits, "a header's name is not UTF-8".to_owned());
        return Record { content, ..Record::empty(offset) };
    };
    Record {
        offset,
        state: fields.state(),
        after: fields.after(),
        content: fields.content(message.payload().unwrap_or_default(), limits),
    }
}

fn text<'a>(name: &str, value: Option<&'a [u8]>) -> Result<Option<&'a str>, String> {
    value.map(std::str::from_utf8).transpose().map_err(|_| format!("its header {name} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Topic};

    const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 9, data_bytes_max: 20, batch_max: 1 };

    /// Reads headers and a value as if they came from Kafka.
    fn read_back(headers: &OwnedHeaders, value: &str) -> (Option<BusState>, Content) {
        let pairs: Vec<_> = headers.iter().collect();
        let field = |name: &str| pairs.iter().rev().find(|header| header.key == name)?.value;
        let fields = Fields {
            state: field(STATE),
            kind: field(KIND),
            topic: field(TOPIC),
            id: field(ID),
            event: field(EVENT),
            retry: field(RETRY),
            node: field(NODE),
            after: field(AFTER),
        };
        (fields.state(), fields.content(value.as_bytes(), &LIMITS))
    }

    #[test]
    fn a_state_has_one_form_and_only_rises() {
        let state = BusState { format: 1, epoch: 1_763_769_600_000, topic_bytes: 255, event_bytes: 262_144 };
        assert_eq!(state.to_string(), "1 1763769600000 255 262144");
        assert_eq!(BusState::parse(&state.to_string()), Some(state));
        for bad in ["", "1", "1 2 3", "1 2 3 -4", "a 2 3 4", "4294967296 2 3 4"] {
            assert_eq!(BusState::parse(bad), None, "{bad:?}");
        }
        let other = BusState { format: 0, epoch: 1_763_769_600_001, topic_bytes: 1, event_bytes: 262_145 };
        assert_eq!(state.max(other).to_string(), "1 1763769600001 255 262145");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let state = BusState { format: 1, epoch: 7, topic_bytes: 9, event_bytes: 9 };
        let event = Event {
            id: Some(EventId::of_publisher("x~y").unwrap()),
            event_type: Some(EventType::new("kind").unwrap()),
            retry: Some(Duration::from_millis(7)),
            ..Event::message(Topic::new("t").unwrap(), "1\n2\0")
        };
        let content = Content::Event(event);
        let (headers, value) = write(&content, &state);
        assert_eq!(read_back(&headers, &value), (Some(state), content));
        assert_eq!(read_back(&fork_headers(&state, 5), ""), (Some(state), Content::Fork { follows: None }));
        assert_eq!(read_back(&state_headers(&state), ""), (Some(state), Content::Nothing));
    }

    #[test]
    fn of_forks_that_follow_one_epoch_the_first_one_counts() {
        let state = Some(BusState { epoch: 9, ..BusState::default() });
        let fork = |after: u64| Record { state, after: Some(after), ..Record::empty(0) };
        let counts = |record: &Record| [0, 5, 7].map(|epoch| record.state_after(epoch).is_some());
        assert_eq!(counts(&fork(0)), [true, true, true], "a topic that was created anew");
        assert_eq!(counts(&fork(5)), [true, true, false]);
        assert_eq!(counts(&fork(7)), [true, true, true]);
        assert_eq!(counts(&Record { state, ..Record::empty(0) }), [true, true, true], "an event");
    }

    #[test]
    fn records_without_a_state_are_of_the_epoch_around_them() {
        let bare = Record::empty(0);
        let of = |epoch: u64| Record { state: Some(BusState { epoch, ..BusState::default() }), ..Record::empty(1) };
        let fork = |epoch, after| Record { after: Some(after), content: Content::Fork { follows: None }, ..of(epoch) };
        let check = |records: &[&Record], expected: u64| {
            let records: Vec<_> = records.iter().map(|record| (*record).clone()).collect();
            assert_eq!(epoch_before(&records, 9), expected, "{records:?}");
        };
        check(&[], 9);
        check(&[&bare], 9);
        check(&[&bare, &of(7)], 7);
        check(&[&bare, &of(11)], 9);
        check(&[&fork(9, 7), &of(9)], 0);
        check(&[&bare, &fork(9, 7), &of(9)], 7);
        check(&[&bare, &fork(9, 0)], 9);
    }

    #[test]
    fn what_is_no_event_says_why() {
        let check = |headers: &[(&str, &str)], value: &str, words: &str| {
            let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(header(key, value)));
            match read_back(&headers, value) {
                (_, Content::Refused { reason, .. }) => assert!(reason.contains(words), "{reason}"),
                (_, other) => panic!("{other:?}"),
            }
        };
        check(&[], "", "no topic");
        check(&[("topic", "0123456789")], "", "longer one than allowed");
        check(&[("topic", "t")], &"x".repeat(21), "an event may have 20");
        check(&[("topic", "t"), ("retry", "-1")], "", "no number");
        check(&[("topic", "t"), ("kind", "other")], "", "unknown kind");
        check(&[("kind", "disconnect")], "{}", "no message that nodes exchange");
    }
}
