//! What shared compression saves and costs: bytes of the sample events, and CPU time per delivered event, with and without
//! `--compress` in turns. Beside it nginx, which compresses each stream for itself.
//!
//! The samples (`benches/payloads/`) come from `generate.py` there.
#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::process::{self, CLIENT_CORE, SERVER_CORE, pinned, resident, sending_cpu_ns, unix_ns};
use support::role::Role;
use support::server::{Requests, Server};
use support::stats::Spread;

const SAMPLES: [&str; 5] = ["ticks", "metrics", "notifications", "fragments", "tokens"];

fn main() {
    if support::play_role() {
        return;
    }
    process::pin_self();
    bytes();
    cost();
    beside_nginx();
}

/// The events of a sample.
fn sample(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/payloads/{name}.txt"));
    let text = fs::read_to_string(path).expect("the samples are in the repository");
    let events = text.lines().map(str::to_owned);
    events.take(if support::is_smoke_test() { 3 } else { usize::MAX }).collect()
}

/// A server and as many subscribers of each of some topics.
struct Side {
    topics: Vec<&'static str>,
    // Dropped in this order: readers whose server goes first complain.
    readers: Vec<Role>,
    publisher: Requests,
    /// What serves the subscribers: the server, or nginx in front of it.
    pid: u32,
    _servers: Vec<Server>,
}

impl Side {
    fn start(coding: &str, topics: &[&'static str], subscribers: usize) -> Side {
        let server = Server::start(&["--compress", "--heartbeat", "1h"]);
        Side::reading(server.address, (coding, topics, subscribers), Requests::new(server.address), vec![server])
    }

    fn reading(
        address: SocketAddr,
        (coding, topics, subscribers): (&str, &[&'static str], usize),
        publisher: Requests,
        servers: Vec<Server>,
    ) -> Side {
        let pid = servers.last().expect("a server").pid();
        let start = |topic: &&str| {
            let path = format!("/events?topic={topic}");
            let mut readers = Role::start("readers", &[&address, &path, &subscribers, &coding], CLIENT_CORE);
            readers.hear_about("open");
            readers
        };
        let readers = topics.iter().map(start).collect();
        Side { topics: topics.to_vec(), readers, publisher, pid, _servers: servers }
    }

    /// Publishes an event to a topic and waits until all have it; the bytes on each connection, and the CPU time.
    fn publish(&mut self, topic: usize, data: &str) -> (usize, u64) {
        let before = sending_cpu_ns(self.pid);
        self.readers[topic].tell("read 1");
        let body = json!({ "topic": self.topics[topic], "data": data }).to_string();
        assert!(self.publisher.publish("/publish", &body), "one event at a time always fits");
        let bytes = self.readers[topic].hear_about("read").parse().expect("a number");
        (bytes, sending_cpu_ns(self.pid) - before)
    }
}

/// Bytes on the wire of all samples, for a subscriber that is there from the beginning.
fn bytes() {
    if !support::wants("bytes") {
        return;
    }
    let [mut plain, mut gzip] = ["identity", "gzip"].map(|coding| Side::start(coding, &SAMPLES, 1));
    let (mut plain_all, mut gzip_all) = (0, 0);
    println!("| sample | events | bytes | with --compress |");
    println!("| --- | --: | --: | --: |");
    for (topic, name) in SAMPLES.iter().enumerate() {
        let events = sample(name);
        let (mut of_plain, mut of_gzip) = (0, 0);
        for data in &events {
            of_plain += plain.publish(topic, data).0;
            of_gzip += gzip.publish(topic, data).0;
        }
        println!("| {name} | {} | {of_plain} | {:.1} % |", events.len(), share(of_gzip, of_plain));
        (plain_all, gzip_all) = (plain_all + of_plain, gzip_all + of_gzip);
    }
    println!("| all | | {plain_all} | {:.1} % |", share(gzip_all, plain_all));
}

fn share(of: usize, all: usize) -> f64 {
    100.0 * of as f64 / all as f64
}

/// CPU time for a delivered event, one in flight: the same server with subscribers that accept gzip, and with others.
fn cost() {
    if !support::wants("cost") {
        return;
    }
    let (subscribers, events) = if support::is_smoke_test() { (20, 2) } else { (10_000, 40) };
    let sides = ["gzip", "identity"].map(|coding| Side::start(coding, &["bench"], subscribers));
    compare("cost", &["gzip", "identity"], sides.into(), subscribers, events);
}

/// nginx with gzip in front of a server that does not compress, and the server that does.
fn beside_nginx() {
    if !support::wants("nginx") {
        return;
    }
    if Command::new("nginx").arg("-v").output().is_err() {
        println!("nginx: it is not installed");
        return;
    }
    let (subscribers, events) = if support::is_smoke_test() { (5, 2) } else { (1_000, 40) };
    let folder = tempfile::tempdir().expect("a folder for nginx");
    let gzip = Side::start("gzip", &["bench"], subscribers);
    let server = Server::start(&["--heartbeat", "1h"]);
    let nginx = start_nginx(server.address, folder.path());
    let (address, publisher) = (nginx.address, Requests::new(server.address));
    let nginx = Side::reading(address, ("each", &["bench"], subscribers), publisher, vec![server, nginx]);
    compare("nginx", &["fanfare --compress", "nginx"], vec![gzip, nginx], subscribers, events);
}

fn start_nginx(upstream: SocketAddr, folder: &Path) -> Server {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let template = include_str!("peers/gzip/nginx.conf");
    let text = template.replace("FOLDER", folder.to_str().expect("a path in UTF-8"));
    let text = text.replace("ADDRESS", &address.to_string()).replace("UPSTREAM", &upstream.to_string());
    let file = folder.join("nginx.conf");
    fs::write(&file, text).expect("the folder can be written");
    let mut command = pinned(SERVER_CORE, "nginx".as_ref());
    command.arg("-p").arg(folder).arg("-c").arg(&file);
    Server::found_at(command, address)
}

/// Publishes the first events of each sample to each side in turn; the ratio is that of the first to the other.
fn compare(what: &str, names: &[&str], mut sides: Vec<Side>, subscribers: usize, events: usize) {
    let mut costs = vec![Vec::new(); sides.len()];
    let mut bytes = vec![0; sides.len()];
    for (name, side) in names.iter().zip(&sides) {
        let idle = resident(side.pid).anonymous as f64 / subscribers as f64;
        println!("{what} {name}: {idle:.0} bytes of anonymous memory per idle stream, the process included");
    }
    let started = unix_ns();
    for name in SAMPLES {
        for (turn, data) in sample(name).iter().take(events).enumerate() {
            for step in 0..sides.len() {
                let index = (turn + step) % sides.len();
                let (sent, cpu_ns) = sides[index].publish(0, data);
                costs[index].push(cpu_ns as f64 / subscribers as f64);
                bytes[index] += sent;
            }
        }
    }
    for (index, name) in names.iter().enumerate() {
        let cpu = Spread::of(costs[index].iter().copied());
        println!("{what} {name}: {cpu:.0} ns of CPU per delivered event, {} bytes on each stream", bytes[index]);
    }
    let ratio = Spread::of(costs[0].iter().zip(&costs[1]).map(|(one, other)| one / other));
    let sum = |index: usize| costs[index].iter().sum::<f64>();
    println!("{what}: ratio of CPU, each event {ratio:.3}; of all {:.3}", sum(0) / sum(1));
    println!(
        "{what}: {} events to {subscribers} subscribers in {:.0} s",
        costs[0].len(),
        (unix_ns() - started) as f64 / 1e9
    );
}
