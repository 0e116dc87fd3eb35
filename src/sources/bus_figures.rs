//! What a durable bus does, in figures: written by its threads, read by health checks, metrics and the page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::event::timeline::Position;

/// The figures of one node.
#[derive(Debug, Default)]
pub struct BusFigures {
    place: Mutex<BusPlace>,
    forks: AtomicU64,
    appended: AtomicU64,
    duplicates: AtomicU64,
    failed: AtomicU64,
    pages: AtomicU64,
}

/// How far this node has read, and how far the bus reached then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusPlace {
    /// The last entry that this node has read.
    pub read: Position,
    /// The newest entry of the engine.
    pub last: Position,
}

impl BusPlace {
    /// Entries that this node has not read yet; of an epoch that it has not begun, those of that epoch.
    pub fn lag(self) -> u64 {
        match self.last.epoch == self.read.epoch {
            true => self.last.offset.saturating_sub(self.read.offset),
            false => self.last.offset.saturating_add(1),
        }
    }
}

impl BusFigures {
    /// A page was read.
    pub fn note_read(&self, read: Position, last: Position, forks: u64) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = BusPlace { read, last };
        self.forks.fetch_add(forks, Ordering::Relaxed);
    }

    /// Events were appended, or were there already.
    pub fn count_appended(&self, new: u64, duplicates: u64) {
        self.appended.fetch_add(new, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates, Ordering::Relaxed);
    }

    /// Events could not be appended; their publishers got an error.
    pub fn count_failed(&self, events: u64) {
        self.failed.fetch_add(events, Ordering::Relaxed);
    }

    /// A page of older entries was fetched.
    pub fn count_page(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// How far this node has read.
    pub fn place(&self) -> BusPlace {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forks that may have lost entries, and were read since the bus was loaded.
    pub fn forks(&self) -> u64 {
        self.forks.load(Ordering::Relaxed)
    }

    /// Entries that were published through this node, by result.
    pub fn appends(&self) -> [(&'static str, u64); 3] {
        let counts = [("new", &self.appended), ("duplicate", &self.duplicates), ("failed", &self.failed)];
        counts.map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }

    /// Pages of older entries that were fetched.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_entries_that_are_not_read() {
        let lag = |read: &str, last: &str| {
            let [read, last] = [read, last].map(|text| Position::parse(text).unwrap());
            BusPlace { read, last }.lag()
        };
        assert_eq!([lag("7-4", "7-4"), lag("7-4", "7-9"), lag("7-4", "9-1"), lag("7-4", "7-3")], [0, 5, 2, 0]);
    }
}
