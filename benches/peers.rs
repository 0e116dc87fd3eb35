//! Fanfare beside its peers on the same work: 10,000 subscribers, 100 bytes, published over HTTP, one core each.
//!
//! `benches/peers/run` builds the peers and starts this; what is not there is left out. All servers and a bare send
//! loop hold their subscribers at the same time and broadcast in turns. The result replaces the table in
//! docs/benchmarks.md and the plot beside it.
#![allow(clippy::print_stdout, clippy::type_complexity, reason = "a bench's output, and its table of contenders")]

mod support;

#[path = "peers/plot.rs"]
mod plot;

use std::fs;
use std::time::{Duration, Instant};

use support::arena::{self, Cost, Floor, done, expect, start_sink};
use support::contest::Contender;
use support::peers::{self, Task};
use support::process::{family, resident, sending_cpu_ns, unix_ns};
use support::role::Role;
use support::server::{Requests, Server};
use support::stats::Spread;
use support::{document, is_smoke_test, payload, process};

const PAYLOAD_BYTES: usize = 100;

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let (subscribers, rounds) = if is_smoke_test() { (50, 1) } else { (10_000, 40) };
    let mut peers: Vec<_> = start_all(subscribers);
    let mut floor = Floor::start(subscribers, PAYLOAD_BYTES);
    let mut costs = vec![Vec::new(); peers.len() + 1];
    for round in 0..rounds {
        for step in 0..=peers.len() {
            let index = (round + step) % (peers.len() + 1);
            let cost = if index == peers.len() { floor.measure(1) } else { peers[index].measure(1) };
            costs[index].push(cost);
        }
    }
    drop(floor);
    let floor_costs = costs.pop().expect("the floor's are the last");
    let rows: Vec<_> = peers.into_iter().zip(&costs).map(|(peer, costs)| row(peer, costs, &floor_costs)).collect();
    let table = table(&rows, &floor_costs);
    println!("{table}");
    if !is_smoke_test() {
        publish(&table, &rows);
    }
}

/// A server with its subscribers.
struct Peer {
    name: &'static str,
    // Dropped in this order: the sink's end is not the server's fault.
    sink: Role,
    server: Server,
    publishers: Vec<Requests>,
    subscribers: usize,
    user_bytes: f64,
}

/// What was found of a server.
struct Row {
    name: &'static str,
    user_bytes: f64,
    cpu_ns: Spread,
    ratio: Spread,
    last_ms: Spread,
    burst_per_second: f64,
    /// What became of the first rate that it did not keep up with.
    beyond: String,
}

fn row(mut peer: Peer, costs: &[Cost], floor: &[Cost]) -> Row {
    let ratios = costs.iter().zip(floor).map(|(cost, floor)| cost.cpu_ns_per_event / floor.cpu_ns_per_event);
    let (burst_per_second, beyond) = peer.burst();
    Row {
        name: peer.name,
        user_bytes: peer.user_bytes,
        cpu_ns: Spread::of(costs.iter().map(|cost| cost.cpu_ns_per_event)),
        ratio: Spread::of(ratios),
        last_ms: Spread::of(costs.iter().map(|cost| cost.last_ns / 1e6)),
        burst_per_second,
        beyond,
    }
}

// ---- the servers ----

