//! The hub against a naive twin that keeps every event ever published and searches them all for each question.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare::event::Frame;
use fanfare::event::{Broadcast, EventId, Naming, RunName, Sequence, Topic};
use fanfare::hub::{
    Appended, HoldChange, Hub, HubLimits, MissedGap, MissedReason, Replay, Run, RunLimits, Start, StartPoint,
    Subscriber, TopicRule,
};
use proptest::prelude::*;

const TOPICS: usize = 4;
const SLOTS: u32 = 6;
/// A slot of its own for those that come only to ask where they would start.
const VISITOR: Subscriber = Subscriber(100);
/// One with several topics.
const WANDERER: Subscriber = Subscriber(101);
/// What an entry costs besides frame and id, as the hub says it.
const OVERHEAD_BYTES: usize = 128;

/// The id that a client sends for what was given: it may have it from this server, from another, or from the publisher.
fn as_client_sends((id, position): &(String, u64), choice: usize) -> String {
    let place = run_name().id(Sequence(*position));
    match choice % 3 {
        _ if run_name().position(id).is_some() => id.clone(),
        0 => id.clone(),
        1 => format!("{place}~{id}"),
        _ => format!("aaaaaaaaaaaa-{position}~{id}"),
    }
}

fn run_name() -> RunName {
    RunName::from_bits(99)
}

#[derive(Clone, Debug)]
enum Step {
    /// An event; with an id of its own, or without.
    Append {
        topic: usize,
        own_id: bool,
        bytes: usize,
    },
    /// A loss in these topics, or in all.
    Gap {
        topics: Option<Vec<usize>>,
    },
    Subscribe {
        slot: u32,
        topics: Vec<usize>,
    },
    Unsubscribe {
        slot: u32,
    },
    /// A slice of a walk, and how much one run may hold. With `blocks`, the last frame of each run is sent in part.
    Visit {
        subscribers: usize,
        frames_max: usize,
        bytes_max: usize,
        blocks: bool,
    },
    /// The rest of a half-written frame is sent.
    Drain {
        slot: u32,
    },
    Pass {
        seconds: u64,
    },
    /// The configuration is read again, and has these rules.
    Reload {
        rules: Vec<Rule>,
    },
    /// A client resumes with the id of the entry at this place of the whole history, or with an id that was never
    /// given.
    Resume {
        topics: Vec<usize>,
        place: Option<usize>,
        replay: Replay,
    },
}

/// What applies to these topics alone.
#[derive(Clone, Debug)]
struct Rule {
    topics: Vec<usize>,
    events_max: Option<usize>,
    bytes_max: Option<usize>,
    age_s: Option<u64>,
}

impl Rule {
    fn as_written(&self) -> TopicRule {
        let digits: String = self.topics.iter().map(usize::to_string).collect();
        TopicRule {
            pattern: format!("topic [{digits}]"),
            history_events_max: self.events_max,
            history_bytes_max: self.bytes_max,
            history_age_max: self.age_s.map(Duration::from_secs),
            ..TopicRule::default()
        }
    }
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    let events = prop::sample::select(vec![Some(1), Some(2), Some(4), None]);
    let bytes = prop::sample::select(vec![Some(200), Some(500), None]);
    let rule = (some_topics(), events, bytes, prop::option::of(5u64..100));
    let rule = rule.prop_map(|(topics, events_max, bytes_max, age_s)| Rule { topics, events_max, bytes_max, age_s });
    prop::collection::vec(rule, 0..3)
}

fn some_topics() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::btree_set(0..TOPICS, 1..=3).prop_map(|topics| topics.into_iter().collect())
}

fn a_step() -> impl Strategy<Value = Step> {
    let replay = prop::sample::select(vec![Replay::Missed, Replay::All, Replay::Latest, Replay::None]);
    prop_oneof![
        6 => (0..TOPICS, any::<bool>(), 1usize..200)
            .prop_map(|(topic, own_id, bytes)| Step::Append { topic, own_id, bytes }),
        1 => prop::option::of(some_topics()).prop_map(|topics| Step::Gap { topics }),
        2 => (0..SLOTS, some_topics()).prop_map(|(slot, topics)| Step::Subscribe { slot, topics }),
        1 => (0..SLOTS).prop_map(|slot| Step::Unsubscribe { slot }),
        4 => (1usize..4, 1usize..5, 1usize..400, any::<bool>()).prop_map(|(subscribers, frames_max, bytes_max, blocks)| {
            Step::Visit { subscribers, frames_max, bytes_max, blocks }
        }),
        1 => (0..SLOTS).prop_map(|slot| Step::Drain { slot }),
        1 => (1u64..40).prop_map(|seconds| Step::Pass { seconds }),
        1 => some_rules().prop_map(|rules| Step::Reload { rules }),
        3 => (some_topics(), prop::option::of(0usize..60), replay)
            .prop_map(|(topics, place, replay)| Step::Resume { topics, place, replay }),
    ]
}

