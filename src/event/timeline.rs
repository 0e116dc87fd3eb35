//! Positions on a durable bus, and the timeline that maps them to the sequences of one node.
//!
//! An engine outside this process keeps the order of a durable bus. A position is an epoch and an offset in it: offsets
//! are dense, and a new epoch begins where the engine may have lost a part of its history (a *fork*). All nodes share
//! positions; sequences are a node's own.
//!
//! ```text
//!  positions   7-0  7-1  7-2 | 9-0  9-1        the fork 9-0 ends epoch 7
//!  sequences    S   2S   3S  | 4S   5S         S = SEQUENCES_PER_POSITION
//! ```
//!
//! Between two positions there is room for events of the node's own topics, which never pass through the bus. Before the
//! first position that a node reads there is room for the older ones of its epoch, which it may fetch later.
//!
//! A fork may *follow* a position: it is proven that the engine had nothing after it. Then a later position of the older
//! epoch is not one of the bus's, and a client that has everything through the position has missed nothing.
//!
//! Invariant: later positions have larger sequences, also across forks that took back positions this node has seen.

use std::fmt;

use super::{EventId, Sequence, canonical_number, join, place_part};

/// Sequences from one position to the next: its own, and those of local events that follow it.
pub const SEQUENCES_PER_POSITION: u64 = 1 << 24;
/// Where a node's first epoch begins: half of all sequences are for older positions.
const FIRST_SLOT: u64 = 1 << 39;
/// Older positions of a later epoch that have a place, if the node did not read its beginning.
const ROOM_MAX: u64 = 1 << 20;

/// A place in the order of a bus; `<epoch>-<offset>` as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which history of the engine.
    pub epoch: u64,
    /// Which entry of it.
    pub offset: u64,
}

impl Position {
    /// Reads the canonical form.
    pub fn parse(text: &str) -> Option<Position> {
        let (epoch, offset) = text.split_once('-')?;
        Some(Position { epoch: canonical_number(epoch)?, offset: canonical_number(offset)? })
    }

    /// The position right after this one in the same epoch.
    #[must_use]
    pub fn next(self) -> Position {
        Position { offset: self.offset.saturating_add(1), ..self }
    }

    /// The newest place before this position.
    #[must_use]
    pub fn previous(self) -> Position {
        match self.offset.checked_sub(1) {
            Some(offset) => Position { offset, ..self },
            None => Position { epoch: self.epoch.saturating_sub(1), offset: u64::MAX },
        }
    }

    /// The id of the event at this position.
    pub fn id(self, publisher_id: Option<&EventId>) -> EventId {
        join(&self.to_string(), publisher_id)
    }

    /// The position in an id.
    pub fn of_id(id: &str) -> Option<Position> {
        Position::parse(place_part(id))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

/// Where an id stands for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There.
    At(Sequence),
    /// Beyond what this node has read.
    Ahead,
    /// In no epoch that this node knows.
    Unknown,
}

/// The epochs that a node has read, in order.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    epochs: Vec<Epoch>,
}

/// The part of an epoch that a node has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Where the node's reading of it began.
    pub first: Position,
    /// The sequence of that position.
    pub sequence: Sequence,
    /// The sequence of the oldest position that has a place, although the node has not read it.
    pub earliest: Sequence,
    /// The end of what the node had read before.
    pub previous_end: Sequence,
    /// The last position before it, if it is proven that nothing was lost between them.
    pub follows: Option<Position>,
}

impl Timeline {
    /// True until the first epoch began.
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// An epoch begins at a position, after everything up to `head`. Returns how sequences follow from it.
    pub fn begin(&mut self, first: Position, follows: Option<Position>, head: Sequence) -> Epoch {
        let next_slot = head.0 / SEQUENCES_PER_POSITION + 1;
        let (slot, room) = match self.is_empty() {
            true => (next_slot.max(FIRST_SLOT), first.offset.min(FIRST_SLOT - 1)),
            false => (next_slot + first.offset.min(ROOM_MAX), first.offset.min(ROOM_MAX)),
        };
        let at = |slot: u64| Sequence(slot * SEQUENCES_PER_POSITION);
        let epoch = Epoch { first, sequence: at(slot), earliest: at(slot - room), previous_end: head, follows };
        self.push(epoch);
        epoch
    }

    /// The same for an epoch that another thread began.
    pub fn push(&mut self, epoch: Epoch) {
        // An epoch that the engine began anew replaces what this node knew of it.
        self.epochs.retain(|known| known.first.epoch < epoch.first.epoch);
        self.epochs.push(epoch);
    }

    /// The oldest place whose position an epoch takes back, because the engine began its epoch anew.
    pub fn taken_back_by(&self, epoch: &Epoch) -> Option<Sequence> {
        self.epochs.iter().find(|known| known.first.epoch >= epoch.first.epoch).map(|known| known.earliest)
    }

