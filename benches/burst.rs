//! A burst: far more messages than one write each can keep up with, to 10,000 subscribers, through Redis.
//!
//! `at_once` publishes 20,000 messages in one pipelined batch; `steady` publishes 3,000 a second for ten seconds. A
//! server passes when everybody has every message, in order, and nobody was closed. Fanfare runs with its default
//! settings; the peers have room for the whole burst, where that is a setting, so that the figures tell how fast they
//! are and not what somebody configured. Servers run one after the other: each would be in the other's way.
//!
//! `cargo bench --bench burst -- steady`, or `-- at_once/bun`, runs a part; a table goes into docs/benchmarks.md when
//! every row of it was measured.
#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::time::{Duration, Instant};

use support::arena::start_sink;
use support::peers::{self, Task};
use support::process::{family, resident_now, resident_peak, unix_ns};
use support::publisher::{CHANNEL, Plan};
use support::redis::{Publisher, Redis};
use support::role::Role;
use support::server::Server;
use support::{document, is_smoke_test, process};

const PAYLOAD_BYTES: usize = 100;
/// Room for the burst, for those that want to know beforehand.
const PEER_HISTORY: usize = 32_768;
/// A server that is not through by then is stopped.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Nothing more comes after a silence like this.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A server that buffers without bound is stopped before it takes the machine's memory.
const RESIDENT_MAX: u64 = 4 << 30;

/// A case's name, its title in the table, and what is published.
const CASES: [(&str, &str, Plan); 2] = [
    ("at_once", "20,000 at once", Plan { events: 20_000, per_second: 0, payload_bytes: PAYLOAD_BYTES }),
    ("steady", "3,000/s for 10 s", Plan { events: 30_000, per_second: 3_000, payload_bytes: PAYLOAD_BYTES }),
];

type Start = fn(&Redis) -> Option<Server>;

/// Who takes part, and what its publisher speaks.
const SERVERS: [(&str, &str, Start); 4] = [
    ("Fanfare", "redis", fanfare),
    ("axum", "redis", |redis| peers::axum(Task { redis: Some(redis), history: Some(PEER_HISTORY) })),
    ("Nchan", "http", |_| peers::nchan(Task { redis: None, history: Some(PEER_HISTORY) })),
    ("bun", "redis", |redis| peers::bun(Task { redis: Some(redis), history: None })),
];

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let Some(redis) = Redis::start() else {
        println!("burst: redis-server is not here, nothing was measured");
        return;
    };
    for (case, title, plan) in CASES {
        let plan = if is_smoke_test() { Plan { events: plan.events / 100, ..plan } } else { plan };
        let mut rows = Vec::new();
        for (name, how, start) in SERVERS {
            if support::wants(&format!("burst/{case}/{name}")) {
                match start(&redis) {
                    Some(server) => rows.push(Burst::start(name, how, server, &redis).run(plan)),
                    None => println!("{name}: not here, left out"),
                }
            }
        }
        let table = table(title, &rows);
        if !rows.is_empty() {
            println!("{table}");
        }
        if rows.len() == SERVERS.len() && !is_smoke_test() {
            document::replace_table(&format!("burst {case}"), &table);
        }
    }
}

fn fanfare(redis: &Redis) -> Option<Server> {
    Some(Server::start(&["--redis-url", &redis.url(), "--redis-channel", CHANNEL]))
}

/// A server with its subscribers, before the burst.
struct Burst<'a> {
    name: &'static str,
    how: &'static str,
    // Dropped in this order: the sink's end is not the server's fault.
    sink: Role,
    server: Server,
    redis: &'a Redis,
    subscribers: usize,
}

/// What became of a burst.
struct Outcome {
    name: &'static str,
    /// Of all deliveries that were due.
    delivered_share: f64,
    per_second: f64,
    closed: usize,
    /// Subscribers that lack events, and how many events those are together.
    incomplete: usize,
    lacking: u64,
    disordered: u64,
    /// From the first publish to the last delivery.
    last: Duration,
    peak_bytes: u64,
    end: End,
}

/// Why the wait for deliveries ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Silence,
    TimeOver,
    MemoryOver,
}

