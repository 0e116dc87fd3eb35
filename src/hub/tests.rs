//! The hub's rules one by one; `tests/hub_oracle.rs` compares all of them together with a naive model.

use std::time::Duration;

use super::*;
use crate::event::Naming;

mod rules;

const RUN: u64 = 7;

struct Stage {
    hub: Hub,
    next: u64,
    now: Duration,
}

impl Stage {
    fn new(limits: HubLimits) -> Stage {
        Stage { hub: Hub::new(RunName::from_bits(RUN), limits), next: 1, now: Duration::ZERO }
    }

    fn append(&mut self, topic: &str) -> Appended {
        let sequence = self.number();
        let frame = format!("{topic} {sequence}\n").into_bytes().into();
        self.hub.append(Broadcast { sequence, topic: name(topic), naming: Naming::Here(None), frame }, self.now)
    }

    fn append_all(&mut self, topic: &str, count: usize) {
        (0..count).for_each(|_| assert_eq!(self.append(topic), Appended::Logged));
    }

    fn gap(&mut self, topics: Option<&[&str]>) {
        let sequence = self.number();
        let topics = topics.map(|topics| topics.iter().copied().map(name).collect::<Vec<_>>());
        let frame = format!("gap {sequence}\n").into_bytes().into();
        self.hub.append_loss(sequence, topics.as_deref(), frame, self.now);
    }

    fn number(&mut self) -> Sequence {
        self.next += 1;
        Sequence(self.next - 1)
    }

    fn subscribe(&mut self, slot: u32, topics: &[&str]) -> Result<(), TopicsExhausted> {
        let topics: Vec<_> = topics.iter().copied().map(name).collect();
        self.hub.subscribe(Subscriber(slot), &topics)
    }

    /// Visits up to this many subscribers, and delivers to them no further than `cut_at`.
    fn walk(&mut self, subscribers: usize, cut_at: Option<u64>) {
        let slice = self.hub.next_slice(subscribers, self.now, &mut Vec::new()).expect("a walk in progress");
        cut_at.into_iter().for_each(|through| self.hub.cut_walk(&slice, Sequence(through), self.now));
    }

    fn end_walks(&mut self) {
        while self.hub.next_slice(100, self.now, &mut Vec::new()).is_some() {}
    }

    /// The gaps due to a subscriber that stands at `position`: their places and topics.
    fn missed(&self, slot: u32, position: u64) -> Vec<(u64, String)> {
        let gaps = self.hub.missed_after(Subscriber(slot), Sequence(position), &Owed::default());
        gaps.iter().map(|gap| (gap.at.0, names(gap))).collect()
    }

    fn start(&self, slot: u32, id: &str, replay: Replay) -> StartPoint {
        let start = self.hub.start(Subscriber(slot), id.as_bytes(), replay);
        let Start::Ready(start) = start else { panic!("{start:?}: this hub knows every position") };
        start
    }

    fn id(&self, position: u64) -> String {
        RunName::from_bits(RUN).id(Sequence(position)).to_string()
    }

    fn append_with_id(&mut self, topic: &str, id: &str) {
        let sequence = self.number();
        let frame = format!("{topic} {sequence}\n").into_bytes().into();
        let naming = Naming::Here(EventId::new(id).ok());
        let broadcast = Broadcast { sequence, topic: name(topic), naming, frame };
        assert_eq!(self.hub.append(broadcast, self.now), Appended::Logged);
    }

    /// What one subscriber gets after a position that it resumes from, gaps included.
    fn resumed(&self, slot: u32, position: u64) -> Vec<String> {
        let start = self.start(slot, &self.id(position), Replay::Missed);
        let mut run = Run::default();
        let format = |gap: &MissedGap| format!("missed {} {}\n", gap.at, names(gap)).into_bytes().into();
        self.hub.run_with_gaps(Subscriber(slot), start.position, &start.owed, format, RunLimits::NONE, &mut run);
        texts(&run)
    }

    fn frames(&self, slot: u32, after: u64) -> Vec<String> {
        let mut run = Run::default();
        self.hub.run_for(Subscriber(slot), Sequence(after), self.hub.head(), RunLimits::NONE, &mut run);
        texts(&run)
    }
}

fn texts(run: &Run) -> Vec<String> {
    run.frames().iter().map(|frame| String::from_utf8_lossy(frame.bytes()).trim_end().to_owned()).collect()
}

