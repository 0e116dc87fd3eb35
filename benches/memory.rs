//! What a connection costs in memory: bytes as criterion's measure, user space and kernel apart.
//!
//! User space is the growth of the real server's resident set, by its page tables. The kernel's part is the growth of
//! its slab caches and TCP buffers while both ends of every connection are on this machine; whatever else runs here
//! is in that figure too.

#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use support::arena::{body, done, expect, start_sink_as};
use support::role::Role;
use support::secured;
use support::server::{Requests, Server};
use support::stats::Spread;
use support::{is_smoke_test, payload, process};

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    let mut criterion = Criterion::default()
        .with_measurement(Bytes)
        .sample_size(EXPERIMENTS)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_millis(10))
        .configure_from_args();
    connections(&mut criterion);
    others(&mut criterion);
    criterion.final_summary();
}

const OVER_TLS: &str = "over_tls";
/// A second after the last handshake, the server returns the memory of all to the kernel.
const HANDSHAKES_FORGOTTEN_AFTER: Duration = Duration::from_secs(6);

/// One of the figures that were found.
type Figure = fn(&Found) -> f64;

/// Bytes, as something criterion can measure.
struct Bytes;

impl Measurement for Bytes {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        unreachable!("memory is measured by `iter_custom` alone")
    }

    fn add(&self, one: &f64, other: &f64) -> f64 {
        one + other
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Bytes {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        "bytes"
    }

    fn scale_throughputs(&self, _: f64, _: &Throughput, _: &mut [f64]) -> &'static str {
        "bytes"
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "bytes"
    }
}

/// Connections from one source address: the table of addresses is as large as it can be.
const PER_ADDRESS: usize = 1;

/// How often each is measured; both figures come from the same experiments.
const EXPERIMENTS: usize = 10;

/// What one experiment found, for each of what it counted.
#[derive(Clone, Copy, Debug)]
struct Found {
    user: f64,
    kernel: f64,
}

/// Bytes per idle connection, opened one after the other, all at once, or with TLS.
fn connections(criterion: &mut Criterion<Bytes>) {
    let mut group = criterion.benchmark_group("bytes_per_idle_connection");
    group.sampling_mode(SamplingMode::Flat);
    let sizes: &[usize] = if is_smoke_test() { &[100] } else { &[1_000, 10_000, 18_000] };
    for &count in sizes {
        for manner in ["paced", "storm", OVER_TLS] {
            let found = RefCell::new(Vec::new());
            let experiment = || idle_connections(count, manner);
            let name = format!("{count}_{manner}");
            let figures: [(&str, Figure); 2] = [("user", |found| found.user), ("kernel", |found| found.kernel)];
            for (space, figure) in figures {
                let mut taken = 0;
                group.bench_function(BenchmarkId::new(space, &name), |bencher| {
                    bencher.iter_custom(|iterations| {
                        let mut found = found.borrow_mut();
                        if found.len() < EXPERIMENTS {
                            found.push(experiment());
                        }
                        taken += 1;
                        figure(&found[taken % found.len()]) * iterations as f64
                    });
                });
            }
            report(&name, &found.borrow());
        }
    }
    group.finish();
}

fn report(name: &str, found: &[Found]) {
    if !found.is_empty() {
        println!("{name}: user {:.1} bytes each", Spread::of(found.iter().map(|found| found.user)));
        println!("{name}: kernel, both ends, {:.0} bytes each", Spread::of(found.iter().map(|found| found.kernel)));
    }
}

fn idle_connections(count: usize, manner: &str) -> Found {
    let flags = &["--max-connections-per-ip", "100"];
    let stage = if manner == OVER_TLS { Stage::start_with_tls(flags) } else { Stage::start(flags) };
    let manner = stage.manner.as_deref().unwrap_or(manner);
    let kernel = process::kernel();
    let (resident, crowd) = stage.growth(|server| {
        let crowd = start_sink_as(server, "/events?topic=bench", count, PER_ADDRESS, manner);
        if stage.manner.is_some() {
            std::thread::sleep(HANDSHAKES_FORGOTTEN_AFTER);
        }
        crowd
    });
    let now = process::kernel();
    let kernel_growth = (now.slab + now.tcp_buffers) as f64 - (kernel.slab + kernel.tcp_buffers) as f64;
    drop(crowd);
    Found { user: resident / count as f64, kernel: kernel_growth / count as f64 }
}

/// A server that has already done everything once, so that what it keeps for good is not counted as growth.
struct Stage {
    _sink: Role,
    server: Server,
    /// Where streams are opened.
    address: std::net::SocketAddr,
    /// How sinks speak TLS there, if they do.
    manner: Option<String>,
    /// Of the certificate.
    _folder: Option<tempfile::TempDir>,
}

impl Stage {
    fn start(flags: &[&str]) -> Stage {
        let server = Server::start(flags);
        Stage { address: server.address, ..Stage::warmed_up(server, None) }
    }