fn some_limits() -> impl Strategy<Value = HubLimits> {
    let events = prop::sample::select(vec![Some(1), Some(2), Some(3), Some(5), None]);
    let bytes = prop::sample::select(vec![200, 600, 1 << 20]);
    let total = prop::sample::select(vec![400, 1500, 1 << 20]);
    let topics = prop::sample::select(vec![1, 2, 3, 100]);
    let bounds = (events, bytes, total, 5u64..100, prop::option::of(1usize..6), topics);
    bounds.prop_map(|(events, bytes, total, age, replay, topics_max)| HubLimits {
        topics_max,
        history_events_max: events,
        history_bytes_max: bytes,
        history_bytes_total_max: total,
        history_age_max: Duration::from_secs(age),
        replay_events_max: replay,
        fetch_entries_max: 0,
    })
}

/// What was published, once.
#[derive(Clone, Debug)]
struct Record {
    sequence: u64,
    own_id: Option<String>,
    text: String,
    at: Duration,
}

impl Record {
    fn cost(&self) -> usize {
        self.text.len() + self.own_id.as_ref().map_or(0, String::len) + OVERHEAD_BYTES
    }
}

/// A loss that a source announced; of these topics, or of all.
#[derive(Clone, Debug)]
struct Announced {
    sequence: u64,
    topics: Option<Vec<usize>>,
    text: String,
    at: Duration,
}

impl Announced {
    fn touches(&self, topics: &[usize]) -> bool {
        self.topics.as_ref().is_none_or(|touched| touched.iter().any(|topic| topics.contains(topic)))
    }
}

/// A topic as the twin sees it: everything that it ever held, and how much of the front of that is gone.
#[derive(Clone, Debug, Default)]
struct Twin {
    all: Vec<Record>,
    gone: usize,
    /// What came through here is gone or never was, whatever `all` says.
    floor: u64,
    /// The newest loss of this topic that is forgotten.
    lost: u64,
    /// It vanished before, and its last position was recorded.
    is_back: bool,
}

impl Twin {
    /// Of its last event nothing is left but its position.
    fn is_forgotten(&self) -> bool {
        let has_own_id = self.all.last().is_some_and(|record| record.own_id.is_some());
        (self.is_back || !self.all.is_empty()) && self.held().is_empty() && !has_own_id
    }

    fn held(&self) -> &[Record] {
        &self.all[self.gone..]
    }

    fn bytes(&self) -> usize {
        self.held().iter().map(Record::cost).sum()
    }

    fn evicted_through(&self) -> u64 {
        self.all[..self.gone].last().map_or(0, |record| record.sequence).max(self.floor)
    }

    /// Where the event with this id of its own stands, if it is held or the last that is gone.
    fn position_of(&self, id: &str) -> Option<u64> {
        let mut known = self.all[self.gone.saturating_sub(1)..].iter();
        known.find(|record| record.own_id.as_deref() == Some(id)).map(|record| record.sequence)
    }

    /// True when an event with this id is gone, and not the last one to go.
    fn has_forgotten(&self, id: &str) -> bool {
        self.all[..self.gone.saturating_sub(1)].iter().any(|record| record.own_id.as_deref() == Some(id))
    }
}

struct Oracle {
    hub: Hub,
    limits: HubLimits,
    rules: Vec<Rule>,
    twins: BTreeMap<usize, Twin>,
    /// The topics in the order in which they came to be.
    order: Vec<usize>,
    floor: u64,
    /// The last positions of topics that vanished when they were forgotten.
    vanished: BTreeMap<usize, u64>,
    losses: Vec<Announced>,
    /// The newest loss of all topics that is forgotten.
    lost_of_all: u64,
    /// The newest loss that is forgotten of topics that don't exist.
    lost_of_absent: BTreeMap<usize, u64>,
    head: u64,
    now: Duration,
    ids: Vec<(String, u64)>,
    subscribers: BTreeMap<u32, Expecting>,
    /// Those that a run was too small for.
    behind: BTreeSet<u32>,
    /// The frame that was sent to a subscriber in part.
    half_written: BTreeMap<u32, Frame>,
}

