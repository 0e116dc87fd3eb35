//! `fanfare bus` for a bus in Kafka.

use crate::event::timeline::Position;
use crate::sources::bus::EngineError;
use crate::sources::bus::findings::{Finding, note, ok};
use crate::sources::bus::kafka::KafkaBus;
use crate::sources::bus::kafka::partition::{Partition, Range};
use crate::sources::bus::kafka::record::BusState;
use crate::sources::bus::kafka::topic::{self, Topic};
use crate::sources::bus::tools::{BusTools, Status};

impl BusTools for KafkaBus {
    fn install(&mut self, _: bool) -> Result<(), EngineError> {
        let partition = Partition::open(&self.settings.address, &self.settings.topic)?;
        if !Topic::exists(&partition, &self.settings)? {
            topic::create(&self.settings)?;
        }
        // The first epoch begins.
        self.partition = Some(self.connect()?);
        Ok(())
    }

    fn raise_bounds(&mut self, topic_bytes: Option<usize>, event_bytes: Option<usize>) -> Result<(), EngineError> {
        self.partition = Some(self.connect()?);
        let state = self.state();
        if state.topic_bytes == 0 && (topic_bytes.is_none() || event_bytes.is_none()) {
            return Err(EngineError("no node has set bounds: give both --topic-bytes and --event-bytes".to_owned()));
        }
        let bytes = |bytes: Option<usize>| bytes.unwrap_or_default() as u64;
        let raised = BusState { topic_bytes: bytes(topic_bytes), event_bytes: bytes(event_bytes), ..state };
        self.append_state(state.max(raised))
    }

    fn set_notify(&mut self, _: bool) -> Result<(), EngineError> {
        Err(EngineError("Kafka wakes the nodes by itself: --notify is for a bus in PostgreSQL".to_owned()))
    }

    fn status(&mut self) -> Result<Status, EngineError> {
        let mut partition = Partition::open(&self.settings.address, &self.settings.topic)?;
        let Range { low, high } = partition.ask_range()?;
        self.find_state(&mut partition)?;
        let state = self.state();
        let first = match low < high {
            true => self.first_of(&mut partition)?,
            false => None,
        };
        Ok(Status {
            last: Position { epoch: state.epoch, offset: high.saturating_sub(1) },
            first,
            entries: high - low,
            format: state.format,
            bounds: (state.topic_bytes > 0).then_some((state.topic_bytes, state.event_bytes)),
            held: None,
        })
    }

    fn check(&mut self) -> Result<Vec<Finding>, EngineError> {
        let mut partition = Partition::open(&self.settings.address, &self.settings.topic)?;
        let topic = Topic::read(&partition, &self.settings)?;
        let mut findings = topic.findings(&self.settings);
        if topic.partitions == Some(1) {
            let Range { low, high } = partition.ask_range()?;
            findings.push(match self.find_state(&mut partition)? {
                true => {
                    let BusState { format, epoch, .. } = self.state();
                    ok("bus", format!("format {format}, epoch {epoch}, offsets {low} to {high}"))
                }
                false => note("bus", "its newest records have no epoch".to_owned(), "start a node, which begins one"),
            });
        }
        Ok(findings)
    }
}

impl KafkaBus {
    /// The oldest entry.
    fn first_of(&mut self, partition: &mut Partition) -> Result<Option<Position>, EngineError> {
        let low = partition.known_range().low;
        let records = self.read_range(partition, (low, low + 1), |record| record)?;
        let mut epoch = 0;
        let entries = records.into_iter().map(|record| self.entry(record, &mut epoch));
        Ok(entries.collect::<Result<Vec<_>, _>>()?.first().map(|entry| entry.position))
    }
}
