//! A bus in a topic of Kafka with one partition: the engine's order is the partition's.
//!
//! Positions: the offset is Kafka's. Kafka has no name for one history of a topic, so the records have it: the header `bus`
//! holds the epoch, which is the time at which it began. A record whose epoch is later than that of the records before it
//! is the fork, at the same place for all nodes. A node writes one where it finds that the topic has another history than what
//! it has read: the offset that comes next is beyond the end, or another leader has a shorter history.
//!
//! Absent: the recognition of an event that is published again, for which Kafka has no function; retention, which is
//! Kafka's own; and the proof that a topic was not cut, or created anew, and grew again while no node read it.

mod partition;
mod producer;
mod record;
mod rules;
mod state;
mod tools;
mod topic;

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::event::timeline::Position;
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::{BusBounds, Content, Engine, EngineError, Entry, Page, Receipt};
use crate::sources::kafka::KafkaAddress;

use partition::{Partition, Range, ReadError};
use producer::Producer;
use record::Record;
use state::STATE_INTERVAL;

pub use state::KafkaShared;
pub use topic::{REPLICAS, creating_command};

/// How often a node that reads without a pause asks how far the partition reaches.
const RANGE_INTERVAL: Duration = Duration::from_millis(200);
/// How long a history that has become shorter is looked at before it counts as another one.
const CONFIRM_PAUSE: Duration = Duration::from_millis(500);

/// Where the bus is.
#[derive(Clone, Debug)]
pub struct KafkaBusSettings {
    /// The address of Kafka.
    pub address: KafkaAddress,
    /// The topic.
    pub topic: String,
    /// The replicas of a topic that is created.
    pub replicas: i32,
    /// True: a topic that may lose what it acknowledged is not refused.
    pub accepts_loss: bool,
    /// How large a topic's name and an event may be on this node; zeros where it is no node.
    pub limits: PublishLimits,
    /// How large they may be on the bus.
    pub bounds: Arc<BusBounds>,
    /// What the engines of this node know of the bus.
    pub shared: Arc<KafkaShared>,
}

/// One reader and one producer of the bus; each connects with its first call.
pub struct KafkaBus {
    settings: KafkaBusSettings,
    partition: Option<Partition>,
    producer: Option<Producer>,
    range_asked_at: Option<Instant>,
    /// The history lacks what was read, and it is not found yet where to continue.
    is_cut: bool,
    /// Records that were read since the last one with the state.
    stateless: u64,
    /// How many there may be: random, so that one of the nodes writes the state before the others do.
    stateless_max: u64,
    /// Where the topic ended when its state was written because it was empty.
    kept_at: Option<u64>,
}

impl KafkaBus {
    /// Connects with its first call.
    pub fn new(settings: KafkaBusSettings) -> KafkaBus {
        let random = u64::from(getrandom::u32().unwrap_or_default()) % STATE_INTERVAL;
        KafkaBus {
            settings,
            partition: None,
            producer: None,
            range_asked_at: None,
            is_cut: false,
            stateless: 0,
            stateless_max: STATE_INTERVAL + random,
            kept_at: None,
        }
    }

    fn limits(&self) -> PublishLimits {
        self.settings.bounds.get()
    }

    /// The partition of a bus that has begun.
    fn connect(&mut self) -> Result<Partition, EngineError> {
        if let Some(partition) = self.partition.take() {
            return Ok(partition);
        }
        let mut partition = self.open()?;
        if !self.find_state(&mut partition)? || !self.has_bounds() {
            match self.state().epoch {
                0 => self.append_fork(0)?,
                _ => self.append_state(self.state())?,
            }
            partition.ask_range()?;
            self.find_state(&mut partition)?;
        }
        Ok(partition)
    }

    /// The partition of a topic that is fit for a bus.
    fn open(&mut self) -> Result<Partition, EngineError> {
        let mut partition = Partition::open(&self.settings.address, &self.settings.topic)?;
        topic::check(&partition, &self.settings)?;
        partition.ask_range()?;
        Ok(partition)
    }

