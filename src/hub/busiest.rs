//! The topics with the most subscribers, found without examining all topics at once.
//!
//! A small number of topics is examined on request. Of a large number, each call examines a part, and those with the
//! most subscribers so far are kept: with 100,000 topics and a call each second, a topic that grows is found within 25
//! seconds.

use super::Hub;
use super::keys::TopicKey;
use super::report::TopicInfo;
use super::topics::Topics;

/// Places examined in one turn of the loop, a few nanoseconds each.
const LOOKS_MAX: usize = 4096;
/// Topics kept.
pub(super) const KEPT_MAX: usize = 20;

/// The busiest topics so far, if there are too many topics to examine at once.
#[derive(Debug, Default)]
pub(super) struct Busiest {
    kept: Vec<TopicKey>,
    next_place: usize,
}

impl Busiest {
    fn look(&mut self, topics: &Topics) {
        if topics.places() <= LOOKS_MAX {
            *self = Busiest::default();
            return;
        }
        if self.next_place >= topics.places() {
            self.next_place = 0;
        }
        let end = topics.places().min(self.next_place + LOOKS_MAX);
        let kept = std::mem::take(&mut self.kept);
        // The numbers of subscribers have changed since, and a new topic may be at the place of a removed one.
        let known = kept.into_iter().filter(|key| !(self.next_place..end).contains(&(key.0 as usize)));
        let looked_at = (self.next_place..end).map(key_at);
        self.kept = most_subscribed(topics, known.chain(looked_at), KEPT_MAX);
        self.next_place = end;
    }
}

fn key_at(place: usize) -> TopicKey {
    TopicKey(place as u32)
}

/// The existing topics among these with the most subscribers, most first.
fn most_subscribed(topics: &Topics, keys: impl Iterator<Item = TopicKey>, count_max: usize) -> Vec<TopicKey> {
    let mut most: Vec<(usize, TopicKey)> = Vec::with_capacity(count_max + 1);
    for key in keys {
        let Some(entry) = topics.try_get(key) else { continue };
        let subscribers = entry.subscribers.len();
        let place = most.partition_point(|(others, _)| *others >= subscribers);
        if place < count_max {
            most.insert(place, (subscribers, key));
            most.truncate(count_max);
        }
    }
    most.into_iter().map(|(_, key)| key).collect()
}

impl Hub {
    /// Examines the next part of the topics, if there are too many to examine at once. To be called at intervals.
    pub fn look_for_busiest(&mut self) {
        self.busiest.look(&self.topics);
    }

    /// The topics with the most subscribers, most first; of many topics, those found so far, and at most 20.
    pub fn busiest_topics(&self, count_max: usize) -> Vec<TopicInfo> {
        let places = self.topics.places();
        let busiest = match places <= LOOKS_MAX {
            true => most_subscribed(&self.topics, (0..places).map(key_at), count_max),
            false => most_subscribed(&self.topics, self.busiest.kept.iter().copied(), count_max),
        };
        busiest.into_iter().map(|key| self.info(self.topics.get(key))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::event::{Broadcast, Naming, RunName, Sequence, Topic};
    use crate::hub::{HubLimits, Subscriber};

    fn hub_of(topics: usize) -> Hub {
        let run = RunName::from_bits(1);
        let limits = HubLimits { topics_max: 3 * LOOKS_MAX, ..HubLimits::default() };
        let mut hub = Hub::new(run, limits);
        for n in 0..topics {
            let sequence = Sequence(n as u64 + 1);
            let topic = Topic::new(&n.to_string()).unwrap();
            let frame = b"x\n\n".to_vec().into();
            hub.append(Broadcast { sequence, topic, naming: Naming::Here(None), frame }, Duration::ZERO);
        }
        hub
    }

    fn subscribe(hub: &mut Hub, slots: std::ops::Range<u32>, topic: usize) {
        let topic = Topic::new(&topic.to_string()).unwrap();
        slots.for_each(|slot| hub.subscribe(Subscriber(slot), std::slice::from_ref(&topic)).unwrap());
    }

    fn busiest(hub: &Hub) -> Vec<(String, usize)> {
        hub.busiest_topics(3).iter().map(|info| (info.name.to_string(), info.subscribers)).collect()
    }

    #[test]
    fn the_busiest_of_few_topics_are_found_in_one_step() {
        let mut hub = hub_of(100);
        subscribe(&mut hub, 0..2, 7);
        subscribe(&mut hub, 2..5, 99);
        assert_eq!(busiest(&hub)[..2], [("99".to_owned(), 3), ("7".to_owned(), 2)]);
    }

    #[test]
    fn the_busiest_of_many_topics_are_found_in_several_steps_and_listed_once() {
        let mut hub = hub_of(2 * LOOKS_MAX + 1);
        let looks = hub.topics.places().div_ceil(LOOKS_MAX);
        subscribe(&mut hub, 0..2, 7);
        subscribe(&mut hub, 2..5, 2 * LOOKS_MAX);
        let expected = [((2 * LOOKS_MAX).to_string(), 3), ("7".to_owned(), 2)];
        (0..looks).for_each(|_| hub.look_for_busiest());
        assert_eq!(busiest(&hub)[..2], expected);
        (2..5).for_each(|slot| hub.unsubscribe(Subscriber(slot)));
        assert_eq!(busiest(&hub)[0], ("7".to_owned(), 2), "the list has the current count");
        (0..3 * looks).for_each(|_| hub.look_for_busiest());
        let names: HashSet<_> = hub.busiest_topics(KEPT_MAX).into_iter().map(|info| info.name).collect();
        assert_eq!(names.len(), KEPT_MAX);
    }
}
