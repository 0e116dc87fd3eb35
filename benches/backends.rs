//! The backends of the IO contract beside each other, and beside a server on tokio-uring: CPU for a delivered event, memory
//! for an idle connection, and what opening one takes.
//!
//! All are measured in one run and in turns, so that what disturbs one disturbs the others; the ratios to epoll are the
//! figures that count. `--io auto` selects io_uring only if its CPU is at most 0.95 times that of epoll.

#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::net::SocketAddr;
use std::time::Instant;

use support::arena::{Fanfare, Floor, TokioUring, start_sink};
use support::contest::Contender;
use support::process::{self, sending_cpu_ns};
use support::stats::Spread;
use support::{is_smoke_test, watching};

const BACKENDS: [&str; 3] = ["epoll", "io_uring", "tokio-uring"];
const PAYLOAD_BYTES: usize = 100;
/// What is measured again and again, each backend in turn.
const TURNS: usize = 60;
const EXPERIMENTS: usize = 9;

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let subscribers = if is_smoke_test() { 100 } else { 10_000 };
    println!("Linux {}, {subscribers} connections, {PAYLOAD_BYTES} B; medians (quartiles)", kernel.trim_end());
    if support::wants("delivery") {
        delivery(subscribers);
    }
    if support::wants("connections") {
        connections(subscribers);
    }
    if support::wants("watching") {
        watched(subscribers);
    }
}

/// CPU for a delivered event, one message in flight.
fn delivery(subscribers: usize) {
    let fanfare = |io: &str| Fanfare::start(subscribers, PAYLOAD_BYTES, &["--io", io]);
    let (epoll, io_uring) = (fanfare("epoll"), fanfare("io_uring"));
    // Without this, a kernel that forbids io_uring would be measured twice with epoll.
    assert_eq!(io_uring.server.metric("fanfare_io_backend{backend=\"io_uring\"}"), 1.0);
    let mut contenders: [(&str, Box<dyn Contender>); 4] = [
        ("epoll", Box::new(epoll)),
        ("io_uring", Box::new(io_uring)),
        ("tokio-uring", Box::new(TokioUring::with_subscribers(subscribers, PAYLOAD_BYTES))),
        ("bare send loop", Box::new(Floor::start(subscribers, PAYLOAD_BYTES))),
    ];
    let mut turns = Vec::new();
    for turn in 0..if is_smoke_test() { 2 } else { TURNS } {
        let mut costs = [0.0; 4];
        for step in 0..contenders.len() {
            let index = (turn + step) % contenders.len();
            costs[index] = contenders[index].1.measure(1).cpu_ns_per_event;
        }
        turns.push(costs);
    }
    println!("| | CPU ns for a delivered event | to epoll |\n| --- | --: | --: |");
    for (index, (name, _)) in contenders.iter().enumerate() {
        let cpu = Spread::of(turns.iter().map(|costs| costs[index]));
        let ratio = Spread::of(turns.iter().map(|costs| costs[index] / costs[0]));
        println!("| {name} | {} | {} |", cell(cpu, 0), cell(ratio, 3));
    }
}

/// What one experiment found.
struct Opened {
    user: f64,
    kernel: f64,
    per_second: f64,
    cpu_ns: f64,
}

/// Memory of idle connections, and what opening them takes.
fn connections(count: usize) {
    let mut found: [Vec<Opened>; 3] = Default::default();
    for turn in 0..if is_smoke_test() { 1 } else { EXPERIMENTS } {
        for step in 0..BACKENDS.len() {
            let index = (turn + step) % BACKENDS.len();
            found[index].push(open(BACKENDS[index], count));
        }
    }
    println!(
        "| | user bytes for an idle connection | kernel bytes, both ends | opened a second | CPU µs for opening one |"
    );
    println!("| --- | --: | --: | --: | --: |");
    for (name, found) in BACKENDS.iter().zip(&found) {
        let of = |figure: fn(&Opened) -> f64, decimals| cell(Spread::of(found.iter().map(figure)), decimals);
        let [user, kernel] = [of(|found| found.user, 0), of(|found| found.kernel, 0)];
        let [rate, cpu] = [of(|found| found.per_second, 0), of(|found| found.cpu_ns / 1e3, 1)];
        println!("| {name} | {user} | {kernel} | {rate} | {cpu} |");
    }
}

fn open(backend: &str, count: usize) -> Opened {
    if backend == "tokio-uring" {
        let server = TokioUring::start(PAYLOAD_BYTES);
        return open_at(server.address, server.process.pid(), count);
    }
    let server = support::server::Server::start(&["--io", backend]);
    open_at(server.address, server.pid(), count)
}

fn open_at(address: SocketAddr, server: u32, count: usize) -> Opened {
    const PATH: &str = "/events?topic=bench";
    // What the server keeps for good is there after a first stream.
    let _first = start_sink(address, PATH, 1);
    let cpu = sending_cpu_ns(server);
    let (resident, kernel) = (process::resident(server).all, process::kernel());
    let started = Instant::now();
    let _sink = start_sink(address, PATH, count);
    let seconds = started.elapsed().as_secs_f64();
    let cpu = sending_cpu_ns(server) - cpu;
    let (resident_now, kernel_now) = (process::resident(server).all, process::kernel());
    let grown = |now: u64, before: u64| (now as f64 - before as f64) / count as f64;
    Opened {
        user: grown(resident_now, resident),
        kernel: grown(kernel_now.slab + kernel_now.tcp_buffers, kernel.slab + kernel.tcp_buffers),
        per_second: count as f64 / seconds,
        cpu_ns: cpu as f64 / count as f64,
    }
}

/// What of the kernel's bytes are for watching: the reason why readiness stays with epoll.
fn watched(count: usize) {
    let experiments: Vec<_> =
        (0..if is_smoke_test() { 1 } else { EXPERIMENTS }).map(|_| watching::kernel_bytes(count)).collect();
    println!("| | kernel bytes to watch a connection |\n| --- | --: |");
    for (way, (name, _)) in experiments[0].iter().enumerate() {
        println!("| {name} | {} |", cell(Spread::of(experiments.iter().map(|found| found[way].1)), 0));
    }
}

fn cell(Spread { median, low, high, .. }: Spread, decimals: usize) -> String {
    format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
}