fn names(gap: &MissedGap) -> String {
    gap.topics.iter().map(Topic::as_str).collect::<Vec<_>>().join("+")
}

fn name(topic: &str) -> Topic {
    Topic::new(topic).unwrap()
}

#[test]
fn age_forgets_only_what_is_old() {
    let mut stage = Stage::new(HubLimits { history_events_max: Some(2), ..HubLimits::default() });
    stage.append_all("a", 3);
    stage.now = Duration::from_secs(200);
    stage.append_all("a", 2);
    stage.hub.age(Duration::from_secs(301));
    assert_eq!(stage.hub.retained_events(), 2);
    stage.hub.age(Duration::from_secs(501));
    assert_eq!(stage.hub.retained_events(), 0);
}

#[test]
fn a_walk_that_was_cut_short_is_completed_by_another_before_its_events_are_evicted() {
    let stage = || {
        let mut stage = Stage::new(HubLimits { history_events_max: Some(3), ..HubLimits::default() });
        (0..2).for_each(|slot| stage.subscribe(slot, &["a"]).unwrap());
        stage.append_all("a", 3);
        stage
    };
    let would_outrun = |stage: &Stage| {
        let topic = stage.hub.locate("a").expect("it has events");
        stage.hub.pressure_on_topic(topic, 1).is_some_and(|pressure| stage.hub.is_walk_behind(pressure))
    };

    let mut whole = stage();
    assert!(would_outrun(&whole));
    whole.walk(2, None); // through 1, which started it
    assert!(!would_outrun(&whole));
    whole.append("a");
    assert!(would_outrun(&whole), "2 was delivered to no subscriber");
    whole.end_walks();
    assert!(!would_outrun(&whole));

    // In one slice, in the first of two, in the second of two.
    for slices in [&[(2, Some(1))][..], &[(1, Some(1)), (1, None)], &[(1, None), (1, Some(1))]] {
        let mut cut = stage();
        cut.walk(2, None);
        slices.iter().for_each(|(subscribers, cut_at)| cut.walk(*subscribers, *cut_at));
        assert!(cut.hub.is_walking(), "{slices:?}: for the rest");
        assert!(!would_outrun(&cut), "{slices:?}: 1 was delivered to all");
        cut.append("a");
        assert!(would_outrun(&cut), "{slices:?}: 2 is not");
        cut.end_walks();
        assert!(!would_outrun(&cut) && !cut.hub.is_walking(), "{slices:?}");
    }
}

#[test]
fn a_gap_of_many_topics_leaves_nothing_behind_when_all_have_forgotten_it() {
    let mut stage = Stage::new(HubLimits::default());
    for topic in ["a", "b", "c"] {
        stage.append(topic);
    }
    stage.gap(None);
    stage.hub.age(Duration::from_secs(1000));
    stage.hub.age(Duration::from_secs(1000));
    assert_eq!((stage.hub.bytes_total(), stage.hub.pinned_bytes()), (0, 0));
}

#[test]
fn an_unused_topic_is_evicted_even_if_it_was_published_to_recently() {
    let mut stage = Stage::new(HubLimits { topics_max: 1, ..HubLimits::default() });
    assert_eq!(stage.append("a"), Appended::Logged);
    assert_eq!(stage.append("a"), Appended::Logged);
    assert!(stage.hub.has_room_for("b"));
    assert_eq!(stage.append("b"), Appended::Logged);
}

#[test]
fn a_forgotten_topic_vanishes_and_only_beyond_the_bound_a_client_gets_a_gap_that_is_not_there() {
    const TOPICS: u64 = 1000;
    let mut stage = Stage::new(HubLimits { topics_max: TOPICS as usize, ..HubLimits::default() });
    let age = |stage: &mut Stage| {
        stage.now += Duration::from_secs(1000);
        while !stage.hub.age(stage.now) {}
    };
    for n in 1..=TOPICS {
        assert_eq!(stage.append(&n.to_string()), Appended::Logged);
    }
    age(&mut stage);
    assert_eq!((stage.hub.topic_count(), stage.hub.topic_places()), (0, 0));
    // Topic n had the event n. Each client stands before it, or at it.
    for n in 1..=TOPICS {
        stage.subscribe(0, &[&n.to_string()]).unwrap();
        assert_eq!(stage.missed(0, n - 1), [(n, n.to_string())]);
        assert_eq!(stage.missed(0, n), []);
        stage.hub.unsubscribe(Subscriber(0));
        age(&mut stage);
    }
    // What returns goes on where it was, and its place is another topic's again.
    assert_eq!(stage.append("1"), Appended::Logged);
    age(&mut stage);
    // One more than are recorded: of the oldest, only a floor is known.
    assert_eq!(stage.append("more"), Appended::Logged);
    age(&mut stage);
    stage.subscribe(0, &["2", "3"]).unwrap();
    assert_eq!(stage.missed(0, 1), [(2, "2".into()), (3, "3".into())]);
    stage.subscribe(1, &["never"]).unwrap();
    assert_eq!((stage.missed(1, 1), stage.missed(1, 2)), (vec![(2, "never".into())], vec![]));
}

