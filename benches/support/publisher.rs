//! A publisher in a process of its own: a server that no longer answers can't hold up the bench.
//!
//! Arguments: `redis` or `http`; address; events; events a second, or 0 for all at once; when the first is due, in
//! nanoseconds since 1970; payload bytes. Each payload tells when it was due, and later ones tell a later time. Over
//! Redis it publishes to the channel `bench`, all that is due in one pipelined batch; over HTTP to `/publish`,
//! pipelined likewise, but few: a server may take a tenth of a second for each. It says `published RECEIVERS` at the end; over HTTP, those that were taken.

use std::net::SocketAddr;
use std::time::Duration;

use super::payload;
use super::process::{CLIENT_CORE, unix_ns};
use super::redis::Publisher;
use super::role::Role;
use super::server::Requests;

/// The channel of Redis, and the topic.
pub const CHANNEL: &str = "bench";
const PIPELINED_MAX: usize = 10;

/// A plan of what to publish.
#[derive(Clone, Copy)]
pub struct Plan {
    pub events: usize,
    /// 0: all at once.
    pub per_second: usize,
    pub payload_bytes: usize,
}

impl Plan {
    /// Starts to publish; `how` is `redis` or `http`.
    pub fn start(self, how: &str, address: SocketAddr, start_ns: u64) -> Role {
        let Plan { events, per_second, payload_bytes } = self;
        Role::start("publisher", &[&how, &address, &events, &per_second, &start_ns, &payload_bytes], CLIENT_CORE)
    }

    /// When an event is due after the first. Those of one moment still differ, by a nanosecond each.
    fn due_ns(self, index: usize) -> u64 {
        index as u64 * 1_000_000_000_u64.checked_div(self.per_second as u64).unwrap_or(1)
    }
}

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [how, address, events, per_second, start_ns, payload_bytes] = arguments else {
        panic!("publisher: {arguments:?}")
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let plan = Plan { events: number(events), per_second: number(per_second), payload_bytes: number(payload_bytes) };
    let (address, start_ns) = (address.parse().expect("an address"), number(start_ns) as u64);
    let receivers = match how.as_str() {
        "redis" => {
            let mut publisher = Publisher::connect(address);
            publish_all(plan, start_ns, usize::MAX, |batch| {
                batch.iter().for_each(|data| publisher.queue(CHANNEL, data));
                publisher.flush()
            })
        }
        "http" => {
            let mut requests = Requests::new(address);
            publish_all(plan, start_ns, PIPELINED_MAX, |batch| {
                let bytes: Vec<_> = batch.iter().map(|data| requests.publish_bytes("/publish", data)).collect();
                requests.send(&bytes.concat());
                batch.iter().filter(|_| requests.answer().0 < 300).count() as u64
            })
        }
        _ => panic!("publisher: {arguments:?}"),
    };
    println!("published {receivers}");
}

/// An open loop: what is due goes in a batch, however late.
fn publish_all(plan: Plan, start_ns: u64, batch_max: usize, mut publish: impl FnMut(&[String]) -> u64) -> u64 {
    let due_at = |index| start_ns + plan.due_ns(index);
    let (mut published, mut receivers) = (0, 0);
    while published < plan.events {
        let now = unix_ns();
        // All at once means one batch, whenever it begins.
        let is_due = |index: &usize| plan.per_second == 0 || due_at(*index) <= now;
        let due = (published..plan.events).take(batch_max).take_while(is_due);
        let batch: Vec<_> = due.map(|index| payload::data(plan.payload_bytes, due_at(index))).collect();
        if batch.is_empty() {
            std::thread::sleep(Duration::from_nanos(due_at(published).saturating_sub(now)));
            continue;
        }
        published += batch.len();
        receivers += publish(&batch);
    }
    receivers
}
