//! The hub, pure: topics, subscriptions, topic logs, walks, replay and gaps. Decides who receives what.
//!
//! ```text
//!  append ──▶ topic log ──▶ walk over the topic's subscribers, in slices ──▶ run for a subscriber's position
//! ```
//!
//! Invariants:
//! - Positions are sequences. A subscriber at position p has had everything at or before p of its topics.
//!   [`Hub::run_for`] gives what it gets next: everything after p across its topics, and the losses that touch them, in
//!   order. A second visit finds nothing.
//! - A log evicts by bytes, age and, if so configured, count; never by what subscribers have read.
//!   [`Hub::pressure_on_topic`] returns what an append would evict, so that the loop can wait for subscribers that keep
//!   reading.
//! - What is missing has a place, too: for each topic the newest position at or before which something is gone. A
//!   subscriber before such a place is due a gap there ([`Hub::missed_after`]).
//!
//! Absent: sockets, time (passed in as the time since the start), formatting, and frames that are written only in part.

mod archive;
mod busiest;
mod forget;
mod forgotten_ids;
mod holds;
mod ids;
mod keys;
mod log;
mod losses;
mod oldest;
mod places;
mod replay;
mod report;
mod rules;
mod run;
mod subscriptions;
#[cfg(test)]
mod tests;
mod topics;
mod vanished;
mod walk;

use std::collections::VecDeque;
use std::time::Duration;

pub use forget::EvictionReason;
pub use holds::HoldChange;
pub use keys::{Subscriber, TopicKey};
pub use replay::{MissedGap, MissedReason, Owed, Replay, Start, StartPoint};
pub use report::TopicInfo;
pub use rules::{TopicPace, TopicRule};
pub use run::{Run, RunLimits};
pub use walk::{Pressure, Slice};

use crate::event::{Broadcast, EventId, Frame, RunName, Sequence, Topic};
use forgotten_ids::ForgottenIds;
use holds::Holds;
use ids::{Following, Ids};
use log::Entry;
use losses::{Loss, LossLog, LossScope};
use oldest::Oldest;
use rules::{Rules, TopicLimits};
use subscriptions::{Seat, Subscriptions};
use topics::{Origin, TopicEntry, Topics};
use walk::Sweep;

/// The bounds of what the hub remembers, for topics without a rule of their own ([`TopicRule`]). Together with the number
/// of subscribers, they bound its memory.
#[derive(Clone, Debug)]
pub struct HubLimits {
    /// Topics that were published to. As many again may exist only because subscribers name them.
    pub topics_max: usize,
    /// Events that one topic remembers; none: as many as its bytes allow.
    pub history_events_max: Option<usize>,
    /// Bytes that one topic remembers: frames, ids and bookkeeping.
    pub history_bytes_max: usize,
    /// Bytes that all topics remember, including evicted frames that are written to a client only in part.
    pub history_bytes_total_max: usize,
    /// How long an event is remembered.
    pub history_age_max: Duration,
    /// Events that one replay brings at most.
    pub replay_events_max: Option<usize>,
    /// Entries of a durable bus that are fetched for one subscriber at most.
    pub fetch_entries_max: u64,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits {
            topics_max: 100_000,
            history_events_max: None,
            history_bytes_max: 16 << 20,
            history_bytes_total_max: 64 << 20,
            history_age_max: Duration::from_secs(300),
            replay_events_max: None,
            fetch_entries_max: 0,
        }
    }
}

/// The result of appending a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in its topic's log, and on its way if the topic has subscribers.
    Logged,
    /// The topic still remembers an event of this id.
    Duplicate,
    /// There is no room for another published topic, and each existing one has subscribers.
    NoTopic,
}

/// There is no room for another topic, and each existing one has subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many topics as are allowed have subscribers already")]
pub struct TopicsExhausted;

/// The hub. See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    run: RunName,
    ids: Ids,
    limits: HubLimits,
    topics: Topics,
    subscriptions: Subscriptions,
    walks: VecDeque<TopicKey>,
    sweep: Sweep,
    losses: LossLog,
    /// Losses that touch every topic are forgotten through here.
    losses_forgotten_through: Sequence,
    forgotten_ids: ForgottenIds,
    oldest: Oldest,
    head: Sequence,
    /// Bytes of all logs.
    bytes: usize,
    entries: usize,
    /// Frames that are in no log any more, but half written to someone.
    holds: Holds,
    evictions: [u64; EvictionReason::ALL.len()],
    busiest: busiest::Busiest,
    /// Older events that were fetched from a durable bus.
    archive: archive::Archive,
}

