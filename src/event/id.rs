//! Ids of events, all of one grammar: where the event is, and behind a `~` the publisher's own id, if there is one.
//!
//! ```text
//! 4hagud6ntb3q-17             the 17th place in the order of the run 4hagud6ntb3q
//! 4hagud6ntb3q-17~order-5     the same; the publisher calls the event order-5
//! 1795309891909-7~order-5     position 7 in the epoch 1795309891909 of a durable bus (see `timeline`)
//! ```
//!
//! The place is enough to resume on a node that knows it. Where every node has an order of its own, the alias
//! ([`EventId::alias`]) still identifies an event that was named elsewhere: by another node, or by this one before it gave
//! the event to Redis for all nodes.

use std::fmt;
use std::sync::Arc;

use super::{NameError, Sequence};

/// Longest event id, in bytes (visible ASCII, so also in characters).
pub const EVENT_ID_BYTES_MAX: usize = 128;
/// Longest place; only positions with more digits than any clock gives are longer.
const PLACE_BYTES_MAX: usize = 40;
/// Longest id of a publisher's own: what the place and the mark leave of an event's id.
pub const PUBLISHER_ID_BYTES_MAX: usize = EVENT_ID_BYTES_MAX - PLACE_BYTES_MAX - 1;
/// Separates the place from the publisher's id.
const PUBLISHER_ID_MARK: char = '~';

/// The place in an id: what precedes the publisher's own id.
pub fn place_part(id: &str) -> &str {
    id.split(PUBLISHER_ID_MARK).next().unwrap_or_default()
}

/// The id of a place, with the publisher's own id, unless there is no room for it.
pub fn join(place: &str, publisher_id: Option<&EventId>) -> EventId {
    let with = publisher_id.map(|id| format!("{place}{PUBLISHER_ID_MARK}{id}"));
    EventId(with.filter(|id| id.len() <= EVENT_ID_BYTES_MAX).as_deref().unwrap_or(place).into())
}

/// An event's id as clients see it and send back in `Last-Event-ID`: 1 to 128 visible ASCII characters. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Checks and takes an id.
    pub fn new(id: &str) -> Result<EventId, NameError> {
        match id {
            "" => Err(NameError::Empty),
            _ if id.len() > EVENT_ID_BYTES_MAX => Err(NameError::TooLong(EVENT_ID_BYTES_MAX)),
            _ if !id.bytes().all(|b| b.is_ascii_graphic()) => Err(NameError::Character),
            _ => Ok(EventId(id.into())),
        }
    }

    /// Checks and takes an id of a publisher's own.
    pub fn of_publisher(id: &str) -> Result<EventId, NameError> {
        match id.len() {
            bytes if bytes > PUBLISHER_ID_BYTES_MAX => Err(NameError::TooLong(PUBLISHER_ID_BYTES_MAX)),
            _ => EventId::new(id),
        }
    }

    /// True if its place is in the order of some run.
    pub fn has_run(&self) -> bool {
        is_place_of_run(place_part(&self.0))
    }

    /// What identifies the event on every node that has it: the publisher's own id, or else the whole id.
    pub fn alias(&self) -> EventId {
        publisher_id(&self.0).map_or_else(|| self.clone(), |id| EventId(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for EventId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an event gets its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// From its place in this node's order, with the publisher's own id, if it has one.
    Here(Option<EventId>),
    /// It has this one already, which is the same on all nodes.
    Elsewhere(EventId),
}

impl Naming {
    /// What identifies the event besides its place.
    pub fn alias(&self) -> Option<EventId> {
        match self {
            Naming::Here(publisher_id) => publisher_id.clone(),
            Naming::Elsewhere(id) => Some(id.alias()),
        }
    }

    /// The whole id of the event at this place.
    pub fn whole_id(&self, place: impl FnOnce() -> EventId) -> EventId {
        match self {
            Naming::Here(publisher_id) => join(place().as_str(), publisher_id.as_ref()),
            Naming::Elsewhere(id) => id.clone(),
        }
    }
}

/// The publisher's own id in one that has a place of some run.
fn publisher_id(id: &str) -> Option<&str> {
    let (place, publisher_id) = id.split_once(PUBLISHER_ID_MARK)?;
    (is_place_of_run(place) && !publisher_id.is_empty()).then_some(publisher_id)
}

fn is_place_of_run(place: &str) -> bool {
    let is_run = |run: &str| run.len() == RunName::LEN && run.bytes().all(|byte| RunName::ALPHABET.contains(&byte));
    place.split_once('-').is_some_and(|(run, number)| is_run(run) && canonical_number(number).is_some())
}

/// The random name of one start of one server: the first half of the ids that it makes itself.
///
/// Twelve characters of `[a-z2-7]` from the 60 bits that the caller drew, so that two starts never share one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RunName([u8; RunName::LEN]);

impl RunName {
    /// Bytes of every name.
    pub const LEN: usize = 12;
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    /// Bytes of the longest id that a run makes: its name, a hyphen, and the 20 digits of `u64::MAX`.
    pub const ID_BYTES_MAX: usize = Self::LEN + 1 + 20;

    /// Names a run from random bits.
    pub fn from_bits(bits: u64) -> RunName {
        RunName(std::array::from_fn(|i| Self::ALPHABET[(bits >> (5 * i)) as usize & 31]))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }

    /// The id of the position `sequence` in this run: `<run>-<sequence>`.
    pub fn id(&self, sequence: Sequence) -> EventId {
        EventId(self.write_id(&mut [0; Self::ID_BYTES_MAX], sequence).into())
    }

    /// As [`RunName::id`], written into `buffer` instead of an allocation.
    pub fn write_id<'a>(&self, buffer: &'a mut [u8; Self::ID_BYTES_MAX], Sequence(number): Sequence) -> &'a str {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        let id = &mut buffer[..Self::LEN + 1 + digits.len()];
        id[..Self::LEN].copy_from_slice(&self.0);
        id[Self::LEN] = b'-';
        id[Self::LEN + 1..].copy_from_slice(digits);
        std::str::from_utf8(id).expect("a run's name and digits are ASCII")
    }

    /// The position that `id` names, if this run made it. Canonical decimals only: no run makes `x-07`.
    pub fn position(&self, id: &str) -> Option<Sequence> {
        canonical_number(place_part(id).strip_prefix(self.as_str())?.strip_prefix('-')?).map(Sequence)
    }
}

