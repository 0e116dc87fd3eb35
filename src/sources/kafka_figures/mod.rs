//! What this node does with Kafka, in figures: written by the threads of its clients, read by the status page, health
//! checks and metrics. Builds without Kafka have the type, and no value of it.

mod windows;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sources::answer::Load;
use crate::sources::channel::SourceStatus;

pub use windows::{TOPICS_MAX, Volume, WINDOWS_MINUTES, Windows, WindowsReport};

/// The figures of one node.
#[derive(Debug, Default)]
pub struct KafkaFigures {
    /// The copies of what clients publish, if there are any.
    pub producer: Option<ProducerFigures>,
    /// What is read from topics of Kafka, if anything is.
    pub consumer: Option<ConsumerFigures>,
    /// Events that came from Kafka and were appended.
    pub received: Windows,
    /// Copies that Kafka has.
    pub sent: Windows,
    /// What each client reported last.
    brokers: Mutex<BTreeMap<&'static str, Vec<Broker>>>,
}

/// A broker, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its number in the cluster.
    pub id: i32,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The state of the connection, in librdkafka's words: `UP`, `DOWN`, `CONNECT`, `INIT`, and others.
    pub state: String,
    /// How long its last answers took on average, in microseconds; none: it has given none.
    pub round_trip_us: Option<u64>,
}

impl KafkaFigures {
    /// Takes what a client reports about its brokers.
    pub fn set_brokers(&self, client: &'static str, brokers: Vec<Broker>) {
        let mut all = lock(&self.brokers);
        let before = all.remove(client).unwrap_or_default();
        let last = |id| before.iter().find(|broker| broker.id == id)?.round_trip_us;
        let brokers = brokers.into_iter();
        let brokers =
            brokers.map(|broker| Broker { round_trip_us: broker.round_trip_us.or(last(broker.id)), ..broker });
        all.insert(client, brokers.collect());
    }

    /// The brokers; of several clients of this node, one that is connected counts.
    pub fn brokers(&self) -> Vec<Broker> {
        let mut merged = BTreeMap::<i32, Broker>::new();
        for broker in lock(&self.brokers).values().flatten() {
            let known = merged.entry(broker.id).or_insert_with(|| broker.clone());
            if !known.is_up() && broker.is_up() {
                *known = broker.clone();
            }
        }
        merged.into_values().collect()
    }
}

impl Broker {
    /// True while a client is connected.
    pub fn is_up(&self) -> bool {
        self.state == "UP"
    }
}

/// What becomes of copies.
#[derive(Debug)]
pub struct ProducerFigures {
    /// Whether it is connected, and the last error.
    pub status: Arc<SourceStatus>,
    pub(super) load: Arc<Load>,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// The outcome of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOutcome {
    /// Kafka has it.
    Delivered,
    /// Kafka refused it, or did not take it in time.
    Failed,
    /// There was no room for it.
    Dropped,
}

impl CopyOutcome {
    /// All of them.
    pub const ALL: [CopyOutcome; 3] = [CopyOutcome::Delivered, CopyOutcome::Failed, CopyOutcome::Dropped];

    /// The name used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CopyOutcome::Delivered => "delivered",
            CopyOutcome::Failed => "failed",
            CopyOutcome::Dropped => "dropped",
        }
    }
}

impl ProducerFigures {
    /// Of a producer with this status.
    pub fn new(status: Arc<SourceStatus>) -> ProducerFigures {
        ProducerFigures {
            status,
            load: Arc::default(),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Counts a copy.
    pub fn count(&self, outcome: CopyOutcome) {
        self.counter(outcome).fetch_add(1, Ordering::Relaxed);
    }

    /// Copies with this outcome.
    pub fn counted(&self, outcome: CopyOutcome) -> u64 {
        self.counter(outcome).load(Ordering::Relaxed)
    }

    /// Copies that wait until Kafka has them, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        self.load.taken()
    }

    fn counter(&self, outcome: CopyOutcome) -> &AtomicU64 {
        match outcome {
            CopyOutcome::Delivered => &self.delivered,
            CopyOutcome::Failed => &self.failed,
            CopyOutcome::Dropped => &self.dropped,
        }
    }
}

/// What is read from Kafka.
#[derive(Debug)]
pub struct ConsumerFigures {
    /// Whether it is connected, and the last error.
    pub status: Arc<SourceStatus>,
    /// Its group.
    pub group: String,
    partitions: Mutex<BTreeMap<(String, i32), PartitionPlace>>,
    group_state: Mutex<String>,
}

/// How far a partition was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The next offset to be read.
    pub position: i64,
    /// The offset that the next message will get, as the broker said last; none: it has said nothing yet.
    pub end: Option<i64>,
}