    fn start_with_tls(flags: &[&str]) -> Stage {
        let folder = tempfile::tempdir().expect("a folder can be made");
        secured::write_certificate_into(folder.path());
        let (server, address) = Server::start_with_tls(folder.path(), flags);
        let manner = format!("tls:{}", folder.path().join("certificate.pem").display());
        drop(start_sink_as(address, "/events?topic=bench", 1, 1, &manner));
        Stage { address, _folder: Some(folder), ..Stage::warmed_up(server, Some(manner)) }
    }

    fn warmed_up(server: Server, manner: Option<String>) -> Stage {
        let mut sink = start_sink_as(server.address, "/events?topic=bench", 1, 1, "paced");
        expect(&mut sink, 1);
        Requests::new(server.address).publish("/publish", &body(&payload::data(100, 0)));
        done(&mut sink);
        server.metric("fanfare_topics");
        Stage { _sink: sink, address: server.address, server, manner, _folder: None }
    }

    /// How much the server's memory grows by something, in bytes, and what came of that.
    fn growth<T>(&self, what: impl FnOnce(std::net::SocketAddr) -> T) -> (f64, T) {
        let before = self.resident();
        let result = what(self.address);
        (self.resident() as f64 - before as f64, result)
    }

    fn resident(&self) -> u64 {
        process::cpu_ns(self.server.pid());
        process::resident(self.server.pid()).all
    }
}

/// What a topic, a retained event and a subscriber that lags cost.
fn others(criterion: &mut Criterion<Bytes>) {
    let mut group = criterion.benchmark_group("bytes_per");
    group.sampling_mode(SamplingMode::Flat);
    let count = if is_smoke_test() { 100 } else { 10_000 };
    let experiments: [(&str, &dyn Fn() -> f64); 3] = [
        ("topic", &|| topics(count)),
        ("retained_event_of_100B", &|| retained_events(count)),
        ("lagging_subscriber", &|| lagging_subscribers(count / 5)),
    ];
    for (name, experiment) in experiments {
        let found = RefCell::new(Vec::new());
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let bytes = experiment();
                found.borrow_mut().push(bytes);
                bytes * iterations as f64
            });
        });
        if !found.borrow().is_empty() {
            println!("{name}: {:.1} bytes each", Spread::of(found.into_inner()));
        }
    }
    group.finish();
}

/// Subscribers with a topic each, against as many of one topic.
fn topics(count: usize) -> f64 {
    let cost = |path: &str| {
        let stage = Stage::start(&[]);
        let (bytes, crowd) = stage.growth(|server| start_sink_as(server, path, count, 1000, "paced"));
        drop(crowd);
        bytes
    };
    (cost("/events?topic=bench-{}") - cost("/events?topic=bench")) / count as f64
}

/// Events that a topic remembers, with the 100 bytes of data of each.
fn retained_events(count: usize) -> f64 {
    let stage =
        Stage::start(&["--history-events", "1000000", "--history-bytes", "1GiB", "--history-bytes-total", "1GiB"]);
    let (bytes, ()) = stage.growth(|server| publish_batches(server, count, 100));
    bytes / count as f64
}

/// Subscribers that no longer read, with a frame half written to each, against as many that do.
fn lagging_subscribers(count: usize) -> f64 {
    // Small buffers, so that not many events are needed to fill them, and none of those is forgotten meanwhile.
    const EVENTS: usize = 80;
    let flags =
        ["--send-buffer", "4KiB", "--stall-timeout", "1h", "--tcp-user-timeout", "2h", "--history-bytes", "4MiB"];
    let cost = |stalls: bool| {
        let stage = Stage::start(&flags);
        let mut crowd = start_sink_as(stage.server.address, "/events?topic=bench", count, 1000, "paced");
        let (bytes, ()) = stage.growth(|server| {
            if stalls {
                crowd.tell(format_args!("stall {count}"));
                crowd.hear_about("ok");
                (0..EVENTS).for_each(|_| publish_batches(server, 1, 10_000));
                wait_until(|| stage.server.metric("fanfare_lagging_subscribers") as usize == count);
                return;
            }
            for _ in 0..EVENTS {
                // One at a time, or those who read would lag too.
                expect(&mut crowd, 1);
                publish_batches(server, 1, 10_000);
                done(&mut crowd);
            }
        });
        drop(crowd);
        bytes
    };
    (cost(true) - cost(false)) / count as f64
}

fn publish_batches(server: std::net::SocketAddr, count: usize, payload_bytes: usize) {
    const BATCH: usize = 50;
    let mut requests = Requests::new(server);
    let event = body(&payload::data(payload_bytes, 0));
    for first in (0..count).step_by(BATCH) {
        let events = vec![event.as_str(); BATCH.min(count - first)];
        while !requests.publish("/publish", &format!("[{}]", events.join(","))) {}
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come to that in a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