/// A subscriber: its topics, and where it stands.
#[derive(Clone, Debug)]
struct Expecting {
    topics: Vec<usize>,
    position: u64,
}

fn name(topic: usize) -> Topic {
    Topic::new(&format!("topic {topic}")).unwrap()
}

impl Oracle {
    fn new(limits: HubLimits) -> Oracle {
        Oracle {
            hub: Hub::with_peers(run_name(), limits.clone()),
            limits,
            rules: Vec::new(),
            twins: BTreeMap::new(),
            order: Vec::new(),
            floor: 0,
            vanished: BTreeMap::new(),
            losses: Vec::new(),
            lost_of_all: 0,
            lost_of_absent: BTreeMap::new(),
            head: 0,
            now: Duration::ZERO,
            ids: Vec::new(),
            subscribers: BTreeMap::new(),
            behind: BTreeSet::new(),
            half_written: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append { topic, own_id, bytes } => self.append(*topic, *own_id, *bytes),
            Step::Gap { topics } => self.gap(topics.as_deref()),
            Step::Subscribe { slot, topics } => self.subscribe(*slot, topics),
            Step::Unsubscribe { slot } => {
                self.drain(*slot);
                self.hub.unsubscribe(Subscriber(*slot));
                self.subscribers.remove(slot);
                self.behind.remove(slot);
            }
            Step::Visit { subscribers, frames_max, bytes_max, blocks } => {
                self.visit_slice(*subscribers, RunLimits { frames_max: *frames_max, bytes_max: *bytes_max }, *blocks);
            }
            Step::Drain { slot } => self.drain(*slot),
            Step::Pass { seconds } => self.pass(*seconds),
            Step::Reload { rules } => self.reload(rules),
            Step::Resume { topics, place, replay } => self.resume(topics, *place, *replay),
        }
        self.note_vanished(matches!(step, Step::Pass { .. }));
        self.check_logs();
    }

    /// What nothing was published to vanishes with its last subscriber; what was published, when another needs its place.
    /// What they had, or missed, stays known as a floor for new topics. What is forgotten vanishes as time passes, and its
    /// position stays known.
    fn note_vanished(&mut self, by_age: bool) {
        for topic in self.order.clone() {
            let is_used = self.subscribers.values().any(|subscriber| subscriber.topics.contains(&topic));
            let is_forgotten = self.twins[&topic].is_forgotten();
            if self.hub.topic(name(topic).as_str()).is_some() {
                assert!(is_used || !is_forgotten || !by_age || self.hub.is_walking(), "{topic} did not vanish");
            } else {
                let twin = self.twins.remove(&topic).expect("it was there");
                let is_for_another = self.order.len() >= self.limits.topics_max;
                let was_published = twin.is_back || !twin.all.is_empty();
                assert!(!is_used && (!was_published || is_for_another || is_forgotten), "{topic} vanished");
                self.order.retain(|other| *other != topic);
                if is_forgotten {
                    self.record_vanished(topic, twin.evicted_through().max(twin.lost));
                    continue;
                }
                let last = twin.held().last().map_or(twin.evicted_through(), |record| record.sequence);
                self.floor = self.floor.max(last);
                if twin.lost > self.floor {
                    self.lost_of_absent.insert(topic, twin.lost);
                }
            }
        }
    }

    /// As many are recorded as there may be topics; of one more, the oldest is known only as a floor.
    fn record_vanished(&mut self, topic: usize, position: u64) {
        self.vanished.insert(topic, position);
        if self.vanished.len() > self.limits.topics_max {
            let oldest = self.vanished.iter().min_by_key(|(_, position)| **position).map(|(topic, _)| *topic);
            let position = oldest.and_then(|oldest| self.vanished.remove(&oldest)).expect("there are some");
            self.floor = self.floor.max(position);
        }
    }

    // ---- what comes in ----

