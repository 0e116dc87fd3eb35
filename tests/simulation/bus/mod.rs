//! Worlds on a durable bus: nodes with the real server, reader and appender, and a model of the engine with its faults.
//!
//! *As long as the engine keeps what it acknowledged, a client may be cut off at any byte and may return to any node: it
//! receives every event of its topics once, in order. Where something is missing, it receives a gap.* `life` checks that
//! from what the client received over its whole life; `truth` is what was on the bus.

mod client;
mod engine;
mod life;
mod life_tests;
mod mishaps;
mod node;
mod plan;
mod publisher;
mod totals;
mod truth;
mod world;

use std::io::Write;

use totals::Totals;
use world::World;

use super::{collect, report, seeds_of};

/// The seeds of every run; `FANFARE_SIM_SEEDS=a..b` names others.
const SEEDS: std::ops::Range<u64> = 0..300;
/// Worlds that showed a defect: a heartbeat named a position behind a page that was on its way; a stream continued from a
/// page after the engine had taken back its place.
const SEEDS_OF_DEFECTS: [u64; 2] = [1748, 7623];

#[test]
fn every_subscriber_of_a_bus_has_every_event_or_a_true_gap() {
    let mut totals = Totals::default();
    let seeds = seeds_of(SEEDS).chain(SEEDS_OF_DEFECTS);
    let failures = collect(seeds, |seed| World::new(seed).live(), |(_, of_world)| totals.add(&of_world));
    // Past the capture of the test's output: a run that checked nothing is to be seen.
    writeln!(std::io::stderr(), "checked {totals}").unwrap();
    report(&failures, "every_subscriber_of_a_bus");
    let never = totals.never();
    assert!(seeds_of(SEEDS) != SEEDS || never.is_empty(), "in none of the worlds there was a {never:?}");
}

#[test]
fn the_same_seed_is_the_same_world_of_a_bus() {
    for seed in 0..10 {
        let [one, other] = [(), ()].map(|()| World::new(seed).live().expect("every_subscriber_of_a_bus"));
        assert!(one == other, "seed {seed} is two worlds:\n{one:?}\n{other:?}");
    }
}
