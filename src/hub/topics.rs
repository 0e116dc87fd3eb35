//! The topics: their logs, their subscribers, and the walk in progress over them.
//!
//! A topic exists because the configuration names it, because something was published to it, or only because a
//! subscriber names it. The last kind has its own bound and is removed with its last subscriber, so that clients that
//! name arbitrary topics take neither the place nor the history of a topic in use.
//!
//! A published topic without subscribers stays while its log remembers an event, or until another topic needs its place.
//! The topic that is unused the longest is removed first, and its last sequence becomes the floor for new topics: a
//! client that resumes from before the floor gets a gap, because the hub can't know that it missed nothing. A topic whose
//! log has become empty vanishes, but its last position stays known ([`Vanished`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::{Sequence, Topic};
use crate::hub::keys::{Subscriber, TopicKey};
use crate::hub::log::TopicLog;
use crate::hub::places::Places;
use crate::hub::rules::{Rules, TopicLimits};
use crate::hub::vanished::Vanished;
use crate::hub::walk::Walk;

/// How many unused topics are examined for one without recent events, before any is taken.
const LOOKS_MAX: usize = 8;

/// Topics that do not exist whose forgotten losses are kept individually; with more, every new topic counts as touched.
const ABSENT_MAX: usize = 10_000;

/// Tables up to this size keep their memory.
const KEPT_MAX: usize = 1024;

/// Why a topic exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration names it. It is never removed, and counts against no bound.
    Reserved,
    /// Something was published to it.
    Published,
    /// A subscriber names it, and nothing was published to it.
    Subscribed,
}

#[derive(Debug)]
pub(super) struct TopicEntry {
    pub(super) name: Topic,
    pub(super) log: TopicLog,
    pub(super) limits: Arc<TopicLimits>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) walk: Option<Walk>,
    /// Every subscriber has been visited since the event at this position was appended.
    pub(super) walked_through: Sequence,
    origin: Origin,
    /// Set while it is in the queue of unused topics.
    queued: Option<Queued>,
    /// Its position was among those of vanished topics.
    was_recorded: bool,
    /// It is among the topics that may vanish.
    may_vanish: bool,
    /// It is the server's own: its subscribers are counted apart.
    pub(super) is_own: bool,
}

/// A topic's place in the queue of unused topics.
#[derive(Clone, Copy, Debug)]
struct Queued {
    number: u64,
    /// The last sequence it had when it was queued.
    last: Sequence,
}

#[derive(Debug)]
pub(super) struct Topics {
    entries: Places<TopicEntry>,
    names: HashMap<Topic, TopicKey>,
    /// Published topics without subscribers, each with its number in the queue. A topic that vanished or was removed has none.
    unused: VecDeque<(TopicKey, u64)>,
    /// How many have vanished since the last time that the hub was asked.
    vanished_lately: usize,
    /// The next number in that queue, and how many topics have one.
    next_number: u64,
    queued: usize,
    /// Topics whose last event may be forgotten, and that may have no subscriber.
    may_vanish: Vec<TopicKey>,
    vanished: Vanished,
    topics_max: usize,
    pub(super) rules: Rules,
    /// Names in the configuration: there is always a place for them.
    reserved_names: HashSet<Topic>,
    reserved: usize,
    subscribed: usize,
    /// The same of the hubs of all loops together: they share one bound.
    subscribed_in_all: Arc<AtomicUsize>,
    floor: Sequence,
    /// The newest forgotten loss of topics that don't exist.
    losses_of_absent: HashMap<Topic, Sequence>,
    /// The newest of those that are no longer known by topic.
    absent_losses_through: Sequence,
}

