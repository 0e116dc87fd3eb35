//! Copies: what clients publish to some topics also goes to the channel of the topic's name, in the form in which an
//! application would publish it, for servers that are not Fanfare. Pure.
//!
//! A node that subscribes to such a channel must not take the copy for a second event. A raw payload can't carry a
//! mark, so the order identifies the copy: bus message and copies are one transaction, in which Redis executes nothing
//! else, and the bus message names the topics that are copied. The next messages in the same session are the copies; a
//! copy is missing when its channel is not subscribed. So the wait for a copy ends with the first message that is not a
//! copy: it can neither outlive a session nor swallow a message with the same data that another publisher sends a
//! moment later.

use std::collections::{HashMap, VecDeque};

use crate::event::{Event, EventId, Topic};
use crate::sources::payload::{self, Payload};
use crate::sources::redis::bus::BusMessage;

/// The channels to which events are copied, and their formats.
pub(super) struct Copies(HashMap<String, Payload>);

/// An event as a message of its topic's channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChannelCopy {
    pub(super) channel: Topic,
    pub(super) payload: Vec<u8>,
}

impl Copies {
    pub(super) fn new(channels: &[String], payload_in: impl Fn(&str) -> Payload) -> Copies {
        Copies(channels.iter().map(|channel| (channel.clone(), payload_in(channel))).collect())
    }

    /// The copies to send for these events, in their order.
    pub(super) fn of(&self, events: &[Event]) -> Vec<ChannelCopy> {
        let due = events.iter().filter_map(|event| Some((event, *self.0.get(event.topic.as_str())?)));
        due.map(|(event, payload)| ChannelCopy::of(event, payload)).collect()
    }
}

impl ChannelCopy {
    fn of(event: &Event, payload: Payload) -> ChannelCopy {
        // As the publisher named it, if it did.
        let event = &Event { id: event.id.as_ref().map(EventId::alias), ..event.clone() };
        ChannelCopy { channel: event.topic.clone(), payload: payload::write(payload, event) }
    }
}

/// The copies that come next, if their channels are subscribed.
#[derive(Default)]
pub(super) struct AwaitedCopies(VecDeque<ChannelCopy>);

impl AwaitedCopies {
    /// The copies that follow a message of the bus.
    pub(super) fn of(message: &BusMessage, payload_in: impl Fn(&str) -> Payload) -> AwaitedCopies {
        let copied = Copies::new(&message.copied, payload_in);
        AwaitedCopies(copied.of(&message.events).into())
    }

    /// True when a message is an awaited copy. When it is not, no more copies will come.
    pub(super) fn take(&mut self, channel: &[u8], payload: &[u8]) -> bool {
        let is_same = |copy: &ChannelCopy| copy.channel.as_str().as_bytes() == channel && copy.payload == payload;
        // The copies before it are for channels that this node does not subscribe to.
        let through = self.0.iter().position(is_same).map_or(self.0.len(), |at| at + 1);
        let is_copy = through > 0 && is_same(&self.0[through - 1]);
        self.0.drain(..through);
        is_copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(events: &[(&str, &str)]) -> Vec<Event> {
        events.iter().map(|(topic, data)| Event::message(Topic::new(topic).unwrap(), *data)).collect()
    }

    #[test]
    fn events_of_some_topics_are_copied_as_they_would_be_published() {
        let check = |kind: Payload, expected: &[(&str, &str)]| {
            let copies = Copies::new(&["a".to_owned(), "b".to_owned()], |_| kind);
            let copies = copies.of(&events(&[("a", "1"), ("c", "2"), ("b", "{\"x\": 3}"), ("a", "1")]));
            let copies = copies.iter().map(|copy| (copy.channel.as_str(), std::str::from_utf8(&copy.payload).unwrap()));
            assert_eq!(copies.collect::<Vec<_>>(), expected);
        };
        check(Payload::Raw, &[("a", "1"), ("b", "{\"x\": 3}"), ("a", "1")]);
        let envelope = r#"{"topic":"a","data":"1"}"#;
        check(Payload::Envelope, &[("a", envelope), ("b", r#"{"topic":"b","data":"{\"x\": 3}"}"#), ("a", envelope)]);
    }

    /// The messages after a bus message with copies of `a 1`, `b 2` and `a 3`, and which of them count as copies.
    fn check(following: &[(&str, &str, bool)]) {
        let copied = vec!["a".to_owned(), "b".to_owned()];
        let message =
            BusMessage { events: events(&[("a", "1"), ("b", "2"), ("c", "0"), ("a", "3")]), copied, disconnect: None };
        let mut awaited = AwaitedCopies::of(&message, |_| Payload::Raw);
        for (index, (channel, payload, expected)) in following.iter().enumerate() {
            assert_eq!(awaited.take(channel.as_bytes(), payload.as_bytes()), *expected, "{index} of {following:?}");
        }
    }

    #[test]
    fn copies_are_known_by_their_place() {
        check(&[("a", "1", true), ("b", "2", true), ("a", "3", true), ("a", "3", false)]);
        check(&[("a", "1", true), ("a", "1", false), ("b", "2", false)]);
        // A node that subscribes to only one of the channels.
        check(&[("b", "2", true), ("b", "2", false)]);
        check(&[("a", "1", true), ("a", "3", true), ("a", "1", false)]);
        // A node that subscribes to neither channel, then to both.
        check(&[("c", "0", false), ("a", "1", false)]);
        check(&[("a", "2", false), ("a", "1", false)]);
    }
}