impl PartitionPlace {
    /// Messages that were not read yet; none: that is not known.
    pub fn lag(self) -> Option<u64> {
        self.end.map(|end| u64::try_from(end - self.position).unwrap_or_default())
    }
}

impl ConsumerFigures {
    /// Of a consumer with this status.
    pub fn new(status: Arc<SourceStatus>, group: String) -> ConsumerFigures {
        ConsumerFigures { status, group, partitions: Mutex::default(), group_state: Mutex::default() }
    }

    /// This node has these partitions now, read so far.
    pub fn set_assigned(&self, places: impl IntoIterator<Item = ((String, i32), i64)>) {
        let mut partitions = lock(&self.partitions);
        let before = std::mem::take(&mut *partitions);
        let end = |key: &(String, i32)| before.get(key).and_then(|place| place.end);
        let places = places.into_iter().map(|(key, position)| {
            let end = end(&key);
            (key, PartitionPlace { position, end })
        });
        *partitions = places.collect();
    }

    /// A partition was read at least so far.
    pub fn note_position(&self, (topic, partition): (&str, i32), position: i64) {
        if let Some(place) = lock(&self.partitions).get_mut(&(topic.to_owned(), partition)) {
            place.position = place.position.max(position);
        }
    }

    /// A partition of a topic reaches so far.
    pub fn note_end(&self, topic: &str, partition: i32, end: i64) {
        if let Some(place) = lock(&self.partitions).get_mut(&(topic.to_owned(), partition)) {
            place.end = Some(end);
        }
    }

    /// This node's place in its group, in librdkafka's words.
    pub fn set_group_state(&self, state: &str) {
        state.clone_into(&mut lock(&self.group_state));
    }

    /// This node's place in its group; empty: it has none yet.
    pub fn group_state(&self) -> String {
        lock(&self.group_state).clone()
    }

    /// How many partitions this node has.
    pub fn partition_count(&self) -> usize {
        lock(&self.partitions).len()
    }

    /// Messages of all partitions of this node that were not read yet; none: that is not known of all of them.
    pub fn lag(&self) -> Option<u64> {
        lock(&self.partitions).values().map(|place| place.lag()).sum()
    }

    /// The partitions of this node, at most this many.
    pub fn partitions(&self, count_max: usize) -> Vec<((String, i32), PartitionPlace)> {
        lock(&self.partitions).iter().take(count_max).map(|(key, place)| (key.clone(), *place)).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_any_client_reaches_is_up() {
        let figures = KafkaFigures::default();
        let broker = |id, state: &str| Broker {
            id,
            host: "a".to_owned(),
            port: 1,
            state: state.to_owned(),
            round_trip_us: (state == "UP").then_some(id as u64),
        };
        figures.set_brokers("one", vec![broker(2, "DOWN"), broker(1, "UP")]);
        figures.set_brokers("other", vec![broker(2, "UP"), broker(1, "INIT")]);
        assert_eq!(figures.brokers(), [broker(1, "UP"), broker(2, "UP")]);
        // A report without an answer keeps the time of the last one.
        figures.set_brokers("one", vec![Broker { round_trip_us: None, ..broker(1, "UP") }]);
        assert_eq!(figures.brokers(), [broker(1, "UP"), broker(2, "UP")]);
    }

    #[test]
    fn lag_is_what_the_broker_has_beyond_the_position() {
        let consumer = ConsumerFigures::new(SourceStatus::new("kafka"), "g".to_owned());
        let key = |partition| ("a".to_owned(), partition);
        consumer.set_assigned([(key(0), 3), (key(1), 0)]);
        consumer.note_end("a", 0, 10);
        consumer.note_end("b", 0, 10);
        assert_eq!((consumer.partition_count(), consumer.lag()), (2, None), "one end is not known");
        consumer.note_end("a", 1, 0);
        assert_eq!(consumer.lag(), Some(7));
        consumer.note_position(("a", 0), 12);
        consumer.note_position(("a", 0), 11);
        assert_eq!(consumer.lag(), Some(0), "the broker's answer is older");
        assert_eq!(consumer.partitions(1), [(key(0), PartitionPlace { position: 12, end: Some(10) })]);
        consumer.set_assigned([(key(0), 9)]);
        assert_eq!(consumer.lag(), Some(1), "the end is still known");
        consumer.set_assigned([]);
        assert_eq!(consumer.lag(), Some(0));
    }
}
