//! The state of the bus: found in the newest records, shared by the engines of a node, and written where it is missing.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rdkafka::message::OwnedHeaders;

use crate::event::timeline::Position;
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::kafka::KafkaBus;
use crate::sources::bus::kafka::partition::{Partition, Range};
use crate::sources::bus::kafka::record::{self, BusState, FORMAT, Record};
use crate::sources::bus::{Content, EngineError, Receipt};

/// The newest records among which the state of the bus is looked for, first and at most.
const STATE_RECORDS: [u64; 3] = [64, 4096, 65536];
/// After how many records without the state a node writes it, at least; at most twice as many.
pub(super) const STATE_INTERVAL: u64 = 1000;

/// The newest epoch among the newest records.
#[derive(Default)]
pub(super) struct Newest {
    /// The first of these records.
    pub(super) start: u64,
    /// 0: no record has one.
    epoch: u64,
    /// The record with which it begins, if that is among them.
    pub(super) fork: Option<u64>,
}

/// What the engines of one node know of the bus together.
#[derive(Debug, Default)]
pub struct KafkaShared {
    state: Mutex<BusState>,
    appended: Mutex<Option<Position>>,
    /// The topic's settings were examined.
    pub(super) is_checked: Mutex<bool>,
}

impl KafkaBus {
    pub(super) fn state(&self) -> BusState {
        *self.settings.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the state that a record has. An error: this node can't read such a bus.
    pub(super) fn note_state(&self, state: BusState) -> Result<(), EngineError> {
        let shared = &self.settings.shared;
        let known = {
            let mut known = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            *known = known.max(state);
            *known
        };
        let place = || format!("{}: topic {}", self.settings.address, self.settings.topic);
        if known.format > FORMAT {
            let text = "the bus has entries of format";
            return Err(EngineError(format!("{}: {text} {}; this Fanfare reads {FORMAT}", place(), known.format)));
        }
        let PublishLimits { topic_bytes_max, data_bytes_max, .. } = self.settings.limits;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (topic_bytes, event_bytes) = (bytes(known.topic_bytes), bytes(known.event_bytes));
        if topic_bytes == 0 {
            return Ok(());
        }
        self.settings.bounds.set(topic_bytes, event_bytes);
        let is_node = topic_bytes_max > 0;
        if is_node && (topic_bytes > topic_bytes_max || event_bytes > data_bytes_max) {
            return Err(EngineError(format!(
                "{}: the bus takes topics of {topic_bytes} bytes and events of {event_bytes}; this node only \
                 --topic-bytes {topic_bytes_max} and --event-bytes {data_bytes_max}",
                place()
            )));
        }
        Ok(())
    }

    /// Finds the state of the bus in the newest records. False: they have none.
    pub(super) fn find_state(&mut self, partition: &mut Partition) -> Result<bool, EngineError> {
        Ok(self.search(partition, |newest| newest.epoch > 0)?.epoch > 0)
    }

    /// Finds the state, and where the newest epoch begins, if it is later than this one.
    pub(super) fn find_fork(&mut self, partition: &mut Partition, epoch: u64) -> Result<Newest, EngineError> {
        self.search(partition, |newest| newest.fork.is_some() || (1..=epoch).contains(&newest.epoch))
    }

    /// Looks at more and more of the newest records, until this is found.
    fn search(&mut self, partition: &mut Partition, is_found: impl Fn(&Newest) -> bool) -> Result<Newest, EngineError> {
        let mut newest = Newest::default();
        for count in STATE_RECORDS {
            let Range { low, high } = partition.known_range();
            let start = high.saturating_sub(count).max(low);
            newest = Newest { start, ..Newest::default() };
            let bare = |record: Record| Record { content: Content::Nothing, ..record };
            for record in self.read_range(partition, (start, high), bare)? {
                let Some(state) = record.state_after(newest.epoch) else { continue };
                if state.epoch > newest.epoch {
                    let fork = record.after.map(|_| record.offset);
                    newest = Newest { start, epoch: state.epoch, fork };
                }
                self.note_state(state)?;
            }
            if is_found(&newest) || start == low {
                break;
            }
        }
        Ok(newest)
    }

    /// True if nodes have set the bounds, or this is none.
    pub(super) fn has_bounds(&self) -> bool {
        self.state().topic_bytes > 0 || self.settings.limits.topic_bytes_max == 0
    }

    /// The state with the bounds of this node, if no node has set them.
    fn with_bounds(&self, state: BusState) -> BusState {
        let PublishLimits { topic_bytes_max, data_bytes_max, .. } = self.settings.limits;
        let own = BusState { topic_bytes: topic_bytes_max as u64, event_bytes: data_bytes_max as u64, ..state };
        BusState { format: FORMAT, ..if state.topic_bytes == 0 { own } else { state } }
    }

    /// Appends a record without a value. What librdkafka reports waits in a producer that is kept, but not polled.
    fn append_rarely(&mut self, headers: OwnedHeaders) -> Result<(), EngineError> {
        self.append_records(vec![(headers, String::new())])?;
        self.producer = None;
        Ok(())
    }

    /// Appends a record that only has the state.
    pub(super) fn append_state(&mut self, state: BusState) -> Result<(), EngineError> {
        let state = self.with_bounds(state);
        self.append_rarely(record::state_headers(&state))?;
        self.note_state(state)
    }

    /// Appends a record with which an epoch begins. It counts once it is read: another node may be faster.
    pub(super) fn append_fork(&mut self, after: u64) -> Result<(), EngineError> {
        let epoch = now_ms().max(after.saturating_add(1));
        let state = self.with_bounds(BusState { epoch, ..self.state() });
        self.append_rarely(record::fork_headers(&state, after))?;
        tracing::warn!(topic = self.settings.topic, epoch, after, "the bus in Kafka begins an epoch");
        Ok(())
    }

    /// Writes the state where a node that starts would not find it, and would begin an epoch: retention may have deleted all
    /// records, and applications write records without it.
    pub(super) fn keep_state(&mut self, partition: &Partition) -> Result<(), EngineError> {
        let Range { low, high } = partition.known_range();
        // What is written while a transaction is open does not move the end.
        let is_empty = low == high && partition.next() == high && self.kept_at != Some(high);
        if is_empty || self.stateless >= self.stateless_max {
            self.append_state(self.state())?;
            self.stateless = 0;
            self.kept_at = is_empty.then_some(high);
        }
        Ok(())
    }
}

impl KafkaShared {
    /// Takes the places of new entries. An error: they are at places that were taken before, so the history is another one.
    pub(super) fn note_appended(&self, receipts: &[Receipt]) -> Result<(), ()> {
        let mut appended = self.appended.lock().unwrap_or_else(PoisonError::into_inner);
        for Receipt { position, .. } in receipts {
            if appended.is_some_and(|last| *position <= last) {
                return Err(());
            }
            *appended = Some(*position);
        }
        Ok(())
    }
}

fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