impl<'a> Burst<'a> {
    fn start(name: &'static str, how: &'static str, server: Server, redis: &'a Redis) -> Burst<'a> {
        let subscribers = if is_smoke_test() { 50 } else { 10_000 };
        let path = if name == "Fanfare" { "/events?topic=bench" } else { "/events" };
        let sink = start_sink(server.address, path, subscribers);
        if how == "redis" {
            Publisher::connect(redis.address).wait_for_receivers(vec![CHANNEL.to_owned()]);
        }
        Burst { name, how, sink, server, redis, subscribers }
    }

    fn run(mut self, plan: Plan) -> Outcome {
        let address = if self.how == "redis" { self.redis.address } else { self.server.address };
        let start_ns = unix_ns();
        let publisher = plan.start(self.how, address, start_ns);
        let (end, closed) = self.wait((plan.events * self.subscribers) as u64);
        let peak_bytes = family(self.server.pid()).into_iter().map(resident_peak).sum();
        drop(publisher);
        self.outcome(plan, start_ns, end, closed, peak_bytes)
    }

    /// Waits for this number of deliveries, within bounds. Returns why it ended, and the streams that were closed by then.
    fn wait(&mut self, expected: u64) -> (End, usize) {
        let started = Instant::now();
        let (mut before, mut changed) = (0, Instant::now());
        loop {
            let (arrived, closed) = self.arrived();
            if arrived > before {
                (before, changed) = (arrived, Instant::now());
            }
            let resident: u64 = family(self.server.pid()).into_iter().map(resident_now).sum();
            let end = if arrived >= expected {
                End::Complete
            } else if resident > RESIDENT_MAX {
                End::MemoryOver
            } else if started.elapsed() > TIME_MAX {
                End::TimeOver
            } else if changed.elapsed() > SILENCE_MAX {
                End::Silence
            } else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            return (end, closed);
        }
    }

    /// Events that arrived, and streams that were closed.
    fn arrived(&mut self) -> (u64, usize) {
        self.sink.tell("events");
        let text = self.sink.hear_about("events");
        let (total, closed) = text.split_once(' ').expect("two numbers");
        (total.parse().expect("a number"), closed.parse().expect("a number"))
    }

    fn outcome(mut self, plan: Plan, start_ns: u64, end: End, closed: usize, peak_bytes: u64) -> Outcome {
        self.sink.tell(format_args!("tally {}", plan.events));
        let text = self.sink.hear_about("tally");
        let tally: Vec<u64> = text.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [complete, lacking, disordered, last_ns] = tally[..] else { panic!("tally {text}") };
        let expected = (plan.events * self.subscribers) as u64;
        let last = Duration::from_nanos(last_ns.saturating_sub(start_ns));
        Outcome {
            name: self.name,
            delivered_share: (expected - lacking) as f64 / expected as f64,
            per_second: (expected - lacking) as f64 / last.as_secs_f64(),
            closed,
            incomplete: self.subscribers - complete as usize,
            lacking,
            disordered,
            last,
            peak_bytes,
            end,
        }
    }
}

fn table(title: &str, rows: &[Outcome]) -> String {
    let mut text = format!(
        "| {title} | delivered | subscribers closed | with events missing | events missing or out of order | last \
         delivery after | delivered events/s | most memory |\n| --- | --: | --: | --: | --: | --: | --: | --: |\n"
    );
    for row in rows {
        let stopped = match row.end {
            End::Complete => String::new(),
            End::Silence => format!(", then nothing for {} s", SILENCE_MAX.as_secs()),
            End::TimeOver => ", stopped".to_owned(),
            End::MemoryOver => format!(", stopped at {} GiB", RESIDENT_MAX >> 30),
        };
        text += &format!(
            "| {} | {:.1} % | {} | {} | {} | {:.1} s{stopped} | {:.2} million | {:.0} MiB |\n",
            row.name,
            // What is not all is not 100 %.
            (row.delivered_share * 1000.0).floor() / 10.0,
            row.closed,
            row.incomplete,
            row.lacking + row.disordered,
            row.last.as_secs_f64(),
            row.per_second / 1e6,
            row.peak_bytes as f64 / f64::from(1 << 20),
        );
    }
    text
}