    fn append_records(
        &mut self,
        records: Vec<(rdkafka::message::OwnedHeaders, String)>,
    ) -> Result<Vec<u64>, EngineError> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                let bytes_max = self.settings.limits.data_bytes_max;
                Producer::open(&self.settings.address, &self.settings.topic, bytes_max)?
            }
        };
        let offsets = producer.append(records)?;
        self.producer = Some(producer);
        Ok(offsets)
    }

    // ---- reading ----

    /// All records from an offset to before another one; from a later offset on if the older ones are trimmed meanwhile.
    /// Keeps what `keep` makes of each.
    fn read_range<T>(
        &mut self,
        partition: &mut Partition,
        (start, end): (u64, u64),
        keep: impl Fn(Record) -> T,
    ) -> Result<Vec<T>, EngineError> {
        let mut records = Vec::new();
        let limits = self.limits();
        partition.seek(start)?;
        while partition.next() < end {
            match partition.poll_to_end(Duration::ZERO, &limits) {
                Ok(Some(record)) => records.push(keep(record)),
                Ok(None) => break,
                Err(ReadError::Failed(error)) => return Err(error),
                Err(ReadError::Short) => return Err(self.changing()),
                Err(ReadError::OutOfRange) => {
                    let range = partition.ask_range()?;
                    if range.low <= start {
                        return Err(self.changing());
                    }
                    records.clear();
                    partition.seek(range.low)?;
                }
            }
        }
        Ok(records)
    }

    /// Reads what follows a position, up to the end or to a full page. Records are of this epoch until one says otherwise.
    fn read_on(
        &mut self,
        partition: &mut Partition,
        (after, mut epoch): (Position, u64),
        entries_max: usize,
        wait: Duration,
    ) -> Result<Page, ReadError> {
        let mut entries = Vec::new();
        let mut is_at_end = false;
        while entries.len() < entries_max {
            // The last record may have raised them.
            let limits = self.limits();
            let next = match entries.is_empty() || wait.is_zero() {
                true => partition.poll_to_end(wait, &limits)?,
                false => partition.poll(Duration::ZERO, &limits)?,
            };
            let Some(record) = next else {
                is_at_end = entries.is_empty() || wait.is_zero();
                break;
            };
            self.stateless = if record.state.is_some() { 0 } else { self.stateless + 1 };
            let entry = self.entry(record, &mut epoch)?;
            // What is read again after a fork was found.
            entries.extend((entry.position > after).then_some(entry));
        }
        if is_at_end {
            let last = Position { epoch, offset: partition.next().saturating_sub(1) };
            return Ok(Page { entries, last });
        }
        let is_due = self.range_asked_at.is_none_or(|at| at.elapsed() >= RANGE_INTERVAL);
        if is_due {
            partition.ask_range()?;
            self.range_asked_at = Some(Instant::now());
        }
        let (next, high) = (partition.next(), partition.known_range().high);
        // While it is not known that nothing follows, something may.
        let end = if is_due && high == next { next - 1 } else { high.saturating_sub(1).max(next) };
        Ok(Page { entries, last: Position { epoch, offset: end } })
    }

    /// The entry of a record that follows one of this epoch.
    fn entry(&self, record: Record, epoch: &mut u64) -> Result<Entry, EngineError> {
        let state = record.state_after(*epoch);
        state.map_or(Ok(()), |state| self.note_state(state))?;
        let known = if *epoch == 0 { self.state().epoch } else { 0 };
        let new = state.map_or(known, |state| state.epoch);
        let content = match record.content {
            // Another node was faster.
            Content::Fork { .. } if new <= *epoch => Content::Nothing,
            content => content,
        };
        *epoch = new.max(*epoch);
        Ok(Entry { position: Position { epoch: *epoch, offset: record.offset }, content })
    }

    /// Reads what follows a position, wherever the partition has it now.
    fn follow(
        &mut self,
        partition: &mut Partition,
        after: Position,
        entries_max: usize,
        wait: Duration,
    ) -> Result<Page, ReadError> {
        let mut epoch = after.epoch;
        if self.is_cut {
            epoch = self.recover(partition, after)?;
        } else {
            seek_after(partition, after)?;
        }
        let mut outcome = self.read_on(partition, (after, epoch), entries_max, wait);
        if matches!(outcome, Err(ReadError::Short)) {
            sleep(CONFIRM_PAUSE);
            self.is_cut = partition.ask_range()?.high < partition.next();
            outcome = match self.is_cut {
                true => Err(ReadError::OutOfRange),
                false => self.read_on(partition, (after, epoch), entries_max, wait),
            };
        }
        if matches!(outcome, Err(ReadError::OutOfRange)) {
            tracing::warn!(topic = self.settings.topic, position = %after, "the bus in Kafka has nothing at the next offset");
            // librdkafka says it once, so it outlasts an error of the next steps.
            self.is_cut = true;
            epoch = self.recover(partition, after)?;
            outcome = self.read_on(partition, (after, epoch), entries_max, wait);
        }
        let page = outcome?;
        self.keep_state(partition)?;
        Ok(page)
    }

    /// Finds the place to continue where the partition does not have what follows a position: it is trimmed, or the history is
    /// another one. Returns the epoch of what is there.
    fn recover(&mut self, partition: &mut Partition, after: Position) -> Result<u64, EngineError> {
        let next = after.offset.saturating_add(1);
        let is_trimmed = next < partition.ask_range()?.low;
        if !is_trimmed {
            // All nodes find it at the same time, and one of them is to write the fork.
            sleep(CONFIRM_PAUSE.mul_f64(1.0 + f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)));
            topic::check(partition, &self.settings)?;
            partition.ask_range()?;
        }
        let mut newest = self.find_fork(partition, after.epoch)?;
        if !is_trimmed && self.state().epoch <= after.epoch {
            self.append_fork(after.epoch)?;
            partition.ask_range()?;
            newest = self.find_fork(partition, after.epoch)?;
        }
        let state = self.state();
        let (start, epoch) = match newest.fork {
            // What is before the fork is of the epoch that was read.
            Some(fork) => (fork.min(next), after.epoch),
            None if state.epoch <= after.epoch => (next, after.epoch),
            None => (newest.start, state.epoch),
        };
        partition.seek(start.max(partition.known_range().low))?;
        self.is_cut = false;
        Ok(epoch)
    }

    /// Reads a page for a client. The engine that does so has not read what comes before it.
    fn fetch(&mut self, partition: &mut Partition, after: Position, entries_max: usize) -> Result<Page, ReadError> {
        seek_after(partition, after)?;
        match self.read_on(partition, (after, after.epoch), entries_max, Duration::ZERO) {
            Err(ReadError::OutOfRange | ReadError::Short) => self.read_beyond(partition, after, entries_max),
            outcome => outcome,
        }
    }

    /// A page of what is there at or after an offset that may be trimmed; empty, if the partition ends before it.
    fn read_beyond(
        &mut self,
        partition: &mut Partition,
        after: Position,
        entries_max: usize,
    ) -> Result<Page, ReadError> {
        let Range { low, high } = partition.ask_range()?;
        if after.offset.saturating_add(1) < low {
            partition.seek(low)?;
            return self.read_on(partition, (after, after.epoch), entries_max, Duration::ZERO);
        }
        let last = Position { epoch: self.state().epoch, offset: high.saturating_sub(1) };
        Ok(Page { entries: Vec::new(), last })
    }

    fn changing(&self) -> EngineError {
        let (address, topic) = (&self.settings.address, &self.settings.topic);
        EngineError(format!("{address}: topic {topic}: the topic changes while it is read"))
    }
}

