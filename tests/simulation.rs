//! The whole server in worlds made from seeds: real hub, sequencer, channel and loop, on a simulated network.
//!
//! *Each client has every event of its topics exactly once, in order, or a true gap, never a false one.* `ledger` says what
//! that means, and holds it against what a client has received over all its connections, nodes and restarts. `wire` checks
//! what has its time, stream by stream. A failing seed prints the end of its trace and how to run it again.

#[path = "simulation/bus/mod.rs"]
mod bus;
#[path = "simulation/census.rs"]
mod census;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/coding.rs"]
mod coding;
#[path = "simulation/fairness.rs"]
mod fairness;
#[path = "simulation/feed.rs"]
mod feed;
#[path = "simulation/late.rs"]
mod late;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/ledger_tests.rs"]
mod ledger_tests;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/order.rs"]
mod order;
#[path = "simulation/reception.rs"]
mod reception;
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
use std::panic::RefUnwindSafe;

use census::Census;
use world::World;

/// The seeds of every run; `FANFARE_SIM_SEEDS=a..b` names others.
const SEEDS: Range<u64> = 0..200;

#[test]
fn every_subscriber_has_every_event_or_a_true_gap() {
    let mut census = Census::default();
    let failures = collect(seeds_of(SEEDS), |seed| World::new(seed).live(), |(_, of_world)| census.add(&of_world));
    // Past the capture of the test's output: a run that checked nothing is to be seen.
    writeln!(std::io::stderr(), "checked {census}").unwrap();
    report(&failures, "every_subscriber_has");
    let never = census.never();
    assert!(seeds_of(SEEDS) != SEEDS || never.is_empty(), "in none of the worlds there was a {never:?}");
}

/// Lives through the worlds of these seeds. Returns the seeds that fail, and what went wrong; a panic is a failure, too.
fn collect<T>(
    seeds: impl IntoIterator<Item = u64>,
    live: impl Fn(u64) -> Result<T, String> + RefUnwindSafe,
    mut add: impl FnMut(T),
) -> Vec<(u64, String)> {
    let mut failures = Vec::new();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| live(seed)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
        });
        match outcome {
            Ok(of_world) => add(of_world),
            Err(what) => failures.push((seed, what)),
        }
    }
    failures
}

/// Panics if seeds failed, with the first of them and how to run it again.
fn report(failures: &[(u64, String)], test: &str) {
    let [(seed, what), ..] = failures else { return };
    let all: Vec<_> = failures.iter().map(|(seed, what)| format!("{seed}: {}", essence(what))).collect();
    let again = format!("FANFARE_SIM_SEEDS={seed}..{} cargo test --test simulation {test}", seed + 1);
    panic!("{what}\n\n{} seeds fail:\n{}\n\nagain with\n{again}", all.len(), all.join("\n"));
}

/// What went wrong, without the trace.
fn essence(what: &str) -> String {
    what.split("\n\n").nth(1).unwrap_or(what).lines().take(3).collect::<Vec<_>>().join(" | ")
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..20 {
        let [one, other] = [(), ()].map(|()| World::new(seed).live().expect("every_subscriber_has"));
        assert!(one == other, "seed {seed} is two worlds:\n{one:?}\n{other:?}");
    }
}

/// These, unless others are asked for.
fn seeds_of(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("FANFARE_SIM_SEEDS") else { return usual };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("FANFARE_SIM_SEEDS is a range like 0..1000")
}
