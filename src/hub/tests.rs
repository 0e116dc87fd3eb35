//! The hub's rules one by one; `tests/hub_oracle.rs` holds all of them together against a naive twin.

use std::time::Duration;

use super::*;

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
        self.hub.append(Broadcast { sequence, topic: name(topic), foreign_id: None, frame }, self.now)
    }

    fn append_all(&mut self, topic: &str, count: usize) {
        (0..count).for_each(|_| assert_eq!(self.append(topic), Appended::Logged));
    }

    fn gap(&mut self, topics: Option<&[&str]>) {
        let sequence = self.number();
        let topics = topics.map(|topics| topics.iter().copied().map(name).collect::<Vec<_>>());
        let frame = format!("gap {sequence}\n").into_bytes().into();
        self.hub.append_gap(sequence, topics.as_deref(), &frame, self.now);
    }

    fn number(&mut self) -> Sequence {
        self.next += 1;
        Sequence(self.next - 1)
    }

    fn subscribe(&mut self, slot: u32, topics: &[&str]) -> Result<(), TopicsExhausted> {
        let topics: Vec<_> = topics.iter().copied().map(name).collect();
        self.hub.subscribe(Subscriber(slot), &topics)
    }

    /// Visits up to so many subscribers, and brings them no further than `cut_at`.
    fn walk(&mut self, subscribers: usize, cut_at: Option<u64>) {
        let slice = self.hub.next_slice(subscribers, self.now, &mut Vec::new()).expect("a walk in progress");
        cut_at.into_iter().for_each(|through| self.hub.cut_walk(&slice, Sequence(through), self.now));
    }

    fn end_walks(&mut self) {
        while self.hub.next_slice(100, self.now, &mut Vec::new()).is_some() {}
    }

    /// The gap due to a subscriber that comes back with the id of `position`.
    fn missed(&self, slot: u32, position: u64) -> Option<(u64, Vec<String>)> {
        let id = RunName::from_bits(RUN).id(Sequence(position));
        let start = self.hub.start(Subscriber(slot), id.as_str().as_bytes(), Replay::Missed);
        start.gap.map(|gap| (gap.at.0, gap.topics.iter().map(Topic::to_string).collect()))
    }

    fn frames(&self, slot: u32, after: u64) -> Vec<String> {
        let mut run = Run::default();
        self.hub.run_for(Subscriber(slot), Sequence(after), self.hub.head(), RunLimits::NONE, &mut run);
        run.frames().iter().map(|frame| String::from_utf8_lossy(frame.bytes()).trim_end().to_owned()).collect()
    }
}

fn name(topic: &str) -> Topic {
    Topic::new(topic).unwrap()
}

#[test]
fn age_forgets_only_what_is_old() {
    let mut stage = Stage::new(HubLimits { history_events_max: 2, ..HubLimits::default() });
    stage.append_all("a", 3);
    stage.now = Duration::from_secs(200);
    stage.append_all("a", 2);
    stage.hub.age(Duration::from_secs(301));
    assert_eq!(stage.hub.retained_events(), 2);
    stage.hub.age(Duration::from_secs(501));
    assert_eq!(stage.hub.retained_events(), 0);
}

