//! Rules for topics: what applies to the topics that a pattern matches, in place of what applies to all. Pure.
//!
//! A topic's limits are found once, when it is created, and once more when the rules change ([`Hub::apply_rules`]). Topics
//! of the same rule share them. The server's own topics follow none, and remember little.

use std::sync::Arc;
use std::time::Duration;

use super::forget::EvictionReason;
use super::keys::{Subscriber, TopicKey};
use super::{Hub, HubLimits};
use crate::event::{Topic, glob};

/// Patterns that are compared in one call, and entries that are evicted: about 2 ms.
const COMPARISONS_MAX: usize = 1 << 15;
const EVICTIONS_MAX: usize = 8192;
/// Events that a topic of the server's own remembers at most, for those of its subscribers that are behind.
const OWN_EVENTS_MAX: usize = 60;

/// What applies to some topics. Where it says nothing, what applies to all of them does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRule {
    /// A topic's name, or a pattern in Redis's language.
    pub pattern: String,
    /// As [`HubLimits::history_events_max`].
    pub history_events_max: Option<usize>,
    /// As [`HubLimits::history_bytes_max`].
    pub history_bytes_max: Option<usize>,
    /// As [`HubLimits::history_age_max`].
    pub history_age_max: Option<Duration>,
    /// How it is delivered.
    pub pace: TopicPace,
}

/// How a topic is delivered, unless a client asks for less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicPace {
    /// The shortest time between two deliveries to one subscriber.
    pub interval_floor: Duration,
    /// Only the newest event matters.
    pub latest: bool,
}

/// The limits of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicLimits {
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
    pub(super) age_max: Duration,
    pub(super) pace: TopicPace,
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Rules {
    of_all: Arc<TopicLimits>,
    of_own: Arc<TopicLimits>,
    /// Patterns, the first that matches counts.
    rules: Vec<(String, Arc<TopicLimits>)>,
    /// The next place to look at since the rules have changed; none: every topic follows them.
    next_place: Option<usize>,
}

impl Rules {
    pub(super) fn new(limits: &HubLimits, rules: &[TopicRule]) -> Rules {
        let of_all = TopicLimits {
            events_max: limits.history_events_max.unwrap_or(usize::MAX),
            bytes_max: limits.history_bytes_max,
            age_max: limits.history_age_max,
            pace: TopicPace::default(),
        };
        let of_rule = |rule: &TopicRule| TopicLimits {
            events_max: rule.history_events_max.unwrap_or(of_all.events_max),
            bytes_max: rule.history_bytes_max.unwrap_or(of_all.bytes_max),
            age_max: rule.history_age_max.unwrap_or(of_all.age_max),
            pace: rule.pace,
        };
        let of_own = TopicLimits { events_max: of_all.events_max.min(OWN_EVENTS_MAX), ..of_all };
        Rules {
            of_all: Arc::new(of_all),
            of_own: Arc::new(of_own),
            rules: rules.iter().map(|rule| (rule.pattern.clone(), Arc::new(of_rule(rule)))).collect(),
            next_place: None,
        }
    }

    pub(super) fn of(&self, topic: &Topic) -> Arc<TopicLimits> {
        if topic.is_reserved() {
            return Arc::clone(&self.of_own);
        }
        let matches = |(pattern, _): &&(String, _)| glob::matches(pattern.as_bytes(), topic.as_str().as_bytes());
        let rule = self.rules.iter().find(matches);
        Arc::clone(rule.map_or(&self.of_all, |(_, limits)| limits))
    }

    /// The longest time for which any topic remembers an event.
    pub(super) fn age_max(&self) -> Duration {
        self.rules.iter().map(|(_, limits)| limits.age_max).fold(self.of_all.age_max, Duration::max)
    }
}

impl Hub {
    /// Puts rules in force: for new topics at once, for those that exist with [`Hub::apply_rules`].
    pub fn set_rules(&mut self, rules: &[TopicRule]) {
        let next_place = (self.topics.len() > 0).then_some(0);
        self.topics.rules = Rules { next_place, ..Rules::new(&self.limits, rules) };
    }

    /// Applies new rules to the topics that exist, some in each call, and evicts what exceeds the new limits. False: there
    /// are more. Call it before [`Hub::age`].
    pub fn apply_rules(&mut self) -> bool {
        let Some(first) = self.topics.rules.next_place else { return true };
        let mut evictions = EVICTIONS_MAX;
        let mut place = first;
        let end = first + COMPARISONS_MAX / (1 + self.topics.rules.rules.len());
        while place < self.topics.places().min(end) {
            let key = TopicKey(place as u32);
            if self.topics.try_get(key).is_some() {
                self.apply_rule(key);
                if !self.evict_surplus(key, &mut evictions) {
                    break;
                }
            }
            place += 1;
        }
        let has_more = place < self.topics.places();
        self.topics.rules.next_place = has_more.then_some(place);
        !has_more
    }

    fn apply_rule(&mut self, key: TopicKey) {
        let limits = self.topics.rules.of(&self.topics.get(key).name);
        let entry = self.topics.get_mut(key);
        let former = std::mem::replace(&mut entry.limits, limits);
        if let Some(oldest) = entry.log.oldest() {
            self.oldest.replace(former.age_max, (oldest.sequence, key), None);
            self.oldest.insert(entry.limits.age_max, (oldest.sequence, key));
        }
    }

    /// Evicts what exceeds a topic's limits, except what a walk has still to deliver. False: there is more.
    fn evict_surplus(&mut self, key: TopicKey, evictions: &mut usize) -> bool {
        while *evictions > 0 {
            let entry = self.topics.get(key);
            let reason = match &entry.log {
                log if log.len() > entry.limits.events_max => EvictionReason::Events,
                log if log.bytes() > entry.limits.bytes_max => EvictionReason::Bytes,
                _ => return true,
            };
            let is_delivered = |sequence| entry.walk.is_none() || sequence <= entry.walked_through;
            if !entry.log.oldest().is_some_and(|oldest| is_delivered(oldest.sequence)) {
                return true; // the next append evicts it
            }
            self.evict_oldest_of(key, reason);
            *evictions -= 1;
        }
        false
    }

    /// How the topics of a subscriber are delivered to it: with the longest of their intervals, and only the newest events
    /// if that is so for each of them.
    pub fn pace_of(&self, subscriber: Subscriber) -> TopicPace {
        let paces = || self.entries_of(subscriber).map(|entry| entry.limits.pace);
        TopicPace {
            interval_floor: paces().map(|pace| pace.interval_floor).max().unwrap_or_default(),
            latest: paces().all(|pace| pace.latest),
        }
    }
}
