//! What one broadcast costs the real server, against a bare `send()` loop over as many sockets in the same run.
//!
//! The measure is CPU time, from the scheduler: on a shared machine wall-clock time is the neighbours'. Fanfare and
//! the floor take turns, so that what disturbs one disturbs the other; their ratio is the figure that counts.

#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use support::arena::{Cost, Fanfare, Floor, body, done, expect};
use support::contest::{Contender, Contest};
use support::process::sending_cpu_ns;
use support::server::Requests;
use support::stats::{Spread, quantile};
use support::{payload, process};

const SIZES: [(usize, &str); 3] = [(100, "100B"), (1_000, "1KB"), (10_000, "10KB")];

/// `--event-bytes` by default.
const LARGEST_BYTES: usize = 256 << 10;

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    cost(&mut criterion);
    cost_over_tls(&mut criterion);
    time_to_last();
    large();
    flat_out();
    criterion.final_summary();
}

type Contenders = Vec<(&'static str, Box<dyn Contender>)>;

/// CPU time per delivered event, one message in flight.
fn cost(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cost_per_delivered_event");
    let (crowds, sizes): (&[_], _) =
        if support::is_smoke_test() { (&[100], &SIZES[..1]) } else { (&[100, 1_000, 10_000], &SIZES[..]) };
    for &subscribers in crowds {
        for &(payload_bytes, size) in sizes {
            let start = || -> Contenders {
                vec![
                    ("fanfare", Box::new(Fanfare::start(subscribers, payload_bytes, &[]))),
                    ("floor", Box::new(Floor::start(subscribers, payload_bytes))),
                ]
            };
            run(&mut group, &format!("{subscribers}x{size}"), subscribers, &["fanfare", "floor"], start);
        }
    }
    group.finish();
}

/// The same over TLS, against a bare loop without.
fn cost_over_tls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cost_per_delivered_event_over_tls");
    let (subscribers, sizes) = if support::is_smoke_test() { (100, &SIZES[..1]) } else { (5_000, &SIZES[..]) };
    for &(payload_bytes, size) in sizes {
        let start = || -> Contenders {
            vec![
                ("fanfare", Box::new(Fanfare::start_over_tls(subscribers, payload_bytes))),
                ("floor", Box::new(Floor::start(subscribers, payload_bytes))),
            ]
        };
        run(&mut group, &format!("{subscribers}x{size}"), subscribers, &["fanfare", "floor"], start);
    }
    group.finish();
}

/// Measures a contest; the contenders start with the first of them that is wanted, and end here.
fn run(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    subscribers: usize,
    names: &[&str],
    start: impl Fn() -> Contenders,
) {
    let contest = RefCell::new(None);
    for (index, contender) in names.iter().enumerate() {
        group.bench_function(BenchmarkId::new(*contender, name), |bencher| {
            let mut contest = contest.borrow_mut();
            let contest = contest.get_or_insert_with(|| Contest::new(subscribers, start()));
            bencher.iter_custom(|events| contest.cpu_time(index, events));
        });
    }
    if let Some(contest) = contest.into_inner() {
        contest.report(name);
    }
}

/// When the last of 10,000 has an event, one in flight: wall-clock time, for what that is worth on this machine.
fn time_to_last() {
    if !support::wants("time_to_last") {
        return;
    }
    let (subscribers, rounds) = if support::is_smoke_test() { (100, 2) } else { (10_000, 200) };
    let mut fanfare = Fanfare::start(subscribers, 100, &[]);
    let mut floor = Floor::start(subscribers, 100);
    let (mut of_fanfare, mut of_floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        of_fanfare.push(fanfare.broadcast() as f64 / 1e6);
        of_floor.push(floor.broadcast() as f64 / 1e6);
    }
    for (contender, mut values) in [("fanfare", of_fanfare), ("floor", of_floor)] {
        values.sort_by(f64::total_cmp);
        let [p50, p99] = [0.5, 0.99].map(|at| quantile(&values, at));
        let per_second = subscribers as f64 / (p50 / 1e3);
        println!("time_to_last {contender}: p50 {p50:.1} ms, p99 {p99:.1} ms, {per_second:.0} delivered events/s");
    }
}

