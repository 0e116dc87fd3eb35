//! A contest: contenders over the same number of sockets that broadcast in turns, so that what disturbs one disturbs
//! all. Their ratios are what a shared machine can tell.

use std::time::Duration;

use super::arena::Cost;
use super::stats::Spread;

/// Events that a turn delivers, all subscribers together.
const EVENTS_PER_TURN: usize = 10_000;

/// Someone who broadcasts to its own subscribers.
pub trait Contender {
    /// Broadcasts `rounds` events, one in flight.
    fn measure(&mut self, rounds: usize) -> Cost;
}

/// Contenders, the last of them the floor, and what each turn cost each.
pub struct Contest {
    contenders: Vec<(&'static str, Box<dyn Contender>)>,
    subscribers: usize,
    turns: Vec<Vec<Cost>>,
}

impl Contest {
    /// Between these contenders, each with this number of subscribers.
    pub fn new(subscribers: usize, contenders: Vec<(&'static str, Box<dyn Contender>)>) -> Contest {
        Contest { contenders, subscribers, turns: Vec::new() }
    }

    /// One turn of everybody; who goes first changes.
    pub fn turn(&mut self) -> &[Cost] {
        let rounds = EVENTS_PER_TURN.div_ceil(self.subscribers);
        let count = self.contenders.len();
        let mut costs = vec![Cost::default(); count];
        for step in 0..count {
            let index = (self.turns.len() + step) % count;
            costs[index] = self.contenders[index].1.measure(rounds);
        }
        self.turns.push(costs);
        self.turns.last().expect("just pushed")
    }

    /// CPU time that one contender takes for a number of events, measured over as many turns as they need.
    pub fn cpu_time(&mut self, contender: usize, events: u64) -> Duration {
        let turns = events.div_ceil(EVENTS_PER_TURN as u64);
        let cpu_ns: f64 = (0..turns).map(|_| self.turn()[contender].cpu_ns_per_event).sum();
        Duration::from_nanos((cpu_ns / turns as f64 * events as f64) as u64)
    }

    /// Prints medians and spreads of all turns so far.
    pub fn report(&self, name: &str) {
        let floor = self.contenders.len() - 1;
        for (index, (contender, _)) in self.contenders.iter().enumerate() {
            let of = |value: &dyn Fn(&[Cost]) -> f64| Spread::of(self.turns.iter().map(|turn| value(turn)));
            let cpu = of(&|turn| turn[index].cpu_ns_per_event);
            let ratio = of(&|turn| turn[index].cpu_ns_per_event / turn[floor].cpu_ns_per_event);
            let last = of(&|turn| turn[index].last_ns / 1e6);
            println!("{name} {contender}: {cpu:.0} ns of CPU per delivered event");
            println!("{name} {contender}: ratio to the floor {ratio:.3}");
            println!("{name} {contender}: last subscriber after {last:.2} ms");
        }
    }
}