    fn append(&mut self, topic: usize, own_id: bool, bytes: usize) {
        self.head += 1;
        let own_id = own_id.then(|| format!("own/{}", self.head));
        let id = own_id.clone().unwrap_or_else(|| run_name().id(Sequence(self.head)).to_string());
        self.ids.push((id.clone(), self.head));
        let text = format!("{:>width$}", self.head, width = bytes);
        let broadcast = Broadcast {
            sequence: Sequence(self.head),
            topic: name(topic),
            naming: Naming::Here(own_id.as_deref().map(|id| EventId::new(id).unwrap())),
            frame: text.as_bytes().into(),
        };
        let appended = self.hub.append(broadcast, self.now);
        if appended == Appended::NoTopic {
            let is_used = |topic: &usize| self.subscribers.values().any(|subscriber| subscriber.topics.contains(topic));
            // A topic whose walk is not over can't make room either.
            let are_kept = self.order.iter().any(is_used) || self.hub.is_walking();
            assert!(!self.order.contains(&topic) && are_kept);
            self.vanished.remove(&topic);
            self.floor = self.head;
            return;
        }
        assert_eq!(appended, Appended::Logged);
        assert!(self.hub.remembered(name(topic).as_str(), &EventId::new(&id).unwrap()).is_some());
        self.note_vanished(false);
        self.twin(topic);
        self.log(topic, Record { sequence: self.head, own_id, text, at: self.now });
    }

    fn gap(&mut self, topics: Option<&[usize]>) {
        self.head += 1;
        self.ids.push((run_name().id(Sequence(self.head)).to_string(), self.head));
        let text = format!("gap {}", self.head);
        let names = topics.map(|topics| topics.iter().copied().map(name).collect::<Vec<_>>());
        self.hub.append_loss(Sequence(self.head), names.as_deref(), text.as_bytes().into(), self.now);
        let topics = topics.map(<[usize]>::to_vec);
        self.losses.push(Announced { sequence: self.head, topics, text, at: self.now });
    }

    fn twin(&mut self, topic: usize) -> &mut Twin {
        if !self.order.contains(&topic) {
            self.order.push(topic);
        }
        let (floor, vanished) = (self.floor, &mut self.vanished);
        let lost_of_absent = &mut self.lost_of_absent;
        let mut lost = || lost_of_absent.remove(&topic).unwrap_or(0);
        self.twins.entry(topic).or_insert_with(|| {
            let last = vanished.remove(&topic);
            Twin { floor: last.unwrap_or(floor), lost: lost(), is_back: last.is_some(), ..Twin::default() }
        })
    }

    /// Forgets what the bounds ask for, then holds the record.
    fn log(&mut self, topic: usize, record: Record) {
        let (limits, cost) = (self.limits_of(topic), record.cost());
        let twin = self.twin(topic);
        while limits.history_events_max.is_some_and(|max| twin.held().len() + 1 > max) {
            twin.gone += 1;
        }
        while twin.bytes() + cost > limits.history_bytes_max && !twin.held().is_empty() {
            twin.gone += 1;
        }
        while self.logged_bytes() + self.pinned_bytes() + cost > limits.history_bytes_total_max {
            let oldest = |topic: &&usize| self.twins[topic].held().first().map_or(u64::MAX, |record| record.sequence);
            let oldest = *self.order.iter().min_by_key(oldest).expect("this very topic, if no other");
            if self.twins[&oldest].held().is_empty() {
                break;
            }
            self.twin(oldest).gone += 1;
        }
        self.twin(topic).all.push(record);
    }

    /// What applies to a topic.
    fn limits_of(&self, topic: usize) -> HubLimits {
        let mut limits = self.limits.clone();
        if let Some(rule) = self.rules.iter().find(|rule| rule.topics.contains(&topic)) {
            limits.history_events_max = rule.events_max.or(limits.history_events_max);
            limits.history_bytes_max = rule.bytes_max.unwrap_or(limits.history_bytes_max);
            limits.history_age_max = rule.age_s.map_or(limits.history_age_max, Duration::from_secs);
        }
        limits
    }

    /// New rules apply to the topics that exist, too.
    fn reload(&mut self, rules: &[Rule]) {
        // What walks have still to deliver stays for now.
        while self.hub.is_walking() || !self.behind.is_empty() {
            self.visit_slice(100, RunLimits::NONE, false);
        }
        let written: Vec<_> = rules.iter().map(Rule::as_written).collect();
        self.hub.set_rules(&written);
        assert!(self.hub.apply_rules(), "there are few topics");
        self.rules = rules.to_vec();
        for topic in self.order.clone() {
            let limits = self.limits_of(topic);
            let twin = self.twin(topic);
            let events_max = limits.history_events_max.unwrap_or(usize::MAX);
            while twin.held().len() > events_max || twin.bytes() > limits.history_bytes_max {
                twin.gone += 1;
            }
        }
    }

    fn logged_bytes(&self) -> usize {
        self.twins.values().map(Twin::bytes).sum()
    }

