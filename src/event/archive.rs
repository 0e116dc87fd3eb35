//! Pages of a durable bus: the unit in which a node fetches entries that it no longer remembers.
//!
//! A page has a fixed place, so subscribers that need nearby positions share it, whatever their topics.

use super::timeline::Position;
use super::{Frame, Topic};

/// Positions of one page.
pub const PAGE_POSITIONS: u64 = 64;

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageKey {
    history: u32,
    epoch: u64,
    index: u64,
}

impl PageKey {
    /// The page of a position. `history` counts how often the engine has returned to an older copy: after that, the same
    /// position may hold something else.
    pub fn of(position: Position, history: u32) -> PageKey {
        PageKey { history, epoch: position.epoch, index: position.offset / PAGE_POSITIONS }
    }

    /// Its first position.
    pub fn first(self) -> Position {
        Position { epoch: self.epoch, offset: self.index * PAGE_POSITIONS }
    }

    /// Its last position.
    pub fn last(self) -> Position {
        let first = self.first();
        Position { offset: first.offset + (PAGE_POSITIONS - 1), ..first }
    }
}

/// A page as it was fetched.
#[derive(Clone, Debug)]
pub struct Page {
    /// Which one.
    pub key: PageKey,
    /// What subscribers receive of it, in order.
    pub entries: Vec<ArchivedEntry>,
    /// The last position that it covers: later ones had not been appended, unless the epoch has ended.
    pub through: Position,
    /// The engine has no later entry of this epoch, and never will.
    pub epoch_ended: bool,
    /// Everything at or before this position is gone from the bus.
    pub lost_through: Option<Position>,
}

/// An event, or a gap that the bus itself holds.
#[derive(Clone, Debug)]
pub struct ArchivedEntry {
    /// Where it is.
    pub position: Position,
    /// Whose subscribers receive it; none: all subscribers do.
    pub topics: Vec<Topic>,
    /// The event or gap.
    pub frame: Frame,
}

impl Page {
    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        let of_entry = |entry: &ArchivedEntry| entry.frame.len() + size_of::<ArchivedEntry>();
        size_of::<Page>() + self.entries.iter().map(of_entry).sum::<usize>()
    }
}