/// Its id is not a position, so its position must stay known with it.
#[test]
fn a_topic_whose_last_event_has_a_publishers_id_stays() {
    let mut stage = Stage::new(HubLimits::default());
    let (sequence, naming) = (stage.number(), Naming::Here(EventId::new("own").ok()));
    stage.hub.append(Broadcast { sequence, topic: name("a"), naming, frame: b"a\n"[..].into() }, Duration::ZERO);
    assert!(stage.hub.age(Duration::from_secs(1000)));
    assert_eq!(stage.hub.topic_count(), 1);
}

#[test]
fn topics_without_events_evict_no_other_topic_and_vanish_with_their_subscribers() {
    let mut stage = Stage::new(HubLimits { topics_max: 2, ..HubLimits::default() });
    stage.hub.reserve(&name("configured"));
    stage.append("a");
    stage.append("b");
    stage.subscribe(0, &["x", "y"]).unwrap();
    assert_eq!(stage.subscribe(1, &["z"]), Err(TopicsExhausted));
    assert_eq!(stage.subscribe(1, &["a", "z"]), Err(TopicsExhausted));
    stage.subscribe(1, &["a", "b", "configured", "x"]).unwrap();
    assert_eq!(stage.append("configured"), Appended::Logged);
    assert_eq!((stage.hub.topic_count(), stage.hub.retained_events()), (5, 3));
    // A publish makes it a published topic, and its place counts as one of these.
    assert_eq!(stage.append("x"), Appended::Logged);
    assert_eq!(stage.append("c"), Appended::NoTopic, "every published topic has subscribers");
    assert_eq!(stage.subscribe(2, &["z"]), Err(TopicsExhausted), "as many topics as there may be in all");
    stage.end_walks();
    stage.hub.unsubscribe(Subscriber(0));
    assert!(stage.hub.topic("y").is_none() && stage.hub.topic("x").is_some());
    stage.hub.unsubscribe(Subscriber(1));
    assert_eq!(stage.hub.retained_events(), 4, "histories stay");
    stage.subscribe(2, &["z"]).unwrap();
    // Its walk ends before it is removed.
    stage.gap(Some(&["z"]));
    stage.hub.unsubscribe(Subscriber(2));
    stage.end_walks();
    assert!(stage.hub.topic("z").is_none() && !stage.hub.is_walking());
}

#[test]
fn a_subscriber_of_a_topic_that_had_no_room_gets_a_gap() {
    let mut stage = Stage::new(HubLimits { topics_max: 1, ..HubLimits::default() });
    stage.subscribe(0, &["a"]).unwrap();
    stage.append("a");
    assert_eq!(stage.append("b"), Appended::NoTopic);
    stage.subscribe(1, &["b"]).unwrap();
    assert_eq!(stage.missed(1, 1), [(2, "b".into())]);
    assert_eq!(stage.missed(1, 2), []);
}

