//! What each bus costs: the order kept in the process, Redis pub/sub, a stream of Redis, a table of PostgreSQL, and a topic of Kafka, in
//! turns in the same run.
//!
//! The server has one core; its clients and the engine share the other. For each bus:
//! - `latency`: from the time an event was due until 100 subscribers read it, at 100 events a second;
//! - `in`: events a second that are answered 202, with 64 requests under way, of one event and of 100 events each;
//! - `cost`: CPU time for a delivered event, of all threads of the server, with 10,000 subscribers.
#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::any::Any;
use std::process::Command;
use std::time::{Duration, Instant};

use support::arena::{body, done, expect, start_sink};
use support::postgres::Postgres;
use support::process::{self, cpu_ns, unix_ns};
use support::redis::Redis;
use support::role::Role;
use support::server::{Requests, Server};
use support::stats::Spread;
use support::{document, is_smoke_test, payload};

const BUSES: [&str; 5] = ["local", "redis", "redis-stream", "postgres", "kafka"];
const PAYLOAD_BYTES: usize = 100;
const LATENCY_PER_SECOND: u64 = 100;
const REQUESTS_UNDER_WAY: usize = 64;
const LARGE_BATCH: usize = 100;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    rounds: usize,
    subscribers: usize,
    latency_events: u64,
    in_time: Duration,
    cost_events: usize,
}

const FULL: Extent =
    Extent { rounds: 7, subscribers: 10_000, latency_events: 300, in_time: Duration::from_secs(2), cost_events: 20 };
const SMOKE: Extent =
    Extent { rounds: 1, subscribers: 50, latency_events: 10, in_time: Duration::from_millis(100), cost_events: 2 };

/// What keeps the order of a bus outside of the server: ended when this is dropped.
struct Engine {
    /// The option that names it, with its URL; none for a bus in the process.
    place: Vec<String>,
    _server: Option<Box<dyn Any>>,
}

/// A server with its bus, and its subscribers.
struct Contender {
    bus: &'static str,
    // Dropped in this order: the sinks' end is not the server's fault.
    crowd: Role,
    few: Role,
    server: Server,
    _engine: Engine,
}

#[derive(Clone, Copy)]
struct Measure {
    p50_ms: f64,
    p99_ms: f64,
    singles_per_second: f64,
    batched_per_second: f64,
    cpu_us: f64,
}

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let extent = if is_smoke_test() { SMOKE } else { FULL };
    let mut contenders: Vec<_> = BUSES.iter().filter_map(|bus| Contender::start(bus, extent)).collect();
    let mut found = vec![Vec::new(); contenders.len()];
    // The first round is for warming up.
    for round in 0..=extent.rounds {
        for step in 0..contenders.len() {
            let index = (round + step) % contenders.len();
            let measure = contenders[index].round(extent);
            if round > 0 {
                found[index].push(measure);
            }
        }
    }
    let rows: Vec<_> =
        contenders.iter().zip(&found).map(|(contender, measures)| (contender.bus, &measures[..])).collect();
    let table = table(&rows);
    println!("{table}");
    if rows.len() == BUSES.len() && !is_smoke_test() {
        document::replace_table("bus", &table);
    }
}

impl Contender {
    fn start(bus: &'static str, extent: Extent) -> Option<Contender> {
        let engine = match Engine::start(bus) {
            Ok(engine) => engine,
            Err(lacking) => {
                println!("{bus}: left out, {lacking}");
                return None;
            }
        };
        let flags = [&["--bus".to_owned(), bus.to_owned()], &engine.place[..]].concat();
        let server = Server::start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        wait_until_ready(&server);
        let crowd = start_sink(server.address, "/events?topic=bench", extent.subscribers);
        let few = start_sink(server.address, "/events?topic=few", 100.min(extent.subscribers));
        Some(Contender { bus, crowd, few, server, _engine: engine })
    }

    fn round(&mut self, extent: Extent) -> Measure {
        let (p50_ms, p99_ms) = self.latency(extent.latency_events);
        // The mock cluster keeps 5 MB of a topic, and a node that is behind that has a gap.
        let in_time = if self.bus == "kafka" { extent.in_time / 8 } else { extent.in_time };
        let measure = Measure {
            p50_ms,
            p99_ms,
            singles_per_second: self.events_in(1, in_time),
            batched_per_second: self.events_in(LARGE_BATCH, in_time),
            cpu_us: self.cost(extent),
        };
        let Measure { singles_per_second, batched_per_second, cpu_us, .. } = measure;
        println!(
            "{}: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, {singles_per_second:.0} and {batched_per_second:.0} \
             events/s in, {cpu_us:.2} µs of CPU for a delivered event",
            self.bus
        );
        measure
    }

    /// Publishes at a fixed rate, each event stamped with the time at which it was due.
    fn latency(&mut self, events: u64) -> (f64, f64) {
        let mut requests = Requests::new(self.server.address);
        self.few.tell("latencies");
        self.few.hear_about("latencies");
        expect(&mut self.few, events as usize);
        let start = unix_ns();
        for n in 0..events {
            let due = start + n * 1_000_000_000 / LATENCY_PER_SECOND;
            std::thread::sleep(Duration::from_nanos(due.saturating_sub(unix_ns())));
            let body = body(&payload::data(PAYLOAD_BYTES, due)).replace("bench", "few");
            assert!(requests.publish("/publish", &body), "so few events always fit");
        }
        done(&mut self.few);
        self.few.tell("latencies");
        let latencies = self.few.hear_about("latencies");
        let mut ms = latencies.split(' ').skip(1).map(|us| us.parse::<f64>().expect("a number") / 1e3);
        (ms.next().unwrap_or(f64::NAN), ms.next().unwrap_or(f64::NAN))
    }