impl Hub {
    /// An empty hub of a run, which gives out the order; it resolves the ids of this run.
    pub fn new(run: RunName, limits: HubLimits) -> Hub {
        Hub::with_ids(run, Ids::Run { has_peers: false }, limits)
    }

    /// The same beside other nodes, which get the same events in orders of their own.
    pub fn with_peers(run: RunName, limits: HubLimits) -> Hub {
        Hub::with_ids(run, Ids::Run { has_peers: true }, limits)
    }

    /// An empty hub that follows the order of a bus; it resolves the positions of the epochs that it learns.
    pub fn of_bus(run: RunName, limits: HubLimits) -> Hub {
        Hub::with_ids(run, Ids::Bus(Following::default()), limits)
    }

    fn with_ids(run: RunName, ids: Ids, limits: HubLimits) -> Hub {
        Hub {
            run,
            ids,
            topics: Topics::new(limits.topics_max, Rules::new(&limits, &[])),
            oldest: Oldest::new(limits.history_age_max),
            limits,
            subscriptions: Subscriptions::default(),
            walks: VecDeque::new(),
            sweep: Sweep::default(),
            losses: LossLog::default(),
            losses_forgotten_through: Sequence::ZERO,
            forgotten_ids: ForgottenIds::default(),
            head: Sequence::ZERO,
            bytes: 0,
            entries: 0,
            holds: Holds::default(),
            evictions: [0; EvictionReason::ALL.len()],
            busiest: busiest::Busiest::default(),
            archive: archive::Archive::default(),
        }
    }

    /// The newest position.
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// Its bounds.
    pub fn limits(&self) -> &HubLimits {
        &self.limits
    }

    /// Reserves a place for a topic that the configuration names, however many others there are.
    pub fn reserve(&mut self, topic: &Topic) {
        self.topics.reserve(topic);
    }

    // ---- what comes in ----

    /// A topic's place, if it exists.
    pub fn locate(&self, topic: &str) -> Option<TopicKey> {
        self.topics.find(topic)
    }

    /// Appends a broadcast to its topic's log and starts, or prolongs, the walk over its subscribers.
    pub fn append(&mut self, broadcast: Broadcast, now: Duration) -> Appended {
        let key = self.locate(broadcast.topic.as_str());
        self.append_at(key, broadcast, now)
    }

    /// The same for a topic whose place is known, or that is known not to exist.
    pub fn append_at(&mut self, key: Option<TopicKey>, broadcast: Broadcast, now: Duration) -> Appended {
        let Broadcast { sequence, topic, naming, frame } = broadcast;
        self.advance(sequence);
        let key = match key {
            Some(key) => key,
            None => match self.insert_published(&topic) {
                Ok(key) => key,
                Err(TopicsExhausted) => {
                    // A client that resumes this topic later must get a gap, because it misses this event, or has it from
                    // another node.
                    self.topics.note_unlogged(&topic, sequence);
                    self.forgotten_ids.add(&topic, &naming);
                    return Appended::NoTopic;
                }
            },
        };
        let alias = naming.alias();
        if alias.is_some_and(|alias| self.topics.get(key).log.find_alias(alias.as_str()).is_some()) {
            return Appended::Duplicate;
        }
        self.topics.note_published(key);
        self.log(key, Entry { sequence, naming, frame, appended_at: now });
        Appended::Logged
    }

    /// Records a loss in `topics`, or in all topics. Each subscriber that it touches receives `frame` once.
    pub fn append_loss(&mut self, sequence: Sequence, topics: Option<&[Topic]>, frame: Frame, now: Duration) {
        self.advance(sequence);
        let scope = LossScope::new(topics);
        match &scope {
            LossScope::All => self.start_sweep(),
            LossScope::Topics(topics) => {
                let keys: Vec<_> = topics.iter().filter_map(|topic| self.topics.find(topic.as_str())).collect();
                keys.into_iter().for_each(|key| self.start_walk_for_loss(key, now));
            }
        }
        self.losses.append(Loss { sequence, scope, frame, announced_at: now });
        while let Some(surplus) = self.losses.take_surplus() {
            self.forget_loss(surplus);
        }
    }