    /// The sequence of a position of the last epoch.
    pub fn sequence_of(&self, position: Position) -> Option<Sequence> {
        let epoch = self.epochs.last().filter(|epoch| epoch.first.epoch == position.epoch)?;
        epoch.sequence_of(position)
    }

    /// The newest position at or before a sequence.
    pub fn position_at(&self, sequence: Sequence) -> Option<Position> {
        let is_reached = |epoch: &&Epoch| epoch.earliest <= sequence;
        let epoch = self.epochs.iter().rev().find(is_reached).or(self.epochs.first())?;
        let offset = match sequence.0.checked_sub(epoch.sequence.0) {
            Some(after) => epoch.first.offset.saturating_add(after / SEQUENCES_PER_POSITION),
            None => {
                let back = (epoch.sequence.0 - sequence.0).div_ceil(SEQUENCES_PER_POSITION);
                epoch.first.offset.saturating_sub(back)
            }
        };
        Some(Position { offset, ..epoch.first })
    }

    /// Where a client that has everything through `position` stands, on a node that has read up to `head`.
    pub fn place(&self, position: Position, head: Sequence) -> Place {
        if self.epochs.last().is_some_and(|last| position.epoch > last.first.epoch) {
            return Place::Ahead;
        }
        let Some(index) = self.epochs.iter().position(|epoch| epoch.first.epoch == position.epoch) else {
            return self.place_outside(position);
        };
        let (epoch, next) = (&self.epochs[index], self.epochs.get(index + 1));
        let sequence = epoch.sequence_of(position).unwrap_or(Sequence(u64::MAX));
        match next {
            Some(next) if next.is_after_end(position) => Place::Unknown,
            // Beyond the end of an epoch: the engine has lost what the client received. The fork follows.
            Some(next) => Place::At(sequence.min(Sequence(next.earliest.0 - 1))),
            None if sequence <= head => Place::At(sequence),
            None => Place::Ahead,
        }
    }

    /// Where a position stands whose epoch this node has not read.
    fn place_outside(&self, position: Position) -> Place {
        let Some(index) = self.epochs.iter().position(|known| known.first.epoch > position.epoch) else {
            return Place::Unknown;
        };
        let next = &self.epochs[index];
        let is_previous = |end: Position| index > 0 && self.epochs[index - 1].first.epoch == end.epoch;
        match next.follows {
            // The end of its epoch: a client there has missed nothing.
            Some(end) if end == position => Place::At(Sequence(next.sequence.0 - 1)),
            // It is from a history of the engine that was taken back.
            Some(end) if is_previous(end) => Place::Unknown,
            // It is later than all that this node has read before the next epoch, which begins with a gap.
            _ if index > 0 => Place::At(Sequence(next.earliest.0 - 1)),
            _ => Place::Unknown,
        }
    }

    /// The last place before what follows an epoch; `None`: it is the last epoch, or an unknown one.
    pub fn last_place_of(&self, epoch: u64) -> Option<Sequence> {
        let index = self.epochs.iter().position(|known| known.first.epoch == epoch)?;
        self.epochs.get(index + 1).map(|next| Sequence(next.earliest.0 - 1))
    }

    /// Where the node's reading of an epoch ended; `None`: it is the last epoch, or an unknown one.
    pub fn end_of(&self, epoch: u64) -> Option<Sequence> {
        let index = self.epochs.iter().position(|known| known.first.epoch == epoch)?;
        self.epochs.get(index + 1).map(|next| next.previous_end)
    }
}

impl Epoch {
    /// True if it is proven that the epoch of this position ended before it.
    fn is_after_end(&self, position: Position) -> bool {
        self.follows.is_some_and(|end| end.epoch == position.epoch && position > end)
    }