    /// Events a second that are taken, to a topic without subscribers.
    fn events_in(&mut self, batch: usize, time: Duration) -> f64 {
        let event = body(&payload::data(PAYLOAD_BYTES, unix_ns())).replace("bench", "in");
        let body = if batch == 1 { event } else { format!("[{}]", vec![event; batch].join(",")) };
        let mut lanes: Vec<_> = (0..REQUESTS_UNDER_WAY).map(|_| Requests::new(self.server.address)).collect();
        let bytes = lanes[0].publish_bytes("/publish", &body);
        let (started, mut taken) = (Instant::now(), 0);
        lanes.iter_mut().for_each(|lane| lane.send(&bytes));
        while started.elapsed() < time {
            for lane in &mut lanes {
                taken += usize::from(lane.answer().0 == 202);
                lane.send(&bytes);
            }
        }
        let taken = taken + lanes.iter_mut().map(|lane| usize::from(lane.answer().0 == 202)).sum::<usize>();
        (taken * batch) as f64 / started.elapsed().as_secs_f64()
    }

    /// Publishes one event and waits until the crowd has it.
    fn broadcast(&mut self, requests: &mut Requests) {
        expect(&mut self.crowd, 1);
        let body = body(&payload::data(PAYLOAD_BYTES, unix_ns()));
        assert!(requests.publish("/publish", &body), "one event at a time always fits");
        done(&mut self.crowd);
    }

    fn cost(&mut self, extent: Extent) -> f64 {
        let mut requests = Requests::new(self.server.address);
        // What was published before it has been read then, too.
        self.broadcast(&mut requests);
        let before = cpu_ns(self.server.pid());
        (0..extent.cost_events).for_each(|_| self.broadcast(&mut requests));
        let ns = cpu_ns(self.server.pid()) - before;
        ns as f64 / 1e3 / (extent.cost_events * extent.subscribers) as f64
    }
}

impl Engine {
    /// Starts the engine of this bus and installs the bus there, if it needs that; or says what is lacking.
    fn start(bus: &str) -> Result<Engine, &'static str> {
        let engine = match bus {
            "local" => return Ok(Engine { place: Vec::new(), _server: None }),
            "postgres" if !cfg!(feature = "postgres") => return Err("this is built without --features postgres"),
            "postgres" => {
                let server = Postgres::start().ok_or("postgresql is not here")?;
                Engine::at("--postgres-url", server.url(), server)
            }
            "kafka" => return start_kafka(),
            _ => {
                let server = Redis::start().ok_or("redis-server is not here")?;
                Engine::at("--redis-url", server.url(), server)
            }
        };
        if bus != "redis" {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
            let output = command.args(["bus", "install"]).args(&engine.place).output().expect("it is built");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(engine)
    }

    fn at(option: &str, url: String, server: impl Any) -> Engine {
        Engine { place: vec![option.to_owned(), url], _server: Some(Box::new(server)) }
    }
}

/// The mock cluster has the topic of the bus already.
#[cfg(feature = "kafka")]
fn start_kafka() -> Result<Engine, &'static str> {
    use support::kafka::{Kafka, TOPIC};
    let kafka = Kafka::start();
    let place = ["--kafka-brokers", &kafka.brokers, "--kafka-topic", TOPIC, "--kafka-accept-loss"];
    Ok(Engine { place: place.map(str::to_owned).to_vec(), _server: Some(Box::new(kafka)) })
}

#[cfg(not(feature = "kafka"))]
fn start_kafka() -> Result<Engine, &'static str> {
    Err("this is built without --features kafka")
}

fn wait_until_ready(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut requests = Requests::new(server.address);
        requests.send(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
        match requests.answer() {
            (200, _) => return,
            (_, body) => assert!(Instant::now() < deadline, "the server is not ready: {body}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn table(rows: &[(&str, &[Measure])]) -> String {
    let median = |measures: &[Measure], value: fn(&Measure) -> f64| Spread::of(measures.iter().map(value)).median;
    let mut text = "| `--bus` | POST to subscriber, p50 | p99 | events/s in, one a request | 100 a request \
                    | CPU for a delivered event | to `local` |\n| --- | --: | --: | --: | --: | --: | --: |\n"
        .to_owned();
    let local = rows.iter().find(|(bus, _)| *bus == "local").map_or(&[][..], |(_, measures)| *measures);
    for (bus, measures) in rows {
        let [p50, p99] = [|m: &Measure| m.p50_ms, |m: &Measure| m.p99_ms].map(|value| median(measures, value));
        let singles = median(measures, |measure| measure.singles_per_second);
        let batched = median(measures, |measure| measure.batched_per_second);
        let cpu = median(measures, |measure| measure.cpu_us);
        let ratio = Spread::of(measures.iter().zip(local).map(|(one, local)| one.cpu_us / local.cpu_us));
        let ratio = format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high);
        text +=
            &format!("| `{bus}` | {p50:.2} ms | {p99:.2} ms | {singles:.0} | {batched:.0} | {cpu:.2} µs | {ratio} |\n");
    }
    text
}