/// An event of the largest size that is allowed by default, to 1,000 subscribers with the default settings: it takes
/// several sends for each, and the floor does the same with no bound on what the kernel holds.
fn large() {
    if !support::wants("large") {
        return;
    }
    let (subscribers, rounds) = if support::is_smoke_test() { (10, 2) } else { (1_000, 20) };
    let mut fanfare = Fanfare::start(subscribers, LARGEST_BYTES, &[]);
    let mut floor = Floor::start(subscribers, LARGEST_BYTES);
    // The kernel tunes the buffers of each connection with its first large event.
    let (_, _) = (fanfare.measure(1), floor.measure(1));
    let costs: Vec<_> = (0..rounds).map(|_| (fanfare.measure(1), floor.measure(1))).collect();
    for (contender, of) in [("fanfare", 0), ("floor", 1)] {
        let cost = |pair: &(Cost, Cost)| if of == 0 { pair.0 } else { pair.1 };
        let last_ms = Spread::of(costs.iter().map(|pair| cost(pair).last_ns / 1e6));
        let cpu_us = Spread::of(costs.iter().map(|pair| cost(pair).cpu_ns_per_event / 1e3));
        println!("large {contender}: last of {subscribers} after {last_ms:.1} ms, {cpu_us:.1} us of CPU each");
    }
    let ratio = |value: fn(&Cost) -> f64| Spread::of(costs.iter().map(|(one, other)| value(one) / value(other)));
    println!("large: time to last, ratio to the floor {:.3}", ratio(|cost| cost.last_ns));
    println!("large: CPU, ratio to the floor {:.3}", ratio(|cost| cost.cpu_ns_per_event));
}

/// How much is delivered, and how late, when events come faster than one write each.
fn flat_out() {
    if !support::wants("flat_out") {
        return;
    }
    let (subscribers, seconds) = if support::is_smoke_test() { (100, 1) } else { (10_000, 4) };
    println!("flat_out: {subscribers} subscribers, 100 B; latency from when an event was due until it was read");
    println!("| events/s published | delivered events/s | events per write | p50 ms | p99 ms | CPU ns per event |");
    println!("| --: | --: | --: | --: | --: | --: |");
    for rate in [10, 50, 100, 150, 200, 400, 800] {
        let mut fanfare = Fanfare::start(subscribers, 100, &[]);
        let row = publish_at(&mut fanfare, rate, rate * seconds);
        println!("{row}");
    }
}

/// Publishes `count` events at a rate, and tells what became of them as a row of the table.
fn publish_at(fanfare: &mut Fanfare, rate: usize, count: usize) -> String {
    let [delivered_before, sends_before] = counters(fanfare);
    let cpu_before = sending_cpu_ns(fanfare.server.pid());
    expect(&mut fanfare.sink, count);
    let start = process::unix_ns();
    publish_all(&mut Requests::new(fanfare.server.address), rate, count, start);
    let seconds = done(&mut fanfare.sink).saturating_sub(start) as f64 / 1e9;
    let cpu = sending_cpu_ns(fanfare.server.pid()) - cpu_before;
    let [delivered, sends] = counters(fanfare);
    let (delivered, sends) = (delivered - delivered_before, sends - sends_before);
    fanfare.sink.tell("latencies");
    let latencies = fanfare.sink.hear_about("latencies");
    let mut latencies = latencies.split(' ').skip(1).map(|us| us.parse::<f64>().expect("a number") / 1e3);
    let (p50, p99) = (latencies.next().unwrap_or(f64::NAN), latencies.next().unwrap_or(f64::NAN));
    format!(
        "| {:.0} | {:.0} | {:.2} | {p50:.1} | {p99:.1} | {:.0} |",
        rate,
        delivered / seconds,
        delivered / sends,
        cpu as f64 / delivered
    )
}

fn counters(fanfare: &Fanfare) -> [f64; 2] {
    ["fanfare_delivered_events_total", "fanfare_sends_total"].map(|name| fanfare.server.metric(name))
}

/// An open loop: each event is stamped with the time it was due, however late it could be published.
fn publish_all(requests: &mut Requests, rate: usize, count: usize, start: u64) {
    const BATCH_MAX: usize = 256;
    let due_at = |index: usize| start + (index as f64 / rate as f64 * 1e9) as u64;
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut published = 0;
    while published < count {
        assert!(Instant::now() < deadline, "only {published} of {count} events were taken");
        let now = process::unix_ns();
        let due = (published..count).take(BATCH_MAX).take_while(|index| due_at(*index) <= now);
        let events: Vec<_> = due.map(|index| body(&payload::data(100, due_at(index)))).collect();
        if events.is_empty() {
            std::thread::sleep(Duration::from_nanos(due_at(published).saturating_sub(now)));
        } else if requests.publish("/publish", &format!("[{}]", events.join(","))) {
            published += events.len();
        }
    }
}
