//! The whole server in worlds made from seeds: real hub, sequencer, channel and loop, on a simulated network.
//!
//! *Each client has every event of its topics exactly once, in order, or a true gap, never a false one.* `ledger` says what
//! that means, and holds it against what a client has received over all its connections, nodes and restarts. `wire` checks
//! what has its time, stream by stream. A failing seed prints the end of its trace and how to run it again.

#[path = "simulation/census.rs"]
mod census;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/fairness.rs"]
mod fairness;
#[path = "simulation/feed.rs"]
mod feed;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/ledger_tests.rs"]
mod ledger_tests;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/order.rs"]
mod order;
#[path = "simulation/regressions.rs"]
mod regressions;
#[path = "simulation/stand.rs"]
mod stand;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use std::io::Write;
use std::ops::Range;

use census::Census;
use world::{Outcome, World};

/// The seeds of every run; `FANFARE_SIM_SEEDS=a..b` names others.
const SEEDS: Range<u64> = 0..200;

#[test]
fn every_subscriber_has_every_event_or_a_true_gap() {
    let (mut census, mut failures) = (Census::default(), Vec::new());
    for seed in seeds() {
        match live(seed) {
            Ok((_, of_world)) => census.add(&of_world),
            Err(what) => failures.push((seed, what)),
        }
    }
    // Past the capture of the test's output: a run that checked nothing is to be seen.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "checked {census}").unwrap();
    if let [(seed, what), ..] = &failures[..] {
        let all: Vec<_> = failures.iter().map(|(seed, what)| format!("{seed}: {}", essence(what))).collect();
        panic!("{what}\n\n{} seeds fail:\n{}\n\nagain with\n{}", all.len(), all.join("\n"), rerun(*seed));
    }
    let never = census.never();
    assert!(seeds() != SEEDS || never.is_empty(), "in none of the worlds there was a {never:?}");
}

/// One world; a panic in it is a failure like any other.
fn live(seed: u64) -> Outcome {
    let outcome = std::panic::catch_unwind(|| World::new(seed).live());
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

/// What went wrong, without the trace.
fn essence(what: &str) -> String {
    what.split("\n\n").nth(1).unwrap_or(what).lines().take(3).collect::<Vec<_>>().join(" | ")
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..20 {
        let [one, other] = [(), ()].map(|()| live(seed).expect("every_subscriber_has_every_event_or_a_true_gap"));
        assert!(one == other, "seed {seed} is two worlds:\n{one:?}\n{other:?}");
    }
}

fn rerun(seed: u64) -> String {
    format!("FANFARE_SIM_SEEDS={seed}..{} cargo test --test simulation every_subscriber", seed + 1)
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("FANFARE_SIM_SEEDS") else { return SEEDS };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("FANFARE_SIM_SEEDS is a range like 0..1000")
}
