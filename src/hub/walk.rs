//! Walks: who is to be visited because a topic has something new. In slices; topics take turns.

use std::time::Duration;

use super::Hub;
use super::keys::{Subscriber, TopicKey};
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

    /// True while somebody is still to be visited.
    pub fn is_walking(&self) -> bool {
        !self.walks.is_empty()
    }
}
