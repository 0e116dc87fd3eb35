//! The topics: their logs, their subscribers, and the walk in progress over them.
//!
//! A topic that nobody subscribes to stays, so that its log can replay and its positions stay known, until room is
//! needed; then the one longest unused makes place and leaves its last sequence behind as the floor for new ones:
//! who comes back for something older than the floor is told of a gap, because nobody can know that there is none.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use crate::event::{Sequence, Topic};
use crate::hub::keys::{Subscriber, TopicKey};
use crate::hub::log::TopicLog;
use crate::hub::walk::Walk;

/// How many unused topics are looked at for one that nobody published to lately, before any is taken.
const LOOKS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct TopicEntry {
    pub(super) name: Topic,
    pub(super) log: TopicLog,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) walk: Option<Walk>,
    /// Every subscriber has been visited since this was appended.
    pub(super) walked_through: Sequence,
    /// Stands in the queue of unused topics, with the last sequence it had when it was put there.
    queued: Option<Sequence>,
}

#[derive(Debug)]
pub(super) struct Topics {
    entries: Slab<TopicEntry>,
    names: HashMap<Topic, TopicKey>,
    unused: VecDeque<TopicKey>,
    topics_max: usize,
    floor: Sequence,
}

impl Topics {
    pub(super) fn new(topics_max: usize) -> Topics {
        Topics {
            entries: Slab::new(),
            names: HashMap::new(),
            unused: VecDeque::new(),
            topics_max,
            floor: Sequence::ZERO,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<TopicKey> {
        self.names.get(name).copied()
    }

    pub(super) fn get(&self, key: TopicKey) -> &TopicEntry {
        &self.entries[key.0 as usize]
    }

    pub(super) fn get_mut(&mut self, key: TopicKey) -> &mut TopicEntry {
        &mut self.entries[key.0 as usize]
    }

    /// The topic of a place, if there is one.
    pub(super) fn try_get(&self, key: TopicKey) -> Option<&TopicEntry> {
        self.entries.get(key.0 as usize)
    }

    /// How many places the table has, free ones among them: every key is below.
    pub(super) fn places(&self) -> usize {
        self.entries.capacity()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TopicKey, &TopicEntry)> {
        self.entries.iter().map(|(slot, entry)| (TopicKey(slot as u32), entry))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when a further topic would need another one's place.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= self.topics_max
    }

    /// True when some topic has no subscriber.
    pub(super) fn has_unused(&mut self) -> bool {
        while let Some(key) = self.unused.front() {
            let entry = &mut self.entries[key.0 as usize];
            if entry.subscribers.is_empty() {
                return true;
            }
            // It is put back when its last subscriber leaves.
            entry.queued = None;
            self.unused.pop_front();
        }
        false
    }

    /// New topics start at `position` or later: who names an earlier one is told of a gap.
    pub(super) fn raise_floor(&mut self, position: Sequence) {
        self.floor = self.floor.max(position);
    }

    pub(super) fn insert(&mut self, name: &Topic) -> TopicKey {
        let entry = TopicEntry {
            name: name.clone(),
            log: TopicLog::new(self.floor),
            subscribers: Vec::new(),
            walk: None,
            walked_through: Sequence::ZERO,
            queued: None,
        };
        let key = TopicKey(self.entries.insert(entry) as u32);
        self.names.insert(name.clone(), key);
        self.mark_unused(key);
        key
    }

    /// Nobody subscribes to it (any more): it may make place for others.
    pub(super) fn mark_unused(&mut self, key: TopicKey) {
        let entry = &mut self.entries[key.0 as usize];
        if entry.queued.is_none() {
            entry.queued = Some(entry.log.last());
            self.unused.push_back(key);
        }
    }

    /// Takes out the topic that is unused the longest; the caller disposes of what its log still held.
    pub(super) fn take_unused(&mut self) -> Option<(TopicKey, TopicEntry)> {
        let mut looks = 0;
        // Twice around: few topics that were all published to lately are no reason to take none.
        for _ in 0..2 * self.unused.len() {
            let key = self.unused.pop_front()?;
            let entry = &mut self.entries[key.0 as usize];
            let queued = entry.queued.take().expect("what stands in the queue knows it");
            if !entry.subscribers.is_empty() {
                continue; // back in the queue when its last subscriber leaves
            }
            if entry.walk.is_some() {
                self.mark_unused(key); // its walk ends this tick
                continue;
            }
            looks += 1;
            if queued < entry.log.last() && looks < LOOKS_MAX {
                self.mark_unused(key);
                continue;
            }
            let entry = self.entries.remove(key.0 as usize);
            self.names.remove(&entry.name);
            self.raise_floor(entry.log.last());
            return Some((key, entry));
        }
        None
    }
}
