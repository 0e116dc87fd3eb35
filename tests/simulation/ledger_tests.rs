//! The history checker against histories written by hand: those that a client may have, and those that it must not.
//!
//! `check(published, received, verdict)`: what was published is one order for each node, divided by `/`, of the topics of
//! its events. `a=X` has the publisher's id X; `!a` is a loss in topic a, `!*` one in all. Sequences count from 1. What the
//! client of topics a, b and c received is a list of
//! - `fresh MODE N`: a stream asked for without an id, that starts at N; `+1` behind the mode is `latest=1`;
//! - `resume MODE`: one that resumes from the id that the client holds, which the server confirms; with `?` it does
//!   not;
//! - `N`: the event or the loss at sequence N;
//! - `gap REASON TOPICS N`: a gap at N, of topics that are divided by commas;
//! - `node N`: the client turns to another node, counted from 0;
//! - `cut`, and `end`, at which every client has read everything.
//!
//! The verdict is `ok`, or the rule that is broken.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare::event::RunName;

use crate::ledger::{Ledger, Opening, Received};
use crate::order::{Bounds, History, Order, Record, Scope};

const BOUNDS: Bounds = Bounds {
    topics_max: 100,
    events_max: 1,
    bytes_max: 1000,
    age_max: Duration::from_secs(300),
    replay_events_max: Some(1),
    skips_slow: true,
};

struct Life {
    history: History,
    orders: Vec<Order>,
    node: usize,
    ledger: Ledger,
    held_id: String,
}

impl Life {
    fn new(published: &str) -> Life {
        let history = History::default();
        let orders = published.split('/').zip(1..).map(|(order, bits)| read_order(order, bits, &history)).collect();
        let ledger = Ledger::new(&["a", "b", "c"].map(str::to_owned));
        Life { history, orders, node: 0, ledger, held_id: String::new() }
    }

    fn live(&mut self, received: &str) -> Result<(), String> {
        received.split(", ").try_for_each(|step| self.step(step).map_err(|what| format!("{what}\nat {step}")))
    }

    fn step(&mut self, step: &str) -> Result<(), String> {
        match &step.split(' ').collect::<Vec<_>>()[..] {
            ["fresh", mode, position] => {
                self.held_id = String::new();
                let position = self.orders[self.node].id(position.parse().unwrap());
                self.open(mode, Some(position))
            }
            ["resume", mode] => self.open(mode, Some(self.held_id.clone())),
            ["resume", mode, "?"] => self.open(mode, None),
            ["gap", reason, topics, at] => {
                let topics: Vec<_> = topics.split(',').collect();
                let data = serde_json::json!({"reason": reason, "topics": topics, "last_id": null}).to_string();
                let id = self.orders[self.node].id(at.parse().unwrap());
                self.receive("gap", &data, &id)
            }
            ["node", node] => {
                self.node = node.parse().unwrap();
                Ok(())
            }
            ["cut"] => {
                self.ledger.disconnect();
                Ok(())
            }
            ["end"] => self.ledger.check_complete(&self.orders[self.node], Duration::MAX),
            [sequence] => {
                let sequence = sequence.parse().unwrap();
                match self.orders[self.node].record(sequence).clone() {
                    Record::Event { data, id, .. } => self.receive("message", &data, &id),
                    Record::Loss { scope, reason } => {
                        let topic = if let Scope::Topics(topics) = &scope { &topics[0] } else { "*" };
                        self.step(&format!("gap {reason} {topic} {sequence}"))
                    }
                    Record::Duplicate => panic!("no client may receive a duplicate"),
                }
            }
            other => panic!("{other:?} is no step"),
        }
    }

    fn open(&mut self, mode: &str, preamble_id: Option<String>) -> Result<(), String> {
        let order = &self.orders[self.node];
        let (mode, latest) = mode.strip_suffix("+1").map_or((mode, false), |mode| (mode, true));
        let modes = ["missed", "all", "latest", "none"];
        let opening = Opening {
            last_event_id: self.held_id.clone(),
            replay: modes.into_iter().find(|known| *known == mode).unwrap(),
            latest,
            preamble_id: preamble_id.clone(),
            answered: order.last(),
            heard: 0,
        };
        self.held_id = preamble_id.unwrap_or(self.held_id.clone());
        self.ledger.connect(&opening, order, Duration::MAX)
    }

    fn receive(&mut self, event_type: &str, data: &str, id: &str) -> Result<(), String> {
        let received = Received { event_type, data, id };
        self.held_id = id.to_owned();
        self.ledger.take(received, &self.orders[self.node], &self.history, Duration::MAX).map(drop)
    }
}

/// Events of all nodes that stand at the same place of a topic are the same.
fn read_order(order: &str, bits: u64, history: &History) -> Order {
    let mut read = Order::new(RunName::from_bits(bits), BOUNDS, BTreeMap::new());
    let mut counts = BTreeMap::<&str, usize>::new();
    for word in order.split_whitespace() {
        let (topic, id) = word.split_once('=').map_or((word, None), |(topic, id)| (topic, Some(id)));
        match topic.strip_prefix('!') {
            Some("*") => _ = read.loss(Scope::All, "source_lost"),
            Some(topic) => _ = read.loss(Scope::Topics(vec![topic.to_owned()]), "event_refused"),
            None => {
                let count = counts.entry(topic).or_default();
                *count += 1;
                let data = format!("{topic}{count}");
                read.event((topic, history.note(topic, &data)), &data, id, Duration::ZERO);
            }
        }
    }
    read
}