/// Continues after a position; at the beginning, if there is none.
fn seek_after(partition: &mut Partition, after: Position) -> Result<(), EngineError> {
    let is_from_start = after == Position::default() || after.offset == u64::MAX;
    let start = if is_from_start { partition.ask_range()?.low } else { after.offset + 1 };
    partition.seek(start)
}

impl Engine for KafkaBus {
    fn append(&mut self, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        let state = self.state();
        if state.epoch == 0 || state.topic_bytes == 0 {
            return Err(EngineError("the state of the bus is not read yet".to_owned()));
        }
        let offsets = self.append_records(contents.iter().map(|content| record::write(content, &state)).collect())?;
        let receipt = |offset| {
            let position = Position { epoch: state.epoch, offset };
            Receipt { position, is_duplicate: false }
        };
        let receipts: Vec<_> = offsets.into_iter().map(receipt).collect();
        self.settings.shared.note_appended(&receipts).map_err(|()| {
            self.producer = None;
            self.changing()
        })?;
        Ok(receipts)
    }

    fn read_after(&mut self, after: Position, entries_max: usize, wait: Duration) -> Result<Page, EngineError> {
        let mut partition = self.connect()?;
        let outcome = match wait.is_zero() {
            true => self.fetch(&mut partition, after, entries_max),
            false => self.follow(&mut partition, after, entries_max, wait),
        };
        // The place that librdkafka keeps also says which leader's history it is of, so it outlasts an error.
        self.partition = Some(partition);
        outcome.map_err(|error| match error {
            ReadError::Failed(error) => error,
            ReadError::OutOfRange | ReadError::Short => self.changing(),
        })
    }

    fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError> {
        let mut partition = self.connect()?;
        if before.is_none() {
            partition.ask_range()?;
        }
        let Range { low, high } = partition.known_range();
        let end = before.map_or(high, |before| before.offset);
        let start = end.saturating_sub(entries_max as u64).max(low);
        let records = self.read_range(&mut partition, (start, end), |record| record)?;
        // What has no state is of the epoch of the records around it.
        let around = before.map_or(self.state().epoch, |before| before.epoch);
        let mut epoch = record::epoch_before(&records, around);
        let entries = records.into_iter().map(|record| self.entry(record, &mut epoch));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        self.partition = Some(partition);
        let epoch = entries.last().map_or(self.state().epoch, |entry| entry.position.epoch);
        Ok(Page { entries, last: Position { epoch, offset: high.saturating_sub(1) } })
    }

    fn rest(&mut self) {
        self.partition.iter_mut().for_each(Partition::rest);
        self.producer.iter().for_each(Producer::rest);
    }
}