/// Starts a server, if it is there.
type Start = fn(Task<'_>) -> Option<Server>;

fn start_all(subscribers: usize) -> Vec<Peer> {
    let servers: [(_, Start); 6] = [
        ("Fanfare", |_| Some(Server::start(&[]))),
        ("Nchan", peers::nchan),
        ("axum", peers::axum),
        ("bun", peers::bun),
        ("Go", peers::go),
        ("Node", peers::node),
    ];
    let mut peers = Vec::new();
    for (name, start) in servers {
        match start(Task::default()) {
            Some(server) => peers.push(Peer::fill(name, server, subscribers)),
            None => println!("{name}: not here, left out"),
        }
    }
    peers
}

// ---- the measures ----

impl Peer {
    /// Connects everybody, and notes how much the server's memory grows by that.
    fn fill(name: &'static str, server: Server, subscribers: usize) -> Peer {
        let path = if name == "Fanfare" { "/events?topic=bench" } else { "/events" };
        let publishers = (0..4).map(|_| Requests::new(server.address)).collect();
        // What a first subscriber and a first event bring about once is not the growth that is meant.
        let mut first = start_sink(server.address, path, 1);
        let mut peer = Peer {
            name,
            publishers,
            sink: start_sink(server.address, path, 1),
            server,
            subscribers: 1,
            user_bytes: 0.0,
        };
        expect(&mut first, 1);
        peer.broadcast();
        done(&mut first);
        let before = peer.resident();
        peer.sink = start_sink(peer.server.address, path, subscribers);
        peer.user_bytes = (peer.resident() as f64 - before as f64) / subscribers as f64;
        peer.subscribers = subscribers;
        peer
    }

    fn resident(&self) -> u64 {
        let family = family(self.server.pid());
        // At rest, so that nothing is still being given back.
        sending_cpu_ns(self.server.pid());
        family.into_iter().map(|pid| resident(pid).all).sum()
    }

    /// The request that publishes one event made at `made`.
    fn publish_bytes(&self, made: u64) -> Vec<u8> {
        let data = payload::data(PAYLOAD_BYTES, made);
        let body = if self.name == "Fanfare" { arena::body(&data) } else { data };
        self.publishers[0].publish_bytes("/publish", &body)
    }

    fn broadcast(&mut self) -> u64 {
        expect(&mut self.sink, 1);
        let made = unix_ns();
        let request = self.publish_bytes(made);
        self.publishers[0].send(&request);
        let (status, answer) = self.publishers[0].answer();
        assert!((200..300).contains(&status), "{} answered {status}: {answer}", self.name);
        done(&mut self.sink).saturating_sub(made)
    }

    /// The most that it delivers in a second without losing any, at rates that double until it no longer keeps up; and
    /// what became of the rate that it did not keep up with.
    fn burst(&mut self) -> (f64, String) {
        let mut best: f64 = 0.0;
        // What was silent meanwhile may have been closed.
        self.publishers = (0..4).map(|_| Requests::new(self.server.address)).collect();
        let rates: &[usize] = if is_smoke_test() { &[20] } else { &[10, 20, 40, 80, 160, 320, 640, 1280, 2560] };
        for &rate in rates {
            let count = (2 * rate).clamp(40, 2560);
            let per_second = match self.publish_at(rate, count) {
                Ok(seconds) => (count * self.subscribers) as f64 / seconds,
                Err(failure) => {
                    println!("{}: {failure} at {rate} events/s", self.name);
                    return (best, format!("{rate} messages/s: {failure}"));
                }
            };
            println!("{}: {rate} events/s published, {per_second:.0} delivered/s", self.name);
            best = best.max(per_second);
            if per_second < 0.6 * (rate * self.subscribers) as f64 {
                return (best, format!("{rate} messages/s: all delivered, later"));
            }
        }
        (best, String::new())
    }

    /// Publishes at a rate; in how many seconds everybody had everything, or what went wrong.
    fn publish_at(&mut self, rate: usize, count: usize) -> Result<f64, String> {
        const TIME_MAX: Duration = Duration::from_secs(20);
        let (before, closed_before) = self.arrived();
        let started = Instant::now();
        let refused = self.publish_all(rate, count);
        if refused > 0 {
            return Err(format!("{refused} of {count} publishes refused"));
        }
        let all = (count * self.subscribers) as u64;
        loop {
            let (arrived, closed) = self.arrived();
            if arrived >= before + all {
                return Ok(started.elapsed().as_secs_f64());
            }
            let closed = closed - closed_before;
            // Whom it closes first is soon followed by others.
            if started.elapsed() > TIME_MAX || (closed > 0 && self.is_silent(arrived)) {
                let missing = before + all - arrived;
                let share = 100.0 * missing as f64 / all as f64;
                return Err(format!("{closed} subscribers closed, {share:.0} % of the events missing"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether nothing more arrives in a second.
    fn is_silent(&mut self, arrived: u64) -> bool {
        std::thread::sleep(Duration::from_secs(1));
        self.arrived().0 == arrived
    }

    /// Publishes at a rate over several connections; how many publishes were refused.
    fn publish_all(&mut self, rate: usize, count: usize) -> usize {
        let (start, started) = (unix_ns(), Instant::now());
        let (mut awaiting, mut refused) = (vec![false; self.publishers.len()], 0);
        for index in 0..count {
            let due = Duration::from_secs_f64(index as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            let request = self.publish_bytes(start + due.as_nanos() as u64);
            let turn = index % awaiting.len();
            if awaiting[turn] && !self.is_taken(turn) {
                refused += 1;
            }
            self.publishers[turn].send(&request);
            awaiting[turn] = true;
        }
        refused + (0..awaiting.len()).filter(|turn| awaiting[*turn] && !self.is_taken(*turn)).count()
    }

    /// Whether the publish that one of the connections waits for was taken.
    fn is_taken(&mut self, publisher: usize) -> bool {
        self.publishers[publisher].answer().0 < 300
    }

    /// Events that arrived, and streams that were closed.
    fn arrived(&mut self) -> (u64, u64) {
        self.sink.tell("events");
        let text = self.sink.hear_about("events");
        let (total, closed) = text.split_once(' ').expect("two numbers");
        (total.parse().expect("a number"), closed.parse().expect("a number"))
    }
}

impl Contender for Peer {
    fn measure(&mut self, rounds: usize) -> Cost {
        let before = sending_cpu_ns(self.server.pid());
        let last_ns: u64 = (0..rounds).map(|_| self.broadcast()).sum();
        let cpu_ns = sending_cpu_ns(self.server.pid()) - before;
        arena::cost(cpu_ns, last_ns, rounds, self.subscribers)
    }
}

// ---- the result ----

fn table(rows: &[Row], floor: &[Cost]) -> String {
    let mut text =
        "| | user memory per subscriber | CPU per delivered event | ratio to the floor | last of 10,000 reached \
                    after | most delivered events/s | at the first rate above it |\n\
         | --- | --: | --: | --: | --: | --: | --- |\n"
            .to_owned();
    for row in rows {
        text += &format!(
            "| {} | {:.2} KiB | {:.1} µs | {:.2} ({:.2} to {:.2}) | {:.0} ms | {:.0} | {} |\n",
            row.name,
            row.user_bytes / 1024.0,
            row.cpu_ns.median / 1e3,
            row.ratio.median,
            row.ratio.low,
            row.ratio.high,
            row.last_ms.median,
            (row.burst_per_second / 1e3).round() * 1e3,
            row.beyond,
        );
    }
    let cpu = Spread::of(floor.iter().map(|cost| cost.cpu_ns_per_event / 1e3));
    let last = Spread::of(floor.iter().map(|cost| cost.last_ns / 1e6));
    text += &format!("| bare send loop | | {:.1} µs | 1 | {:.0} ms | | |\n", cpu.median, last.median);
    text
}

/// Writes the table into the document, and the plot beside it.
fn publish(table: &str, rows: &[Row]) {
    fs::write(document::path("peers.svg"), plot::svg(rows)).expect("docs is writable");
    document::replace_table("peers", table);
}