#[test]
fn what_a_walk_could_not_bring_round_is_brought_by_another_and_not_outrun() {
    let stage = || {
        let mut stage = Stage::new(HubLimits { history_events_max: 3, ..HubLimits::default() });
        (0..2).for_each(|slot| stage.subscribe(slot, &["a"]).unwrap());
        stage.append_all("a", 3);
        stage
    };
    let would_outrun = |stage: &Stage| stage.hub.would_outrun("a", 1);

    let mut whole = stage();
    assert!(would_outrun(&whole));
    whole.walk(2, None); // through 1, which started it
    assert!(!would_outrun(&whole));
    whole.append("a");
    assert!(would_outrun(&whole), "2 was brought to nobody");
    whole.end_walks();
    assert!(!would_outrun(&whole));

    // In one slice, in the first of two, in the second of two.
    for slices in [&[(2, Some(1))][..], &[(1, Some(1)), (1, None)], &[(1, None), (1, Some(1))]] {
        let mut cut = stage();
        cut.walk(2, None);
        slices.iter().for_each(|(subscribers, cut_at)| cut.walk(*subscribers, *cut_at));
        assert!(cut.hub.is_walking(), "{slices:?}: for the rest");
        assert!(!would_outrun(&cut), "{slices:?}: 1 is everybody's");
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
fn an_unused_topic_makes_place_however_lately_it_was_published_to() {
    let mut stage = Stage::new(HubLimits { topics_max: 1, ..HubLimits::default() });
    assert_eq!(stage.append("a"), Appended::Logged);
    assert_eq!(stage.append("a"), Appended::Logged);
    assert!(stage.hub.has_room_for("b"));
    assert_eq!(stage.append("b"), Appended::Logged);
}

#[test]
fn who_comes_for_a_topic_that_had_no_room_is_told_of_a_gap() {
    let mut stage = Stage::new(HubLimits { topics_max: 1, ..HubLimits::default() });
    stage.subscribe(0, &["a"]).unwrap();
    stage.append("a");
    assert_eq!(stage.append("b"), Appended::NoTopic);
    assert_eq!(stage.subscribe(1, &["b"]), Err(TopicsExhausted));
    stage.hub.unsubscribe(Subscriber(0));
    stage.end_walks();
    stage.subscribe(1, &["b"]).unwrap();
    assert_eq!(stage.missed(1, 1), Some((2, vec!["b".into()])));
    assert_eq!(stage.missed(1, 2), None);
}

#[test]
fn a_loss_of_a_topic_that_does_not_exist_is_told_to_who_comes_for_it() {
    let mut stage = Stage::new(HubLimits::default());
    stage.append("a");
    stage.gap(Some(&["b"]));
    stage.subscribe(0, &["b"]).unwrap();
    assert_eq!(stage.missed(0, 1), Some((2, vec!["b".into()])));
}

#[test]
fn a_gap_that_one_log_forgot_and_another_tells_is_told_once() {
    let mut stage = Stage::new(HubLimits { history_events_max: 2, ..HubLimits::default() });
    stage.append("a"); // 1
    stage.append("b"); // 2
    stage.subscribe(0, &["a", "b"]).unwrap();
    stage.gap(None); // 3
    assert_eq!(stage.frames(0, 2), ["gap 3"]);
    // The busy topic forgets its copy of the gap; the quiet one has it still.
    stage.append_all("a", 2);
    assert_eq!(stage.missed(0, 2), None);
    assert_eq!(stage.frames(0, 2), ["gap 3", "a 4", "a 5"]);
    assert!(!stage.hub.is_evicted(Subscriber(0), Sequence(2)));
    // Now it is gone everywhere, or an event is.
    stage.append("a"); // 6
    assert_eq!(stage.missed(0, 2), Some((4, vec!["a".into()])));
    stage.append_all("b", 2);
    assert_eq!(stage.missed(0, 4), None);
    assert_eq!(stage.missed(0, 2), Some((4, vec!["a".into(), "b".into()])));
}

#[test]
fn a_gap_that_every_log_forgot_is_missed_though_a_later_one_is_told() {
    let mut stage = Stage::new(HubLimits { history_events_max: 1, ..HubLimits::default() });
    stage.append("a"); // 1
    stage.append("b"); // 2
    stage.subscribe(0, &["a", "b"]).unwrap();
    stage.gap(Some(&["a"])); // 3
    stage.gap(None); // 4, and 3 is gone
    assert_eq!(stage.missed(0, 2), Some((3, vec!["a".into()])));
    stage.append("a"); // 5
    assert_eq!(stage.missed(0, 2), Some((3, vec!["a".into()])));
    assert_eq!(stage.missed(0, 3), None);
    assert_eq!(stage.frames(0, 2), ["gap 4", "a 5"]);
    // However many there were.
    (0..100).for_each(|_| stage.gap(Some(&["a"])));
    assert_eq!(stage.missed(0, 2), Some((104, vec!["a".into()])));
}

#[test]
fn the_newest_of_each_topic_has_no_cap() {
    let mut stage = Stage::new(HubLimits { replay_events_max: Some(1), ..HubLimits::default() });
    stage.append("a");
    stage.append("b");
    stage.subscribe(0, &["a", "b"]).unwrap();
    let start = stage.hub.start(Subscriber(0), b"", Replay::Latest);
    assert_eq!(start, Start { position: Sequence::ZERO, gap: None, id_is_known: false });
    let capped = stage.hub.start(Subscriber(0), b"", Replay::All);
    assert_eq!((capped.position, capped.gap.map(|gap| gap.reason)), (Sequence(1), Some(MissedReason::ReplayLimit)));
}

#[test]
fn a_gap_that_takes_in_an_older_one_names_the_topics_of_both() {
    let gap = |at: u64, reason, topics: &[&str], last_id: Option<&str>| MissedGap {
        at: Sequence(at),
        reason,
        topics: topics.iter().copied().map(name).collect(),
        last_id: last_id.map(|id| EventId::new(id).unwrap()),
    };
    let older = gap(3, MissedReason::UnknownId, &["a", "b"], Some("x"));
    let newer = gap(9, MissedReason::Evicted, &["b", "c"], None);
    assert_eq!(newer.with(older), gap(9, MissedReason::UnknownId, &["b", "c", "a"], Some("x")));
}
