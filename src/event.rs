//! Events and frames: what is published, and the bytes that reach the wire.
//!
//! An [`Event`] is what a publisher sent. The sequencer gives it a [`Sequence`] and, if it has no id, an [`EventId`],
//! and formats it once. The result is a [`Broadcast`], whose [`Frame`] every log and every socket shares by reference
//! count. This module has no topics' contents, sockets or time.

pub mod archive;
pub mod glob;
mod id;
pub mod template;
pub mod timeline;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use id::{
    EVENT_ID_BYTES_MAX, EventId, Naming, PUBLISHER_ID_BYTES_MAX, RunName, canonical_number, join, place_part,
};

/// Longest topic name, in bytes, that any configuration may allow.
pub const TOPIC_BYTES_MAX: usize = 1024;
/// Longest event type, in bytes.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
/// The event type of a gap, which only the server sends: events are missing at this point.
pub const GAP_EVENT_TYPE: &str = "gap";

/// Topics whose names start with this are the server's own: no publisher can publish to one, by any route.
pub const RESERVED_TOPIC_PREFIX: &str = "fanfare:";
/// The server's own statistics, published while a client watches them.
pub const STATISTICS_TOPIC: &str = "fanfare:statistics";

/// A position in the one order of all broadcasts. The sequencer starts at 1; 0 is "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first broadcast.
    pub const ZERO: Sequence = Sequence(0);

    /// The position right after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a name, id or type was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Over the limit, in bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A control character, or for an id anything but visible ASCII.
    #[error("holds a character that is not allowed")]
    Character,
    /// The event type or topic is one the server keeps for itself.
    #[error("is reserved for the server itself (choose another)")]
    Reserved,
}

/// A topic's name: UTF-8 without control characters, at most [`TOPIC_BYTES_MAX`] bytes, and not one of the server's
/// own: only [`Topic::statistics`] makes those, so no input can name them. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Topic, NameError> {
        match name {
            "" => Err(NameError::Empty),
            _ if name.len() > TOPIC_BYTES_MAX => Err(NameError::TooLong(TOPIC_BYTES_MAX)),
            _ if name.chars().any(char::is_control) => Err(NameError::Character),
            _ if name.starts_with(RESERVED_TOPIC_PREFIX) => Err(NameError::Reserved),
            _ => Ok(Topic(name.into())),
        }
    }

    /// True for a name that looks like a pattern: names are exact, so it would silently match no other topic.
    pub fn looks_like_pattern(name: &str) -> bool {
        name.contains('*')
    }

    /// The topic of the server's own statistics.
    pub fn statistics() -> Topic {
        Topic(STATISTICS_TOPIC.into())
    }

    /// True for the server's own topics.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED_TOPIC_PREFIX)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event's type as a publisher named it: no control characters, at most 128 bytes, and not `gap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType(Box<str>);

impl EventType {
    /// Checks and takes a type.
    pub fn new(name: &str) -> Result<EventType, NameError> {
        match name {
            "" => Err(NameError::Empty),
            GAP_EVENT_TYPE => Err(NameError::Reserved),
            _ if name.len() > EVENT_TYPE_BYTES_MAX => Err(NameError::TooLong(EVENT_TYPE_BYTES_MAX)),
            _ if name.chars().any(char::is_control) => Err(NameError::Character),
            _ => Ok(EventType(name.into())),
        }
    }

    /// The type.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An event as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where it goes.
    pub topic: Topic,
    /// Its id, where the source or the publisher has one.
    pub id: Option<EventId>,
    /// Its type; none means `message` (WHATWG HTML 9.2.6).
    pub event_type: Option<EventType>,
    /// Its data; line ends of any kind become several `data:` lines.
    pub data: String,
    /// A reconnection time for the clients that receive it.
    pub retry: Option<Duration>,
}

impl Event {
    /// An event with only a topic and data.
    pub fn message(topic: Topic, data: impl Into<String>) -> Event {
        Event { topic, id: None, event_type: None, data: data.into(), retry: None }
    }
}

/// Wire bytes: immutable once they are shared, by reference count, and never copied per subscriber.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

impl Frame {
    /// The bytes as they go onto the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes.
    #[allow(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Overwrites the bytes from `at` on, of a frame that is not shared yet.
    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let all = Arc::get_mut(&mut self.0).expect("a shared frame is immutable");
        all[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// What tells this allocation from others, also from those with equal bytes, while a clone of the frame exists.
    pub fn key(&self) -> FrameKey {
        FrameKey(self.0.as_ptr() as usize)
    }
}

/// The identity of a frame's bytes: their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey(usize);

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Frame {
        Frame(bytes.into())
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Frame {
        Frame(bytes.into())
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?})", String::from_utf8_lossy(&self.0))
    }
}

/// An event that has its place in the order, its id and its wire bytes.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// Its place in the one order; 0: the loop gives it a place, because it does not pass through the bus.
    pub sequence: Sequence,
    /// Where it goes.
    pub topic: Topic,
    /// How it got the id that is in its bytes.
    pub naming: Naming,
    /// Its bytes.
    pub frame: Frame,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_utf8_without_control_characters() {
        let long = "t".repeat(TOPIC_BYTES_MAX);
        let check = |name: &str, expected: Result<(), NameError>| {
            assert_eq!(Topic::new(name).map(drop), expected, "{name:?}");
        };
        check("orders", Ok(()));
        check("über/ähnlich:7", Ok(()));
        check(&long, Ok(()));
        check(&format!("{long}t"), Err(NameError::TooLong(TOPIC_BYTES_MAX)));
        check("", Err(NameError::Empty));
        check("a\nb", Err(NameError::Character));
        check("a\0", Err(NameError::Character));
        check("a\u{85}b", Err(NameError::Character));
        check("fanfare", Ok(()));
        check("fanfare:", Err(NameError::Reserved));
        check(STATISTICS_TOPIC, Err(NameError::Reserved));
        assert!(Topic::statistics().is_reserved());
    }

    #[test]
    fn gap_is_the_servers_own_event_type() {
        assert_eq!(EventType::new("gap"), Err(NameError::Reserved));
        assert_eq!(EventType::new("a\rb"), Err(NameError::Character));
        assert!(EventType::new("gap2").is_ok());
    }
}
