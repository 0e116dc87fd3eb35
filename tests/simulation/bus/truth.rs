//! What was on the bus, in the order in which it came there, and whether the engine still has it. The model of the engine
//! writes it; the checker reads it.
//!
//! A record's index is its place in time. A position is not: an engine that went back gives positions out again.

use fanfare::event::timeline::Position;

/// Everything that was ever on the bus.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    records: Vec<Record>,
    newest: Position,
    went_back: bool,
}

/// An entry, or the moment at which the engine went back.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) position: Position,
    pub(crate) what: What,
    pub(crate) fate: Fate,
    /// A publisher was answered that it is there.
    pub(crate) is_acknowledged: bool,
    /// There are positions before it that the engine never gave out.
    pub(crate) follows_hole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Event {
        topic: String,
        data: String,
        own: Option<String>,
    },
    Refused(Option<String>),
    Disconnect,
    Fork,
    /// The engine was replaced by an older copy, whose last entry is at this position.
    Back,
}

/// Whether the engine still has an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Trimmed,
    /// Lost, which the engine knows: it forks.
    Lost,
    /// Lost when the engine went back. No node can know of it that has not read it before.
    Undone,
}

impl Record {
    /// True when a client of the topic must receive it, or a gap at or behind its place.
    pub(crate) fn is_owed(&self, topic: &str) -> bool {
        self.fate != Fate::Undone && self.touches(topic)
    }

    /// True when a client of the topic may receive it, or a gap in its place.
    ///
    /// A fork that says that nothing was lost would be an exception.
    pub(crate) fn touches(&self, topic: &str) -> bool {
        match &self.what {
            What::Event { topic: of, .. } => of == topic,
            What::Refused(of) => of.as_ref().is_none_or(|of| of == topic),
            What::Fork => true,
            What::Disconnect | What::Back => false,
        }
    }

    /// True when an engine that is asked for it now has not got it.
    pub(crate) fn is_gone(&self) -> bool {
        self.fate != Fate::Kept
    }
}

impl Truth {
    pub(crate) fn push(&mut self, position: Position, what: What) {
        let before = self.records.last();
        let follows = before.is_none_or(|before| before.position.next() == position) || what == What::Back;
        let follows_hole = !follows && what != What::Fork;
        self.newest = self.newest.max(position);
        self.went_back |= what == What::Back;
        self.records.push(Record { position, what, fate: Fate::Kept, is_acknowledged: false, follows_hole });
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn records_mut(&mut self) -> &mut [Record] {
        &mut self.records
    }

    /// How many records there are through a position, as it is meant now.
    pub(crate) fn through(&self, position: Position) -> usize {
        self.records.iter().rposition(|record| record.position <= position).map_or(0, |index| index + 1)
    }

    /// True if the engine ever went back.
    pub(crate) fn went_back(&self) -> bool {
        self.went_back
    }

    /// The newest position that was ever given out.
    pub(crate) fn newest(&self) -> Position {
        self.newest
    }

    /// The event with this data, at this position.
    pub(crate) fn find_event(&self, position: Position, data: &str) -> Option<usize> {
        let is_it = |record: &Record| {
            record.position == position && matches!(&record.what, What::Event { data: has, .. } if has == data)
        };
        self.records.iter().rposition(is_it)
    }

    /// The entry that has this position now.
    pub(crate) fn at(&self, position: Position) -> Option<&Record> {
        self.records.iter().rev().find(|record| record.position == position && record.what != What::Back)
    }

    /// The entry that has this position now.
    pub(crate) fn at_mut(&mut self, position: Position) -> Option<&mut Record> {
        self.records.iter_mut().rev().find(|record| record.position == position && record.what != What::Back)
    }
}
