//! The contenders: the real server, and a bare send loop, each with a sink of its own.

use std::net::SocketAddr;

use super::contest::Contender;
use super::payload;
use super::process::{CLIENT_CORE, SERVER_CORE, sending_cpu_ns, unix_ns};
use super::role::Role;
use super::secured;
use super::server::{Requests, Server};

/// Connections from one source address: below what slows `connect` down.
const PER_ADDRESS: usize = 4000;

/// What some broadcasts, one after the other, cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// CPU time of the sender, for one event to one subscriber.
    pub cpu_ns_per_event: f64,
    /// From publishing until the last subscriber had it, on average.
    pub last_ns: f64,
}

/// The real server with its subscribers.
pub struct Fanfare {
    // Dropped in this order: a sink whose server goes first complains.
    pub sink: Role,
    pub server: Server,
    publisher: Requests,
    subscribers: usize,
    payload_bytes: usize,
}

impl Fanfare {
    /// Starts it and connects everybody.
    pub fn start(subscribers: usize, payload_bytes: usize, flags: &[&str]) -> Fanfare {
        let server = Server::start(flags);
        let sink = start_sink(server.address, "/events?topic=bench", subscribers);
        Fanfare { publisher: Requests::new(server.address), server, sink, subscribers, payload_bytes }
    }

    /// As [`Fanfare::start`], with subscribers that speak TLS.
    pub fn start_over_tls(subscribers: usize, payload_bytes: usize) -> Fanfare {
        let folder = tempfile::tempdir().expect("a folder can be made");
        secured::write_certificate_into(folder.path());
        // A heartbeat would be a record more.
        let (server, address) = Server::start_with_tls(folder.path(), &["--heartbeat", "1h"]);
        let manner = format!("tls:{}", folder.path().join("certificate.pem").display());
        let sink = start_sink_as(address, "/events?topic=bench", subscribers, PER_ADDRESS, &manner);
        Fanfare { publisher: Requests::new(server.address), server, sink, subscribers, payload_bytes }
    }

    /// Publishes one event and waits until everybody has it; when that was, in nanoseconds from publishing.
    pub fn broadcast(&mut self) -> u64 {
        expect(&mut self.sink, 1);
        let made = unix_ns();
        let body = body(&payload::data(self.payload_bytes, made));
        assert!(self.publisher.publish("/publish", &body), "one event at a time always fits");
        done(&mut self.sink).saturating_sub(made)
    }
}

impl Contender for Fanfare {
    fn measure(&mut self, rounds: usize) -> Cost {
        let before = sending_cpu_ns(self.server.pid());
        let last_ns: u64 = (0..rounds).map(|_| self.broadcast()).sum();
        cost(sending_cpu_ns(self.server.pid()) - before, last_ns, rounds, self.subscribers)
    }
}

/// A bare send loop with as many sockets.
pub struct Floor {
    sink: Role,
    pub process: Role,
    subscribers: usize,
}

impl Floor {
    /// Starts it and connects everybody.
    pub fn start(subscribers: usize, payload_bytes: usize) -> Floor {
        let mut process = Role::start("floor", &[&subscribers, &payload_bytes], SERVER_CORE);
        let address = process.hear_about("listening");
        let sink = start_sink(address.parse().expect("an address"), "/", subscribers);
        process.hear_about("accepted");
        Floor { process, sink, subscribers }
    }

    /// Sends one frame to everybody and waits until they have it.
    pub fn broadcast(&mut self) -> u64 {
        broadcast(&mut self.process, &mut self.sink)
    }
}

impl Contender for Floor {
    fn measure(&mut self, rounds: usize) -> Cost {
        let before = sending_cpu_ns(self.process.pid());
        let last_ns: u64 = (0..rounds).map(|_| self.broadcast()).sum();
        cost(sending_cpu_ns(self.process.pid()) - before, last_ns, rounds, self.subscribers)
    }
}

/// A server on tokio-uring.
pub struct TokioUring {
    sink: Option<Role>,
    pub process: Role,
    pub address: SocketAddr,
    subscribers: usize,
}

impl TokioUring {
    /// Starts it without subscribers.
    pub fn start(payload_bytes: usize) -> TokioUring {
        let mut process = Role::start("tokio_uring", &[&payload_bytes], SERVER_CORE);
        let address = process.hear_about("listening").parse().expect("an address");
        TokioUring { sink: None, process, address, subscribers: 0 }
    }

    /// Starts it and connects everybody.
    pub fn with_subscribers(subscribers: usize, payload_bytes: usize) -> TokioUring {
        let server = TokioUring::start(payload_bytes);
        let sink = start_sink(server.address, "/", subscribers);
        TokioUring { sink: Some(sink), subscribers, ..server }
    }
}

impl Contender for TokioUring {
    fn measure(&mut self, rounds: usize) -> Cost {
        let sink = self.sink.as_mut().expect("it has subscribers");
        let before = sending_cpu_ns(self.process.pid());
        let last_ns: u64 = (0..rounds).map(|_| broadcast(&mut self.process, sink)).sum();
        cost(sending_cpu_ns(self.process.pid()) - before, last_ns, rounds, self.subscribers)
    }
}

/// Has a server send one frame to everybody, and waits until they have it.
fn broadcast(server: &mut Role, sink: &mut Role) -> u64 {
    expect(sink, 1);
    let made = unix_ns();
    server.tell("send");
    server.hear_about("sent");
    done(sink).saturating_sub(made)
}

/// The publish body of one event.
pub fn body(data: &str) -> String {
    format!(r#"{{"topic":"bench","data":"{data}"}}"#)
}

/// What some broadcasts cost each event.
pub fn cost(cpu_ns: u64, last_ns: u64, rounds: usize, subscribers: usize) -> Cost {
    let rounds = rounds as f64;
    Cost { cpu_ns_per_event: cpu_ns as f64 / rounds / subscribers as f64, last_ns: last_ns as f64 / rounds }
}

/// A sink with all its streams open.
pub fn start_sink(server: SocketAddr, path: &str, count: usize) -> Role {
    start_sink_as(server, path, count, PER_ADDRESS, "paced")
}

/// As [`start_sink`]; `manner` is `paced`, or `storm` for all at once.
pub fn start_sink_as(server: SocketAddr, path: &str, count: usize, per_address: usize, manner: &str) -> Role {
    let mut sink = Role::start("sink", &[&server, &path, &count, &per_address, &manner], CLIENT_CORE);
    sink.hear_about("open");
    sink
}

pub fn expect(sink: &mut Role, events: usize) {
    sink.tell(format_args!("expect {events}"));
    sink.hear_about("ok");
}

pub fn done(sink: &mut Role) -> u64 {
    sink.hear_about("done").parse().expect("a time")
}