#[test]
fn a_loss_is_stored_once_and_reaches_each_subscriber_that_it_touches() {
    let mut stage = Stage::new(HubLimits::default());
    for (slot, topics) in [&["a"][..], &["b"], &["a", "b"], &["c"]].iter().enumerate() {
        stage.subscribe(slot as u32, topics).unwrap();
    }
    stage.append("a"); // 1
    stage.gap(Some(&["b", "later"])); // 2
    stage.append("b"); // 3
    stage.gap(None); // 4
    assert_eq!((stage.hub.retained_events(), stage.hub.bytes_total() > 0), (2, true));
    assert_eq!(stage.frames(0, 0), ["a 1", "gap 4"]);
    assert_eq!(stage.frames(1, 0), ["gap 2", "b 3", "gap 4"]);
    assert_eq!(stage.frames(2, 0), ["a 1", "gap 2", "b 3", "gap 4"]);
    assert_eq!(stage.frames(2, 2), ["b 3", "gap 4"]);
    assert_eq!(stage.frames(3, 0), ["gap 4"]);
    // Also a subscriber of a topic that was created afterwards.
    stage.subscribe(4, &["later"]).unwrap();
    assert_eq!(stage.frames(4, 1), ["gap 2", "gap 4"]);

    let mut visited = Vec::new();
    let mut slice = Vec::new();
    while stage.hub.is_walking() {
        stage.hub.next_slice(1, stage.now, &mut slice);
        visited.append(&mut slice);
    }
    visited.sort_unstable_by_key(|subscriber| subscriber.0);
    visited.dedup();
    assert_eq!(visited, [0, 1, 2, 3, 4].map(Subscriber));
}

#[test]
fn a_loss_that_is_forgotten_is_missed_by_those_it_touched() {
    let mut stage = Stage::new(HubLimits::default());
    stage.append("a"); // 1
    stage.append("b"); // 2
    for (slot, topics) in [&["a"][..], &["a", "b"], &["c"]].iter().enumerate() {
        stage.subscribe(slot as u32, topics).unwrap();
    }
    stage.gap(Some(&["b"])); // 3
    stage.now = Duration::from_secs(1000);
    stage.append("a"); // 4
    stage.hub.age(stage.now);
    assert_eq!(stage.missed(0, 1), []);
    assert_eq!(stage.missed(1, 1), [(3, "b".into())]);
    assert_eq!(stage.missed(1, 0), [(1, "a".into()), (3, "b".into())]);
    stage.gap(None); // 5
    stage.now = Duration::from_secs(2000);
    stage.hub.age(stage.now);
    assert_eq!(stage.missed(2, 4), [(5, "c".into())]);
    assert_eq!(stage.missed(1, 4), [(5, "a+b".into())]);
    assert_eq!(stage.missed(1, 5), []);
    assert_eq!(stage.hub.loss_bytes(), 0);
}

#[test]
fn a_loss_beyond_the_bound_evicts_the_oldest_loss_and_older_events() {
    let mut stage = Stage::new(HubLimits { history_events_max: Some(2), ..HubLimits::default() });
    stage.append_all("a", 3); // 1 is gone
    stage.gap(Some(&["a", "later"])); // 4
    stage.append("b"); // 5
    stage.subscribe(0, &["a", "b"]).unwrap();
    // One loss more than are remembered.
    (0..super::losses::LOSSES_MAX).for_each(|_| stage.gap(Some(&["other"])));
    assert_eq!(stage.missed(0, 0), [(4, "a".into())]);
    assert_eq!(stage.resumed(0, 0), ["missed 4 a", "b 5"]);
    // The other topic of the loss has it too, though it did not exist then; no other topic does.
    stage.subscribe(1, &["later"]).unwrap();
    stage.subscribe(2, &["yet another"]).unwrap();
    assert_eq!([stage.missed(1, 3), stage.missed(2, 3)], [vec![(4, "later".into())], vec![]]);
    // It outlives the topic.
    stage.hub.unsubscribe(Subscriber(1));
    stage.subscribe(1, &["later"]).unwrap();
    assert_eq!(stage.missed(1, 3), [(4, "later".into())]);
}

