//! The messages between event loops and the conductor: orders one way, reports the other. All of it also travels as JSON
//! lines, because a loop may run in another process. All of it can be added up.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::histogram::Latencies;

/// The intended send time of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timetable {
    /// The time of message 1, in microseconds since 1970.
    pub first_us: u64,
    /// From one message to the next.
    pub interval_ns: u64,
}

impl Timetable {
    /// The intended send time of message `number`.
    pub fn intended_us(&self, number: u32) -> u64 {
        self.first_us + u64::from(number - 1) * self.interval_ns / 1000
    }

    /// The first message with an intended send time after `us`.
    pub fn first_after(&self, us: u64) -> u32 {
        match us.checked_sub(self.first_us) {
            None => 1,
            Some(elapsed_us) => {
                let whole = u32::try_from(elapsed_us.saturating_mul(1000) / self.interval_ns.max(1));
                let guess = whole.unwrap_or(u32::MAX - 8).saturating_add(1);
                // The division may be off by one because `intended_us` rounds.
                (guess..).find(|&number| self.intended_us(number) > us).unwrap_or(u32::MAX)
            }
        }
    }
}

/// An order from the conductor to every loop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Publishing begins; without a timetable each message follows when the last has arrived.
    Publish(Option<Timetable>),
    /// Every client had a chance to connect: the hold begins, and with it publishing.
    Hold {
        /// When.
        from_us: u64,
    },
    /// Publishing is over; report when every client has every message.
    Settle {
        /// How many messages there were.
        through: u32,
        /// Messages that may have reached no client.
        unconfirmed: Vec<RangeInclusive<u32>>,
    },
    /// Close the connections at the rate at which they were opened.
    RampDown {
        /// The start time.
        at_us: u64,
    },
    /// Close the accounts and send the tally.
    Finish,
}

/// A message from a loop to the conductor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PartReport {
    /// How it stands.
    Snapshot(Box<Snapshot>),
    /// A line to show to the user unchanged.
    Line(String),
    /// The final results.
    Done(Box<Tally>),
    /// The loop failed.
    Failed(String),
}

/// The state of a loop.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, in microseconds since 1970.
    pub at_us: u64,
    /// Streams open.
    pub open: u32,
    /// Clients whose first attempt has neither succeeded nor failed yet.
    pub untried: u32,
    /// While settling: clients that still miss messages.
    pub unsettled: Option<u32>,
    /// Counts since the start.
    pub counters: Counters,
    /// Delivery latencies since the last snapshot.
    pub latency: Latencies,
    /// Resident memory of the loop's process; only the first loop of each process reports it.
    pub resident_bytes: Option<u64>,
}

/// A fault of one message for one client, to be reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The client's index.
    pub client: u32,
    /// The fault as one word: lost, duplicated, disordered, corrupted.
    pub kind: String,
    /// The first message concerned; 0 if its number was unreadable.
    pub from: u32,
    /// The last message concerned.
    pub to: u32,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.from, self.to) {
            (0, _) => write!(f, "client {}: a message {}", self.client, self.kind),
            (from, to) if from == to => write!(f, "client {}: message {from} {}", self.client, self.kind),
            (from, to) => write!(f, "client {}: messages {from} to {to} {}", self.client, self.kind),
        }
    }
}

/// How many subscribers one message reached, and when it reached the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Subscribers that received it while connected.
    pub subscribers: u32,
    /// From its intended send time to the last of them.
    pub last_us: u32,
}

/// All measurements of loops.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// What was counted.
    pub counters: Counters,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// From starting to connect to being connected.
    pub connect: Latencies,
    /// From starting to connect to the response head.
    pub response: Latencies,
    /// From starting to connect (or to publish, if that came later) to the first event.
    pub first_event: Latencies,
    /// From a message's intended send time to its arrival at one subscriber that was connected by then.
    pub latency: Latencies,
    /// The same for subscribers that received it by catching up.
    pub catch_up: Latencies,
    /// Message `i` is at `i - 1`.
    pub spread: Vec<Spread>,
    /// When the last message arrived, in microseconds since 1970.
    pub last_delivery_us: u64,
    /// The first faults, individually.
    pub findings: Vec<Finding>,
    /// How many clients received a message after a later one, and the first of them, by the message's number.
    #[serde(skip)]
    disordered: BTreeMap<u32, (u64, u32)>,
}

/// How many messages have their spread recorded; later ones are only counted.
pub const SPREAD_MESSAGES_MAX: usize = 1 << 20;
/// How many findings are kept.
pub const FINDINGS_MAX: usize = 50;

