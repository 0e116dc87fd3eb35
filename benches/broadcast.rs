//! What one broadcast costs the real server, against a bare `send()` loop over as many sockets in the same run.
//!
//! The measure is CPU time, from the scheduler: on a shared machine wall-clock time is the neighbours'. Fanfare and
//! the floor take turns, so that what disturbs one disturbs the other; their ratio is the figure that counts.

mod support;

use std::cell::RefCell;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use support::arena::{Cost, Fanfare, Floor};
use support::stats::Spread;

fn main() {
    if support::play_role() {
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    cost(&mut criterion);
    criterion.final_summary();
}

/// Events delivered in one sample, all subscribers together.
const EVENTS_PER_SAMPLE: usize = 10_000;

/// Fanfare and the floor, and what each pair of their turns cost.
struct Pair {
    fanfare: Fanfare,
    floor: Floor,
    payload_bytes: usize,
    rounds: usize,
    turns: Vec<(Cost, Cost)>,
}

impl Pair {
    fn start(subscribers: usize, payload_bytes: usize) -> Pair {
        let fanfare = Fanfare::start(subscribers, &[]);
        let floor = Floor::start(subscribers, payload_bytes);
        let rounds = EVENTS_PER_SAMPLE.div_ceil(subscribers);
        Pair { fanfare, floor, payload_bytes, rounds, turns: Vec::new() }
    }

    /// One turn each; which goes first alternates.
    fn turn(&mut self) -> (Cost, Cost) {
        let turn = if self.turns.len() % 2 == 0 {
            let fanfare = self.fanfare.measure(self.payload_bytes, self.rounds);
            (fanfare, self.floor.measure(self.rounds))
        } else {
            let floor = self.floor.measure(self.rounds);
            (self.fanfare.measure(self.payload_bytes, self.rounds), floor)
        };
        self.turns.push(turn);
        turn
    }

    /// CPU time for so many events, as criterion wants it, of the contender that `which` picks.
    fn time(&mut self, events: u64, which: fn(&(Cost, Cost)) -> Cost) -> Duration {
        let turns = events.div_ceil(EVENTS_PER_SAMPLE as u64);
        let cpu_ns: f64 = (0..turns).map(|_| which(&self.turn()).cpu_ns_per_event).sum();
        Duration::from_nanos((cpu_ns / turns as f64 * events as f64) as u64)
    }

    fn report(&self, name: &str) {
        let ratio =
            Spread::of(self.turns.iter().map(|(fanfare, floor)| fanfare.cpu_ns_per_event / floor.cpu_ns_per_event));
        let cpu = |which: fn(&(Cost, Cost)) -> f64| Spread::of(self.turns.iter().map(which));
        println!("{name}: CPU per delivered event, ratio to the floor {ratio:.3}");
        println!(
            "{name}: fanfare {:.0} ns, floor {:.0} ns",
            cpu(|t| t.0.cpu_ns_per_event),
            cpu(|t| t.1.cpu_ns_per_event)
        );
        println!(
            "{name}: last subscriber after, fanfare {:.2} ms, floor {:.2} ms",
            cpu(|t| t.0.last_ns / 1e6),
            cpu(|t| t.1.last_ns / 1e6)
        );
    }
}

/// CPU time per delivered event, one message in flight.
fn cost(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cost_per_delivered_event");
    for subscribers in [100, 1_000, 10_000] {
        for (payload_bytes, size) in [(100, "100B"), (1_000, "1KB"), (10_000, "10KB")] {
            let pair = RefCell::new(None);
            let started =
                |_: &()| pair.borrow_mut().get_or_insert_with(|| Pair::start(subscribers, payload_bytes)).turns.len();
            let name = format!("{subscribers}x{size}");
            for (contender, which) in
                [("fanfare", (|turn| turn.0) as fn(&(Cost, Cost)) -> Cost), ("floor", |turn| turn.1)]
            {
                group.bench_function(BenchmarkId::new(contender, &name), |bencher| {
                    started(&());
                    bencher.iter_custom(|events| pair.borrow_mut().as_mut().expect("started").time(events, which));
                });
            }
            if let Some(pair) = pair.into_inner() {
                pair.report(&name);
            }
        }
    }
    group.finish();
}
