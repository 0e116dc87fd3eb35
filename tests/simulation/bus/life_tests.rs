//! Histories on a bus that the checker must accept, and those that it must reject, with the rule.

use std::collections::BTreeSet;

use fanfare::event::timeline::Position;

use super::engine::Served;
use super::life::{Known, Life, Memory};
use super::truth::{Fate, Truth, What};
use crate::ledger::{Checked, Received};

/// The client has the topics `a` and `b`.
const TOPICS: [&str; 2] = ["a", "b"];

/// Reads `8-0<` as a fork, `8-1a` as an event of the topic `a`, `8-2!` as a refused entry; `-` at the end: it was trimmed.
fn truth(text: &str) -> Truth {
    let mut truth = Truth::default();
    for word in text.split_whitespace() {
        let (word, fate) = word.strip_suffix('-').map_or((word, Fate::Kept), |word| (word, Fate::Trimmed));
        let (position, kind) = word.split_at(word.len() - 1);
        let what = match kind {
            "<" => What::Fork,
            "!" => What::Refused(None),
            topic => What::Event { topic: topic.to_owned(), data: position.to_owned(), own: None },
        };
        truth.push(Position::parse(position).unwrap(), what);
        truth.records_mut().last_mut().unwrap().fate = fate;
    }
    truth
}

/// Lives through a history: `open 8-0`, `resume 8-1`, `unknown 8-1`, `8-1` (an event), `bus_forked 9-0` (a gap of all topics),
/// `position 8-4`, `cut`, `end`. The node has loaded from `from` on.
fn live(truth: &Truth, from: &str, history: &[&str]) -> Checked {
    let epochs: BTreeSet<u64> = truth.records().iter().map(|record| record.position.epoch).collect();
    let from = Position::parse(from).unwrap();
    let epochs = epochs.into_iter().filter(|epoch| *epoch >= from.epoch).collect();
    let served = Served { from: Some(from), epochs, through: Position::default() };
    let known = Known { truth, served: &served, memory: Memory::Whole };
    let mut life = Life::new(&TOPICS.map(str::to_owned));
    for line in history {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("open", id) => life.connect("", false, Some(id), known)?,
            ("resume", id) => life.connect(id, false, Some(id), known)?,
            ("unknown", id) => life.connect(id, false, None, known)?,
            ("position", id) => life.move_on(id, known)?,
            ("cut", _) => life.disconnect(),
            ("end", _) => life.check_complete(known)?,
            (id, "") => life.take(Received { event_type: "message", data: id, id }, known)?,
            (reason, id) => {
                let data = format!(r#"{{"reason":"{reason}","topics":["*"]}}"#);
                life.take(Received { event_type: "gap", data: &data, id }, known)?;
            }
        }
    }
    Ok(())
}

fn check(records: &str, from: &str, history: &[&str], violation: Option<&str>) {
    let outcome = live(&truth(records), from, history);
    let rule = outcome.as_ref().err().map(|what| &what[..2]);
    assert_eq!(rule, violation, "{records}, from {from}: {history:?}: {outcome:?}");
}

#[test]
fn what_arrives_once_and_in_order_is_accepted() {
    let bus = "8-0< 8-1a 8-2b 8-3c 8-4a";
    check(bus, "8-0", &["open 8-0", "8-1", "8-2", "cut", "resume 8-2", "8-4", "end"], None);
    check(bus, "8-0", &["open 8-0", "8-1", "8-2", "position 8-3", "cut", "resume 8-3", "8-4", "end"], None);
    check(bus, "8-0", &["open 8-0", "8-1", "8-4"], Some("B3"));
    check(bus, "8-0", &["open 8-0", "8-1", "8-2", "end"], Some("B4"));
    check(bus, "8-0", &["open 8-0", "8-1", "8-2", "position 8-4"], Some("B4"));
    check(bus, "8-0", &["open 8-0", "8-1", "8-2", "8-2"], Some("B2"));
    check(bus, "8-0", &["open 8-0", "8-1", "cut", "resume 8-1", "8-1"], Some("B2"));
    check(bus, "8-0", &["open 8-0", "8-1", "8-2", "8-3"], Some("B1"));
    check(bus, "8-0", &["open 8-0", "8-5"], Some("B1"));
    check(bus, "8-0", &["open 8-0", "8-1", "cut", "resume 8-0"], Some("th"));
}

#[test]
fn a_fork_and_a_refused_entry_have_a_gap_at_their_place() {
    let bus = "8-0< 8-1a 8-2! 9-0< 9-1a";
    check(bus, "8-0", &["open 8-0", "8-1", "event_refused 8-2", "bus_forked 9-0", "9-1", "end"], None);
    check(bus, "8-0", &["open 8-0", "8-1", "event_refused 8-2", "9-1"], Some("B3"));
    check(bus, "8-0", &["open 8-0", "8-1", "bus_forked 9-0", "9-1"], None);
    check(bus, "8-0", &["open 8-0", "8-1", "bus_forked 9-1"], Some("B5"));
    check(bus, "8-0", &["open 8-0", "8-1", "bus_forked 8-2"], Some("B5"));
    check(bus, "8-0", &["open 8-0", "8-1", "bus_forked 9-0", "cut", "resume 9-0", "bus_forked 9-0"], Some("B2"));
}

#[test]
fn a_gap_of_trimmed_entries_is_true() {
    let bus = "8-0<- 8-1a- 8-2b- 8-3a 8-4b";
    check(bus, "8-0", &["open 8-1", "bus_trimmed 8-2", "8-3", "8-4", "end"], None);
    check(bus, "8-0", &["open 8-1", "8-3"], Some("B3"));
    check(bus, "8-0", &["open 8-2", "bus_trimmed 8-3"], Some("B5"));
    check(bus, "8-3", &["open 8-1", "evicted 8-2", "8-3"], None);
    check(bus, "8-0", &["open 8-1", "evicted 8-3"], Some("B5"));
    check(bus, "8-0", &["open 8-1", "too_slow 8-4"], Some("B5"));
}

#[test]
fn an_id_is_unknown_only_to_a_node_that_has_not_read_its_epoch() {
    let bus = "8-0< 8-1a 9-0< 9-1a";
    check(bus, "9-0", &["open 8-1", "cut", "unknown 8-1", "unknown_id 9-0", "9-1", "end"], None);
    check(bus, "8-0", &["open 8-1", "cut", "unknown 8-1", "unknown_id 9-0"], Some("B6"));
    check(bus, "9-0", &["open 8-1", "cut", "unknown 8-1", "9-1"], Some("B6"));
    check(bus, "9-0", &["open 8-1", "cut", "unknown 8-1", "unknown_id 9-1"], Some("B5"));
    check(bus, "8-0", &["open 8-1", "cut", "resume 8-1", "unknown_id 9-0"], Some("B6"));
}