#[track_caller]
fn check(published: &str, received: &str, verdict: &str) {
    let outcome = Life::new(published).live(received);
    let shown = outcome.as_ref().map_or_else(|what| what.trim_start_matches("in the end: "), |()| "ok");
    assert!(shown.starts_with(verdict), "{published}: {received}\nis not {verdict}, but {shown}");
}

#[test]
fn everything_once_and_in_order() {
    check("a b a", "fresh missed 0, 1, 2, 3, end", "ok");
    check("a b a", "fresh missed 1, 2, 3, end", "ok");
    check("a b a", "fresh missed 0, 1, cut, resume missed, 2, cut, resume missed, 3, end", "ok");
    check("a b a", "fresh missed 0, 1, 3, end", "C6"); // b is lost, and nothing of it comes later
    check("a b a b", "fresh missed 0, 1, 3, 4", "C3");
    check("a b a", "fresh missed 0, 1, 2, end", "C3");
    check("a b a", "fresh missed 0, 1, 2, 2", "C6");
    check("a b a", "fresh missed 0, 2, 1", "C6");
    check("a b a", "fresh missed 0, 1, 2, cut, resume missed, 2", "C6");
    check("a d", "fresh missed 0, 1, 2", "C1");
    check("a", "fresh missed 2", "C6");
}

#[test]
fn a_stream_without_an_id_must_receive_what_follows() {
    check("a a b", "fresh none 2, 3, end", "ok");
    check("a a b", "fresh missed 0, 1, cut, fresh none 2, 3, end", "ok");
    // Of the past what is remembered, and each topic without holes.
    check("a a a", "fresh all 0, 2, 3, end", "ok");
    check("a a a", "fresh all 0, 3, end", "ok");
    check("a a a", "fresh all 0, 1, 3", "C3");
    check("a a a", "fresh all 0, cut, resume missed, 2, 3, end", "ok");
    check("a a b", "fresh latest 0, 2, 3, end", "ok");
    check("a a b", "fresh latest 0, 2, 1", "C6");
}

#[test]
fn a_gap_stands_where_something_is_missing() {
    check("a a a", "fresh missed 0, gap evicted a 2, 3, end", "ok");
    check("a a a", "fresh missed 0, gap evicted a 3, end", "ok");
    check("a a a", "fresh missed 0, 1, 2, gap evicted a 2", "C6");
    check("a b b", "fresh missed 0, 1, gap evicted a 2", "C5");
    check("a b b", "fresh missed 0, 1, gap evicted b 2, 3, end", "ok");
    check("a b b", "fresh missed 0, 1, gap evicted a,b 2", "C5");
    check("a b b", "fresh missed 0, 1, gap evicted * 2", "C1");
    check("a a a", "fresh missed 0, gap evicted a 2, 1", "C6");
    check("a a a", "fresh missed 0, gap too_slow a 3, end", "ok");
    check("a a a", "fresh missed 0, 1, cut, resume missed, gap replay_limit a 2, 3, end", "ok");
    check("a a a", "fresh missed 0, 1, gap replay_limit b 2", "C5");
    check("a a", "fresh missed 0, 1, cut, resume missed, gap replay_limit a 2", "C5"); // one event is within the limit
}

/// Row 3: topic a has lost 2, and c has lost 5.
#[test]
fn a_client_gets_the_gap_of_a_loss_wherever_it_is_cut_off() {
    let published = "a a b b c c a";
    let first = "fresh missed 0, 1, cut, resume missed";
    let check = |rest: &str, verdict| check(published, &format!("{first}, {rest}"), verdict);
    check("gap evicted a 2, 3, 4, gap evicted c 5, 6, 7, end", "ok");
    check("cut, resume missed, gap evicted a 2, cut, resume missed, 3, 4, gap evicted c 5, 6, 7, end", "ok");
    check("gap evicted a 2, 3, 4, cut, resume missed, gap evicted c 5, cut, resume missed, 6, 7, end", "ok");
    check("3, 4, cut, resume missed, gap evicted c 5, 6, 7", "C3");
    check("3, 4, gap evicted a,c 5, 6, 7, cut, resume missed, gap evicted a 7", "C6");
}

#[test]
fn a_loss_that_no_event_follows_causes_a_gap_at_once() {
    check("a a b b", "fresh missed 0, 1, 3", "C6");
    check("a a b b", "fresh missed 0, 1, gap evicted b 3", "C6");
    check("a a b b", "fresh missed 0, 1, gap evicted a 2, 3, 4, end", "ok");
    // Topic a has lost 4 as well: its gap stands there.
    check("a a b a", "fresh missed 0, 1, 3, gap evicted a 4, end", "ok");
    check("a a b a", "fresh missed 0, 1, 3, end", "C3");
}

