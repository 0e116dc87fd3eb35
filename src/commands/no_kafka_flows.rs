//! Stands in for copies to Kafka, and for its topics, in builds without it: the configuration refuses both there.

use std::convert::Infallible;
use std::sync::Arc;

use crate::config::{Config, KafkaConfig, absent_feature};
use crate::event::{Event, EventId, Topic};
use crate::sources::bus::BusBounds;
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::copying::TakeCopies;
use crate::sources::kafka_figures::KafkaFigures;
use crate::sources::thread::SourceThread;

/// There is none.
pub(super) struct KafkaCopier(Infallible);

impl TakeCopies for KafkaCopier {
    fn wants(&self, _: &Topic) -> bool {
        match self.0 {}
    }

    fn take(&self, _: Event, _: &EventId) {
        match self.0 {}
    }
}

pub(super) fn start_copies(
    _: &Config,
    _: &KafkaConfig,
    _: &Arc<KafkaFigures>,
) -> anyhow::Result<(SourceThread, KafkaCopier)> {
    Err(absent())
}

pub(super) fn start_feeds(
    _: &Config,
    _: &KafkaConfig,
    _: Box<dyn CursorEngine>,
    _: Arc<BusBounds>,
    _: &Arc<KafkaFigures>,
) -> anyhow::Result<SourceThread> {
    Err(absent())
}

fn absent() -> anyhow::Error {
    anyhow::Error::msg(absent_feature("kafka"))
}
