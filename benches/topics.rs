//! Many topics with one subscriber each (notifications), through Redis, beside bun in the same run.
//!
//! 10,000 subscribers of Fanfare and 10,000 of bun's server, each with a topic of its own, on one core; messages go to
//! topics at random. Rounds alternate, so that what disturbs one disturbs the other:
//! - `saturated`: a fixed number of messages is in flight, and the rate is what the server makes of it;
//! - `paced`: 10,000 messages a second, one after the other.
//!
//! A server whose core was not fully used at saturation had to wait: for its clients, or for others on the machine. What
//! it could do then follows from its CPU time for a message.
//!
//! Fanfare subscribes to a pattern. bun's client can't, so its server subscribes to each channel.
#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::arena::start_sink;
use support::peers::{self, Task};
use support::process::{sending_cpu_ns_now, thread_cpu_ns};
use support::redis::{Publisher, Redis};
use support::role::Role;
use support::server::Server;
use support::stats::Spread;
use support::{document, is_smoke_test, payload, process};

const PAYLOAD_BYTES: usize = 100;
const PACED_PER_SECOND: u64 = 10_000;
/// Published and not yet delivered: enough that the server has work while its clients look for more, and seldom two
/// of one topic.
const IN_FLIGHT: u64 = 5_000;
/// Messages of one pipelined batch.
const BATCH_MAX: u64 = 500;
/// What is in flight at the end of a round must arrive within this.
const DRAIN_MAX: Duration = Duration::from_secs(10);
fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let (topics, rounds, time) =
        if is_smoke_test() { (50, 1, Duration::from_millis(100)) } else { (10_000, 7, Duration::from_secs(4)) };
    let mut contenders: Vec<_> = ["Fanfare", "bun"].iter().filter_map(|name| Contender::start(name, topics)).collect();
    let mut saturated = vec![Vec::new(); contenders.len()];
    let mut paced = saturated.clone();
    // The first round is for warming up.
    for round in 0..=rounds {
        for step in 0..contenders.len() {
            let index = (round + step) % contenders.len();
            for (pace, found) in [(None, &mut saturated), (Some(PACED_PER_SECOND), &mut paced)] {
                let measure = contenders[index].round(pace, time);
                if round > 0 {
                    println!("{}: {measure}", contenders[index].name);
                    found[index].push(measure);
                }
            }
        }
    }
    let rows: Vec<_> = contenders
        .iter()
        .zip(saturated.iter().zip(&paced))
        .map(|(who, (full, paced))| (who.name, &full[..], &paced[..]))
        .collect();
    let table = table(&rows);
    println!("{table}");
    if rows.len() == 2 && !is_smoke_test() {
        document::replace_table("topics", &table);
    }
}

/// A server, its subscribers and a Redis of its own.
struct Contender {
    name: &'static str,
    // Dropped in this order: the sink's end is not the server's fault.
    sink: Role,
    server: Server,
    publisher: Publisher,
    random: Random,
    topics: usize,
    _redis: Redis,
}

/// What a round showed.
#[derive(Clone)]
struct Measure {
    per_second: f64,
    /// CPU time for a message, of the server as a whole and of its threads by name.
    cpu_us: f64,
    threads_us: BTreeMap<String, f64>,
    /// Share of its core that the server used.
    busy: f64,
}

/// What counts up during a round.
struct Reading {
    at: Instant,
    arrived: u64,
    cpu_ns: u64,
    threads_ns: BTreeMap<String, u64>,
}

impl Contender {
    fn start(name: &'static str, topics: usize) -> Option<Contender> {
        let Some(redis) = Redis::start() else {
            println!("topics: redis-server is not here, {name} is left out");
            return None;
        };
        let server = match name {
            "Fanfare" => Some(Server::start(&["--redis-url", &redis.url(), "--redis-pattern", "t*"])),
            _ => peers::bun(Task { redis: Some(&redis), history: None }),
        };
        let Some(server) = server else {
            println!("{name}: not here, left out");
            return None;
        };
        let sink = start_sink(server.address, "/events?topic=t{}", topics);
        let mut publisher = Publisher::connect(redis.address);
        publisher.wait_for_receivers((0..topics).map(|topic| format!("t{topic}")).collect());
        Some(Contender { name, sink, server, publisher, random: Random(1), topics, _redis: redis })
    }

    /// Publishes for a while: at a rate of messages a second, or as many as the server delivers.
    fn round(&mut self, per_second: Option<u64>, time: Duration) -> Measure {
        let (before, started) = (self.reading(), Instant::now());
        let (mut published, mut arrived) = (0, 0);
        while started.elapsed() < time {
            let due = match per_second {
                Some(rate) => (started.elapsed().as_secs_f64() * rate as f64) as u64 - published,
                None => IN_FLIGHT.saturating_sub(published - arrived),
            };
            match due.min(BATCH_MAX) {
                0 => std::thread::sleep(Duration::from_micros(50)),
                count => published += self.publish(count),
            }
            if per_second.is_none() {
                arrived = self.arrived() - before.arrived;
            }
        }
        self.drain(before.arrived + published);
        let after = self.reading();
        Measure::between(&before, &after)
    }