    /// Bytes of the frames that are half written to a client and that nothing remembers any more.
    fn pinned_bytes(&self) -> usize {
        let half_written: BTreeSet<_> = self.half_written.values().map(Frame::bytes).collect();
        half_written.into_iter().filter(|text| !self.is_remembered(text)).map(<[u8]>::len).sum()
    }

    /// True for the text of an event or a loss that is not forgotten. Each text is unique.
    fn is_remembered(&self, text: &[u8]) -> bool {
        let mut events = self.twins.values().flat_map(Twin::held);
        events.any(|record| record.text.as_bytes() == text)
            || self.losses.iter().any(|loss| loss.text.as_bytes() == text)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.hub.age(self.now);
        for topic in self.order.clone() {
            let (age_max, now) = (self.limits_of(topic).history_age_max, self.now);
            let twin = self.twin(topic);
            while twin.held().first().is_some_and(|record| record.at + age_max <= now) {
                twin.gone += 1;
            }
        }
        let ages = self.rules.iter().filter_map(|rule| rule.age_s).map(Duration::from_secs);
        let age_max = ages.fold(self.limits.history_age_max, Duration::max);
        while self.losses.first().is_some_and(|loss| loss.at + age_max <= self.now) {
            let Announced { sequence, topics, .. } = self.losses.remove(0);
            match topics {
                None => self.lost_of_all = sequence,
                Some(topics) => topics.iter().for_each(|topic| match self.twins.get_mut(topic) {
                    Some(twin) => twin.lost = sequence,
                    None => _ = self.lost_of_absent.insert(*topic, sequence),
                }),
            }
        }
    }

    // ---- what subscribers receive ----

    fn subscribe(&mut self, slot: u32, topics: &[usize]) {
        if self.subscribers.contains_key(&slot) {
            return;
        }
        let names: Vec<_> = topics.iter().copied().map(name).collect();
        if self.hub.subscribe(Subscriber(slot), &names).is_err() {
            self.check_exhausted(topics);
            // One that had vanished is back, and stays until it is looked at again.
            let exists = |topic: &&usize| self.hub.topic(name(**topic).as_str()).is_some();
            let back: Vec<_> = topics.iter().filter(exists).copied().collect();
            back.into_iter().for_each(|topic| _ = self.twin(topic));
            return;
        }
        topics.iter().for_each(|topic| drop(self.twin(*topic).clone()));
        self.subscribers.insert(slot, Expecting { topics: topics.to_vec(), position: self.head });
    }

    /// No subscriber is refused a topic that exists, or any topic while there is room for more.
    fn check_exhausted(&self, topics: &[usize]) {
        let fresh = topics.iter().filter(|topic| !self.order.contains(topic)).count();
        assert!(fresh > 0 && self.order.len() + fresh > self.limits.topics_max, "{topics:?} of {:?}", self.order);
    }

    fn visit_slice(&mut self, subscribers_max: usize, limits: RunLimits, blocks: bool) {
        let mut slice = Vec::new();
        if self.hub.next_slice(subscribers_max, self.now, &mut slice).is_none() {
            assert!(!self.hub.is_walking());
        }
        assert!(slice.len() <= subscribers_max);
        let behind = std::mem::take(&mut self.behind);
        for slot in slice.into_iter().map(|Subscriber(slot)| slot).chain(behind) {
            let run = self.visit(slot, limits);
            if blocks {
                self.hold_last(slot, &run);
            }
        }
        if !self.hub.is_walking() && self.behind.is_empty() {
            for (slot, subscriber) in &self.subscribers {
                let waits = self.held_after(&subscriber.topics, subscriber.position);
                assert!(waits.is_empty(), "the walks are over, and {slot} was not brought {waits:?}");
            }
        }
    }

