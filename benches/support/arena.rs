//! Two contenders over the same number of sockets, each with a sink of its own, measured in turns.

use super::payload;
use super::process::{CLIENT_CORE, SERVER_CORE, cpu_ns, unix_ns};
use super::role::Role;
use super::server::{Requests, Server};

/// Connections from one source address: below what slows `connect` down.
const PER_ADDRESS: usize = 4000;

/// What some broadcasts, one after the other, cost.
#[derive(Clone, Copy, Debug)]
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
}

impl Fanfare {
    /// Starts it and connects everybody.
    pub fn start(subscribers: usize, flags: &[&str]) -> Fanfare {
        let server = Server::start(flags);
        let sink = start_sink(server.address, "/events?topic=bench", subscribers);
        Fanfare { publisher: Requests::new(server.address), server, sink, subscribers }
    }

    /// Publishes one event and waits until everybody has it; when that was, in nanoseconds from publishing.
    pub fn broadcast(&mut self, payload_bytes: usize) -> u64 {
        expect(&mut self.sink, 1);
        let made = unix_ns();
        let body = body(&payload::data(payload_bytes, made));
        assert!(self.publisher.publish("/publish", &body), "one event at a time always fits");
        done(&mut self.sink).saturating_sub(made)
    }

    /// Broadcasts `rounds` events, one in flight.
    pub fn measure(&mut self, payload_bytes: usize, rounds: usize) -> Cost {
        let before = cpu_ns(self.server.pid());
        let last_ns: u64 = (0..rounds).map(|_| self.broadcast(payload_bytes)).sum();
        cost(cpu_ns(self.server.pid()) - before, last_ns, rounds, self.subscribers)
    }
}

/// A bare send loop with as many sockets.
pub struct Floor {
    sink: Role,
    pub process: Role,
    subscribers: usize,
}

impl Floor {
    /// Starts it and connects everybody. The size of its frames is set here.
    pub fn start(subscribers: usize, payload_bytes: usize) -> Floor {
        let mut process = Role::start("floor", &[&subscribers, &payload_bytes], SERVER_CORE);
        let address = process.hear_about("listening");
        let sink = start_sink(address.parse().expect("an address"), "/", subscribers);
        process.hear_about("accepted");
        Floor { process, sink, subscribers }
    }

    /// Sends one frame to everybody and waits until they have it.
    pub fn broadcast(&mut self) -> u64 {
        expect(&mut self.sink, 1);
        let made = unix_ns();
        self.process.tell("send");
        self.process.hear_about("sent");
        done(&mut self.sink).saturating_sub(made)
    }

    /// Broadcasts `rounds` frames, one in flight.
    pub fn measure(&mut self, rounds: usize) -> Cost {
        let before = cpu_ns(self.process.pid());
        let last_ns: u64 = (0..rounds).map(|_| self.broadcast()).sum();
        cost(cpu_ns(self.process.pid()) - before, last_ns, rounds, self.subscribers)
    }
}

/// The publish body of one event.
pub fn body(data: &str) -> String {
    format!(r#"{{"topic":"bench","data":"{data}"}}"#)
}

fn cost(cpu_ns: u64, last_ns: u64, rounds: usize, subscribers: usize) -> Cost {
    let rounds = rounds as f64;
    Cost { cpu_ns_per_event: cpu_ns as f64 / rounds / subscribers as f64, last_ns: last_ns as f64 / rounds }
}

/// A sink with all its streams open.
pub fn start_sink(server: std::net::SocketAddr, path: &str, count: usize) -> Role {
    let mut sink = Role::start("sink", &[&server, &path, &count, &PER_ADDRESS, &"paced"], CLIENT_CORE);
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