impl Tally {
    /// Adds another loop's tally.
    pub fn add(&mut self, other: Tally) {
        self.counters.add(&other.counters);
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.connect.add(&other.connect);
        self.response.add(&other.response);
        self.first_event.add(&other.first_event);
        self.latency.add(&other.latency);
        self.catch_up.add(&other.catch_up);
        self.last_delivery_us = self.last_delivery_us.max(other.last_delivery_us);
        if self.spread.len() < other.spread.len() {
            self.spread.resize(other.spread.len(), Spread::default());
        }
        for (ours, theirs) in self.spread.iter_mut().zip(&other.spread) {
            ours.subscribers += theirs.subscribers;
            ours.last_us = ours.last_us.max(theirs.last_us);
        }
        self.findings.extend(other.findings);
        self.findings.truncate(FINDINGS_MAX);
    }

    /// Records that a connected subscriber received message `number` after `latency_us`.
    pub fn record_delivery(&mut self, number: u32, latency_us: u64) {
        self.latency.record(latency_us);
        let Some(index) = (number as usize).checked_sub(1).filter(|&index| index < SPREAD_MESSAGES_MAX) else { return };
        if self.spread.len() <= index {
            self.spread.resize(index + 1, Spread::default());
        }
        let spread = &mut self.spread[index];
        spread.subscribers += 1;
        spread.last_us = spread.last_us.max(u32::try_from(latency_us).unwrap_or(u32::MAX));
    }

    /// Records a fault to be reported.
    pub fn find(&mut self, client: u32, kind: &str, from: u32, to: u32) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { client, kind: kind.to_owned(), from, to });
        }
    }

    /// Records that a client received message `number` after a later one.
    pub fn note_disordered(&mut self, client: u32, number: u32) {
        self.disordered.entry(number).or_insert((0, client)).0 += 1;
    }

    /// Counts disordered messages as late if they are `unconfirmed`, and finds the others.
    pub fn judge_disordered(&mut self, unconfirmed: &[RangeInclusive<u32>]) {
        for (number, (clients, first_client)) in std::mem::take(&mut self.disordered) {
            if unconfirmed.iter().any(|range| range.contains(&number)) {
                self.counters.disordered_events -= clients;
                self.counters.late_unconfirmed_events += clients;
            } else {
                self.find(first_client, "disordered", number, number);
            }
        }
    }

    /// From publishing a message to its last subscriber, over all messages that reached a subscriber.
    pub fn last_subscriber(&self) -> Latencies {
        let mut latencies = Latencies::default();
        for spread in self.spread.iter().filter(|spread| spread.subscribers > 0) {
            latencies.record(u64::from(spread.last_us));
        }
        latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timetable_gives_the_next_message_after_a_time() {
        for interval_ns in [1_000, 3_333, 100_000_000, 333_333_333] {
            let timetable = Timetable { first_us: 1_000_000, interval_ns };
            assert_eq!(timetable.first_after(0), 1);
            for number in [1, 2, 3, 7, 1000] {
                let us = timetable.intended_us(number);
                assert!(timetable.first_after(us) > number, "{number} was sent at this very moment");
                assert!(timetable.first_after(us - 1) <= number, "{number} is yet to come");
            }
        }
    }

    #[test]
    fn a_message_whose_publishing_failed_may_be_late() {
        let mut tally = Tally::default();
        for (client, number) in [(1, 3), (1, 5), (2, 5), (1, 7)] {
            tally.note_disordered(client, number);
            tally.counters.disordered_events += 1;
        }
        tally.judge_disordered(&[1..=2, 4..=6]);
        assert_eq!((tally.counters.disordered_events, tally.counters.late_unconfirmed_events), (2, 2));
        assert_eq!(tally.findings.iter().map(|finding| finding.from).collect::<Vec<_>>(), [3, 7]);
    }

    #[test]
    fn tallies_add_up_and_travel() {
        let mut one = Tally::default();
        one.record_delivery(1, 500);
        one.record_delivery(2, 100);
        one.find(3, "lost", 4, 5);
        let mut other = Tally::default();
        other.record_delivery(2, 900);
        other.last_delivery_us = 7;
        other.errors.insert("connect_refused".to_owned(), 2);
        one.add(serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap());
        assert_eq!(one.spread, [Spread { subscribers: 1, last_us: 500 }, Spread { subscribers: 2, last_us: 900 }]);
        assert_eq!((one.errors["connect_refused"], one.last_delivery_us), (2, 7));
        assert_eq!(one.latency.count(), 3);
        assert_eq!(one.last_subscriber().max(), Some(900));
        assert_eq!(one.findings[0].to_string(), "client 3: messages 4 to 5 lost");
    }
}