    /// Returns what it receives.
    fn visit(&mut self, slot: u32, limits: RunLimits) -> Run {
        let Some(subscriber) = self.subscribers.get(&slot).cloned() else { panic!("{slot} has left") };
        let Expecting { topics, position } = &subscriber;
        let lost = self.lost_through(topics);
        assert_eq!(self.hub.is_evicted(Subscriber(slot), Sequence(*position)), lost > *position);
        let expected = self.held_after(topics, *position);
        let mut run = Run::default();
        self.hub.run_for(Subscriber(slot), Sequence(*position), self.hub.head(), limits, &mut run);
        let sent: Vec<_> =
            run.frames().iter().map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned()).collect();
        let texts: Vec<_> = expected.iter().map(|(_, text)| text.clone()).collect();
        assert_eq!(sent, texts[..sent.len()], "slot {slot} at {position}");
        let fits = fitting(&expected, limits);
        assert_eq!((sent.len(), run.is_complete()), (fits, fits == expected.len()));
        let through = if run.is_complete() { self.head } else { expected[fits - 1].0 };
        assert_eq!(run.through().0, through);
        if !run.is_complete() {
            self.behind.insert(slot);
        }
        self.subscribers.get_mut(&slot).expect("it was just found").position = through;
        run
    }

    /// The socket of the slot takes only a part of the run's last frame.
    fn hold_last(&mut self, slot: u32, run: &Run) {
        let Some(frame) = run.frames().last() else { return };
        self.drain(slot);
        self.hub.apply_holds([HoldChange::Held(frame.clone())]);
        self.half_written.insert(slot, frame.clone());
    }

    fn drain(&mut self, slot: u32) {
        self.hub.apply_holds(self.half_written.remove(&slot).map(HoldChange::Released));
    }

    /// What these topics hold after a position, and the losses that touch them, in order.
    fn held_after(&self, topics: &[usize], position: u64) -> Vec<(u64, String)> {
        // What is older than a forgotten loss is held, but no longer sent.
        let is_sent = |topic: usize, record: &&Record| record.sequence > self.twins[&topic].lost.max(self.lost_of_all);
        let events = topics
            .iter()
            .flat_map(|topic| self.twins[topic].held().iter().filter(move |record| is_sent(*topic, record)));
        let events = events.map(|record| (record.sequence, record.text.clone()));
        let losses = self.losses.iter().filter(|loss| loss.touches(topics));
        let losses = losses.map(|loss| (loss.sequence, loss.text.clone()));
        let mut all: Vec<_> = events.chain(losses).filter(|(sequence, _)| *sequence > position).collect();
        all.sort();
        all
    }

    /// The newest position at or before which something of these topics is missing.
    fn lost_through(&self, topics: &[usize]) -> u64 {
        topics.iter().map(|topic| self.lost_of(*topic)).max().unwrap_or(0)
    }

    fn lost_of(&self, topic: usize) -> u64 {
        let twin = &self.twins[&topic];
        twin.evicted_through().max(twin.lost).max(self.lost_of_all)
    }

    /// What a subscriber gets that resumes, with a gap at each place at which some of its topics miss something.
    fn held_with_gaps(&self, topics: &[usize], position: u64, silent_through: u64) -> Vec<String> {
        let mut gaps = BTreeMap::<u64, Vec<usize>>::new();
        for topic in topics.iter().copied().filter(|topic| self.lost_of(*topic) > position.max(silent_through)) {
            gaps.entry(self.lost_of(topic)).or_default().push(topic);
        }
        let mut all = self.held_after(topics, position);
        all.extend(gaps.into_iter().map(|(place, topics)| (place, format!("missed {topics:?}"))));
        all.sort();
        all.into_iter().map(|(_, text)| text).collect()
    }

    // ---- clients that resume ----

    fn resume(&mut self, topics: &[usize], place: Option<usize>, replay: Replay) {
        let names: Vec<_> = topics.iter().copied().map(name).collect();
        if self.hub.subscribe(VISITOR, &names).is_err() {
            self.check_exhausted(topics);
            // One that had vanished is back, and stays until it is looked at again.
            let exists = |topic: &&usize| self.hub.topic(name(**topic).as_str()).is_some();
            let back: Vec<_> = topics.iter().filter(exists).copied().collect();
            back.into_iter().for_each(|topic| _ = self.twin(topic));
            return;
        }
        topics.iter().for_each(|topic| drop(self.twin(*topic).clone()));
        let id = match place {
            None => "never-given-0".to_owned(),
            // Past the end: no id at all.
            Some(place) => self.ids.get(place).map(|given| as_client_sends(given, place)).unwrap_or_default(),
        };
        let Start::Ready(start) = self.hub.start(VISITOR, id.as_bytes(), replay) else {
            panic!("it knows every position")
        };
        let expected = self.expected_start(topics, &id, replay);
        let shown = (start.position.0, start.id_is_known, gap_of(&start));
        assert_eq!(shown, expected, "{id:?} {replay:?} {topics:?}");
        if replay != Replay::Latest {
            self.check_resumed(topics, &start);
        }
        self.hub.unsubscribe(VISITOR);
    }

    fn check_resumed(&self, topics: &[usize], start: &StartPoint) {
        let mut run = Run::default();
        let topic_of = |topic: &Topic| topics.iter().copied().find(|index| name(*index) == *topic).expect("its own");
        let format = |gap: &MissedGap| -> Frame {
            let topics: Vec<_> = gap.topics.iter().map(topic_of).collect();
            format!("missed {topics:?}").as_bytes().into()
        };
        self.hub.run_with_gaps(VISITOR, start.position, &start.owed, format, RunLimits::NONE, &mut run);
        let shown: Vec<_> =
            run.frames().iter().map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned()).collect();
        let lost = self.lost_through(topics);
        let silent_through = if start.owed.silent.is_empty() { 0 } else { lost };
        assert_eq!(shown, self.held_with_gaps(topics, start.position.0, silent_through));
        assert!(start.owed.through.0 == lost || start.position.0 == self.head, "{start:?}, lost {lost}");
    }

    /// Position, whether the id is known, and the opening gap: where it stands, why, and in which topics.
    fn expected_start(&self, topics: &[usize], id: &str, replay: Replay) -> (u64, bool, Option<Gap>) {
        let before_all = topics.iter().map(|topic| self.twins[topic].evicted_through()).min().unwrap_or(0);
        let all_topics = || topics.iter().map(|topic| name(*topic)).collect::<Vec<_>>();
        let (position, is_known, gap) = match (replay, id) {
            (Replay::None, _) | (Replay::Missed, "") => return (self.head, false, None),
            (Replay::Latest, "") => return (before_all, false, None),
            (Replay::All, "") => (before_all, false, None),
            (_, id) => {
                let alias = id.split_once('~').map_or(id, |(_, alias)| alias);
                let is_doubtful = topics.iter().any(|topic| self.twins[topic].has_forgotten(alias));
                let aliased = topics.iter().filter_map(|topic| self.twins[topic].position_of(alias)).min();
                let own = run_name().position(id).map(|position| position.0).filter(|own| *own <= self.head);
                match own.or(aliased.filter(|_| !is_doubtful)) {
                    Some(position) => (position, true, None),
                    None if replay == Replay::Latest => {
                        let newest = |topic: &usize| self.twins[topic].held().last().map_or(0, |event| event.sequence);
                        let lacking = topics.iter().filter(|topic| newest(topic) <= self.lost_of(**topic));
                        let names: Vec<_> = lacking.map(|topic| name(*topic)).collect();
                        let gap = (before_all, MissedReason::UnknownId, names);
                        (before_all, false, Some(gap).filter(|(_, _, names)| !names.is_empty()))
                    }
                    None => (before_all, false, Some((before_all, MissedReason::UnknownId, all_topics()))),
                }
            }
        };
        if replay == Replay::Latest {
            return (position, is_known, gap);
        }
        let held = topics.iter().flat_map(|topic| self.twins[topic].held());
        let mut newer: Vec<_> = held.map(|record| record.sequence).filter(|sequence| *sequence > position).collect();
        newer.sort_unstable();
        match self.limits.replay_events_max.and_then(|max| newer.len().checked_sub(max + 1)) {
            None => (position, is_known, gap),
            Some(last_cut) => {
                let cut = newer[last_cut];
                let silent_through = if id.is_empty() { self.lost_through(topics) } else { 0 };
                let skipped = topics.iter().filter(|topic| self.skips(**topic, position, silent_through, cut));
                let skipped = (MissedReason::ReplayLimit, skipped.map(|topic| name(*topic)).collect());
                let (reason, names) = gap.map_or(skipped, |(_, reason, names)| (reason, names));
                (cut, is_known, Some((cut, reason, names)))
            }
        }
    }

    /// True when a subscriber that continues behind `cut` misses something of this topic.
    fn skips(&self, topic: usize, position: u64, silent_through: u64, cut: u64) -> bool {
        let is_within = |after: u64, place: u64| after < place && place <= cut;
        let held = self.held_after(&[topic], position);
        held.iter().any(|(sequence, _)| *sequence <= cut)
            || is_within(position.max(silent_through), self.lost_of(topic))
    }

    /// The hub holds exactly what the twin holds, and counts it right.
    fn check_logs(&self) {
        for (topic, twin) in &self.twins {
            let info = self.hub.topic(name(*topic).as_str()).expect("it has not vanished");
            let shown = (info.evicted_through.0, info.retained_events, info.retained_bytes);
            assert_eq!(shown, (twin.evicted_through(), twin.held().len(), twin.bytes()), "topic {topic}");
            let subscribed = self.subscribers.values().filter(|subscriber| subscriber.topics.contains(topic)).count();
            assert_eq!(info.subscribers, subscribed);
            let newest = twin.held().last().map(|record| record.text.clone());
            let latest = self.hub.latest(name(*topic).as_str());
            assert_eq!(latest.map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned()), newest);
        }
        assert_eq!(self.hub.pinned_bytes(), self.pinned_bytes());
        assert_eq!(self.hub.bytes_total(), self.logged_bytes() + self.pinned_bytes());
        for frame in self.half_written.values() {
            assert_eq!(self.hub.is_pinned(frame), !self.is_remembered(frame.bytes()));
        }
        assert_eq!(self.hub.retained_events(), self.twins.values().map(|twin| twin.held().len()).sum::<usize>());
        assert_eq!(self.hub.head().0, self.head);
    }
}

