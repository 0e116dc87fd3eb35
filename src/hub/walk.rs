//! Walks: who is to be visited because a topic has something new. In slices; topics take turns.

use std::time::Duration;

use super::Hub;
use super::keys::{Subscriber, TopicKey};
use super::log::ENTRY_OVERHEAD_BYTES;
use super::topics::TopicEntry;
use crate::event::Sequence;

/// A part of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// The topic whose subscribers these are.
    pub topic: TopicKey,
    /// When its walk started.
    pub started_at: Duration,
    /// This slice ends its walk.
    pub ends_walk: bool,
}

/// A walk over a topic's subscribers, from the last to the first.
///
/// Removal swaps the last subscriber into the freed place: one that was visited already, so that at worst it is
/// visited twice, which is a no-op; or, when nobody was visited yet, one that still lies ahead. Clamping
/// `remaining` to the list's length is all the repair there is.
#[derive(Debug)]
pub(super) struct Walk {
    /// The subscribers `0..remaining` are still to be visited in this pass.
    pub(super) remaining: usize,
    /// Something was appended during this pass: those already visited need another.
    pub(super) again: bool,
    /// What this pass brings to everybody.
    pub(super) target: Sequence,
    pub(super) started_at: Duration,
}

impl Hub {
    pub(super) fn start_walk(&mut self, key: TopicKey, previous: Sequence, now: Duration) {
        let entry = self.topics.get_mut(key);
        match &mut entry.walk {
            Some(walk) => walk.again = true,
            None if entry.subscribers.is_empty() => {}
            None => {
                let target = entry.log.last();
                entry.walked_through = previous;
                entry.walk = Some(Walk { remaining: entry.subscribers.len(), again: false, target, started_at: now });
                self.walks.push_back(key);
            }
        }
    }

    /// Takes up to `subscribers_max` subscribers that are to be visited now; topics take turns.
    pub fn next_slice(&mut self, subscribers_max: usize, now: Duration, slice: &mut Vec<Subscriber>) -> Option<Slice> {
        slice.clear();
        let topic = self.walks.pop_front()?;
        let entry = self.topics.get_mut(topic);
        let walk = entry.walk.as_mut().expect("a topic in the queue of walks has one");
        let end = walk.remaining.min(entry.subscribers.len());
        let start = end.saturating_sub(subscribers_max);
        slice.extend(entry.subscribers[start..end].iter().rev());
        walk.remaining = start;
        let (started_at, ends_walk) = (walk.started_at, start == 0);
        if ends_walk {
            entry.walked_through = walk.target;
            if walk.again {
                let (remaining, target) = (entry.subscribers.len(), entry.log.last());
                *walk = Walk { remaining, again: false, target, started_at: now };
            } else {
                entry.walk = None;
            }
        }
        if entry.walk.is_some() {
            self.walks.push_back(topic);
        }
        Some(Slice { topic, started_at, ends_walk })
    }

    /// Of `slice`'s topic there was more than one visit carries: everybody was brought only `through` there, and
    /// another pass follows.
    pub fn cut_walk(&mut self, slice: &Slice, through: Sequence, now: Duration) {
        let entry = self.topics.get_mut(slice.topic);
        match &mut entry.walk {
            None => self.start_walk(slice.topic, through, now),
            Some(_) if slice.ends_walk => entry.walked_through = entry.walked_through.min(through),
            Some(walk) => {
                walk.target = walk.target.min(through);
                walk.again = true;
            }
        }
    }

    /// True when appending a frame to `topic` would evict something that a walk in progress has yet to bring round.
    ///
    /// A loop that waits here leaves the next message in the channel: it slows its sources down instead of failing
    /// subscribers that read as fast as they are written to.
    pub fn would_outrun(&self, topic: &str, frame_bytes: usize) -> bool {
        self.outruns_all(frame_bytes) || self.topics.find(topic).is_some_and(|key| self.outruns(key, frame_bytes))
    }

    /// The same of a gap, in whichever topics.
    pub fn would_gap_outrun(&self, frame_bytes: usize) -> bool {
        self.outruns_all(frame_bytes) || self.walks.iter().any(|key| self.outruns(*key, frame_bytes))
    }

    /// By the bounds of the topic itself.
    fn outruns(&self, key: TopicKey, frame_bytes: usize) -> bool {
        let TopicEntry { walk, log, walked_through, .. } = self.topics.get(key);
        let events = (log.len() + 1).saturating_sub(self.limits.history_events_max);
        let bytes =
            (log.bytes() + frame_bytes + 2 * ENTRY_OVERHEAD_BYTES).saturating_sub(self.limits.history_bytes_max);
        walk.is_some() && log.newest_of_oldest(events, bytes).is_some_and(|evicted| evicted > *walked_through)
    }

    /// By the bound over all topics, which evicts the oldest of all.
    fn outruns_all(&self, frame_bytes: usize) -> bool {
        if self.bytes_total() + frame_bytes + 2 * ENTRY_OVERHEAD_BYTES <= self.limits.history_bytes_total_max {
            return false;
        }
        let Some((oldest, topic)) = self.oldest.first() else { return false };
        let entry = self.topics.get(*topic);
        entry.walk.is_some() && *oldest > entry.walked_through
    }

    /// True while somebody is still to be visited.
    pub fn is_walking(&self) -> bool {
        !self.walks.is_empty()
    }
}
