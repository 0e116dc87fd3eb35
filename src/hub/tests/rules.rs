//! Rules for topics: which one counts, and what a new one changes.

use super::*;
use crate::event::Naming;

fn rule(pattern: &str) -> TopicRule {
    TopicRule { pattern: pattern.to_owned(), ..TopicRule::default() }
}

fn retained(hub: &Hub, topic: &str) -> usize {
    hub.topic(topic).map_or(0, |topic| topic.retained_events)
}

#[test]
fn the_first_rule_that_matches_limits_a_topic_and_no_rule_the_servers_own() {
    let mut stage = Stage::new(HubLimits { history_events_max: Some(3), ..HubLimits::default() });
    let rules = [
        TopicRule { history_events_max: Some(5), ..rule("ab") },
        TopicRule { history_events_max: Some(2), ..rule("a*") },
        TopicRule { history_bytes_max: Some(300), ..rule("*") },
    ];
    stage.hub.set_rules(&rules);
    for (topic, expected) in [("ab", 5), ("a", 2), ("abc", 2), ("b", 2)] {
        stage.append_all(topic, 9);
        assert_eq!(retained(&stage.hub, topic), expected, "{topic}");
    }
    let of_all: Vec<_> = stage.hub.evictions().filter(|(_, count)| *count > 0).collect();
    assert_eq!(of_all, [("history_events", 4 + 7 + 7), ("history_bytes", 7)]);
    let own = Topic::statistics();
    for _ in 0..9 {
        let (sequence, frame) = (stage.number(), vec![b'x'; 200].into());
        stage.hub.append(Broadcast { sequence, topic: own.clone(), naming: Naming::Here(None), frame }, stage.now);
    }
    assert_eq!(retained(&stage.hub, own.as_str()), 3);
}

#[test]
fn each_topic_forgets_by_its_own_age_and_losses_by_the_longest() {
    let mut stage = Stage::new(HubLimits { history_age_max: Duration::from_secs(60), ..HubLimits::default() });
    let age = |pattern, seconds| TopicRule { history_age_max: Some(Duration::from_secs(seconds)), ..rule(pattern) };
    stage.hub.set_rules(&[age("short", 10), age("long", 600)]);
    ["long", "usual", "short", "long", "short"].into_iter().for_each(|topic| _ = stage.append(topic));
    stage.gap(None);
    let mut check = |seconds: u64, expected: [usize; 3], loss_is_known: bool| {
        stage.now = Duration::from_secs(seconds);
        assert!(stage.hub.age(stage.now));
        assert_eq!(["short", "usual", "long"].map(|topic| retained(&stage.hub, topic)), expected, "{seconds}");
        assert_eq!(stage.hub.loss_bytes() > 0, loss_is_known, "{seconds}");
    };
    check(9, [2, 1, 2], true);
    check(10, [0, 1, 2], true);
    check(60, [0, 0, 2], true);
    check(599, [0, 0, 2], true);
    check(600, [0, 0, 0], false);
}

#[test]
fn new_rules_reach_every_topic_in_several_calls() {
    let mut stage = Stage::new(HubLimits { history_bytes_total_max: 1 << 30, ..HubLimits::default() });
    let topics: Vec<_> = (0..3000).map(|n| format!("t{n}")).collect();
    topics.iter().for_each(|topic| stage.append_all(topic, 4));
    stage.append_all("many", 9000);
    assert!(stage.hub.apply_rules(), "no rules have changed");
    let mut rules: Vec<_> = (0..20).map(|n| rule(&format!("other{n}"))).collect();
    rules.push(TopicRule { history_events_max: Some(3), history_age_max: Some(Duration::from_secs(1)), ..rule("*") });
    stage.hub.set_rules(&rules);
    let mut calls = 1;
    while !stage.hub.apply_rules() {
        calls += 1;
    }
    assert!(calls >= 3, "{calls}");
    assert!(topics.iter().all(|topic| retained(&stage.hub, topic) == 3) && retained(&stage.hub, "many") == 3);
    stage.append_all("later", 4);
    assert_eq!(retained(&stage.hub, "later"), 3);
    while !stage.hub.age(Duration::from_secs(1)) {}
    assert_eq!(stage.hub.retained_events(), 0, "the new age holds for old topics too");

    stage.hub.set_rules(&[]);
    while !stage.hub.apply_rules() {}
    stage.append_all("many", 10);
    assert_eq!(retained(&stage.hub, "many"), 10);
}

#[test]
fn new_rules_evict_nothing_that_a_walk_has_still_to_deliver() {
    let mut stage = Stage::new(HubLimits::default());
    stage.subscribe(1, &["t"]).unwrap();
    stage.append_all("t", 3);
    stage.end_walks();
    stage.append_all("t", 2);
    stage.hub.set_rules(&[TopicRule { history_events_max: Some(1), ..rule("t") }]);
    assert!(stage.hub.apply_rules());
    assert_eq!(retained(&stage.hub, "t"), 2, "the walk has still to deliver both");
    stage.end_walks();
    stage.append("t");
    assert_eq!(retained(&stage.hub, "t"), 1);
}

#[test]
fn a_subscriber_has_the_slowest_pace_of_its_topics() {
    let mut stage = Stage::new(HubLimits::default());
    let paced = |pattern, ms, latest| {
        let pace = TopicPace { interval_floor: Duration::from_millis(ms), latest };
        TopicRule { pace, ..rule(pattern) }
    };
    stage.hub.set_rules(&[paced("a", 100, true), paced("b", 200, true), paced("c", 300, false)]);
    for (slot, topics, ms, latest) in [
        (1, &["a"][..], 100, true),
        (2, &["a", "b"], 200, true),
        (3, &["a", "b", "c"], 300, false),
        (4, &["b", "other"], 200, false),
        (5, &["other"], 0, false),
    ] {
        stage.subscribe(slot, topics).unwrap();
        let expected = TopicPace { interval_floor: Duration::from_millis(ms), latest };
        assert_eq!(stage.hub.pace_of(Subscriber(slot)), expected, "{topics:?}");
    }
}