type Gap = (u64, MissedReason, Vec<Topic>);

fn gap_of(start: &StartPoint) -> Option<Gap> {
    start.opening.as_ref().map(|gap| (gap.at.0, gap.reason, gap.topics.clone()))
}

/// How many of these one run may hold: the first whatever its size.
fn fitting(records: &[(u64, String)], limits: RunLimits) -> usize {
    let mut bytes = 0;
    let fits = |(index, (_, text)): &(usize, &(u64, String))| {
        bytes += text.len();
        *index == 0 || (*index < limits.frames_max && bytes <= limits.bytes_max)
    };
    records.iter().enumerate().take_while(fits).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_hub_agrees_with_its_naive_twin(limits in some_limits(), steps in prop::collection::vec(a_step(), 1..120)) {
        let mut oracle = Oracle::new(limits);
        steps.iter().for_each(|step| oracle.take(step));
    }

    /// One run serves every subscriber that it covers: each gets the same as from a run of its own.
    #[test]
    fn a_shared_run_is_each_subscribers_own(
        limits in some_limits().prop_map(|limits| HubLimits { topics_max: 100, ..limits }),
        steps in prop::collection::vec(a_step(), 1..60),
        after in 0u64..40,
        frames_max in 1usize..5,
    ) {
        let mut oracle = Oracle::new(limits);
        steps.iter().for_each(|step| oracle.take(step));
        oracle.take(&Step::Append { topic: 0, own_id: false, bytes: 5 });
        let limits = RunLimits { frames_max, bytes_max: 300 };
        oracle.subscribe(VISITOR.0, &[0]);
        oracle.subscribe(WANDERER.0, &[0, 1, 2]);
        oracle.take(&Step::Append { topic: 0, own_id: false, bytes: 5 });
        let mut slice = Vec::new();
        let topic = loop {
            let slice_of = oracle.hub.next_slice(1, Duration::ZERO, &mut slice).expect("the visitor is to be visited");
            if slice == [VISITOR] {
                break slice_of.topic;
            }
        };
        let (mut shared, mut own) = (Run::default(), Run::default());
        oracle.hub.run_for_topic(topic, Sequence(after), limits, &mut shared);
        for position in (0..=oracle.head).map(Sequence).filter(|position| shared.covers(*position)) {
            own.clear();
            oracle.hub.run_for(VISITOR, position, oracle.hub.head(), limits, &mut own);
            prop_assert!(!oracle.hub.is_evicted(VISITOR, position));
            prop_assert_eq!(own.frames(), shared.frames(), "{}", position);
            prop_assert_eq!((own.through(), own.is_complete()), (shared.through(), shared.is_complete()));
        }
        // One of several topics shares it while the others have nothing for it.
        for position in (0..=oracle.head).map(Sequence).filter(|position| shared.covers(*position)) {
            if oracle.hub.has_news_only_of(topic, WANDERER, position) {
                own.clear();
                oracle.hub.run_for(WANDERER, position, oracle.hub.head(), limits, &mut own);
                prop_assert!(!oracle.hub.is_evicted(WANDERER, position));
                prop_assert_eq!(own.frames(), shared.frames(), "{}", position);
                prop_assert_eq!((own.through(), own.is_complete()), (shared.through(), shared.is_complete()));
            }
        }
        let is_gone = oracle.hub.is_evicted(VISITOR, Sequence(after));
        prop_assert_eq!(shared.covers(Sequence(after)), !is_gone && !shared.is_empty());
    }
}