/// Row 4: of two events both are forgotten.
#[test]
fn the_newest_event_is_not_lost_silently() {
    for mode in ["latest", "missed+1", "all+1"] {
        let resumed = |rest: &str| format!("fresh missed 0, 1, cut, resume {mode}{rest}, end");
        check("a a", &resumed(""), "C3");
        check("a a", &resumed(", gap evicted a 2"), "ok");
        check("a a", &resumed(", 2"), "ok");
        check("a a a", &resumed(", 3"), "ok");
        check("a a a", &resumed(", 2"), "C3");
        check("a a b a b", &resumed(", 4, 5"), "ok");
        check("a a b b a", &resumed(", 4, 5"), "ok");
        check("a a b b a", &resumed(", 5"), "C6"); // a client that is cut off now never gets the newest of b
        check("a !a", &resumed(""), "C3");
        check("a !a", &resumed(", 2"), "ok");
        check("a !a a", &resumed(", 3"), "ok");
    }
    check("a a a", "fresh missed+1 0, 1, 3, end", "ok");
    check("a a a", "fresh missed+1 0, 1, 2, 1", "C6");
}

/// Row 15: an id that was used again after its first event was forgotten.
#[test]
fn an_id_that_was_used_twice_loses_nothing() {
    let published = "a=X a a a=X a";
    let check = |received: &str, verdict| check(published, received, verdict);
    check("fresh missed 0, 1, cut, resume missed, 5", "C3");
    check("fresh missed 0, 1, cut, resume missed, end", "C3");
    check("fresh missed 0, 1, cut, resume missed, 2, 3, 4, 5, end", "ok");
    check("fresh missed 0, 1, cut, resume missed, gap evicted a 4, 5, end", "ok");
    check("fresh missed 0, 1, cut, resume missed ?, gap unknown_id a,b,c 4, 5, end", "ok");
    // The client has the second one. What follows the first may come again, as often as it is cut off in it.
    check("fresh missed 3, 4, cut, resume missed, 2, cut, resume missed, 3, 4, 5, end", "ok");
    check("fresh missed 3, 4, cut, resume missed, gap evicted a 3, 4, 5, end", "ok");
    check("fresh missed 3, 4, cut, resume missed, 2, 5, end", "ok");
    check("fresh missed 3, 4, cut, resume missed, 1", "C6");
}

#[test]
fn only_a_node_that_cannot_know_an_id_may_report_it_as_unknown() {
    check("a a", "fresh missed 0, 1, cut, resume missed ?, gap unknown_id a,b,c 0", "C5");
    check("a=X a", "fresh missed 0, 1, cut, resume missed ?, gap unknown_id a,b,c 0, 1, 2, end", "ok");
    let moved = |rest: &str| format!("fresh missed 0, 1, 2, cut, node 1, {rest}");
    check("a a b/a a b", &moved("resume missed ?, gap unknown_id a,b,c 1, 2, 3, end"), "ok");
    check("a a b/a a b", &moved("resume missed ?, gap unknown_id a,b 1"), "C5");
    check("a a b/a a b", &moved("resume missed ?, 2"), "C6");
    check("a a b/a a b", &moved("resume missed ?, end"), "C4");
    check("a a b/a a b", &moved("resume missed"), "C6");
    check("a a b/a a b", &moved("resume missed ?, gap unknown_id a,b,c 1, cut, resume missed, 2, 3, end"), "ok");
    check("a a b/a a b", &moved("resume missed ?, gap unknown_id a,b,c 1, 3"), "C6");
    // Shared ids are known everywhere.
    check("a=W a=X b/!a a=W a=X b", &moved("resume missed, 4, end"), "ok");
    check("a=W a=X b/!a a=W a=X b", &moved("resume missed, 3"), "C6");
    check("a=W a=X b b/!a a=W a=X b b", &moved("resume missed, 5"), "C3");
}

#[test]
fn announced_losses_arrive_once_and_in_order() {
    check("a !a b", "fresh missed 0, 1, 2, 3, end", "ok");
    check("a !a a", "fresh missed 0, 1, 3", "C3");
    check("a !a b", "fresh missed 0, 1, 3", "C6");
    check("a !a b", "fresh missed 0, 1, 2, cut, resume missed, 2", "C6");
    check("a !a b", "fresh missed 0, 1, cut, resume missed, gap evicted a 2, 3, end", "ok");
    check("a !a b", "fresh missed 0, 1, gap evicted b 2", "C5");
    check("a !* b b", "fresh missed 0, 1, gap evicted a,b,c 2, 3, 4, end", "ok");
    check("a !* b b", "fresh missed 0, 1, gap evicted a,b 2, 3, 4, end", "C6");
    check("a !d b", "fresh missed 0, 1, 2", "C7");
    check("a !a b", "fresh missed 0, 1, gap source_lost a 2", "C7");
    check("a b b", "fresh missed 0, 1, gap source_lost a 2", "C7");
    check("a !a b", "fresh missed 0, 1, gap event_refused b 2", "C7");
}
