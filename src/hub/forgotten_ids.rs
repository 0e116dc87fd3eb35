//! Publishers' ids that the logs have forgotten: they show whether an earlier event had the id of a remembered one.
//!
//! A publisher may use an id again once its topic has forgotten it. A client that returns with such an id may have
//! received either event, and the server can't tell which: the client must receive a gap event. So the hub keeps a
//! bounded number of forgotten ids, as hashes. Two ids with the same hash cost an unnecessary gap, but no event.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::event::{Naming, Topic};

/// Ids that are kept; with an index of the same size, about 2.5 MiB.
pub(super) const FORGOTTEN_IDS_MAX: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct ForgottenIds {
    oldest_first: VecDeque<u64>,
    /// How often each hash is in the queue.
    counts: HashMap<u64, u32>,
}

impl ForgottenIds {
    /// Records that a topic's log has forgotten an event, if it has more than a place.
    pub(super) fn add(&mut self, topic: &Topic, naming: &Naming) {
        let Some(alias) = naming.alias() else { return };
        if self.oldest_first.len() == FORGOTTEN_IDS_MAX {
            self.drop_oldest();
        }
        let hash = hash(topic, alias.as_str());
        self.oldest_first.push_back(hash);
        *self.counts.entry(hash).or_insert(0) += 1;
    }

    /// How many events with this id the topic's log has forgotten, as far as ids are kept.
    pub(super) fn count(&self, topic: &Topic, id: &str) -> u32 {
        if self.counts.is_empty() {
            return 0;
        }
        self.counts.get(&hash(topic, id)).copied().unwrap_or(0)
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.oldest_first.pop_front() else { return };
        if let Some(count) = self.counts.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }
}

fn hash(topic: &Topic, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic.as_str(), id).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    #[test]
    fn as_many_ids_as_fit_are_known_by_topic() {
        let [a, b] = ["a", "b"].map(|name| Topic::new(name).unwrap());
        let id = |n: usize| Naming::Here(EventId::new(&n.to_string()).ok());
        let mut forgotten = ForgottenIds::default();
        assert_eq!(forgotten.count(&a, "0"), 0);
        (0..FORGOTTEN_IDS_MAX).for_each(|n| forgotten.add(&a, &id(n)));
        assert_eq!([forgotten.count(&a, "0"), forgotten.count(&b, "0")], [1, 0]);
        forgotten.add(&a, &id(1));
        assert_eq!([forgotten.count(&a, "0"), forgotten.count(&a, "1")], [0, 2]);
        forgotten.add(&b, &id(0));
        assert_eq!([forgotten.count(&a, "1"), forgotten.count(&b, "0")], [1, 1]);
        assert_eq!((forgotten.oldest_first.len(), forgotten.counts.len()), (FORGOTTEN_IDS_MAX, FORGOTTEN_IDS_MAX));
    }
}