impl Topics {
    pub(super) fn new(topics_max: usize, rules: Rules) -> Topics {
        Topics {
            entries: Places::new(),
            names: HashMap::new(),
            unused: VecDeque::new(),
            vanished_lately: 0,
            next_number: 0,
            queued: 0,
            may_vanish: Vec::new(),
            vanished: Vanished::new(topics_max),
            topics_max,
            rules,
            reserved_names: HashSet::new(),
            reserved: 0,
            subscribed: 0,
            subscribed_in_all: Arc::default(),
            floor: Sequence::ZERO,
            losses_of_absent: HashMap::new(),
            absent_losses_through: Sequence::ZERO,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<TopicKey> {
        self.names.get(name).copied()
    }

    pub(super) fn get(&self, key: TopicKey) -> &TopicEntry {
        self.try_get(key).expect("a key is of a topic that exists")
    }

    pub(super) fn get_mut(&mut self, key: TopicKey) -> &mut TopicEntry {
        self.entries.get_mut(key.0 as usize).expect("a key is of a topic that exists")
    }

    /// The topic at a place, if there is one.
    pub(super) fn try_get(&self, key: TopicKey) -> Option<&TopicEntry> {
        self.entries.get(key.0 as usize)
    }

    /// How many places the table has, including free ones: every key is below.
    pub(super) fn places(&self) -> usize {
        self.entries.end()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TopicKey, &TopicEntry)> {
        self.entries.iter().map(|(place, entry)| (TopicKey(place as u32), entry))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Counts topics that only subscribers name together with other hubs. Called before there are any.
    pub(super) fn share(&mut self, subscribed_in_all: Arc<AtomicUsize>) {
        self.subscribed_in_all = subscribed_in_all;
    }

    fn forget_subscribed(&mut self) {
        self.subscribed -= 1;
        self.subscribed_in_all.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many only subscribers name.
    pub(super) fn subscribed(&self) -> usize {
        self.subscribed
    }

    /// Reserves a place for a topic.
    pub(super) fn reserve(&mut self, name: &Topic) {
        self.reserved_names.insert(name.clone());
    }

    /// True when publishing to a topic that does not exist yet takes another one's place.
    pub(super) fn is_full_for(&self, name: &str) -> bool {
        self.published() >= self.topics_max && !self.reserved_names.contains(name)
    }

    /// True when a subscriber may name a topic that does not exist yet.
    pub(super) fn has_room_for_subscriber_of(&self, name: &str) -> bool {
        let subscribed = self.subscribed_in_all.load(Ordering::Relaxed);
        let is_within =
            subscribed < self.topics_max && self.published() + subscribed < self.topics_max.saturating_mul(2);
        is_within || self.reserved_names.contains(name)
    }

    fn published(&self) -> usize {
        self.entries.len() - self.reserved - self.subscribed
    }

    /// True when some published topic has no subscriber.
    pub(super) fn has_unused(&mut self) -> bool {
        while let Some(&place) = self.unused.front() {
            if self.is_queued(place) {
                if self.get(place.0).subscribers.is_empty() {
                    return true;
                }
                // It is queued again when its last subscriber leaves.
                self.leave_queue(place.0);
            }
            self.unused.pop_front();
        }
        false
    }

    /// True unless the topic that stood at this place of the queue has left it.
    fn is_queued(&self, (key, number): (TopicKey, u64)) -> bool {
        self.try_get(key).and_then(|entry| entry.queued).is_some_and(|queued| queued.number == number)
    }

    fn leave_queue(&mut self, key: TopicKey) -> Option<Queued> {
        let queued = self.get_mut(key).queued.take();
        self.queued -= usize::from(queued.is_some());
        queued
    }

    /// Records that the loss log has forgotten a loss of this topic.
    pub(super) fn note_forgotten_loss(&mut self, name: &Topic, position: Sequence) {
        match self.names.get(name.as_str()) {
            Some(key) => self.get_mut(*key).log.note_forgotten_loss(position),
            None => self.note_loss_of_absent(name, position),
        }
    }

    fn note_loss_of_absent(&mut self, name: &Topic, position: Sequence) {
        if self.losses_of_absent.len() >= ABSENT_MAX {
            let newest = self.losses_of_absent.drain().map(|(_, position)| position).max().unwrap_or_default();
            self.raise_floor(newest);
            self.absent_losses_through = self.absent_losses_through.max(newest);
        }
        self.losses_of_absent.insert(name.clone(), position);
    }

    /// New topics start at `position` or later: a client that names an earlier one gets a gap.
    pub(super) fn raise_floor(&mut self, position: Sequence) {
        self.floor = self.floor.max(position);
    }

    /// An event of a topic that doesn't exist found no room.
    pub(super) fn note_unlogged(&mut self, name: &Topic, position: Sequence) {
        self.vanished.take(name);
        self.raise_floor(position);
    }

    /// Every topic of the bus, now and later, lacks what came at or before `position`.
    pub(super) fn begin_after(&mut self, position: Sequence) {
        let newest = self.vanished.clear();
        self.raise_floor(position.max(newest));
        let of_bus = self.entries.iter_mut().filter(|entry| !entry.name.is_reserved());
        of_bus.for_each(|entry| entry.log.begin_after(position));
    }

    pub(super) fn insert(&mut self, name: &Topic, origin: Origin) -> TopicKey {
        let last = self.vanished.take(name);
        let origin = if self.reserved_names.contains(name) { Origin::Reserved } else { origin };
        let mut log = TopicLog::new(last.unwrap_or(self.floor));
        if last.is_some() && self.absent_losses_through > Sequence::ZERO {
            log.note_forgotten_loss(self.absent_losses_through);
        }
        if let Some(position) = self.losses_of_absent.remove(name.as_str()) {
            log.note_forgotten_loss(position);
        }
        let entry = TopicEntry {
            name: name.clone(),
            log,
            limits: self.rules.of(name),
            subscribers: Vec::new(),
            walk: None,
            walked_through: Sequence::ZERO,
            origin,
            queued: None,
            was_recorded: last.is_some(),
            may_vanish: false,
            is_own: name.is_reserved(),
        };
        let key = TopicKey(self.entries.insert(entry) as u32);
        self.names.insert(name.clone(), key);
        match origin {
            Origin::Reserved => self.reserved += 1,
            Origin::Published => self.queue_unused(key),
            Origin::Subscribed => {
                self.subscribed += 1;
                self.subscribed_in_all.fetch_add(1, Ordering::Relaxed);
            }
        }
        key
    }

    /// Something is published to it: it counts as a published topic now.
    pub(super) fn note_published(&mut self, key: TopicKey) {
        let entry = self.get_mut(key);
        if entry.origin == Origin::Subscribed {
            entry.origin = Origin::Published;
            self.forget_subscribed();
        }
    }

    /// Its last subscriber has left: it may give up its place to another topic, or is removed.
    pub(super) fn note_unused(&mut self, key: TopicKey) {
        let entry = self.get(key);
        match entry.origin {
            Origin::Reserved => {}
            Origin::Published => {
                self.queue_unused(key);
                self.note_may_vanish(key);
            }
            // The end of its walk calls this again.
            Origin::Subscribed if entry.walk.is_some() => {}
            // Something was published to it before it vanished the last time: it leaves a record again.
            Origin::Subscribed if entry.was_recorded => {
                self.forget_subscribed();
                self.remove_and_record(key);
            }
            Origin::Subscribed => {
                self.forget_subscribed();
                self.remove_and_raise_floor(key);
            }
        }
    }

    fn queue_unused(&mut self, key: TopicKey) {
        let queued = Queued { number: self.next_number, last: self.get(key).log.last() };
        if self.get(key).queued.is_none() {
            self.get_mut(key).queued = Some(queued);
            self.unused.push_back((key, queued.number));
            self.next_number += 1;
            self.queued += 1;
        }
    }

    /// Removes the topic that is unused the longest; the caller disposes of what its log still held.
    pub(super) fn take_unused(&mut self) -> Option<(TopicKey, TopicEntry)> {
        let mut looks = 0;
        // Twice around: one must be found even if there are few topics, all published to lately.
        for _ in 0..2 * self.unused.len() {
            let place = self.unused.pop_front()?;
            if !self.is_queued(place) {
                continue;
            }
            let key = place.0;
            let queued = self.leave_queue(key).expect("what stands in the queue knows it");
            let entry = self.get(key);
            if !entry.subscribers.is_empty() {
                continue; // back in the queue when its last subscriber leaves
            }
            if entry.walk.is_some() {
                self.queue_unused(key); // its walk ends this tick
                continue;
            }
            looks += 1;
            if queued.last < entry.log.last() && looks < LOOKS_MAX {
                self.queue_unused(key);
                continue;
            }
            return Some((
                key,
                if entry.is_forgotten() { self.remove_and_record(key) } else { self.remove_and_raise_floor(key) },
            ));
        }
        None
    }

    // ---- topics that vanish ----

    /// Its log may have become empty, or its last subscriber has left.
    pub(super) fn note_may_vanish(&mut self, key: TopicKey) {
        let entry = self.get_mut(key);
        if entry.is_forgotten() && !entry.may_vanish {
            entry.may_vanish = true;
            self.may_vanish.push(key);
        }
    }

    /// Removes topics of which nothing is remembered, and that have no subscriber: at most as many as given. False: there
    /// may be more.
    pub(super) fn remove_forgotten(&mut self, topics_max: usize) -> bool {
        for _ in 0..topics_max {
            let Some(key) = self.may_vanish.pop() else { break };
            let Some(entry) = self.entries.get_mut(key.0 as usize) else { continue };
            entry.may_vanish = false;
            if entry.is_forgotten() {
                self.leave_queue(key);
                self.remove_and_record(key);
            }
        }
        self.shrink();
        self.may_vanish.is_empty()
    }

    pub(super) fn take_vanished(&mut self) -> usize {
        std::mem::take(&mut self.vanished_lately)
    }

    /// Frees the memory that vanished topics took.
    fn shrink(&mut self) {
        if self.unused.len() > KEPT_MAX && self.unused.len() > 4 * self.queued {
            let mut unused = std::mem::take(&mut self.unused);
            unused.retain(|place| self.is_queued(*place));
            unused.shrink_to(2 * self.queued);
            self.unused = unused;
        }
        if self.names.capacity() > KEPT_MAX && self.names.capacity() > 4 * self.names.len() {
            self.names.shrink_to(2 * self.names.len());
        }
        if self.may_vanish.is_empty() {
            self.may_vanish = Vec::new();
        }
    }

    /// Removes a topic of which its last position is enough.
    fn remove_and_record(&mut self, key: TopicKey) -> TopicEntry {
        let entry = self.remove(key);
        self.vanished_lately += 1;
        let position = entry.log.changed_at();
        if let Some(oldest) = self.vanished.insert(&entry.name, position) {
            self.raise_floor(oldest);
        }
        entry
    }

    /// Removes a topic whose position is not recorded.
    fn remove_and_raise_floor(&mut self, key: TopicKey) -> TopicEntry {
        let entry = self.remove(key);
        self.raise_floor(entry.log.last());
        if entry.log.loss_forgotten_at() > self.floor {
            self.note_loss_of_absent(&entry.name, entry.log.loss_forgotten_at());
        }
        entry
    }

    fn remove(&mut self, key: TopicKey) -> TopicEntry {
        let entry = self.entries.remove(key.0 as usize).expect("a key is of a topic that exists");
        self.names.remove(&entry.name);
        entry
    }
}

impl TopicEntry {
    /// True when nothing needs it but clients that return, for which its last position is enough. An id of a publisher's,
    /// or of another node's, is no position: the last event's must stay known.
    fn is_forgotten(&self) -> bool {
        let is_unused = self.subscribers.is_empty() && self.walk.is_none();
        self.origin == Origin::Published && is_unused && self.log.is_forgotten()
    }
}
