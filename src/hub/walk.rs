//! Walks: visits to the subscribers of a topic that has something new, in slices; topics take turns.
//!
//! A loss that touches every topic starts a sweep, which starts the walks of all topics, a few in each turn.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Hub;
use super::keys::{Subscriber, TopicKey};
use super::log::{ENTRY_OVERHEAD_BYTES, Entry};
use super::topics::TopicEntry;
use crate::event::Sequence;

/// While this many walks are in progress, a sweep starts no others.
const SWEPT_WALKS_MAX: usize = 64;
/// Places of topics that a sweep examines before each slice: about 10 us.
const PLACES_PER_SLICE: usize = 1024;

/// A part of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// The topic whose subscribers these are.
    pub topic: TopicKey,
    /// When its walk started.
    pub started_at: Duration,
    /// True if this slice ends its walk.
    pub ends_walk: bool,
}

/// A walk over a topic's subscribers, from the last to the first.
///
/// Removal swaps the last subscriber into the freed place. If that one was visited already, it is at worst visited
/// twice, which is a no-op; if no subscriber was visited yet, it still lies ahead. So the walk only has to clamp
/// `remaining` to the list's length.
#[derive(Debug)]
pub(super) struct Walk {
    /// The subscribers `0..remaining` are still to be visited in this pass.
    pub(super) remaining: usize,
    /// Something was appended during this pass: those already visited need another.
    pub(super) again: bool,
    /// The position through which this pass delivers.
    pub(super) target: Sequence,
    pub(super) started_at: Duration,
}

/// The walks that a loss of every topic still has to start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    /// The next place to look at.
    next: usize,
    end: usize,
    /// Another loss was appended meanwhile: the sweep starts again.
    again: bool,
}

impl Sweep {
    pub(super) fn is_over(&self) -> bool {
        self.next >= self.end && !self.again
    }
}

/// What an append would make a log forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// The topic whose log forgets.
    pub topic: TopicKey,
    /// The newest event that it would forget.
    pub through: Sequence,
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

    /// A walk that delivers nothing of the topic's own log.
    pub(super) fn start_walk_for_loss(&mut self, key: TopicKey, now: Duration) {
        let last = self.topics.get(key).log.last();
        self.start_walk(key, last, now);
    }

    /// Starts a walk of every topic, in the slices to come.
    pub(super) fn start_sweep(&mut self) {
        self.sweep.again = true;
    }

    fn continue_sweep(&mut self, now: Duration) {
        for _ in 0..PLACES_PER_SLICE {
            if self.sweep.is_over() || self.walks.len() >= SWEPT_WALKS_MAX {
                return;
            }
            if self.sweep.next >= self.sweep.end {
                self.sweep = Sweep { next: 0, end: self.topics.places(), again: false };
                continue;
            }
            let key = TopicKey(self.sweep.next as u32);
            self.sweep.next += 1;
            if self.topics.try_get(key).is_some() {
                self.start_walk_for_loss(key, now);
            }
        }
    }

    /// Takes up to `subscribers_max` subscribers that are to be visited now; topics take turns. `None`: no subscriber
    /// for now, though a sweep may find more ([`Hub::is_walking`]).
    pub fn next_slice(&mut self, subscribers_max: usize, now: Duration, slice: &mut Vec<Subscriber>) -> Option<Slice> {
        slice.clear();
        self.continue_sweep(now);
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
        } else if entry.subscribers.is_empty() {
            self.topics.note_unused(topic);
        }
        Some(Slice { topic, started_at, ends_walk })
    }

    /// The topic of `slice` had more than one visit can send: its subscribers received events only up to `through`, and
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

    /// What appending a frame to the log of `topic` would forget there, by the bounds of the topic.
    pub fn pressure_on_topic(&self, topic: TopicKey, frame_bytes: usize) -> Option<Pressure> {
        let TopicEntry { log, limits, .. } = self.topics.get(topic);
        let events = (log.len() + 1).saturating_sub(limits.events_max);
        let bytes = (log.bytes() + frame_bytes + 2 * ENTRY_OVERHEAD_BYTES).saturating_sub(limits.bytes_max);
        if events == 0 && bytes == 0 {
            return None;
        }
        log.newest_of_oldest(events, bytes).map(|through| Pressure { topic, through })
    }

    /// What it would forget by the bound over all topics, which evicts the oldest entries of all: each topic once.
    pub fn pressures_on_all(&self, frame_bytes: usize) -> Vec<Pressure> {
        let needed = self.bytes_total() + frame_bytes + 2 * ENTRY_OVERHEAD_BYTES;
        let mut bytes = needed.saturating_sub(self.limits.history_bytes_total_max);
        let mut pressures: Vec<Pressure> = Vec::new();
        if bytes == 0 {
            return pressures;
        }
        let mut oldest = self.oldest.in_order().peekable();
        // Of each topic that forgets an entry already, the next one: its sequence, its topic's place in `pressures`, and
        // its index in the log. Most appends evict too little to need any.
        let mut next: BTreeSet<(Sequence, usize, usize)> = BTreeSet::new();
        while bytes > 0 {
            let is_in_next = match (next.first(), oldest.peek()) {
                (Some((one, ..)), Some((other, _))) => one < other,
                (one, _) => one.is_some(),
            };
            let (place, index) = if is_in_next {
                let Some((through, place, index)) = next.pop_first() else { break };
                pressures[place].through = through;
                (place, index)
            } else {
                let Some((through, topic)) = oldest.next() else { break };
                pressures.push(Pressure { topic, through });
                (pressures.len() - 1, 0)
            };
            let log = &self.topics.get(pressures[place].topic).log;
            bytes = bytes.saturating_sub(log.get(index).map_or(0, Entry::cost_bytes));
            next.extend(log.get(index + 1).filter(|_| bytes > 0).map(|entry| (entry.sequence, place, index + 1)));
        }
        pressures
    }

    /// True when a walk in progress has not yet delivered to every subscriber what would be forgotten.
    pub fn is_walk_behind(&self, pressure: Pressure) -> bool {
        let entry = self.topics.get(pressure.topic);
        entry.walk.is_some() && pressure.through > entry.walked_through
    }

    /// The newest event of a topic; the one that it forgot last if it remembers none.
    pub fn newest_of(&self, topic: TopicKey) -> Sequence {
        self.topics.get(topic).log.last()
    }

    /// Up to `subscribers_max` of a topic's subscribers, evenly spread over all of them.
    pub fn sample(&self, topic: TopicKey, subscribers_max: usize) -> impl Iterator<Item = Subscriber> {
        let subscribers = &self.topics.get(topic).subscribers;
        let step = subscribers.len().div_ceil(subscribers_max.max(1)).max(1);
        subscribers.iter().copied().step_by(step)
    }

    /// True when the run of `topic` is what a subscriber at `position` gets next, whatever other topics it has: they have
    /// nothing newer, and no loss is newer.
    pub fn has_news_only_of(&self, topic: TopicKey, subscriber: Subscriber, position: Sequence) -> bool {
        let is_quiet = |other: TopicKey| {
            let other = self.topics.get(other);
            other.log.changed_at() <= position && !other.is_own
        };
        self.losses.last().max(self.losses_forgotten_through) <= position
            && self.subscriptions.of(subscriber).iter().all(|seat| seat.topic == topic || is_quiet(seat.topic))
    }

    /// True while a subscriber is still to be visited.
    pub fn is_walking(&self) -> bool {
        !self.walks.is_empty() || !self.sweep.is_over()
    }
}