/// The number that these digits are, if no other digits are the same number.
pub fn canonical_number(digits: &str) -> Option<u64> {
    let canonical = digits == "0" || !digits.starts_with('0');
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (canonical && decimal).then(|| digits.parse().ok()).flatten()
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_visible_ascii() {
        let long = "i".repeat(EVENT_ID_BYTES_MAX);
        let check = |id: &str, expected: Result<(), NameError>| {
            assert_eq!(EventId::new(id).map(drop), expected, "{id:?}");
        };
        check("1526919030474-55", Ok(()));
        check(&long, Ok(()));
        check(&format!("{long}i"), Err(NameError::TooLong(EVENT_ID_BYTES_MAX)));
        check("", Err(NameError::Empty));
        check("a b", Err(NameError::Character));
        check("é", Err(NameError::Character));
    }

    #[test]
    fn a_run_reads_only_the_ids_it_made() {
        let run = RunName::from_bits(0x0123_4567_89ab_cdef);
        let other = RunName::from_bits(42);
        for sequence in [0, 1, 10, u64::MAX].map(Sequence) {
            assert_eq!(run.position(run.id(sequence).as_str()), Some(sequence));
            assert_eq!(other.position(run.id(sequence).as_str()), None);
        }
        for bad in ["", "1", "-01", "-", "-1x", "-+1", "-18446744073709551616"] {
            assert_eq!(run.position(&format!("{run}{bad}")), None, "{bad:?}");
        }
    }

    #[test]
    fn the_alias_is_the_publishers_id_behind_any_run() {
        let check = |id: &str, expected: &str| {
            assert_eq!(EventId::new(id).unwrap().alias().as_str(), expected, "{id}");
        };
        check("order-5", "order-5");
        check("a~b", "a~b");
        check("4hagud6ntb3q-17", "4hagud6ntb3q-17");
        check("aaaaaaaaaaaa-17~order-5", "order-5");
        check("aaaaaaaaaaaa-17~a~b", "a~b");
        check("aaaaaaaaaaaa-17~bbbbbbbbbbbb-1~a", "bbbbbbbbbbbb-1~a");
        check("aaaaaaaaaaaa-17~", "aaaaaaaaaaaa-17~");
        check("aaaaaaaaaaaa-07~a", "aaaaaaaaaaaa-07~a");
        check("aaaaaaaaaaa1-7~a", "aaaaaaaaaaa1-7~a");
        check("1795309891909-7~a", "1795309891909-7~a");
    }

    #[test]
    fn the_longest_ids_of_place_and_publisher_fit() {
        let longest = EventId::of_publisher(&"i".repeat(PUBLISHER_ID_BYTES_MAX)).unwrap();
        assert!(EventId::of_publisher(&"i".repeat(PUBLISHER_ID_BYTES_MAX + 1)).is_err());
        let place = RunName::from_bits(7).id(Sequence(u64::MAX));
        let id = join(place.as_str(), Some(&longest));
        assert_eq!((id.as_str(), place_part(id.as_str())), (&*format!("{place}~{longest}"), place.as_str()));
        let too_long = EventId::new(&"i".repeat(EVENT_ID_BYTES_MAX)).unwrap();
        assert_eq!(join("7-1", Some(&too_long)).as_str(), "7-1");
    }
}