#[test]
fn each_loss_has_a_gap_at_its_place_in_ascending_order() {
    let mut stage = Stage::new(HubLimits { history_events_max: Some(1), ..HubLimits::default() });
    for topic in ["a", "a", "b", "c", "c"] {
        stage.append(topic);
    }
    stage.append("a"); // 6: a holds 6, b holds 3, c holds 5
    stage.subscribe(0, &["a", "b", "c"]).unwrap();
    assert_eq!(stage.resumed(0, 0), ["missed 2 a", "b 3", "missed 4 c", "c 5", "a 6"]);
    assert_eq!(stage.resumed(0, 2), ["b 3", "missed 4 c", "c 5", "a 6"]);
    assert_eq!(stage.resumed(0, 3), ["missed 4 c", "c 5", "a 6"]);
    assert_eq!(stage.resumed(0, 4), ["c 5", "a 6"]);

    let unknown = stage.start(0, "unknown-id", Replay::Missed);
    let opening = unknown.opening.expect("a gap");
    assert_eq!((opening.at.0, opening.reason, names(&opening)), (0, MissedReason::UnknownId, "a+b+c".into()));
    assert_eq!((unknown.position.0, unknown.owed.through.0), (0, 4));
    let wanted = stage.start(0, "", Replay::All);
    assert_eq!((wanted.opening, wanted.owed.through.0), (None, 4));
    assert_eq!(wanted.owed.silent.iter().map(|place| place.0).collect::<Vec<_>>(), [2, 0, 4]);
    // A later loss of one topic counts even if its place is before another topic's.
    stage.append("b"); // 7: 3 is gone
    let after = stage.hub.missed_after(Subscriber(0), Sequence::ZERO, &wanted.owed);
    assert_eq!(after.iter().map(|gap| (gap.at.0, names(gap))).collect::<Vec<_>>(), [(3, "b".into())]);
}

#[test]
fn the_newest_of_each_topic_has_no_cap() {
    let mut stage = Stage::new(HubLimits { replay_events_max: Some(1), ..HubLimits::default() });
    stage.append("a");
    stage.append("b");
    stage.subscribe(0, &["a", "b"]).unwrap();
    let start = stage.start(0, "", Replay::Latest);
    assert_eq!((start.position, start.opening), (Sequence::ZERO, None));
    let capped = stage.start(0, "", Replay::All);
    assert_eq!((capped.position, capped.opening.map(|gap| gap.reason)), (Sequence(1), Some(MissedReason::ReplayLimit)));
}

#[test]
fn a_topic_whose_newest_event_is_gone_has_a_gap_where_only_the_newest_is_wanted() {
    let mut stage = Stage::new(HubLimits::default());
    stage.append("a"); // 1
    stage.append("b"); // 2
    stage.append("a"); // 3
    stage.now = Duration::from_secs(1000);
    stage.hub.age(stage.now);
    stage.append("b"); // 4
    stage.subscribe(0, &["a", "b"]).unwrap();
    let latest = |id: &str| {
        let start = stage.start(0, id, Replay::Latest);
        let mut run = Run::default();
        let format = |gap: &MissedGap| format!("missed {} {}\n", gap.at, names(gap)).into_bytes().into();
        let opening = start.opening.map(|gap| format!("unknown {}", names(&gap)));
        let subscriber = Subscriber(0);
        stage.hub.latest_run_for(subscriber, start.position, &start.owed, format, RunLimits::NONE, &mut run);
        opening.into_iter().chain(texts(&run)).collect::<Vec<_>>()
    };
    assert_eq!(latest(&stage.id(1)), ["missed 3 a", "b 4"]);
    assert_eq!(latest(&stage.id(3)), ["b 4"]);
    assert_eq!(latest(&stage.id(4)), [""; 0]);
    assert_eq!(latest("unknown-id"), ["unknown a", "missed 3 a", "b 4"]);
    assert_eq!(latest(""), ["b 4"]);
}

#[test]
fn an_id_that_was_used_twice_is_unknown_once_the_first_event_is_forgotten() {
    let mut stage = Stage::new(HubLimits { history_events_max: Some(2), ..HubLimits::default() });
    stage.append_with_id("a", "x"); // 1
    stage.append_with_id("a", "y"); // 2
    stage.subscribe(0, &["a"]).unwrap();
    stage.subscribe(1, &["a", "b"]).unwrap();
    let position = |stage: &Stage, slot, id| {
        let start = stage.start(slot, id, Replay::Missed);
        start.id_is_known.then_some(start.position.0)
    };
    stage.append_with_id("a", "z"); // 3
    assert_eq!(position(&stage, 0, "x"), Some(1), "the last one forgotten is a known position");
    stage.append_with_id("a", "x"); // 4: 2 is the last one forgotten
    assert_eq!([position(&stage, 0, "x"), position(&stage, 0, "y")], [None, Some(2)]);
    // The id is just as ambiguous if another topic has forgotten it.
    stage.append_with_id("b", "z"); // 5
    assert_eq!(position(&stage, 1, "z"), Some(3));
    stage.append_all("b", 3);
    assert_eq!(position(&stage, 1, "z"), None);
    assert_eq!(position(&stage, 0, "z"), Some(3));
}