    /// The whole id of the event that a publisher publishes again, while its topic remembers it. `id` is the publisher's
    /// own, or the whole one.
    pub fn remembered(&self, topic: &str, id: &EventId) -> Option<EventId> {
        let log = &self.topics.get(self.topics.find(topic)?).log;
        let whole_id = |entry| self.whole_id_of(entry);
        let by_place = || log.find(self.run.position(id.as_str())?);
        let by_alias = || log.find_alias(id.alias().as_str());
        let has_whole_id = || by_place().or_else(by_alias).map(whole_id).filter(|whole| whole == id);
        log.find_alias(id.as_str()).map(whole_id).or_else(has_whole_id)
    }

    fn whole_id_of(&self, entry: &Entry) -> EventId {
        entry.naming.whole_id(|| self.id_of(entry.sequence))
    }

    fn advance(&mut self, sequence: Sequence) {
        debug_assert!(sequence >= self.head, "the channel keeps the order");
        self.head = sequence;
    }

    /// True when something may be published to the topic.
    pub fn has_room_for(&mut self, topic: &str) -> bool {
        self.topics.find(topic).is_some() || !self.topics.is_full_for(topic) || self.topics.has_unused()
    }

    fn insert_published(&mut self, topic: &Topic) -> Result<TopicKey, TopicsExhausted> {
        if self.topics.is_full_for(topic.as_str()) {
            let (key, vanished) = self.topics.take_unused().ok_or(TopicsExhausted)?;
            self.forget_log(key, vanished);
        }
        Ok(self.topics.insert(topic, Origin::Published))
    }

    fn find_or_insert_subscribed(&mut self, topic: &Topic) -> Result<TopicKey, TopicsExhausted> {
        match self.topics.find(topic.as_str()) {
            Some(key) => Ok(key),
            None if self.topics.has_room_for_subscriber_of(topic.as_str()) => {
                Ok(self.topics.insert(topic, Origin::Subscribed))
            }
            None => Err(TopicsExhausted),
        }
    }

    fn log(&mut self, key: TopicKey, entry: Entry) {
        let (bytes, now) = (entry.cost_bytes(), entry.appended_at);
        let topic = self.topics.get(key);
        let TopicLimits { events_max, bytes_max, .. } = *topic.limits;
        let over_events = (topic.log.len() + 1).saturating_sub(events_max);
        (0..over_events).for_each(|_| _ = self.evict_oldest_of(key, EvictionReason::Events));
        while self.topics.get(key).log.bytes() + bytes > bytes_max && self.evict_oldest_of(key, EvictionReason::Bytes) {
        }
        while self.bytes_total() + bytes > self.limits.history_bytes_total_max && self.evict_oldest_of_all() {}

        let previous = self.topics.get(key).log.last();
        self.remember(key, entry);
        self.start_walk(key, previous, now);
    }

    // ---- runs: what subscribers receive ----

    /// The run for every subscriber of only `topic` whose position is equivalent to `after`.
    pub fn run_for_topic(&self, topic: TopicKey, after: Sequence, limits: RunLimits, run: &mut Run) {
        run.clear();
        let entry = self.topics.get(topic);
        let log = &entry.log;
        let first = log.index_after(after);
        let fitted = match self.losses.last() <= after {
            true => log.after(after).all(|entry| run.push(&entry.frame, entry.sequence, limits)),
            false => self.merge(&[entry], after, self.head, limits, run),
        };
        run.finish(fitted, after, self.head);
        if !run.is_empty() {
            let before = first.checked_sub(1).and_then(|index| log.get(index));
            let before = before.map_or(log.evicted_through(), |entry| entry.sequence);
            // A loss of other topics only narrows what the run covers.
            let lowest = before.max(self.loss_forgotten_of(entry)).max(self.losses.last_through(after));
            run.cover(lowest, Sequence(run.position(0).0 - 1));
        }
    }