    fn publish(&mut self, count: u64) -> u64 {
        for _ in 0..count {
            let topic = self.random.below(self.topics as u64);
            self.publisher.queue(format_args!("t{topic}"), &payload::data(PAYLOAD_BYTES, process::unix_ns()));
        }
        let receivers = self.publisher.flush();
        assert_eq!(receivers, count, "{} is no longer subscribed to every topic", self.name);
        count
    }

    /// Waits for what is in flight.
    fn drain(&mut self, expected: u64) {
        let started = Instant::now();
        loop {
            let arrived = self.arrived();
            if arrived >= expected {
                return;
            }
            assert!(started.elapsed() < DRAIN_MAX, "{} lost {} messages", self.name, expected - arrived);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn arrived(&mut self) -> u64 {
        self.sink.tell("events");
        let text = self.sink.hear_about("events");
        let (total, closed) = text.split_once(' ').expect("two numbers");
        assert_eq!(closed, "0", "{} closed streams", self.name);
        total.parse().expect("a number")
    }

    fn reading(&mut self) -> Reading {
        let (arrived, pid) = (self.arrived(), self.server.pid());
        Reading { at: Instant::now(), arrived, cpu_ns: sending_cpu_ns_now(pid), threads_ns: thread_cpu_ns(pid) }
    }
}

impl Measure {
    fn between(before: &Reading, after: &Reading) -> Measure {
        let messages = (after.arrived - before.arrived).max(1) as f64;
        let ns = (after.at - before.at).as_nanos() as f64;
        let cpu_ns = (after.cpu_ns - before.cpu_ns) as f64;
        let of_thread = |(name, ns): (&String, &u64)| {
            let ns = ns.saturating_sub(before.threads_ns.get(name).copied().unwrap_or(0));
            (name.clone(), ns as f64 / 1e3 / messages)
        };
        Measure {
            per_second: messages / ns * 1e9,
            cpu_us: cpu_ns / 1e3 / messages,
            threads_us: after.threads_ns.iter().map(of_thread).collect(),
            busy: cpu_ns / ns,
        }
    }
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Measure { per_second, cpu_us, busy, .. } = self;
        write!(f, "{per_second:.0} messages/s, {cpu_us:.2} µs of CPU each, {:.0} % of its core", 100.0 * busy)?;
        let busy_threads = self.threads_us.iter().filter(|(_, us)| **us >= 0.05);
        busy_threads.into_iter().try_for_each(|(name, us)| write!(f, ", {name} {us:.2}"))
    }
}

/// Xorshift: the same topics in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

// ---- the result ----

type Row<'a> = (&'static str, &'a [Measure], &'a [Measure]);

fn table(rows: &[Row<'_>]) -> String {
    let of = |measures: &[Measure], value: fn(&Measure) -> f64| Spread::of(measures.iter().map(value));
    let mut text =
        "| | messages/s at saturation | of its core | CPU per message there | CPU per message at 10,000/s |\n\
                    | --- | --: | --: | --: | --: |\n"
            .to_owned();
    for (name, saturated, paced) in rows {
        let (rate, busy) = (of(saturated, |round| round.per_second), of(saturated, |round| round.busy));
        let cpu = [*saturated, *paced].map(cpu);
        let busy = 100.0 * busy.median;
        text += &format!("| {name} | {:.0} | {busy:.0} % | {} | {} |\n", rate.median, cpu[0], cpu[1]);
    }
    if let [first, second] = rows {
        let ratio = |value: fn(&Measure) -> f64, pick: fn(&Row<'_>) -> Vec<Measure>| {
            let (first, second) = (pick(first), pick(second));
            let ratio = Spread::of(first.iter().zip(&second).map(|(first, second)| value(first) / value(second)));
            format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high)
        };
        text += &format!(
            "| {} to {} | {} | | {} | {} |\n",
            first.0,
            second.0,
            ratio(|round| round.per_second, |row| row.1.to_vec()),
            ratio(|round| round.cpu_us, |row| row.1.to_vec()),
            ratio(|round| round.cpu_us, |row| row.2.to_vec()),
        );
    }
    text
}

/// The median of a message's CPU time; beside it that of each thread which takes a part worth mentioning.
fn cpu(rounds: &[Measure]) -> String {
    const PART_MIN: f64 = 0.05;
    let all = Spread::of(rounds.iter().map(|round| round.cpu_us)).median;
    let names = rounds.first().map(|round| round.threads_us.keys()).into_iter().flatten();
    let of_thread = |name: &String| {
        let us = |round: &Measure| round.threads_us.get(name).copied().unwrap_or(0.0);
        (name.clone(), Spread::of(rounds.iter().map(us)).median)
    };
    let parts: Vec<_> = names.map(of_thread).filter(|(_, us)| *us > PART_MIN * all).collect();
    let parts: Vec<_> = parts.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
    if parts.len() < 2 { format!("{all:.1} µs") } else { format!("{all:.1} µs ({})", parts.join(", ")) }
}
