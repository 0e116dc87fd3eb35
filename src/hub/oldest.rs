//! The oldest entry of each log that has any, in order: of all logs, and of the logs with the same limit on age.
//!
//! Entries of logs with the same limit reach it in their order, so only the first of each group can be too old. Groups other
//! than the first exist while a log is in them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::keys::TopicKey;
use crate::event::Sequence;

/// An entry, by its place in the order, and its log's topic.
pub(super) type OldestEntry = (Sequence, TopicKey);

#[derive(Debug)]
pub(super) struct Oldest {
    /// The group of logs with the limit of all topics.
    usual: Group,
    others: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    age_max: Duration,
    entries: BTreeSet<OldestEntry>,
}

impl Oldest {
    /// None yet; `age_max` is the limit of most logs.
    pub(super) fn new(age_max: Duration) -> Oldest {
        Oldest { usual: Group { age_max, entries: BTreeSet::new() }, others: Vec::new() }
    }

    /// A log with this limit on age has its first entry.
    pub(super) fn insert(&mut self, age_max: Duration, entry: OldestEntry) {
        if age_max == self.usual.age_max {
            self.usual.entries.insert(entry);
        } else if let Some(group) = self.others.iter_mut().find(|group| group.age_max == age_max) {
            group.entries.insert(entry);
        } else {
            self.others.push(Group { age_max, entries: BTreeSet::from([entry]) });
        }
    }

    /// A log has lost its oldest entry, and `next` is the oldest now.
    pub(super) fn replace(&mut self, age_max: Duration, lost: OldestEntry, next: Option<OldestEntry>) {
        if age_max == self.usual.age_max {
            return self.usual.replace(lost, next);
        }
        let Some(index) = self.others.iter().position(|group| group.age_max == age_max) else { return };
        self.others[index].replace(lost, next);
        if self.others[index].entries.is_empty() {
            self.others.swap_remove(index);
        }
    }

    /// The oldest entry of all.
    pub(super) fn first(&self) -> Option<OldestEntry> {
        let first = self.usual.entries.first();
        let others = self.others.iter().filter_map(|group| group.entries.first());
        others.chain(first).min().copied()
    }

    /// For each limit on age that any log has, the topic whose entry reaches it first.
    pub(super) fn first_of_each_age(&self) -> impl Iterator<Item = (Duration, TopicKey)> {
        let groups = std::iter::once(&self.usual).chain(&self.others);
        groups.filter_map(|group| Some((group.age_max, group.entries.first()?.1)))
    }

    /// All of them, the oldest first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = OldestEntry> {
        let mut usual = self.usual.entries.iter().copied().peekable();
        let mut others: Vec<_> = self.others.iter().map(|group| group.entries.iter().copied().peekable()).collect();
        std::iter::from_fn(move || {
            let groups = others.iter_mut().chain(std::iter::once(&mut usual));
            let fronts = groups.filter_map(|group| Some((*group.peek()?, group)));
            fronts.min_by_key(|(entry, _)| *entry)?.1.next()
        })
    }
}

impl Group {
    fn replace(&mut self, lost: OldestEntry, next: Option<OldestEntry>) {
        self.entries.remove(&lost);
        self.entries.extend(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_order_whatever_their_groups() {
        let [long, short, usual] = [90, 5, 30].map(Duration::from_secs);
        let entry = |sequence: u64| (Sequence(sequence), TopicKey(sequence as u32));
        let mut oldest = Oldest::new(usual);
        assert_eq!((oldest.first(), oldest.in_order().count()), (None, 0));
        for (age_max, sequence) in [(usual, 4), (long, 1), (short, 3), (usual, 2), (long, 7), (short, 9)] {
            oldest.insert(age_max, entry(sequence));
        }
        let sequences = |oldest: &Oldest| oldest.in_order().map(|(sequence, _)| sequence.0).collect::<Vec<_>>();
        assert_eq!(sequences(&oldest), [1, 2, 3, 4, 7, 9]);
        assert_eq!(oldest.first(), Some(entry(1)));
        let firsts = |oldest: &Oldest| oldest.first_of_each_age().map(|(age, key)| (age, key.0)).collect::<Vec<_>>();
        assert_eq!(firsts(&oldest), [(usual, 2), (long, 1), (short, 3)]);
        oldest.replace(long, entry(1), Some(entry(8)));
        oldest.replace(short, entry(3), None);
        oldest.replace(usual, entry(2), None);
        assert_eq!((sequences(&oldest), oldest.first()), (vec![4, 7, 8, 9], Some(entry(4))));
        oldest.replace(short, entry(9), None);
        assert_eq!(firsts(&oldest), [(usual, 4), (long, 7)]);
    }
}