    /// Adds to `run` what a subscriber at `after` gets next: everything newer across its topics, in order, but
    /// nothing beyond `through`.
    pub fn run_for(
        &self,
        subscriber: Subscriber,
        after: Sequence,
        through: Sequence,
        limits: RunLimits,
        run: &mut Run,
    ) {
        let seats = self.subscriptions.of(subscriber);
        let fitted = match seats {
            [seat] if self.losses.last() <= after => {
                let entry = self.topics.get(seat.topic);
                let entries = entry.log.after(after.max(self.loss_forgotten_of(entry)));
                let mut entries = entries.take_while(|entry| entry.sequence <= through);
                entries.all(|entry| run.push(&entry.frame, entry.sequence, limits))
            }
            _ => {
                let topics: Vec<_> = self.entries_of(subscriber).collect();
                self.merge(&topics, after, through, limits, run)
            }
        };
        run.finish(fitted, after, through.min(self.head));
    }

    /// Adds the entries of several logs, and the losses that touch them, in order; false when not all of them fitted.
    /// Entries older than a forgotten loss are left out: a client that gets them would not learn of the loss before the
    /// next gap.
    fn merge(
        &self,
        topics: &[&TopicEntry],
        after: Sequence,
        through: Sequence,
        limits: RunLimits,
        run: &mut Run,
    ) -> bool {
        let first_of = |topic: &&TopicEntry| topic.log.index_after(after.max(self.loss_forgotten_of(topic)));
        let mut indexes: Vec<_> = topics.iter().map(first_of).collect();
        let touches = |loss: &&Loss| topics.iter().any(|topic| loss.scope.touches(&topic.name));
        let mut losses = self.losses.after(after).filter(touches).peekable();
        loop {
            let nexts =
                topics.iter().zip(&mut indexes).filter_map(|(topic, index)| Some((topic.log.get(*index)?, index)));
            let next = nexts.min_by_key(|(entry, _)| entry.sequence);
            let before = next.as_ref().map_or(through, |(entry, _)| entry.sequence.min(through));
            if let Some(loss) = losses.next_if(|loss| loss.sequence <= before) {
                if !run.push(&loss.frame, loss.sequence, limits) {
                    return false;
                }
                continue;
            }
            let Some((entry, index)) = next.filter(|(entry, _)| entry.sequence <= through) else { return true };
            if !run.push(&entry.frame, entry.sequence, limits) {
                return false;
            }
            *index += 1;
        }
    }

    // ---- subscribers that come and go ----

    /// Gives `subscriber` a seat in each of `topics` (no two the same), or in none.
    pub fn subscribe(&mut self, subscriber: Subscriber, topics: &[Topic]) -> Result<(), TopicsExhausted> {
        let mut seats = Vec::with_capacity(topics.len());
        for topic in topics {
            match self.find_or_insert_subscribed(topic) {
                Ok(topic) => {
                    // Seated at once: a topic without a subscriber could lose its place to the next one.
                    let list = &mut self.topics.get_mut(topic).subscribers;
                    seats.push(Seat { topic, index: list.len() as u32 });
                    list.push(subscriber);
                }
                Err(exhausted) => {
                    self.subscriptions.seat(subscriber, seats);
                    self.unsubscribe(subscriber);
                    return Err(exhausted);
                }
            }
        }
        self.subscriptions.seat(subscriber, seats);
        Ok(())
    }

    /// Removes its seats. Walks in progress still visit all other subscribers.
    pub fn unsubscribe(&mut self, subscriber: Subscriber) {
        for Seat { topic, index } in self.subscriptions.leave(subscriber) {
            let list = &mut self.topics.get_mut(topic).subscribers;
            list.swap_remove(index as usize);
            match list.get(index as usize) {
                Some(moved) => self.subscriptions.moved(*moved, topic, index),
                None if list.is_empty() => {
                    *list = Vec::new();
                    self.topics.note_unused(topic);
                }
                None => {}
            }
        }
    }

    fn entries_of(&self, subscriber: Subscriber) -> impl Iterator<Item = &TopicEntry> {
        self.subscriptions.of(subscriber).iter().map(|seat| self.topics.get(seat.topic))
    }
}