    /// `None`: there are no sequences that far ahead.
    fn sequence_of(&self, position: Position) -> Option<Sequence> {
        match position.offset.checked_sub(self.first.offset) {
            Some(ahead) => ahead.checked_mul(SEQUENCES_PER_POSITION)?.checked_add(self.sequence.0).map(Sequence),
            None => {
                let back = (self.first.offset - position.offset).saturating_mul(SEQUENCES_PER_POSITION);
                // Positions that are too old for a place of their own share the one before all others.
                Some(Sequence(self.sequence.0.saturating_sub(back).max(self.earliest.0 - 1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        Position::parse(text).unwrap()
    }

    #[test]
    fn positions_have_one_form() {
        for good in ["0-0", "1763769600000-42", "18446744073709551615-18446744073709551615"] {
            assert_eq!(at(good).to_string(), good);
        }
        for bad in ["", "-", "1", "1-", "-1", "01-1", "1-01", "1-+1", "1-1-1", "1-18446744073709551616", "a-1"] {
            assert_eq!(Position::parse(bad), None, "{bad:?}");
        }
        assert_eq!(at("7-3").id(None).as_str(), "7-3");
        assert_eq!(at("7-3").id(EventId::new("a~b").ok().as_ref()).as_str(), "7-3~a~b");
        assert_eq!(Position::of_id("7-3~a~b"), Some(at("7-3")));
        assert_eq!(Position::of_id("~a"), None);
    }

    #[test]
    fn sequences_follow_positions_across_forks() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.place(at("7-0"), Sequence::ZERO), Place::Unknown);
        timeline.begin(at("7-10"), None, Sequence::ZERO);
        let of = |timeline: &Timeline, text: &str| timeline.sequence_of(at(text)).unwrap();
        let head = of(&timeline, "7-40");
        // 7-38 to 7-40 are lost: the fork says so, and all nodes continue with 9-0.
        timeline.begin(at("9-0"), None, head);
        let head = of(&timeline, "9-2");
        let place = |text: &str| timeline.place(at(text), head);
        let position = |text: &str| match place(text) {
            Place::At(sequence) => timeline.position_at(sequence).map(|position| position.to_string()),
            other => Some(format!("{other:?}")),
        };
        let check = |text: &str, expected: &str| assert_eq!(position(text).as_deref(), Some(expected), "{text}");
        check("7-10", "7-10");
        check("7-40", "7-40");
        check("7-999999", "7-40");
        check("9-0", "9-0");
        check("9-2", "9-2");
        check("9-3", "Ahead");
        check("9-18446744073709551615", "Ahead");
        check("10-0", "Ahead");
        check("7-18446744073709551615", "7-40");
        // From an epoch that this node has not read: later than 7, and the fork 9-0 follows.
        check("8-0", "7-40");
        check("7-9", "7-9");
        check("7-3", "7-3");
        check("7-0", "7-0");
    }

    #[test]
    fn positions_that_were_not_read_have_a_place_before_the_first() {
        let mut timeline = Timeline::default();
        let head = timeline.begin(at("7-1000"), None, Sequence(5)).sequence;
        let place = |timeline: &Timeline, text: &str, head| match timeline.place(at(text), head) {
            Place::At(sequence) => sequence.0,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(place(&timeline, "7-999", head), head.0 - SEQUENCES_PER_POSITION);
        assert_eq!(place(&timeline, "7-0", head), head.0 - 1000 * SEQUENCES_PER_POSITION);
        // The node read nothing of epoch 8, and epoch 9 from 9-5000000 on.
        let epoch = timeline.begin(at("9-5000000"), None, head);
        let places = ["7-1000", "7-1001", "9-0", "9-3951423", "9-3951424", "9-4999999", "9-5000000"];
        let places = places.map(|text| place(&timeline, text, epoch.sequence));
        assert!(places.is_sorted() && places[0] < places[1] && places[1] == places[2] && places[2] == places[3]);
        assert!(places[3] < places[4] && places[6] == places[5] + SEQUENCES_PER_POSITION, "{places:?}");
        assert_eq!(timeline.position_at(Sequence(places[4])), Some(at("9-3951424")), "the oldest with a place");
        assert_eq!(timeline.end_of(7), Some(head));
        assert_eq!(timeline.end_of(9), None);
    }

    #[test]
    fn an_epoch_may_follow_a_position() {
        let mut timeline = Timeline::default();
        timeline.begin(at("7-10"), None, Sequence::ZERO);
        let head = timeline.sequence_of(at("7-40")).unwrap();
        let epoch = timeline.begin(at("9-0"), Some(at("7-40")), head);
        assert_eq!(timeline.place(at("7-40"), epoch.sequence), Place::At(head));
        assert_eq!(timeline.place(at("7-41"), epoch.sequence), Place::Unknown, "the engine never had it");
        // A node that has read nothing of epoch 7.
        let mut timeline = Timeline::default();
        let Epoch { sequence, .. } = timeline.begin(at("9-0"), Some(at("7-40")), Sequence::ZERO);
        let before = |text: &str| match timeline.place(at(text), sequence) {
            Place::At(place) => Some(sequence.0 - place.0),
            _ => None,
        };
        assert_eq!(["7-41", "7-40", "7-39", "6-40", "8-40"].map(before), [None, Some(1), None, None, None]);
    }

    #[test]
    fn local_events_fit_between_two_positions() {
        let mut timeline = Timeline::default();
        let Epoch { sequence, .. } = timeline.begin(at("7-0"), None, Sequence(5));
        for local in [0, 1, SEQUENCES_PER_POSITION - 1] {
            assert_eq!(timeline.position_at(Sequence(sequence.0 + local)), Some(at("7-0")));
        }
        assert_eq!(timeline.position_at(Sequence(sequence.0 + SEQUENCES_PER_POSITION)), Some(at("7-1")));
        assert_eq!(timeline.position_at(Sequence(sequence.0 - 1)), Some(at("7-0")));
    }
}
