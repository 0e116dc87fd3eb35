//! What several loops cost and bring: servers with 1, 2 and 4 loops take turns with the same subscribers. Receivers need as
//! much CPU as the server, and most machines have too few cores for both. So what counts is the CPU time of each loop's thread:
//! of all loops, for one event to one subscriber; and of the busiest loop, which bounds how many deliveries a second the
//! server makes where each loop has a core.
//!
//! `cargo bench --bench loops` prints the table of docs/benchmarks.md.
#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use support::arena::Fanfare;
use support::is_smoke_test;
use support::process::{self, thread_cpu_ns};
use support::server::Server;

const LOOPS: [usize; 3] = [1, 2, 4];
const SUBSCRIBERS: [usize; 2] = [400, 800];
const PAYLOAD_BYTES: usize = 100;

/// What a part of the broadcasts cost.
#[derive(Clone, Copy)]
struct Sample {
    /// Of all loops, for one event to one subscriber.
    cpu_ns: f64,
    /// By the busiest loop.
    per_second: f64,
}

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let (parts, rounds) = if is_smoke_test() { (1, 3) } else { (15, 100) };
    println!("| subscribers | loops | connections of each | CPU of an event | ratio | deliveries/s | ratio |");
    println!("| ---: | ---: | --- | ---: | ---: | ---: | ---: |");
    for subscribers in SUBSCRIBERS {
        let start = |loops: usize| Fanfare::start(subscribers, PAYLOAD_BYTES, &["--loops", &loops.to_string()]);
        let mut servers = LOOPS.map(start);
        servers.iter_mut().for_each(|server| _ = server.broadcast());
        let mut samples = LOOPS.map(|_| Vec::new());
        for _ in 0..parts {
            for (server, samples) in servers.iter_mut().zip(&mut samples) {
                samples.push(measure(server, rounds, subscribers));
            }
        }
        let medians = samples.map(median);
        for ((loops, server), sample) in LOOPS.into_iter().zip(&servers).zip(medians) {
            println!(
                "| {subscribers} | {loops} | {} | {:.2} µs | {:.2} | {:.0} | {:.2} |",
                connections(&server.server, loops),
                sample.cpu_ns / 1000.0,
                sample.cpu_ns / medians[0].cpu_ns,
                sample.per_second,
                sample.per_second / medians[0].per_second,
            );
        }
    }
}

fn measure(server: &mut Fanfare, rounds: usize, subscribers: usize) -> Sample {
    let pid = server.server.pid();
    let before = loop_cpu_ns(pid);
    (0..rounds).for_each(|_| _ = server.broadcast());
    let spent: Vec<u64> = loop_cpu_ns(pid).iter().zip(before).map(|(now, then)| now - then).collect();
    let deliveries = (rounds * subscribers) as f64;
    let busiest = spent.iter().copied().max().unwrap_or(1) as f64;
    Sample { cpu_ns: spent.iter().sum::<u64>() as f64 / deliveries, per_second: deliveries * 1e9 / busiest }
}

/// The CPU time of each loop's thread. The first loop's is the main thread.
fn loop_cpu_ns(pid: u32) -> Vec<u64> {
    process::cpu_ns(pid); // once it has come to rest
    let is_loop = |name: &String| name == "fanfare" || name.starts_with("loop-");
    thread_cpu_ns(pid).into_iter().filter(|(name, _)| is_loop(name)).map(|(_, ns)| ns).collect()
}

fn median(mut samples: Vec<Sample>) -> Sample {
    let middle = samples.len() / 2;
    samples.sort_by(|one, other| one.cpu_ns.total_cmp(&other.cpu_ns));
    let cpu_ns = samples[middle].cpu_ns;
    samples.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    Sample { cpu_ns, per_second: samples[middle].per_second }
}

fn connections(server: &Server, loops: usize) -> String {
    let of_loop = |index| server.metric(&format!("fanfare_loop_connections{{loop=\"{index}\"}}")).to_string();
    (0..loops).map(of_loop).collect::<Vec<_>>().join(", ")
}
